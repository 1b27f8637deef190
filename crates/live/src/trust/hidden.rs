//! Texts that open doors and are shown to nobody.

use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::Zeroize as _;

/// A secret text as it is in a message or a configuration. Erased from memory when dropped;
/// `Debug` never shows it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hidden(String);

impl Hidden {
    /// Hides `text`.
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for who has to read or compare it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(…)")
    }
}
