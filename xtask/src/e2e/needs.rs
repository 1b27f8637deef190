//! What suites need of the machine: looked for, installed where that is possible, and otherwise
//! named together with the way to get it.

use super::{install, process, server};
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
    /// The Go that builds servers, unless the user named one.
    Go,
    /// Python that can make environments of its own.
    Python,
}

/// What is there now.
#[derive(Debug, Default)]
pub(crate) struct Provided {
    /// Versions worth reporting.
    pub(crate) versions: Vec<String>,
    /// What had to be installed.
    pub(crate) installed: Vec<String>,
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
pub(crate) const QEMU_NBD: Need =
    Need::Programs { programs: &["qemu-nbd"], packages: &["qemu-utils"], version: None };
pub(crate) const LOOP: Need = Need::Programs {
    programs: &["losetup", "mount", "umount", "mkfs.ext4"],
    packages: &["mount", "e2fsprogs"],
    version: None,
};
pub(crate) const ROOT: Need = Need::Root;
pub(crate) const FAKETIME: Need = Need::Programs {
    programs: &["faketime"],
    packages: &["faketime"],
    version: Some(&["faketime", "--version"]),
};
pub(crate) const CURL: Need = Need::Programs {
    programs: &["curl"],
    packages: &["ca-certificates", "curl"],
    version: Some(&["curl", "--version"]),
};
pub(crate) const DEBOOTSTRAP: Need = Need::Programs {
    programs: &["debootstrap", "chroot"],
    packages: &["debootstrap", "coreutils"],
    version: Some(&["debootstrap", "--version"]),
};
pub(crate) const GUESTS: Need = Need::Programs {
    programs: &["qemu-system-x86_64", "mkfs.ext4", "mkfs.vfat"],
    packages: &["qemu-system-x86", "e2fsprogs", "dosfstools"],
    version: Some(&["qemu-system-x86_64", "--version"]),
};
pub(crate) const GO: Need = Need::Go;
pub(crate) const PYTHON: Need = Need::Python;

/// Whether a machine runs this, which must never leave a suite out.
pub(crate) fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

impl Need {
    /// Makes sure that it is there.
    pub(crate) fn provide(&self) -> Result<Provided> {
        match self {
            Self::Programs { programs, packages, version } => {
                let installed = install(programs, packages)?;
                let versions = version.map(first_line).into_iter().collect::<Result<_>>()?;
                Ok(Provided { versions, installed: installed.into_iter().collect() })
            }
            Self::Root if is_root() => Ok(Provided::default()),
            Self::Root => Err("it needs root: run it with sudo".into()),
            Self::Go if server::external().is_some() => Ok(Provided::default()),
            Self::Go => {
                let go = install::go().ok_or(
                    "servers are built with Go: install Go 1.24 or newer (https://go.dev/dl/), \
                     or set CARRETO_E2E_S3",
                )?;
                let go = go.to_str().ok_or("the path of Go is not UTF-8")?;
                let versions = vec![first_line(&[go, "version"])?];
                Ok(Provided { versions, installed: Vec::new() })
            }
            Self::Python => {
                let installed = install_unless(has_venv, "Python with venv", PYTHON_PACKAGES)?;
                let versions = vec![first_line(&["python3", "--version"])?];
                Ok(Provided { versions, installed: installed.into_iter().collect() })
            }
        }
    }
}

/// The first line with text that a program prints, without what it was linked with.
pub(crate) fn first_line(command: &[&str]) -> Result<String> {
    let (program, arguments) = command.split_first().ok_or("an empty command")?;
    let text = process::succeed(Command::new(program).args(arguments))?;
    let line = text.lines().find(|line| !line.is_empty()).unwrap_or_default();
    let linked = line.find(" libcurl").unwrap_or(line.len());
    Ok(line[..linked].to_owned())
}

fn is_root() -> bool {
    let user = process::succeed(Command::new("id").arg("-u"));
    user.is_ok_and(|user| user.trim() == "0")
}

/// The Debian packages of [`Need::Python`].
const PYTHON_PACKAGES: &[&str] = &["python3", "python3-venv"];

/// Debian has the second module in a package of its own.
fn has_venv() -> bool {
    let import = ["-c", "import venv, ensurepip"];
    process::succeed(Command::new("python3").args(import)).is_ok()
}

/// Returns what it had to do.
fn install(programs: &[&str], packages: &[&str]) -> Result<Option<String>> {
    let is_there = || programs.iter().all(|program| find(program).is_some());
    install_unless(is_there, &programs.join(", "), packages)
}

/// Installs the Debian `packages` that have `what`. Returns what it had to do.
fn install_unless(
    is_there: impl Fn() -> bool,
    what: &str,
    packages: &[&str],
) -> Result<Option<String>> {
    if is_there() {
        return Ok(None);
    }
    let line = format!("apt-get install {}", packages.join(" "));
    if !is_root() || find("apt-get").is_none() {
        return Err(format!("it needs {what}: as root, {line}").into());
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
    if !is_there() {
        return Err(format!("{line} did not bring {what}").into());
    }
    Ok(Some(line))
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
        let line = first_line(&["sh", "-c", "echo; echo version 1 libcurl/2; echo more"]);
        assert_eq!(line.expect("it runs"), "version 1");
    }
}
