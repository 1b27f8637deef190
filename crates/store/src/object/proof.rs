//! Whether an object is the one that an upload was to become.
//!
//! Asked when the answer to the last request is lost, or is a refusal because an earlier one
//! succeeded. Size and number of parts do not decide it: the object that was there before, or one
//! of another writer, may have the same. On S3 and its likes the `ETag` of an object of parts is
//! the MD5 of the MD5s of its parts, which are their `ETag`s (Amazon S3 user guide, "Checking
//! object integrity", "Multipart uploads"), so the names of the parts prove it. Elsewhere an object
//! counts that has another `ETag` than the one that was there when the upload began.

use super::upload::ObjectFacts;
use md5::{Digest as _, Md5};

/// What was under the name when the upload began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before<'e>(pub(super) Option<&'e str>);

/// Whether `found` was made of `parts`, the store's names for them in order, and has `size` bytes.
pub(super) fn is_made_of(
    found: &ObjectFacts,
    parts: &[String],
    size: u64,
    before: Before<'_>,
) -> bool {
    let Some(etag) = found.etag.as_deref().filter(|_| found.size == size) else {
        return false;
    };
    match (composite(etag), md5_of_parts(parts)) {
        (Some((digest, count)), Some(wanted)) => count == parts.len() && digest == wanted,
        // An object that was put at once.
        (None, Some(_)) if hex(etag.trim_matches('"')).is_some() => false,
        _ => before.0 != Some(etag),
    }
}

/// The digest and the number of parts in the `ETag` of an object of parts.
fn composite(etag: &str) -> Option<([u8; 16], usize)> {
    let (digest, count) = etag.trim_matches('"').split_once('-')?;
    Some((hex(digest)?, count.parse().ok()?))
}

fn md5_of_parts(parts: &[String]) -> Option<[u8; 16]> {
    let mut hasher = Md5::new();
    for part in parts {
        hasher.update(hex(etag_of(part))?);
    }
    Some(hasher.finalize().into())
}

/// The `ETag` in the name of a part, which `object_store` puts into XML beside its checksum.
fn etag_of(part: &str) -> &str {
    let element = part.split_once("<e_tag>").and_then(|(_, rest)| rest.split_once("</e_tag>"));
    let etag = element.map_or(part, |(etag, _)| etag);
    let etag = etag.strip_prefix("&quot;").unwrap_or(etag);
    etag.strip_suffix("&quot;").unwrap_or(etag).trim_matches('"')
}

fn hex(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTS: [&str; 2] =
        ["\"d6a7c2f6f1b2c2e8f7f4a1e0b4c1d2e3\"", "\"795f3202b17cb6bc3d4b771d8c6c9eaf\""];

    fn names() -> Vec<String> {
        PARTS.map(str::to_owned).to_vec()
    }

    fn facts(size: u64, etag: Option<&str>) -> ObjectFacts {
        ObjectFacts { size, etag: etag.map(str::to_owned) }
    }

    fn own() -> String {
        let mut hasher = Md5::new();
        for part in PARTS {
            hasher.update(u128::from_str_radix(part.trim_matches('"'), 16).unwrap().to_be_bytes());
        }
        let digest: [u8; 16] = hasher.finalize().into();
        format!("\"{:032x}-2\"", u128::from_be_bytes(digest))
    }

    #[test]
    fn the_digest_of_the_parts_decides() {
        let is_own =
            |etag: &str, size| is_made_of(&facts(size, Some(etag)), &names(), 7, Before(None));
        assert!(is_own(&own(), 7));
        assert!(!is_own(&own(), 8), "another size");
        assert!(!is_own(&own().replace("-2", "-3"), 7), "other parts");
        assert!(!is_own("\"00000000000000000000000000000000-2\"", 7), "another object");
        let with_sum = |part: &str| {
            format!("<PartMetadata><e_tag>{}</e_tag></PartMetadata>", part.replace('"', "&quot;"))
        };
        let summed: Vec<String> = PARTS.iter().map(|part| with_sum(part)).collect();
        assert!(is_made_of(&facts(7, Some(&own())), &summed, 7, Before(None)));
    }

    #[test]
    fn without_digests_what_was_there_before_does_not_count() {
        let names = vec!["block-1".to_owned(), "block-2".to_owned()];
        let is_own =
            |etag: Option<&str>, before| is_made_of(&facts(7, etag), &names, 7, Before(before));
        assert!(is_own(Some("\"0x8D\""), None));
        assert!(is_own(Some("\"0x8D\""), Some("\"0x7C\"")));
        assert!(!is_own(Some("\"0x8D\""), Some("\"0x8D\"")));
        assert!(!is_own(None, None), "nothing tells one object from another");
    }
}
