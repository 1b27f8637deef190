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

/// Orders a cutover and waits until it is committed or given up.
async fn cutover(file: &AgentFile, strict: bool, output: Output) -> Result<()> {
    let config = AgentConfig::load(&file.file)?;
    let folder = folder(&config)?;
    let ordered = ask(&folder, Order::Cutover { strict }).await?;
    // Of an earlier cutover, until the agent has moved on.
    let mut is_old = ordered.state == State::RolledBack;
    let mut begun = false;
    loop {
        tokio::time::sleep(LOOK).await;
        let report = ask(&folder, Order::Status).await?;
        begun |= report.state.is_cutover();
        is_old &= report.state == State::RolledBack;
        let is_over = match report.state {
            State::Committed | State::Failed | State::Cancelled => true,
            State::RolledBack => !is_old,
            state => begun && !state.is_cutover(),
        };
        if is_over {
            show::report(&report, output)?;
            return ended(&report);
        }
    }
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
    lines: SyncSender<String>,
    output: Output,
}

impl Tell {
    fn new(output: Output) -> Self {
        let (lines, waiting) = sync_channel::<String>(WAITING);
        std::thread::spawn(move || {
            for line in waiting {
                console::tell(&line);
            }
        });
        Self { lines, output }
    }

    fn say(&self, text: String, document: &serde_json::Value) {
        let line = match self.output {
            Output::Text => text,
            Output::Json => document.to_string(),
        };
        // A line that nobody takes is lost; the status has everything that matters.
        let _ = self.lines.try_send(line);
    }
}

impl AgentObserver for Tell {
    fn changed(&self, report: &Report) {
        let document = json!({"type": "state", "state": report.state, "report": report});
        self.say(show::line(report), &document);
    }

    fn note(&self, text: &str) {
        self.say(format!("note: {text}"), &json!({"type": "note", "text": text}));
    }
}
