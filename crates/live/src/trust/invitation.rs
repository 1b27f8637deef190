//! What the receiver remembers of a token it printed, and the decision whether a key may come in.

use super::{Fingerprint, Secret, SecretDigest};
use carreto_error::{Error, Kind, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The receiver's half of a join token: good for one key, until a time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Invitation {
    /// The server it is for.
    pub server: String,
    /// The digest of the token's secret.
    pub secret: SecretDigest,
    /// When it ends by itself.
    pub expires: Timestamp,
    /// The key that came with it.
    #[serde(default)]
    pub redeemed_by: Option<Fingerprint>,
}

impl Invitation {
    /// Lets the key `by` in, which showed `secret`, and remembers it.
    ///
    /// The key that is in already may come again, also late: the answer may have been lost on its
    /// first way.
    ///
    /// # Errors
    /// `Denied`: another secret, too late, or used by another key.
    pub fn redeem(&mut self, secret: &Secret, by: Fingerprint, now: Timestamp) -> Result<()> {
        if !self.secret.matches(secret) {
            return Err(self.refusal("its secret is not the one that was printed"));
        }
        match self.redeemed_by {
            Some(first) if first == by => Ok(()),
            Some(first) => {
                Err(self.refusal(&format!("the key {first} has used it, the key {by} comes late")))
            }
            None if now >= self.expires => {
                Err(self.refusal(&format!("it expired at {}, it is {now} now", self.expires)))
            }
            None => {
                self.redeemed_by = Some(by);
                Ok(())
            }
        }
    }

    fn refusal(&self, why: &str) -> Error {
        Error::new(Kind::Denied, format!("the join token for {}: {why}", self.server))
            .during("admit an agent")
            .remedied_by(crate::remedy::NEW_TOKEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> Fingerprint {
        Fingerprint::of_key(&[number; 32])
    }

    #[test]
    fn one_key_in_time() {
        let secret = Secret::random().unwrap();
        let expires: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let before: Timestamp = "2026-01-02T03:04:04Z".parse().unwrap();
        let fresh = Invitation {
            server: "web1".to_owned(),
            secret: secret.digest(),
            expires,
            redeemed_by: None,
        };
        let mut late = fresh.clone();
        let error = late.redeem(&secret, key(1), expires).unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
        assert!(error.to_string().contains("expired at 2026-01-02T03:04:05Z"), "{error}");
        assert_eq!(late.redeemed_by, None);

        let mut used = fresh.clone();
        assert!(used.redeem(&Secret::random().unwrap(), key(1), before).is_err());
        used.redeem(&secret, key(1), before).unwrap();
        used.redeem(&secret, key(1), expires).unwrap();
        let error = used.redeem(&secret, key(2), before).unwrap_err();
        assert!(error.to_string().contains(&key(1).to_string()), "{error}");
        assert_eq!(used.redeemed_by, Some(key(1)));
    }
}
