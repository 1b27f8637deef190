//! A run from the first look to the report.

use super::assembly::Assembly;
use super::guest::{self, ExpectedParts, Guest};
use super::publish::Made;
use super::spec::{EncodeReport, EncodeSpec};
use super::start::{Goal, Start, Started, remove};
use super::writer::Writer;
use crate::content;
use crate::image::{self, Opened};
use crate::inspect::{self, ImageFacts};
use crate::job::Job;
use crate::measure;
use crate::watchdog::{Pulse, Watchdog};
use crate::{ImageSpec, RunEvent, Setup, shown_location};
use carreto_block::{ByteRange, Source};
use carreto_error::{Error, Kind, Result, chain_text};
use carreto_formats::write::{OutputFormat, encoder};
use carreto_formats::{Format, Limits};
use carreto_store::MAX_PARTS;
use carreto_transfer::{ContentDigest, CopyOptions, Engine, PartsDone};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long a run that ends early waits for the parts on their way, so that they count.
const LAST_PARTS: Duration = Duration::from_secs(5);

/// Makes the file that `spec` describes. Rerunning the same job resumes.
///
/// Not cancel safe: use [`carreto_transfer::Stop`] to end it; a dropped future leaves a checkpoint
/// that a rerun goes on from, and nothing under the target's name.
///
/// # Errors
/// What opening, checking and decoding the image meets; `Usage` when the target exists and is not
/// to be replaced, or the options do not fit; `Limit` when the format cannot hold the disk;
/// `SourceChanged`; `Mismatch` when the result reads differently; what writing or uploading meets;
/// `Locked`, `Timeout`, `Cancelled`.
pub async fn encode(setup: &Setup, spec: &EncodeSpec) -> (EncodeReport, Result<()>) {
    let begin = Instant::now();
    let mut report = EncodeReport::begin(spec);
    let pulse = Arc::new(Pulse::new(Arc::clone(&setup.observer)));
    let setup = Setup { observer: pulse.clone(), ..setup.clone() };
    let _watchdog =
        Watchdog::start(setup.stop.clone(), pulse.clone(), spec.timeout, spec.stall_timeout);
    let engine = setup.engine(CopyOptions {
        // The rest is for parts: one that is filled, and those on their way.
        memory: spec.memory / 2,
        rate: spec.limit_rate,
        digest: false,
        ..CopyOptions::default()
    });
    let run = Run { setup: &setup, spec, engine: &engine, forgotten: AtomicBool::new(false) };
    let mut outcome = run.execute(&mut report, spec.restart).await;
    if outcome.is_err() && run.forgotten.load(Ordering::SeqCst) {
        setup.note("the store has forgotten the upload; everything is sent again");
        report.resumed_bytes = 0;
        outcome = run.execute(&mut report, true).await;
    }
    report.retries = pulse.retries();
    report.end(begin.elapsed().as_secs_f64(), &outcome);
    (report, outcome)
}

/// One attempt.
pub(super) struct Run<'r> {
    pub(super) setup: &'r Setup,
    pub(super) spec: &'r EncodeSpec,
    pub(super) engine: &'r Engine,
    /// The store does not know the upload any more.
    forgotten: AtomicBool,
}

/// What is read.
struct Origin {
    opened: Opened,
    facts: ImageFacts,
    /// The disk in a file that is uploaded as it is.
    guest: Option<Guest>,
    /// What the bytes of an object that goes as it is are by its manifest.
    expected: Option<ExpectedParts>,
}

