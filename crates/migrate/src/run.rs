//! A migration from the first look to the report.

use crate::inspect::{self, ImageFacts};
use crate::job::{Continued, Job, JobState, job_text};
use crate::target::{self, OpenTarget, TargetState};
use crate::watchdog::{Pulse, Watchdog};
use crate::{JobSpec, Report, RunEvent, Setup, Status, Verify, image, precheck, system};
use carreto_block::{ByteRange, Source, Target};
use carreto_error::{Error, Kind, Result, ResultExt as _};
use carreto_formats::Image;
use carreto_transfer::{
    Body, ContentDigest, CopyOptions, Engine, Journal, Phase, RangeSet, copy, verify,
};
use serde::Serialize;
use std::sync::Arc;
use tokio::time::Instant;

/// The first bytes of the disk: partition table and boot code. They are written last, after
/// everything else was flushed and verified, so that a half-done disk never boots.
const HEAD: u64 = 1 << 20;

/// What a migration would do.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The version of this document.
    pub schema_version: u32,
    /// The image.
    pub image: ImageFacts,
    /// The target.
    pub target: TargetState,
    /// Bytes of data that would be read and written.
    pub data_bytes: u64,
    /// Bytes of the disk that an interrupted run has done already.
    pub resumed_bytes: u64,
    /// How the result would be verified.
    pub verify: &'static str,
}

/// Everything that is known before the first write.
struct Prepared {
    image: Arc<dyn Image>,
    facts: ImageFacts,
    stamp: String,
    target: TargetState,
}

/// Does all pre-checks and says what [`migrate`] would do. Writes nothing to the target.
///
/// Cancel safe.
///
/// # Errors
/// As [`migrate`], for everything that is decided before the first write.
pub async fn plan(setup: &Setup, spec: &JobSpec) -> Result<Plan> {
    let prepared = prepare(setup, spec).await?;
    let job = Job::lock(spec)?;
    let earlier = if spec.restart { None } else { job.earlier(&prepared.state(spec))? };
    let resumed = match earlier {
        Some(_) => Journal::peek_done(&job.journal_path(), &system::boot_id())?,
        None => RangeSet::default(),
    };
    Ok(Plan {
        schema_version: 1,
        data_bytes: prepared.facts.allocated_size,
        image: prepared.facts,
        target: prepared.target,
        resumed_bytes: resumed.total(),
        verify: spec.verify.name(),
    })
}

/// Runs a migration to its end. The report is there whatever the outcome, and is also written
/// into the state directory once the job owns its lock.
///
/// Rerunning the same job resumes. Not cancel safe: use [`carreto_transfer::Stop`] to end it; a
/// dropped future leaves a target that looks unfinished and that a rerun completes.
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
    let (job, mut outcome) = match begin_run(&setup, spec, &mut report).await {
        Ok((prepared, job)) => {
            let run = Run { setup: &setup, spec, engine: &engine, prepared: &prepared, job: &job };
            let outcome = run.execute(&mut report).await;
            (Some(job), outcome)
        }
        Err(error) => (None, Err(error)),
    };
    report.take_counters(engine.counters());
    report.copied.retries = pulse.retries();
    report.end(begin.elapsed().as_secs_f64(), &outcome);
    if let Some(job) = job {
        let written = job.write_report(&report);
        outcome = outcome.and(written);
    }
    (report, outcome)
}

async fn begin_run(setup: &Setup, spec: &JobSpec, report: &mut Report) -> Result<(Prepared, Job)> {
    let prepared = tokio::select! {
        () = setup.stop.requested() => return Err(setup.stop.error()),
        prepared = prepare(setup, spec) => prepared?,
    };
    report.format = Some(prepared.facts.format);
    report.virtual_size = Some(prepared.facts.virtual_size);
    report.target_size = prepared.target.size;
    report.warnings.clone_from(&prepared.facts.warnings);
    let job = Job::lock(spec)?;
    Ok((prepared, job))
}

async fn prepare(setup: &Setup, spec: &JobSpec) -> Result<Prepared> {
    let opened = image::open(setup, &spec.image).await?;
    let stamp = opened.image.stamp().await?.0;
    let mut facts = inspect::facts(&spec.image.location, opened.image.as_ref()).await?;
    facts.warnings.extend(precheck::role(spec, opened.image.as_ref()).await?);
    let target = target::inspect(&spec.target)?;
    precheck::not_the_image(&target, opened.image.as_ref()).await?;
    precheck::target(spec, &target, &facts)?;
    Ok(Prepared { image: opened.image, facts, stamp, target })
}

