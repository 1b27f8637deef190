//! Keeping known secrets out of texts that others wrote.

use std::fmt;

/// Texts shorter than this are not looked for: they would blank out ordinary words.
const SHORTEST: usize = 6;

/// The longest text of a foreign error or answer that is repeated, in characters.
const LONGEST: usize = 400;

/// The secrets of one store. `Debug` prints none of them.
#[derive(Clone, Default)]
pub(super) struct Redactor(Vec<String>);

impl Redactor {
    pub(super) fn new<'s>(secrets: impl IntoIterator<Item = &'s str>) -> Self {
        let mut list: Vec<String> =
            secrets.into_iter().filter(|text| text.len() >= SHORTEST).map(str::to_owned).collect();
        list.sort_by_key(|text| std::cmp::Reverse(text.len()));
        Self(list)
    }

    /// `text` in one line, without secrets, of bounded length.
    pub(super) fn clean(&self, text: &str) -> String {
        let mut clean = text.to_owned();
        for secret in &self.0 {
            clean = clean.replace(secret.as_str(), "***");
        }
        clean.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({} secrets)", self.0.len())
    }
}
