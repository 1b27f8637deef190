//! The `carreto` command: translates arguments into calls of `carreto-migrate`, events into
//! progress, and errors into exit codes. Nothing else.

mod args;
mod commands;
mod console;
mod failure;
mod live_args;
mod progress;
mod quantity;
mod settings;
mod signals;
mod syntax;
mod text;

use args::Output;
use carreto_error::{Error, Kind, Result};
use std::process::ExitCode;

fn main() -> ExitCode {
    let output = syntax::wanted_output(std::env::args_os().skip(1));
    failure::tell_of_panics(output);
    failure::guarded(|| run(output)).unwrap_or_else(|error| failure::report(&error, output, false))
}

fn run(output: Output) -> ExitCode {
    let args = match syntax::parse(output) {
        Ok(args) => args,
        Err(code) => return code,
    };
    let resumable = args.command.is_resumable();
    match run_in_runtime(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error, output, resumable),
    }
}

fn run_in_runtime(args: args::Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        Error::new(Kind::Internal, "the system has no threads for the runtime").caused_by(error)
    })?;
    let outcome = runtime.block_on(commands::run(args));
    runtime.shutdown_background();
    outcome
}
