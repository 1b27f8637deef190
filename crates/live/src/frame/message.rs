//! Messages as JSON in a payload.

use carreto_error::{Error, Kind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Objects and lists inside each other, at most.
const DEPTH: usize = 24;

/// The payload that says `message`.
///
/// # Errors
/// `Internal` when the type has no form in JSON.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(message).map_err(|cause| {
        Error::new(Kind::Internal, "the message has no form in JSON")
            .during("write a message")
            .caused_by(cause)
    })
}

/// The message in `payload`, whose bytes the frame has bounded. Fields that the type does not have
/// are skipped unless the type says otherwise, so that a newer version may say more.
///
/// # Errors
/// `Corrupt` naming what is wrong and where; `Limit` when it is nested more than 24 deep.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T> {
    if depth(payload) > DEPTH {
        let detail = format!("the message is nested more than {DEPTH} deep");
        return Err(refusal(Kind::Limit, detail));
    }
    serde_json::from_slice(payload).map_err(|cause| {
        let (line, column) = (cause.line(), cause.column());
        let what = match cause.classify() {
            serde_json::error::Category::Data => "has a field that is missing or unexpected",
            serde_json::error::Category::Eof => "ends too early",
            _ => "is no JSON",
        };
        let detail = format!("the message {what}, at line {line}, column {column}");
        refusal(Kind::Corrupt, detail).caused_by(cause)
    })
}

/// How deep objects and lists lie in `text`. Exact for JSON, any number for other bytes.
fn depth(text: &[u8]) -> usize {
    let (mut deepest, mut now) = (0_usize, 0_usize);
    let (mut quoted, mut escaped) = (false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => now += 1,
            b']' | b'}' if !quoted => now = now.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(now);
    }
    deepest
}

fn refusal(kind: Kind, detail: String) -> Error {
    Error::new(kind, detail)
        .during("read a message")
        .remedied_by("use the same version of carreto at both ends")
}
