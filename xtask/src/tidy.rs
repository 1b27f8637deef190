//! `cargo xtask tidy`: the rules of the architecture and of the style that a machine can check.

mod arrows;
mod manifest;
mod source;
mod tree;

use crate::Result;
use std::fmt;
use std::path::Path;

/// Whether a finding fails the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    Error,
    Advice,
}

/// One rule that one place breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    severity: Severity,
    place: String,
    text: String,
}

impl Finding {
    fn error(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self { severity: Severity::Error, place: place.into(), text: text.into() }
    }

    fn advice(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self { severity: Severity::Advice, ..Self::error(place, text) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Advice => "advice",
        };
        write!(f, "{word}: {}: {}", self.place, self.text)
    }
}

/// Runs every check and prints what it finds.
pub(crate) fn run(root: &Path) -> Result<()> {
    let crates = arrows::read(root)?;
    let files = tree::files(root)?;
    let mut findings = arrows::check(&crates);
    findings.extend(manifest::check(&crates));
    findings.extend(tree::check_documents(root, &crates));
    for file in &files {
        let Some(bytes) = tree::read(root, file)? else {
            continue;
        };
        findings.extend(tree::check_outside_paths(file, &bytes));
        if Path::new(file).extension().is_some_and(|end| end == "rs") {
            findings.extend(source::check(file, &String::from_utf8_lossy(&bytes)));
        }
    }
    report(&files, &findings)
}

fn report(files: &[String], findings: &[Finding]) -> Result<()> {
    let errors = count(findings, Severity::Error);
    for finding in findings {
        println!("{finding}");
    }
    let advice = count(findings, Severity::Advice);
    println!("tidy: {} files, {errors} errors, {advice} pieces of advice", files.len());
    if errors > 0 {
        return Err(format!("{errors} rules are broken").into());
    }
    Ok(())
}

fn count(findings: &[Finding], severity: Severity) -> usize {
    findings.iter().filter(|finding| finding.severity == severity).count()
}
