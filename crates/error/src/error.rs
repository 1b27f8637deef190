//! The error value: a kind, what is known at this layer, and the cause below it.

use crate::{Class, Kind, Result};
use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

/// The boxed cause of an error.
pub(crate) type Cause = Box<dyn StdError + Send + Sync + 'static>;

/// What went wrong, in one value the size of a pointer.
///
/// `Display` prints what this layer knows: `read the qcow2 header of disk.qcow2 at byte 20: …`.
/// [`std::error::Error::source`] holds what the layers below knew, so printing a whole chain says
/// nothing twice.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    detail: Cow<'static, str>,
    operation: Option<Cow<'static, str>>,
    path: Option<String>,
    offset: Option<u64>,
    needed: Option<u64>,
    remedy: Option<Cow<'static, str>>,
    source: Option<Cause>,
}

impl Error {
    /// An error of `kind`; `detail` names the field, the value found and the value expected.
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            detail: detail.into(),
            operation: None,
            path: None,
            offset: None,
            needed: None,
            remedy: None,
            source: None,
        }))
    }

    /// Says what was being done, as a verb phrase: `read the L1 table`.
    #[must_use]
    pub fn during(mut self, operation: impl Into<Cow<'static, str>>) -> Self {
        self.0.operation = Some(operation.into());
        self
    }

    /// Names the file, device or URL. A URL must be free of secrets.
    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.0.path = Some(path.into());
        self
    }

    /// Names the file unless one is named already: for a caller that knows the file its callee
    /// was reading.
    #[must_use]
    pub fn or_path(mut self, path: &str) -> Self {
        self.0.path.get_or_insert_with(|| path.to_owned());
        self
    }

    /// The byte of the file, device or object at which it happened.
    #[must_use]
    pub fn offset(mut self, offset: u64) -> Self {
        self.0.offset = Some(offset);
        self
    }

    /// The number of bytes that would have been enough.
    #[must_use]
    pub fn needed(mut self, bytes: u64) -> Self {
        self.0.needed = Some(bytes);
        self
    }

    /// Replaces the kind's general remedy by one that fits this case.
    #[must_use]
    pub fn remedied_by(mut self, remedy: impl Into<Cow<'static, str>>) -> Self {
        self.0.remedy = Some(remedy.into());
        self
    }

    /// Keeps the error of the layer below as the source.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Cause>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// A new error of the same kind and place that says more, with this one as its source.
    #[must_use]
    pub fn wrap(self, detail: impl Into<Cow<'static, str>>) -> Self {
        let mut outer = Self::new(self.0.kind, detail);
        outer.0.remedy.clone_from(&self.0.remedy);
        outer.0.needed = self.0.needed;
        outer.caused_by(self)
    }

    /// What a program branches on.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// What the user of a migration task is told.
    pub fn class(&self) -> Class {
        self.0.kind.class()
    }

    /// Field, value found and value expected, without the operation and the place.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// What was being done.
    pub fn operation(&self) -> Option<&str> {
        self.0.operation.as_deref()
    }

    /// The file, device or URL, of this error or of the nearest cause that names one.
    pub fn nearest_path(&self) -> Option<&str> {
        self.0.path.as_deref().or_else(|| self.inner_error().and_then(Self::nearest_path))
    }

    /// The byte at which it happened, of this error or of the nearest cause that names one.
    pub fn nearest_offset(&self) -> Option<u64> {
        self.0.offset.or_else(|| self.inner_error().and_then(Self::nearest_offset))
    }

    /// The number of bytes that would have been enough.
    pub fn needed_bytes(&self) -> Option<u64> {
        self.0.needed
    }

    /// What to do about it: the specific remedy, or the kind's.
    pub fn remedy(&self) -> &str {
        self.0.remedy.as_deref().unwrap_or_else(|| self.0.kind.remedy())
    }

    fn inner_error(&self) -> Option<&Self> {
        self.0.source.as_deref().and_then(|cause| cause.downcast_ref())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.0.operation, &self.0.path) {
            (Some(operation), Some(path)) => write!(f, "{operation} of {path}")?,
            (Some(operation), None) => f.write_str(operation)?,
            (None, Some(path)) => f.write_str(path)?,
            (None, None) => {}
        }
        if let Some(offset) = self.0.offset {
            let space = if self.0.operation.is_some() || self.0.path.is_some() { " " } else { "" };
            write!(f, "{space}at byte {offset}")?;
        }
        if self.0.operation.is_some() || self.0.path.is_some() || self.0.offset.is_some() {
            f.write_str(": ")?;
        }
        f.write_str(&self.0.detail)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("text", &format_args!("{self}"))
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|cause| cause as &(dyn StdError + 'static))
    }
}

/// Adding context where a call is made.
pub trait ResultExt<T> {
    /// Wraps the error: same kind, `detail` on top.
    ///
    /// # Errors
    /// The wrapped error.
    fn wrap_err(self, detail: impl FnOnce() -> String) -> Result<T>;

    /// Names the file of the error unless it names one.
    ///
    /// # Errors
    /// The same error with the path.
    fn or_path(self, path: &str) -> Result<T>;
}

impl<T> ResultExt<T> for Result<T> {
    fn wrap_err(self, detail: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| error.wrap(detail()))
    }

    fn or_path(self, path: &str) -> Result<T> {
        self.map_err(|error| error.or_path(path))
    }
}
