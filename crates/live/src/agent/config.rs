//! `agent.toml`: where to go, what to send, when to cut over.

use crate::pace::Schedule;
use crate::price::Prices;
use crate::storage::{parse_config, read_config};
use crate::track::{TrackerChoice, TrackerKind};
use crate::trust::{Hidden, JoinToken, Proxy};
use carreto_error::{Error, Kind, Result, ResultExt as _};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The agent's configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// The join token that the receiver printed.
    #[serde(default)]
    token: Option<Hidden>,
    /// A file with the token, instead of [`Self::token`].
    #[serde(default)]
    token_file: Option<PathBuf>,
    /// Where the agent keeps its key; the configuration's folder unless it is said.
    #[serde(default)]
    pub state: PathBuf,
    /// What must not lie on a disk: status, control socket. In memory, gone after a restart.
    #[serde(default = "default_run")]
    pub run: PathBuf,
    /// The disks to migrate, as `/dev/vda` or `vda`; all of the server unless it is said.
    #[serde(default)]
    pub disks: Vec<String>,
    /// Data connections, 1 to 8; as many as the receiver allows unless it is said.
    #[serde(default)]
    pub streams: Option<u16>,
    /// Bytes per second over the day, as `rclone --bwlimit` has it.
    #[serde(default = "Schedule::unlimited")]
    pub bandwidth: Schedule,
    /// Threads that read, hash and compress; half of the processors, at least one, unless it is said.
    #[serde(default)]
    pub threads: Option<usize>,
    /// `auto`, `bpf`, `blktrace` or `rescan`.
    #[serde(default)]
    tracker: TrackerWish,
    /// An HTTP or SOCKS proxy on the way.
    #[serde(default)]
    pub proxy: Option<Proxy>,
    /// When and how to cut over.
    #[serde(default)]
    pub cutover: CutoverConfig,
    /// Commands around the freeze.
    #[serde(default)]
    pub hooks: HookConfig,
    /// What traffic and time cost.
    #[serde(default)]
    pub cost: Option<Prices>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TrackerWish {
    #[default]
    Auto,
    Bpf,
    Blktrace,
    Rescan,
}

/// When and how to cut over.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CutoverConfig {
    /// On command, or as soon as it is ready.
    pub when: When,
    /// Ready means a predicted pause of at most so many seconds.
    pub max_pause_seconds: f64,
    /// Hash every granule while the source stands still, whatever the tracker says.
    pub strict: bool,
    /// Seconds after which the source thaws by itself when agent, receiver or network are gone.
    pub lease_seconds: u64,
    /// What becomes of the source once the target is complete.
    pub after: After,
}

impl Default for CutoverConfig {
    fn default() -> Self {
        Self {
            when: When::Manual,
            max_pause_seconds: 30.0,
            strict: false,
            lease_seconds: 120,
            after: After::Frozen,
        }
    }
}

/// When to cut over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// On `carreto agent cutover`.
    Manual,
    /// As soon as the state is READY.
    Ready,
}

/// What becomes of the source once the target is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum After {
    /// Its file systems stay frozen, so that nothing is written that the target lacks.
    Frozen,
    /// It works on. What it writes is lost to the target.
    Thaw,
    /// It is switched off at once, as by `SysRq`: its file systems are frozen and consistent.
    PowerOff,
}

/// Commands around the freeze, run by `sh -c` one after another.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HookConfig {
    /// Before the freeze; a failure gives the cutover up.
    pub before: Vec<String>,
    /// After a thaw: the cutover was given up, or the source works on.
    pub after: Vec<String>,
    /// Seconds that a command may take.
    pub limit_seconds: u64,
}

impl Default for HookConfig {
    fn default() -> Self {
        Self { before: Vec::new(), after: Vec::new(), limit_seconds: 60 }
    }
}

fn default_run() -> PathBuf {
    PathBuf::from("/run/carreto")
}

impl AgentConfig {
    /// Reads `path`. Relative paths in it start at its folder.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Io`; `Usage` naming the line or field.
    pub fn load(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let text = read_config(path)?;
        let mut config = Self::parse(&text).map_err(|error| error.path(name))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        config.state = folder.join(&config.state);
        config.token_file = config.token_file.map(|file| folder.join(file));
        Ok(config)
    }

