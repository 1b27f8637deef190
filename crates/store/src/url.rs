//! Where an image is: a path, the URL of an object, or an NBD export.
//!
//! Users type both in the same place, so one parser decides which it is, refuses what is neither,
//! and keeps every secret that a URL can carry out of messages.

mod identity;

use crate::NbdAddress;
use ::url::{Host, Url};
use carreto_error::{Error, Kind, Result};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The longest key that S3 takes, in bytes of UTF-8 (Amazon S3 user guide, "Object key names");
/// the other stores take no longer ones.
const MAX_KEY: usize = 1024;

/// A kind of object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Amazon S3, or a server that speaks its interface.
    S3,
    /// Tencent Cloud Object Storage, through its S3 interface.
    Cos,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage; the bucket is the container.
    Az,
    /// A web server over plain HTTP; the bucket is the host.
    Http,
    /// A web server over TLS; the bucket is the host.
    Https,
    /// Memory of this process, for tests.
    Memory,
}

impl Scheme {
    const ALL: [Self; 7] =
        [Self::S3, Self::Cos, Self::Gs, Self::Az, Self::Http, Self::Https, Self::Memory];

    /// The scheme as it stands in a URL.
    pub const fn name(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Cos => "cos",
            Self::Gs => "gs",
            Self::Az => "az",
            Self::Http => "http",
            Self::Https => "https",
            Self::Memory => "memory",
        }
    }

    /// Whether the location is a plain URL of a web server.
    pub const fn is_web(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An object, named by its URL.
///
/// `Display` and `Debug` leave out the query of a web address, because that is where presigned
/// URLs carry their signature.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ObjectUrl {
    scheme: Scheme,
    bucket: String,
    key: String,
    /// The address of a web server's file, with the query; `None` for the other schemes.
    web: Option<Url>,
}

impl ObjectUrl {
    /// The object `key` of `bucket`.
    ///
    /// # Errors
    /// `Usage` when the bucket or the key cannot be one, or the scheme is `http` or `https`.
    pub fn new(scheme: Scheme, bucket: &str, key: &str) -> Result<Self> {
        if scheme.is_web() {
            return Err(usage("a web address is parsed, not put together"));
        }
        check_bucket(scheme, bucket)?;
        check_key(key)?;
        Ok(Self { scheme, bucket: bucket.to_owned(), key: key.to_owned(), web: None })
    }

    /// The object `relative` below `directory`, the text of a URL without a trailing slash.
    ///
    /// # Errors
    /// `Usage` when `directory` is not the URL of an object, or carries a query; `Unsafe` when
    /// `relative` is empty, absolute, or has `.`, `..` or empty parts or control characters.
    pub fn beneath(directory: &str, relative: &str) -> Result<Self> {
        if let Err(error) = check_key(relative) {
            let text = "the name of another object is not plain and relative";
            return Err(Error::new(Kind::Unsafe, text).caused_by(error));
        }
        match directory.split_once("://") {
            Some((name, _)) if Scheme::named(name).is_some_and(Scheme::is_web) => {
                beneath_web(directory, relative)
            }
            Some(_) => match format!("{directory}/{relative}").parse()? {
                Location::Object(url) => Ok(url),
                _ => Err(usage("the directory is not the URL of a store")),
            },
            None => Err(usage("the directory is not the URL of a store")),
        }
    }

    /// The kind of store.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The bucket or container; the host and port of a web address; empty in memory.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The key as the store has it, without any escaping. For a web address the path after the
    /// first slash, escaped as in the URL.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The address of a web server's file, with what may be a secret signature in its query.
    pub(crate) fn web(&self) -> Option<&Url> {
        self.web.as_ref()
    }

    /// The URL up to, and without, the last slash: what relative names in the image are relative
    /// to.
    pub fn directory(&self) -> String {
        let text = self.address();
        match text.rsplit_once('/') {
            Some((directory, _)) => directory.trim_end_matches('/').to_owned(),
            None => text,
        }
    }

    /// A text that is the same for the same object however its URL was signed, and that may be
    /// kept: the URL without the parameters of a signature, with a fingerprint in place of every
    /// other parameter's value, because it may be a secret of a server's own kind.
    pub fn identity(&self) -> String {
        match self.web.as_ref().and_then(identity::of_query) {
            Some(query) => format!("{}?{query}", self.address()),
            None => self.address(),
        }
    }

    /// The URL without query and fragment.
    fn address(&self) -> String {
        match self.scheme {
            Scheme::Memory => format!("memory://{}", self.key),
            scheme => format!("{scheme}://{}/{}", self.bucket, self.key),
        }
    }

    fn from_web(text: &str, scheme: Scheme) -> Result<Self> {
        // The URL standard would skip over both, and so name something else than was typed.
        let authority = text.split_once("//").map(|(_, rest)| rest);
        if text.chars().any(char::is_control) || authority.is_none_or(|a| a.starts_with('/')) {
            return Err(usage("the web address has control characters or no host"));
        }
        let mut url = Url::parse(text)
            .map_err(|error| usage("the web address cannot be understood").caused_by(error))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(usage("the web address carries a user name or password").remedied_by(
                "put the credentials into the configuration file, as a header of the host",
            ));
        }
        url.set_fragment(None);
        let host = match url.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => format!("[{address}]"),
            None => return Err(usage("the web address names no host")),
        };
        let bucket = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host,
        };
        Ok(Self {
            scheme,
            bucket,
            key: url.path().trim_start_matches('/').to_owned(),
            web: Some(url),
        })
    }
}

