//! From parsed arguments to calls, and from results to output.

mod about;
mod encode;
mod image;
mod live;
mod migrate;
mod store;

use crate::args::{Args, Command, FormatArgs, Global};
use crate::progress::Progress;
use crate::{console, settings, signals};
use carreto_error::Result;
use carreto_migrate::{Setup, Stop};
use std::sync::Arc;

/// Runs the command.
pub(crate) async fn run(args: Args) -> Result<()> {
    let Args { global, command } = args;
    let outcome = match command {
        Command::Completions { shell } => about::completions(shell),
        Command::Man { dir } => about::man(dir.as_deref()),
        command => {
            let verb = match command {
                Command::Migrate(_) => "copy",
                Command::Convert(_) | Command::Upload { .. } | Command::Download { .. } => "write",
                _ => "read",
            };
            let progress = Progress::new(&global, verb);
            let setup = setup(&global, &progress)?;
            if !command.reports_by_itself() {
                progress.start(global.progress_interval);
            }
            let outcome = run_with(&setup, &global, command, &progress).await;
            progress.end();
            outcome
        }
    };
    outcome.or_else(|error| if console::nobody_reads(&error) { Ok(()) } else { Err(error) })
}

async fn run_with(
    setup: &Setup,
    global: &Global,
    command: Command,
    progress: &Progress,
) -> Result<()> {
    let output = global.output;
    match command {
        Command::Info { image } => image::info(setup, &image, output).await,
        Command::Check { image, quick } => image::check(setup, &image, quick, output).await,
        Command::Map { image } => image::map(setup, &image, output).await,
        Command::Digest { image, algorithm } => {
            image::digest(setup, &image, algorithm, output).await
        }
        Command::Compare { a, b, open } => image::compare(setup, &a, &b, &open, output).await,
        Command::Migrate(args) => migrate::run(setup, &args, output, progress).await,
        Command::Convert(args) => encode::convert(setup, &args, output, progress).await,
        Command::Upload { run, to, format } => {
            encode::transfer(setup, &run, to, &format, output, progress).await
        }
        Command::Download { run } => {
            let as_is = FormatArgs::default();
            encode::transfer(setup, &run, None, &as_is, output, progress).await
        }
        Command::Measure { image, to, format } => {
            encode::measure(setup, &image, to, &format, output).await
        }
        command @ (Command::Receive(_)
        | Command::Agent { .. }
        | Command::Fleet { .. }
        | Command::VerifyCertificate(_)) => live::run(setup, command, output).await,
        Command::Store { command } => store::run(setup, &command, output, progress).await,
        Command::Completions { .. } | Command::Man { .. } => Ok(()),
    }
}

fn setup(global: &Global, progress: &Arc<Progress>) -> Result<Setup> {
    let stop = Stop::default();
    signals::listen(&stop, progress)?;
    Ok(Setup { stores: settings::stores(global)?, observer: progress.clone(), stop })
}
