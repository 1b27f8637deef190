//! Connecting, and what is set on every socket.

use carreto_error::{Error, Kind, Result};
use rustix::net::sockopt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// Silence after which the kernel asks whether the other end is still there.
const IDLE: Duration = Duration::from_secs(15);
/// Time between two such questions.
const INTERVAL: Duration = Duration::from_secs(5);
/// Questions without an answer that end the connection.
const QUESTIONS: u32 = 6;
/// Milliseconds that data may stay unacknowledged before the connection ends.
const USER_TIMEOUT: u32 = 45_000;

/// Connects to `address` (`host:port`), trying each address of the host within `limit` in all.
///
/// Cancel safe: a dropped call leaves nothing but a question to the name service.
///
/// # Errors
/// `Unavailable` naming the address and why.
pub(super) async fn connect(address: &str, limit: Duration) -> Result<TcpStream> {
    let end = Instant::now() + limit;
    let found = match timeout_at(end, tokio::net::lookup_host(address)).await {
        Ok(Ok(found)) => found.collect::<Vec<SocketAddr>>(),
        Ok(Err(error)) => return Err(unknown_host(address).caused_by(error)),
        Err(_) => return Err(too_slow(address, limit)),
    };
    let mut last = unknown_host(address);
    for (index, candidate) in found.iter().enumerate() {
        match connect_one(*candidate, share(end, found.len() - index)).await {
            Ok(stream) => {
                prepare(&stream, address)?;
                return Ok(stream);
            }
            Err(Some(error)) => last = refused(address, error),
            Err(None) => last = too_slow(address, limit),
        }
    }
    Err(last)
}

/// The end of the next try when `left` are left: one that hangs leaves time for the others.
fn share(end: Instant, left: usize) -> Instant {
    let now = Instant::now();
    let rest = end.saturating_duration_since(now);
    now + rest / u32::try_from(left).unwrap_or(u32::MAX).max(1)
}

async fn connect_one(address: SocketAddr, end: Instant) -> Result<TcpStream, Option<io::Error>> {
    match timeout_at(end, TcpStream::connect(address)).await {
        Ok(outcome) => outcome.map_err(Some),
        Err(_) => Err(None),
    }
}

/// Small messages leave at once, and a peer that is gone is noticed.
///
/// # Errors
/// `Io` when the system refuses, which it has no reason to.
pub(super) fn prepare(stream: &TcpStream, peer: &str) -> Result<()> {
    set(stream).map_err(|errno| {
        Error::new(Kind::Io, "the system refuses an option of the socket")
            .during("connect")
            .path(peer)
            .caused_by(io::Error::from(errno))
    })
}

fn set(stream: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_tcp_nodelay(stream, true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, IDLE)?;
    sockopt::set_tcp_keepintvl(stream, INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, QUESTIONS)?;
    sockopt::set_tcp_user_timeout(stream, USER_TIMEOUT)
}

fn unknown_host(address: &str) -> Error {
    unreachable(address, "the name of the host has no address".to_owned())
        .remedied_by("check the name, or give the receiver's address in numbers")
}

fn too_slow(address: &str, limit: Duration) -> Error {
    unreachable(address, format!("no answer within {} s", limit.as_secs_f64())).remedied_by(
        "check that a firewall lets this server open connections to that address, or set a proxy",
    )
}

fn refused(address: &str, error: io::Error) -> Error {
    let (detail, remedy) = match error.kind() {
        ErrorKind::ConnectionRefused => (
            "the connection was refused",
            "start `carreto receive` there, or open its port in the firewall",
        ),
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => {
            ("there is no way to it", "check the routes of this server, or set a proxy")
        }
        _ => ("the connection failed", "check the network between the two ends"),
    };
    unreachable(address, detail.to_owned()).remedied_by(remedy).caused_by(error)
}

fn unreachable(address: &str, detail: String) -> Error {
    Error::new(Kind::Unavailable, detail).during("connect").path(address)
}
