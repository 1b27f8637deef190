//! `cargo xtask e2e`: the command `carreto` against real tools and servers.
//!
//! Installs and starts what it needs by itself. What cannot be had is a failure, unless the user
//! said `--allow-skip`; with `CI` set it is a failure always.
//!
//! Variables: `CARRETO_E2E_BIN` names a binary to test instead of building one; `CARRETO_E2E_S3`
//! names an S3 endpoint (`http://host:port` or `https://host`; credentials and region from `AWS_*`)
//! to use instead of starting servers; `CARRETO_E2E_MINIO_VERSION` and
//! `CARRETO_E2E_VERSITYGW_VERSION` build other servers than the pinned ones.

mod carreto;
mod devices;
mod disk;
mod guest;
mod images;
mod install;
mod kill;
mod live;
mod nbd;
pub(crate) mod needs;
pub(crate) mod process;
mod proxy;
mod python;
mod qemu;
mod report;
mod root_tests;
mod s3;
mod s3_client;
mod server;
mod sign;
mod write;

use crate::Result;
use carreto::Carreto;
use images::Image;
use install::{Installing, Product};
use needs::Provided;
use report::{Surroundings, Tally};
use server::Server;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tempfile::TempDir;

/// A suite: its name and what it does.
struct Suite {
    name: &'static str,
    needs: &'static [needs::Need],
    run: fn(&mut Lab, &mut Tally) -> Result<()>,
}

/// In the order in which they run: servers are built meanwhile, so their suites are the last.
const SUITES: &[Suite] = &[
    Suite { name: "qemu", needs: &[needs::QEMU], run: qemu::run },
    Suite { name: "write", needs: &[needs::QEMU, needs::PYTHON], run: write::run },
    Suite { name: "kill", needs: &[needs::QEMU], run: kill::run },
    Suite { name: "nbd", needs: &[needs::QEMU, needs::NBD], run: nbd::run },
    Suite { name: "devices", needs: &[needs::ROOT, needs::QEMU, needs::LOOP], run: devices::run },
    Suite { name: "root", needs: &[needs::ROOT], run: root_tests::run },
    Suite { name: "loops", needs: LIVE, run: live::run },
    Suite { name: "s3", needs: S3, run: s3::run_minio },
    Suite { name: "s3-versitygw", needs: S3, run: s3::run_versity },
];

/// Run only when they are named.
const EXTRA: &[Suite] = &[
    Suite { name: "s3-big", needs: S3, run: s3::run_big },
    Suite { name: "guests", needs: GUESTS, run: guest::run },
];

/// A name for several suites: all of online migration.
const LIVE_SUITES: (&str, &[&str]) = ("live", &["loops", "guests"]);

const GUESTS: &[needs::Need] = &[needs::ROOT, needs::DEBOOTSTRAP, needs::QEMU, needs::GUESTS];

const LIVE: &[needs::Need] = &[needs::ROOT, needs::PYTHON, needs::QEMU_NBD, live::TOOLS];

const S3: &[needs::Need] = &[needs::QEMU, needs::FAKETIME, needs::CURL, needs::GO];

/// The server that a suite is about.
const SERVERS: &[(&str, Product)] =
    &[("s3", Product::Minio), ("s3-versitygw", Product::Versity), ("s3-big", Product::Minio)];

/// What all suites share.
pub(crate) struct Lab {
    /// The root of the repository.
    root: PathBuf,
    /// Where everything temporary lies; removed at the end.
    folder: TempDir,
    carreto: Carreto,
    /// The servers that the suites will ask for.
    servers: Vec<Installing>,
    /// Of the suite `s3-big`.
    image: Option<PathBuf>,
    /// Made by the first suite that asks.
    images: Vec<Image>,
    with: Surroundings,
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
    image: Option<PathBuf>,
    suites: Vec<&'static Suite>,
}

