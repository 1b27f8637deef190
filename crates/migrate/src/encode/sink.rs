//! Where the parts of a file go: a local file beside its final name, or an upload.

use super::assembly::Content;
use crate::system;
use async_trait::async_trait;
use bytes::Bytes;
use carreto_error::{Error, IoSide, Kind, Result, ResultExt as _};
use carreto_store::{ObjectStoreHandle, ObjectUpload};
use carreto_transfer::DonePart;
use rustix::fs::{
    CWD, FallocateFlags, FlockOperation, OFlags, RenameFlags, fallocate, flock, renameat_with,
};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Takes parts in any order; nothing looks whole before [`Sink::finish`].
#[async_trait]
pub(super) trait Sink: Send + Sync {
    /// What a later process goes on with.
    fn upload(&self) -> String;

    /// Takes part `index`, which starts at byte `offset`; gives its name. Doing it again is no
    /// harm.
    async fn put(&self, index: u64, offset: u64, content: Content) -> Result<String>;

    /// Whether a part that an earlier process sent is still there.
    async fn has(&self, offset: u64, part: &DonePart) -> Result<bool>;

    /// Makes everything durable before the file is looked at.
    async fn flush(&self, size: u64) -> Result<()>;

    /// Makes the file of `size` bytes of its parts, under its name; gives the `ETag` that the
    /// store has for it.
    async fn finish(&self, size: u64, parts: &[String]) -> Result<Option<String>>;

    /// Whether the place of the parts turned out to be gone, with all of them.
    fn forgotten(&self) -> bool {
        false
    }
}

/// A local file, written under another name until it is whole.
#[derive(Debug)]
pub(super) struct FileSink {
    target: PathBuf,
    partial: PathBuf,
    file: Arc<File>,
    replace: bool,
}

impl FileSink {
    /// Opens the unfinished file of `target`, or begins one. `earlier` is what
    /// [`Sink::upload`] said when the parts that count were written.
    pub(super) fn open(target: &Path, earlier: Option<&str>, replace: bool) -> Result<Self> {
        let partial = partial_name(target)?;
        let text = partial.display().to_string();
        let fail = |error| Error::io(IoSide::Target, "open the unfinished file", &text, error);
        if finished_earlier(target, earlier) && !partial.exists() {
            std::fs::rename(target, &partial).map_err(fail)?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        let file = options.open(&partial).map_err(fail)?;
        let found = file.metadata().map_err(fail)?;
        if !found.is_file() || found.nlink() != 1 {
            let text = "the unfinished file is no regular file with this name alone";
            return Err(Error::new(Kind::TargetUnusable, text).path(partial.display().to_string()));
        }
        // Another image may be on its way to the same name.
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            Error::new(Kind::Locked, "another run is writing the same file")
                .path(partial.display().to_string())
                .caused_by(std::io::Error::from(error))
        })?;
        if earlier != Some(identity(&found).as_str()) {
            file.set_len(0).map_err(fail)?;
        }
        Ok(Self { target: target.to_owned(), partial, file: Arc::new(file), replace })
    }

    /// The name that the file has until it is whole.
    pub(super) fn partial(&self) -> &Path {
        &self.partial
    }

    fn fail(&self, operation: &'static str, error: std::io::Error) -> Error {
        Error::io(IoSide::Target, operation, self.partial.display().to_string(), error)
    }

    async fn on_thread<T, F>(&self, operation: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&File) -> std::io::Result<T> + Send + 'static,
    {
        let file = Arc::clone(&self.file);
        let done = tokio::task::spawn_blocking(move || work(&file)).await;
        let done = done.map_err(|error| {
            Error::new(Kind::Internal, "a task ended unexpectedly").caused_by(error)
        })?;
        done.map_err(|error| self.fail(operation, error))
    }
}

/// Renames without replacing what somebody else has put under the new name.
fn rename_only(from: &Path, to: &Path) -> std::io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Not every file system can; those can link.
        Err(Errno::INVAL | Errno::NOSYS) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        outcome => outcome.map_err(std::io::Error::from),
    }
}

/// Makes sure that nothing but zeros is left in a part: another run may have written there.
fn zero(file: &File, offset: u64, len: u64) -> std::io::Result<()> {
    let end = file.metadata()?.len().min(offset + len);
    if end <= offset {
        return Ok(());
    }
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if fallocate(file, punch, offset, end - offset).is_ok() {
        return Ok(());
    }
    let zeros = [0; 16 << 10];
    let mut at = offset;
    while at < end {
        let now = usize::try_from(end - at).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all_at(&zeros[..now], at)?;
        at += now as u64;
    }
    Ok(())
}

/// Whether the file under the final name is the one that `earlier` names: the run that gave it
/// its name ended before it could note that.
pub(super) fn finished_earlier(target: &Path, earlier: Option<&str>) -> bool {
    let found = target.symlink_metadata().ok();
    found.is_some_and(|found| found.is_file() && earlier == Some(identity(&found).as_str()))
}

fn identity(found: &std::fs::Metadata) -> String {
    format!("{}:{}", found.dev(), found.ino())
}

/// `.NAME.carreto-part` in the directory of `target`.
fn partial_name(target: &Path) -> Result<PathBuf> {
    let name = target.file_name().ok_or_else(|| {
        let text = "the target names no file";
        Error::new(Kind::Usage, text).path(target.display().to_string())
    })?;
    let mut partial = OsString::from(".");
    partial.push(name);
    partial.push(".carreto-part");
    Ok(target.with_file_name(partial))
}

#[async_trait]
impl Sink for FileSink {
    fn upload(&self) -> String {
        self.file.metadata().as_ref().map(identity).unwrap_or_default()
    }

