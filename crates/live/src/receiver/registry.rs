//! What the receiver remembers of one server across restarts.

use crate::storage::write_whole;
use crate::trust::{Fingerprint, Invitation};
use carreto_error::{Error, IoSide, Kind, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;
/// More than any such file has.
const MOST_BYTES: u64 = 1 << 20;

/// The file `migration.json` of one server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Memory {
    version: u32,
    /// The migration's name.
    pub(super) migration: String,
    /// The token that was printed.
    pub(super) invitation: Option<Invitation>,
    /// The agent's key.
    pub(super) agent: Option<Fingerprint>,
    /// The disks, in the order of their numbers.
    pub(super) disks: Vec<KnownDisk>,
    /// The certificate of a migration that is over, as JSON, signed by both sides.
    pub(super) committed: Option<String>,
}

/// A disk that was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KnownDisk {
    /// The source's identity of the disk.
    pub(super) identity: String,
    /// Bytes.
    pub(super) size: u64,
    /// The target as configured.
    pub(super) target: String,
}

impl Memory {
    /// A server that nobody has asked for yet.
    fn new() -> Result<Self> {
        let migration = crate::trust::hex::encode(&crate::trust::Secret::random()?.expose()[..8]);
        Ok(Self {
            version: VERSION,
            migration,
            invitation: None,
            agent: None,
            disks: Vec::new(),
            committed: None,
        })
    }
}

/// The folder of one server.
#[derive(Debug, Clone)]
pub(super) struct Registry {
    folder: PathBuf,
}

impl Registry {
    /// The folder of `server` under `state`, made if it is missing.
    pub(super) fn open(state: &Path, server: &str) -> Result<Self> {
        let folder = state.join("servers").join(server);
        std::fs::create_dir_all(&folder)
            .map_err(|error| fail("make the folder", &folder, error))?;
        Ok(Self { folder })
    }

    /// Where everything of this server lies.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file `name` of this server.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What is remembered; a new migration where nothing is.
    pub(super) fn load(&self) -> Result<Memory> {
        let path = self.file("migration.json");
        let size = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Memory::new(),
            Err(error) => return Err(fail("look at", &path, error)),
        };
        if size > MOST_BYTES {
            return Err(unreadable(&path, &format!("it has {size} bytes")));
        }
        let text = std::fs::read(&path).map_err(|error| fail("read", &path, error))?;
        let memory: Memory =
            serde_json::from_slice(&text).map_err(|error| unreadable(&path, &error.to_string()))?;
        if memory.version != VERSION {
            return Err(unreadable(&path, &format!("its version is {}", memory.version)));
        }
        Ok(memory)
    }

    /// Remembers `memory`, durably and as a whole.
    pub(super) fn save(&self, memory: &Memory) -> Result<()> {
        let text = serde_json::to_vec_pretty(memory)
            .map_err(|error| Error::new(Kind::Internal, error.to_string()))?;
        write_whole(&self.file("migration.json"), &text)
    }
}

fn fail(what: &'static str, path: &Path, error: std::io::Error) -> Error {
    Error::io(IoSide::State, what, path.display().to_string(), error)
}

fn unreadable(path: &Path, why: &str) -> Error {
    Error::new(Kind::Io, format!("it cannot be understood: {why}"))
        .path(path.display().to_string())
        .remedied_by(format!("to begin its migration anew, {}", crate::remedy::BEGIN_ANEW))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_migration_keeps_its_name_across_restarts() {
        let folder = tempfile::tempdir().expect("a folder");
        let registry = Registry::open(folder.path(), "web1").expect("made");
        let memory = registry.load().expect("new");
        registry.save(&memory).expect("saved");
        let again = Registry::open(folder.path(), "web1").and_then(|it| it.load()).expect("read");
        assert_eq!(again.migration, memory.migration);
        assert_eq!(memory.migration.len(), 16);
    }

    #[test]
    fn a_file_that_cannot_be_understood_is_not_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let registry = Registry::open(folder.path(), "web1").expect("made");
        for text in ["", "{}", "[1", r#"{"version":9}"#] {
            std::fs::write(registry.file("migration.json"), text).expect("written");
            let error = registry.load().expect_err("refused");
            assert!(error.remedy().contains("move the server's folder"), "{error}");
        }
    }
}
