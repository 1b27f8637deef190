//! The process that thaws when the agent cannot.
//!
//! It holds the mount points open, keeps the lease, and thaws when the agent's end of the channel
//! closes or the lease runs out. It has what it needs in memory before anything is frozen and
//! writes no file, so it may lie on a file system that is frozen itself.

use super::channel::{self, Answer, Question};
use super::thaw::{PATIENCE, Thaw, Thawing, thaw_within};
use carreto_error::{Error, IoSide, Kind, Result};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::mm::MlockAllFlags;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two attempts to thaw what may still become frozen, or failed to thaw.
const RETRY: Duration = Duration::from_millis(200);
/// How long failing thaws are tried again after the agent is gone.
const LAST_ATTEMPTS: Duration = Duration::from_mins(1);

/// The body of the watchdog process. `channel` is its standard input, which
/// [`super::Freezer::prepare`] has made; returns when the agent is gone or has let go.
///
/// The process gets a session of its own, ignores signals other than `SIGKILL`, and locks its
/// memory.
///
/// # Errors
/// `Usage` when `channel` is not what an agent gives; `Io` when file systems could not be thawed.
pub fn watchdog_main(channel: impl AsFd) -> Result<()> {
    if rustix::net::sockopt::socket_type(&channel) != Ok(rustix::net::SocketType::SEQPACKET) {
        let text = "the standard input is not the channel of an agent";
        return Err(Error::new(Kind::Usage, text).remedied_by("the agent starts it by itself"));
    }
    // The leader of a process group cannot leave it, and need not: no terminal started it.
    let _ = rustix::process::setsid();
    let _ = carreto_kernel::process::ignore_termination();
    // Best effort from here: containers forbid it, and the watchdog works without.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    let _ = rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE);
    serve::<OwnedFd>(channel.as_fd(), |file| file)
}

/// A file system under the watchdog.
struct Held<T> {
    name: String,
    file: Arc<T>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not frozen by the agent.
    Free,
    /// The agent may be freezing it right now.
    Between,
    /// The agent froze it.
    Frozen,
}

/// Whether there is somebody who could still freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agent {
    Here,
    Gone,
}

struct Keeper<T> {
    systems: Vec<Held<T>>,
    lease: Duration,
    /// When the lease ends, once it has begun.
    deadline: Option<Instant>,
    /// Why something was thawed.
    lost: Option<String>,
}

/// Answers until the other end of the channel is closed or the agent lets go.
fn serve<T: Thaw>(channel: impl AsFd, adopt: impl Fn(OwnedFd) -> T) -> Result<()> {
    let mut keeper =
        Keeper { systems: Vec::new(), lease: Duration::ZERO, deadline: None, lost: None };
    loop {
        let readable = channel::wait(&channel, keeper.patience());
        keeper.look_at_the_clock();
        let message = match readable {
            Ok(false) => continue,
            Ok(true) => channel::receive(&channel),
            Err(errno) => Err(errno),
        };
        match message {
            Err(Errno::AGAIN) => {}
            Ok((message, file)) if !message.is_empty() => {
                let question = Question::decode(&message);
                let over = matches!(question, Some(Question::Thaw | Question::Release));
                let answer = keeper.answer(question, file.map(&adopt));
                let last = over && !(answer != Answer::Held && keeper.is_pending());
                // An agent that does not read is no reason to wait.
                let _ = channel::send(&channel, &answer.encode(), None);
                if last {
                    return Ok(());
                }
            }
            Ok(_) | Err(_) => return keeper.finish(),
        }
    }
}

impl<T: Thaw> Keeper<T> {
    /// How long to wait for a message.
    fn patience(&self) -> Option<Duration> {
        if self.lost.is_some() {
            return self.is_pending().then_some(RETRY);
        }
        Some(self.deadline?.saturating_duration_since(Instant::now()))
    }

    fn is_pending(&self) -> bool {
        self.systems.iter().any(|system| system.state != State::Free)
    }