    async fn put(&self, _index: u64, offset: u64, content: Content) -> Result<String> {
        self.on_thread("write", move |file| match content {
            Content::Zeros(len) => zero(file, offset, len).map(|()| String::new()),
            Content::Bytes(bytes) => file.write_all_at(&bytes, offset).map(|()| String::new()),
        })
        .await
    }

    async fn has(&self, offset: u64, part: &DonePart) -> Result<bool> {
        let (len, wanted) = (part.len, part.digest);
        let read = move |file: &File| {
            let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
            match file.read_exact_at(&mut bytes, offset) {
                Ok(()) => Ok(*blake3::hash(&bytes).as_bytes() == wanted),
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.on_thread("read back", read).await
    }

    async fn flush(&self, size: u64) -> Result<()> {
        self.on_thread("write", move |file| {
            file.set_len(size)?;
            file.sync_all()
        })
        .await
    }

    async fn finish(&self, _size: u64, _parts: &[String]) -> Result<Option<String>> {
        let fail = |error| {
            let text = self.target.display().to_string();
            Error::io(IoSide::Target, "give the file its name", text, error)
        };
        if self.replace {
            std::fs::rename(&self.partial, &self.target).map_err(fail)?;
        } else {
            rename_only(&self.partial, &self.target).map_err(fail)?;
        }
        let directory = self.target.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or_else(|| Path::new("."));
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(fail)?;
        Ok(None)
    }
}

/// An upload in parts.
#[derive(Debug)]
pub(super) struct ObjectSink {
    handle: ObjectStoreHandle,
    upload: ObjectUpload,
    /// As many zeros as a part of them has had; all such parts share them.
    zeros: Mutex<Bytes>,
    replace: bool,
    /// The store has taken a part in this run, so the upload was not completed before.
    alive: AtomicBool,
    forgotten: AtomicBool,
}

impl ObjectSink {
    /// Goes on with the upload `earlier`, or begins one.
    pub(super) async fn open(
        handle: ObjectStoreHandle,
        earlier: Option<&str>,
        replace: bool,
    ) -> Result<Self> {
        let upload = match earlier {
            Some(id) => handle.resume_upload(id)?,
            None => handle.begin_upload().await?,
        };
        let (alive, forgotten) = (AtomicBool::new(earlier.is_none()), AtomicBool::new(false));
        Ok(Self { handle, upload, replace, zeros: Mutex::default(), alive, forgotten })
    }

    fn zeros(&self, len: usize) -> Bytes {
        let mut zeros = self.zeros.lock().unwrap_or_else(PoisonError::into_inner);
        if zeros.len() < len {
            *zeros = Bytes::from(vec![0; len]);
        }
        zeros.slice(..len)
    }

    /// Takes note when the store does not know the upload any more.
    fn judge<T>(&self, outcome: Result<T>) -> Result<T> {
        if outcome.as_ref().is_err_and(|error| error.kind() == Kind::NotFound) {
            self.forgotten.store(true, Ordering::SeqCst);
        }
        outcome
    }

    /// Makes sure that nobody else's object is under the name. One of the right size is the own
    /// one, when an earlier run may have completed the upload.
    async fn expect_room(&self, size: u64) -> Result<()> {
        if self.replace {
            return Ok(());
        }
        match self.handle.facts().await? {
            None => Ok(()),
            Some(found) if found.size == size && !self.alive.load(Ordering::SeqCst) => Ok(()),
            Some(_) => {
                Err(taken(self.handle.name(), "something appeared under this name meanwhile"))
            }
        }
    }
}

/// The name of the target is taken, and replacing was not asked for.
pub(super) fn taken(name: &str, text: &'static str) -> Error {
    Error::new(Kind::Usage, text)
        .path(name)
        .remedied_by("choose another name, or replace it with --force")
}

#[async_trait]
impl Sink for ObjectSink {
    fn upload(&self) -> String {
        self.upload.id().to_owned()
    }

    async fn put(&self, index: u64, _offset: u64, content: Content) -> Result<String> {
        let bytes = match content {
            Content::Bytes(bytes) => Bytes::from(bytes),
            Content::Zeros(len) => self.zeros(usize::try_from(len).unwrap_or(usize::MAX)),
        };
        let number = usize::try_from(index).unwrap_or(usize::MAX);
        let sent = self.judge(self.upload.put_part(number, bytes).await);
        if sent.is_ok() {
            self.alive.store(true, Ordering::SeqCst);
        }
        sent.wrap_err(|| format!("part {}", index + 1))
    }

    async fn has(&self, _offset: u64, _part: &DonePart) -> Result<bool> {
        Ok(true)
    }

    async fn flush(&self, _size: u64) -> Result<()> {
        Ok(())
    }

    async fn finish(&self, size: u64, parts: &[String]) -> Result<Option<String>> {
        self.expect_room(size).await?;
        if parts.is_empty() {
            self.upload.abort().await?;
            self.handle.put_bytes(Bytes::new()).await?;
            return Ok(self.handle.facts().await?.and_then(|facts| facts.etag));
        }
        self.judge(self.upload.complete(parts, size).await).map(|facts| facts.etag)
    }

    fn forgotten(&self) -> bool {
        self.forgotten.load(Ordering::SeqCst)
    }
}

/// Sixteen bytes that no other job has.
pub(super) fn draw(job: &str) -> [u8; 16] {
    let text = format!("{job}\n{}\n{}\n{}", system::boot_id(), system::nanos(), std::process::id());
    let hash = blake3::hash(text.as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&hash.as_bytes()[..16]);
    id
}
