//! Completions and manual pages, from the one grammar.

use crate::args::Args;
use crate::console;
use carreto_error::{Error, IoSide, Result};
use clap::CommandFactory as _;
use std::path::Path;

/// Prints a completion script.
pub(crate) fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "carreto", &mut script);
    console::print_text(String::from_utf8_lossy(&script).trim_end())
}

/// Prints the manual page, or writes one for every command into `dir`.
pub(crate) fn man(dir: Option<&Path>) -> Result<()> {
    if let Some(dir) = dir {
        let name = dir.display().to_string();
        return clap_mangen::generate_to(Args::command(), dir)
            .map_err(|e| Error::io(IoSide::State, "write the manual pages", name, e));
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Args::command())
        .render(&mut page)
        .map_err(|e| Error::io(IoSide::State, "render the manual page", "memory", e))?;
    console::print_text(String::from_utf8_lossy(&page).trim_end())
}
