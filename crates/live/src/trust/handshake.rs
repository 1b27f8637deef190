//! What a failed handshake means to a person.

use super::identity::key_of_certificate;
use super::verifier::WrongKey;
use super::{Fingerprint, PROTOCOL};
use carreto_error::{Error, Kind, Result};
use rustls::{AlertDescription, CertificateError, CommonState, Error as Tls, InvalidMessage};
use std::io::{self, ErrorKind};

/// What is told when something other than the receiver answers.
const NOT_RECEIVER: &str = "check that the address is that of `carreto receive` and that nothing \
                            between the two ends takes TLS apart";

/// Classifies the `error` of a handshake with `peer`.
pub(super) fn failure(peer: &str, error: io::Error) -> Error {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Tls>());
    let (kind, detail) = match tls {
        Some(tls) => explain(tls),
        None if error.kind() == ErrorKind::UnexpectedEof => {
            (Kind::Unavailable, "the other end closed the connection".to_owned())
        }
        None => (Kind::Unavailable, "the connection broke".to_owned()),
    };
    let remedy = match kind {
        Kind::Denied => {
            "compare the fingerprint with the one that the receiver printed; if the \
                         receiver has a new key, join again with a new token"
        }
        _ => NOT_RECEIVER,
    };
    outcome(kind, detail, peer).remedied_by(remedy).caused_by(error)
}

fn explain(error: &Tls) -> (Kind, String) {
    match error {
        Tls::InvalidCertificate(CertificateError::Other(other)) => {
            match other.0.downcast_ref::<WrongKey>() {
                Some(wrong) => (Kind::Denied, wrong.to_string()),
                None => (Kind::Denied, "the certificate was refused".to_owned()),
            }
        }
        Tls::InvalidCertificate(_) | Tls::General(_) => {
            (Kind::Denied, "the other end shows no Ed25519 certificate of its own".to_owned())
        }
        Tls::NoCertificatesPresented => {
            (Kind::Denied, "the other end shows no certificate".to_owned())
        }
        Tls::PeerIncompatible(_) | Tls::AlertReceived(AlertDescription::ProtocolVersion) => {
            (Kind::Unavailable, "the other end does not speak TLS 1.3 with Ed25519".to_owned())
        }
        Tls::NoApplicationProtocol
        | Tls::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            (Kind::Unavailable, other_protocol())
        }
        Tls::InvalidMessage(InvalidMessage::InvalidContentType) => {
            (Kind::Unavailable, "the other end does not speak TLS".to_owned())
        }
        Tls::AlertReceived(alert) => {
            (Kind::Unavailable, format!("the other end ended the handshake: {alert:?}"))
        }
        _ => (Kind::Unavailable, "the other end breaks the rules of TLS".to_owned()),
    }
}

/// What is left to check of a connection whose handshake is over: the protocol, and whose key.
pub(super) fn finished(peer: &str, state: &CommonState) -> Result<Fingerprint> {
    if state.alpn_protocol() != Some(PROTOCOL) {
        let error = outcome(Kind::Unavailable, other_protocol(), peer);
        return Err(error.remedied_by(NOT_RECEIVER));
    }
    let certificate = state.peer_certificates().and_then(<[_]>::first);
    let key = certificate.ok_or("the other end shows no certificate").and_then(key_of_certificate);
    match key {
        Ok(key) => Ok(Fingerprint::of_key(&key)),
        Err(why) => Err(outcome(Kind::Denied, why.to_owned(), peer)),
    }
}

/// The error of a handshake that took longer than `seconds`.
pub(super) fn too_slow(peer: &str, seconds: f64) -> Error {
    let detail = format!("the other end did not finish it within {seconds} s");
    outcome(Kind::Unavailable, detail, peer).remedied_by(NOT_RECEIVER)
}

/// The error of a peer that began with `start` instead of a TLS record.
pub(super) fn not_tls(peer: &str, start: &[u8]) -> Error {
    let text: String = start.escape_ascii().to_string();
    let detail = format!("the other end does not speak TLS, it begins with \"{text}\"");
    outcome(Kind::Unavailable, detail, peer).remedied_by(NOT_RECEIVER)
}

fn other_protocol() -> String {
    "the other end speaks TLS, but not carreto-live/1".to_owned()
}

fn outcome(kind: Kind, detail: String, peer: &str) -> Error {
    Error::new(kind, detail).during("shake hands").path(peer)
}
