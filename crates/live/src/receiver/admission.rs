//! Who may speak for a server: the key that came with its token.

use super::registry::Memory;
use super::serve::{Receiver, Server};
use crate::remedy;
use crate::trust::{Fingerprint, Invitation, JoinToken, Secret, hex};
use crate::wire::Hello;
use carreto_error::{Error, Kind, Result};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;

/// A token that was made now.
#[derive(Debug)]
pub struct Invited {
    /// The server that it is for.
    pub server: String,
    /// The token; its text is a secret.
    pub token: JoinToken,
}

impl Receiver {
    /// Makes tokens for the servers that have not joined and have none that is still good; with
    /// `renew` for all that have not joined. Tokens that are replaced are worth nothing from now on.
    ///
    /// # Errors
    /// `Usage` without an address to advertise; what writing the state meets.
    pub fn invite(&self, renew: bool) -> Result<Vec<Invited>> {
        let now = Timestamp::now();
        let mut invited = Vec::new();
        for server in self.servers.values() {
            let mut memory = server.memory();
            let is_good = memory.invitation.as_ref().is_some_and(|it| it.expires > now);
            if memory.agent.is_some() || (is_good && !renew) {
                continue;
            }
            invited.push(self.make_token(server, &mut memory)?);
        }
        Ok(invited)
    }

    /// Makes a token for `server` although it has joined: for one whose agent lost its key. Disks
    /// and journals stay. The first other key that comes with it takes the place of the one
    /// before, which is let in until then and never again.
    ///
    /// # Errors
    /// `Usage` for a server that is not configured or whose migration is committed, and without an
    /// address to advertise; what writing the state meets.
    pub fn invite_again(&self, server: &str) -> Result<Invited> {
        let Some(found) = self.servers.get(server) else {
            return Err(Error::new(Kind::Usage, format!("no server {server} is configured"))
                .remedied_by("name one of the receiver's configuration"));
        };
        let mut memory = found.memory();
        if memory.committed.is_some() {
            let text = format!("the migration of {server} is committed: it gets no new token");
            return Err(Error::new(Kind::Usage, text).remedied_by(format!(
                "start its target; or, to migrate it once more, {}",
                remedy::BEGIN_ANEW
            )));
        }
        self.make_token(found, &mut memory)
    }

    /// A token in place of the one that `memory` has.
    fn make_token(&self, server: &Server, memory: &mut Memory) -> Result<Invited> {
        let name = &server.config.name;
        let secret = Secret::random()?;
        let expires = Timestamp::now()
            .checked_add(SignedDuration::from_hours(self.config.token_hours.into()))
            .map_err(|error| Error::new(Kind::Usage, format!("token_hours: {error}")))?;
        let invitation = Invitation {
            server: name.clone(),
            secret: secret.digest(),
            expires,
            redeemed_by: None,
        };
        let token = JoinToken {
            addresses: self.config.advertise.clone(),
            receiver: self.identity.fingerprint(),
            server: name.clone(),
            secret,
            expires: Some(expires),
        };
        token.check()?;
        server.keep(memory, |memory| memory.invitation = Some(invitation))?;
        Ok(Invited { server: name.clone(), token })
    }

    /// The server that `hello` is about, if the key `peer` may speak for it. The key that did so
    /// before is out then.
    pub(super) fn admit(&self, hello: &Hello, peer: Fingerprint) -> Result<Arc<Server>> {
        let server = self.servers.get(&hello.server);
        let server =
            server.ok_or_else(|| denied(format!("there is no server {}", hello.server)))?;
        let mut memory = server.memory();
        let invitation = match redeemed(&memory, hello, peer) {
            Ok(invitation) => invitation,
            Err(_) if memory.agent == Some(peer) => return Ok(Arc::clone(server)),
            Err(error) => return Err(error),
        };
        let is_same = memory.agent == Some(peer)
            && memory.invitation.as_ref().is_some_and(|it| it.redeemed_by == Some(peer));
        if !hello.preflight && !is_same {
            server.keep(&mut memory, |memory| {
                memory.invitation = Some(invitation);
                memory.agent = Some(peer);
            })?;
            server.sessions.expel_all_but(peer);
        }
        Ok(Arc::clone(server))
    }
}

/// What becomes of the invitation when the key `peer` comes with what `hello` shows.
fn redeemed(memory: &Memory, hello: &Hello, peer: Fingerprint) -> Result<Invitation> {
    let Some(invitation) = &memory.invitation else {
        return Err(denied(format!("the key {peer} is not known for {}", hello.server)));
    };
    let shown = hello.secret.as_ref().and_then(|secret| hex::decode(secret.expose()));
    let secret = shown
        .map(Secret::from_bytes)
        .ok_or_else(|| denied(format!("the key {peer} is not known and shows no token")))?;
    let mut tried = invitation.clone();
    tried.redeem(&secret, peer, Timestamp::now())?;
    Ok(tried)
}

/// For somebody who is not let in.
pub(super) fn denied(text: String) -> Error {
    Error::new(Kind::Denied, text).during("admit an agent").remedied_by(remedy::NEW_TOKEN)
}
