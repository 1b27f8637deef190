//! Bounds of the texts in a certificate, which come from another machine and go to a terminal.

use carreto_error::{Error, Kind, Result};

/// Bytes of a name in a statement, at most.
const NAME_LIMIT: usize = 1024;

/// Checks that `text`, the field `field`, is 1 to 1024 bytes without control characters.
pub(super) fn check(field: &str, text: &str) -> Result<()> {
    if text.is_empty() || text.len() > NAME_LIMIT {
        let len = text.len();
        return Err(refusal(format!("{field} has {len} bytes, expected 1 to {NAME_LIMIT}")));
    }
    // Also what turns the direction of writing around, which would show other text than there is.
    let odd = |c: &char| {
        c.is_control() || matches!(*c, '\u{200e}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    match text.chars().find(odd) {
        None => Ok(()),
        Some(c) => {
            let code = u32::from(c);
            Err(refusal(format!("{field} has the control character U+{code:04X}, expected none")))
        }
    }
}

/// The error of a certificate that breaks a rule.
pub(super) fn refusal(detail: String) -> Error {
    Error::new(Kind::Corrupt, detail)
        .during("read the certificate")
        .remedied_by("get the certificate again from the receiver or the agent that made it")
}
