//! The command in a directory of its own, with nothing of the user's in its environment.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

pub(crate) struct Shell {
    directory: TempDir,
}

pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn of(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).expect(&self.stdout)
    }

    /// The error object: the last line of stderr.
    pub(crate) fn error(&self) -> serde_json::Value {
        let last = self.stderr.lines().last().unwrap_or_default();
        serde_json::from_str(last).expect(&self.stderr)
    }
}

impl Shell {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A raw disk with data in a third of its bytes.
    pub(crate) fn disk(&self, name: &str, size: usize) -> Vec<u8> {
        let bytes: Vec<u8> =
            (0..size).map(|i| if i / 70_000 % 3 == 0 { (i % 251) as u8 } else { 0 }).collect();
        std::fs::write(self.path(name), &bytes).unwrap();
        bytes
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_carreto"));
        command.args(args).current_dir(self.directory.path()).stdin(Stdio::null());
        command.env_clear().env("CARRETO_STATE_DIR", self.path("state"));
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Self::end(&mut self.command(args))
    }

    /// Waits for the end of `command`.
    pub(crate) fn end(command: &mut Command) -> Ran {
        Ran::of(&command.output().unwrap())
    }
}

/// The folder of the example images.
pub(crate) fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/images")
}

/// The digest of the example disk, as `SHA256SUMS` has it.
pub(crate) fn example_sha256() -> String {
    let sums = std::fs::read_to_string(examples().join("SHA256SUMS")).unwrap();
    let line = sums.lines().find(|line| line.ends_with("tiny-linux.raw")).unwrap();
    line.split_whitespace().next().unwrap().to_owned()
}
