//! Suite `write`: what Carreto writes, with every option, is read back by itself, by QEMU and,
//! for VMDK, by libvmdk; all of them see the same disk, and find nothing wrong with it.

mod disks;
mod libvmdk;
mod outputs;
mod vhd;

use super::carreto::{Carreto, text};
use super::report::Tally;
use super::{Lab, process};
use crate::Result;
use disks::Disk;
use libvmdk::LibVmdk;
use outputs::Output;
use std::path::{Path, PathBuf};
use std::process::Command;

/// No file of a sparse disk should be larger.
const SMALL: u64 = 64 << 20;

/// QEMU walks a VMDK grain by grain, holes too, which takes minutes for a disk of some TiB.
const WALKED: u64 = 64 << 30;

pub(crate) fn run(lab: &mut Lab, tally: &mut Tally) -> Result<()> {
    let folder = lab.folder("write")?;
    let target = process::target_directory(&lab.root)?;
    let (libvmdk, provided) = LibVmdk::provide(&target.join("e2e/libvmdk"))?;
    lab.add(provided);
    let bench = Bench { carreto: lab.carreto.clone(), libvmdk, made: folder.join("made"), folder };
    let outputs = outputs::all();
    for disk in disks::small(&bench.folder)? {
        for output in &outputs {
            tally.check(&format!("{} {output}", disk.name), bench.round_trip(&disk, output));
        }
    }
    // Levels make no difference to the tables.
    for output in outputs.iter().filter(|output| !output.has("--level")) {
        for size in output.sparse_sizes() {
            let disk = Disk::sparse(&bench.folder, size)?;
            let result = bench.round_trip(&disk, output).and_then(|()| bench.expect_small());
            tally.check(&format!("{} {output}", disk.name), result);
        }
        if let Some(size) = output.too_large() {
            let disk = Disk::sparse(&bench.folder, size)?;
            tally.check(&format!("{} {output} is refused", disk.name), bench.refuse(&disk, output));
        }
    }
    Ok(())
}

/// What the checks share.
struct Bench {
    carreto: Carreto,
    libvmdk: LibVmdk,
    folder: PathBuf,
    /// What is written.
    made: PathBuf,
}

impl Bench {
    fn round_trip(&self, disk: &Disk, output: &Output) -> Result<()> {
        let size = output.virtual_size(disk.size);
        let wanted = disk.padded(size)?;
        self.write(disk, output, 0)?;
        let compare = ["compare", text(&wanted)?, text(&self.made)?];
        self.carreto.expect(0, &compare)?;
        if output.qemu == "vmdk" && size > WALKED {
            self.read_by_qemu(size)?;
        } else {
            self.compare_by_qemu(&wanted, output)?;
        }
        match output.qemu {
            "qcow2" => self.check_qcow2(disk, output),
            "vmdk" => {
                self.check_by_qemu("vmdk")?;
                self.libvmdk.expect(&self.made, &wanted)
            }
            "vpc" => vhd::check(&self.made, size, output.has("fixed")),
            _ => Ok(()),
        }
    }

    fn write(&self, disk: &Disk, output: &Output, exit: i32) -> Result<()> {
        let words = ["convert", text(&disk.path)?, text(&self.made)?, "--format", "raw", "--force"];
        let arguments = [&words[..], &output.options].concat();
        self.carreto.expect(exit, &self.carreto.job(&arguments, &[])?).map(drop)
    }

    /// Anything but this one sentence, a difference of the sizes too, is a failure.
    fn compare_by_qemu(&self, wanted: &Path, output: &Output) -> Result<()> {
        let compare = ["compare", "-f", "raw", "-F", output.qemu, text(wanted)?, text(&self.made)?];
        let said = process::succeed(Command::new("qemu-img").args(compare))?;
        if said == "Images are identical.\n" { Ok(()) } else { Err(said.into()) }
    }

    /// The data of a sparse VMDK and what surrounds it, and its size.
    fn read_by_qemu(&self, size: u64) -> Result<()> {
        let info = ["info", "-f", "vmdk", "--output", "json", text(&self.made)?];
        let info = process::succeed(Command::new("qemu-img").args(info))?;
        let info: serde_json::Value = serde_json::from_str(&info)?;
        if info["virtual-size"] != size {
            return Err(format!("QEMU sees {info}").into());
        }
        let mut command = Command::new("qemu-io");
        command.args(["-r", "-f", "vmdk"]);
        for at in disks::places(size) {
            command.args(["-c", &format!("read -P 0x5a {at} 4096")]);
            let next = at + 4096;
            let len = (size - next).min(1 << 20);
            if len > 0 {
                command.args(["-c", &format!("read -P 0 {next} {len}")]);
            }
        }
        let said = process::succeed(command.arg(&self.made))?;
        if said.contains("failed") { Err(said.into()) } else { Ok(()) }
    }

    fn check_by_qemu(&self, format: &str) -> Result<serde_json::Value> {
        let check = ["check", "-f", format, "--output", "json", text(&self.made)?];
        let said = process::succeed(Command::new("qemu-img").args(check))?;
        Ok(serde_json::from_str(&said)?)
    }

    /// The file is clean, holds nothing for zeros, and is compressed where that helps.
    fn check_qcow2(&self, disk: &Disk, output: &Output) -> Result<()> {
        let report = self.check_by_qemu("qcow2")?;
        let number = |name: &str| report[name].as_u64().unwrap_or(0);
        for bad in ["check-errors", "corruptions", "leaks"] {
            if number(bad) != 0 {
                return Err(format!("{bad}: {report}").into());
            }
        }
        if (number("allocated-clusters") > 0) != disk.has_data {
            return Err(format!("clusters for a disk without data, or none: {report}").into());
        }
        let wanted = disk.shrinks && output.has("--compress");
        // The zeros that fill the last cluster of a disk of noise do shrink.
        let is_sure =
            disk.shrinks || disk.size.is_multiple_of(2 << 20) || !output.has("--compress");
        if is_sure && (number("compressed-clusters") > 0) != wanted {
            return Err(format!("compressed clusters: wanted {wanted}: {report}").into());
        }
        Ok(())
    }

    fn expect_small(&self) -> Result<()> {
        let len = std::fs::metadata(&self.made)?.len();
        if len > SMALL { Err(format!("the file has {len} bytes").into()) } else { Ok(()) }
    }

    fn refuse(&self, disk: &Disk, output: &Output) -> Result<()> {
        if self.made.exists() {
            std::fs::remove_file(&self.made)?;
        }
        self.write(disk, output, 9)?;
        if self.made.exists() { Err("a file is left".into()) } else { Ok(()) }
    }
}
