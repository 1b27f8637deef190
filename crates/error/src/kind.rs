//! The two fixed levels of classification: what a user is told and what a program branches on.

use std::fmt;

/// What the user of a migration task is told. The five classes and their texts are fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// The target is too small, or the content that arrived is not the content that was sent.
    ImageVerificationFailed,
    /// The image is damaged, truncated, encrypted, unsafe or of an unsupported format.
    ImageMetadataUnavailable,
    /// The task passed its deadline, or stood still for too long.
    TaskTimeout,
    /// A device, a store or Carreto itself failed.
    SystemError,
    /// Anything else: credentials, names, targets in use, cancellation.
    Other,
}

impl Class {
    /// The stable name used in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ImageVerificationFailed => "image_verification_failed",
            Self::ImageMetadataUnavailable => "image_metadata_unavailable",
            Self::TaskTimeout => "task_timeout",
            Self::SystemError => "system_error",
            Self::Other => "other",
        }
    }

    /// The fixed sentence shown to people.
    pub const fn message(self) -> &'static str {
        match self {
            Self::ImageVerificationFailed => "image file verification failed",
            Self::ImageMetadataUnavailable => "failed to obtain the metadata of the image file",
            Self::TaskTimeout => "task timeout",
            Self::SystemError => "system error",
            Self::Other => "other reasons",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

/// Whether, and when, doing the same thing again can succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// The same input fails the same way.
    Never,
    /// Succeeds once somebody has followed the remedy.
    AfterRemedy,
    /// Succeeds once another run has let go.
    Later,
    /// Rerunning continues where this run stopped.
    Resume,
}

impl Retry {
    /// The stable name used in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::AfterRemedy => "after_remedy",
            Self::Later => "later",
            Self::Resume => "resume",
        }
    }
}

/// What a program branches on. New kinds may be added; names and codes never change within a
/// major version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// The command line, URL or configuration cannot be understood.
    Usage,
    /// Finished, with holes that were reported.
    Incomplete,
    /// A file, object or device that the user named does not exist.
    NotFound,
    /// A store or the network did not answer within the retry budget; state is kept.
    Unavailable,
    /// Content that was read back differs from what was sent.
    Mismatch,
    /// The image changed while, or between the times that, it was read.
    SourceChanged,
    /// The target has fewer bytes than the disk in the image.
    TargetTooSmall,
    /// The image breaks the rules of its format.
    Corrupt,
    /// The image ends before its own metadata says it does.
    Truncated,
    /// The image is valid as more than one format.
    Ambiguous,
    /// The format, version or feature is known but not supported.
    Unsupported,
    /// The content of the image is encrypted.
    Encrypted,
    /// The image names another file that the user did not allow.
    Unsafe,
    /// The image exceeds a bound that protects memory, time or disk.
    Limit,
    /// Credentials are wrong, missing or not sufficient.
    Denied,
    /// The target is busy, mounted, read-only, expired, gone or full.
    TargetUnusable,
    /// Another run owns the job or the target.
    Locked,
    /// The deadline passed, or nothing moved for the stall limit.
    Timeout,
    /// The user, or a signal, stopped the run.
    Cancelled,
    /// A device or file failed to read or write.
    Io,
    /// A defect of Carreto.
    Internal,
}

