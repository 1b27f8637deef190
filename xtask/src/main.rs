//! Development commands: one module per command.
//!
//! Depends on no crate of the workspace, so that it also works when none of them builds.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command of the developers speaks to its user"
)]

mod debian;
mod dist;
mod e2e;
mod tidy;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Anything that ends a command, as text for people.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  tidy                            check the rules that hold the workspace together
  e2e [--allow-skip] [SUITE]...   run the command carreto against real tools and servers
                                  suites: qemu write kill nbd devices root loops s3
                                  s3-versitygw (all by default)
  e2e s3-big --image FILE         upload FILE while client and server are killed
  e2e guests                      move Debian that runs in QEMU, under load; as root
  e2e live                        all of online migration: loops and guests
  dist [--try]                    build the static binary; try it in old releases of Debian";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", &[][..]),
    };
    let done = match command {
        "tidy" if rest.is_empty() => tidy::run(&root()),
        "e2e" => e2e::run(&root(), rest),
        "dist" => dist::run(&root(), rest),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the workspace: of the one that `cargo xtask` was called in, which need not be the
/// one that this program was built in when both share a target directory.
fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let here = here.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    here.parent().map_or(here.clone(), Path::to_owned)
}
