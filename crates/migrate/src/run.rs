//! A migration from the first look to the report.

use crate::job::{Continued, Earlier, Job};
use crate::prepare::{Prepared, prepare};
use crate::target::{self, OpenTarget};
use crate::watchdog::{Pulse, Watchdog};
use crate::{JobSpec, Report, RunEvent, Setup, Verify, precheck, system};
use carreto_block::{ByteRange, Source, Target};
use carreto_error::{Error, Kind, Result, ResultExt as _, chain_text};
use carreto_transfer::{
    Body, CHUNK, ContentDigest, Copied, CopyOptions, Engine, Journal, Phase, RangeSet, Resumed,
    copy, verify,
};
use std::sync::Arc;
use tokio::time::Instant;

/// The first bytes of the disk: partition table and boot code. They are written last, after
/// everything else was flushed and verified, so that a half-done disk never boots.
const HEAD: u64 = 1 << 20;

/// Runs a migration to its end. The report is there whatever the outcome, and is also written
/// into the state directory once the job owns its lock.
///
/// Rerunning the same job resumes. Not cancel safe: use [`carreto_transfer::Stop`] to end it; a
/// dropped future leaves a target that a rerun completes.
///
/// # Errors
/// Before the first write: what is wrong with the image (`Corrupt`, `Truncated`, `Unsupported`,
/// `Encrypted`, `Unsafe`, `Limit`, …), `TargetTooSmall`, `TargetUnusable`, `Usage` for an
/// unconfirmed device, `Locked`, `SourceChanged` since an interrupted run. Later: `Io`,
/// `Unavailable`, `Corrupt` data, `Mismatch`, `SourceChanged`, `Timeout`, `Cancelled`.
pub async fn migrate(setup: &Setup, spec: &JobSpec) -> (Report, Result<()>) {
    let begin = Instant::now();
    let mut report = Report::begin(spec, system::now());
    let pulse = Arc::new(Pulse::new(Arc::clone(&setup.observer)));
    let setup = Setup { observer: pulse.clone(), ..setup.clone() };
    let _watchdog =
        Watchdog::start(setup.stop.clone(), pulse.clone(), spec.timeout, spec.stall_timeout);
    let engine = setup.engine(CopyOptions {
        memory: spec.memory,
        rate: spec.limit_rate,
        digest: spec.verify == Verify::Full,
        ..CopyOptions::default()
    });
    let (job, outcome) = match begin_run(&setup, spec, &mut report).await {
        Ok((prepared, job)) => {
            let run = Run { setup: &setup, spec, engine: &engine, prepared: &prepared, job: &job };
            let outcome = run.execute(&mut report).await;
            (Some(job), outcome)
        }
        Err(error) => (None, Err(error)),
    };
    report.take_counters(engine.counters());
    report.copied.retries = pulse.retries();
    report.end(begin.elapsed().as_secs_f64(), &outcome, setup.stop.exit_code());
    // The disk is what it is, with or without a report about it.
    if let Some(Err(error)) = job.map(|job| job.write_report(&report)) {
        let text = format!("the report could not be kept: {}", chain_text(&error));
        setup.note(&text);
        report.warn("report_not_kept", text);
    }
    (report, outcome)
}

async fn begin_run(setup: &Setup, spec: &JobSpec, report: &mut Report) -> Result<(Prepared, Job)> {
    let prepared = setup.stop.race(prepare(setup, spec)).await?;
    precheck::confirmed(spec, &prepared.target)?;
    report.format = Some(prepared.facts.format);
    report.virtual_size = Some(prepared.facts.virtual_size);
    report.target_size = prepared.target.size;
    report.warnings.clone_from(&prepared.facts.warnings);
    report.verify.manifest_matched = prepared.expectation.as_ref().map(|_| false);
    if prepared.expectation.is_some() && spec.verify == Verify::None {
        let text = "without verification nothing is compared with the manifest beside the image";
        report.warn("manifest_not_checked", text);
    }
    let job = Job::lock(spec)?.with_export(prepared.target.export_identity(), spec)?;
    Ok((prepared, job))
}

struct Run<'r> {
    setup: &'r Setup,
    spec: &'r JobSpec,
    engine: &'r Engine,
    prepared: &'r Prepared,
    job: &'r Job,
}

