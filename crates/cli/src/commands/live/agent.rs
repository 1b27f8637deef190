//! `carreto agent`

use super::{show, stopped_with};
use crate::args::Output;
use crate::console;
use crate::live_args::{AgentCommand, AgentFile};
use carreto_error::{Error, IoSide, Kind, Result};
use carreto_migrate::Setup;
use carreto_migrate::live::{
    Agent, AgentConfig, AgentObserver, LinuxMachine, Machine, Order, Outcome, Report, State,
    WatchdogCommand, ask, cleanup, preflight, watchdog_main,
};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

/// Lines that may wait for a terminal that does not take them.
const WAITING: usize = 1000;
/// Between two looks at a cutover.
const LOOK: Duration = Duration::from_millis(300);

pub(super) async fn run(setup: &Setup, command: &AgentCommand, output: Output) -> Result<()> {
    match command {
        AgentCommand::Check(file) => check(file, output).await,
        AgentCommand::Cleanup { file, keep_certificate } => {
            leave(file, keep_certificate.as_deref(), output)
        }
        AgentCommand::Run(file) => migrate(setup, file, output).await,
        AgentCommand::Status(file) => order(file, Order::Status, output).await,
        AgentCommand::Pause(file) => order(file, Order::Pause, output).await,
        AgentCommand::Resume(file) => order(file, Order::Resume, output).await,
        AgentCommand::Abort(file) => order(file, Order::Abort, output).await,
        AgentCommand::Cutover { file, strict, wait } => {
            let strict = *strict;
            if *wait {
                cutover(file, strict, output).await
            } else {
                order(file, Order::Cutover { strict }, output).await
            }
        }
        AgentCommand::Watchdog => watchdog_main(std::io::stdin()),
    }
}

async fn migrate(setup: &Setup, file: &AgentFile, output: Output) -> Result<()> {
    let config = AgentConfig::load(&file.file)?;
    let machine = Arc::new(LinuxMachine { watchdog: watchdog()? });
    let folder = folder(&config)?;
    let agent = Agent::open(config, machine, Arc::new(Tell::new(output)))?;
    let outcome = agent.run(stopped_with(setup)).await;
    if let Ok(report) = ask(&folder, Order::Status).await {
        show::report(&report, output)?;
    }
    match outcome? {
        Outcome::Committed(_) => Ok(()),
        Outcome::Cancelled => {
            Err(Error::new(Kind::Cancelled, "the migration was ended by the operator"))
        }
        Outcome::Stopped => Err(Error::new(Kind::Cancelled, "the agent was told to end")),
    }
}

async fn check(file: &AgentFile, output: Output) -> Result<()> {
    let config = AgentConfig::load(&file.file)?;
    let machine: Arc<dyn Machine> = Arc::new(LinuxMachine { watchdog: watchdog()? });
    let preflight = preflight(&config, &machine).await?;
    show::preflight(&preflight, output)?;
    if !preflight.is_blocked() {
        return Ok(());
    }
    let text = "the preflight found what stands in the way";
    Err(Error::new(Kind::TargetUnusable, text)
        .during("check the source")
        .remedied_by("follow the remedies of what is blocked, and check again"))
}

fn leave(file: &AgentFile, keep_certificate: Option<&Path>, output: Output) -> Result<()> {
    let config = AgentConfig::load(&file.file)?;
    let machine = LinuxMachine { watchdog: watchdog()? };
    show::cleaned(&cleanup(&config, &machine, keep_certificate)?, output)
}

/// This program again, which the kernel finds although its file may have been deleted.
fn watchdog() -> Result<WatchdogCommand> {
    let program = PathBuf::from("/proc/self/exe");
    let found = std::fs::read_link(&program);
    found
        .map_err(|error| Error::io(IoSide::State, "find this program", "/proc/self/exe", error))?;
    Ok(WatchdogCommand { program, arguments: vec!["agent".into(), "watchdog".into()] })
}

fn folder(config: &AgentConfig) -> Result<PathBuf> {
    Ok(config.run_folder(&config.token()?.server))
}

async fn order(file: &AgentFile, order: Order, output: Output) -> Result<()> {
    let config = AgentConfig::load(&file.file)?;
    show::report(&ask(&folder(&config)?, order).await?, output)
}

/// Orders a cutover and waits until it is committed or given up, or the agent has ended.
async fn cutover(file: &AgentFile, strict: bool, output: Output) -> Result<()> {
    let config = AgentConfig::load(&file.file)?;
    let folder = folder(&config)?;
    let mut watch = Watch::new(&ask(&folder, Order::Status).await?);
    ask(&folder, Order::Cutover { strict }).await?;
    let mut unanswered = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let report = match (ask(&folder, Order::Status).await, unanswered.take()) {
            (Ok(report), _) => report,
            // An agent that ends may hang up; what it left behind says how it went.
            (Err(error), None) => {
                unanswered = Some(error);
                continue;
            }
            (Err(_), Some(error)) => return Err(error),
        };
        if let Some(end) = watch.look(&report) {
            show::report(&report, output)?;
            return match end {
                End::Agreed => ended(&report),
                End::Alone => Err(agent_ended()),
            };
        }
    }
}

/// How the wait for a cutover ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It was committed or given up.
    Agreed,
    /// The agent that was asked for it is gone.
    Alone,
}

/// Tells the end of a cutover from its reports. One that is given up at once is in no state that
/// could be seen, so those that were given up are counted.
struct Watch {
    given_up: u64,
    running_seconds: f64,
}

