//! A run from the first look to the report.

use super::assembly::Assembly;
use super::manifest;
use super::spec::{EncodeReport, EncodeSpec};
use super::start::{Goal, Start, Started, remove};
use super::writer::Writer;
use crate::image::{self, Opened};
use crate::inspect::{self, ImageFacts};
use crate::job::Job;
use crate::watchdog::{Pulse, Watchdog};
use crate::{ImageSpec, RunEvent, Setup};
use carreto_block::{ByteRange, Source};
use carreto_error::{Error, Kind, Result};
use carreto_formats::write::{OutputFormat, encoder};
use carreto_formats::{Format, Limits};
use carreto_transfer::{
    ContentDigest, CopyOptions, Engine, PartsDone, Piece, chunk_digests_of, scan_ordered,
};
use std::collections::VecDeque;
use std::sync::Arc;
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
        // The other half is for parts on their way.
        memory: spec.memory / 2,
        rate: spec.limit_rate,
        digest: false,
        ..CopyOptions::default()
    });
    let run = Run { setup: &setup, spec, engine: &engine };
    let mut outcome = run.execute(&mut report, spec.restart).await;
    if outcome.as_ref().is_err_and(|error| error.kind() == Kind::NotFound)
        && report.file_size.is_none()
        && report.sent_bytes + report.resumed_bytes > 0
    {
        setup.note("the store has forgotten the upload; everything is sent again");
        outcome = run.execute(&mut report, true).await;
    }
    report.retries = pulse.retries();
    report.end(begin.elapsed().as_secs_f64(), &outcome);
    (report, outcome)
}

struct Run<'r> {
    setup: &'r Setup,
    spec: &'r EncodeSpec,
    engine: &'r Engine,
}

impl Run<'_> {
    async fn execute(&self, report: &mut EncodeReport, restart: bool) -> Result<()> {
        let stop = &self.setup.stop;
        let opened = stop.race(image::open(self.setup, &self.spec.image)).await?;
        let (image, location) = (opened.image.as_ref(), &self.spec.image.location);
        let facts = stop.race(inspect::facts(self.setup, location, image)).await?;
        report.learn(&facts, self.spec.as_is);
        let job = Job::lock_encode(self.spec)?;
        let path = job.parts_path();
        let goal = Goal::of(self.setup, &self.spec.target)?;
        goal.expect_other(&opened)?;
        let stamp = image.stamp().await?.0;
        let (size, allocated) = (facts.virtual_size, facts.allocated_size);
        let start = Start { spec: self.spec, goal: &goal, path: &path, size, allocated };
        let started = start.find(&stamp, restart, self.setup);
        let started = stop.race(started).await?;
        self.write(&opened, &facts, &goal, started, report).await?;
        remove(&path)
    }

    async fn write(
        &self,
        opened: &Opened,
        facts: &ImageFacts,
        goal: &Goal,
        started: Started,
        report: &mut EncodeReport,
    ) -> Result<()> {
        let source: Arc<dyn Source> = opened.image.clone();
        let sink = Arc::clone(&started.sink);
        let (partial, part_size) = (started.partial.clone(), started.header.part_size);
        let (mut writer, done) = self.writer(started, report)?;
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
        let size = written?;
        let stop = &self.setup.stop;
        stop.race(opened.expect_unchanged()).await?;
        stop.race(sink.flush(size)).await?;
        if let Some(partial) = partial {
            let location = partial.display().to_string();
            self.read_back(location, facts.virtual_size, &writer.content, report).await?;
        }
        let names: Vec<String> = std::mem::take(&mut writer.names).into_values().collect();
        if names.len() as u64 != size.div_ceil(part_size) {
            let text = format!("{} parts for a file of {size} bytes", names.len());
            return Err(Error::new(Kind::Internal, text));
        }
        stop.race(sink.finish(size, &names)).await?;
        report.file_size = Some(size);
        report.digest = Some(writer.content.root(facts.virtual_size).to_hex().to_string());
        if let Goal::Object(_) = goal {
            if self.spec.read_back {
                let location = self.spec.target.clone();
                self.read_back(location, facts.virtual_size, &writer.content, report).await?;
            }
            // The digest of a file that goes as it is says nothing about what a guest sees.
            if !self.spec.as_is {
                manifest::put(self.setup, self.spec, report, facts, &writer.content).await?;
            }
        }
        Ok(())
    }

    fn writer(&self, started: Started, report: &mut EncodeReport) -> Result<(Writer, PartsDone)> {
        let Started { options, header, journal, done, sink, .. } = started;
        let (encoder, packer) = encoder(&options, header.size)?;
        report.virtual_size = Some(encoder.virtual_size());
        report.resumed_bytes += done.parts.values().map(|part| part.len).sum::<u64>();
        let indices = done.parts.keys().copied().collect();
        let assembly = Assembly::new(header.part_size, encoder.head_len(), indices);
        let names = done.parts.iter().map(|(index, part)| (*index, part.name.clone())).collect();
        let parallel = (self.spec.memory / 2 / header.part_size).clamp(1, 16);
        let writer = Writer {
            encoder,
            packer,
            sink,
            journal,
            assembly,
            part_size: header.part_size,
            parallel: usize::try_from(parallel).unwrap_or(1),
            names,
            content: ContentDigest::default(),
            sent: 0,
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
        let stop = &self.setup.stop;
        let format = Some(read_as(self.spec.output.format));
        let spec = ImageSpec { format, ..ImageSpec::at(location) };
        let result = stop.race(image::open(self.setup, &spec)).await?;
        stop.race(result.image.check(&Limits::default())).await.map(drop)?;
        let mut found = ContentDigest::default();
        let mut at = 0;
        let options =
            CopyOptions { digest: false, memory: self.spec.memory / 2, ..CopyOptions::default() };
        let engine = Engine::new(options).stopped_by(stop.clone());
        let source: Arc<dyn Source> = result.image;
        let range = ByteRange::whole(size).take(source.size());
        scan_ordered(&engine, source, range, |piece| {
            self.setup.alive();
            at += match piece {
                Piece::Zero(len) => len,
                Piece::Data(bytes) => {
                    found.extend(chunk_digests_of(at, bytes));
                    bytes.len() as u64
                }
            };
            Ok(())
        })
        .await?;
        if at != size || found != *wanted {
            let text = "what was written reads differently than the image";
            return Err(Error::new(Kind::Mismatch, text).path(spec.location));
        }
        report.read_back = true;
        Ok(())
    }
}

/// The format to open the result as.
const fn read_as(format: OutputFormat) -> Format {
    match format {
        OutputFormat::Raw => Format::Raw,
        OutputFormat::Qcow2 => Format::Qcow2,
        OutputFormat::VhdFixed | OutputFormat::VhdDynamic => Format::Vhd,
        OutputFormat::VmdkSparse | OutputFormat::VmdkStream => Format::Vmdk,
    }
}
