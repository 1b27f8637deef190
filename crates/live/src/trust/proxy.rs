//! Leaving a network through a proxy: HTTP `CONNECT` (RFC 9110, section 9.3.6) or SOCKS 5.

use super::{socket, socks};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use carreto_error::{Error, Kind, Result};
use serde::Deserialize;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// Bytes of a proxy's answer, at most.
const HEAD_LIMIT: usize = 16 << 10;

/// How the proxy is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Socks5,
}

/// A proxy: `http://[user:password@]host[:port]` or `socks5://…`. Ports are 8080 and 1080 unless
/// given; user and password may be percent-encoded. The proxy resolves the receiver's name.
///
/// `Debug` and `Display` leave the credentials out.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct Proxy {
    scheme: Scheme,
    /// `host:port`.
    address: String,
    credentials: Option<Credentials>,
}

/// What a proxy may ask for.
#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) user: Zeroizing<String>,
    pub(super) password: Zeroizing<String>,
}

impl Proxy {
    /// Connects to `address` through the proxy.
    pub(super) async fn connect(&self, address: &str, limit: Duration) -> Result<TcpStream> {
        let end = Instant::now() + limit;
        let connected = socket::connect(&self.address, limit).await;
        let mut tcp = connected.map_err(|error| error.wrap("the proxy cannot be reached"))?;
        let name = self.to_string();
        let asked = tokio::time::timeout_at(end, async {
            match self.scheme {
                Scheme::Http => self.ask_http(&mut tcp, address).await,
                Scheme::Socks5 => {
                    socks::ask(&mut tcp, &name, address, self.credentials.as_ref()).await
                }
            }
        });
        asked.await.unwrap_or_else(|_| {
            let detail = format!("it did not connect to {address} in time");
            Err(refusal(&name, Kind::Unavailable, detail))
        })?;
        Ok(tcp)
    }

    async fn ask_http(&self, tcp: &mut TcpStream, address: &str) -> Result<()> {
        let name = self.to_string();
        let broken = |error| broken(&name, error);
        tcp.write_all(self.request(address).as_bytes()).await.map_err(broken)?;
        let head = read_head(tcp, &name).await?;
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let shown = line.get(..80).unwrap_or(line).escape_ascii().to_string();
        match status(line) {
            Some(200..=299) => Ok(()),
            Some(407) => {
                let detail = "it wants a user and a password".to_owned();
                Err(refusal(&name, Kind::Denied, detail)
                    .remedied_by("set the proxy as http://user:password@host:port"))
            }
            Some(_) => {
                let detail = format!("it does not connect to {address}: \"{shown}\"");
                Err(refusal(&name, Kind::Unavailable, detail))
            }
            None => {
                let detail = format!("it does not speak HTTP, it answers \"{shown}\"");
                Err(refusal(&name, Kind::Unavailable, detail))
            }
        }
    }

    fn request(&self, address: &str) -> Zeroizing<String> {
        let mut text = Zeroizing::new(format!(
            "CONNECT {address} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: carreto\r\n"
        ));
        if let Some(Credentials { user, password }) = &self.credentials {
            let both = Zeroizing::new(format!("{}:{}", user.as_str(), password.as_str()));
            let packed = Zeroizing::new(STANDARD.encode(both.as_bytes()));
            text.push_str("Proxy-Authorization: Basic ");
            text.push_str(&packed);
            text.push_str("\r\n");
        }
        text.push_str("\r\n");
        text
    }
}

/// The head of an answer. Byte by byte: what follows it belongs to TLS.
async fn read_head(tcp: &mut TcpStream, name: &str) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= HEAD_LIMIT {
            let detail = format!("its answer has more than {HEAD_LIMIT} bytes");
            return Err(refusal(name, Kind::Unavailable, detail));
        }
        head.push(tcp.read_u8().await.map_err(|error| broken(name, error))?);
    }
    Ok(head)
}

/// The status of `HTTP/1.x NNN …`.
fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let digits = rest.get(2..5).filter(|_| rest.get(1) == Some(&b' '))?;
    let ended = matches!(rest.get(5), None | Some(b' '));
    let digits = digits.iter().all(u8::is_ascii_digit).then_some(digits)?;
    std::str::from_utf8(digits).ok().filter(|_| ended)?.parse().ok()
}

/// The error of a connection to the proxy that broke.
pub(super) fn broken(name: &str, error: std::io::Error) -> Error {
    refusal(name, Kind::Unavailable, "it closed the connection".to_owned()).caused_by(error)
}

/// The error of a proxy that does not do what it is asked.
pub(super) fn refusal(name: &str, kind: Kind, detail: String) -> Error {
    Error::new(kind, detail)
        .during("ask the proxy")
        .path(name)
        .remedied_by("check that the proxy allows connections to the receiver's address and port")
}

impl FromStr for Proxy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // The text may hold a password: no message repeats it.
        let bad = |what: &'static str| {
            Error::new(Kind::Usage, what)
                .during("read the address of the proxy")
                .remedied_by("write http://user:password@host:port or socks5://host:port")
        };
        let (scheme, rest) = text.split_once("://").ok_or(bad("it is no URL"))?;
        let (scheme, port) = match scheme {
            "http" => (Scheme::Http, 8080),
            "socks5" | "socks5h" => (Scheme::Socks5, 1080),
            _ => return Err(bad("its scheme is neither http nor socks5")),
        };
        // As a scheme without a usual port, or `:80` would be taken for no port.
        let url = url::Url::parse(&format!("socks5://{rest}")).map_err(|_| bad("it is no URL"))?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(bad("it has no host"))?;
        let port = url.port().unwrap_or(port);
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(bad("something follows its port"));
        }
        let address = format!("{host}:{port}");
        super::token::check_address(&address).map_err(|_| bad("its host is no name or address"))?;
        let credentials = match (url.username(), url.password()) {
            ("", None) => None,
            (user, password) => Some(
                decode(user, password.unwrap_or_default())
                    .ok_or(bad("its user or password is not UTF-8"))?,
            ),
        };
        Ok(Self { scheme, address, credentials })
    }
}

impl TryFrom<String> for Proxy {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Zeroizing::new(text).parse()
    }
}

/// `None` when they are no text.
fn decode(user: &str, password: &str) -> Option<Credentials> {
    let decode = |text: &str| {
        let decoded = percent_encoding::percent_decode_str(text).decode_utf8().ok()?;
        Some(Zeroizing::new(decoded.into_owned()))
    };
    Some(Credentials { user: decode(user)?, password: decode(password)? })
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Socks5 => "socks5",
        };
        write!(f, "{scheme}://{}", self.address)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}
