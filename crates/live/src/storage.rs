//! The small files of both ends: configurations, locks, and what has to survive as a whole.

use carreto_error::{Error, IoSide, Kind, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// The text of a configuration, or of a file that it names.
///
/// # Errors
/// `NotFound`, `Denied`, `Io`.
pub(crate) fn read_config(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| fail("read the configuration", path, error))
}

/// Understands `text`.
///
/// # Errors
/// `Usage` naming line, column and field, and never quoting `text`: it may hold a token or a
/// password.
pub(crate) fn parse_config<T: DeserializeOwned>(text: &str) -> Result<T> {
    toml::from_str(text).map_err(|mut error: toml::de::Error| {
        let place = error.span().map_or_else(String::new, |span| place(text, span.start));
        // With its input it would quote the line; without it, it names the field.
        error.set_input(None);
        let what = error.to_string();
        let what = what.trim_end().replace('\n', " ");
        Error::new(Kind::Usage, format!("the configuration is wrong{place}: {}", unquoted(&what)))
    })
}

/// `message` without a value of a wrong type: `invalid type: string "…", expected u16`.
fn unquoted(message: &str) -> String {
    let parts = message.split_once("string \"").zip(message.rsplit_once("\", expected"));
    match parts {
        Some(((before, _), (_, after))) => format!("{before}string, expected{after}"),
        None => message.to_owned(),
    }
}

/// Line and column of the byte `at` of `text`, both from 1.
fn place(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!(" in line {line}, column {column}")
}

/// Takes the lock at `path` for as long as the file stays open.
///
/// # Errors
/// `Locked` with the text `held` when another process has it; what opening and locking meet.
pub(crate) fn lock(path: &Path, held: &'static str) -> Result<File> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).open(path);
    let file = file.map_err(|error| fail("open the lock", path, error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => {
            Err(Error::new(Kind::Locked, held).path(path.display().to_string()))
        }
        Err(errno) => Err(fail("take the lock", path, errno.into())),
    }
}

/// Writes a file that has either all of `bytes` or what it had before, also after a power cut.
///
/// # Errors
/// What writing, flushing and renaming meet.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    let attempt = || -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    attempt().map_err(|error| fail("write", path, error))
}

fn fail(what: &'static str, path: &Path, error: std::io::Error) -> Error {
    Error::io(IoSide::State, what, path.display().to_string(), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_by_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        let held = lock(&path, "somebody has it").expect("free");
        let error = lock(&path, "somebody has it").expect_err("held");
        assert_eq!(error.kind(), Kind::Locked);
        assert!(error.to_string().contains("somebody has it"), "{error}");
        drop(held);
        lock(&path, "somebody has it").expect("free again");
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        _secret: Option<String>,
        _number: Option<u16>,
        _list: Option<Vec<String>>,
    }

    #[test]
    fn what_a_configuration_holds_is_not_quoted() {
        for (text, words) in [
            ("_secret = hush.hush", "in line 1, column 11"),
            ("_number = 1\n_secret = \"hush:hush@\n", "in line 2, column "),
            ("# é\n\n_secret = 'hush\n_number = 1", "in line 3, column "),
            ("_secret = \"\"\"hush\nhush", "in line 2, column 5"),
            ("_secret = 'hush' hush", "in line 1, column 18"),
            ("_secret = \"hush \\h hush\"", "in line 1, column "),
            ("hush hush", "in line 1, column "),
            ("_secret = 'hush'\n_secret = 'hush'", "in line 2, column 1"),
            ("_list = 'a\"hush'", "string, expected a sequence in `_list`"),
            ("_number = 'hush\", expected'", "string, expected u16"),
            ("_number = 'hush'", "string, expected u16 in `_number`"),
            ("_secret = ['hush']", "in `_secret`"),
            ("_scret = 'hush'", "unknown field `_scret`"),
        ] {
            let error = parse_config::<Config>(text).expect_err(text);
            assert_eq!(error.kind(), Kind::Usage);
            let shown = carreto_error::chain_text(&error);
            assert!(shown.contains(words), "{words:?}: {shown}");
            assert!(!shown.contains("hush"), "{text:?}: {shown}");
        }
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state.json");
        for text in ["a long text", "short"] {
            write_whole(&path, text.as_bytes()).expect("written");
            assert_eq!(read_config(&path).expect("read"), text);
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 1);
        assert!(write_whole(&folder.path().join("no/where"), b"").is_err());
    }
}
