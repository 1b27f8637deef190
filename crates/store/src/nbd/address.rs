//! `nbd://` and `nbd+unix://` addresses.

use carreto_error::{Error, Kind, Result};
use std::fmt::{self, Write as _};
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

    /// Whether the text has the scheme of an NBD address, also of one that is not supported.
    pub fn is_meant(text: &str) -> bool {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        let ours = |name: &str| matches!(name.split('+').next(), Some("nbd" | "nbds"));
        scheme.is_some_and(|scheme| ours(&scheme))
    }

    /// The same text for the same export wherever the command runs: a relative path of a socket
    /// is made absolute.
    pub fn identity(&self) -> String {
        match &self.place {
            Place::Tcp { .. } => self.to_string(),
            Place::Unix(path) => {
                let place = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                let place = place.canonicalize().unwrap_or(place);
                Self { place: Place::Unix(place), export: self.export.clone() }.to_string()
            }
        }
    }

    /// Whether both name one export. Every name of the own host counts as the same host.
    pub fn is_same_export(&self, other: &Self) -> bool {
        let own = |host: &str| {
            let address = host.parse::<std::net::IpAddr>();
            host == "localhost" || address.is_ok_and(|address| address.is_loopback())
        };
        match (&self.place, &other.place) {
            (Place::Tcp { host, port }, Place::Tcp { host: host2, port: port2 }) => {
                let same_host = host == host2 || (own(host) && own(host2));
                same_host && port == port2 && self.export == other.export
            }
            _ => self.identity() == other.identity(),
        }
    }
}

impl FromStr for NbdAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let usage = |why: String| Error::new(Kind::Usage, why);
        let url = Url::parse(text)
            .map_err(|error| usage("it is not an NBD address".into()).caused_by(error))?;
        if text.chars().any(char::is_control) || url.fragment().is_some() {
            return Err(usage("an NBD address has no control characters and no fragment".into()));
        }
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
            other if other.starts_with("nbds") => {
                let why = format!("{other}:// asks for TLS, which is not supported");
                return Err(Error::new(Kind::Unsupported, why).remedied_by(
                    "forward the port or socket over ssh (ssh -L), and name it with nbd:// or \
                     nbd+unix://",
                ));
            }
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
    let host = host.ok_or("it names no host")?.trim_matches(['[', ']']).to_ascii_lowercase();
    if url.query().is_some() {
        return Err("an nbd:// address takes no parameters".into());
    }
    Ok(Place::Tcp { host, port: url.port().unwrap_or(PORT) })
}

fn unix(url: &Url) -> Result<Place, String> {
    if url.host_str().is_some_and(|host| !host.is_empty()) {
        return Err("nbd+unix:// takes three slashes: nbd+unix:///EXPORT?socket=PATH".into());
    }
    // A plus sign is itself: this is no form.
    let mut pairs = url.query().unwrap_or_default().split('&').map(|pair| pair.split_once('='));
    match (pairs.next().flatten(), pairs.next()) {
        (Some(("socket", path)), None) if !path.is_empty() => {
            percent_decode(path).map(|path| Place::Unix(path.into()))
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
    String::from_utf8(bytes).map_err(|_| "the name of the export or the socket is not UTF-8".into())
}

/// `text` with what has a meaning in a URL, and what cannot be shown, written as escapes.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:@,;=!$&'()*".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _infallible = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// A text that is parsed as the same address.
impl fmt::Display for NbdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let export = percent_encode(&self.export);
        match &self.place {
            Place::Tcp { host, port } if host.contains(':') => {
                write!(f, "nbd://[{host}]:{port}/{export}")
            }
            Place::Tcp { host, port } => write!(f, "nbd://{host}:{port}/{export}"),
            Place::Unix(path) => {
                let path = percent_encode(&path.to_string_lossy()).replace('&', "%26");
                write!(f, "nbd+unix:///{export}?socket={path}")
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
        let plus = parse("nbd+unix:///?socket=/run/a+b%2Bc").unwrap();
        assert_eq!(plus.place, Place::Unix("/run/a+b+c".into()));
    }

    #[test]
    fn a_password_is_not_repeated() {
        for text in [
            "nbd://me:CANARY@host/x",
            "nbd://me:CANARY@[/x",
            "nbd://me:CANARY@host:port/x",
            "nbds://me:CANARY@host/x",
            "nbd+ssh://me:CANARY@host/x",
            "nbd+unix://me:CANARY@/x?socket=/y",
        ] {
            let error = parse(text).unwrap_err();
            assert!(!format!("{error:?} {error}").contains("CANARY"), "{error:?}");
        }
    }

    #[test]
    fn an_address_that_is_shown_is_the_same_address() {
        for text in [
            "nbd://Example.ORG",
            "nbd://[::1]/a%20b%3Fc%25",
            "nbd://host:1//%E7%A3%81",
            "nbd+unix:///%23?socket=/run/a%26b%20c+d.sock",
        ] {
            let address = parse(text).unwrap();
            assert_eq!(parse(&address.to_string()).unwrap(), address, "{address}");
        }
        assert_eq!(parse("NBD://HOST/X").unwrap().to_string(), "nbd://host:10809/X");
    }

    #[test]
    fn tls_is_refused_by_name() {
        for text in ["nbds://host/x", "nbds+unix:///x?socket=/y"] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported, "{text}");
            assert!(error.remedy().contains("ssh"), "{error}");
            assert!(NbdAddress::is_meant(text));
        }
        assert!(NbdAddress::is_meant("NBD+unix:///") && !NbdAddress::is_meant("./nbd:/x"));
    }

    #[test]
    fn one_export_is_known_under_all_names_of_the_own_host() {
        let address = |text| parse(text).unwrap();
        let one = address("nbd://localhost/a");
        assert!(one.is_same_export(&address("nbd://127.0.0.1:10809/a")));
        assert!(one.is_same_export(&address("nbd://[::1]/a")));
        for other in ["nbd://localhost/b", "nbd://localhost:1/a", "nbd://example.org/a"] {
            assert!(!one.is_same_export(&address(other)), "{other}");
        }
        let relative = address("nbd+unix:///a?socket=x.sock");
        assert!(!relative.identity().contains("socket=x.sock"), "{}", relative.identity());
        assert!(relative.is_same_export(&relative));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "nbd://",
            "nbd:///x",
            "nbd://u:p@host/x",
            "nbd://host/x?socket=/y",
            "nbd+unix:///x",
            "nbd+unix:///x?socket=",
            "nbd+unix:///x?sock=/y",
            "nbd+unix:///x?socket",
            "nbd+unix:///x?socket=/y&socket=/z",
            "nbd+unix:///x?socket=%ff",
            "nbd+unix://host/x?socket=/y",
            "nbd://host/%zz",
            "nbd://host/%ff",
        ] {
            assert_eq!(parse(text).unwrap_err().kind(), Kind::Usage, "{text}");
        }
    }
}
