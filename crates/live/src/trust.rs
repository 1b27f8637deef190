//! Who is who: keys that both ends make themselves, a token that introduces them, and TLS 1.3
//! connections on which each end proves its key.
//!
//! There is no authority. The receiver prints a [`JoinToken`] that names its key; the agent
//! accepts that key and no other. The receiver accepts any key while it shakes hands and learns
//! its [`Fingerprint`]; whether that key may send is decided above, by an [`Invitation`] the first
//! time and by the remembered fingerprint afterwards. `docs/decisions/0009` says why.

mod dial;
mod doorman;
mod fingerprint;
mod handshake;
pub(crate) mod hex;
mod hidden;
mod identity;
mod invitation;
mod key_file;
mod proxy;
mod secret;
mod socket;
mod socks;
mod tls;
mod token;
mod verifier;

#[cfg(test)]
mod proxy_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod token_tests;

pub use dial::Dialer;
pub use doorman::Doorman;
pub use fingerprint::{Fingerprint, verify_signature};
pub use hidden::Hidden;
pub use identity::Identity;
pub use invitation::Invitation;
pub use proxy::Proxy;
pub use secret::{Secret, SecretDigest};
pub use token::{JoinToken, check_server_name};

/// An encrypted connection whose both ends have proved their keys.
pub type TlsStream = tokio_rustls::TlsStream<tokio::net::TcpStream>;

/// What both ends name as the application protocol (ALPN, RFC 7301).
pub const PROTOCOL: &[u8] = b"carreto-live/1";
