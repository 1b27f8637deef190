//! `carreto receive`

use super::stopped_with;
use crate::args::Output;
use crate::console;
use crate::live_args::ReceiveArgs;
use carreto_error::{Error, Kind, Result};
use carreto_migrate::Setup;
use carreto_migrate::live::{
    CancellationToken, LiveTargets, Receiver, ReceiverConfig, ReceiverEvent, ReceiverObserver,
};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks whether everything is committed.
const LOOK: Duration = Duration::from_millis(200);

pub(super) async fn run(setup: &Setup, args: &ReceiveArgs, output: Output) -> Result<()> {
    let config = ReceiverConfig::load(&args.file)?;
    let targets = Arc::new(LiveTargets::new(setup.clone()));
    let receiver = Arc::new(Receiver::open(config, targets, Arc::new(Tell(output)))?);
    let listener = receiver.bind().await?;
    let address = listener.local_addr();
    let address = address.map_or_else(|_| "unknown".to_owned(), |address| address.to_string());
    let again: BTreeSet<_> = args.new_token.iter().collect();
    let again: Result<Vec<_>> = again.into_iter().map(|name| receiver.invite_again(name)).collect();
    for invited in again?.into_iter().chain(receiver.invite(args.new_tokens)?) {
        let (server, token) = (invited.server, invited.token.to_string());
        let text = format!("token for {server}: {token}");
        line(output, &text, &json!({"type": "token", "server": server, "token": token}))?;
    }
    let key = receiver.fingerprint().to_string();
    let text = format!("listening on {address}, with the key {key}");
    line(output, &text, &json!({"type": "listening", "address": address, "key": key}))?;
    let stop = stopped_with(setup);
    let looking = Arc::clone(&receiver);
    tokio::spawn(stop.clone().run_until_cancelled_owned(async move { looking.survey().await }));
    let status = tokio::spawn(Arc::clone(&receiver).answer_status(stop.clone()));
    if args.until_committed {
        tokio::spawn(end_when_committed(Arc::clone(&receiver), stop.clone()));
    }
    receiver.serve(listener, stop.clone()).await?;
    stop.cancel();
    let status = status.await;
    status.map_err(|error| Error::new(Kind::Internal, format!("the status task died: {error}")))?
}

async fn end_when_committed(receiver: Arc<Receiver>, stop: CancellationToken) {
    while !receiver.status().servers.iter().all(|server| server.committed) {
        tokio::time::sleep(LOOK).await;
    }
    // The agents hear the answer first.
    tokio::time::sleep(LOOK * 10).await;
    stop.cancel();
}

/// One line for whoever started the receiver.
fn line(output: Output, text: &str, document: &serde_json::Value) -> Result<()> {
    match output {
        Output::Text => console::print(text),
        Output::Json => console::print_text(&console::json_line(document).unwrap_or_default()),
    }
}

/// Tells on stderr what happens.
#[derive(Debug)]
struct Tell(Output);

impl ReceiverObserver for Tell {
    fn event(&self, event: &ReceiverEvent<'_>) {
        let (kind, text) = match event {
            ReceiverEvent::Connected { server, host, peer } => {
                ("connected", format!("{server}: connected from {host}, key {peer}"))
            }
            ReceiverEvent::Disconnected { server, error } => {
                let why = error.map_or_else(String::new, |error| {
                    format!(": {}", carreto_error::chain_text(error))
                });
                ("disconnected", format!("{server}: disconnected{why}"))
            }
            ReceiverEvent::Unfit { server, disk, error } => (
                "warning",
                format!(
                    "{server}: the target of {disk}: {} (remedy: {})",
                    carreto_error::chain_text(*error),
                    error.remedy()
                ),
            ),
            ReceiverEvent::Committed { server } => ("committed", format!("{server}: committed")),
            ReceiverEvent::Refused { peer, error } => {
                ("refused", format!("{peer}: {}", carreto_error::chain_text(*error)))
            }
            _ => return,
        };
        match self.0 {
            Output::Text => console::tell(&text),
            Output::Json => console::tell_json(&json!({"type": kind, "text": text})),
        }
    }
}
