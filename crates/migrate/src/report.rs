//! The report of a run, as it is written to disk and printed as JSON.

use crate::inspect::WarningFacts;
use crate::{JobSpec, shown_location, system};
use carreto_error::{Error, Kind, Result, chain_text};
use carreto_transfer::Counters;
use serde::Serialize;

/// The version of the document.
const SCHEMA_VERSION: u32 = 1;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Everything arrived (and was verified, unless verification was off).
    Done,
    /// It did not; see the error.
    Failed,
}

/// What a run did. Sizes are in bytes, times in RFC 3339 (UTC).
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The version of this document.
    pub schema_version: u32,
    /// How the run ended.
    pub status: Status,
    /// The image as the user named it, without the query of a web address.
    pub image: String,
    /// The format of the image, once it is known.
    pub format: Option<&'static str>,
    /// The size of the disk, once it is known.
    pub virtual_size: Option<u64>,
    /// The target as the user named it.
    pub target: String,
    /// The size of the target, once it is known.
    pub target_size: Option<u64>,
    /// What the disk will be used for, if the user said so.
    pub role: Option<&'static str>,
    /// When the run began.
    pub started: String,
    /// When it ended.
    pub finished: String,
    /// How long it took.
    pub elapsed_seconds: f64,
    /// What was moved.
    pub copied: CopyTotals,
    /// What was read back.
    pub verify: VerifyTotals,
    /// What was odd about the image or the target.
    pub warnings: Vec<WarningFacts>,
    /// Why the run failed.
    pub error: Option<ErrorReport>,
}

/// What a run moved, in bytes of this run alone unless said otherwise.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CopyTotals {
    /// Read from the files of the image.
    pub read_bytes: u64,
    /// Guest bytes that the image had data for.
    pub data_bytes: u64,
    /// Guest bytes that were known or found to be zero and not written as data.
    pub zero_bytes: u64,
    /// Written to the target as data.
    pub written_bytes: u64,
    /// Zeroed on the target without data.
    pub zeroed_bytes: u64,
    /// Guest bytes that earlier runs had done.
    pub resumed_bytes: u64,
    /// Guest bytes of data that an interrupted run had begun and that were sent again.
    pub resent_bytes: u64,
    /// Requests to a store that were made again.
    pub retries: u64,
    /// Guest bytes of data per second, copying and verifying.
    pub data_bytes_per_second: f64,
}

/// What was read back.
#[derive(Debug, Clone, Default, Serialize)]
pub struct VerifyTotals {
    /// `full` or `none`.
    pub mode: &'static str,
    /// Bytes read back from the target; holes are known to be zero and not read.
    pub read_bytes: u64,
    /// The name of the digest.
    pub algorithm: &'static str,
    /// The digest of the content of the disk, once it is verified.
    pub digest: Option<String>,
    /// Whether the content is what the manifest beside the image says; empty where there is none.
    pub manifest_matched: Option<bool>,
}

/// An error as a document.
#[derive(Debug, Clone, Serialize)]
pub struct ErrorReport {
    /// Always `error`.
    #[serde(rename = "type")]
    pub kind_of_document: &'static str,
    /// The stable name of the class.
    pub class: &'static str,
    /// The fixed sentence of the class.
    pub message: &'static str,
    /// The stable name of the kind.
    pub kind: &'static str,
    /// The exit code of the command.
    pub exit: u8,
    /// The whole chain of causes in one line.
    pub detail: String,
    /// The file, device or URL.
    pub path: Option<String>,
    /// The byte of it.
    pub offset: Option<u64>,
    /// How many bytes would have been enough.
    pub needed_bytes: Option<u64>,
    /// Whether trying again can help.
    pub retry: &'static str,
    /// What to do.
    pub remedy: String,
}

impl From<&Error> for ErrorReport {
    fn from(error: &Error) -> Self {
        let kind = error.kind();
        Self {
            kind_of_document: "error",
            class: kind.class().name(),
            message: kind.class().message(),
            kind: kind.name(),
            exit: kind.exit_code(),
            detail: chain_text(error),
            path: error.nearest_path().map(str::to_owned),
            offset: error.nearest_offset(),
            needed_bytes: error.needed_bytes(),
            retry: kind.retry().name(),
            remedy: error.remedy().to_owned(),
        }
    }
}

impl Report {
    /// The report of a run that has just begun.
    pub(crate) fn begin(spec: &JobSpec, started: String) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            status: Status::Failed,
            image: shown_location(&spec.image.location),
            format: None,
            virtual_size: None,
            target: shown_location(&spec.target.display().to_string()),
            target_size: None,
            role: spec.role.map(crate::Role::name),
            started,
            finished: String::new(),
            elapsed_seconds: 0.0,
            copied: CopyTotals::default(),
            verify: VerifyTotals {
                mode: spec.verify.name(),
                algorithm: "carreto-sparse-v1",
                ..VerifyTotals::default()
            },
            warnings: Vec::new(),
            error: None,
        }
    }

    /// The run has ended. `exit_code` is what the front end's process ends with when it was
    /// cancelled.
    pub(crate) fn end(&mut self, elapsed: f64, outcome: &Result<()>, exit_code: Option<u8>) {
        self.finished = system::now();
        self.elapsed_seconds = elapsed;
        self.copied.data_bytes_per_second = self.copied.data_bytes as f64 / elapsed.max(1e-9);
        self.status = if outcome.is_ok() { Status::Done } else { Status::Failed };
        self.error = outcome.as_ref().err().map(|error| {
            let document = ErrorReport::from(error);
            let cancelled = error.kind() == Kind::Cancelled;
            let exit = exit_code.filter(|_| cancelled).unwrap_or(document.exit);
            ErrorReport { exit, ..document }
        });
    }

    /// Adds something that the user should know.
    pub(crate) fn warn(&mut self, code: &'static str, text: impl Into<String>) {
        self.warnings.push(WarningFacts { code, text: text.into(), offset: None });
    }

    pub(crate) fn take_counters(&mut self, counters: &Counters) {
        let value = Counters::value;
        self.copied.read_bytes = value(&counters.read);
        self.copied.data_bytes = value(&counters.data);
        self.copied.zero_bytes = value(&counters.zero);
        self.copied.written_bytes = value(&counters.written);
        self.copied.zeroed_bytes = value(&counters.zeroed);
        self.verify.read_bytes = value(&counters.verified);
    }
}
