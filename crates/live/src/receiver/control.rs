//! What the receiver's operator sees: every server and where it stands.

use super::serve::{BREATH, Receiver};
use crate::state::Report;
use carreto_error::{Error, IoSide, Kind, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

/// Where a running receiver answers, in its state folder.
const SOCKET: &str = "control.sock";
/// Longest answer.
const MOST_BYTES: u64 = 64 << 20;

/// All servers of a receiver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FleetStatus {
    /// The version of this document: fields are only added.
    pub schema_version: u32,
    /// The servers, by name.
    pub servers: Vec<FleetEntry>,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FleetEntry {
    /// Its name.
    pub server: String,
    /// The migration's name.
    pub migration: String,
    /// An agent has joined with its token.
    pub joined: bool,
    /// An agent is connected now; `null` while that is being decided.
    pub connected: Option<bool>,
    /// The targets are complete.
    pub committed: bool,
    /// What the agent said last.
    pub report: Option<Report>,
}

impl Receiver {
    /// All servers and where they stand.
    pub fn status(&self) -> FleetStatus {
        let entry = |(name, server): (&String, &Arc<super::serve::Server>)| {
            let memory = server.memory();
            FleetEntry {
                server: name.clone(),
                migration: memory.migration.clone(),
                joined: memory.agent.is_some(),
                connected: server.sessions.is_connected(),
                committed: memory.committed.is_some(),
                report: server.report(),
            }
        };
        FleetStatus { schema_version: 1, servers: self.servers.iter().map(entry).collect() }
    }

    /// Answers [`fleet_status`] until `stop`.
    ///
    /// # Errors
    /// `Io` when the socket cannot be made.
    pub async fn answer_status(self: Arc<Self>, stop: CancellationToken) -> Result<()> {
        let path = self.config.state.join(SOCKET);
        let fail = |error| Error::io(IoSide::State, "listen", path.display().to_string(), error);
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(fail)?;
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            let Ok((mut stream, _)) = accepted else {
                // Out of descriptors: as when agents connect.
                tokio::time::sleep(BREATH).await;
                continue;
            };
            let Ok(text) = serde_json::to_vec(&self.status()) else { continue };
            // Who asks and does not read has itself to blame.
            let patience = std::time::Duration::from_secs(5);
            let _ = tokio::time::timeout(patience, stream.write_all(&text)).await;
        }
        let _ = std::fs::remove_file(&path);
        Ok(())
    }
}

/// Asks the receiver that runs with the state folder `state`.
///
/// # Errors
/// `Unavailable` when none runs.
pub async fn fleet_status(state: &Path) -> Result<FleetStatus> {
    let path = state.join(SOCKET);
    let stream = UnixStream::connect(&path).await.map_err(|error| {
        Error::new(Kind::Unavailable, "no receiver runs with this state")
            .path(path.display().to_string())
            .caused_by(error)
            .remedied_by("start it with `carreto receive`")
    })?;
    let mut text = Vec::new();
    let read = stream.take(MOST_BYTES).read_to_end(&mut text).await;
    read.map_err(|error| {
        Error::io(IoSide::State, "ask the receiver", path.display().to_string(), error)
    })?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::new(Kind::Unavailable, format!("the receiver's answer: {error}")))
}