impl fmt::Display for ObjectUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address())?;
        match self.web.as_ref().and_then(Url::query) {
            Some(_) => f.write_str("?***"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for ObjectUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a user typed: a path, the URL of an object, or an NBD address.
///
/// ```
/// use carreto_store::{Location, Scheme};
///
/// let Location::Object(url) = "s3://images/2026/disk.qcow2".parse()? else {
///     panic!("not an object");
/// };
/// assert_eq!((url.scheme(), url.bucket(), url.key()), (Scheme::S3, "images", "2026/disk.qcow2"));
/// assert!(matches!("./s3:disk".parse()?, Location::File(_)));
/// # Ok::<(), carreto_error::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// A file or device of this machine.
    File(PathBuf),
    /// An object in a store.
    Object(ObjectUrl),
    /// A disk of another host or process.
    Nbd(NbdAddress),
}

impl FromStr for Location {
    type Err = Error;

    /// Parses a path, `file://`, `s3://bucket/key`, `cos://bucket-appid/key`, `gs://bucket/key`,
    /// `az://container/key`, `http(s)://host/path`, `nbd://host[:port]/[export]`,
    /// `nbd+unix:///[export]?socket=PATH` or `memory:key`. Keys are taken as they are:
    /// a percent sign, a question mark or a space in an `s3://` URL belongs to the key.
    ///
    /// A path that looks like a URL is written with a leading `./`.
    ///
    /// # Errors
    /// `Usage`, without repeating the text, which may hold a secret; `Unsupported` for NBD over
    /// TLS.
    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(usage("the name of the image is empty"));
        }
        let Some((name, rest)) = text.split_once(':') else {
            return Ok(Self::File(text.into()));
        };
        let slashes = rest.strip_prefix("//");
        if NbdAddress::is_meant(text) {
            return text.parse().map(Self::Nbd);
        }
        if name.eq_ignore_ascii_case("file") {
            return parse_file(text);
        }
        match (Scheme::named(name), slashes) {
            (Some(Scheme::Memory), _) => {
                let key = slashes.unwrap_or(rest);
                ObjectUrl::new(Scheme::Memory, "", key).map(Self::Object)
            }
            (Some(scheme), Some(_)) if scheme.is_web() => {
                ObjectUrl::from_web(text, scheme).map(Self::Object)
            }
            (Some(scheme), Some(path)) => {
                let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
                ObjectUrl::new(scheme, bucket, key).map(Self::Object)
            }
            (Some(scheme), None) => Err(usage(format!(
                "`{scheme}:` is not followed by `//`: write {scheme}://…, or ./{scheme}:… for a \
                 local file"
            ))),
            (None, Some(_)) if is_scheme(name) => Err(usage(format!(
                "{name}:// is not a scheme of a store: use a path, file, s3, cos, gs, az, http, \
                 https, nbd or nbd+unix"
            ))),
            (None, _) => Ok(Self::File(text.into())),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Object(url) => url.fmt(f),
            Self::Nbd(address) => address.fmt(f),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn usage(text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Kind::Usage, text)
}

fn is_scheme(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

fn parse_file(text: &str) -> Result<Location> {
    let path = Url::parse(text)
        .ok()
        .filter(|_| text.get(5..).is_some_and(|rest| rest.starts_with('/')))
        .and_then(|url| url.to_file_path().ok());
    path.map(Location::File).ok_or_else(|| usage("a file URL has the form file:///absolute/path"))
}

fn check_bucket(scheme: Scheme, bucket: &str) -> Result<()> {
    if scheme == Scheme::Memory {
        return Ok(());
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name = bucket.strip_prefix('$').unwrap_or(bucket);
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(plain) {
        return Err(usage(format!(
            "the URL names no bucket: it has the form {scheme}://bucket/key, and a bucket's name \
             has letters, digits, dots and dashes"
        )));
    }
    if name.len() > 255 {
        return Err(usage("the name of the bucket is longer than 255 bytes"));
    }
    Ok(())
}

fn check_key(key: &str) -> Result<()> {
    if key.is_empty() {
        return Err(usage("the URL names no object: the key after the bucket is empty"));
    }
    if key.len() > MAX_KEY {
        return Err(usage(format!("the key has more than {MAX_KEY} bytes")));
    }
    if key.chars().any(char::is_control) {
        return Err(usage("the key has control characters"));
    }
    match key.split('/').find(|part| matches!(*part, "" | "." | "..")) {
        Some("") => Err(usage("the key has an empty part: two slashes, or one at an end")),
        Some(part) => Err(usage(format!("the key has the part `{part}`"))),
        None => Ok(()),
    }
}

fn beneath_web(directory: &str, relative: &str) -> Result<ObjectUrl> {
    let Location::Object(mut url) = directory.parse()? else {
        return Err(usage("the directory is not the URL of a store"));
    };
    let web = url.web.as_mut().filter(|web| web.query().is_none());
    let web = web.ok_or_else(|| usage("the directory's address carries a query"))?;
    web.path_segments_mut()
        .map_err(|()| usage("the directory's address has no path"))?
        .pop_if_empty()
        .extend(relative.split('/'));
    url.key = web.path().trim_start_matches('/').to_owned();
    Ok(url)
}
