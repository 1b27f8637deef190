//! Programs that run while the suite looks at what they say.

use crate::Result;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(20);

/// A program in a group of processes of its own; ended when it is dropped.
pub(crate) struct Program {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// The end of what it said.
    pub(crate) fn said(&self) -> String {
        let text = format!("{}{}", self.stdout, self.stderr);
        let skip = text.chars().count().saturating_sub(1500);
        text.chars().skip(skip).collect()
    }

    /// An error unless it ended with `exit`.
    pub(crate) fn expect(self, exit: i32) -> Result<Self> {
        if self.status.code() == Some(exit) {
            return Ok(self);
        }
        Err(format!("{}, wanted exit {exit}: {}", self.status, self.said()).into())
    }
}

impl Program {
    /// Starts `command`; what it says goes to files in `folder` that begin with `name`.
    pub(crate) fn start(command: &mut Command, folder: &Path, name: &str) -> Result<Self> {
        let (stdout, stderr) =
            (folder.join(format!("{name}.out")), folder.join(format!("{name}.err")));
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout)?)
            .stderr(File::options().create(true).append(true).open(&stderr)?)
            .process_group(0)
            .spawn()
            .map_err(|error| format!("{name}: {error}"))?;
        Ok(Self { name: name.to_owned(), child, stdout, stderr })
    }

    fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far.
    pub(crate) fn stdout(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(&self.stdout)?).into_owned())
    }

    /// What it told so far, of earlier runs of the same name too.
    pub(crate) fn stderr(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(&self.stderr)?).into_owned())
    }

    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits until `found` finds something in what it prints.
    pub(crate) fn wait_for<T>(
        &mut self,
        limit: Duration,
        found: impl Fn(&str) -> Option<T>,
    ) -> Result<T> {
        let begun = Instant::now();
        loop {
            let ended = self.has_ended()?;
            if let Some(found) = found(&self.stdout()?) {
                return Ok(found);
            }
            if ended || begun.elapsed() > limit {
                let said = format!("{}{}", self.stdout()?, self.stderr()?);
                let what = if ended { "has ended" } else { "is not ready" };
                return Err(format!("{} {what}: {}", self.name, said.trim()).into());
            }
            sleep(POLL);
        }
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self, limit: Duration) -> Result<Ended> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Ended { status, stdout: self.stdout()?, stderr: self.stderr()? });
            }
            if begun.elapsed() > limit {
                let said = self.stderr()?;
                return Err(format!("{} hangs: {}", self.name, said.trim()).into());
            }
            sleep(POLL);
        }
    }

    /// SIGKILL, as a crash.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends it the signal `name`.
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        signal(name, &self.id().to_string())
    }

    /// SIGTERM, and waits for its end.
    pub(crate) fn terminate(self, limit: Duration) -> Result<Ended> {
        self.signal("TERM")?;
        self.wait(limit)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            // Children of a shell are of its group. Nothing is left to do about what stays.
            let _ = signal("KILL", &format!("-{}", self.id()));
            let _ = self.child.wait();
        }
    }
}

fn signal(name: &str, process: &str) -> Result<()> {
    let status = Command::new("kill").args(["-s", name, "--", process]).status()?;
    if status.success() { Ok(()) } else { Err(format!("kill {process}: {status}").into()) }
}

/// Waits until `is` says yes.
pub(crate) fn until(
    what: &str,
    limit: Duration,
    mut is: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let begun = Instant::now();
    while !is()? {
        if begun.elapsed() > limit {
            return Err(format!("{what}: not within {} s", limit.as_secs()).into());
        }
        sleep(POLL);
    }
    Ok(begun.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_is_seen_while_it_runs() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo ready 7; sleep 60 & wait"]);
        let mut program = Program::start(&mut shell, folder.path(), "it").expect("it starts");
        let limit = Duration::from_secs(20);
        let number = program.wait_for(limit, |text| {
            text.strip_prefix("ready ")?.lines().next()?.parse::<u32>().ok()
        });
        assert_eq!(number.expect("a number"), 7);
        assert!(!program.has_ended().expect("known"));
        assert!(program.terminate(limit).expect("it ends").expect(0).is_err());
        assert!(until("never", Duration::ZERO, || Ok(false)).is_err());
    }
}
