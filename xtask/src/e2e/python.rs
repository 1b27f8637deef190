//! Packages of Python that serve as oracles: installed once, by pip, each into a folder of its own.

use super::needs::Provided;
use super::process;
use crate::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Fails unless the module can be used and its package has the version.
const LOOK: &str = "
import importlib, importlib.metadata, sys
importlib.import_module(sys.argv[1])
sys.exit(importlib.metadata.version(sys.argv[2]) != sys.argv[3])
";

/// A package of the Python Package Index.
pub(crate) struct Package {
    pub(crate) name: &'static str,
    /// A later one may behave differently: it is raised on purpose.
    pub(crate) version: &'static str,
    /// What it is called where it is used.
    pub(crate) module: &'static str,
}

impl Package {
    /// Installs it into `folder`, unless it is there, and returns the Python that has it.
    pub(crate) fn provide(&self, folder: &Path) -> Result<(PathBuf, Provided)> {
        let python = folder.join("bin/python");
        let mut provided = Provided::default();
        if !self.is_there(&python) {
            let package = format!("{}=={}", self.name, self.version);
            println!("pip install {package}");
            process::succeed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder))?;
            let pip = ["-m", "pip", "install", "--disable-pip-version-check", &package];
            process::succeed(Command::new(&python).args(pip))?;
            if !self.is_there(&python) {
                return Err(format!("{package} was installed and does not load").into());
            }
            provided.installed.push(format!("pip install {package}"));
        }
        provided.versions.push(format!("{} (Python) {}", self.name, self.version));
        Ok((python, provided))
    }

    fn is_there(&self, python: &Path) -> bool {
        let mut python = Command::new(python);
        process::succeed(python.args(["-c", LOOK, self.module, self.name, self.version])).is_ok()
    }
}
