//! The beginning of a run: what an earlier one left, or a new checkpoint.

use super::sink::{FileSink, ObjectSink, Sink, draw, finished_earlier, found, taken};
use super::spec::EncodeSpec;
use crate::image::{self, Opened};
use crate::{Setup, location, system};
use carreto_error::{Error, IoSide, Kind, Result, chain_text};
use carreto_formats::write::WriteOptions;
use carreto_store::{LocalFile, Location, MAX_PARTS, MIN_PART, ObjectStoreHandle};
use carreto_transfer::{DonePart, PartHeader, PartJournal, PartsDone};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The bytes of a part where nothing asks for more: few requests, and small enough that a lost
/// one costs little.
const PART: u64 = 8 << 20;
/// The largest part that stores take (Amazon S3 user guide, "Multipart upload limits").
const MAX_PART: u64 = 5 << 30;
/// Parts that a disk of the expected size is cut into at most; the rest is for a wrong guess.
const PLANNED_PARTS: u64 = MAX_PARTS * 9 / 10;

/// Where the file goes.
#[derive(Debug)]
pub(super) enum Goal {
    File(PathBuf),
    Object(Box<ObjectStoreHandle>),
}

impl Goal {
    pub(super) fn of(setup: &Setup, target: &str) -> Result<Self> {
        match target.parse()? {
            Location::File(path) => Ok(Self::File(path)),
            Location::Object(url) => Ok(Self::Object(Box::new(image::stores(setup).handle(&url)?))),
            Location::Nbd(address) => {
                let text = "an NBD export is a disk, and no place for an image file";
                Err(Error::new(Kind::Usage, text)
                    .path(address.to_string())
                    .remedied_by("to write the disk onto the export use `carreto migrate`"))
            }
        }
    }

    /// Makes sure that the target is no file of the image.
    pub(super) fn expect_other(&self, image: &Opened) -> Result<()> {
        let own = match self {
            Self::File(path) if path.is_file() => LocalFile::open(path)?.identity().to_owned(),
            Self::File(_) => return Ok(()),
            Self::Object(handle) => handle.name().to_owned(),
        };
        match image.files().into_iter().find(|(_, identity)| *identity == own) {
            None => Ok(()),
            Some((name, _)) => {
                let text = format!("the target is {name}, a file of the image itself");
                Err(Error::new(Kind::Usage, text).remedied_by("name another target"))
            }
        }
    }

    async fn exists(&self) -> Result<bool> {
        match self {
            Self::File(path) => match path.metadata() {
                Ok(found) if !found.is_file() => {
                    let text = "the target is no regular file, and would be replaced by one";
                    Err(Error::new(Kind::TargetUnusable, text)
                        .path(path.display().to_string())
                        .remedied_by("name a file; to write onto a disk use `carreto migrate`"))
                }
                _ => Ok(path.symlink_metadata().is_ok()),
            },
            Self::Object(handle) => Ok(found(handle).await?.is_some()),
        }
    }

    /// What the store calls the object that is under the name.
    async fn etag(&self) -> Result<Option<String>> {
        match self {
            Self::File(_) => Ok(None),
            Self::Object(handle) => Ok(found(handle).await?.and_then(|found| found.etag)),
        }
    }

    /// Opens the place for the parts, and says under what name they can be read before the end.
    async fn sink(
        &self,
        earlier: Option<&str>,
        replace: bool,
        replaced: Option<String>,
    ) -> Result<(Arc<dyn Sink>, Option<PathBuf>)> {
        match self {
            Self::File(path) => {
                let sink = FileSink::open(path, earlier, replace)?;
                let partial = sink.partial().to_owned();
                Ok((Arc::new(sink), Some(partial)))
            }
            Self::Object(handle) => {
                let sink =
                    ObjectSink::open(handle.as_ref().clone(), earlier, replace, replaced).await?;
                Ok((Arc::new(sink), None))
            }
        }
    }
}

/// A job that has its checkpoint and its place.
pub(super) struct Started {
    pub(super) options: WriteOptions,
    pub(super) header: PartHeader,
    pub(super) journal: PartJournal,
    pub(super) done: PartsDone,
    pub(super) sink: Arc<dyn Sink>,
    /// Under what name the result can be read before it is finished.
    pub(super) partial: Option<PathBuf>,
}

