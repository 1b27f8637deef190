//! The settings of TLS: version 1.3 alone, a certificate from both ends, no resumption.

use super::verifier::KeyVerifier;
use super::{Fingerprint, Identity, PROTOCOL};
use carreto_error::{Error, Kind, Result};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use std::sync::Arc;

/// The agent's side, which accepts the key `pin`.
pub(super) fn client(identity: &Identity, pin: Fingerprint) -> Result<ClientConfig> {
    let provider = provider();
    let verifier = KeyVerifier::new(Some(pin), provider.signature_verification_algorithms);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(vec![identity.certificate()], identity.private_key())
        .map_err(unusable)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // Each connection proves the key, and the name of nothing is sent in the clear.
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// The receiver's side, which accepts any key.
pub(super) fn server(identity: &Identity) -> Result<ServerConfig> {
    let provider = provider();
    let verifier = KeyVerifier::new(None, provider.signature_verification_algorithms);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(unusable)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(vec![identity.certificate()], identity.private_key())
        .map_err(unusable)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn unusable(error: rustls::Error) -> Error {
    Error::new(Kind::Internal, "the settings of TLS do not fit together").caused_by(error)
}
