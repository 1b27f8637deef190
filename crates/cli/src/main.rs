//! The `carreto` command: translates arguments into calls of `carreto-migrate`, events into
//! progress, and errors into exit codes. Nothing else.

mod args;
mod commands;
mod console;
mod failure;
mod progress;
mod quantity;
mod settings;
mod signals;

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = args::Args::parse();
    let output = args.global.output;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let text = "the system has no threads for the runtime";
            let error =
                carreto_error::Error::new(carreto_error::Kind::Internal, text).caused_by(error);
            return failure::report(&error, output);
        }
    };
    let outcome = runtime.block_on(commands::run(args));
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error, output),
    }
}
