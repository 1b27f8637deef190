//! The static binary in old root file systems: it says there what it says here.

use crate::Result;
use crate::debian::{self, Served};
use crate::e2e::{needs, process};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The image that the binary looks at.
const IMAGE: &str = "examples/images/tiny-linux.qcow2";

/// What it is asked, with the image as the file `image` of its folder.
const TRIALS: &[&[&str]] = &[&["--version"], &["info", "image"]];

/// Runs `program` in a root of every release that the mirror has.
pub(crate) fn run(root: &Path, target: &Path, program: &Path) -> Result<()> {
    for need in [&needs::ROOT, &needs::DEBOOTSTRAP] {
        need.provide()?;
    }
    let served = Served::ask()?;
    println!("{} no longer has {:?}", served.mirror, served.gone);
    println!("the oldest that it has is {}", served.oldest()?);
    for release in served.there {
        let old = make(release, &target.join("dist/roots"), &served.mirror)?;
        println!("Debian {}: {}", version(&old)?, try_in(&old, program, &root.join(IMAGE))?);
    }
    Ok(())
}

/// The root of `release` below `folder`, made once.
fn make(release: &str, folder: &Path, mirror: &str) -> Result<PathBuf> {
    let ready = folder.join(release);
    if !ready.exists() {
        std::fs::create_dir_all(folder)?;
        let half = folder.join(format!("{release}.half"));
        debian::bootstrap(release, &half, mirror)?;
        std::fs::rename(&half, &ready)?;
    }
    Ok(ready)
}

/// The version of the release, and of its C library.
fn version(old: &Path) -> Result<String> {
    let debian = std::fs::read_to_string(old.join("etc/debian_version"))?;
    let library = process::succeed(debian::inside(old, "ldd").arg("--version"))?;
    let library = library.lines().next().and_then(|line| line.rsplit(' ').next());
    Ok(format!("{} (glibc {})", debian.trim(), library.unwrap_or("unknown")))
}

/// Every answer is the one that the binary gives on this machine.
fn try_in(old: &Path, program: &Path, image: &Path) -> Result<String> {
    let folder = old.join("trial");
    std::fs::create_dir_all(&folder)?;
    std::fs::copy(program, folder.join("carreto"))?;
    std::fs::copy(image, folder.join("image"))?;
    let mut said = Vec::new();
    for arguments in TRIALS {
        let mut there = debian::inside(old, "sh");
        there.args(["-c", "cd /trial && exec ./carreto \"$@\"", "carreto"]).args(*arguments);
        let there = process::succeed(&mut there)?;
        let mut here = Command::new(program);
        here.current_dir(&folder).args(*arguments).env_clear();
        let here = process::succeed(&mut here)?;
        if there != here {
            return Err(format!("{arguments:?} says {there:?} there and {here:?} here").into());
        }
        said.push(there.lines().next().unwrap_or_default().to_owned());
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(format!("{} answers as here: {}", said.len(), said.join(" | ")))
}
