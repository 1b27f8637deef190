//! Both ends of a migration: a receiver and its agents.

use super::super::carreto::{Carreto, text};
use super::program::{Ended, Program, until};
use crate::Result;
use serde_json::Value;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long an end may take to start, and to end.
const START: Duration = Duration::from_mins(1);
/// How long a whole migration may take.
pub(super) const MIGRATION: Duration = Duration::from_mins(5);

/// A server, its disk as the source calls it, and where that goes.
pub(super) struct Route<'a> {
    pub(super) server: &'a str,
    pub(super) disk: &'a str,
    pub(super) target: &'a Path,
}

/// Where agents keep what must be on no disk that is frozen, and gone at the end.
pub(super) fn run_folder() -> PathBuf {
    Path::new("/run").join(format!("carreto-e2e-{}", std::process::id()))
}

/// The name of server `number`, which no other run has: pins carry it.
pub(super) fn server(number: u8) -> String {
    format!("e2e-{}-web{number}", std::process::id())
}

/// A port that nobody listens on.
pub(super) fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// The end that has the targets.
pub(super) struct Receiver {
    carreto: Carreto,
    config: PathBuf,
    folder: PathBuf,
    program: Option<Program>,
    tokens: Vec<(String, String)>,
}

impl Receiver {
    /// Starts one that listens on `listen` and tells its agents to go to `advertised`.
    pub(super) fn start(
        carreto: &Carreto,
        folder: &Path,
        (listen, advertised): (&str, &[&str]),
        routes: &[Route<'_>],
    ) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let advertised = advertised.join("', '");
        let mut config =
            format!("listen = '{listen}'\nadvertise = ['{advertised}']\nstate = 'receiver'\n");
        for Route { server, disk, target } in routes {
            let target = text(target)?;
            write!(
                config,
                "[[server]]\nname = '{server}'\n[[server.disk]]\nsource = '{disk}'\ntarget = '{target}'\n"
            )?;
        }
        let path = folder.join("receive.toml");
        std::fs::write(&path, config)?;
        let mut receiver = Self {
            carreto: carreto.clone(),
            config: path,
            folder: folder.to_owned(),
            program: None,
            tokens: Vec::new(),
        };
        receiver.come_back()?;
        Ok(receiver)
    }

    /// Starts it, for the first time or again.
    pub(super) fn come_back(&mut self) -> Result<()> {
        let config = text(&self.config)?;
        let mut command = self.carreto.command();
        command.args(["receive", "-c", config, "--output", "json"]);
        let mut program = Program::start(&mut command, &self.folder, "receiver")?;
        let lines = program.wait_for(START, |text| {
            let lines: Vec<Value> =
                text.lines().map_while(|line| serde_json::from_str(line).ok()).collect();
            lines.iter().any(|line| line["type"] == "listening").then_some(lines)
        })?;
        for line in lines.iter().filter(|line| line["type"] == "token") {
            if let (Some(server), Some(token)) = (line["server"].as_str(), line["token"].as_str()) {
                self.tokens.push((server.to_owned(), token.to_owned()));
            }
        }
        self.program = Some(program);
        Ok(())
    }

    /// The token of `server`.
    pub(super) fn token(&self, server: &str) -> Result<&str> {
        let token = self.tokens.iter().find(|(name, _)| name == server);
        token.map(|(_, token)| token.as_str()).ok_or_else(|| "no token was printed".into())
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.program.take().ok_or("the receiver does not run")?.kill()
    }

    /// SIGSTOP: it is there and says nothing.
    pub(super) fn stop(&self) -> Result<()> {
        self.program.as_ref().ok_or("the receiver does not run")?.signal("STOP")
    }

    /// SIGCONT.
    pub(super) fn go_on(&self) -> Result<()> {
        self.program.as_ref().ok_or("the receiver does not run")?.signal("CONT")
    }

    /// SIGTERM, which it must follow.
    pub(super) fn end(&mut self) -> Result<()> {
        let program = self.program.take().ok_or("the receiver does not run")?;
        program.terminate(START)?.expect(0)?;
        Ok(())
    }

    /// What `fleet status` says.
    pub(super) fn fleet(&self) -> Result<Value> {
        let arguments = ["fleet", "status", "-c", text(&self.config)?, "--output", "json"];
        Ok(serde_json::from_str(&self.carreto.expect(0, &arguments)?.stdout)?)
    }
}