    /// Understands and checks `text`.
    ///
    /// # Errors
    /// `Usage` naming the line or field.
    pub fn parse(text: &str) -> Result<Self> {
        let config: Self = parse_config(text).map_err(example)?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        if self.token.is_some() == self.token_file.is_some() {
            return Err(usage("one of token and token_file is needed".to_owned()));
        }
        let streams = self.streams.unwrap_or(1);
        if !(1..=crate::wire::MAX_STREAMS).contains(&streams) {
            return Err(usage(format!("streams must be 1 to 8, not {streams}")));
        }
        let lease = self.cutover.lease_seconds;
        if !(10..=3600).contains(&lease) {
            return Err(usage(format!("lease_seconds must be 10 to 3600, not {lease}")));
        }
        let pause = self.cutover.max_pause_seconds;
        if !pause.is_finite() || pause <= 0.0 {
            return Err(usage(format!("max_pause_seconds must be positive, not {pause}")));
        }
        if self.threads == Some(0) {
            return Err(usage("threads must be at least 1".to_owned()));
        }
        Ok(())
    }

    /// The join token.
    ///
    /// # Errors
    /// `Usage` for a text that is no token; what reading its file meets.
    pub fn token(&self) -> Result<JoinToken> {
        match (&self.token, &self.token_file) {
            (Some(token), _) => token.expose().trim().parse(),
            (None, Some(file)) => {
                let token: Result<_> = read_config(file)?.trim().parse();
                token.or_path(&file.display().to_string())
            }
            (None, None) => Err(usage("there is no token".to_owned())),
        }
    }

    /// Which trackers may be used.
    pub fn tracker(&self) -> TrackerChoice {
        match self.tracker {
            TrackerWish::Auto => TrackerChoice::Auto,
            TrackerWish::Bpf => TrackerChoice::Only(TrackerKind::Bpf),
            TrackerWish::Blktrace => TrackerChoice::Only(TrackerKind::Blktrace),
            TrackerWish::Rescan => TrackerChoice::Only(TrackerKind::Rescan),
        }
    }

    /// Threads that read, hash and compress.
    pub fn worker_count(&self) -> usize {
        let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.threads.unwrap_or(all / 2).clamp(1, 64)
    }

    /// The folder in memory of `server`.
    pub fn run_folder(&self, server: &str) -> PathBuf {
        self.run.join(server)
    }

    /// How long the freeze lasts without a sign of life.
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.cutover.lease_seconds)
    }
}

fn usage(text: String) -> Error {
    example(Error::new(Kind::Usage, text))
}

fn example(error: Error) -> Error {
    error.remedied_by("see `carreto agent run --help` for an example")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_enough() {
        let config = AgentConfig::parse("token = 'carreto1.x'").expect("good");
        assert_eq!(config.cutover.after, After::Frozen);
        assert_eq!(config.run_folder("web1"), Path::new("/run/carreto/web1"));
        assert!(config.worker_count() >= 1);
        assert_eq!(config.token().map_err(|e| e.kind()).err(), Some(Kind::Usage));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, word) in [
            ("disks = []", "token"),
            ("token = 'a'\ntoken_file = 'b'", "token"),
            ("token = 'a'\nstreams = 9", "streams"),
            ("token = 'a'\nbandwith = 'off'", "bandwith"),
            ("token = 'a'\nbandwidth = '25:00,1M'", "bandwidth"),
            ("token = 'a'\n[cutover]\nlease_seconds = 1", "lease_seconds"),
            ("token = 'a'\n[cutover]\nmax_pause_seconds = nan", "max_pause_seconds"),
            ("token = 'a'\n[cutover]\nafter = 'explode'", "after"),
            ("token = 'a'\nthreads = 0", "threads"),
        ] {
            let error = AgentConfig::parse(text).expect_err(word);
            assert_eq!(error.kind(), Kind::Usage);
            assert!(error.detail().contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn a_file_that_holds_no_token_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        std::fs::write(&path, "carreto1.hush").expect("written");
        let text = format!("token_file = '{}'", path.display());
        let error = AgentConfig::parse(&text).expect("good").token().expect_err("no token");
        let shown = error.to_string();
        assert!(shown.contains("/token") && !shown.contains("hush"), "{shown}");
    }

    #[test]
    fn what_is_secret_is_not_quoted() {
        for (text, place) in [
            ("disks = []\ntoken = carreto1.secret", "line 2, "),
            ("token = 'x'\n\nproxy = \"socks5://user:secret@", "line 3, "),
            ("token = 'x'\nproxy = 'ftp://user:secret@host'", "line 2, "),
            ("token = 'x'\nproxy = 'http://user:secret@host/path'", "line 2, "),
            ("token = ['carreto1.secret']", "line 1, "),
        ] {
            let error = AgentConfig::parse(text).expect_err(text);
            let shown = carreto_error::chain_text(&error);
            assert!(shown.contains(place) && !shown.contains("secret"), "{text}: {shown}");
        }
    }
}
