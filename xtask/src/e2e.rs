//! `cargo xtask e2e`: the command `carreto` against real tools and servers.
//!
//! Installs and starts what it needs by itself. What cannot be had is a failure, unless the user
//! said `--allow-skip`; with `CI` set it is a failure always.
//!
//! Variables: `CARRETO_E2E_BIN` names a binary to test instead of building one;
//! `CARRETO_E2E_S3` names an S3 endpoint (`http://host:port`, credentials from `AWS_*`) to use
//! instead of starting MinIO; `CARRETO_E2E_MINIO_VERSION` builds another MinIO than the pinned one.

mod carreto;
mod devices;
mod disk;
mod images;
mod kill;
mod minio;
mod nbd;
mod needs;
mod process;
mod qemu;
mod report;
mod root_tests;
mod s3;
mod s3_client;
mod upload;
mod write;

use crate::Result;
use carreto::Carreto;
use images::Image;
use report::Tally;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A suite: its name and what it does.
struct Suite {
    name: &'static str,
    needs: &'static [needs::Need],
    run: fn(&mut Lab, &mut Tally) -> Result<()>,
}

/// In the order in which they run: MinIO is built meanwhile, so its suite is the last.
const SUITES: &[Suite] = &[
    Suite { name: "qemu", needs: &[needs::QEMU], run: qemu::run },
    Suite { name: "write", needs: &[needs::QEMU], run: write::run },
    Suite { name: "kill", needs: &[needs::QEMU], run: kill::run },
    Suite { name: "nbd", needs: &[needs::QEMU, needs::NBD], run: nbd::run },
    Suite { name: "devices", needs: &[needs::ROOT, needs::QEMU, needs::LOOP], run: devices::run },
    Suite { name: "root", needs: &[needs::ROOT], run: root_tests::run },
    Suite { name: "s3", needs: &[needs::QEMU, needs::MINIO], run: s3::run },
];

/// What all suites share.
pub(crate) struct Lab {
    /// The root of the repository.
    root: PathBuf,
    /// Where everything temporary lies; removed at the end.
    folder: TempDir,
    carreto: Carreto,
    server: Option<minio::Installing>,
    /// Made by the first suite that asks.
    images: Vec<Image>,
    versions: Vec<String>,
}

impl Lab {
    /// The images of every format, made on first use.
    fn images(&mut self) -> Result<&[Image]> {
        if self.images.is_empty() {
            let folder = self.folder.path().join("images");
            self.images = images::make(&folder)?;
        }
        Ok(&self.images)
    }

    /// An empty folder for the suite `name`.
    fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }
}

/// What the user asked for.
struct Options {
    allow_skip: bool,
    suites: Vec<&'static Suite>,
}

fn parse(arguments: &[String]) -> Result<Options> {
    let (flags, names): (Vec<_>, Vec<_>) =
        arguments.iter().map(String::as_str).partition(|argument| argument.starts_with('-'));
    if let Some(flag) = flags.iter().find(|flag| **flag != "--allow-skip") {
        return Err(format!("unknown option {flag}").into());
    }
    if let Some(name) = names.iter().find(|name| !is_suite(name)) {
        return Err(format!("unknown suite {name}").into());
    }
    Ok(Options {
        allow_skip: !flags.is_empty() && !needs::is_ci(),
        suites: SUITES
            .iter()
            .filter(|suite| names.is_empty() || names.contains(&suite.name))
            .collect(),
    })
}

fn is_suite(name: &str) -> bool {
    SUITES.iter().any(|suite| suite.name == name)
}

/// Runs the suites and prints the table of what they found.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let options = parse(arguments)?;
    let target = process::target_directory(root)?;
    let wants_server = options.suites.iter().any(|suite| suite.name == "s3");
    let server = wants_server.then(|| minio::Installing::start(&target.join("e2e"))).transpose()?;
    let folder = tempfile::Builder::new().prefix("carreto-e2e-").tempdir()?;
    let mut lab = Lab {
        root: root.to_owned(),
        carreto: Carreto::build(root, &target, folder.path())?,
        folder,
        server,
        images: Vec::new(),
        versions: Vec::new(),
    };
    let tallies: Vec<_> =
        options.suites.iter().map(|suite| run_suite(suite, options.allow_skip, &mut lab)).collect();
    report::print(&tallies, &lab.versions)
}

fn run_suite(suite: &Suite, allow_skip: bool, lab: &mut Lab) -> Tally {
    let mut tally = Tally::new(suite.name);
    for need in suite.needs {
        match need.provide() {
            Ok(versions) => lab.add_versions(versions),
            Err(error) if allow_skip => {
                tally.skip(&error.to_string());
                return tally;
            }
            Err(error) => {
                tally.check("what it needs", Err(error));
                return tally;
            }
        }
    }
    let done = (suite.run)(lab, &mut tally);
    if done.is_err() {
        tally.check("the suite itself", done);
    }
    tally.finish()
}

impl Lab {
    fn add_versions(&mut self, versions: Vec<String>) {
        for version in versions {
            if !self.versions.contains(&version) {
                self.versions.push(version);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(arguments: &[&str]) -> Result<Vec<&'static str>> {
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        Ok(parse(&arguments)?.suites.iter().map(|s| s.name).collect())
    }

    #[test]
    fn all_suites_run_unless_some_are_named() {
        let all = names(&["--allow-skip"]).expect("a good line");
        assert_eq!(all, ["qemu", "write", "kill", "nbd", "devices", "root", "s3"]);
        assert_eq!(names(&["s3", "qemu"]).expect("good"), ["qemu", "s3"]);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert!(names(&["nfs"]).is_err());
        assert!(names(&["--skip"]).is_err());
    }
}
