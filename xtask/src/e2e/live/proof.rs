//! Whether a target is the source, found without Carreto.

use super::super::carreto::{Carreto, text};
use super::super::needs::Provided;
use super::super::python::Package;
use crate::Result;
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

/// Bytes that count as one block.
const BLOCK: usize = 64 << 10;
/// The published binding of the reference implementation.
const PACKAGE: Package = Package { name: "blake3", version: "1.0.11", module: "blake3" };
const SCRIPT: &str = "
import blake3, sys
digest = blake3.blake3()
while piece := sys.stdin.buffer.read(1 << 20):
    digest.update(piece)
print(digest.hexdigest())
";

/// Equal and different blocks of two disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Compared {
    pub(super) blocks: u64,
    pub(super) different: u64,
}

/// What reads a file, or a device past the cache, to its standard output.
struct Reading(Child);

impl Reading {
    fn start(path: &Path) -> Result<(Self, ChildStdout)> {
        let mut dd = Command::new("dd");
        dd.args(["bs=1M", "status=none"]).arg(format!("if={}", text(path)?));
        if path.starts_with("/dev") {
            dd.arg("iflag=direct");
        }
        let mut child = dd.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().ok_or("dd has no output")?;
        Ok((Self(child), stdout))
    }

    fn end(mut self) -> Result<()> {
        let status = self.0.wait()?;
        if status.success() { Ok(()) } else { Err(format!("dd: {status}").into()) }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Compares two disks of the same length block by block.
pub(super) fn compare(one: &Path, other: &Path) -> Result<Compared> {
    let (first, mut left) = Reading::start(one)?;
    let (second, mut right) = Reading::start(other)?;
    let compared = compare_streams(&mut left, &mut right)?;
    first.end()?;
    second.end()?;
    Ok(compared)
}

fn compare_streams(left: &mut impl Read, right: &mut impl Read) -> Result<Compared> {
    let (mut a, mut b) = (Vec::with_capacity(BLOCK), Vec::with_capacity(BLOCK));
    let mut compared = Compared { blocks: 0, different: 0 };
    loop {
        a.clear();
        b.clear();
        left.by_ref().take(BLOCK as u64).read_to_end(&mut a)?;
        right.by_ref().take(BLOCK as u64).read_to_end(&mut b)?;
        if a.len() != b.len() {
            return Err("one disk is longer than the other".into());
        }
        if a.is_empty() {
            return Ok(compared);
        }
        compared.blocks += 1;
        compared.different += u64::from(a != b);
    }
}

/// BLAKE3 by somebody else's program.
#[derive(Debug, Clone)]
pub(super) struct Oracle {
    python: PathBuf,
}

impl Oracle {
    /// Installs it into `folder`, unless it is there.
    pub(super) fn provide(folder: &Path) -> Result<(Self, Provided)> {
        let (python, provided) = PACKAGE.provide(folder)?;
        Ok((Self { python }, provided))
    }

    /// The BLAKE3 of a whole disk in hexadecimal.
    pub(super) fn blake3(&self, disk: &Path) -> Result<String> {
        let (reading, bytes) = Reading::start(disk)?;
        let mut python = Command::new(&self.python);
        let output = python.args(["-c", SCRIPT]).stdin(bytes).output()?;
        reading.end()?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}

/// What was proved about one disk.
pub(super) struct Proved {
    pub(super) compared: Compared,
    pub(super) root: String,
}

/// Proves that `target` is `source`, byte by byte, by its BLAKE3, and by the certificate at
/// `certificate` together with the command that checks it.
pub(super) fn prove(
    carreto: &Carreto,
    oracle: &Oracle,
    (source, target): (&Path, &Path),
    certificate: &Path,
) -> Result<Proved> {
    let compared = compare(source, target)?;
    if compared.different > 0 {
        return Err(format!("the target is not the source: {compared:?}").into());
    }
    let document: Value = serde_json::from_slice(&std::fs::read(certificate)?)?;
    let statement = document["statement"].as_str().ok_or("the certificate has no statement")?;
    let statement: Value = serde_json::from_str(statement)?;
    let root = statement["disks"][0]["root"].as_str().ok_or("the certificate has no root")?;
    let found = oracle.blake3(target)?;
    if found != root {
        return Err(format!("the target's BLAKE3 is {found}, the certificate says {root}").into());
    }
    let (name, key) = (statement["disks"][0]["source"].as_str(), statement["receiver"].as_str());
    let name = name.ok_or("the certificate names no disk")?;
    let key = key.ok_or("the certificate names no receiver")?;
    let disk = format!("{name}={}", text(target)?);
    let words = ["verify-certificate", text(certificate)?, "--trust", key, "--disk", &disk];
    carreto.expect(0, &words)?;
    Ok(Proved { compared, root: found })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_blocks_are_counted() {
        let one = vec![1; 3 * BLOCK + 10];
        let mut other = one.clone();
        other[BLOCK] = 2;
        other[3 * BLOCK + 9] = 2;
        let compared = compare_streams(&mut &one[..], &mut &other[..]).expect("of one length");
        assert_eq!(compared, Compared { blocks: 4, different: 2 });
        assert!(compare_streams(&mut &one[1..], &mut &other[..]).is_err());
    }
}
