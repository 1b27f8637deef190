//! The operator's commands: making a database quiet before the cutover, and letting it go after.

use carreto_error::{Error, IoSide, Kind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{PipeReader, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Bytes of a command's output that are kept, the last ones.
const MAX_OUTPUT: usize = 64 << 10;
/// Characters of it, the last ones, that an error shows: it travels to the receiver.
const MAX_SHOWN: usize = 300;
/// Between two looks at a command that says nothing.
const TICK: Duration = Duration::from_millis(20);
/// Between asking a command to end and ending it.
const GRACE: Duration = Duration::from_secs(2);

/// A command that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookOutcome {
    /// The command.
    pub command: String,
    /// How long it took.
    pub duration: Duration,
    /// What it wrote to both outputs, the last 64 KiB at most.
    pub output: String,
    /// Whether it wrote more.
    pub truncated: bool,
}

/// Runs `commands` with `sh -c` one after another, each for at most `limit`, with the environment
/// of this process and `CARRETO_STAGE`. A command may leave processes behind that work on.
///
/// # Errors
/// `Timeout` when a command did not end in time, with its whole process group killed; `Io` when
/// one failed. They name the command by its number in `commands`, from 1, since its text may hold
/// a password, and show the end of its output. The commands after it are not run.
pub fn run_hooks(stage: &str, commands: &[String], limit: Duration) -> Result<Vec<HookOutcome>> {
    (1..).zip(commands).map(|(number, command)| run((stage, number), command, limit)).collect()
}

/// Runs the command with this number of this stage.
fn run((stage, number): (&str, usize), command: &str, limit: Duration) -> Result<HookOutcome> {
    let begun = Instant::now();
    let name = format!("{stage} hook {number}");
    let fail = |error| Error::io(IoSide::State, "run a command", name.clone(), error);
    let (reader, child) = start(stage, command).map_err(fail)?;
    let mut hook = Hook { child, reader, output: Vec::new(), truncated: false, closed: false };
    let status = hook.wait(begun.checked_add(limit)).map_err(fail)?;
    hook.drain();
    let output = String::from_utf8_lossy(&hook.output).into_owned();
    let ended = match status {
        Some(status) if status.success() => {
            let (command, duration) = (command.to_owned(), begun.elapsed());
            return Ok(HookOutcome { command, duration, output, truncated: hook.truncated });
        }
        Some(status) => Error::new(Kind::Io, format!("{}{}", ending(status), said(&output))),
        None => {
            let seconds = limit.as_secs_f64();
            let text = format!("it did not end within {seconds} s and was killed{}", said(&output));
            Error::new(Kind::Timeout, text)
        }
    };
    let remedy = "run the command by hand to see why, correct the configuration and try again";
    Err(ended.during(format!("run the {name}")).remedied_by(remedy))
}

fn start(stage: &str, command: &str) -> std::io::Result<(PipeReader, Child)> {
    let (reader, writer) = std::io::pipe()?;
    rustix::fs::fcntl_setfl(&reader, OFlags::NONBLOCK)?;
    let child = Command::new("sh")
        .arg("-c")
        .arg(command)
        .env("CARRETO_STAGE", stage)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .spawn()?;
    Ok((reader, child))
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with status {code}"),
        (None, Some(signal)) => format!("signal {signal} ended it"),
        (None, None) => "it failed".to_owned(),
    }
}

fn said(output: &str) -> String {
    match output.trim() {
        "" => ", and said nothing".to_owned(),
        text => match text.char_indices().rev().nth(MAX_SHOWN - 1) {
            Some((cut, _)) if cut > 0 => format!(", and said at last: …{}", &text[cut..]),
            _ => format!(", and said: {text}"),
        },
    }
}

struct Hook {
    child: Child,
    reader: PipeReader,
    output: Vec<u8>,
    truncated: bool,
    /// Whether nobody can write to the pipe any more.
    closed: bool,
}

