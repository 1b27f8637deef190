//! What to make of an image, and what came of it.

use crate::{ErrorReport, ImageFacts, ImageSpec, Status, WarningFacts, shown_location};
use carreto_error::Result;
use carreto_formats::write::WriteOptions;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// An image, and the file to make of it.
#[expect(clippy::struct_excessive_bools, reason = "each is a wish of its own")]
#[derive(Debug, Clone)]
pub struct EncodeSpec {
    /// What is read.
    pub image: ImageSpec,
    /// A path, or the URL of an object.
    pub target: String,
    /// The format to write. Identity and time of creation are drawn by the job.
    pub output: WriteOptions,
    /// The bytes of the source file are what is wanted, whatever they mean; how to open it as an
    /// image counts for the digest of its content only.
    pub as_is: bool,
    /// Replace what is there under the target's name.
    pub replace: bool,
    /// Bytes of each part; chosen by the size of the disk when empty.
    pub part_size: Option<u64>,
    /// Read the result back and compare it with the image. Always done for files.
    pub read_back: bool,
    /// The whole run must end within this time.
    pub timeout: Option<Duration>,
    /// Something must move within this time.
    pub stall_timeout: Option<Duration>,
    /// Bytes of memory for everything in flight.
    pub memory: u64,
    /// Bytes per second to read at most.
    pub limit_rate: Option<u64>,
    /// Where journals, locks and reports lie.
    pub state_dir: PathBuf,
    /// Forget what an earlier run of the same job left.
    pub restart: bool,
}

/// The report of a run. Sizes are in bytes.
#[derive(Debug, Clone, Serialize)]
pub struct EncodeReport {
    /// The version of this document.
    pub schema_version: u32,
    /// How the run ended.
    pub status: Status,
    /// What was read, as the user named it, without the query of a web address.
    pub image: String,
    /// Its format, once it is known.
    pub source_format: Option<&'static str>,
    /// What was written, as the user named it.
    pub target: String,
    /// Its format.
    pub format: &'static str,
    /// The size of the disk that a guest sees in the result.
    pub virtual_size: Option<u64>,
    /// The size of the file or object.
    pub file_size: Option<u64>,
    /// How long the run took.
    pub elapsed_seconds: f64,
    /// Guest bytes that were read as data.
    pub data_bytes: u64,
    /// Bytes of parts that were sent or written by this run.
    pub sent_bytes: u64,
    /// Bytes of parts that earlier runs had sent.
    pub resumed_bytes: u64,
    /// Requests to a store that were made again.
    pub retries: u64,
    /// The digest of the guest's bytes (`carreto-sparse-v1`), once all were read; empty for a
    /// file that goes as it is and is no readable image.
    pub digest: Option<String>,
    /// Whether the result was read back and has that digest.
    pub read_back: bool,
    /// Whether all parts of the source are what its manifest says.
    pub manifest_matched: bool,
    /// Whether a manifest was written beside the object.
    pub manifest_written: bool,
    /// What was odd about the image.
    pub warnings: Vec<WarningFacts>,
    /// Why the run failed.
    pub error: Option<ErrorReport>,
}

impl EncodeReport {
    /// The report of a run that has just begun.
    pub(super) fn begin(spec: &EncodeSpec) -> Self {
        Self {
            schema_version: 1,
            status: Status::Failed,
            image: shown_location(&spec.image.location),
            source_format: None,
            target: shown_location(&spec.target),
            format: spec.output.format.name(),
            virtual_size: None,
            file_size: None,
            elapsed_seconds: 0.0,
            data_bytes: 0,
            sent_bytes: 0,
            resumed_bytes: 0,
            retries: 0,
            digest: None,
            read_back: false,
            manifest_matched: false,
            manifest_written: false,
            warnings: Vec::new(),
            error: None,
        }
    }

    pub(super) fn learn(&mut self, facts: &ImageFacts) {
        self.source_format = Some(facts.format);
        self.warnings.clone_from(&facts.warnings);
    }

    pub(super) fn warn(&mut self, code: &'static str, text: String) {
        self.warnings.push(WarningFacts { code, text, offset: None });
    }

    pub(super) fn end(&mut self, elapsed: f64, outcome: &Result<()>) {
        self.elapsed_seconds = elapsed;
        self.status = if outcome.is_ok() { Status::Done } else { Status::Failed };
        self.error = outcome.as_ref().err().map(ErrorReport::from);
    }
}
