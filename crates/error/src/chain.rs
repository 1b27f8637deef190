//! Walking an error and its causes.

use std::error::Error as StdError;

/// An iterator over an error and everything that caused it, outermost first.
#[derive(Debug, Clone)]
pub struct Chain<'a> {
    next: Option<&'a (dyn StdError + 'static)>,
}

impl<'a> Chain<'a> {
    /// Starts at `error` itself.
    pub fn new(error: &'a (dyn StdError + 'static)) -> Self {
        Self { next: Some(error) }
    }
}

impl<'a> Iterator for Chain<'a> {
    type Item = &'a (dyn StdError + 'static);

    fn next(&mut self) -> Option<Self::Item> {
        let current = self.next?;
        self.next = current.source();
        Some(current)
    }
}

/// The whole chain in one line, causes separated by `: `. A cause whose text the line already
/// holds is left out, because foreign errors print their own causes.
pub fn chain_text(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    for link in Chain::new(error) {
        let part = link.to_string();
        if text.contains(&part) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&part);
    }
    text
}