impl Hook {
    /// The status of the command; none when `end` came first and its process group was killed.
    fn wait(&mut self, end: Option<Instant>) -> std::io::Result<Option<ExitStatus>> {
        loop {
            self.listen(TICK);
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                self.kill()?;
                return Ok(None);
            }
        }
    }

    /// The command and what it started get a moment to end, and then are ended.
    fn kill(&mut self) -> std::io::Result<()> {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let Some(group) = group else { return self.child.kill() };
        let _ = kill_process_group(group, Signal::TERM);
        let begun = Instant::now();
        // All of them have ended when nobody has the pipe open; one that closed it has no say.
        while begun.elapsed() < GRACE && !self.closed {
            self.listen(TICK);
        }
        // The number stays taken, and the group with it, until the command is waited for.
        let _ = kill_process_group(group, Signal::KILL);
        self.child.wait().map(drop)
    }

    /// Reads what is there, waiting for it no longer than `limit`.
    fn listen(&mut self, limit: Duration) {
        if self.closed {
            std::thread::sleep(limit);
            return;
        }
        let timeout = Timespec::try_from(limit).ok();
        let _ = poll(&mut [PollFd::new(&self.reader, PollFlags::IN)], timeout.as_ref());
        self.drain();
    }

    /// Reads what is there now. What a command left behind may write for ever, so there is an end.
    fn drain(&mut self) {
        let mut piece = [0; 8192];
        for _ in 0..64 {
            match self.reader.read(&mut piece) {
                Ok(0) => {
                    self.closed = true;
                    return;
                }
                Ok(count) => {
                    self.output.extend(&piece[..count]);
                    let surplus = self.output.len().saturating_sub(MAX_OUTPUT);
                    self.output.drain(..surplus);
                    self.truncated |= surplus > 0;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(100);

    fn one(command: &str, limit: Duration) -> Result<HookOutcome> {
        run_hooks("quiesce", &[command.to_owned()], limit).map(|mut list| list.remove(0))
    }

    #[test]
    fn output_and_stage_are_there() {
        let outcome = one("echo $CARRETO_STAGE; echo two >&2; cat", LIMIT).unwrap();
        assert_eq!((outcome.output.as_str(), outcome.truncated), ("quiesce\ntwo\n", false));
    }

    #[test]
    fn the_first_failure_ends_the_row() {
        let place = tempfile::tempdir().unwrap();
        let mark = place.path().join("mark");
        let commands = ["true", "echo broken; exit 3", &format!("touch {}", mark.display())];
        let error = run_hooks("s", &commands.map(str::to_owned), LIMIT).unwrap_err();
        assert_eq!(error.kind(), Kind::Io);
        assert!(error.to_string().contains("status 3, and said: broken"), "{error}");
        assert!(!mark.exists());
        assert!(one("kill -9 $$", LIMIT).unwrap_err().to_string().contains("signal 9"));
    }

    #[test]
    fn an_error_shows_the_end_of_the_output_and_not_the_command() {
        let loud = "echo early; head -c 99999 /dev/zero | tr '\\0' x; echo; echo é last words; \
                    PASSWORD=hush exit 7";
        let commands = ["true", loud].map(str::to_owned);
        let error = run_hooks("before", &commands, LIMIT).unwrap_err();
        let text = carreto_error::chain_text(&error);
        assert!(text.contains("before hook 2") && text.contains("status 7"), "{text}");
        assert!(!text.contains("hush") && !text.contains("early"), "{text}");
        assert!(text.chars().count() < MAX_SHOWN + 200, "{text}");
        assert!(text.contains("xxx") && text.contains("é last words"), "{text}");
        let text = carreto_error::chain_text(&one("PASSWORD=hush sleep 9", SHORT).unwrap_err());
        assert!(text.contains("hook 1") && !text.contains("hush"), "{text}");
    }

    #[test]
    fn characters_are_cut_as_a_whole() {
        let text = "é".repeat(MAX_SHOWN);
        assert_eq!(said(&text), format!(", and said: {text}"));
        assert_eq!(said(&format!("ab{text}\n")), format!(", and said at last: …{text}"));
    }

    #[test]
    fn output_is_bounded() {
        let outcome = one("head -c 3000000 /dev/zero | tr '\\0' x", LIMIT).unwrap();
        assert_eq!((outcome.output.len(), outcome.truncated), (MAX_OUTPUT, true));
    }

    /// Whether a process exists that is more than an entry in a table.
    fn lives(process: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    #[test]
    fn the_whole_group_is_killed_in_time() {
        // Nothing of it ends by itself: only who is killed is gone afterwards.
        let command = "sh -c 'trap \"\" TERM; echo $$; sleep infinity & wait; sleep infinity' & \
                       echo up; wait";
        let error = one(command, Duration::from_secs(2)).unwrap_err();
        assert_eq!(error.kind(), Kind::Timeout);
        let text = error.to_string();
        let (_, words) = text.split_once("said: ").unwrap();
        let process = words.split_whitespace().find(|word| word.parse::<u32>().is_ok());
        let process = process.unwrap_or_else(|| panic!("{text}"));
        std::thread::sleep(Duration::from_millis(200));
        assert!(!lives(process), "{text}");
    }

    #[test]
    fn what_a_command_leaves_behind_is_not_waited_for() {
        // It never ends by itself, so waiting for it would be a timeout.
        let outcome = one("sleep infinity & echo $!", LIMIT).unwrap();
        let left = outcome.output.trim();
        assert!(lives(left), "{left}");
        let process = Pid::from_raw(left.parse().unwrap()).unwrap();
        rustix::process::kill_process(process, Signal::KILL).unwrap();
    }
}
