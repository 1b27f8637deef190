//! The beginning of a run: what an earlier one left, or a new checkpoint.

use super::sink::{FileSink, ObjectSink, Sink, draw};
use super::spec::EncodeSpec;
use crate::image::{self, Opened};
use crate::{Setup, location, system};
use carreto_error::{Error, IoSide, Kind, Result, chain_text};
use carreto_formats::write::{OutputFormat, WriteOptions};
use carreto_store::{LocalFile, Location, MAX_PARTS, ObjectStoreHandle};
use carreto_transfer::{PartHeader, PartJournal, PartsDone};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The bytes of a part where nothing asks for more: few requests, and small enough that a lost
/// one costs little.
const PART: u64 = 8 << 20;
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
            Self::Object(handle) => Ok(handle.facts().await?.is_some()),
        }
    }

    /// Opens the place for the parts, and says under what name they can be read before the end.
    async fn sink(
        &self,
        earlier: Option<&str>,
        replace: bool,
    ) -> Result<(Arc<dyn Sink>, Option<PathBuf>)> {
        match self {
            Self::File(path) => {
                let sink = FileSink::open(path, earlier, replace)?;
                let partial = sink.partial().to_owned();
                Ok((Arc::new(sink), Some(partial)))
            }
            Self::Object(handle) => {
                let sink = ObjectSink::open(handle.as_ref().clone(), earlier).await?;
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
    /// Guest bytes that the image has data for.
    pub(super) allocated: u64,
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
            if fits {
                let text = "the image changed since the interrupted run began";
                return Err(Error::new(Kind::SourceChanged, text)
                    .remedied_by("run again with --restart to begin anew"));
            }
            setup.note("what an interrupted run left is not used");
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
        let (sink, partial) = self.goal.sink(Some(&header.upload), self.spec.replace).await?;
        let parts = std::mem::take(&mut done.parts);
        for (index, part) in parts {
            if sink.has(index * header.part_size, &part).await? {
                done.parts.insert(index, part);
            }
        }
        let options = self.options(&header.drawn)?;
        Ok(Started { options, header, journal, done, sink, partial })
    }

    async fn begin(&self, job: String, stamp: &str) -> Result<Started> {
        if self.goal.exists().await? && !self.spec.replace {
            let text = "there is something under this name already";
            return Err(Error::new(Kind::Usage, text)
                .path(location::shown_location(&self.spec.target))
                .remedied_by("choose another name, or replace it with --force"));
        }
        let part_size = self.part_size()?;
        let id = u128::from_be_bytes(draw(&job));
        let drawn = format!("{id:032x} {}", system::nanos() / 1_000_000_000);
        let options = self.options(&drawn)?;
        // A format that cannot hold the disk says so before anything is begun.
        carreto_formats::write::encoder(&options, self.size).map(drop)?;
        let (sink, partial) = self.goal.sink(None, self.spec.replace).await?;
        let header = PartHeader {
            version: 0,
            job,
            source: stamp.to_owned(),
            size: self.size,
            part_size,
            upload: sink.upload(),
            drawn,
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
        format!(
            "{read} {}|{format}|{snapshot} to {}|{}|{compress:?}|{level:?}|{cluster_size:?}|{align}",
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
        let (id, time) = read().ok_or_else(|| {
            Error::new(Kind::Io, "the checkpoint is damaged")
                .remedied_by("run again with --restart to begin anew")
        })?;
        let name = self.spec.target.rsplit('/').next().unwrap_or_default().to_owned();
        Ok(WriteOptions { id: id.to_be_bytes(), time, name, ..self.spec.output.clone() })
    }

    fn part_size(&self) -> Result<u64> {
        if let Some(asked) = self.spec.part_size {
            if (carreto_store::MIN_PART..=5 << 30).contains(&asked) {
                return Ok(asked);
            }
            let text = format!("parts of {asked} bytes; stores take from 5 MiB to 5 GiB");
            return Err(Error::new(Kind::Usage, text));
        }
        if let Some(known) = self.known_parts {
            return Ok(known);
        }
        if let Goal::File(_) = self.goal {
            return Ok(PART);
        }
        let bound = match self.spec.output.format {
            // Every byte is there, or a block of 2 MiB for a few of its bytes.
            OutputFormat::Raw | OutputFormat::VhdFixed | OutputFormat::VhdDynamic => self.size,
            _ => self.allocated + self.allocated / 16 + self.size / 4096,
        };
        Ok((bound / PLANNED_PARTS).next_multiple_of(1 << 20).max(PART))
    }
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
