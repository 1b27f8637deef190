//! Which crate may depend on which: the table of `docs/architecture.md`.

use super::Finding;
use crate::Result;
use cargo_metadata::{DependencyKind, MetadataCommand, Package};
use std::path::{Path, PathBuf};

const PREFIX: &str = "carreto-";
const TESTKIT: &str = "testkit";

/// A crate and the crates of the workspace that it may depend on, all without their prefix.
/// A crate that is not here is an error, and so is an arrow that is not here.
const TABLE: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("block", &["error"]),
    ("formats", &["block", "error"]),
    ("store", &["block", "error"]),
    ("transfer", &["block", "error"]),
    ("guest", &["block", "error"]),
    ("kernel", &["error"]),
    ("live", &["kernel", "block", "transfer", "error"]),
    ("migrate", &["formats", "store", "transfer", "guest", "live", "block", "error"]),
    ("cli", &["migrate", "error"]),
    ("server", &["migrate", "error"]),
    (TESTKIT, &["block", "error"]),
    ("xtask", &[]),
];

/// Packages that test the others from outside: they may use anything.
const FREE: &[&str] = &["tests", "benches"];

/// A dependency, as far as the table is concerned.
#[derive(Debug, Clone)]
pub(crate) struct Arrow {
    to: String,
    /// Whether it leads to a crate of the workspace.
    inside: bool,
    /// Whether only tests follow it.
    dev: bool,
}

/// A member of the workspace.
#[derive(Debug, Clone)]
pub(crate) struct Crate {
    /// The full name, `carreto-block`.
    pub(crate) name: String,
    /// Where its `Cargo.toml` lies.
    pub(crate) folder: PathBuf,
    arrows: Vec<Arrow>,
}

impl Crate {
    /// The name without the prefix that all have.
    pub(crate) fn short(&self) -> &str {
        short(&self.name)
    }

    /// One that depends on nothing.
    #[cfg(test)]
    pub(crate) fn bare(name: &str, folder: PathBuf) -> Self {
        Self { name: name.into(), folder, arrows: Vec::new() }
    }

    /// Whether it is one that people take: not `xtask`, not a package of tests.
    pub(crate) fn is_library_or_command(&self) -> bool {
        self.name.starts_with(PREFIX) && !FREE.contains(&self.short())
    }
}

fn short(name: &str) -> &str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

/// Reads the members of the workspace.
pub(crate) fn read(root: &Path) -> Result<Vec<Crate>> {
    let metadata =
        MetadataCommand::new().manifest_path(root.join("Cargo.toml")).no_deps().exec()?;
    Ok(metadata.workspace_packages().into_iter().map(member).collect())
}

fn member(package: &Package) -> Crate {
    let manifest = package.manifest_path.as_std_path();
    let arrows = package.dependencies.iter().map(|dependency| Arrow {
        to: dependency.name.clone(),
        inside: dependency.path.is_some(),
        dev: dependency.kind == DependencyKind::Development,
    });
    Crate {
        name: package.name.to_string(),
        folder: manifest.parent().unwrap_or(manifest).to_owned(),
        arrows: arrows.collect(),
    }
}

/// Every arrow that the table does not have.
pub(crate) fn check(crates: &[Crate]) -> Vec<Finding> {
    crates.iter().flat_map(check_crate).collect()
}

fn check_crate(of: &Crate) -> Vec<Finding> {
    if FREE.contains(&of.short()) {
        return Vec::new();
    }
    let Some((_, allowed)) = TABLE.iter().find(|(name, _)| *name == of.short()) else {
        let text = "the table of crates and arrows does not know it";
        return vec![Finding::error(&of.name, text)];
    };
    let forbidden = of.arrows.iter().filter(|arrow| !permits(of, allowed, arrow));
    forbidden
        .map(|arrow| {
            let kind = if arrow.dev { "dev-dependency" } else { "dependency" };
            let text = format!("the {kind} on {} is not an arrow of the architecture", arrow.to);
            Finding::error(&of.name, text)
        })
        .collect()
}

fn permits(of: &Crate, allowed: &[&str], arrow: &Arrow) -> bool {
    let to = short(&arrow.to);
    if !arrow.inside {
        // `error` is the one crate that has nothing but the standard library.
        return of.short() != "error" || arrow.dev;
    }
    allowed.contains(&to) || (arrow.dev && to == TESTKIT && of.short() != "error")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrow(to: &str, dev: bool) -> Arrow {
        Arrow { to: to.into(), inside: to.starts_with(PREFIX), dev }
    }

    fn errors(name: &str, arrows: &[Arrow]) -> usize {
        let crates = [Crate { name: name.into(), folder: PathBuf::new(), arrows: arrows.to_vec() }];
        check(&crates).len()
    }

    #[test]
    fn arrows_of_the_table_pass() {
        let block = [arrow("carreto-error", false), arrow("zerocopy", false)];
        assert_eq!(errors("carreto-block", &block), 0);
        for below in ["formats", "store", "transfer", "guest", "live", "block", "error"] {
            let to = arrow(&format!("carreto-{below}"), false);
            assert_eq!(errors("carreto-migrate", &[to]), 0, "{below}");
        }
        let live = [arrow("carreto-transfer", false)];
        assert_eq!(errors("carreto-live", &live), 0);
        let cli = [arrow("carreto-migrate", false), arrow("carreto-error", false)];
        assert_eq!(errors("carreto-cli", &cli), 0);
    }

    #[test]
    fn other_arrows_are_errors() {
        for (from, to) in [
            ("carreto-block", "carreto-formats"),
            ("carreto-formats", "carreto-store"),
            ("carreto-store", "carreto-formats"),
            ("carreto-transfer", "carreto-store"),
            ("carreto-cli", "carreto-formats"),
            ("carreto-cli", "carreto-block"),
            ("carreto-testkit", "carreto-formats"),
            ("carreto-migrate", "carreto-cli"),
            ("carreto-error", "carreto-block"),
            ("xtask", "carreto-error"),
        ] {
            assert_eq!(errors(from, &[arrow(to, false)]), 1, "{from} to {to}");
            assert_eq!(errors(from, &[arrow(to, true)]), 1, "{from} to {to} in tests");
        }
    }

    #[test]
    fn the_test_kit_is_for_tests_of_all_but_error() {
        let testkit = |dev| [arrow("carreto-testkit", dev)];
        assert_eq!(errors("carreto-block", &testkit(true)), 0);
        assert_eq!(errors("carreto-cli", &testkit(true)), 0);
        assert_eq!(errors("carreto-formats", &testkit(false)), 1);
        assert_eq!(errors("carreto-error", &testkit(true)), 1);
    }

    #[test]
    fn error_has_nothing_but_the_standard_library() {
        assert_eq!(errors("carreto-error", &[arrow("thiserror", false)]), 1);
        assert_eq!(errors("carreto-error", &[arrow("trybuild", true)]), 0);
    }

    #[test]
    fn packages_of_tests_may_use_anything_and_strangers_nothing() {
        let all = [arrow("carreto-formats", false), arrow("carreto-store", false)];
        assert_eq!(errors("carreto-tests", &all), 0);
        assert_eq!(errors("carreto-benches", &all), 0);
        assert_eq!(errors("carreto-extra", &[]), 1);
    }
}
