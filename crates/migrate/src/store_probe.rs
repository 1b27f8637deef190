//! What a store can do, found out by doing it.

use crate::{Setup, image};
use carreto_error::Result;
use carreto_store::{Finding, StorePlace, StoreProbe};
use serde::Serialize;

/// What a store can do.
#[derive(Debug, Clone, Serialize)]
pub struct ProbeReport {
    /// The version of this document.
    pub schema_version: u32,
    /// The place, free of secrets.
    pub store: String,
    /// In the order of the steps.
    pub findings: Vec<ProbeFinding>,
    /// What could not be removed again.
    pub left: Vec<String>,
}

/// The outcome of a step.
#[derive(Debug, Clone, Serialize)]
pub struct ProbeFinding {
    /// The step.
    pub name: &'static str,
    /// `yes`, `no`, `ignored`, `denied` or `not tested`.
    pub result: &'static str,
    /// What the server said, or how much.
    pub detail: String,
}

/// Every step, in the order of the report.
const STEPS: [&str; 22] = [
    "write",
    "head",
    "range",
    "range_suffix",
    "read_if_match",
    "write_if_none_match",
    "write_if_match",
    "put_crc64nvme",
    "put_sha256",
    "multipart",
    "list_uploads",
    "list_parts",
    "abort",
    "small_parts_refused",
    "complete_again",
    "part_crc64nvme",
    "part_sha256",
    "etag_md5",
    "etag_parts",
    "versioning",
    "clock",
    "removed",
];

/// Tries what the store at `place` can do, under a random key, and removes what it made, also when
/// it is stopped.
///
/// # Errors
/// `Usage` or `Unsupported` for the place; `Denied`, `NotFound` or `Unavailable` when nothing
/// could be tried. The report is there unless the place is wrong.
pub async fn store_probe(setup: &Setup, place: &str) -> Result<(ProbeReport, Result<()>)> {
    let place: StorePlace = place.parse()?;
    let probe = StoreProbe::new(&image::stores(setup).admin(&place)?);
    let outcome = setup.stop.race(probe.run()).await;
    let left = probe.clean_up().await;
    let found = probe.findings();
    let mut findings: Vec<ProbeFinding> = STEPS.iter().map(|name| finding(name, &found)).collect();
    if let Some(last) = findings.last_mut().filter(|_| !found.is_empty()) {
        last.result = if left.is_empty() { "yes" } else { "no" };
    }
    let report = ProbeReport { schema_version: 1, store: place.to_string(), findings, left };
    Ok((report, outcome))
}

fn finding(name: &'static str, found: &[Finding]) -> ProbeFinding {
    let step = found.iter().find(|finding| finding.name == name);
    ProbeFinding {
        name,
        result: step.map_or("not tested", |step| step.verdict.name()),
        detail: step.map(|step| step.detail.clone()).unwrap_or_default(),
    }
}