/// What decides how a run begins.
pub(super) struct Start<'r> {
    pub(super) spec: &'r EncodeSpec,
    pub(super) goal: &'r Goal,
    /// Where the checkpoint lies.
    pub(super) path: &'r Path,
    /// The size of the disk.
    pub(super) size: u64,
    /// Bytes that the file needs at most.
    pub(super) most: u64,
    /// The size of parts that are known already.
    pub(super) known_parts: Option<u64>,
}

impl Start<'_> {
    /// Continues or begins the job.
    pub(super) async fn find(&self, stamp: &str, restart: bool, setup: &Setup) -> Result<Started> {
        let job = self.job_text();
        let found = PartJournal::peek(self.path);
        let found = if restart { found.unwrap_or(None) } else { found? };
        if let Some(header) = &found {
            let fits = !restart && header.job == job && header.size == self.size;
            if fits && header.source == stamp {
                return self.go_on().await;
            }
            setup.note(if fits {
                "the image changed since the interrupted run began; what it left is not used"
            } else {
                "what an interrupted run left is not used"
            });
            if let Err(error) = self.abandon(header).await {
                let text = chain_text(&error);
                setup.note(format!("the parts of the earlier upload could not be freed: {text}"));
            }
        }
        self.begin(job, stamp).await
    }

    async fn go_on(&self) -> Result<Started> {
        let Some((journal, header, mut done)) = PartJournal::resume(self.path)? else {
            return Err(Error::new(Kind::Internal, "the checkpoint vanished"));
        };
        expect_sound(&header, &done)?;
        self.expect_own(&header, &done).await?;
        let (upload, replaced) = (Some(header.upload.as_str()), header.replaced.clone());
        let (sink, partial) = self.goal.sink(upload, self.spec.replace, replaced).await?;
        let parts = std::mem::take(&mut done.parts);
        for (index, part) in parts {
            if sink.has(index * header.part_size, &part).await? {
                done.parts.insert(index, part);
            }
        }
        let options = self.options(&header.drawn)?;
        Ok(Started { options, header, journal, done, sink, partial })
    }

    /// Makes sure that what is under the target's name, if anything, can be what the earlier run
    /// finished, before anything is sent or written for nothing.
    async fn expect_own(&self, header: &PartHeader, done: &PartsDone) -> Result<()> {
        if self.spec.replace || !self.goal.exists().await? {
            return Ok(());
        }
        let own = match self.goal {
            Goal::File(path) => finished_earlier(path, Some(&header.upload)),
            Goal::Object(handle) => {
                let size = done.parts.values().map(|part| part.len).sum::<u64>();
                let names: Vec<String> =
                    done.parts.values().map(|part| part.name.clone()).collect();
                let upload = handle.resume_upload(&header.upload)?;
                upload.made(&names, size, header.replaced.as_deref()).await?.is_some()
            }
        };
        if own { Ok(()) } else { Err(self.taken()) }
    }

    fn taken(&self) -> Error {
        let name = location::shown_location(&self.spec.target);
        taken(&name, "there is something under this name already")
    }

    async fn begin(&self, job: String, stamp: &str) -> Result<Started> {
        if self.goal.exists().await? && !self.spec.replace {
            return Err(self.taken());
        }
        let part_size = self.part_size()?;
        let id = u128::from_be_bytes(draw(&job));
        let drawn = format!("{id:032x} {}", system::nanos() / 1_000_000_000);
        let options = self.options(&drawn)?;
        // A format that cannot hold the disk says so before anything is begun.
        carreto_formats::write::encoder(&options, self.size).map(drop)?;
        let replaced = self.goal.etag().await?;
        let sink = self.goal.sink(None, self.spec.replace, replaced.clone());
        let (sink, partial) = sink.await?;
        let header = PartHeader {
            version: 0,
            job,
            source: stamp.to_owned(),
            size: self.size,
            part_size,
            upload: sink.upload(),
            drawn,
            replaced,
        };
        let journal = PartJournal::create(self.path, &header)?;
        let done = PartsDone::default();
        Ok(Started { options, header, journal, done, sink, partial })
    }

    /// Frees what an upload that nobody will finish holds.
    pub(super) async fn abandon(&self, header: &PartHeader) -> Result<()> {
        if let Goal::Object(handle) = self.goal {
            handle.resume_upload(&header.upload)?.abort().await?;
        }
        remove(self.path)
    }

    /// What decides whether a checkpoint counts.
    fn job_text(&self) -> String {
        let image = &self.spec.image;
        let format = image.format.map_or("probed", carreto_formats::Format::name);
        let snapshot = image.snapshot.as_deref().unwrap_or("active");
        let WriteOptions { format: to, compress, level, cluster_size, align, .. } =
            &self.spec.output;
        let read = if self.spec.as_is { "file" } else { "disk" };
        // Another version may compress to other bytes.
        let version = env!("CARGO_PKG_VERSION");
        format!(
            "{version} {read} {}|{format}|{snapshot} to {}|{}|{compress:?}|{level:?}|{cluster_size:?}|{align}",
            location::key(&image.location),
            location::key(&self.spec.target),
            to.name(),
        )
    }

    /// The options with what was drawn when the job began.
    fn options(&self, drawn: &str) -> Result<WriteOptions> {
        let read = || {
            let (id, time) = drawn.split_once(' ')?;
            Some((u128::from_str_radix(id, 16).ok()?, time.parse().ok()?))
        };
        let (id, time) = read().ok_or_else(damaged)?;
        let name = self.spec.target.rsplit('/').next().unwrap_or_default().to_owned();
        Ok(WriteOptions { id: id.to_be_bytes(), time, name, ..self.spec.output.clone() })
    }

    fn part_size(&self) -> Result<u64> {
        if let Some(asked) = self.spec.part_size {
            if !(MIN_PART..=MAX_PART).contains(&asked) {
                let text = format!("parts of {asked} bytes; stores take from 5 MiB to 5 GiB");
                return Err(Error::new(Kind::Usage, text));
            }
            return self.affordable(asked);
        }
        let is_usable = |part: &u64| {
            (MIN_PART..=MAX_PART).contains(part) && self.size.div_ceil(*part) <= MAX_PARTS
        };
        if let Some(known) = self.known_parts.filter(is_usable) {
            return Ok(known);
        }
        if let Goal::File(_) = self.goal {
            return Ok(PART);
        }
        let least = PART.min(self.spec.memory / 4).max(MIN_PART);
        self.affordable((self.most / PLANNED_PARTS).next_multiple_of(1 << 20).max(least))
    }

    /// Makes sure that parts of the size fit into what is lent for them: one that is filled and
    /// one on its way.
    fn affordable(&self, part_size: u64) -> Result<u64> {
        if part_size <= self.spec.memory / 4 {
            return Ok(part_size);
        }
        let needed = part_size.saturating_mul(4);
        let text = format!("parts of {part_size} bytes need {needed} bytes of memory");
        let remedy = format!(
            "give --memory {}M, or upload a compressed or sparse format with --as",
            needed.div_ceil(1 << 20)
        );
        Err(Error::new(Kind::Limit, text).needed(needed).remedied_by(remedy))
    }
}

/// Makes sure that nothing in a checkpoint is larger than a run could have made it.
fn expect_sound(header: &PartHeader, done: &PartsDone) -> Result<()> {
    let is_part = |(index, part): (&u64, &DonePart)| {
        *index < u64::MAX / MAX_PART && part.len <= header.part_size
    };
    if (1..=MAX_PART).contains(&header.part_size) && done.parts.iter().all(is_part) {
        return Ok(());
    }
    Err(damaged())
}

fn damaged() -> Error {
    Error::new(Kind::Io, "the checkpoint is damaged")
        .remedied_by("run again with --restart to begin anew")
}

pub(super) fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            let text = path.display().to_string();
            Err(Error::io(IoSide::State, "remove the checkpoint", text, error))
        }
        _ => Ok(()),
    }
}
