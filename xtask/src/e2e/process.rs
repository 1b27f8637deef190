//! Running other programs: output captured, time bounded.

use crate::Result;
use cargo_metadata::MetadataCommand;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// No single program of the suites takes longer unless it hangs.
const TIMEOUT: Duration = Duration::from_mins(10);
const POLL: Duration = Duration::from_millis(5);

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// The end of what it said, for messages.
    pub(crate) fn said(&self) -> String {
        let text = format!("{}{}", self.stdout, self.stderr);
        let text = text.trim();
        let skip = text.chars().count().saturating_sub(1200);
        text.chars().skip(skip).collect()
    }
}

/// A program that runs.
pub(crate) struct Running {
    name: String,
    child: Child,
    stdout: File,
    stderr: File,
    started: Instant,
}

/// Starts `command` without input; what it prints is kept.
pub(crate) fn spawn(command: &mut Command) -> Result<Running> {
    let (stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .spawn()
        .map_err(|error| format!("{}: {error}", name(command)))?;
    Ok(Running { name: name(command), child, stdout, stderr, started: Instant::now() })
}

impl Running {
    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: nothing of the program runs after it.
    pub(crate) fn kill(mut self) -> Result<Outcome> {
        self.child.kill()?;
        self.wait()
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Result<Outcome> {
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if self.started.elapsed() > TIMEOUT {
                self.child.kill()?;
                self.child.wait()?;
                return Err(format!("{} hangs", self.name).into());
            }
            sleep(POLL);
        };
        Ok(Outcome { status, stdout: text(self.stdout)?, stderr: text(self.stderr)? })
    }
}

/// What was written to `file`.
pub(crate) fn text(mut file: File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Runs `command` to its end, without input.
pub(crate) fn run(command: &mut Command) -> Result<Outcome> {
    let done = spawn(command)?.wait();
    done.map_err(|error| format!("{error}: {command:?}").into())
}

/// Runs `command`, which must succeed, and returns what it printed.
pub(crate) fn succeed(command: &mut Command) -> Result<String> {
    let outcome = run(command)?;
    if !outcome.status.success() {
        let (status, said) = (outcome.status, outcome.said());
        return Err(format!("{command:?} ended with {status}: {said}").into());
    }
    Ok(outcome.stdout)
}

/// Runs `command`, which must succeed, with its output going to the user's screen.
pub(crate) fn show(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("{}: {error}", name(command)))?;
    if status.success() {
        return Ok(());
    }
    Err(format!("{command:?} ended with {status}").into())
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// The cargo that runs this.
pub(crate) fn cargo(root: &Path) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root);
    command
}

/// Where cargo builds.
pub(crate) fn target_directory(root: &Path) -> Result<PathBuf> {
    let metadata =
        MetadataCommand::new().manifest_path(root.join("Cargo.toml")).no_deps().exec()?;
    Ok(metadata.target_directory.into_std_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_status_are_captured() {
        let mut shell = Command::new("sh");
        let outcome = run(shell.args(["-c", "echo out; echo err >&2; exit 3"])).expect("it runs");
        assert_eq!(outcome.status.code(), Some(3));
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
        assert!(succeed(Command::new("sh").args(["-c", "exit 1"])).is_err());
        assert!(run(&mut Command::new("no-such-program-at-all")).is_err());
    }
}
