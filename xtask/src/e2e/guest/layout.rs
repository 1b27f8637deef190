//! How the disks of guests are laid out, and making them: a template boots beside the blank disks
//! and installs itself on them, as an installer would. The kernel of the guest has the device
//! mapper and RAID, which the kernel of this machine may lack.

use super::machine::{Guest, Machine};
use super::template::Template;
use crate::Result;
use crate::e2e::{carreto::text, process};
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const INSTALL: &str = include_str!("files/install.sh");
const EXAMINE: &str = include_str!("files/examine.sh");

/// The kernel's images and the boot loader are made inside the guest, perhaps under emulation: 20
/// minutes for the mirror, on two cores with other work.
const INSTALL_LIMIT: Duration = Duration::from_mins(40);
const EXAMINE_LIMIT: Duration = Duration::from_mins(5);

/// Which release a guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    Usual,
    Oldest,
}

/// What the migration of a guest goes through besides a lost network and a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trial {
    Nothing,
    /// A place of its first disk cannot be read once.
    BadSector,
    /// Its kernel traces blocks, as if it had no BPF.
    BlockTracing,
    /// A stick with vfat, which cannot be frozen, moves too. In the end the source switches itself
    /// off.
    StickAndPowerOff,
}

/// A guest as the suite knows it.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) name: &'static str,
    pub(crate) release: Release,
    /// The function of `install.sh` and `examine.sh`.
    function: &'static str,
    /// Sizes of the disks in MiB.
    disks: &'static [u64],
    /// Where its databases lie; a transaction is one row in each.
    pub(crate) databases: &'static [&'static str],
    /// A folder whose files change all the time.
    pub(crate) churn: Option<&'static str>,
    /// Mount points, in the order in which they are frozen.
    pub(crate) freeze: &'static [&'static str],
    pub(crate) trial: Trial,
}

pub(crate) const LAYOUTS: &[Layout] = &[
    Layout {
        name: "plain",
        release: Release::Usual,
        function: "plain",
        disks: &[2304],
        databases: &["/var/lib/ledger/ledger.db"],
        churn: None,
        freeze: &["/"],
        trial: Trial::StickAndPowerOff,
    },
    Layout {
        name: "lvm",
        release: Release::Usual,
        function: "lvm",
        disks: &[2560, 512],
        databases: &["/var/lib/ledger/ledger.db", "/data/ledger/ledger.db"],
        churn: Some("/data/churn"),
        freeze: &["/data", "/boot", "/"],
        trial: Trial::Nothing,
    },
    Layout {
        name: "raid",
        release: Release::Usual,
        function: "raid",
        disks: &[2048, 2048],
        databases: &["/var/lib/ledger/ledger.db"],
        churn: None,
        freeze: &["/"],
        trial: Trial::BadSector,
    },
    Layout {
        name: "oldest",
        release: Release::Oldest,
        function: "plain",
        disks: &[2304],
        databases: &["/var/lib/ledger/ledger.db"],
        churn: None,
        freeze: &["/"],
        trial: Trial::BlockTracing,
    },
];

/// Disks with a system on them that was never booted.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) disks: Vec<PathBuf>,
    /// How long it took, if it was done now.
    pub(crate) took: Option<Duration>,
}

impl Layout {
    /// Its disks below `cache`, made unless they are there. Logs of the installer go to `folder`.
    pub(crate) fn prepare(
        &self,
        template: &Template,
        cache: &Path,
        folder: &Path,
    ) -> Result<Prepared> {
        let begin = Instant::now();
        let home = cache.join(self.name);
        let disks = self.paths(&home);
        let sizes = self.disks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let parts = [template.fingerprint.as_str(), INSTALL, self.function, &sizes];
        let fingerprint = super::hash(parts.into_iter());
        let ready = home.join("ready");
        if std::fs::read_to_string(&ready).ok().as_ref() == Some(&fingerprint) {
            return Ok(Prepared { disks, took: None });
        }
        println!("installing the guest {} on disks of its own", self.name);
        if home.exists() {
            std::fs::remove_dir_all(&home)?;
        }
        std::fs::create_dir_all(&home)?;
        for (path, size) in disks.iter().zip(self.disks) {
            File::create(path)?.set_len(size << 20)?;
        }
        let mut guest = self.rescue(template, &disks, folder)?;
        guest.succeed(&self.script(INSTALL), INSTALL_LIMIT)?;
        guest.remove()?;
        std::fs::write(&ready, &fingerprint)?;
        Ok(Prepared { disks, took: Some(begin.elapsed()) })
    }

