//! Cleanup without privileges: files, and what is refused.

use super::super::files::RunFolder;
use super::super::testing::{Fake, config};
use super::*;
use std::fs;

fn made(place: &Path) -> AgentConfig {
    let config = config(place, "cleanup-test");
    let folder = config.run_folder("cleanup-test");
    fs::create_dir_all(&folder).unwrap();
    for name in ["state.json", "lock", "control.sock", "state.new"] {
        fs::write(folder.join(name), "x").unwrap();
    }
    fs::write(folder.join("certificate.json"), "{\"roots\": 1}").unwrap();
    fs::write(place.join("agent.key"), "k").unwrap();
    fs::write(place.join("agent.toml"), "the operator's").unwrap();
    config
}

#[test]
fn everything_goes_and_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let config = made(place.path());
    let kept = place.path().join("kept.json");
    let before = remains(&config).unwrap();
    assert_eq!(before.files.len(), 7, "{before:?}");
    let shared = before.pins.len();
    let cleaned = cleanup(&config, &Fake::default(), Some(&kept)).unwrap();
    assert_eq!(cleaned.before.files, before.files);
    assert!(cleaned.after.is_empty() && remains(&config).unwrap().is_empty());
    let removed = cleaned.removed.len();
    assert_eq!(removed, 8 + shared, "the folder of all agents too: {:?}", cleaned.removed);
    assert_eq!(cleaned.certificate.unwrap()["roots"], 1);
    assert_eq!(fs::read_to_string(kept).unwrap(), "{\"roots\": 1}");
    assert_eq!(fs::read_to_string(place.path().join("agent.toml")).unwrap(), "the operator's");
    let again = cleanup(&config, &Fake::default(), None).unwrap();
    assert!(again.before.is_empty() && again.removed.is_empty());
}

#[test]
fn a_running_agent_is_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let config = made(place.path());
    let lock = RunFolder::at(config.run_folder("cleanup-test")).take().unwrap();
    let error = cleanup(&config, &Fake::default(), None).unwrap_err();
    assert_eq!(error.kind(), Kind::Locked);
    assert_eq!(remains(&config).unwrap().files.len(), 7);
    drop(lock);
    cleanup(&config, &Fake::default(), None).unwrap();
}

#[test]
fn a_certificate_that_is_not_there_is_not_lost_silently() {
    let place = tempfile::tempdir().unwrap();
    let config = made(place.path());
    fs::remove_file(config.run_folder("cleanup-test").join("certificate.json")).unwrap();
    let kept = place.path().join("kept.json");
    let error = cleanup(&config, &Fake::default(), Some(&kept)).unwrap_err();
    assert!(error.remedy().contains("without keeping"), "{error}");
    assert!(place.path().join("agent.key").exists(), "nothing was removed");
}

#[test]
fn files_of_others_are_kept_and_named() {
    let place = tempfile::tempdir().unwrap();
    let config = made(place.path());
    let theirs = config.run_folder("cleanup-test").join("notes");
    fs::write(&theirs, "").unwrap();
    let mut place = Place::of(&config).unwrap();
    place.remove_files().unwrap();
    place.frozen = false;
    let left = place.look();
    assert!(theirs.exists() && left.files[0].contains("notes"), "{left:?}");
}