/// Name, class, exit code, HTTP status, retry advice.
type Row = (&'static str, Class, u8, u16, Retry);

impl Kind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 21] = [
        Self::Usage,
        Self::Incomplete,
        Self::NotFound,
        Self::Unavailable,
        Self::Mismatch,
        Self::SourceChanged,
        Self::TargetTooSmall,
        Self::Corrupt,
        Self::Truncated,
        Self::Ambiguous,
        Self::Unsupported,
        Self::Encrypted,
        Self::Unsafe,
        Self::Limit,
        Self::Denied,
        Self::TargetUnusable,
        Self::Locked,
        Self::Timeout,
        Self::Cancelled,
        Self::Io,
        Self::Internal,
    ];

    /// The stable name used in JSON.
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// The class that the user is told.
    pub const fn class(self) -> Class {
        self.row().1
    }

    /// The exit code of the command. A run that ended by SIGTERM exits with 143 instead of
    /// the 130 of [`Kind::Cancelled`]; the command line knows the signal.
    pub const fn exit_code(self) -> u8 {
        self.row().2
    }

    /// The status of an HTTP answer that carries this error.
    pub const fn http_status(self) -> u16 {
        self.row().3
    }

    /// Whether trying again can help.
    pub const fn retry(self) -> Retry {
        self.row().4
    }

    /// Everything that is stable outside: name, class, exit code, HTTP status, retry advice.
    const fn row(self) -> Row {
        use Class::{ImageMetadataUnavailable as Meta, ImageVerificationFailed as Verify};
        use Class::{Other, SystemError as System, TaskTimeout};
        use Retry::{AfterRemedy, Later, Never, Resume};
        match self {
            Self::Usage => ("usage", Other, 2, 400, Never),
            Self::Incomplete => ("incomplete", Verify, 3, 200, Never),
            Self::NotFound => ("not_found", Other, 4, 404, Never),
            Self::Unavailable => ("unavailable", System, 5, 503, Resume),
            Self::Mismatch => ("mismatch", Verify, 6, 409, AfterRemedy),
            Self::SourceChanged => ("source_changed", Verify, 6, 409, AfterRemedy),
            Self::TargetTooSmall => ("target_too_small", Verify, 6, 409, AfterRemedy),
            Self::Corrupt => ("corrupt", Meta, 7, 422, Never),
            Self::Truncated => ("truncated", Meta, 7, 422, Never),
            Self::Ambiguous => ("ambiguous", Meta, 7, 422, Never),
            Self::Unsupported => ("unsupported", Meta, 8, 422, Never),
            Self::Encrypted => ("encrypted", Meta, 8, 422, Never),
            Self::Unsafe => ("unsafe", Meta, 9, 422, Never),
            Self::Limit => ("limit", Meta, 9, 422, Never),
            Self::Denied => ("denied", Other, 10, 403, AfterRemedy),
            Self::TargetUnusable => ("target_unusable", Other, 11, 409, AfterRemedy),
            Self::Locked => ("locked", Other, 12, 409, Later),
            Self::Timeout => ("timeout", TaskTimeout, 13, 504, Resume),
            Self::Cancelled => ("cancelled", Other, 130, 409, Resume),
            Self::Io => ("io", System, 14, 500, Resume),
            Self::Internal => ("internal", System, 1, 500, Never),
        }
    }

    /// What to do about it, when the error itself knows nothing more specific.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Usage => "see `carreto help`",
            Self::Incomplete => "the report lists the holes; export the image again to fill them",
            Self::NotFound => "check the spelling of the path or URL",
            Self::Unavailable | Self::Cancelled => {
                "run the same command again: it resumes where it stopped"
            }
            Self::Mismatch => "run again with --restart; if it happens again, test the target disk",
            Self::SourceChanged => {
                "stop what writes to the image, or upload it again, then run with --restart"
            }
            Self::TargetTooSmall => {
                "enlarge the system or data disk to at least the needed size and retry"
            }
            Self::Corrupt | Self::Unsupported => {
                "check how the image was made, exported and uploaded; \
                 use qcow2, vpc (VHD), vmdk or raw"
            }
            Self::Truncated => "the image is incomplete: upload or export it again",
            Self::Ambiguous => "name the format with --format, if you know it and trust the image",
            Self::Encrypted => "decrypt the image with the tool that made it, then upload it again",
            Self::Unsafe => {
                "if you trust the image, allow the directory of the other file with --allow-dir"
            }
            Self::Limit => {
                "check how the image was made: its tables ask for more than any real disk needs"
            }
            Self::Denied => "check the credentials, the permissions and the clock",
            Self::TargetUnusable => {
                "unmount and release the target, make it writable, or free space on it"
            }
            Self::Locked => "wait for the other run to end, or stop it",
            Self::Timeout => {
                "run the same command again: it resumes; raise --timeout; check the bandwidth"
            }
            Self::Io => "check the device; then run the same command again: it resumes",
            Self::Internal => "this is a defect of Carreto: please report it with the report file",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
