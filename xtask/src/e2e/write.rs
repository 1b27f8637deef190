//! Suite `write`: qemu-img reads what Carreto writes, and finds nothing wrong with it.

use super::carreto::{Carreto, text};
use super::report::Tally;
use super::{Lab, disk, images, process};
use crate::Result;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The format as qemu calls it, and the options.
const OUTPUTS: &[(&str, &[&str])] = &[
    ("raw", &["--to", "raw"]),
    ("qcow2", &["--to", "qcow2"]),
    ("qcow2", &["--to", "qcow2", "--cluster-size", "512"]),
    ("qcow2", &["--to", "qcow2", "--cluster-size", "2M"]),
    ("qcow2", &["--to", "qcow2", "--compress", "zlib"]),
    ("qcow2", &["--to", "qcow2", "--compress", "zlib", "--level", "12"]),
    ("qcow2", &["--to", "qcow2", "--compress", "zlib", "--cluster-size", "512"]),
    ("qcow2", &["--to", "qcow2", "--compress", "zstd"]),
    ("qcow2", &["--to", "qcow2", "--compress", "zstd", "--level", "19"]),
    ("qcow2", &["--to", "qcow2", "--compress", "zstd", "--cluster-size", "2M"]),
    ("vpc", &["--to", "vhd"]),
    ("vpc", &["--to", "vhd", "--subformat", "fixed"]),
    ("vmdk", &["--to", "vmdk"]),
    ("vmdk", &["--to", "vmdk", "--subformat", "streamOptimized"]),
];

/// A disk that most formats hold and no file should be as large as.
const HUGE: u64 = 2 << 40;

pub(crate) fn run(lab: &mut Lab, tally: &mut Tally) -> Result<()> {
    let folder = lab.folder("write")?;
    let carreto = lab.carreto.clone();
    let mut disks = vec![("empty", empty(&folder, "empty", 3 << 20)?), ("full", full(&folder)?)];
    for name in ["even", "odd"] {
        disks.push((name, images::find(lab.images()?, &format!("{name}/plain.raw"))?.disk.clone()));
    }
    for (name, disk) in &disks {
        for (format, options) in OUTPUTS {
            let result = round_trip(&carreto, disk, &folder.join("made"), format, options);
            tally.check(&format!("{name} {}", options.join(" ")), result);
        }
    }
    huge(&carreto, &folder, tally)
}

fn round_trip(
    carreto: &Carreto,
    disk: &Path,
    made: &Path,
    format: &str,
    options: &[&str],
) -> Result<()> {
    let mut arguments = vec!["convert", text(disk)?, text(made)?, "--format", "raw", "--force"];
    arguments.extend(options);
    carreto.expect(0, &with_state(carreto, arguments)?)?;
    let compare = ["compare", "-f", "raw", "-F", format, text(disk)?, text(made)?];
    process::succeed(Command::new("qemu-img").args(compare))?;
    if matches!(format, "qcow2" | "vmdk") {
        process::succeed(Command::new("qemu-img").args(["check", "-f", format, text(made)?]))?;
    }
    Ok(())
}

fn with_state<'a>(carreto: &'a Carreto, mut arguments: Vec<&'a str>) -> Result<Vec<&'a str>> {
    arguments.extend(["--state-dir", text(carreto.state())?]);
    Ok(arguments)
}

/// Two tebibytes of little data: quick, small, and right; VHD says that it cannot.
fn huge(carreto: &Carreto, folder: &Path, tally: &mut Tally) -> Result<()> {
    let disk = empty(folder, "huge", HUGE)?;
    let file = File::options().write(true).open(&disk)?;
    for at in [0, 700 << 30, HUGE - 4096] {
        file.write_all_at(&[0x5A; 4096], at)?;
    }
    let made = folder.join("made");
    for (format, options) in
        OUTPUTS.iter().filter(|(format, _)| matches!(*format, "qcow2" | "vmdk"))
    {
        if options.contains(&"512") {
            // QEMU's bound on the L1 table is 256 GiB at this cluster size.
            continue;
        }
        let result = round_trip(carreto, &disk, &made, format, options).and_then(|()| {
            let len = std::fs::metadata(&made)?.len();
            if len > 64 << 20 { Err(format!("the file has {len} bytes").into()) } else { Ok(()) }
        });
        tally.check(&format!("huge {}", options.join(" ")), result);
    }
    let vhd = ["convert", text(&disk)?, text(&made)?, "--force", "--to", "vhd"];
    let refused = carreto.expect(9, &with_state(carreto, vhd.to_vec())?);
    tally.check("huge --to vhd is refused", refused.map(drop));
    Ok(())
}

fn empty(folder: &Path, name: &str, size: u64) -> Result<PathBuf> {
    let path = folder.join(name);
    File::create(&path)?.set_len(size)?;
    Ok(path)
}

/// Every byte is data, and the size is a multiple of nothing larger than a sector.
fn full(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("full");
    let mut rng = disk::Rng::new(7);
    let mut bytes = vec![0; (5 << 20) + 512];
    for (index, byte) in bytes.iter_mut().enumerate() {
        // A third is text, so that both kinds of cluster stand side by side.
        let noise = (rng.next() & 0xFF) as u8;
        *byte = if (index >> 16).is_multiple_of(4) { b'a' + noise % 2 } else { noise | 1 };
    }
    std::fs::write(&path, bytes)?;
    Ok(path)
}