fn parse(arguments: &[String]) -> Result<Options> {
    let (mut allow_skip, mut image, mut names) = (false, None, Vec::new());
    let mut rest = arguments.iter().map(String::as_str);
    while let Some(argument) = rest.next() {
        match argument {
            "--allow-skip" => allow_skip = true,
            "--image" => image = Some(rest.next().ok_or("--image names no file")?.into()),
            option if option.starts_with('-') => {
                return Err(format!("unknown option {option}").into());
            }
            name if name == LIVE_SUITES.0 => names.extend(LIVE_SUITES.1),
            name if SUITES.iter().chain(EXTRA).any(|suite| suite.name == name) => names.push(name),
            name => return Err(format!("unknown suite {name}").into()),
        }
    }
    let usual = SUITES.iter().filter(|suite| names.is_empty() || names.contains(&suite.name));
    let extra = EXTRA.iter().filter(|suite| names.contains(&suite.name));
    let suites: Vec<_> = usual.chain(extra).collect();
    if suites.iter().any(|suite| suite.name == "s3-big") != image.is_some() {
        return Err("s3-big and --image FILE belong together".into());
    }
    Ok(Options { allow_skip: allow_skip && !needs::is_ci(), image, suites })
}

/// Runs the suites and prints the table of what they found.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let begin = Instant::now();
    let options = parse(arguments)?;
    let target = process::target_directory(root)?;
    let servers = begin_servers(&options, &target.join("e2e/bin"))?;
    let folder = tempfile::Builder::new().prefix("carreto-e2e-").tempdir()?;
    let mut lab = Lab {
        root: root.to_owned(),
        carreto: Carreto::build(root, &target, folder.path())?,
        folder,
        servers,
        image: options.image.map(std::path::absolute).transpose()?,
        images: Vec::new(),
        with: Surroundings::default(),
    };
    lab.add(Provided { versions: vec![lab.carreto.version()?], ..Provided::default() });
    let tallies: Vec<_> =
        options.suites.iter().map(|suite| run_suite(suite, options.allow_skip, &mut lab)).collect();
    lab.with.total = begin.elapsed();
    report::print(&tallies, &lab.with)
}

/// Begins to build the servers that the suites need.
fn begin_servers(options: &Options, bin: &Path) -> Result<Vec<Installing>> {
    let mut servers: Vec<Installing> = Vec::new();
    for (suite, product) in SERVERS {
        let wanted = options.suites.iter().any(|wanted| wanted.name == *suite);
        let begun = servers.iter().any(|server| server.product == *product);
        if wanted && !begun && server::external().is_none() {
            servers.push(Installing::start(*product, bin)?);
        }
    }
    Ok(servers)
}

fn run_suite(suite: &Suite, allow_skip: bool, lab: &mut Lab) -> Tally {
    let mut tally = Tally::new(suite.name);
    for need in suite.needs {
        match need.provide() {
            Ok(provided) => lab.add(provided),
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
    /// Remembers what to report.
    fn add(&mut self, provided: Provided) {
        for version in provided.versions {
            if !self.with.versions.contains(&version) {
                self.with.versions.push(version);
            }
        }
        for installed in provided.installed {
            if !self.with.installed.contains(&installed) {
                self.with.installed.push(installed);
            }
        }
    }

    /// Starts `product`, or takes what the user named.
    fn serve(&mut self, product: Product, folder: &Path) -> Result<Server> {
        if let Some(url) = server::external() {
            return Server::external(&url);
        }
        let building = self.servers.iter_mut().find(|server| server.product == product);
        let installed = building.ok_or("the server was not asked for in time")?.wait()?;
        let server = Server::start(product, &installed, folder)?;
        let versions = vec![server.version.clone()];
        self.add(Provided { versions, installed: installed.new.into_iter().collect() });
        Ok(server)
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
        let wanted =
            ["qemu", "write", "kill", "nbd", "devices", "root", "loops", "s3", "s3-versitygw"];
        assert_eq!(all, wanted);
        assert_eq!(names(&["s3", "qemu"]).expect("good"), ["qemu", "s3"]);
        let big = names(&["s3-big", "--image", "disk"]);
        assert_eq!(big.expect("good"), ["s3-big"]);
        assert_eq!(names(&["guests", "qemu"]).expect("good"), ["qemu", "guests"]);
        assert_eq!(names(&["live"]).expect("good"), ["loops", "guests"]);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert!(names(&["nfs"]).is_err());
        assert!(names(&["--skip"]).is_err());
        assert!(names(&["s3-big"]).is_err());
        assert!(names(&["s3", "--image", "disk"]).is_err());
    }
}
