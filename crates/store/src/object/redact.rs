//! Keeping known secrets out of texts that others wrote.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// Texts shorter than this are not looked for: they would blank out ordinary words.
const SHORTEST: usize = 6;

/// The longest text of a foreign error or answer that is repeated, in characters.
const LONGEST: usize = 400;

/// The secrets of one store, the longest first; clones share them. `Debug` prints none of them.
#[derive(Clone, Default)]
pub(super) struct Redactor(Arc<RwLock<Vec<String>>>);

impl Redactor {
    pub(super) fn new<'s>(secrets: impl IntoIterator<Item = &'s str>) -> Self {
        let redactor = Self::default();
        redactor.learn(secrets);
        redactor
    }

    /// Keeps further secrets out from now on.
    pub(super) fn learn<'s>(&self, secrets: impl IntoIterator<Item = &'s str>) {
        let mut list = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for secret in secrets {
            if secret.len() >= SHORTEST && !list.iter().any(|known| known == secret) {
                list.push(secret.to_owned());
            }
        }
        list.sort_by_key(|text| std::cmp::Reverse(text.len()));
    }

    /// `text` in one line, without secrets, of bounded length.
    pub(super) fn clean(&self, text: &str) -> String {
        let mut clean = text.to_owned();
        for secret in &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            clean = clean.replace(secret.as_str(), "***");
        }
        clean.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secrets = self.0.read().unwrap_or_else(PoisonError::into_inner);
        write!(f, "Redactor({} secrets)", secrets.len())
    }
}
