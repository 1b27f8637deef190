//! The agent's side of the watchdog: the process and the questions to it.

use super::channel::{self, Answer, Question};
use carreto_error::{Error, IoSide, Kind, Result};
use rustix::fd::{BorrowedFd, OwnedFd};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long the watchdog may take to answer what it can answer at once.
pub(super) const ANSWER: Duration = Duration::from_secs(10);

/// The program that calls [`super::watchdog_main`] with its standard input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchdogCommand {
    /// The program.
    pub program: PathBuf,
    /// What it is given.
    pub arguments: Vec<OsString>,
}

/// The process, and the channel to it. Dropping it closes the channel, upon which the process
/// thaws what is left and ends.
#[derive(Debug)]
pub(super) struct Session {
    channel: Option<OwnedFd>,
    process: Child,
}

impl Session {
    /// Starts the process.
    pub(super) fn start(command: &WatchdogCommand) -> Result<Self> {
        let name = command.program.to_string_lossy();
        let fail = |error| Error::io(IoSide::State, "start the watchdog", name.clone(), error);
        let (channel, theirs) = channel::pair().map_err(|errno| fail(errno.into()))?;
        let process = Command::new(&command.program)
            .args(&command.arguments)
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()
            .map_err(fail)?;
        Ok(Self { channel: Some(channel), process })
    }

    /// Asks what must be answered with [`Answer::Held`].
    pub(super) fn hold(&mut self, question: &Question) -> Result<()> {
        match self.ask(question, None, ANSWER)? {
            Answer::Held => Ok(()),
            Answer::Lost(why) => Err(lost(&why)),
            Answer::Thawed => Err(lost("the watchdog thawed")),
        }
    }

    /// Asks, and waits for the answer. The channel to a watchdog that does not answer is closed: a
    /// late answer would be taken for that of another question.
    pub(super) fn ask(
        &mut self,
        question: &Question,
        file: Option<BorrowedFd<'_>>,
        limit: Duration,
    ) -> Result<Answer> {
        let channel = self.channel.take().ok_or_else(|| lost("the watchdog is gone"))?;
        let gone = |_| lost("the watchdog is gone");
        channel::send(&channel, &question.encode(), file).map_err(gone)?;
        if !channel::wait(&channel, Some(limit)).map_err(gone)? {
            let text = format!("the watchdog did not answer for {} s", limit.as_secs());
            return Err(lost(&text));
        }
        let (message, _) = channel::receive(&channel).map_err(gone)?;
        let answer = Answer::decode(&message).ok_or_else(|| lost("the watchdog is gone"))?;
        self.channel = Some(channel);
        Ok(answer)
    }

    /// From now on only this process thaws.
    pub(super) fn kill(&mut self) {
        let _ = self.process.kill();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.channel = None;
        // It ends by itself; only its entry in the table of processes is waited for.
        for _ in 0..100 {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The error of a freeze that did not hold.
pub(super) fn lost(why: &str) -> Error {
    Error::new(Kind::Timeout, format!("the freeze was lost: {why}")).remedied_by(
        "nothing was committed and the source works on; try the cutover again, with a longer lease",
    )
}
