//! Checks on the files of the repository as such: documents, and paths that lead outside.

use super::Finding;
use super::arrows::Crate;
use crate::Result;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

const ARCHITECTURE: &str = "docs/architecture.md";

/// What lies outside the repository, and the one file that may name it. Written in two halves,
/// so that this file does not name it.
const OUTSIDE: &[&str] = &[concat!("/", "work"), concat!("/", "home"), concat!("../", "shared")];
const MAY_NAME_OUTSIDE: &str = ".ci/run";

/// The files of the repository, new ones included, relative to `root`.
pub(crate) fn files(root: &Path) -> Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("git ls-files: {}", text.trim()).into());
    }
    let names = String::from_utf8(output.stdout)?;
    Ok(names.split_terminator('\0').map(str::to_owned).collect())
}

/// The bytes of a file; nothing when it is only in the index, or no regular file.
pub(crate) fn read(root: &Path, file: &str) -> Result<Option<Vec<u8>>> {
    match std::fs::read(root.join(file)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => {
            Ok(None)
        }
        Err(error) => Err(format!("{file}: {error}").into()),
    }
}

/// Every crate has a README and a place in the description of the architecture.
pub(crate) fn check_documents(root: &Path, crates: &[Crate]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for member in crates.iter().filter(|member| member.is_library_or_command()) {
        if !member.folder.join("README.md").is_file() {
            findings.push(Finding::error(&member.name, "it has no README.md"));
        }
    }
    match std::fs::read_to_string(root.join(ARCHITECTURE)) {
        Ok(text) => findings.extend(check_architecture(&text, crates)),
        Err(error) => findings.push(Finding::error(ARCHITECTURE, error.to_string())),
    }
    findings
}

fn check_architecture(text: &str, crates: &[Crate]) -> Vec<Finding> {
    let unnamed = crates.iter().filter(|member| {
        let folder = format!("crates/{}", member.short());
        member.is_library_or_command() && !names(text, &member.name) && !names(text, &folder)
    });
    unnamed
        .map(|member| Finding::error(ARCHITECTURE, format!("it does not name {}", member.name)))
        .collect()
}

/// Whether `text` has `name` as a whole: `carreto-block` is not in `carreto-blocks`.
fn names(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        let next = text[at + name.len()..].chars().next();
        !next.is_some_and(|c| c.is_alphanumeric() || c == '-' || c == '_')
    })
}

/// Paths of some developer's machine.
pub(crate) fn check_outside_paths(file: &str, bytes: &[u8]) -> Vec<Finding> {
    if file == MAY_NAME_OUTSIDE {
        return Vec::new();
    }
    let lines = bytes.split(|byte| *byte == b'\n').enumerate();
    lines
        .flat_map(|(index, line)| {
            let found = OUTSIDE.iter().filter(|path| leads_outside(line, path.as_bytes()));
            found.map(move |path| {
                let place = format!("{file}:{}", index + 1);
                Finding::error(place, format!("it names {path}, which is outside"))
            })
        })
        .collect()
}

/// Whether `line` has `path` where a path begins and with a whole last component.
fn leads_outside(line: &[u8], path: &[u8]) -> bool {
    line.windows(path.len()).enumerate().any(|(at, window)| {
        let (before, after) = (&line[..at], &line[at + path.len()..]);
        window == path && begins_a_path(before, path) && ends_a_component(after)
    })
}

/// An absolute path is one where nothing of a path stands before it; `file://` is no path. One
/// that climbs leads outside wherever it stands: nothing inside has its name.
fn begins_a_path(before: &[u8], path: &[u8]) -> bool {
    let is_absolute = path.starts_with(b"/");
    let is_continued = before.last().is_some_and(|byte| is_part(*byte) || b"}/".contains(byte));
    !is_absolute || !is_continued || before.ends_with(b"file://")
}

/// A full stop ends a component when it ends a sentence.
fn ends_a_component(after: &[u8]) -> bool {
    let dots = after.iter().take_while(|byte| **byte == b'.').count();
    let next = after.get(dots);
    !next.is_some_and(|byte| is_part(*byte))
}

fn is_part(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_outside_are_found_where_a_path_begins() {
        let line = |text: &str| check_outside_paths("a.rs", text.as_bytes()).len();
        assert_eq!(line(concat!("cd /", "work/main")), 1);
        assert_eq!(line(concat!("x\n\"/", "work\"")), 1);
        assert_eq!(line(concat!("D=../", "shared/corpus")), 1);
        assert_eq!(line(concat!("\"/../../../", "shared/corpus\"")), 1);
        assert_eq!(line(concat!("file:///", "work/main")), 1);
        assert_eq!(line(concat!("It lies in /", "work.")), 1);
        assert_eq!(line(concat!("=/", "home/someone/disk")), 1);
        assert_eq!(line(concat!("https://example.org/", "work and /", "work.txt")), 0);
        assert_eq!(line("see .github/workflows and /workspace"), 0);
        assert_eq!(line(concat!("target/", "work and $OUT/", "work")), 0);
        assert_eq!(line("a shared source"), 0);
    }

    #[test]
    fn one_file_may_name_what_is_outside() {
        let bytes = concat!("../", "shared/corpus").as_bytes();
        assert!(check_outside_paths(MAY_NAME_OUTSIDE, bytes).is_empty());
        let found = check_outside_paths("ci/run", bytes);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].place, "ci/run:1");
    }

    #[test]
    fn a_name_is_whole() {
        assert!(names("the crate `carreto-block` is", "carreto-block"));
        assert!(names("ends with crates/block", "crates/block"));
        assert!(!names("carreto-blocks and carreto-block-device", "carreto-block"));
        assert!(!names("", "carreto-block"));
    }
}
