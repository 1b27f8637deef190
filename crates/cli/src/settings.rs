//! Configuration: flags, then the environment, then files, then defaults.

use crate::args::Global;
use carreto_error::{Error, IoSide, Result};
use carreto_migrate::StoreConfig;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// How to reach stores, from the environment and the configuration files.
pub(crate) fn stores(global: &Global) -> Result<StoreConfig> {
    let mut config = StoreConfig::new();
    let mut configured = false;
    for path in files(global) {
        if let Some(text) = read(&path, global.config.is_none())? {
            let name = path.display().to_string();
            config = config.with_file(&text).map_err(|error| error.or_path(&name))?;
            configured = true;
        }
    }
    with_aws_profile(config, configured)?.with_env(variables())
}

/// Takes the credentials of the AWS tools. A file of our own says more about what is wanted here
/// than their default profile, so beside one only a profile that was asked for counts.
fn with_aws_profile(config: StoreConfig, configured: bool) -> Result<StoreConfig> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let name = set("AWS_PROFILE").and_then(|name| name.into_string().ok());
    let named = ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"].map(set);
    let asked_for = name.is_some() || named.iter().any(Option::is_some);
    if configured && !asked_for {
        return Ok(config);
    }
    let profile = name.as_deref().unwrap_or("default");
    let usual =
        ["config", "credentials"].map(|file| home().map(|home| home.join(".aws").join(file)));
    let mut config = config;
    for (named, usual) in named.into_iter().zip(usual) {
        let Some(path) = named.map(PathBuf::from).or(usual) else { continue };
        let text = match read(&path, true) {
            // Whoever did not ask for it may not be able to read it either.
            Err(_) if !asked_for => None,
            text => text?,
        };
        if let Some(text) = text {
            let name = path.display().to_string();
            config = config.with_aws_profile(&text, profile).map_err(|e| e.or_path(&name))?;
        }
    }
    Ok(config)
}

/// The text of a file of settings; `None` when it may be missing and is.
fn read(path: &Path, may_be_missing: bool) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound && may_be_missing => Ok(None),
        Err(error) => {
            let name = path.display().to_string();
            Err(Error::io(IoSide::State, "read the configuration", name, error))
        }
    }
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
    absolute(variable).or_else(|| home().map(|home| home.join(below_home)))
}

fn home() -> Option<PathBuf> {
    absolute("HOME")
}

fn absolute(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(Path::new("/proc/self")).is_ok_and(|process| process.uid() == 0)
}
