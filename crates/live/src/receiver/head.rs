//! The first MiB of a disk, kept back until the migration is committed.

use carreto_error::{Error, IoSide, Result};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Bytes that are kept back: partition table and boot code.
pub(super) const HEAD: u64 = 1 << 20;

/// A file that stands for the first bytes of a target.
#[derive(Debug)]
pub(super) struct Head {
    file: File,
    name: String,
    len: u64,
}

impl Head {
    /// The head at `path` of a disk of `size` bytes; a new one is zero.
    pub(super) fn open(path: &Path, size: u64) -> Result<Self> {
        let (len, name) = (size.min(HEAD), path.display().to_string());
        let no_link = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
        let fail = |error| Error::io(IoSide::State, "open the head", &name, error);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.custom_flags(no_link).open(path).map_err(fail)?;
        file.set_len(len).map_err(fail)?;
        Ok(Self { file, name: name.clone(), len })
    }

    /// Bytes kept back.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.file.write_all_at(data, offset).map_err(self.fail("write"))
    }

    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buf, offset).map_err(self.fail("read"))
    }

    /// All of it.
    pub(super) fn content(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.len).unwrap_or(0)];
        self.read(0, &mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn flush(&self) -> Result<()> {
        self.file.sync_data().map_err(self.fail("flush"))
    }

    fn fail(&self, what: &str) -> impl Fn(std::io::Error) -> Error + use<> {
        let (what, name) = (format!("{what} the head"), self.name.clone());
        move |error| Error::io(IoSide::State, what.clone(), &name, error)
    }
}
