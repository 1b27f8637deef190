//! The line of text that introduces an agent to a receiver.
//!
//! `carreto1.` and base64url of: the length of all that follows it (2 bytes, little-endian), when
//! it expires (8 bytes, seconds of Unix time, 0 for never), the receiver's fingerprint (32), the
//! secret (32), the server's name and then the addresses as texts of a length byte and UTF-8, the
//! number of addresses in a byte before them, and the first 4 bytes of the BLAKE3 of all that. The
//! length and the checksum tell a token that was cut off or changed while it was copied.

use super::{Fingerprint, Secret};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use carreto_error::{Error, Kind, Result};
use jiff::Timestamp;
use std::fmt;
use std::str::FromStr;
use zeroize::Zeroizing;

/// What every token of this version begins with.
const PREFIX: &str = "carreto1.";
/// Characters of a token, at most.
const TEXT_LIMIT: usize = 4096;
/// Addresses in a token, at most.
const ADDRESS_LIMIT: usize = 8;
/// Bytes of a name of a server or of a host, at most.
const NAME_LIMIT: usize = 64;
/// Bytes of a host and its port, at most: a DNS name has 253.
const ADDRESS_BYTES: usize = 255;
/// Bytes of the checksum.
const CHECKSUM: usize = 4;

/// What an agent needs to find its receiver, to recognise it and to be let in once.
///
/// `Display` is the token itself, secret included, for printing it once; `Debug` hides the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Where the receiver listens, `host:port`, in the order to try; 1 to 8.
    pub addresses: Vec<String>,
    /// The receiver's key.
    pub receiver: Fingerprint,
    /// The name of the server, which the receiver chose.
    pub server: String,
    /// What lets the agent in.
    pub secret: Secret,
    /// When the receiver stops accepting it, to the second; the receiver's own record decides.
    pub expires: Option<Timestamp>,
}

impl JoinToken {
    /// Checks that the fields fit in a token.
    ///
    /// # Errors
    /// `Usage` naming the field.
    pub fn check(&self) -> Result<()> {
        check_server_name(&self.server)?;
        if self.addresses.is_empty() || self.addresses.len() > ADDRESS_LIMIT {
            let count = self.addresses.len();
            return Err(unfit(format!("{count} addresses, expected 1 to {ADDRESS_LIMIT}")));
        }
        self.addresses.iter().try_for_each(|address| check_address(address))
    }

    /// Whether it is of no use any more at `now`, by the clock of this machine.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|end| now >= end)
    }

    fn payload(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(vec![0, 0]);
        let end = self.expires.map_or(0, |end| end.as_second().max(1));
        bytes.extend_from_slice(&end.to_le_bytes());
        bytes.extend_from_slice(self.receiver.as_bytes());
        bytes.extend_from_slice(self.secret.expose());
        put_text(&mut bytes, &self.server);
        bytes.push(u8::try_from(self.addresses.len()).unwrap_or(u8::MAX));
        self.addresses.iter().for_each(|address| put_text(&mut bytes, address));
        let rest = u16::try_from(bytes.len() - 2 + CHECKSUM).unwrap_or(u16::MAX);
        bytes[..2].copy_from_slice(&rest.to_le_bytes());
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        bytes
    }
}

/// Checks the name of a server: 1 to 64 letters, digits, `.`, `_` and `-`, the first one a letter
/// or a digit, so that it can be part of a file's name.
///
/// # Errors
/// `Usage` with the name.
pub fn check_server_name(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if first && name.len() <= NAME_LIMIT && name.bytes().all(plain) {
        return Ok(());
    }
    let start: String = name.chars().take(NAME_LIMIT + 1).collect();
    let wanted = "expected 1 to 64 letters, digits, '.', '_' and '-'";
    Err(unfit(format!("the name of the server is {start:?}, {wanted}")))
}

/// Checks `host:port` without asking anybody.
pub(super) fn check_address(address: &str) -> Result<()> {
    let parts = address.rsplit_once(':');
    let good = parts.is_some_and(|(host, port)| is_host(host) && is_port(port));
    if good && address.len() <= ADDRESS_BYTES {
        return Ok(());
    }
    let start: String = address.chars().take(ADDRESS_BYTES + 1).collect();
    Err(unfit(format!("the address is {start:?}, expected host:port")))
}

fn is_host(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        let inner = rest.strip_suffix(']');
        return inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !host.is_empty() && host.bytes().all(plain)
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    // `check` keeps texts below 256 bytes; one that is longer makes a token that does not parse.
    bytes.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    bytes.extend_from_slice(text.as_bytes());
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let [a, b, c, d, ..] = *blake3::hash(bytes).as_bytes();
    [a, b, c, d]
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = Zeroizing::new(URL_SAFE_NO_PAD.encode(&*self.payload()));
        write!(f, "{PREFIX}{}", text.as_str())
    }
}

impl FromStr for JoinToken {
    type Err = Error;

