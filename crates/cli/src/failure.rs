//! The end of a command that failed: the text, the JSON object, the exit code.

use crate::args::Output;
use crate::text::{quote, redact};
use crate::{console, signals};
use carreto_error::{Chain, Error, Kind, Retry};
use carreto_migrate::ErrorReport;
use serde::Serialize;
use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, PanicHookInfo};
use std::process::ExitCode;

/// The error object of `--output json`.
#[derive(Debug, Serialize)]
struct Document {
    #[serde(flatten)]
    error: ErrorReport,
    /// The command line that goes on where this run stopped, for a shell.
    #[serde(skip_serializing_if = "Option::is_none")]
    resume: Option<String>,
}

/// Tells about `error` on stderr and returns the exit code. `resumable` is a command that goes on
/// when it is given again.
pub(crate) fn report(error: &Error, output: Output, resumable: bool) -> ExitCode {
    let code = exit_code(error);
    let goes_on = resumable && error.kind().retry() == Retry::Resume;
    let resume = goes_on.then(|| resume_line(std::env::args_os()));
    match output {
        Output::Json => console::tell_json(&Document { error: document(error), resume }),
        Output::Text => tell(error, resume.as_deref()),
    }
    ExitCode::from(code)
}

/// `error` as a document, with the exit code of this process.
pub(crate) fn document(error: &Error) -> ErrorReport {
    let report = ErrorReport::from(error);
    ErrorReport {
        exit: exit_code(error),
        detail: redact(&report.detail),
        path: report.path.as_deref().map(redact),
        remedy: redact(&report.remedy),
        ..report
    }
}

fn tell(error: &Error, resume: Option<&str>) {
    console::tell(&format!("carreto: {} ({})", error.class(), error.kind()));
    let mut said = String::new();
    for link in Chain::new(error) {
        let text = link.to_string();
        if !said.contains(&text) {
            console::tell(&format!("  {}", redact(&text)));
        }
        said.push_str(&text);
    }
    if let Some(needed) = error.needed_bytes() {
        console::tell(&format!("  needed: {needed} bytes"));
    }
    console::tell(&format!("  remedy: {}", redact(error.remedy())));
    if let Some(resume) = resume {
        console::tell(&format!("  to resume: {resume}"));
    }
}

/// The command line for a shell. Signatures in addresses are left out, and a comment says so.
fn resume_line(arguments: impl Iterator<Item = OsString>) -> String {
    let mut hidden = false;
    let words: Vec<String> = arguments
        .map(|word| {
            let safe = redact(&word.to_string_lossy());
            if safe == word.to_string_lossy() {
                return quote(&word);
            }
            hidden = true;
            quote(safe.as_ref())
        })
        .collect();
    let hint = if hidden { " # put the signature back in place of ***" } else { "" };
    format!("{}{hint}", words.join(" "))
}

fn exit_code(error: &Error) -> u8 {
    match error.kind() {
        Kind::Cancelled => signals::exit_code().unwrap_or(error.kind().exit_code()),
        kind => kind.exit_code(),
    }
}

/// Makes a panic, which is a defect, tell about itself in the format that was chosen.
pub(crate) fn tell_of_panics(output: Output) {
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic_text(panic);
        match output {
            Output::Json => {
                console::tell_json(&serde_json::json!({ "type": "note", "text": text }));
            }
            Output::Text => console::tell(&format!("carreto: {text}")),
        }
    }));
}

fn panic_text(panic: &PanicHookInfo<'_>) -> String {
    let place = panic.location().map(|at| format!(" at {}:{}", at.file(), at.line()));
    let text = panic.payload_as_str().unwrap_or("no text");
    format!("defect{}: {}", place.unwrap_or_default(), redact(text))
}

/// Runs `work`; a panic becomes an error of kind `internal`.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Error> {
    std::panic::catch_unwind(AssertUnwindSafe(work))
        .map_err(|_| Error::new(Kind::Internal, "the command panicked; see the line before"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_resumes_fits_a_shell_and_hides_signatures() {
        let line = |words: &[&str]| resume_line(words.iter().map(OsString::from));
        assert_eq!(line(&["carreto", "migrate", "a b"]), "carreto migrate 'a b'");
        let shown = line(&["carreto", "https://h/p?X-Amz-Signature=1"]);
        assert!(shown.starts_with("carreto 'https://h/p?***' # put"), "{shown}");
    }

    #[test]
    fn a_panic_is_an_internal_error() {
        let failed = guarded(|| -> u8 { std::panic::panic_any("x") });
        assert_eq!(failed.err().map(|error| error.kind()), Some(Kind::Internal));
        assert_eq!(guarded(|| 7).ok(), Some(7));
    }
}
