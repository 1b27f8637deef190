//! The command under test.

use super::disk;
use super::images::Image;
use super::process::{self, Outcome, Running};
use crate::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The binary and the folder of its state.
#[derive(Debug, Clone)]
pub(crate) struct Carreto {
    program: PathBuf,
    state: PathBuf,
    environment: Vec<(String, String)>,
    /// A program that runs it, with its options.
    wrapper: Vec<String>,
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
        let (environment, wrapper) = (Vec::new(), Vec::new());
        Ok(Self { program, state: folder.join("state"), environment, wrapper })
    }

    /// The same command with further variables.
    pub(crate) fn with_environment(&self, environment: Vec<(String, String)>) -> Self {
        Self { environment, ..self.clone() }
    }

    /// The same command with one variable more, or with another value of it.
    pub(crate) fn with_variable(&self, name: &str, value: &str) -> Self {
        let mut environment = self.environment.clone();
        environment.retain(|(known, _)| known != name);
        environment.push((name.to_owned(), value.to_owned()));
        self.with_environment(environment)
    }

    /// The same command from a copy of the program.
    pub(crate) fn with_program(&self, program: &Path) -> Self {
        Self { program: program.to_owned(), ..self.clone() }
    }

    /// The program.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// The same command with its state in `state`.
    pub(crate) fn with_state(&self, state: PathBuf) -> Self {
        Self { state, ..self.clone() }
    }

    /// The same command, run by another.
    pub(crate) fn run_by(&self, wrapper: &[&str]) -> Self {
        let wrapper = wrapper.iter().map(ToString::to_string).collect();
        Self { wrapper, ..self.clone() }
    }

    /// The command with nothing of the user's stores and settings in its environment.
    pub(crate) fn command(&self) -> Command {
        let mut command = match self.wrapper.split_first() {
            Some((program, options)) => {
                let mut command = Command::new(program);
                command.args(options).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
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

    /// What it says it is.
    pub(crate) fn version(&self) -> Result<String> {
        Ok(self.expect(0, &["--version"])?.stdout.trim().to_owned())
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

    /// The arguments of a command that has a checkpoint.
    pub(crate) fn job<'a>(&'a self, words: &[&'a str], more: &[&'a str]) -> Result<Vec<&'a str>> {
        Ok([words, &["--state-dir", text(&self.state)?], more].concat())
    }

    /// Where its state lies.
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// A command that is not waited for.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Result<Running> {
        process::spawn(self.command().args(arguments))
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
