//! The open gate: which other files an image may make Carreto open.
//!
//! Images name other files: backing files, external data files, extents, parents. Every such name
//! is written by whoever made the image, so it is untrusted. The gate is closed unless the user
//! opened it for named directories; it then opens regular files inside them and nothing else.

use crate::Source;
use async_trait::async_trait;
use carreto_error::{Error, Kind, Result};
use std::fmt;
use std::sync::Arc;

/// What an image wants another file for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferenceRole {
    /// The file below a qcow2 overlay.
    Backing,
    /// The file that holds a qcow2 image's data clusters.
    DataFile,
    /// A file that holds a part of a VMDK.
    Extent,
    /// The parent of a differencing VHD or a VMDK delta.
    Parent,
}

impl fmt::Display for ReferenceRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Backing => "backing file",
            Self::DataFile => "data file",
            Self::Extent => "extent",
            Self::Parent => "parent",
        })
    }
}

/// A wish to open a file that an image names.
#[derive(Debug, Clone, Copy)]
pub struct OpenRequest<'a> {
    /// The image that names it, for messages.
    pub referrer: &'a str,
    /// The name as the image has it, relative to the image's directory or absolute.
    pub name: &'a str,
    /// What it is wanted for.
    pub role: ReferenceRole,
}

/// A directory, or a prefix of object URLs, that the user opened: absolute, normalised, without a
/// trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant(pub String);

/// A file that was opened through the gate.
#[derive(Debug, Clone)]
pub struct OpenedFile {
    /// Its bytes.
    pub source: Arc<dyn Source>,
    /// The same text for the same file whatever its name: device and inode, or URL.
    pub identity: String,
}

/// What a store offers to the gate: opening below a directory.
#[async_trait]
pub trait OpenBeneath: Send + Sync + fmt::Debug {
    /// Opens the regular file (or object) `relative` below `directory`, read-only, without
    /// following symbolic links or leaving the directory.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// `NotFound`; `Unsafe` for links, devices, pipes and anything outside; what opening meets.
    async fn open_beneath(&self, directory: &str, relative: &str) -> Result<OpenedFile>;
}

/// Decides about every file that an image names. Cloned and deepened on the way down a chain.
#[derive(Debug, Clone)]
pub struct OpenGate {
    opener: Option<Arc<dyn OpenBeneath>>,
    grants: Vec<Grant>,
    /// The directory of the image whose names are resolved.
    directory: String,
    /// The identities of the images on the way here, for cycles and depth.
    chain: Vec<String>,
    max_depth: usize,
}

impl OpenGate {
    /// How many files deep a chain may go by default.
    pub const MAX_DEPTH: usize = 16;

    /// A gate that opens nothing.
    pub fn closed() -> Self {
        Self {
            opener: None,
            grants: Vec::new(),
            directory: String::new(),
            chain: Vec::new(),
            max_depth: Self::MAX_DEPTH,
        }
    }

    /// A gate for the image in `directory` (absolute, or a URL up to the last slash) with the
    /// given `identity` that opens files inside `grants` through `opener`.
    pub fn new(
        opener: Arc<dyn OpenBeneath>,
        grants: Vec<Grant>,
        directory: impl Into<String>,
        identity: impl Into<String>,
    ) -> Self {
        Self {
            opener: Some(opener),
            grants,
            directory: directory.into(),
            chain: vec![identity.into()],
            max_depth: Self::MAX_DEPTH,
        }
    }

    /// Changes how many files deep a chain may go.
    #[must_use]
    pub fn with_max_depth(mut self, max_depth: usize) -> Self {
        self.max_depth = max_depth;
        self
    }