    /// An error when a file system of `disks`, which were shut down, needs a repair.
    pub(crate) fn examine(
        &self,
        template: &Template,
        disks: &[PathBuf],
        folder: &Path,
    ) -> Result<()> {
        let mut guest = self.rescue(template, disks, folder)?;
        guest.succeed(&self.script(EXAMINE), EXAMINE_LIMIT)?;
        guest.remove()
    }

    /// Boots the template with `disks` beside it.
    fn rescue(&self, template: &Template, disks: &[PathBuf], folder: &Path) -> Result<Guest> {
        let (scratch, kernel) = (Some(template.disk.as_path()), Some(&template.kernel));
        Machine { scratch, kernel, ..Machine::new(self.name, disks, folder) }.start()
    }

    /// Boots `disks` by their own boot loader.
    pub(crate) fn boot(&self, disks: &[PathBuf], folder: &Path) -> Result<Guest> {
        Machine::new(self.name, disks, folder).start()
    }

    /// The same with a first disk that cannot be read at `bad` once.
    pub(crate) fn boot_with_bad_sector(
        &self,
        disks: &[PathBuf],
        bad: u64,
        folder: &Path,
    ) -> Result<Guest> {
        Machine { bad: Some(bad), ..Machine::new(self.name, disks, folder) }.start()
    }

    fn script(&self, script: &str) -> String {
        format!("LAYOUT={} HOST_NAME={}\n{script}", self.function, self.name)
    }

    /// Where its disks are in `folder`.
    pub(crate) fn paths(&self, folder: &Path) -> Vec<PathBuf> {
        (0..self.disks.len()).map(|index| folder.join(format!("disk{index}.raw"))).collect()
    }

    /// Copies `disks` into the new folder `to`, holes as holes.
    pub(crate) fn copy(&self, disks: &[PathBuf], to: &Path) -> Result<Vec<PathBuf>> {
        std::fs::create_dir_all(to)?;
        let copies = self.paths(to);
        for (disk, copy) in disks.iter().zip(&copies) {
            let mut command = Command::new("cp");
            command.args(["--sparse=always", "--reflink=auto", text(disk)?, text(copy)?]);
            process::succeed(&mut command)?;
        }
        Ok(copies)
    }
}

/// What `disks` occupy, in MiB.
pub(crate) fn allocated(disks: &[PathBuf]) -> Result<u64> {
    let blocks = disks.iter().map(|disk| Ok(std::fs::metadata(disk)?.blocks()));
    Ok(blocks.sum::<Result<u64>>()? / 2048)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_can_be_installed_and_examined() {
        for layout in LAYOUTS {
            let function = format!("\n{}() {{", layout.function);
            assert!(INSTALL.contains(&function) && EXAMINE.contains(&function), "{layout:?}");
            assert_eq!(layout.freeze.last(), Some(&"/"), "{layout:?}");
            assert!(!layout.databases.is_empty() && layout.disks.iter().sum::<u64>() <= 4096);
        }
    }

    #[test]
    fn what_is_sparse_is_not_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let disks = [folder.path().join("disk")];
        File::create(&disks[0]).expect("made").set_len(8 << 20).expect("sized");
        assert_eq!(allocated(&disks).expect("counted"), 0);
        std::fs::write(&disks[0], vec![1; 3 << 20]).expect("written");
        assert_eq!(allocated(&disks).expect("counted"), 3);
    }
}
