//! The commit, and what becomes of the source afterwards.
//!
//! Between the question to the receiver and its answer nobody knows whether the target counts. What
//! was asked is remembered before it is asked, so that no process ever takes a commit for the end of
//! a source that has worked on since.

use super::config::After;
use super::cutover::Held;
use super::files::Commit;
use super::link::{Link, unexpected};
use super::resume;
use super::run::{Engine, Outcome};
use crate::certificate::Certificate;
use crate::state::{CutoverReport, State};
use crate::storage::write_whole;
use crate::wire::Control;
use carreto_error::{Error, Kind, Result, ResultExt as _};
use jiff::Timestamp;
use std::path::PathBuf;
use std::time::Duration;

/// What the receiver's operator may take to hear of the end.
const LAST_REPORT: Duration = Duration::from_secs(2);

impl Engine {
    /// Commits. An answer that got lost is asked for again, while the freeze lasts.
    pub(super) async fn commit(
        &mut self,
        link: &Link,
        certificate: &Certificate,
    ) -> Result<PathBuf> {
        let json = certificate.to_json()?;
        self.state.commit = Commit::Asked;
        self.save();
        let asked = async {
            link.say(&Control::Commit { certificate: json }).await?;
            match resume::control(link).await? {
                Control::Committed { certificate } => Ok(certificate),
                other => Err(unexpected(other.name())),
            }
        };
        let signed = match asked.await {
            Err(error) if error.kind() == Kind::Unavailable => self.was_committed(error).await?,
            outcome => outcome?,
        };
        let theirs = self.understand(&signed)?;
        if theirs.statement_text() != certificate.statement_text() {
            return Err(Error::new(
                Kind::SourceChanged,
                "the receiver committed another statement",
            ));
        }
        Ok(self.keep(&signed))
    }

    /// The certificate, if the receiver committed before the connection broke.
    async fn was_committed(&self, error: Error) -> Result<String> {
        let until = tokio::time::Instant::now() + self.config.lease() / 2;
        while tokio::time::Instant::now() < until {
            // An order to end does not end this: the answer decides whether the source may go on.
            if let Ok(Ok(link)) = tokio::time::timeout_at(until, self.dial()).await {
                return link.welcome.committed.clone().ok_or(error);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Err(error).wrap_err(|| {
            "whether the receiver committed is not known: it will say so when it is reached; \
             do not start the target before"
                .to_owned()
        })
    }

    /// A certificate that both ends of this migration signed.
    fn understand(&self, signed: &str) -> Result<Certificate> {
        let understood = Certificate::from_json(signed.as_bytes()).and_then(|certificate| {
            certificate.verify(&[self.token.receiver])?;
            Ok(certificate)
        });
        understood.wrap_err(|| "look at the certificate that the receiver sent".to_owned())
    }

    /// Keeps a certificate in memory: the disks may be frozen. That it cannot be written down does
    /// not undo the commit.
    fn keep(&self, signed: &str) -> PathBuf {
        let path = self.folder.certificate();
        if let Err(error) = write_whole(&path, signed.as_bytes()) {
            let why = carreto_error::chain_text(&error);
            self.board.note(&format!("the certificate lies at the receiver only: {why}"));
        }
        path
    }

    /// Ends the freeze as it has to end: thawed, unless it is committed and should stay frozen.
    pub(super) async fn let_go(
        &mut self,
        held: Held,
        outcome: Result<(PathBuf, CutoverReport)>,
    ) -> Result<PathBuf> {
        let (path, report) = match outcome {
            Ok(done) => done,
            Err(error) => {
                if let Err(lost) = held.with(|freezing| freezing.thaw()).await {
                    self.board.note(&carreto_error::chain_text(&lost));
                }
                return Err(error);
            }
        };
        self.board.cutover(report);
        if self.config.cutover.after == After::Thaw {
            if let Err(lost) = held.with(|freezing| freezing.thaw()).await {
                self.board.note(&carreto_error::chain_text(&lost));
            }
        } else {
            self.stay_frozen(&held).await?;
        }
        self.state.commit = Commit::Done;
        self.state.quiesced &= self.config.cutover.after == After::Thaw;
        self.board.enter(State::Committed);
        self.save();
        if self.config.cutover.after == After::PowerOff {
            self.power_off().await;
        }
        Ok(path)
    }

    /// The source must not go on beside its copy.
    async fn stay_frozen(&mut self, held: &Held) -> Result<()> {
        // Remembered first: whoever cleans up thaws what is frozen, and nothing else.
        self.state.frozen = true;
        self.save();
        if let Err(lost) = held.with(|freezing| freezing.stay()).await {
            self.state.frozen = false;
            self.save();
            return Err(self.parted(held.at).caused_by(lost));
        }
        Ok(())
    }

    async fn power_off(&self) {
        self.board.note("the source is switched off");
        tokio::time::sleep(LAST_REPORT).await;
        if let Err(error) = std::fs::write("/proc/sysrq-trigger", "o") {
            self.board.note(&format!("the source cannot be switched off: {error}"));
        }
    }

    /// The receiver has committed before this connection began.
    pub(super) fn already_committed(&mut self, signed: &str) -> Result<Outcome> {
        let certificate = self.understand(signed)?;
        let path = self.keep(signed);
        if self.state.commit != Commit::Done {
            return Err(self.parted(certificate.statement().frozen_at));
        }
        self.board.note("the receiver has committed this migration before");
        self.board.enter(State::Committed);
        Ok(Outcome::Committed(path))
    }

    /// The end of a migration whose source works on although the target is complete.
    pub(super) fn parted(&mut self, frozen_at: Timestamp) -> Error {
        self.gave_up = true;
        let text = format!(
            "the target is complete as of {frozen_at}, and the source has worked on since: what it \
             wrote later is not on the target"
        );
        Error::new(Kind::SourceChanged, text).remedied_by(format!(
            "start the target only if that may be lost; otherwise migrate again: {}",
            crate::remedy::BEGIN_ANEW
        ))
    }
}
