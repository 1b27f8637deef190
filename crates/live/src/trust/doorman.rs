//! The receiver's side of a handshake.

use super::{Fingerprint, Identity, TlsStream, handshake, socket, tls};
use carreto_error::{Error, Kind, Result};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

/// The first byte of a TLS handshake record (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 22;
/// Bytes of another protocol that a message repeats.
const SHOWN: usize = 24;

/// Shakes hands with whoever connects, and says which key they have proved.
#[derive(Clone)]
pub struct Doorman {
    acceptor: TlsAcceptor,
}

impl Doorman {
    /// Answers as `identity`.
    ///
    /// # Errors
    /// `Internal` when TLS cannot be set up.
    pub fn new(identity: &Identity) -> Result<Self> {
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(tls::server(identity)?)) })
    }

    /// Shakes hands on `tcp` within `limit`. The key is proved, not yet trusted: the caller asks
    /// an [`Invitation`](super::Invitation) or its memory.
    ///
    /// Cancel safe: a dropped call closes the connection.
    ///
    /// # Errors
    /// `Unavailable` for a peer that is silent, breaks off or speaks something else; `Denied` for
    /// one without an Ed25519 certificate.
    pub async fn accept(
        &self,
        tcp: TcpStream,
        limit: Duration,
    ) -> Result<(TlsStream, Fingerprint)> {
        let peer = tcp.peer_addr().map_or_else(|_| "unknown".to_owned(), |peer| peer.to_string());
        let outcome = tokio::time::timeout(limit, self.shake(tcp, &peer)).await;
        outcome.unwrap_or_else(|_| Err(handshake::too_slow(&peer, limit.as_secs_f64())))
    }

    async fn shake(&self, tcp: TcpStream, peer: &str) -> Result<(TlsStream, Fingerprint)> {
        socket::prepare(&tcp, peer)?;
        check_start(&tcp, peer).await?;
        let stream = self.acceptor.accept(tcp).await;
        let stream = stream.map_err(|error| handshake::failure(peer, error))?;
        let key = handshake::finished(peer, stream.get_ref().1)?;
        Ok((stream.into(), key))
    }
}

/// Tells a browser or a scanner from an agent before TLS answers it with an alert.
async fn check_start(tcp: &TcpStream, peer: &str) -> Result<()> {
    let mut start = [0; SHOWN];
    let count = tcp.peek(&mut start).await.map_err(|error| handshake::failure(peer, error))?;
    match start[..count].first() {
        Some(&HANDSHAKE_RECORD) => Ok(()),
        Some(_) => Err(handshake::not_tls(peer, &start[..count])),
        None => Err(Error::new(Kind::Unavailable, "it was closed before a byte came")
            .during("shake hands")
            .path(peer)),
    }
}

impl std::fmt::Debug for Doorman {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Doorman").finish_non_exhaustive()
    }
}
