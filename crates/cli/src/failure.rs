//! The end of a command that failed: the text, the JSON object, the exit code.

use crate::args::Output;
use crate::{console, signals};
use carreto_error::{Chain, Error, Kind};
use carreto_migrate::ErrorReport;
use std::process::ExitCode;

/// Tells about `error` on stderr and returns the exit code.
pub(crate) fn report(error: &Error, output: Output) -> ExitCode {
    let code = exit_code(error);
    match output {
        Output::Json => {
            let document = ErrorReport { exit: code, ..ErrorReport::from(error) };
            if let Ok(json) = serde_json::to_string(&document) {
                console::tell(&json);
            }
        }
        Output::Text => tell(error),
    }
    ExitCode::from(code)
}

fn tell(error: &Error) {
    console::tell(&format!("carreto: {} ({})", error.class(), error.kind()));
    let mut said = String::new();
    for link in Chain::new(error) {
        let text = link.to_string();
        if !said.contains(&text) {
            console::tell(&format!("  {text}"));
        }
        said.push_str(&text);
    }
    if let Some(needed) = error.needed_bytes() {
        console::tell(&format!("  needed: {needed} bytes"));
    }
    console::tell(&format!("  remedy: {}", error.remedy()));
}

fn exit_code(error: &Error) -> u8 {
    match error.kind() {
        Kind::Cancelled => signals::exit_code().unwrap_or(error.kind().exit_code()),
        kind => kind.exit_code(),
    }
}
