//! The S3 servers of the suites as programs: built from source with Go, in the background, once.

use super::{needs, process};
use crate::Result;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

/// A server that is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Product {
    Minio,
    Versity,
}

impl Product {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Minio => "MinIO",
            Self::Versity => "versitygw",
        }
    }

    /// The name of its program.
    pub(crate) const fn program(self) -> &'static str {
        match self {
            Self::Minio => "minio",
            Self::Versity => "versitygw",
        }
    }

    const fn package(self) -> &'static str {
        match self {
            Self::Minio => "github.com/minio/minio",
            Self::Versity => "github.com/versity/versitygw/cmd/versitygw",
        }
    }

    /// A later one may behave differently, and a failure would not tell which: it is raised on
    /// purpose.
    const fn pinned(self) -> &'static str {
        match self {
            Self::Minio => "v0.0.0-20260212201848-7aac2a2c5b7c",
            Self::Versity => "v1.8.0",
        }
    }

    /// The variable that names another version.
    const fn variable(self) -> &'static str {
        match self {
            Self::Minio => "CARRETO_E2E_MINIO_VERSION",
            Self::Versity => "CARRETO_E2E_VERSITYGW_VERSION",
        }
    }

    fn wanted(self) -> String {
        let named = std::env::var(self.variable()).ok().filter(|text| !text.is_empty());
        named.unwrap_or_else(|| self.pinned().to_owned())
    }

    fn install(self, bin: &Path) -> Result<Installed> {
        let (program, wanted) = (bin.join(self.program()), self.wanted());
        if program.is_file() && version(&program).is_ok_and(|found| found == wanted) {
            return Ok(Installed { program, new: None });
        }
        let name = self.name();
        let module = format!("{}@{wanted}", self.package());
        let go = go().ok_or_else(|| format!("there is no Go to build {name} with"))?;
        println!("building {name} {wanted} in the background (some minutes, once)");
        let log = bin.join(format!("{}.log", self.program()));
        let mut command = Command::new(go);
        command.args(["install", &module]).env("GOBIN", bin);
        let status = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .status()?;
        if status.success() {
            return Ok(Installed { program, new: Some(format!("go install {module}")) });
        }
        let log = std::fs::read_to_string(log)?;
        let last = log.lines().last().unwrap_or_default();
        Err(format!("go install {module} ended with {status}: {last}").into())
    }
}

/// A program that is there.
#[derive(Debug, Clone)]
pub(crate) struct Installed {
    pub(crate) program: PathBuf,
    /// What brought it, if this run did.
    pub(crate) new: Option<String>,
}

/// A program that may still be under construction.
pub(crate) struct Installing {
    pub(crate) product: Product,
    work: Option<JoinHandle<Result<Installed>>>,
    done: Option<Installed>,
}

impl Installing {
    /// Begins to build `product` into the folder `bin`, unless it was built before.
    pub(crate) fn start(product: Product, bin: &Path) -> Result<Self> {
        std::fs::create_dir_all(bin)?;
        let bin = bin.to_owned();
        let work = Some(std::thread::spawn(move || product.install(&bin)));
        Ok(Self { product, work, done: None })
    }

    /// Waits until it is there.
    pub(crate) fn wait(&mut self) -> Result<Installed> {
        let name = self.product.name();
        if let Some(work) = self.work.take() {
            let built = work.join().map_err(|_| format!("the build of {name} panicked"))?;
            self.done = Some(built?);
        }
        self.done.clone().ok_or_else(|| format!("{name} could not be built").into())
    }
}

/// The Go tool, also where its own installer puts it.
pub(crate) fn go() -> Option<PathBuf> {
    let usual = PathBuf::from("/usr/local/go/bin/go");
    needs::find("go").or_else(|| usual.is_file().then_some(usual))
}

/// The version of the module that a program was built from; the programs themselves do not know.
pub(crate) fn version(program: &Path) -> Result<String> {
    let go = go().ok_or("there is no Go to ask for the version of a server")?;
    let text = process::succeed(Command::new(go).args(["version", "-m"]).arg(program))?;
    let line = text.lines().find_map(|line| line.strip_prefix("\tmod\t"));
    let version = line.and_then(|line| line.split('\t').nth(1));
    Ok(version.unwrap_or("of unknown version").to_owned())
}
