//! The random bytes of a join token, and the digest that the receiver keeps of them.

use super::{Hidden, hex};
use carreto_error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use zeroize::Zeroize as _;

/// What separates this digest from any other use of BLAKE3.
const CONTEXT: &str = "carreto-live 2026 secret of a join token";

/// 32 random bytes that let their holder introduce one key. Erased from memory when dropped;
/// `Debug` never shows them.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A new one.
    ///
    /// # Errors
    /// `Io` when the system has no random bytes.
    pub fn random() -> Result<Self> {
        let mut secret = Self([0; 32]);
        aws_lc_rs::rand::fill(&mut secret.0)
            .map_err(|_| Error::new(Kind::Io, "the system gave no random bytes"))?;
        Ok(secret)
    }

    /// The secret that consists of `bytes`.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the token and for the one message that proves possession.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The secret as hexadecimal digits, for that message.
    pub fn to_text(&self) -> Hidden {
        Hidden::new(hex::encode(&self.0))
    }

    /// What the receiver stores: of no use to whoever reads it there.
    pub fn digest(&self) -> SecretDigest {
        SecretDigest(blake3::derive_key(CONTEXT, &self.0))
    }
}

impl FromStr for Secret {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // The text is a secret: the error does not repeat it.
        let refusal = || Error::new(Kind::Denied, "the secret is not 64 hexadecimal digits");
        hex::decode(text).map(Self).ok_or_else(refusal)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        equal(&self.0, &other.0)
    }
}

impl Eq for Secret {}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The digest of a [`Secret`], stored as 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretDigest([u8; 32]);

impl SecretDigest {
    /// Whether `secret` is the one, in a time that does not depend on how much of it is right.
    pub fn matches(&self, secret: &Secret) -> bool {
        equal(&self.0, &secret.digest().0)
    }
}

impl TryFrom<String> for SecretDigest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        let refusal = || Error::new(Kind::Usage, "the digest is not 64 hexadecimal digits");
        hex::decode(&text).map(Self).ok_or_else(refusal)
    }
}

impl From<SecretDigest> for String {
    fn from(digest: SecretDigest) -> Self {
        hex::encode(&digest.0)
    }
}

fn equal(left: &[u8; 32], right: &[u8; 32]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(left, right).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_digest_is_told() {
        let secret = Secret::random().unwrap();
        let other = Secret::random().unwrap();
        assert_ne!(secret, other);
        assert!(secret.digest().matches(&secret));
        assert!(!secret.digest().matches(&other));
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        let text = secret.to_text();
        assert!(!String::from(secret.digest()).contains(text.expose()));
        assert_eq!(text.expose().parse::<Secret>().unwrap(), secret);
        let error = "abc".parse::<Secret>().unwrap_err();
        assert!(!error.to_string().contains("abc"));
    }

    #[test]
    fn a_digest_survives_storing() {
        let secret = Secret::random().unwrap();
        let stored = serde_json::to_string(&secret.digest()).unwrap();
        let read: SecretDigest = serde_json::from_str(&stored).unwrap();
        assert!(read.matches(&secret));
        assert!(serde_json::from_str::<SecretDigest>("\"00\"").is_err());
    }
}