impl Run<'_> {
    async fn execute(&self, report: &mut EncodeReport, restart: bool) -> Result<()> {
        let goal = Goal::of(self.setup, &self.spec.target)?;
        let mut origin = self.open(&goal, report).await?;
        let job = Job::lock_encode(self.spec)?;
        let path = job.parts_path();
        goal.expect_other(&origin.opened)?;
        let stamp = origin.opened.image.stamp().await?.0;
        // The metadata was read before: a rerun that finds this stamp trusts what was read of it.
        self.setup.stop.race(origin.opened.expect_unchanged()).await?;
        let start = Start {
            spec: self.spec,
            goal: &goal,
            path: &path,
            size: origin.facts.virtual_size,
            most: self.most(&origin, &goal).await?,
            known_parts: origin.expected.as_ref().map(|expected| expected.part_size),
        };
        let started = start.find(&stamp, restart, self.setup);
        let started = self.setup.stop.race(started).await?;
        let part_size = started.header.part_size;
        origin.expected = origin.expected.filter(|expected| expected.part_size == part_size);
        let header = started.header.clone();
        let sink = Arc::clone(&started.sink);
        let written = self.write(&origin, &goal, started, report).await;
        self.forgotten.store(sink.forgotten(), Ordering::SeqCst);
        match written {
            Ok(()) => remove(&path),
            // The object was made of parts that must not be used again.
            Err(error) if error.kind() == Kind::Mismatch && report.file_size.is_some() => {
                remove(&path).and(Err(error))
            }
            Err(error) if error.kind() == Kind::Mismatch && origin.expected.is_some() => {
                // The checkpoint describes bytes that were never in the source.
                match start.abandon(&header).await {
                    Ok(()) => Err(error),
                    Err(also) => {
                        let text = format!("the checkpoint stays ({})", chain_text(&also));
                        Err(error.wrap(text))
                    }
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Bytes that the object needs at most.
    async fn most(&self, origin: &Origin, goal: &Goal) -> Result<u64> {
        if self.spec.as_is || matches!(goal, Goal::File(_)) {
            return Ok(origin.facts.virtual_size);
        }
        let image = origin.opened.image.as_ref();
        self.setup.stop.race(measure::most(self.setup, image, &self.spec.output)).await
    }

    async fn open(&self, goal: &Goal, report: &mut EncodeReport) -> Result<Origin> {
        let (setup, spec) = (self.setup, self.spec);
        let bytes = guest::as_bytes(&spec.image);
        let image = if spec.as_is { &bytes } else { &spec.image };
        let opened = setup.stop.race(image::open(setup, image)).await?;
        let facts = inspect::facts(setup, &image.location, opened.image.as_ref());
        let facts = setup.stop.race(facts).await?;
        let (mut guest, mut expected) = (None, None);
        if spec.as_is {
            let most = spec.memory / 2;
            expected = ExpectedParts::find(setup, spec, facts.virtual_size, most).await?;
            if let Goal::Object(_) = goal {
                guest = guest::guest(setup, spec, report).await?;
            }
        } else {
            report.learn(&facts);
        }
        Ok(Origin { opened, facts, guest, expected })
    }

    async fn write(
        &self,
        origin: &Origin,
        goal: &Goal,
        started: Started,
        report: &mut EncodeReport,
    ) -> Result<()> {
        let facts = &origin.facts;
        let source: Arc<dyn Source> = origin.opened.image.clone();
        let sink = Arc::clone(&started.sink);
        let (partial, part_size) = (started.partial.clone(), started.header.part_size);
        let (mut writer, done) = self.writer(started, report)?;
        writer.expected.clone_from(&origin.expected);
        let resumed = done.items.iter().map(|item| item.range.len()).sum();
        self.setup.observer.event(&RunEvent::Planned {
            virtual_size: facts.virtual_size,
            data_size: facts.allocated_size,
            resumed,
        });
        let write = async {
            writer.write(self.engine, &source, done).await?;
            writer.finish().await
        };
        let written = self.setup.stop.race(write).await;
        if written.is_err() {
            writer.save(LAST_PARTS).await;
        }
        report.sent_bytes += writer.sent;
        report.data_bytes += writer.data;
        report.resumed_bytes -= writer.resent;
        let size = written?;
        report.manifest_matched = origin.expected.is_some();
        let stop = &self.setup.stop;
        stop.race(origin.opened.expect_unchanged()).await?;
        stop.race(sink.flush(size)).await?;
        let content = std::mem::take(&mut writer.content);
        if let Some(partial) = partial {
            let location = partial.display().to_string();
            self.read_back(location, facts.virtual_size, &content, report).await?;
        }
        let parts = std::mem::take(&mut writer.parts);
        if parts.len() as u64 != size.div_ceil(part_size) {
            let text = format!("{} parts for a file of {size} bytes", parts.len());
            return Err(Error::new(Kind::Internal, text));
        }
        let guest = self.guest_content(origin.guest.as_ref(), report).await?;
        let (names, parts) = parts.into_values().map(|part| (part.name, part.digest)).unzip();
        let names: Vec<String> = names;
        let etag = stop.race(sink.finish(size, &names)).await?;
        report.file_size = Some(size);
        let made = Made { size, etag, part_size, parts, content };
        self.seal(origin, goal, guest, made, report).await
    }

    /// Looks at what was made, and writes down what it is.
    async fn seal(
        &self,
        origin: &Origin,
        goal: &Goal,
        guest: Option<ContentDigest>,
        made: Made,
        report: &mut EncodeReport,
    ) -> Result<()> {
        let facts = &origin.facts;
        let own = made.content.root(facts.virtual_size).to_hex().to_string();
        let Goal::Object(_) = goal else {
            report.digest = Some(own).filter(|_| !self.spec.as_is);
            return Ok(());
        };
        if self.spec.read_back {
            let location = self.spec.target.clone();
            self.read_back(location, facts.virtual_size, &made.content, report).await?;
        }
        if self.spec.as_is {
            let guest = origin.guest.as_ref().zip(guest.as_ref());
            return self.publish_file(guest, made, report).await;
        }
        report.digest = Some(own);
        self.publish_image(facts, made, report).await
    }

    fn writer(&self, started: Started, report: &mut EncodeReport) -> Result<(Writer, PartsDone)> {
        let Started { options, header, journal, done, sink, partial } = started;
        let (encoder, packer) = encoder(&options, header.size)?;
        report.virtual_size = Some(encoder.virtual_size());
        report.resumed_bytes += done.parts.values().map(|part| part.len).sum::<u64>();
        let indices = done.parts.keys().copied().collect();
        let assembly = Assembly::new(header.part_size, encoder.head_len(), indices);
        let parts = done.parts.clone();
        let parallel = (self.spec.memory / 4 / header.part_size).clamp(1, 16);
        let writer = Writer {
            encoder,
            packer,
            sink,
            journal,
            assembly,
            part_size: header.part_size,
            most_parts: if partial.is_some() { u64::MAX } else { MAX_PARTS },
            parallel: usize::try_from(parallel).unwrap_or(1),
            parts,
            expected: None,
            content: ContentDigest::default(),
            sent: 0,
            resent: 0,
            data: 0,
            flight: JoinSet::new(),
            again: VecDeque::new(),
        };
        Ok((writer, done))
    }

    /// Opens the result as any reader would, checks its structure, and compares every byte.
    async fn read_back(
        &self,
        location: String,
        size: u64,
        wanted: &ContentDigest,
        report: &mut EncodeReport,
    ) -> Result<()> {
        let shown = shown_location(&location);
        let wrong = |error: Error| {
            error.path(shown.clone()).remedied_by(
                "run the same command again with --force; if it happens again, look for the fault \
                 in the memory, the network and the store",
            )
        };
        match self.look_back(location, size, wanted).await {
            Ok(true) => report.read_back = true,
            Ok(false) => {
                let text = "what was written reads differently than the image";
                return Err(wrong(Error::new(Kind::Mismatch, text)));
            }
            Err(error) if is_no_image(&error) => {
                let text = "what was written is no whole image";
                return Err(wrong(Error::new(Kind::Mismatch, text).caused_by(error)));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether the image at `location` holds what is wanted.
    async fn look_back(&self, location: String, size: u64, wanted: &ContentDigest) -> Result<bool> {
        let stop = &self.setup.stop;
        let format = Some(read_as(self.spec.output.format));
        let spec = ImageSpec { format, ..ImageSpec::at(location) };
        let result = stop.race(image::open(self.setup, &spec)).await?;
        stop.race(result.image.check(&Limits::default())).await.map(drop)?;
        let found_size = result.image.size();
        let whole = ByteRange::whole(size.min(found_size));
        let found = content::sparse(self.setup, result.image, whole, self.spec.memory / 2).await?;
        Ok(found_size >= size && found == *wanted)
    }
}

/// Whether the error says that a file is not what an image has to be.
fn is_no_image(error: &Error) -> bool {
    use Kind::{Corrupt, Encrypted, Limit, Truncated, Unsafe, Unsupported};
    matches!(error.kind(), Corrupt | Encrypted | Limit | Truncated | Unsafe | Unsupported)
}

/// The format to open the result as.
pub(super) const fn read_as(format: OutputFormat) -> Format {
    match format {
        OutputFormat::Raw => Format::Raw,
        OutputFormat::Qcow2 => Format::Qcow2,
        OutputFormat::VhdFixed | OutputFormat::VhdDynamic => Format::Vhd,
        OutputFormat::VmdkSparse | OutputFormat::VmdkStream => Format::Vmdk,
    }
}
