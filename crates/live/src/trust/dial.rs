//! The agent's side of a handshake.

use super::token::check_address;
use super::{Fingerprint, Identity, Proxy, TlsStream, handshake, identity, socket, tls};
use carreto_error::{Error, Kind, Result};
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

/// Connects to one receiver, recognised by its key.
#[derive(Clone)]
pub struct Dialer {
    connector: TlsConnector,
    name: ServerName<'static>,
    proxy: Option<Proxy>,
}

impl Dialer {
    /// Connects as `identity` to whoever has the key `receiver`, through `proxy` if there is one.
    ///
    /// # Errors
    /// `Internal` when TLS cannot be set up.
    pub fn new(identity: &Identity, receiver: Fingerprint, proxy: Option<Proxy>) -> Result<Self> {
        let name = ServerName::try_from(identity::CERTIFICATE_NAME)
            .map_err(|error| Error::new(Kind::Internal, "not a DNS name").caused_by(error))?;
        let connector = TlsConnector::from(Arc::new(tls::client(identity, receiver)?));
        Ok(Self { connector, name, proxy })
    }

    /// Connects to `address` (`host:port`) and shakes hands, within `limit` in all.
    ///
    /// In TLS 1.3 this end is done first: that the receiver refuses this end's key shows in the
    /// first read.
    ///
    /// Cancel safe: a dropped call closes the connection.
    ///
    /// # Errors
    /// `Unavailable` when the network, the proxy or the other end does not answer as it should;
    /// `Denied` naming both fingerprints when another key answers, or when the proxy wants other
    /// credentials; `Usage` when `address` is none.
    pub async fn dial(&self, address: &str, limit: Duration) -> Result<TlsStream> {
        check_address(address)?;
        let end = Instant::now() + limit;
        let tcp = self.connect(address, limit).await?;
        let shaken = tokio::time::timeout_at(end, self.connector.connect(self.name.clone(), tcp));
        let stream = match shaken.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(handshake::failure(address, error)),
            Err(_) => return Err(handshake::too_slow(address, limit.as_secs_f64())),
        };
        handshake::finished(address, stream.get_ref().1)?;
        Ok(stream.into())
    }

    /// [`Self::dial`] for the `addresses` of one receiver in their order, each within `limit`, and
    /// the one that answered.
    ///
    /// Cancel safe: a dropped call closes the connection.
    ///
    /// # Errors
    /// As [`Self::dial`] for the last address, unless a key was wrong: that comes first, since it
    /// may be an attack and never passes by waiting.
    pub async fn dial_any<'a>(
        &self,
        addresses: &'a [String],
        limit: Duration,
    ) -> Result<(TlsStream, &'a str)> {
        let mut worst = Error::new(Kind::Usage, "there is no address to connect to");
        for address in addresses {
            match self.dial(address, limit).await {
                Ok(stream) => return Ok((stream, address)),
                Err(_) if worst.kind() == Kind::Denied => {}
                Err(error) => worst = error,
            }
        }
        Err(worst)
    }

    async fn connect(&self, address: &str, limit: Duration) -> Result<TcpStream> {
        match &self.proxy {
            None => socket::connect(address, limit).await,
            Some(proxy) => proxy.connect(address, limit).await,
        }
    }
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").field("proxy", &self.proxy).finish_non_exhaustive()
    }
}