    /// Opens what `request` asks for, and returns with it the gate for the names inside it.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// `Unsafe` when the name is not a plain path, lies outside every grant, or closes a cycle;
    /// `Limit` when the chain is too deep, or when the process may not open
    /// as many files as the image names; what opening meets.
    pub async fn open(&self, request: OpenRequest<'_>) -> Result<(Arc<dyn Source>, Self)> {
        let path = self.resolve(request)?;
        let (grant, relative) = self.granted(&path).ok_or_else(|| Self::outside(request, &path))?;
        if self.chain.len() > self.max_depth {
            let text = format!("the chain of files is longer than {}", self.max_depth);
            return Err(Error::new(Kind::Limit, text).path(request.referrer));
        }
        let opener = self.opener.as_ref().ok_or_else(|| Self::outside(request, &path))?;
        let opened = opener
            .open_beneath(&grant.0, relative)
            .await
            .map_err(|error| refused_by_the_system(error, request))?;
        if self.chain.contains(&opened.identity) {
            let text = format!("the {} {:?} closes a cycle", request.role, request.name);
            return Err(Error::new(Kind::Unsafe, text).path(request.referrer));
        }
        let mut inner = self.clone();
        parent_of(&path).clone_into(&mut inner.directory);
        inner.chain.push(opened.identity);
        Ok((opened.source, inner))
    }

    /// The absolute, normalised path (or URL) of the name.
    fn resolve(&self, request: OpenRequest<'_>) -> Result<String> {
        let name = request.name;
        if let Some(problem) = not_a_plain_path(name) {
            let text = format!("the {} {name:?} {problem}", request.role);
            return Err(Error::new(Kind::Unsafe, text).path(request.referrer));
        }
        let joined = if name.starts_with('/') {
            name.to_owned()
        } else {
            format!("{}/{name}", self.directory)
        };
        normalise(&joined).ok_or_else(|| Self::outside(request, &joined))
    }

    fn granted<'p>(&self, path: &'p str) -> Option<(&Grant, &'p str)> {
        self.grants.iter().find_map(|grant| {
            let rest = path.strip_prefix(grant.0.trim_end_matches('/'))?;
            let relative = rest.strip_prefix('/')?;
            (!relative.is_empty()).then_some((grant, relative))
        })
    }

    fn outside(request: OpenRequest<'_>, path: &str) -> Error {
        let OpenRequest { referrer, name, role } = request;
        let text = format!("it names the {role} {name:?}, which is not in an allowed directory");
        let directory = parent_of(path);
        let remedy = format!("if you trust the image, add --allow-dir {directory:?}");
        let error = Error::new(Kind::Unsafe, text).path(referrer);
        if directory.is_empty() { error } else { error.remedied_by(remedy) }
    }
}

/// Says what was to be opened; and that there are too many files open, where that is the trouble:
/// the image asks for them, so it is no fault of a device.
fn refused_by_the_system(error: Error, request: OpenRequest<'_>) -> Error {
    let text = format!("open the {} {:?}", request.role, request.name);
    if !too_many_open_files(&error) {
        return error.wrap(text);
    }
    let text = format!("{text}: the image names more files than this process may have open");
    Error::new(Kind::Limit, text)
        .caused_by(error)
        .remedied_by("raise the limit of open files (ulimit -n) and run again")
}

/// Whether the system call below failed with `EMFILE` or `ENFILE`.
fn too_many_open_files(error: &Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |error| error.source())
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .any(|error| matches!(error.raw_os_error(), Some(EMFILE | ENFILE)))
}

/// Why `name` cannot be a path, if it cannot: qemu-style pseudo protocols (`json:`, `nbd:`,
/// `fd:`), URLs, Windows and UNC paths, control characters.
fn not_a_plain_path(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("is empty");
    }
    if name.chars().any(char::is_control) {
        return Some("has control characters");
    }
    if name.contains('\\') {
        return Some("is a Windows path");
    }
    let scheme = name.split_once(':').map(|(scheme, _)| scheme)?;
    let looks_like_one = scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    (looks_like_one && !scheme.is_empty()).then_some("is a URL or pseudo protocol, not a path")
}

/// Resolves `.` and `..` by the text alone; `None` when `..` climbs past the root. A URL keeps
/// its `scheme://authority`.
fn normalise(path: &str) -> Option<String> {
    let (prefix, rest) = match path.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, rest) = rest.split_once('/').unwrap_or((rest, ""));
            (format!("{scheme}://{authority}"), rest)
        }
        None => (String::new(), path),
    };
    let mut parts = Vec::new();
    for part in rest.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            other => parts.push(other),
        }
    }
    Some(format!("{prefix}/{}", parts.join("/")))
}

fn parent_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}
