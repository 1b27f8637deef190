//! Checks on the manifests of the crates: the lints of the workspace reach only who asks for them.

use super::Finding;
use super::arrows::Crate;

/// Every crate that leaves the lints of the workspace out.
pub(crate) fn check(crates: &[Crate]) -> Vec<Finding> {
    crates.iter().filter_map(check_crate).collect()
}

fn check_crate(member: &Crate) -> Option<Finding> {
    let text = match std::fs::read_to_string(member.folder.join("Cargo.toml")) {
        Ok(text) => text,
        Err(error) => return Some(Finding::error(&member.name, error.to_string())),
    };
    let finding = || Finding::error(&member.name, "its Cargo.toml lacks [lints] workspace = true");
    (!takes_lints(&text)).then(finding)
}

fn takes_lints(manifest: &str) -> bool {
    let mut inside = false;
    manifest.lines().any(|line| {
        let line = line.split_once('#').map_or(line, |(code, _)| code);
        let line: String = line.chars().filter(|c| !c.is_whitespace()).collect();
        if line.starts_with('[') {
            inside = line == "[lints]";
        }
        inside && line == "workspace=true"
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn the_table_of_lints_asks_for_those_of_the_workspace() {
        assert!(takes_lints("[package]\nname = \"a\"\n\n[lints]\nworkspace = true # all\n"));
        assert!(!takes_lints("[package]\nversion.workspace = true\n"));
        assert!(!takes_lints("[lints]\n# workspace = true\n[dependencies]\nworkspace = true\n"));
        assert!(!takes_lints("[lints]\nworkspace = false\n"));
    }

    #[test]
    fn a_crate_without_them_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let member = |folder: PathBuf| [Crate::bare("carreto-x", folder)];
        assert_eq!(check(&member(folder.path().to_owned())).len(), 1, "no manifest");
        std::fs::write(folder.path().join("Cargo.toml"), "[package]\n").expect("written");
        assert_eq!(check(&member(folder.path().to_owned())).len(), 1);
        let good = "[lints]\nworkspace = true\n";
        std::fs::write(folder.path().join("Cargo.toml"), good).expect("written");
        assert!(check(&member(folder.path().to_owned())).is_empty());
    }
}
