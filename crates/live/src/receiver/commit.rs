//! The end: roots are compared, the disks get their first MiB, both sides sign.

use super::check::{self, CheckProgress};
use super::disk::Disk;
use super::serve::{Receiver, ReceiverEvent, Server};
use super::session::{Disks, Session, blocking};
use super::violation;
use crate::certificate::{Certificate, Role};
use crate::trust::{Fingerprint, hex};
use crate::wire::Control;
use carreto_error::{Error, Kind, Result, ResultExt as _};
use std::sync::Arc;

/// What the agent says about the frozen source.
pub(super) struct Claim {
    /// As JSON.
    pub(super) certificate: String,
    /// The key of the connection.
    pub(super) peer: Fingerprint,
}

/// The hex roots of `disks`; empty for one of which something is unknown.
pub(super) fn roots(disks: &[Arc<Disk>]) -> Vec<String> {
    let root = |disk: &Arc<Disk>| disk.book().ledger.root();
    disks.iter().map(|disk| root(disk).map(|root| hex::encode(&root)).unwrap_or_default()).collect()
}

/// As [`commit`], in a task of the session: what was begun is ended, whatever becomes of the
/// connection, before another session begins.
///
/// # Errors
/// As [`commit`].
pub(super) async fn begin(
    receiver: &Arc<Receiver>,
    server: &Arc<Server>,
    session: &Arc<Session>,
    claim: Claim,
) -> Result<Control> {
    let (receiver, server, owner) = (Arc::clone(receiver), Arc::clone(server), Arc::clone(session));
    let work = async move { commit(&receiver, &server, &owner, &claim).await };
    let joined = session.tasks.spawn(work).await;
    joined.map_err(|error| Error::new(Kind::Internal, format!("the commit died: {error}")))?
}

/// Compares, completes the disks and signs. Said again, it answers the same again.
///
/// Not cancel safe once the comparison is over: the disks may have their first MiB already, which
/// opening them again takes away.
///
/// # Errors
/// `Denied` for a signature that is not the agent's; `Mismatch` when the disks are not what is
/// claimed, of which nothing was completed then; what writing meets.
async fn commit(
    receiver: &Receiver,
    server: &Server,
    session: &Session,
    claim: &Claim,
) -> Result<Control> {
    let mut certificate = Certificate::from_json(claim.certificate.as_bytes())?;
    check_signature(&certificate, claim.peer)?;
    let committed = server.memory().committed.clone();
    if let Some(before) = committed {
        return repeat(before, &certificate);
    }
    let disks = session.disks()?;
    // What is compared is what is completed.
    session.close().await;
    check_claim(server, &disks, &certificate).await?;
    certificate.sign(Role::Receiver, &receiver.identity)?;
    let certificate = certificate.to_json()?;
    if session.cancel.is_cancelled() {
        // Whoever asked may have thawed the source by now.
        return Err(Error::new(Kind::Unavailable, "the connection ended before the commit"));
    }
    if let Err(error) = complete(server, &disks, &certificate).await {
        for disk in disks.iter() {
            // Opening the disks for the next session does it again.
            let _ = super::opening::hide(disk).await;
        }
        return Err(error);
    }
    receiver.tell(&ReceiverEvent::Committed { server: &server.config.name });
    Ok(Control::Committed { certificate })
}

/// The disks get their first MiB, and the migration is over.
async fn complete(server: &Server, disks: &[Arc<Disk>], certificate: &str) -> Result<()> {
    for disk in disks {
        release_head(disk).await?;
    }
    server.seal(certificate)
}

fn repeat(before: String, certificate: &Certificate) -> Result<Control> {
    let known = Certificate::from_json(before.as_bytes())?;
    if known.statement_text() == certificate.statement_text() {
        return Ok(Control::Committed { certificate: before });
    }
    let text = "the migration was committed before, with another statement";
    Err(Error::new(Kind::SourceChanged, text)
        .remedied_by("the target is complete as of that commit; see its certificate"))
}

fn check_signature(certificate: &Certificate, peer: Fingerprint) -> Result<()> {
    let is_agents = certificate
        .signatures()
        .iter()
        .any(|signed| signed.by == Role::Agent && Fingerprint::of_key(&signed.public_key) == peer);
    if is_agents {
        return Ok(());
    }
    Err(Error::new(Kind::Denied, "the commit is not signed by the agent's key"))
}

async fn check_claim(server: &Server, disks: &Disks, certificate: &Certificate) -> Result<()> {
    let stated = certificate.statement();
    let is_ours = stated.migration == server.memory().migration
        && stated.server == server.config.name
        && stated.disks.len() == disks.len();
    if !is_ours {
        return Err(violation("the statement is about another migration"));
    }
    for disk in disks.iter() {
        let checked = check::disk(disk, false, &CheckProgress::default()).await;
        checked.wrap_err(|| "read the target back".to_owned())?;
    }
    let owned = Arc::clone(disks);
    let found = blocking(move || roots(&owned)).await?;
    for ((disk, stated), found) in disks.iter().zip(&stated.disks).zip(&found) {
        let root = hex::encode(stated.root.as_bytes());
        if stated.size != disk.size() || root != *found {
            let text = format!("the source's BLAKE3 is {root}, the target's is {found}");
            return Err(Error::new(Kind::Mismatch, text)
                .path(&disk.target_name)
                .remedied_by("the source works on; run the cutover again with strict = true"));
        }
    }
    Ok(())
}

/// Gives the target its first MiB, durably, and reads it back.
async fn release_head(disk: &Disk) -> Result<()> {
    let content = disk.head().content()?;
    disk.writable().await.write_at(0, &content).await?;
    disk.flush().await?;
    let mut found = vec![0; content.len()];
    disk.target().reader().await?.read_at(0, &mut found).await?;
    if found == content {
        return Ok(());
    }
    let text = "the first MiB that was read back is not what was written";
    Err(Error::new(Kind::Mismatch, text).path(&disk.target_name))
}
