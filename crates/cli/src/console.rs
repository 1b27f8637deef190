//! Writing to stdout and stderr without panicking when nobody reads.

use carreto_error::{Error, IoSide, Kind, Result};
use serde::Serialize;
use std::io::{ErrorKind, IsTerminal as _, Write as _};

/// Prints a line of data. A closed pipe is no error: the reader had enough.
pub(crate) fn print(line: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::io(IoSide::State, "print", "stdout", error))
        }
        _ => Ok(()),
    }
}

/// Prints a document.
pub(crate) fn print_json(document: &impl Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(document)
        .map_err(|e| Error::new(Kind::Internal, "the result is no JSON").caused_by(e))?;
    print(&json)
}

/// Prints a line for people on stderr.
pub(crate) fn tell(line: &str) {
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
