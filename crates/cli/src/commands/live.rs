//! `carreto receive`, `carreto agent`, `carreto fleet`, `carreto verify-certificate`.

mod agent;
mod certificate;
mod receive;
mod show;

use crate::args::{Command, Output};
use crate::live_args::FleetCommand;
use carreto_error::Result;
use carreto_migrate::Setup;
use carreto_migrate::live::{CancellationToken, ReceiverConfig, fleet_status};

/// Runs a command of online migration.
pub(crate) async fn run(setup: &Setup, command: Command, output: Output) -> Result<()> {
    match command {
        Command::Receive(args) => receive::run(setup, &args, output).await,
        Command::Agent { command } => agent::run(setup, &command, output).await,
        Command::Fleet { command: FleetCommand::Status { file } } => {
            let config = ReceiverConfig::load(&file)?;
            show::fleet(&fleet_status(&config.state).await?, output)
        }
        Command::VerifyCertificate(args) => certificate::run(setup, &args, output).await,
        _ => Ok(()),
    }
}

/// A token that is cancelled when the user asks for the end.
fn stopped_with(setup: &Setup) -> CancellationToken {
    let token = CancellationToken::new();
    let (stop, asked) = (setup.stop.clone(), token.clone());
    tokio::spawn(async move {
        let _ = stop.race(std::future::pending::<Result<()>>()).await;
        asked.cancel();
    });
    token
}
