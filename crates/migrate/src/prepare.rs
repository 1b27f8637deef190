//! Everything that is known before the first write.

use crate::image::{self, Opened};
use crate::inspect::{self, ImageFacts};
use crate::job::{Earlier, Job, JobState, job_text};
use crate::manifest::{self, Expectation};
use crate::target::{self, Place, TargetState};
use crate::{JobSpec, Setup, Verify, precheck};
use carreto_error::Result;
use carreto_transfer::{Journal, RangeSet};
use serde::Serialize;

/// What a migration would do.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The version of this document.
    pub schema_version: u32,
    /// The image.
    pub image: ImageFacts,
    /// The target.
    pub target: TargetState,
    /// Bytes of data that would be read and written, without what an interrupted run has done.
    pub data_bytes: u64,
    /// Bytes of the disk that an interrupted run has done already.
    pub resumed_bytes: u64,
    /// How the result would be verified.
    pub verify: &'static str,
    /// The target is a block device or an export, so the run has to be confirmed (`--yes`).
    pub needs_yes: bool,
}

/// An image and a target that passed all checks.
pub(crate) struct Prepared {
    pub(crate) opened: Opened,
    pub(crate) facts: ImageFacts,
    pub(crate) stamp: String,
    pub(crate) target: TargetState,
    /// What the image was when it was uploaded, where that was written down.
    pub(crate) expectation: Option<Expectation>,
}

/// Does all pre-checks but for the confirmation, and says what [`crate::migrate`] would do.
/// Writes nothing at all, neither to the target nor into the state directory.
///
/// Cancel safe.
///
/// # Errors
/// As [`crate::migrate`], for everything that is decided before the first write; `Cancelled` or
/// `Timeout` when `setup` was stopped.
pub async fn plan(setup: &Setup, spec: &JobSpec) -> Result<Plan> {
    setup.stop.race(plan_whole(setup, spec)).await
}

async fn plan_whole(setup: &Setup, spec: &JobSpec) -> Result<Plan> {
    let prepared = prepare(setup, spec).await?;
    let journal = Job::journal_of(spec);
    let state = prepared.state(spec)?;
    let earlier = if spec.restart { Earlier::Nothing } else { Earlier::find(&journal, &state)? };
    let resumed = match earlier {
        Earlier::Fits => Journal::peek_done(&journal, &state.boot)?,
        Earlier::Nothing | Earlier::Discarded(_) => RangeSet::default(),
    };
    let done = prepared.mapped_size(setup, &resumed).await?;
    Ok(Plan {
        schema_version: 1,
        data_bytes: prepared.facts.allocated_size.saturating_sub(done),
        image: prepared.facts,
        needs_yes: prepared.target.is_disk(),
        target: prepared.target,
        resumed_bytes: resumed.total(),
        verify: spec.verify.name(),
    })
}

/// Looks at the image and the target. Cancel safe.
pub(crate) async fn prepare(setup: &Setup, spec: &JobSpec) -> Result<Prepared> {
    let place = Place::of(&spec.target)?;
    let opened = image::open(setup, &spec.image).await?;
    let image = opened.image.as_ref();
    let stamp = image.stamp().await?.0;
    let mut facts = inspect::facts(setup, &spec.image.location, image).await?;
    facts.warnings.extend(precheck::role(spec, image).await?);
    let (expectation, doubt) = manifest::expectation(setup, &spec.image, &facts).await?;
    facts.warnings.extend(doubt);
    opened.expect_unchanged().await?;
    let target = place.inspect(setup).await?;
    precheck::not_the_image(&target, &opened)?;
    let known = precheck::zeroes_are_known(image, &facts, &stamp);
    facts.warnings.extend(precheck::target(&target, &facts, known)?);
    Ok(Prepared { opened, facts, stamp, target, expectation })
}

impl Prepared {
    /// What a journal must agree with.
    pub(crate) fn state(&self, spec: &JobSpec) -> Result<JobState> {
        Ok(JobState {
            job: job_text(spec),
            source: self.stamp.clone(),
            target: self.target.identity.clone(),
            target_mark: target::mark(&spec.target, &self.target)?,
            target_written: std::fs::metadata(&spec.target).and_then(|m| m.modified()).ok(),
            size: self.facts.virtual_size,
            boot: self.target.trusted_while(),
            verified: spec.verify == Verify::Full,
        })
    }

    /// Bytes of `ranges` that the image has data for.
    pub(crate) async fn mapped_size(&self, setup: &Setup, ranges: &RangeSet) -> Result<u64> {
        let mut mapped = 0;
        for range in ranges.iter() {
            mapped += inspect::mapped_size_in(setup, self.opened.image.as_ref(), range).await?;
        }
        Ok(mapped)
    }
}
