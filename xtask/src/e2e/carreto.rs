//! The command under test.

use super::disk;
use super::images::Image;
use super::process::{self, Outcome};
use crate::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The binary and the folder of its state.
#[derive(Debug, Clone)]
pub(crate) struct Carreto {
    program: PathBuf,
    state: PathBuf,
    environment: Vec<(String, String)>,
}

impl Carreto {
    /// Builds the command, unless `CARRETO_E2E_BIN` names one.
    pub(crate) fn build(root: &Path, target: &Path, folder: &Path) -> Result<Self> {
        let program = if let Some(program) = std::env::var_os("CARRETO_E2E_BIN") {
            std::path::absolute(program)?
        } else {
            let arguments = ["build", "--release", "-p", "carreto-cli"];
            process::show(process::cargo(root).args(arguments))?;
            target.join("release/carreto")
        };
        Ok(Self { program, state: folder.join("state"), environment: Vec::new() })
    }

    /// The same command with further variables.
    pub(crate) fn with_environment(&self, environment: Vec<(String, String)>) -> Self {
        Self { environment, ..self.clone() }
    }

    /// The command with nothing of the user's stores and settings in its environment.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("AWS_") || text.starts_with("CARRETO_") {
                command.env_remove(&name);
            }
        }
        command.env("XDG_CONFIG_HOME", self.state.join("config"));
        command.envs(self.environment.iter().cloned());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Result<Outcome> {
        process::run(self.command().args(arguments))
    }

    /// Runs it and expects `exit`.
    pub(crate) fn expect(&self, exit: i32, arguments: &[&str]) -> Result<Outcome> {
        let outcome = self.run(arguments)?;
        if outcome.status.code() == Some(exit) {
            return Ok(outcome);
        }
        let (status, said) = (outcome.status, outcome.said());
        let line = arguments.join(" ");
        Err(format!("{line}: {status}, wanted exit {exit}: {said}").into())
    }

    /// The arguments of a migration.
    pub(crate) fn migration<'a>(
        &'a self,
        image: &'a str,
        target: &'a Path,
        more: &[&'a str],
    ) -> Result<Vec<&'a str>> {
        let (target, state) = (text(target)?, text(&self.state)?);
        let mut arguments = vec!["migrate", image, target, "--state-dir", state];
        arguments.extend_from_slice(more);
        Ok(arguments)
    }

    /// A migration that is not waited for.
    pub(crate) fn spawn_migration(
        &self,
        image: &str,
        target: &Path,
        more: &[&str],
    ) -> Result<std::process::Child> {
        self.spawn(&self.migration(image, target, more)?)
    }

    /// Where its state lies.
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// A command that is not waited for.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Result<std::process::Child> {
        let mut command = self.command();
        command.args(arguments);
        command.stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::null());
        command.stderr(std::process::Stdio::null());
        Ok(command.spawn()?)
    }

    /// Migrates `location` of `image` to the new file `target` and compares it byte for byte.
    pub(crate) fn migrate_and_compare(
        &self,
        image: &Image,
        location: &str,
        target: &Path,
        more: &[&str],
    ) -> Result<()> {
        if target.exists() {
            std::fs::remove_file(target)?;
        }
        self.expect(0, &self.migration(location, target, more)?)?;
        disk::compare(target, &image.disk)
    }
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()).into())
}
