//! `nbd://` and `nbd+unix://` addresses.

use carreto_error::{Error, Kind, Result};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use url::Url;

/// The port that IANA assigned to NBD.
const PORT: u16 = 10809;
/// The longest name of an export.
const MAX_EXPORT: usize = 4096;

/// How to reach a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// A server and one of its exports.
///
/// Written `nbd://host[:port]/[export]` or `nbd+unix:///[export]?socket=PATH`, as libnbd and QEMU
/// write it (NBD URI specification).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct NbdAddress {
    pub(super) place: Place,
    pub(super) export: String,
}

impl NbdAddress {
    /// The name of the export; empty for the server's default one.
    pub fn export(&self) -> &str {
        &self.export
    }
}

impl FromStr for NbdAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let usage = |why: String| Error::new(Kind::Usage, why).path(text);
        let url = Url::parse(text)
            .map_err(|error| usage("it is not an NBD address".into()).caused_by(error))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(usage("an NBD address carries no user and no password".into()));
        }
        let path = url.path().strip_prefix('/').unwrap_or_else(|| url.path());
        let export = percent_decode(path).map_err(usage)?;
        if export.len() > MAX_EXPORT {
            return Err(usage(format!("the export's name is longer than {MAX_EXPORT} bytes")));
        }
        let place = match url.scheme() {
            "nbd" => tcp(&url).map_err(usage)?,
            "nbd+unix" => unix(&url).map_err(usage)?,
            other => {
                let why = format!("the scheme {other:?} is not spoken, only nbd and nbd+unix are");
                return Err(usage(why));
            }
        };
        Ok(Self { place, export })
    }
}

fn tcp(url: &Url) -> Result<Place, String> {
    let host = url.host_str().filter(|host| !host.is_empty());
    let host = host.ok_or("it names no host")?.trim_matches(['[', ']']).to_owned();
    if url.query().is_some() {
        return Err("an nbd:// address takes no parameters".into());
    }
    Ok(Place::Tcp { host, port: url.port().unwrap_or(PORT) })
}

fn unix(url: &Url) -> Result<Place, String> {
    if url.host_str().is_some_and(|host| !host.is_empty()) {
        return Err("nbd+unix:// takes three slashes: nbd+unix:///EXPORT?socket=PATH".into());
    }
    let mut pairs = url.query_pairs();
    match (pairs.next(), pairs.next()) {
        (Some((name, path)), None) if name == "socket" && !path.is_empty() => {
            Ok(Place::Unix(PathBuf::from(path.into_owned())))
        }
        _ => Err("nbd+unix:// takes exactly one parameter: ?socket=PATH".into()),
    }
}

fn percent_decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
            return Err("a percent sign is not followed by two hexadecimal digits".into());
        };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
    }
    String::from_utf8(bytes).map_err(|_| "the export's name is not UTF-8".into())
}

impl fmt::Display for NbdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp { host, port } if host.contains(':') => {
                write!(f, "nbd://[{host}]:{port}/{}", self.export)
            }
            Place::Tcp { host, port } => write!(f, "nbd://{host}:{port}/{}", self.export),
            Place::Unix(path) => {
                write!(f, "nbd+unix:///{}?socket={}", self.export, path.display())
            }
        }
    }
}

impl fmt::Debug for NbdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NbdAddress({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NbdAddress> {
        text.parse()
    }

    #[test]
    fn addresses_are_read_as_others_write_them() {
        let plain = parse("nbd://example.org").unwrap();
        assert_eq!((plain.to_string().as_str(), plain.export()), ("nbd://example.org:10809/", ""));
        let full = parse("nbd://[::1]:10810/a%20b/c").unwrap();
        assert_eq!(full.place, Place::Tcp { host: "::1".into(), port: 10810 });
        assert_eq!(full.export(), "a b/c");
        let unix = parse("nbd+unix:///disk?socket=/run/a%20b.sock").unwrap();
        assert_eq!(unix.place, Place::Unix("/run/a b.sock".into()));
        assert_eq!(unix.export(), "disk");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "nbd://",
            "nbd:///x",
            "nbds://host/x",
            "nbd://u:p@host/x",
            "nbd://host/x?socket=/y",
            "nbd+unix:///x",
            "nbd+unix:///x?socket=",
            "nbd+unix:///x?sock=/y",
            "nbd+unix://host/x?socket=/y",
            "nbd://host/%zz",
            "nbd://host/%ff",
        ] {
            assert_eq!(parse(text).unwrap_err().kind(), Kind::Usage, "{text}");
        }
    }
}
