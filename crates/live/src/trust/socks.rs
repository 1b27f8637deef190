//! The client's side of SOCKS 5 (RFC 1928), with user and password (RFC 1929).

use super::proxy::{Credentials, broken, refusal};
use carreto_error::{Kind, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use zeroize::Zeroizing;

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;
const CONNECT: u8 = 1;
const DOMAIN: u8 = 3;

/// Asks the proxy `name` at the other end of `stream` to connect to `address` (`host:port`).
pub(super) async fn ask<S>(
    stream: &mut S,
    name: &str,
    address: &str,
    credentials: Option<&Credentials>,
) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    authenticate(stream, name, credentials).await?;
    let request = request(address).ok_or_else(|| {
        refusal(name, Kind::Usage, format!("{address:?} does not fit in a request of SOCKS"))
    })?;
    stream.write_all(&request).await.map_err(|error| broken(name, error))?;
    let [version, reply, _, kind] = read(stream, name).await?;
    if version != VERSION {
        return Err(other_protocol(name, version));
    }
    if reply != 0 {
        let detail = format!("it does not connect to {address}: {}", meaning(reply));
        return Err(refusal(name, Kind::Unavailable, detail));
    }
    skip_address(stream, name, kind).await
}

async fn authenticate<S>(
    stream: &mut S,
    name: &str,
    credentials: Option<&Credentials>,
) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let method = if credentials.is_some() { USER_AND_PASSWORD } else { NO_AUTHENTICATION };
    let hello: &[u8] = if credentials.is_some() {
        &[VERSION, 2, NO_AUTHENTICATION, USER_AND_PASSWORD]
    } else {
        &[VERSION, 1, NO_AUTHENTICATION]
    };
    stream.write_all(hello).await.map_err(|error| broken(name, error))?;
    let [version, chosen] = read(stream, name).await?;
    match credentials {
        _ if version != VERSION => Err(other_protocol(name, version)),
        _ if chosen == NO_AUTHENTICATION => Ok(()),
        Some(credentials) if chosen == method => prove(stream, name, credentials).await,
        _ => {
            let detail = "it accepts no way of signing in that is known".to_owned();
            Err(refusal(name, Kind::Denied, detail)
                .remedied_by("set the proxy as socks5://user:password@host:port"))
        }
    }
}

async fn prove<S>(stream: &mut S, name: &str, credentials: &Credentials) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut message = Zeroizing::new(vec![1]);
    for text in [&credentials.user, &credentials.password] {
        let Ok(len) = u8::try_from(text.len()) else {
            let detail = "user and password have at most 255 bytes each".to_owned();
            return Err(refusal(name, Kind::Usage, detail));
        };
        message.push(len);
        message.extend_from_slice(text.as_bytes());
    }
    stream.write_all(&message).await.map_err(|error| broken(name, error))?;
    match read(stream, name).await? {
        [_, 0] => Ok(()),
        _ => Err(refusal(name, Kind::Denied, "it refuses the user or the password".to_owned())),
    }
}

fn request(address: &str) -> Option<Vec<u8>> {
    let (host, port) = address.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let mut bytes = vec![VERSION, CONNECT, 0];
    match bare.parse() {
        Ok(std::net::IpAddr::V4(ip)) => {
            bytes.push(1);
            bytes.extend_from_slice(&ip.octets());
        }
        Ok(std::net::IpAddr::V6(ip)) => {
            bytes.push(4);
            bytes.extend_from_slice(&ip.octets());
        }
        Err(_) => {
            bytes.extend_from_slice(&[DOMAIN, u8::try_from(host.len()).ok()?]);
            bytes.extend_from_slice(host.as_bytes());
        }
    }
    bytes.extend_from_slice(&port.to_be_bytes());
    Some(bytes)
}

/// The address from which the proxy connects, which nobody needs.
async fn skip_address<S: AsyncRead + Unpin>(stream: &mut S, name: &str, kind: u8) -> Result<()> {
    let len = match kind {
        1 => 4,
        4 => 16,
        DOMAIN => usize::from(read::<1, S>(stream, name).await?[0]),
        other => {
            let detail = format!("its answer has an address of kind {other}, expected 1, 3 or 4");
            return Err(refusal(name, Kind::Unavailable, detail));
        }
    };
    for _ in 0..len + 2 {
        read::<1, S>(stream, name).await?;
    }
    Ok(())
}

async fn read<const N: usize, S: AsyncRead + Unpin>(stream: &mut S, name: &str) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await.map_err(|error| broken(name, error))?;
    Ok(bytes)
}

fn other_protocol(name: &str, version: u8) -> carreto_error::Error {
    let detail = format!("it does not speak SOCKS 5, its version is {version}");
    refusal(name, Kind::Unavailable, detail)
}

fn meaning(reply: u8) -> String {
    let text = match reply {
        1 => "it failed",
        2 => "its rules forbid it",
        3 => "the network cannot be reached",
        4 => "the host cannot be reached",
        5 => "the connection was refused",
        6 => "it took too long",
        7 => "it does not do that",
        8 => "it does not know such addresses",
        _ => return format!("reply {reply}"),
    };
    text.to_owned()
}
