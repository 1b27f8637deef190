//! The system that guests are made of: a root file system of one release of Debian with a kernel,
//! on a disk that boots past any boot loader. It is installer, rescue system and original at once.

use super::machine::Kernel;
use crate::Result;
use crate::debian;
use crate::e2e::carreto::text;
use crate::e2e::process;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGES: &str = "linux-image-amd64 initramfs-tools zstd systemd-sysv udev dbus kmod \
     iproute2 procps python3 grub-pc-bin grub2-common fdisk e2fsprogs xfsprogs btrfs-progs lvm2 \
     mdadm";

const INIT: &str = include_str!("files/init.sh");
const PREPARE: &str = include_str!("files/prepare.sh");

/// Programs of the guest: `(name, content)`.
const PROGRAMS: &[(&str, &str)] = &[
    ("shell.py", include_str!("files/shell.py")),
    ("ledger.py", include_str!("files/ledger.py")),
    ("churn.py", include_str!("files/churn.py")),
    ("network.sh", include_str!("files/network.sh")),
    ("init.sh", INIT),
];

/// Where they lie in the guest.
pub(crate) const PROGRAM_FOLDER: &str = "/usr/local/lib/guest";

/// Sparse: it is the size that its file system may grow to.
const SIZE: &str = "2G";

/// A system that is there.
#[derive(Debug)]
pub(crate) struct Template {
    pub(crate) release: &'static str,
    /// The disk with its root.
    pub(crate) disk: PathBuf,
    pub(crate) kernel: Kernel,
    /// Of everything that it was made from.
    pub(crate) fingerprint: String,
}

/// The template of `release` below `cache`, made unless it is there.
pub(crate) fn template(release: &'static str, cache: &Path) -> Result<Template> {
    let folder = cache.join(release);
    let fingerprint = fingerprint(release);
    let ready = folder.join("ready");
    if std::fs::read_to_string(&ready).ok().as_ref() != Some(&fingerprint) {
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        make(release, &folder)?;
        std::fs::write(&ready, &fingerprint)?;
    }
    let init = format!("{PROGRAM_FOLDER}/init.sh");
    let line = format!("root=LABEL=template rw console=ttyS0 init={init}");
    let kernel = Kernel { image: folder.join("vmlinuz"), initrd: folder.join("initrd"), line };
    Ok(Template { release, disk: folder.join("root.raw"), kernel, fingerprint })
}

fn fingerprint(release: &str) -> String {
    let programs = PROGRAMS.iter().flat_map(|(name, content)| [*name, *content]);
    let parts = [release, PACKAGES, PREPARE, SIZE].into_iter().chain(programs);
    super::hash(parts)
}

fn make(release: &str, folder: &Path) -> Result<()> {
    let root = folder.join("root");
    debian::bootstrap(release, &root, &debian::mirror()?)?;
    let programs = root.join(PROGRAM_FOLDER.trim_start_matches('/'));
    std::fs::create_dir_all(&programs)?;
    for (name, content) in PROGRAMS {
        let program = programs.join(name);
        std::fs::write(&program, content)?;
        std::fs::set_permissions(&program, Permissions::from_mode(0o755))?;
    }
    println!("installing a kernel and a boot loader in it");
    prepare(&root)?;
    for (name, begin) in [("vmlinuz", "vmlinuz-"), ("initrd", "initrd.img-")] {
        std::fs::copy(only(&root.join("boot"), begin)?, folder.join(name))?;
    }
    let disk = folder.join("root.raw");
    let mut command = Command::new("mkfs.ext4");
    command.args(["-q", "-L", "template", "-d", text(&root)?, text(&disk)?, SIZE]);
    process::succeed(&mut command)?;
    std::fs::remove_dir_all(&root)?;
    Ok(())
}

/// In a mount namespace of its own, so that nothing stays mounted.
fn prepare(root: &Path) -> Result<()> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c"]);
    command.arg("mount -t proc proc \"$1/proc\" && exec chroot \"$1\" bash -c \"$2\"");
    command.arg("sh").arg(root).arg(PREPARE);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
    command.env("DEBIAN_FRONTEND", "noninteractive").env("PACKAGES", PACKAGES);
    process::succeed(&mut command)?;
    Ok(())
}

/// The one file of `folder` whose name begins with `begin`.
fn only(folder: &Path, begin: &str) -> Result<PathBuf> {
    let entries = std::fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    let mut names = entries.iter().map(std::fs::DirEntry::file_name);
    let is_it = |name: &std::ffi::OsString| name.to_string_lossy().starts_with(begin);
    match (names.find(is_it), names.find(is_it)) {
        (Some(name), None) => Ok(folder.join(name)),
        _ => Err(format!("{} has not one {begin}*", folder.display()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_do_not_share_a_fingerprint() {
        assert_eq!(fingerprint("bookworm"), fingerprint("bookworm"));
        assert_ne!(fingerprint("bookworm"), fingerprint("bullseye"));
    }

    #[test]
    fn the_only_kernel_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(only(folder.path(), "vmlinuz-").is_err());
        for name in ["config-6", "vmlinuz-6"] {
            std::fs::write(folder.path().join(name), "").expect("written");
        }
        let found = only(folder.path(), "vmlinuz-").expect("one");
        assert_eq!(found, folder.path().join("vmlinuz-6"));
        std::fs::write(folder.path().join("vmlinuz-7"), "").expect("written");
        assert!(only(folder.path(), "vmlinuz-").is_err());
    }
}
