//! Configuration: flags, then the environment, then files, then defaults.

use crate::args::Global;
use carreto_error::{Error, IoSide, Result};
use carreto_migrate::StoreConfig;
use std::path::{Path, PathBuf};

/// How to reach stores, from the environment and the configuration files.
pub(crate) fn stores(global: &Global) -> Result<StoreConfig> {
    let mut config = StoreConfig::new();
    for path in files(global) {
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let name = path.display().to_string();
                config = config.with_file(&text).map_err(|error| error.or_path(&name))?;
            }
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound && global.config.is_none() => {}
            Err(error) => {
                let name = path.display().to_string();
                return Err(Error::io(IoSide::State, "read the configuration", name, error));
            }
        }
    }
    config.with_env(variables())
}

/// The environment without what is no text: no setting is.
fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// The configuration files, the one that wins last.
fn files(global: &Global) -> Vec<PathBuf> {
    if let Some(path) = &global.config {
        return vec![path.clone()];
    }
    let user = base_dir("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("carreto/config.toml"));
    [Some(PathBuf::from("/etc/carreto/config.toml")), user].into_iter().flatten().collect()
}

/// Where journals, locks and reports lie by default.
pub(crate) fn state_dir() -> PathBuf {
    let home = base_dir("XDG_STATE_HOME", ".local/state").map(|dir| dir.join("carreto"));
    if is_root() || home.is_none() {
        return PathBuf::from("/var/lib/carreto");
    }
    home.unwrap_or_default()
}

/// An XDG base directory, by its variable or below the home directory.
fn base_dir(variable: &str, below_home: &str) -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    set(variable).or_else(|| set("HOME").map(|home| home.join(below_home)))
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(Path::new("/proc/self")).is_ok_and(|process| process.uid() == 0)
}
