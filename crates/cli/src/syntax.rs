//! Command lines that cannot be parsed fail in the format that they ask for.
//!
//! The parser knows the format only after it succeeded, so the arguments are looked through for
//! it beforehand.

use crate::args::{Args, Output};
use crate::text::redact;
use crate::{console, failure};
use carreto_error::{Error, Kind};
use clap::error::ErrorKind;
use clap::{Parser as _, ValueEnum as _};
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

/// Options with a value of one letter besides `-o`: what follows in the same word is the value.
const SHORT_WITH_VALUE: [char; 1] = ['f'];

/// The arguments, or the exit code when there is nothing to run: help was asked for and printed,
/// or the error was told.
pub(crate) fn parse(output: Output) -> Result<Args, ExitCode> {
    Args::try_parse().map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _nobody_reads = error.print();
            ExitCode::SUCCESS
        }
        _ => refuse(&error, output),
    })
}

fn refuse(error: &clap::Error, output: Output) -> ExitCode {
    let text = error.render().to_string();
    let code = ExitCode::from(Kind::Usage.exit_code());
    match output {
        Output::Json => {
            let words: Vec<&str> = text.split_whitespace().collect();
            let words = words.join(" ");
            let detail = words.strip_prefix("error: ").unwrap_or(&words).to_owned();
            return failure::report(&Error::new(Kind::Usage, detail), output, false);
        }
        Output::Text if redact(&text) == text => {
            let _nobody_reads = error.print();
        }
        Output::Text => redact(&text).lines().for_each(console::tell),
    }
    code
}

/// The format that `arguments` (without the program) or the environment ask for.
pub(crate) fn wanted_output(arguments: impl Iterator<Item = OsString>) -> Output {
    let mut wanted = std::env::var_os("CARRETO_OUTPUT");
    let mut arguments = arguments.take_while(|word| word != "--");
    while let Some(word) = arguments.next() {
        match output_in(&word) {
            Found::Value(value) => wanted = Some(value),
            Found::InNext => wanted = arguments.next(),
            Found::Nothing => {}
        }
    }
    wanted.and_then(|name| Output::from_str(name.to_str()?, false).ok()).unwrap_or(Output::Text)
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Value(OsString),
    InNext,
    Nothing,
}

fn output_in(word: &OsStr) -> Found {
    let Some(word) = word.to_str() else { return Found::Nothing };
    if word == "--output" {
        return Found::InNext;
    }
    if let Some(value) = word.strip_prefix("--output=") {
        return Found::Value(value.into());
    }
    let Some(letters) = word.strip_prefix('-').filter(|rest| !rest.starts_with('-')) else {
        return Found::Nothing;
    };
    let Some(at) = letters.find(|c| c == 'o' || SHORT_WITH_VALUE.contains(&c)) else {
        return Found::Nothing;
    };
    match letters[at..].strip_prefix('o') {
        Some("") => Found::InNext,
        Some(value) => Found::Value(value.strip_prefix('=').unwrap_or(value).into()),
        None => Found::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_found_wherever_it_stands() {
        let wanted = |line: &str| wanted_output(line.split_whitespace().map(OsString::from));
        for line in ["-o json", "-ojson", "-o=json x", "--output json", "--output=json", "-no json"]
        {
            assert_eq!(wanted(line), Output::Json, "{line}");
        }
        for line in ["", "json", "-o text", "-o json -o text", "-- -o json", "-fo json", "-f json"]
        {
            assert_eq!(wanted(line), Output::Text, "{line}");
        }
    }
}
