//! `receive.toml`: where to listen, and which server's disks go where.

use crate::storage::{parse_config, read_config};
use carreto_error::{Error, Kind, Result};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The receiver's configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiverConfig {
    /// Address and port to listen on.
    #[serde(default = "default_listen")]
    pub listen: String,
    /// Addresses (`host:port`) under which sources reach the receiver, for the join tokens.
    #[serde(default)]
    pub advertise: Vec<String>,
    /// Where keys, journals and certificates are kept.
    pub state: PathBuf,
    /// Data connections of each server, 1 to 8.
    #[serde(default = "default_streams")]
    pub streams: u16,
    /// Hours for which a join token is good.
    #[serde(default = "default_token_hours")]
    pub token_hours: u32,
    /// The servers that may be migrated.
    #[serde(rename = "server", default)]
    pub servers: Vec<ServerConfig>,
}

/// One source server.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Its name: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Its disks.
    #[serde(rename = "disk")]
    pub disks: Vec<TargetConfig>,
}

/// One disk and its target.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetConfig {
    /// The disk as the source names it: `vda`, or its identity as `agent check` prints it.
    pub source: String,
    /// A block device, a file or an NBD export.
    pub target: String,
}

fn default_listen() -> String {
    "0.0.0.0:7443".to_owned()
}

const fn default_streams() -> u16 {
    4
}

const fn default_token_hours() -> u32 {
    72
}

impl ReceiverConfig {
    /// Reads `path`. Relative paths in it start at its folder.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Io`; `Usage` naming the line or field.
    pub fn load(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let text = read_config(path)?;
        let mut config = Self::parse(&text).map_err(|error| error.path(name))?;
        if let Some(folder) = path.parent() {
            config.state = folder.join(&config.state);
        }
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
        if !(1..=crate::wire::MAX_STREAMS).contains(&self.streams) {
            return Err(usage(format!("streams must be 1 to 8, not {}", self.streams)));
        }
        if self.servers.is_empty() {
            return Err(usage("no [[server]] is configured"));
        }
        let (mut names, mut targets) = (BTreeSet::new(), BTreeSet::new());
        for server in &self.servers {
            crate::trust::check_server_name(&server.name)?;
            if !names.insert(&server.name) {
                return Err(usage(format!("the server {} is there twice", server.name)));
            }
            if server.disks.is_empty() {
                return Err(usage(format!("the server {} has no [[server.disk]]", server.name)));
            }
            let mut sources = BTreeSet::new();
            for disk in &server.disks {
                if !sources.insert(&disk.source) {
                    let text = format!("{}: the disk {} is there twice", server.name, disk.source);
                    return Err(usage(text));
                }
                if !targets.insert(&disk.target) {
                    return Err(usage(format!("two disks have the target {}", disk.target)));
                }
            }
        }
        Ok(())
    }
}

fn usage(text: impl Into<String>) -> Error {
    example(Error::new(Kind::Usage, text.into()))
}

fn example(error: Error) -> Error {
    error.remedied_by("see `carreto receive --help` for an example")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "state = 's'\n[[server]]\nname = 'a'\n[[server.disk]]\n\
                        source = 'vda'\ntarget = '/dev/vdb'\n";

    #[test]
    fn a_small_configuration_is_enough() {
        let config = ReceiverConfig::parse(GOOD).expect("good");
        assert_eq!((config.listen.as_str(), config.streams), ("0.0.0.0:7443", 4));
        assert_eq!(config.servers[0].disks[0].target, "/dev/vdb");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let two = GOOD.replace(
            "state",
            "[[server]]\nname='b'\n[[server.disk]]\nsource='x'\ntarget='/dev/vdb'\n#",
        );
        for (text, word) in [
            (GOOD.replace("state", "streams = 9\nstate"), "streams must be"),
            (GOOD.replace("state", "sate"), "sate"),
            (format!("{GOOD}[[server.disk]]\nsource='vda'\ntarget='/dev/vdc'\n"), "twice"),
            (format!("{GOOD}[[server.disk]]\nsource='vdb'\ntarget='/dev/vdb'\n"), "/dev/vdb"),
            (GOOD.replace("'a'", "'../a'"), "name"),
            ("state = 's'\n".to_owned(), "[[server]]"),
            (two, "state"),
        ] {
            let error = ReceiverConfig::parse(&text).expect_err(word);
            assert_eq!(error.kind(), Kind::Usage);
            assert!(error.detail().contains(word), "{word}: {error}");
        }
        // A target may be an export with a password.
        let broken = GOOD.replace("'/dev/vdb'", "nbd://user:secret@host/x");
        let error = carreto_error::chain_text(&ReceiverConfig::parse(&broken).expect_err("broken"));
        assert!(error.contains("line 6, ") && !error.contains("secret"), "{error}");
    }
}