impl Watch {
    /// `before` is how things stood before the cutover was ordered.
    fn new(before: &Report) -> Self {
        Self { given_up: before.totals.failed_cutovers, running_seconds: before.running_seconds }
    }

    fn look(&mut self, report: &Report) -> Option<End> {
        let before = std::mem::replace(&mut self.running_seconds, report.running_seconds);
        let is_over = matches!(report.state, State::Committed | State::Failed | State::Cancelled);
        if is_over || report.totals.failed_cutovers > self.given_up {
            return Some(End::Agreed);
        }
        // Time stands still in the report that an agent left, and starts anew with the next agent,
        // which knows nothing of the order.
        (report.running_seconds <= before).then_some(End::Alone)
    }
}

fn agent_ended() -> Error {
    Error::new(Kind::Unavailable, "the agent ended before the cutover did")
        .remedied_by("start it with `carreto agent run`, and order the cutover again")
}

fn ended(report: &Report) -> Result<()> {
    if report.state == State::Committed {
        return Ok(());
    }
    match report.error.clone() {
        Some(error) => Err(error.into_error()),
        None => Err(Error::new(Kind::Cancelled, "the cutover was given up")),
    }
}

/// Prints events from a thread of its own: while the file systems are frozen, whoever reads may
/// not, and the agent must not wait for that.
#[derive(Debug)]
struct Tell {
    /// Lines that are safe to show.
    lines: SyncSender<String>,
    output: Output,
}

impl Tell {
    fn new(output: Output) -> Self {
        let (lines, waiting) = sync_channel::<String>(WAITING);
        std::thread::spawn(move || {
            for line in waiting {
                console::say(&line);
            }
        });
        Self { lines, output }
    }

    fn say(&self, text: &str, document: &serde_json::Value) {
        let line = match self.output {
            Output::Text => Some(console::text_line(text)),
            Output::Json => console::json_line(document),
        };
        // A line that nobody takes is lost; the status has everything that matters.
        let _ = line.map(|line| self.lines.try_send(line));
    }
}

impl AgentObserver for Tell {
    fn changed(&self, report: &Report) {
        let document = json!({"type": "state", "state": report.state, "report": report});
        self.say(&show::line(report), &document);
    }

    fn note(&self, text: &str) {
        self.say(&format!("note: {text}"), &json!({"type": "note", "text": text}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(state: &str, running_seconds: f64, failed_cutovers: u64) -> Report {
        let totals = json!({
            "read_bytes": 0, "data_bytes": 0, "wire_bytes": 0, "zero_bytes": 0,
            "reference_bytes": 0, "unchanged_bytes": 0, "resent_granules": 0,
            "missed_granules": 0, "epochs": 0, "suspect_epochs": 0, "rescans": 0,
            "reconnects": 0, "failed_cutovers": failed_cutovers
        });
        let report = json!({
            "schema_version": 1, "server": "web1", "migration": "m", "state": state,
            "next_action": "", "running_seconds": running_seconds, "backlog_bytes": 0,
            "lag_seconds": 0.0, "rate": 0.0, "change_rate": 0.0, "eta_seconds": null,
            "predicted_pause_seconds": null, "totals": totals, "disks": []
        });
        serde_json::from_value(report).unwrap()
    }

    fn told(output: Output, text: &str) -> String {
        let (lines, told) = sync_channel(WAITING);
        Tell { lines, output }.note(text);
        told.recv().unwrap()
    }

    #[test]
    fn what_a_terminal_would_obey_is_told_as_valid_json() {
        let text = "disk \u{7f}\u{9b}2J \u{202e}\n";
        let line = told(Output::Json, text);
        let document: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(document, json!({"type": "note", "text": text}));
        assert!(line.is_ascii() && !line.contains('\u{7f}'), "{line}");
        assert!(told(Output::Text, text).ends_with("disk \\u{7f}\\u{9b}2J \\u{202e}\\n"));
    }

    #[test]
    fn a_cutover_that_nobody_saw_begin_is_over_when_it_is_given_up() {
        let mut watch = Watch::new(&report("ROLLED_BACK", 10.0, 4));
        assert_eq!(watch.look(&report("ROLLED_BACK", 10.3, 4)), None);
        assert_eq!(watch.look(&report("CONTINUOUS", 10.6, 4)), None);
        assert_eq!(watch.look(&report("CONTINUOUS", 10.9, 5)), Some(End::Agreed));
    }

    #[test]
    fn a_cutover_is_waited_for_until_it_is_committed() {
        let mut watch = Watch::new(&report("READY", 10.0, 0));
        for (state, seconds) in [("QUIESCING", 10.3), ("FINAL_SYNC", 10.6), ("STALLED", 10.9)] {
            assert_eq!(watch.look(&report(state, seconds, 0)), None, "{state}");
        }
        // The report that the agent left, whenever it was made.
        assert_eq!(watch.look(&report("COMMITTED", 10.8, 0)), Some(End::Agreed));
    }

    #[test]
    fn an_agent_that_is_gone_is_not_waited_for() {
        let mut watch = Watch::new(&report("READY", 10.0, 0));
        assert_eq!(watch.look(&report("QUIESCING", 10.3, 0)), None);
        // Killed: the report that it left does not age.
        assert_eq!(watch.look(&report("QUIESCING", 12.0, 0)), None);
        assert_eq!(watch.look(&report("QUIESCING", 12.0, 0)), Some(End::Alone));
        // Started anew.
        let mut watch = Watch::new(&report("READY", 10.0, 0));
        assert_eq!(watch.look(&report("REGISTERED", 0.2, 0)), Some(End::Alone));
    }
}