impl Prepared {
    fn state(&self, spec: &JobSpec) -> JobState {
        JobState {
            job: job_text(spec),
            source: self.stamp.clone(),
            target: self.target.identity.clone(),
            size: self.facts.virtual_size,
            boot: system::boot_id(),
            verified: spec.verify == Verify::Full,
        }
    }
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
        let (target, continued) = self.open_target()?;
        report.target_size = Some(target.size());
        report.copied.resumed_bytes = continued.resumed.done.total();
        report.copied.resent_bytes = continued.resumed.resent;
        self.announce(&continued).await?;
        let journal = Arc::new(continued.journal);
        let fresh = continued.resumed.done.total() == 0;
        if fresh && !continued.resumed.blank {
            self.wipe_head(target.as_ref()).await?;
        }
        let mut digest = ContentDigest::default();
        digest.extend(continued.resumed.digests);
        let size = self.prepared.facts.virtual_size;
        let (head, body) = ByteRange::whole(size).split_at(HEAD);
        let work = Body {
            done: continued.resumed.done,
            known_zero: continued.resumed.blank,
            ..self.body(&target, body, Phase::Copy)
        };
        let copied = copy(self.engine, &work, Some(journal.clone())).await?;
        digest.extend(copied.digest.iter());
        self.verify(&target, body, &digest, Some(journal.as_ref())).await?;
        self.expect_unchanged().await?;
        self.finish(&target, head, &mut digest).await?;
        if self.spec.verify == Verify::Full {
            report.verify.digest = Some(digest.root(size).to_hex().to_string());
        }
        self.job.forget()
    }

    /// Opens or creates the target and continues or begins the journal.
    fn open_target(&self) -> Result<(Arc<dyn Target>, Continued)> {
        let mut state = self.prepared.state(self.spec);
        if self.spec.restart {
            self.job.forget()?;
        }
        let earlier = self.job.earlier(&state)?;
        let boot = state.boot.clone();
        let OpenTarget { target, identity, created } =
            target::open(&self.spec.target, &self.prepared.target, state.size)?;
        self.job.supersede(&identity)?;
        let continued = if earlier.is_some() {
            self.job.resume(&boot)?
        } else {
            state.target = Some(identity);
            self.job.begin(state, created)?
        };
        Ok((target, continued))
    }

    async fn announce(&self, continued: &Continued) -> Result<()> {
        let image = self.prepared.image.as_ref();
        let mut resumed = 0;
        for range in continued.resumed.done.iter() {
            resumed += inspect::mapped_size_in(image, range).await?;
        }
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
        let source: Arc<dyn Source> = self.prepared.image.clone();
        Body { range, phase, ..Body::whole(source, Arc::clone(target)) }
    }

    /// Makes sure that an old disk does not boot, or look whole, while it is being replaced.
    async fn wipe_head(&self, target: &dyn Target) -> Result<()> {
        let head = ByteRange::whole(target.size()).take(HEAD);
        target.write_zeroes(head).await?;
        target.flush().await.wrap_err(|| "wipe the partition table".into())
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
        for chunk in &differing {
            journal.map_or(Ok(()), |journal| journal.undone(*chunk))?;
        }
        match differing.first() {
            None => Ok(()),
            Some(first) => Err(mismatch(target.as_ref(), *first, differing.len())),
        }
    }

    async fn expect_unchanged(&self) -> Result<()> {
        let now = self.prepared.image.stamp().await?;
        if now.0 == self.prepared.stamp {
            return Ok(());
        }
        Err(image::changed(&self.spec.image.location))
    }

    /// Writes and verifies the head; wipes it again when it does not verify.
    async fn finish(
        &self,
        target: &Arc<dyn Target>,
        head: ByteRange,
        digest: &mut ContentDigest,
    ) -> Result<()> {
        let work = Body { known_zero: false, ..self.body(target, head, Phase::Finish) };
        let copied = copy(self.engine, &work, None).await?;
        let verified = self.verify(target, head, &copied.digest, None).await;
        if verified.is_err() {
            self.wipe_head(target.as_ref()).await?;
        }
        digest.extend(copied.digest.iter());
        verified
    }
}

fn mismatch(target: &dyn Target, first: ByteRange, count: usize) -> Error {
    let text = format!(
        "{count} chunks differ from the image; the first is {first}; \
         they will be copied again by the next run"
    );
    Error::new(Kind::Mismatch, text)
        .during("verify the content")
        .path(target.name())
        .offset(first.start())
        .remedied_by("run the same command again; if it happens again, test the target disk")
}

impl Report {
    fn end(&mut self, elapsed: f64, outcome: &Result<()>) {
        self.finished = system::now();
        self.elapsed_seconds = elapsed;
        self.copied.data_bytes_per_second = self.copied.data_bytes as f64 / elapsed.max(1e-9);
        self.status = if outcome.is_ok() { Status::Done } else { Status::Failed };
        self.error = outcome.as_ref().err().map(crate::ErrorReport::from);
    }
}