    /// White space is dropped wherever it is: terminals break long lines.
    fn from_str(text: &str) -> Result<Self> {
        if text.len() > TEXT_LIMIT {
            return Err(damaged(format!("it has {} bytes, at most {TEXT_LIMIT}", text.len())));
        }
        let text: Zeroizing<String> =
            Zeroizing::new(text.chars().filter(|c| !c.is_whitespace()).collect());
        let Some(encoded) = text.strip_prefix(PREFIX) else {
            return Err(foreign(&text));
        };
        let bytes = Zeroizing::new(decode_base64(encoded)?);
        let token = parse(sealed(&bytes)?)?;
        token.check()?;
        Ok(token)
    }
}

fn foreign(text: &str) -> Error {
    let version = text.strip_prefix("carreto").and_then(|rest| rest.split_once('.'));
    match version {
        Some((digits, _)) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            let what = format!("its version is {}, expected 1", digits.get(..8).unwrap_or(digits));
            damaged(what).remedied_by("use the same version of carreto at both ends")
        }
        _ => damaged(format!("it does not begin with {PREFIX:?}")),
    }
}

fn decode_base64(text: &str) -> Result<Vec<u8>> {
    // A character too much or too few leaves a rest that base64 cannot have; the length says more.
    let whole = text.len() - usize::from(text.len() % 4 == 1);
    let prefix = text.get(..whole).unwrap_or_default();
    let lenient = base64::engine::GeneralPurpose::new(
        &base64::alphabet::URL_SAFE,
        base64::engine::GeneralPurposeConfig::new()
            .with_encode_padding(false)
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::RequireNone),
    );
    let bytes = lenient
        .decode(prefix)
        .map_err(|_| damaged("it has characters that no token has".to_owned()))?;
    if whole != text.len() || URL_SAFE_NO_PAD.encode(&bytes) != text {
        // Says whether it is cut, or else changed.
        sealed(&bytes)?;
        return Err(damaged("its last character was changed or added".to_owned()));
    }
    Ok(bytes)
}

/// The fields between the length and the checksum, both of which hold.
fn sealed(bytes: &[u8]) -> Result<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<2>().ok_or_else(|| cut(bytes.len(), 2))?;
    let wanted = usize::from(u16::from_le_bytes(*length));
    if rest.len() < wanted {
        return Err(cut(bytes.len(), wanted + 2));
    }
    if rest.len() > wanted {
        let more = rest.len() - wanted;
        return Err(damaged(format!("{more} bytes follow its end")));
    }
    let fields = rest.split_last_chunk::<CHECKSUM>();
    let (fields, sum) = fields.ok_or_else(|| cut(bytes.len(), 2 + CHECKSUM))?;
    if *sum != checksum(&bytes[..bytes.len() - CHECKSUM]) {
        return Err(damaged("its checksum does not match: a character was changed".to_owned()));
    }
    Ok(fields)
}

pub(super) fn parse(fields: &[u8]) -> Result<JoinToken> {
    let mut rest = fields;
    let seconds = i64::from_le_bytes(*take(&mut rest, "time of expiry")?);
    let receiver = Fingerprint::from_bytes(*take(&mut rest, "fingerprint")?);
    let secret = Secret::from_bytes(*take(&mut rest, "secret")?);
    let server = take_text(&mut rest, "name of the server")?;
    let [count] = *take::<1>(&mut rest, "number of addresses")?;
    if usize::from(count) > ADDRESS_LIMIT {
        return Err(damaged(format!("{count} addresses, at most {ADDRESS_LIMIT}")));
    }
    let addresses = (0..count).map(|_| take_text(&mut rest, "address")).collect::<Result<_>>()?;
    if !rest.is_empty() {
        return Err(damaged(format!("{} bytes follow its addresses", rest.len())));
    }
    let expires =
        match seconds {
            0 => None,
            seconds => Some(Timestamp::from_second(seconds).map_err(|_| {
                damaged(format!("its time of expiry is {seconds}, which is no time"))
            })?),
        };
    Ok(JoinToken { addresses, receiver, server, secret, expires })
}

fn take<'a, const N: usize>(rest: &mut &'a [u8], field: &str) -> Result<&'a [u8; N]> {
    let (head, tail) =
        rest.split_first_chunk().ok_or_else(|| damaged(format!("it ends in its {field}")))?;
    *rest = tail;
    Ok(head)
}

fn take_text(rest: &mut &[u8], field: &str) -> Result<String> {
    let [len] = *take::<1>(rest, field)?;
    let (head, tail) = rest
        .split_at_checked(usize::from(len))
        .ok_or_else(|| damaged(format!("it ends in its {field}")))?;
    *rest = tail;
    let text = std::str::from_utf8(head);
    text.map(str::to_owned).map_err(|_| damaged(format!("its {field} is not UTF-8")))
}

fn cut(found: usize, wanted: usize) -> Error {
    damaged(format!("it was cut off: it has {found} bytes, {wanted} are needed"))
}

fn damaged(what: String) -> Error {
    Error::new(Kind::Usage, what)
        .during("read the join token")
        .remedied_by("copy the whole token again, from `carreto1.` to its last character")
}

fn unfit(what: String) -> Error {
    Error::new(Kind::Usage, what).during("make a join token")
}
