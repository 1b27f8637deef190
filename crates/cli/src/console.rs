//! Writing to stdout and stderr without panicking when nobody reads, and without handing the
//! terminal anything to obey.

use crate::text::{escape, escape_json};
use carreto_error::{Error, Kind, Result};
use serde::Serialize;
use std::io::{ErrorKind, IsTerminal as _, Write as _};

const STDOUT: &str = "stdout";

/// Prints a line of data.
pub(crate) fn print(line: &str) -> Result<()> {
    write(&escape(line))
}

/// Prints lines of data, each of them one line whatever it holds.
pub(crate) fn print_lines(lines: &[String]) -> Result<()> {
    let lines: Vec<String> = lines.iter().map(|line| escape(line)).collect();
    write(&lines.join("\n"))
}

/// Prints text of our own, line ends included.
pub(crate) fn print_text(text: &str) -> Result<()> {
    write(text)
}

/// Prints a document.
pub(crate) fn print_json(document: &impl Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(document)
        .map_err(|e| Error::new(Kind::Internal, "the result is no JSON").caused_by(e))?;
    write(&escape_json(&json))
}

fn write(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(|error| {
        Error::new(Kind::Internal, "the result cannot be written")
            .path(STDOUT)
            .caused_by(error)
            .remedied_by("free space where stdout goes, or send it elsewhere")
    })
}

/// Whether `error` says that the reader of stdout went away: it had enough.
pub(crate) fn nobody_reads(error: &Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref());
    error.nearest_path() == Some(STDOUT)
        && cause.is_some_and(|cause: &std::io::Error| cause.kind() == ErrorKind::BrokenPipe)
}

/// Prints a line for people on stderr.
pub(crate) fn tell(line: &str) {
    say(&text_line(line));
}

/// Prints a document on one line of stderr.
pub(crate) fn tell_json(document: &impl Serialize) {
    if let Some(line) = json_line(document) {
        say(&line);
    }
}

/// A line for people, safe to show.
pub(crate) fn text_line(text: &str) -> String {
    escape(text)
}

/// A document on one line, safe to show.
pub(crate) fn json_line(document: &impl Serialize) -> Option<String> {
    serde_json::to_string(document).ok().map(|json| escape_json(&json))
}

/// Prints a line of [`text_line`] or [`json_line`] on stderr.
pub(crate) fn say(line: &str) {
    let _nobody_listens = writeln!(std::io::stderr().lock(), "{line}");
}

/// Whether a person can be asked.
pub(crate) fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Whether stderr is a terminal.
pub(crate) fn stderr_is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Asks a person to type `expected`; anything else is a no.
pub(crate) fn confirm(question: &str, expected: &str) -> bool {
    tell(question);
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok() && answer.trim() == expected
}
