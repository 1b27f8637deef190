//! `cargo xtask dist`: the one static binary, and the proof that it is one.
//!
//! With `--try` it also runs in the oldest root file systems of Debian that debootstrap can still
//! make here, which needs root.

mod elf;
mod old;

use crate::Result;
use crate::e2e::process;
use elf::Look;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What the user asked for.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    trial: bool,
}

fn parse(arguments: &[String]) -> Result<Options> {
    let mut options = Options { trial: false };
    for argument in arguments {
        match argument.as_str() {
            "--try" => options.trial = true,
            other => return Err(format!("dist does not know {other}").into()),
        }
    }
    Ok(options)
}

/// Builds the binary, prints what it is, and tries it when asked to.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let options = parse(arguments)?;
    let target = process::target_directory(root)?;
    let program = build(root, &target)?;
    if options.trial {
        old::run(root, &target, &program)?;
    }
    Ok(())
}

/// The binary that `CARRETO_E2E_BIN` names, which must be static, or else a new one.
pub(crate) fn program(root: &Path, target: &Path) -> Result<PathBuf> {
    let Some(named) = std::env::var_os("CARRETO_E2E_BIN") else {
        return build(root, target);
    };
    let named = std::path::absolute(named)?;
    elf::look(&std::fs::read(&named)?)?.must_be_static()?;
    Ok(named)
}

/// Builds the static binary as `dist/carreto` of the folder `target`. An error when it needs any
/// file of the system that it runs on.
fn build(root: &Path, target: &Path) -> Result<PathBuf> {
    process::show(&mut cargo(root))?;
    let folder = target.join("dist");
    std::fs::create_dir_all(&folder)?;
    let program = folder.join("carreto");
    std::fs::copy(target.join(TARGET).join("release/carreto"), &program)?;
    let bytes = std::fs::read(&program)?;
    let look = elf::look(&bytes)?;
    look.must_be_static()?;
    print(&program, bytes.len(), &look)?;
    Ok(program)
}

/// Naming the target keeps the flags away from build scripts and procedural macros, which cannot
/// be static.
fn cargo(root: &Path) -> Command {
    let mut command = process::cargo(root);
    command.args(["build", "--release", "-p", "carreto-cli", "--target", TARGET]);
    command.args(["--config", "profile.release.strip=\"symbols\""]);
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    command.env_remove("CARGO_ENCODED_RUSTFLAGS");
    command.env("RUSTFLAGS", format!("{flags} -C target-feature=+crt-static").trim());
    command
}

fn print(program: &Path, bytes: usize, look: &Look) -> Result<()> {
    println!("{}: {bytes} bytes, {look}", program.display());
    let mut ldd = Command::new("ldd");
    let said = process::run(ldd.arg(program))?.said();
    println!("ldd: {said}");
    let is_static = ["statically linked", "not a dynamic executable"];
    if is_static.iter().any(|words| said.contains(words)) {
        return Ok(());
    }
    Err("ldd does not call it static".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> Result<Options> {
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        parse(&arguments)
    }

    #[test]
    fn a_trial_is_run_when_asked_for() {
        assert_eq!(options(&[]).expect("good"), Options { trial: false });
        assert_eq!(options(&["--try"]).expect("good"), Options { trial: true });
        assert!(options(&["--trial"]).is_err());
        assert!(options(&["--try", "more"]).is_err());
    }

    #[test]
    fn cargo_builds_for_a_named_target() {
        let command = cargo(Path::new("/"));
        let arguments: Vec<_> = command.get_args().filter_map(|text| text.to_str()).collect();
        assert!(arguments.windows(2).any(|pair| pair == ["--target", TARGET]));
        let flags = command.get_envs().find(|(name, _)| *name == "RUSTFLAGS");
        let flags = flags.and_then(|(_, value)| value?.to_str()).expect("flags");
        assert!(flags.ends_with("target-feature=+crt-static"), "{flags}");
    }
}