    fn look_at_the_clock(&mut self) {
        let over = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if self.lost.is_none() && over {
            self.lost = Some(format!("the lease of {} s ran out", self.lease.as_secs_f64()));
        }
        if self.lost.is_some() {
            self.thaw(Agent::Here);
        }
    }

    fn answer(&mut self, question: Option<Question>, file: Option<T>) -> Answer {
        match question {
            Some(Question::System(name)) => {
                let Some(file) = file else { return lost("no file came with a file system") };
                let file = Arc::new(file);
                self.systems.push(Held { name, file, state: State::Free });
            }
            Some(Question::Begin(lease)) => {
                self.lease = lease;
                self.renew();
            }
            // After a loss nothing is frozen any more: the answer forbids it.
            Some(Question::Freezing(index)) if self.lost.is_none() && self.deadline.is_some() => {
                return self.set(index, State::Between);
            }
            Some(Question::Freezing(_)) if self.lost.is_none() => {
                return lost("the lease has not begun");
            }
            Some(Question::Freezing(_)) => {}
            Some(Question::Settled(index, frozen)) => {
                let answer = self.set(index, if frozen { State::Frozen } else { State::Free });
                if self.lost.is_some() {
                    self.thaw(Agent::Here);
                }
                return answer;
            }
            Some(Question::Renew) => self.renew(),
            Some(Question::Thaw) => {
                let held = self.lost.is_none();
                let unasked = self.thaw(Agent::Here);
                self.deadline = None;
                return match (held, unasked) {
                    (true, None) if !self.is_pending() => Answer::Thawed,
                    (_, unasked) => {
                        let why = self.lost.take().or(unasked);
                        let why = why.unwrap_or_else(|| "a file system did not thaw".to_owned());
                        self.lost = Some(why.clone());
                        Answer::Lost(why)
                    }
                };
            }
            Some(Question::Release) => {
                if self.lost.is_none() {
                    self.systems.clear();
                    self.deadline = None;
                }
            }
            None => return lost("the watchdog does not understand the agent"),
        }
        self.lost.clone().map_or(Answer::Held, Answer::Lost)
    }

    fn renew(&mut self) {
        if self.lost.is_none() {
            let now = Instant::now();
            self.deadline = Some(now.checked_add(self.lease).unwrap_or(now));
        }
    }

    fn set(&mut self, index: u32, state: State) -> Answer {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        match self.systems.get_mut(index) {
            Some(system) => system.state = state,
            None => return lost("the agent names a file system that it did not bring"),
        }
        self.lost.clone().map_or(Answer::Held, Answer::Lost)
    }

    /// Thaws what is frozen, the last frozen first. Says which was thawed by somebody else.
    fn thaw(&mut self, agent: Agent) -> Option<String> {
        let mut unasked = None;
        for system in self.systems.iter_mut().rev() {
            let before = system.state;
            if before == State::Free {
                continue;
            }
            match thaw_within(&system.file, PATIENCE) {
                // The thread of one that is stuck goes on.
                Thawing::Done | Thawing::Stuck => system.state = State::Free,
                Thawing::NotFrozen if before == State::Frozen => {
                    system.state = State::Free;
                    unasked = Some(format!("somebody else thawed {}", system.name));
                }
                Thawing::NotFrozen if agent == Agent::Gone => system.state = State::Free,
                // The agent may be about to freeze it, or it is becoming frozen.
                Thawing::NotFrozen | Thawing::Failed(_) => {}
            }
        }
        unasked
    }

    /// The agent is gone, and with it every call that could freeze: the kernel closes the channel
    /// of a process after its last thread has left the kernel.
    fn finish(mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            self.thaw(Agent::Gone);
            let stuck = self.systems.iter().find(|system| system.state != State::Free);
            let Some(stuck) = stuck else { return Ok(()) };
            if begun.elapsed() > LAST_ATTEMPTS {
                let name = stuck.name.clone();
                return Err(Error::io(IoSide::Source, "thaw", name, Errno::TIMEDOUT.into()));
            }
            std::thread::sleep(RETRY);
        }
    }
}

fn lost(why: &str) -> Answer {
    Answer::Lost(why.to_owned())
}

#[cfg(test)]
mod tests;