/// The end that has the sources.
pub(super) struct Agent {
    carreto: Carreto,
    config: PathBuf,
    /// Where its output goes.
    log: PathBuf,
}

impl Agent {
    /// Writes the configuration into `folder`: the disk `disk`, and what `more` says.
    pub(super) fn new(
        carreto: &Carreto,
        (folder, log): (&Path, &Path),
        token: &str,
        disk: &Path,
        more: &str,
    ) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let run = run_folder();
        let (disk, run) = (text(disk)?, text(&run)?);
        // Tables end what belongs to the whole, so that comes first.
        let config = format!("token = '{token}'\ndisks = ['{disk}']\nrun = '{run}'\n{more}\n");
        let path = folder.join("agent.toml");
        std::fs::write(&path, config)?;
        Ok(Self { carreto: carreto.clone(), config: path, log: log.to_owned() })
    }

    /// Starts `agent run`.
    pub(super) fn run(&self) -> Result<Program> {
        let mut command = self.carreto.command();
        command.args(["agent", "run", "-c", text(&self.config)?, "--output", "json"]);
        Program::start(&mut command, &self.log, "agent")
    }

    /// Starts another command of the agent, `agent WORDS`.
    pub(super) fn start(&self, words: &[&str], name: &str) -> Result<Program> {
        let mut command = self.carreto.command();
        command.arg("agent").args(words).args(["-c", text(&self.config)?, "--output", "json"]);
        Program::start(&mut command, &self.log, name)
    }

    /// Runs `agent WORDS`, which must succeed.
    pub(super) fn order(&self, words: &[&str]) -> Result<String> {
        let ended =
            self.start(words, words.first().copied().unwrap_or("order"))?.wait(MIGRATION)?;
        let ended =
            ended.expect(0).map_err(|error| format!("agent {}: {error}", words.join(" ")))?;
        Ok(ended.stdout)
    }

    /// What `agent status` says.
    pub(super) fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.order(&["status"])?)?)
    }

    /// Waits until the state is one of `states`.
    pub(super) fn wait_for(&self, program: &mut Program, states: &[&str]) -> Result<Value> {
        let mut last = Value::Null;
        let waited = until(&format!("one of {states:?}"), MIGRATION, || {
            if program.has_ended()? {
                return Err(format!("the agent has ended: {}", program.stderr()?).into());
            }
            std::thread::sleep(Duration::from_millis(100));
            // It does not answer before it listens.
            if let Ok(status) = self.status() {
                last = status;
            }
            Ok(last["state"].as_str().is_some_and(|state| states.contains(&state)))
        });
        waited.map_err(|error| format!("{error}; it is {last}"))?;
        Ok(last)
    }

    /// Waits until every disk was read once and changes are followed.
    pub(super) fn wait_until_following(&self, program: &mut Program) -> Result<Value> {
        self.wait_for(program, &["CATCHING_UP", "CONTINUOUS", "READY", "NOT_CONVERGING"])
    }
}

/// The last report of an agent that has committed.
pub(super) fn committed(program: Program) -> Result<Value> {
    report(program.wait(MIGRATION)?)
}

/// The report of an agent that has committed.
fn report(ended: Ended) -> Result<Value> {
    let ended = ended.expect(0)?;
    let report: Value = serde_json::from_str(&ended.stdout)
        .map_err(|error| format!("the report: {error}: {}", ended.said()))?;
    if report["state"] != "COMMITTED" {
        return Err(format!("the state is {}: {}", report["state"], ended.stderr).into());
    }
    Ok(report)
}

/// The number at `path` of a report, such as `totals.data_bytes`.
pub(super) fn number(report: &Value, path: &str) -> Result<f64> {
    let found = path.split('.').fold(report, |value, name| &value[name]);
    found.as_f64().ok_or_else(|| format!("the report lacks {path}: {report}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_report_are_found_by_their_path() {
        let report = serde_json::json!({"totals": {"data_bytes": 7}, "rate": 0.5});
        assert!((number(&report, "totals.data_bytes").expect("there") - 7.0).abs() < 1e-9);
        assert!((number(&report, "rate").expect("there") - 0.5).abs() < 1e-9);
        assert!(number(&report, "totals.rate").is_err());
    }
}