impl Run<'_> {
    async fn execute(&self, report: &mut Report) -> Result<()> {
        let (target, continued) = self.open_target(report)?;
        report.target_size = Some(target.size());
        report.copied.resumed_bytes = continued.resumed.done.total();
        report.copied.resent_bytes = continued.resumed.resent;
        let journal = Arc::new(continued.journal);
        let moved = self.move_disk(&target, &journal, continued.resumed, report).await;
        if let Err(error) = moved {
            self.settle_export(&target, &journal).await;
            // Without it nothing is resumed that is not verified, which is safe.
            let _safe = self.remember_target(&journal);
            return Err(self.explain(error));
        }
        if let Err(error) = self.job.forget() {
            let text = format!("the journal could not be removed: {}", chain_text(&error));
            self.setup.note(&text);
            report.warn("journal_not_removed", text);
        }
        Ok(())
    }

    async fn move_disk(
        &self,
        target: &Arc<dyn Target>,
        journal: &Arc<Journal>,
        resumed: Resumed,
        report: &mut Report,
    ) -> Result<()> {
        self.setup.stop.check()?;
        // A run that ended badly may have left any part of the head, also a file that it created.
        if !resumed.untouched {
            self.wipe_head(target.as_ref(), Some(journal)).await?;
        }
        self.setup.stop.race(self.announce(&resumed.done)).await?;
        let mut digest = ContentDigest::default();
        digest.extend(resumed.digests);
        let size = self.prepared.facts.virtual_size;
        let (head, body) = ByteRange::whole(size).split_at(HEAD);
        let work = Body {
            done: resumed.done,
            known_zero: resumed.blank,
            ..self.body(target, body, Phase::Copy)
        };
        let copied = self.copy(&work, Some(Arc::clone(journal))).await?;
        digest.extend(copied.digest.iter());
        self.verify(target, body, &digest, Some(journal.as_ref())).await?;
        self.expect_unchanged().await?;
        self.finish(target, head, &mut digest).await?;
        if self.spec.verify == Verify::Full {
            report.verify.digest = Some(digest.root(size).to_hex().to_string());
            report.verify.manifest_matched = self.prepared.expectation.as_ref().map(|_| true);
        }
        Ok(())
    }

    /// Opens or creates the target and continues or begins the journal.
    fn open_target(&self, report: &mut Report) -> Result<(Arc<dyn Target>, Continued)> {
        let mut state = self.prepared.state(self.spec)?;
        if self.spec.restart {
            self.job.forget()?;
        }
        let earlier = Earlier::find(&self.job.journal_path(), &state)?;
        let boot = state.boot.clone();
        let OpenTarget { target, identity, created } =
            target::open(&self.spec.target, &self.prepared.target, state.size)?;
        self.job.supersede(&identity)?;
        let continued = match earlier {
            Earlier::Fits => self.job.resume(&boot)?,
            Earlier::Nothing | Earlier::Discarded(_) => {
                if let Earlier::Discarded(reason) = earlier {
                    self.setup.note(format!("the copy begins again from the start: {reason}"));
                }
                state.target = Some(identity);
                self.job.begin(state, created)?
            }
        };
        let resumed = continued.resumed.done.total() > 0;
        if resumed && self.spec.verify == Verify::None {
            let text = "what an earlier run wrote was not read back: \
                        what others wrote to the target since may go unnoticed without verification";
            report.warn("resumed_unverified", text);
        }
        Ok((target, continued))
    }

    /// Notes the state in which a run leaves a file, by which a later one sees whether others
    /// wrote to it.
    fn remember_target(&self, journal: &Journal) -> Result<()> {
        match target::mark(&self.spec.target, &self.prepared.target)? {
            Some(mark) if self.spec.verify == Verify::None => journal.target_mark(&mark),
            _ => Ok(()),
        }
    }

    /// What a run that failed wrote to an export counts only when it is flushed; after a
    /// connection that broke it never will be.
    async fn settle_export(&self, target: &Arc<dyn Target>, journal: &Journal) {
        let state = &self.prepared.target;
        if state.export.is_none() {
            return;
        }
        let mark = journal.mark();
        let flushed = !state.is_interrupted() && self.engine.flush(target.as_ref()).await.is_ok();
        // A journal that cannot be written counts for what was flushed before.
        let _safe = if flushed { journal.flushed(mark) } else { journal.doubted() };
    }

    /// A failed system call on a device that is no longer there is no fault of the device.
    fn explain(&self, error: Error) -> Error {
        let io = error.kind() == Kind::Io && self.prepared.target.is_device();
        if !io || !target::is_gone(&self.spec.target) {
            return error;
        }
        Error::new(Kind::TargetUnusable, "the device is gone")
            .path(&self.prepared.target.path)
            .remedied_by("attach the device again, and run the same command again: it resumes")
            .caused_by(error)
    }

    async fn announce(&self, done: &RangeSet) -> Result<()> {
        let resumed = self.prepared.mapped_size(self.setup, done).await?;
        if resumed > 0 {
            self.setup.note(format!("resuming: {resumed} bytes of data are on the target already"));
        }
        self.setup.observer.event(&RunEvent::Planned {
            virtual_size: self.prepared.facts.virtual_size,
            data_size: self.prepared.facts.allocated_size,
            resumed,
        });
        Ok(())
    }

    fn body(&self, target: &Arc<dyn Target>, range: ByteRange, phase: Phase) -> Body {
        let source: Arc<dyn Source> = self.prepared.opened.image.clone();
        let size = source.size();
        let expected = self.prepared.expectation.as_ref().and_then(|known| known.expected(size));
        Body { range, phase, expected, ..Body::whole(source, Arc::clone(target)) }
    }

    async fn copy(&self, work: &Body, journal: Option<Arc<Journal>>) -> Result<Copied> {
        let copied = copy(self.engine, work, journal).await;
        // The only comparison that a copy makes is the one with what is expected.
        copied.map_err(|error| match &self.prepared.expectation {
            Some(known) if error.kind() == Kind::Mismatch => known.explain(error),
            _ => error,
        })
    }

    /// Makes sure that an old disk does not boot, or look whole, while it is being replaced.
    async fn wipe_head(&self, target: &dyn Target, journal: Option<&Arc<Journal>>) -> Result<()> {
        let head = ByteRange::whole(self.prepared.facts.virtual_size).take(HEAD);
        target.write_zeroes(head).await?;
        let flushed = self.engine.flush(target).await;
        if flushed.is_err() {
            journal.map_or(Ok(()), |journal| journal.doubted())?;
        }
        flushed.wrap_err(|| "wipe the partition table".into())
    }

    async fn verify(
        &self,
        target: &Arc<dyn Target>,
        range: ByteRange,
        digest: &ContentDigest,
        journal: Option<&Journal>,
    ) -> Result<()> {
        if self.spec.verify == Verify::None {
            return Ok(());
        }
        let reader = target.reader().await?;
        let wanted = Arc::new(digest.clone());
        let differing = verify(self.engine, reader, range, wanted).await?;
        let Some(first) = differing.iter().next() else {
            return Ok(());
        };
        if let Some(journal) = journal {
            for range in differing.iter() {
                journal.undone(range)?;
            }
            journal.sync()?;
        }
        Err(mismatch(target.as_ref(), first, &differing))
    }

    async fn expect_unchanged(&self) -> Result<()> {
        self.setup.stop.race(self.prepared.opened.expect_unchanged()).await
    }

    /// Writes and verifies the head; wipes it again whatever goes wrong.
    async fn finish(
        &self,
        target: &Arc<dyn Target>,
        head: ByteRange,
        digest: &mut ContentDigest,
    ) -> Result<()> {
        let Err(error) = self.write_head(target, head, digest).await else {
            return Ok(());
        };
        match self.wipe_head(target.as_ref(), None).await {
            Ok(()) => Err(error),
            Err(wiping) => {
                let text = format!("the first MiB could not be wiped ({})", chain_text(&wiping));
                Err(error.wrap(text))
            }
        }
    }

    async fn write_head(
        &self,
        target: &Arc<dyn Target>,
        head: ByteRange,
        digest: &mut ContentDigest,
    ) -> Result<()> {
        let work = Body { known_zero: false, ..self.body(target, head, Phase::Finish) };
        let copied = self.copy(&work, None).await?;
        self.verify(target, head, &copied.digest, None).await?;
        self.expect_unchanged().await?;
        digest.extend(copied.digest.iter());
        if let Some(known) = self.prepared.expectation.as_ref().filter(|_| self.is_verified()) {
            let image = self.prepared.opened.image.as_ref();
            self.setup.stop.race(known.check(image, digest)).await?;
        }
        Ok(())
    }

    fn is_verified(&self) -> bool {
        self.spec.verify == Verify::Full
    }
}

fn mismatch(target: &dyn Target, first: ByteRange, differing: &RangeSet) -> Error {
    let count: u64 = differing.iter().map(|range| range.len().div_ceil(CHUNK)).sum();
    let first = first.take(CHUNK);
    let text = format!(
        "{count} chunks differ from the image; the first is {first}; \
         they will be copied again by the next run"
    );
    Error::new(Kind::Mismatch, text)
        .during("verify the content")
        .path(target.name())
        .offset(first.start())
        .remedied_by(
            "run the same command again: it copies what differs; if it happens again, run with \
             --restart and test the target disk",
        )
}
