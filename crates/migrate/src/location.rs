//! The name of an image, without the secrets that a URL can carry.
//!
//! A presigned URL holds its signature in its query. What is printed or stored leaves the query
//! out, and a job is named without the signature, so that a renewed one resumes.

use carreto_store::Location;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// `text`, as a user typed it, for people and documents.
pub fn shown_location(text: &str) -> String {
    match text.parse() {
        Ok(Location::Object(url)) => url.to_string(),
        Ok(Location::Nbd(address)) => address.to_string(),
        Ok(Location::File(_)) => text.to_owned(),
        Err(_) => match text.split_once("://") {
            Some((scheme, _)) => format!("{scheme}://***"),
            None => text.to_owned(),
        },
    }
}

/// The same text for the same image, however it is spelled and signed. Free of secrets.
pub(crate) fn key(text: &str) -> String {
    match text.parse() {
        Ok(Location::Object(url)) => url.identity(),
        Ok(Location::Nbd(address)) => address.identity(),
        Ok(Location::File(path)) => path_text(&absolute(&path)),
        Err(_) => shown_location(text),
    }
}

/// The path with its directory resolved, so that the same file has the same name from anywhere.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    let resolved = path.canonicalize().or_else(|_| {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or_else(|| Path::new(".")).canonicalize()?;
        Ok::<_, std::io::Error>(parent.join(path.file_name().unwrap_or_default()))
    });
    resolved.unwrap_or_else(|_| path.to_owned())
}

/// A text that two paths share only when they are equal.
fn path_text(path: &Path) -> String {
    let escaped = |path: &Path| path.as_os_str().as_bytes().escape_ascii().to_string();
    path.to_str().map_or_else(|| escaped(path), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_neither_shown_nor_part_of_the_name() {
        let plain = "https://host/disk.qcow2";
        for query in [
            "X-Amz-Signature=CANARY&X-Amz-Date=1&X-Amz-Credential=CANARY",
            "sv=2024-11-04&se=2026-01-01&sr=b&sp=r&sig=CANARY",
            "X-Goog-Signature=CANARY&X-Goog-Expires=60",
            "q-sign-algorithm=sha1&q-ak=CANARY&q-signature=CANARY",
            "AWSAccessKeyId=CANARY&Signature=CANARY&Expires=1#CANARY",
        ] {
            let url = format!("{plain}?{query}");
            assert_eq!(shown_location(&url), "https://host/disk.qcow2?***");
            assert_eq!(key(&url), plain, "{query}");
        }
        let other = key("https://host/disk?version=CANARY");
        assert!(!other.contains("CANARY"));
        assert_ne!(other, key("https://host/disk?version=2"));
        assert_eq!(other, key("https://host/disk?X-Amz-Signature=1&version=CANARY"));
        assert_eq!(shown_location("https://user:CANARY@host/disk"), "https://***");
        assert_eq!(key("s3://bucket/a?b"), "s3://bucket/a?b", "part of the key");
    }

    #[test]
    fn a_file_has_one_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        std::fs::write(&path, [1]).unwrap();
        let text = path.to_str().unwrap();
        std::fs::create_dir(directory.path().join("sub")).unwrap();
        let around = directory.path().join("sub/../disk");
        for other in [around.to_str().unwrap().to_owned(), format!("file://{text}")] {
            assert_eq!(key(&other), key(text));
        }
    }
}
