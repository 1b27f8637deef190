//! What names a key: a digest short enough to print, compare and remember.

use super::hex;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use carreto_error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What comes before the 32 bytes of the key in a `SubjectPublicKeyInfo` (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// What a printed fingerprint begins with.
const TEXT_PREFIX: &str = "sha256:";

/// The SHA-256 of an Ed25519 key's `SubjectPublicKeyInfo`, written `sha256:<64 hex digits>`.
///
/// `openssl pkey -in FILE.key -pubout -outform DER | sha256sum` prints the same digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a raw Ed25519 public key.
    pub fn of_key(public_key: &[u8; 32]) -> Self {
        let spki = [SPKI_PREFIX.as_slice(), public_key].concat();
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, &spki).as_ref());
        Self(bytes)
    }

    /// The fingerprint whose digest is `bytes`.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The raw key in a DER `SubjectPublicKeyInfo`, `None` when it is no Ed25519 key.
pub(super) fn key_of_spki(spki: &[u8]) -> Option<[u8; 32]> {
    spki.strip_prefix(&SPKI_PREFIX)?.try_into().ok()
}

/// Checks an Ed25519 signature.
///
/// # Errors
/// `Denied` when `signature` is not that of `public_key` over `message`.
pub fn verify_signature(public_key: &[u8; 32], message: &[u8], signature: &[u8]) -> Result<()> {
    UnparsedPublicKey::new(&ED25519, public_key).verify(message, signature).map_err(|_| {
        let key = Fingerprint::of_key(public_key);
        Error::new(Kind::Denied, format!("the signature is not that of the key {key}"))
            .during("check a signature")
    })
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TEXT_PREFIX}{}", hex::encode(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits = text.strip_prefix(TEXT_PREFIX).unwrap_or_default();
        hex::decode(digits).map(Self).ok_or_else(|| {
            let start: String = text.chars().take(80).collect();
            let wanted = "expected sha256: and 64 lower-case hexadecimal digits";
            Error::new(Kind::Usage, format!("the fingerprint is {start:?}, {wanted}"))
        })
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}
