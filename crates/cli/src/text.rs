//! Making text safe to show: names come from images, stores and file systems, and a terminal obeys
//! what it is sent.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// `text` with every character spelt out that would move the cursor, colour the terminal, begin a
/// line or change the order of what follows.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmful(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// The same for a JSON document, whose own line ends stay. Serialised strings hold no C0 control
/// characters any more, and what is left can stand in strings alone.
pub(crate) fn escape_json(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        if c >= '\u{7f}' && is_harmful(c) {
            // All of them lie in the basic plane: one escape each.
            let _infallible = write!(safe, "\\u{:04x}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Control characters, line separators, and those of the bidirectional algorithm (Unicode
/// Standard Annex 9, section 2).
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2066}'..='\u{2069}')
}

/// `text` with the query, which may be a signature, and the user of every web address left out.
/// An address reaches to the next white space.
pub(crate) fn redact(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = find_address(rest) {
        let (before, address) = rest.split_at(start);
        let end = address.find(char::is_whitespace).unwrap_or(address.len());
        safe.push_str(before);
        redact_address(&address[..end], &mut safe);
        rest = &address[end..];
    }
    safe.push_str(rest);
    safe
}

/// Where the next web address starts.
fn find_address(text: &str) -> Option<usize> {
    let lower = text.to_ascii_lowercase();
    ["http://", "https://"].iter().filter_map(|scheme| lower.find(scheme)).min()
}

fn redact_address(address: &str, safe: &mut String) {
    let (scheme, rest) = address.split_once("//").unwrap_or(("", address));
    let (place, hidden) = match rest.find(['?', '#']) {
        Some(at) => (&rest[..at], true),
        None => (rest, false),
    };
    let authority = place.split('/').next().unwrap_or_default();
    let host = authority.rfind('@').map_or(0, |at| at + 1);
    let user = if host > 0 { "***@" } else { "" };
    let query = if hidden { "?***" } else { "" };
    let _infallible = write!(safe, "{scheme}//{user}{}{query}", &place[host..]);
}

/// `word` as a shell takes it back: bare, quoted, or with escapes (`$'…'` of bash, zsh and ksh) when
/// it holds bytes that cannot be shown.
pub(crate) fn quote(word: &OsStr) -> String {
    let bytes = word.as_bytes();
    let is_bare = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-./:=@%+,".contains(byte);
    if !bytes.is_empty() && bytes.iter().all(is_bare) {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    if let Some(text) = word.to_str().filter(|text| !text.chars().any(is_harmful)) {
        return format!("'{}'", text.replace('\'', r"'\''"));
    }
    let mut quoted = String::from("$'");
    for byte in bytes {
        match byte {
            b' '..=b'~' if !br"\'".contains(byte) => quoted.push(char::from(*byte)),
            byte => {
                let _infallible = write!(quoted, "\\x{byte:02x}");
            }
        }
    }
    quoted.push('\'');
    quoted
}

/// The path as a `file` URL (RFC 8089), which can name every file.
pub(crate) fn file_url(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut url = String::from("file://");
    for byte in absolute.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(byte) {
            url.push(char::from(*byte));
        } else {
            let _infallible = write!(url, "%{byte:02X}");
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_spelt_out() {
        assert_eq!(escape("a\u{1b}[31mb\u{9b}0m"), "a\\u{1b}[31mb\\u{9b}0m");
        assert_eq!(escape("x\u{202e}y\nz"), "x\\u{202e}y\\nz");
        assert_eq!(escape("Grüße 磁盘"), "Grüße 磁盘");
        let json = serde_json::to_string("\u{9b}\u{7f}\u{202e}\u{1b}ü").unwrap_or_default();
        assert_eq!(escape_json(&json), "\"\\u009b\\u007f\\u202e\\u001bü\"");
        let back: Result<String, _> = serde_json::from_str(&escape_json(&json));
        assert_eq!(back.ok().as_deref(), Some("\u{9b}\u{7f}\u{202e}\u{1b}ü"));
    }

    #[test]
    fn addresses_lose_what_may_be_secret() {
        for (text, safe) in [
            ("https://h/p?sig=1", "https://h/p?***"),
            ("see HTTPS://u:p@h/p?sig=1 now", "see HTTPS://***@h/p?*** now"),
            ("http://h:1/a@b#f", "http://h:1/a@b?***"),
            ("http://h/p and https://h/q?x", "http://h/p and https://h/q?***"),
            ("https://h/p?***", "https://h/p?***"),
            ("s3://b/k?not-a-query", "s3://b/k?not-a-query"),
            ("İ https://h/p?sig", "İ https://h/p?***"),
        ] {
            assert_eq!(redact(text), safe);
        }
    }

    #[test]
    fn every_file_has_a_url() {
        let path = Path::new(OsStr::from_bytes(b"/a b/%\xff?#.raw"));
        assert_eq!(file_url(path), "file:///a%20b/%25%FF%3F%23.raw");
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        for (word, quoted) in [
            (&b"s3://b/k.qcow2"[..], "s3://b/k.qcow2"),
            (b"", "''"),
            (b"two words", "'two words'"),
            (b"it's", r"'it'\''s'"),
            (b"a$(b)", "'a$(b)'"),
            (b"\xff'\\", r"$'\xff\x27\x5c'"),
            ("x\u{202e}".as_bytes(), r"$'x\xe2\x80\xae'"),
        ] {
            assert_eq!(quote(OsStr::from_bytes(word)), quoted);
        }
    }
}
