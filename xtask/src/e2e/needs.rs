//! What suites need of the machine: looked for, installed where that is possible, and otherwise
//! named together with the way to get it.

use super::{minio, process};
use crate::Result;
use std::path::PathBuf;
use std::process::Command;

/// Something that a suite cannot do without.
pub(crate) enum Need {
    /// Programs, and the Debian packages that have them.
    Programs {
        programs: &'static [&'static str],
        packages: &'static [&'static str],
        version: Option<&'static [&'static str]>,
    },
    /// The rights to make and mount devices.
    Root,
    /// The Go that builds MinIO, unless a server is there.
    Minio,
}

pub(crate) const QEMU: Need = Need::Programs {
    programs: &["qemu-img", "qemu-io"],
    packages: &["qemu-utils"],
    version: Some(&["qemu-img", "--version"]),
};
pub(crate) const NBD: Need = Need::Programs {
    programs: &["qemu-nbd", "nbdkit"],
    packages: &["qemu-utils", "nbdkit"],
    version: Some(&["nbdkit", "--version"]),
};
pub(crate) const LOOP: Need = Need::Programs {
    programs: &["losetup", "mount", "umount", "mkfs.ext4"],
    packages: &["mount", "e2fsprogs"],
    version: None,
};
pub(crate) const ROOT: Need = Need::Root;
pub(crate) const MINIO: Need = Need::Minio;

/// Whether a machine runs this, which must never leave a suite out.
pub(crate) fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

impl Need {
    /// Makes sure that it is there and returns the versions worth reporting.
    pub(crate) fn provide(&self) -> Result<Vec<String>> {
        match self {
            Self::Programs { programs, packages, version } => {
                install(programs, packages)?;
                version.map(first_line).into_iter().collect()
            }
            Self::Root if is_root() => Ok(Vec::new()),
            Self::Root => Err("it needs root: run it with sudo".into()),
            Self::Minio => {
                if minio::external().is_none() && minio::go().is_none() {
                    return Err("MinIO is built with Go: install Go 1.24 or newer \
                                (https://go.dev/dl/), or set CARRETO_E2E_S3"
                        .into());
                }
                Ok(Vec::new())
            }
        }
    }
}

/// The first line that a program prints.
pub(crate) fn first_line(command: &[&str]) -> Result<String> {
    let (program, arguments) = command.split_first().ok_or("an empty command")?;
    let text = process::succeed(Command::new(program).args(arguments))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn is_root() -> bool {
    let user = process::succeed(Command::new("id").arg("-u"));
    user.is_ok_and(|user| user.trim() == "0")
}

fn install(programs: &[&str], packages: &[&str]) -> Result<()> {
    let missing = |programs: &[&str]| programs.iter().any(|program| find(program).is_none());
    if !missing(programs) {
        return Ok(());
    }
    let line = format!("apt-get install {}", packages.join(" "));
    if !is_root() || find("apt-get").is_none() {
        return Err(format!("it needs {}: as root, {line}", programs.join(", ")).into());
    }
    println!("{line}");
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        process::succeed(command.args(arguments))
    };
    let arguments = [&["install", "-y", "--no-install-recommends"], packages].concat();
    if apt(&arguments).is_err() {
        apt(&["update"])?;
        apt(&arguments)?;
    }
    if missing(programs) {
        return Err(format!("{line} did not bring {}", programs.join(", ")).into());
    }
    Ok(())
}

/// Where a program lies, the folders of the administrator included.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(more)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_on_the_path() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-at-all").is_none());
        assert!(install(&["sh"], &[]).is_ok());
    }

    #[test]
    fn the_first_line_is_the_version() {
        let line = first_line(&["sh", "-c", "echo version 1; echo more"]);
        assert_eq!(line.expect("it runs"), "version 1");
    }
}
