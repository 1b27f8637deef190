//! What servers do to their disks while they are migrated.

use super::disks::Source;
use super::program::Program;
use crate::Result;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Files come, get holes and zeros, and go; free space is trimmed.
const CHURN: &str = r#"
cd "$1" && mkdir -p churn && cd churn || exit 1
n=0
while :; do
    n=$((n + 1))
    for name in punched zeroed deleted.$n; do head -c 6M /dev/urandom > $name; done
    sync -f .
    fallocate --punch-hole --offset 1M --length 3M punched
    fallocate --zero-range --offset 1M --length 3M zeroed
    rm -f deleted.$((n - 1))
    sync -f .
    fstrim .
    echo $n
    sleep 0.3
done
"#;

/// Rows with checksums, each in a transaction of its own; a number is printed once its row is
/// committed.
const WRITER: &str = r#"
import hashlib, os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
db.execute("pragma journal_mode=delete")
db.execute("pragma synchronous=full")
db.execute("create table rows (id integer primary key, body blob, sum text)")
number = 0
while True:
    number += 1
    body = os.urandom(3000)
    db.execute("begin immediate")
    db.execute("insert into rows values (?, ?, ?)", (number, body, hashlib.sha256(body).hexdigest()))
    db.execute("commit")
    print(number, flush=True)
"#;

/// Prints how many rows there are from 1 on without a gap, all with the right checksum.
const READER: &str = r#"
import hashlib, sqlite3, sys
db = sqlite3.connect(sys.argv[1])
assert db.execute("pragma integrity_check").fetchone()[0] == "ok"
found = 0
for number, body, checksum in db.execute("select id, body, sum from rows order by id"):
    assert number == found + 1 and hashlib.sha256(body).hexdigest() == checksum, number
    found = number
print(found)
"#;

/// A database that is written.
pub(super) struct Writer(Program);

impl Writer {
    /// Waits until the first row is committed.
    pub(super) fn start(source: &Source) -> Result<Self> {
        let mut python = Command::new("python3");
        python.args(["-c", WRITER]).arg(database(&source.point()));
        let mut program = Program::start(&mut python, &source.folder, "writer")?;
        program.wait_for(Duration::from_mins(1), last_number)?;
        Ok(Self(program))
    }

    /// The last row that was acknowledged so far.
    pub(super) fn acknowledged(&self) -> Result<u64> {
        last_number(&self.0.stdout()?).ok_or_else(|| "nothing was committed".into())
    }

    /// Lets it end with `source`.
    pub(super) fn hand_over(self, source: &mut Source) {
        source.keep(self.0);
    }
}

/// The number in the last whole line.
fn last_number(text: &str) -> Option<u64> {
    text[..=text.rfind('\n')?].lines().last()?.parse().ok()
}

fn database(folder: &Path) -> std::path::PathBuf {
    folder.join("rows.db")
}

/// The rows in the database of a mounted file system.
pub(super) fn rows(folder: &Path) -> Result<u64> {
    let mut python = Command::new("python3");
    python.args(["-c", READER]).arg(database(folder));
    Ok(super::super::process::succeed(&mut python)?.trim().parse()?)
}

/// Random writes past the cache and through a mapping, and files that come and go.
pub(super) fn everything(source: &mut Source) -> Result<()> {
    for (engine, direct) in [("libaio", "1"), ("mmap", "0")] {
        let fio = fio(source, engine, direct, 400)?;
        source.keep(fio);
    }
    let mut churn = Command::new("sh");
    churn.args(["-c", CHURN, "churn"]).arg(source.point());
    let mut churn = Program::start(&mut churn, &source.folder, "churn")?;
    churn.wait_for(Duration::from_mins(1), last_number)?;
    source.keep(churn);
    Ok(())
}

/// Random writes of 4 KiB past the cache, `rate` per second.
pub(super) fn random_writes(source: &mut Source, rate: u32) -> Result<()> {
    let fio = fio(source, "libaio", "1", rate)?;
    source.keep(fio);
    Ok(())
}

fn fio(source: &Source, engine: &str, direct: &str, rate: u32) -> Result<Program> {
    let name = format!("fio-{engine}");
    let mut fio = Command::new("fio");
    // Threads: processes of fio leave the group of those that are ended.
    fio.args(["--name=load", "--thread", "--rw=randwrite", "--bs=4k", "--size=32m", "--iodepth=8"])
        .args(["--time_based", "--runtime=900", "--refill_buffers", "--output-format=terse"])
        .arg(format!("--direct={direct}"))
        .arg(format!("--ioengine={engine}"))
        .arg(format!("--rate_iops={rate}"))
        .arg(format!("--filename={}", source.point().join(&name).display()));
    Program::start(&mut fio, &source.folder, &name)
}

#[cfg(test)]
mod tests {
    use super::last_number;

    #[test]
    fn a_line_counts_when_it_is_whole() {
        assert_eq!(last_number("1\n2\n3"), Some(2));
        assert_eq!(last_number("12"), None);
        assert_eq!(last_number(""), None);
    }
}
