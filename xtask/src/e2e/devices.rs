//! Suite `devices`: block devices as targets. What must be refused leaves every byte as it was.

use super::Lab;
use super::carreto::{Carreto, text};
use super::disk;
use super::images::{self, Image};
use super::process;
use super::report::Tally;
use crate::Result;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const SECTORS: &[u64] = &[512, 4096];
/// What lies on a device before: a migration must put zeros over it where the disk has none.
const OLD: u8 = 0xA5;

/// A loop device over a file; detached when dropped.
struct Loop {
    device: PathBuf,
}

impl Loop {
    fn attach(file: &Path, sector: u64, more: &[&str]) -> Result<Self> {
        let mut command = Command::new("losetup");
        command.args(["--find", "--show", "--sector-size", &sector.to_string()]);
        let device = process::succeed(command.args(more).arg(file))?;
        Ok(Self { device: PathBuf::from(device.trim()) })
    }

    /// A device of `size` bytes full of old data.
    fn full(file: &Path, size: u64, sector: u64, more: &[&str]) -> Result<Self> {
        let mut out = File::create(file)?;
        let chunk = vec![OLD; 1 << 20];
        let mut left = size;
        while left > 0 {
            let len = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
            out.write_all(&chunk[..len])?;
            left -= len as u64;
        }
        drop(out);
        Self::attach(file, sector, more)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // A device that stays attached to a deleted file harms nobody.
        let _ = process::run(Command::new("losetup").arg("-d").arg(&self.device));
    }
}

/// A mounted file system; unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    /// Makes a file system on `device` and mounts it read-only, so that mounting writes nothing.
    fn new(device: &Path, at: &Path) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        process::succeed(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(device))?;
        let mut mount = Command::new("mount");
        process::succeed(mount.args(["-o", "ro,noload"]).arg(device).arg(at))?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = process::run(Command::new("umount").arg(&self.0));
    }
}

pub(crate) fn run(lab: &mut Lab, tally: &mut Tally) -> Result<()> {
    let folder = lab.folder("devices")?;
    let carreto = lab.carreto.clone();
    let images = lab.images()?.to_vec();
    let file = folder.join("device");
    for sector in SECTORS {
        for name in ["plain.raw", "zstd.qcow2", "dynamic-exact.vhd", "stream.vmdk"] {
            let image = images::find(&images, &format!("even/{name}"))?;
            let result = migrate(&carreto, image, &file, *sector);
            tally.check(&format!("{name} to sectors of {sector}"), result);
        }
        let image = images::find(&images, "even/zstd.qcow2")?;
        let result = too_small(&carreto, image, &file, *sector);
        tally.check(&format!("a sector of {sector} too small"), result);
    }
    let image = images::find(&images, "even/zstd.qcow2")?;
    let mounted = mounted(&carreto, image, &file, &folder.join("mnt"));
    tally.check("mounted", mounted);
    tally.check("read-only", read_only(&carreto, image, &file));
    tally.check("without --yes", without_yes(&carreto, image, &file));
    Ok(())
}

fn migrate(carreto: &Carreto, image: &Image, file: &Path, sector: u64) -> Result<()> {
    let target = Loop::full(file, image.virtual_size, sector, &[])?;
    let source = text(&image.path)?;
    carreto.expect(0, &carreto.migration(source, &target.device, &["--yes"])?)?;
    disk::compare(&target.device, &image.disk)
}

/// Runs a migration that must end with one of `exits` and must not touch the device.
fn refused(
    carreto: &Carreto,
    image: &Image,
    device: &Path,
    flags: &[&str],
    exits: &[i32],
) -> Result<String> {
    let before = disk::sha256(device)?;
    let arguments = carreto.migration(text(&image.path)?, device, flags)?;
    let outcome = carreto.run(&arguments)?;
    if disk::sha256(device)? != before {
        return Err(format!("it wrote to the device: {}", outcome.said()).into());
    }
    match outcome.status.code() {
        Some(code) if exits.contains(&code) => Ok(outcome.said()),
        _ => {
            let (status, said) = (outcome.status, outcome.said());
            Err(format!("{status}, wanted one of {exits:?}: {said}").into())
        }
    }
}

fn too_small(carreto: &Carreto, image: &Image, file: &Path, sector: u64) -> Result<()> {
    let target = Loop::full(file, image.virtual_size - sector, sector, &[])?;
    let said = refused(carreto, image, &target.device, &["--yes"], &[6])?;
    let needed = image.virtual_size.to_string();
    for wanted in ["image file verification failed", needed.as_str()] {
        if !said.contains(wanted) {
            return Err(format!("it does not say {wanted:?}: {said}").into());
        }
    }
    Ok(())
}

fn mounted(carreto: &Carreto, image: &Image, file: &Path, at: &Path) -> Result<()> {
    let target = Loop::full(file, image.virtual_size, 512, &[])?;
    let _mount = Mount::new(&target.device, at)?;
    refused(carreto, image, &target.device, &["--yes"], &[11])?;
    Ok(())
}

fn read_only(carreto: &Carreto, image: &Image, file: &Path) -> Result<()> {
    let target = Loop::full(file, image.virtual_size, 512, &["--read-only"])?;
    refused(carreto, image, &target.device, &["--yes"], &[11])?;
    Ok(())
}

/// Nobody said that the device may be overwritten: that is a matter of usage or of policy.
fn without_yes(carreto: &Carreto, image: &Image, file: &Path) -> Result<()> {
    let target = Loop::full(file, image.virtual_size, 512, &[])?;
    refused(carreto, image, &target.device, &[], &[2, 9])?;
    Ok(())
}
