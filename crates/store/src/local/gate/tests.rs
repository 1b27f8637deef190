//! Both ways of walking refuse the same things.

use super::*;
use carreto_block::{OpenGate, OpenRequest, ReferenceRole, SourceExt as _};
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;

/// `images/` with `base.raw`, `sub/deep.raw` and traps, beside `outside/secret`.
fn house() -> (TempDir, String) {
    let place = tempfile::tempdir().unwrap();
    let images = place.path().join("images");
    std::fs::create_dir_all(images.join("sub")).unwrap();
    std::fs::create_dir(place.path().join("outside")).unwrap();
    std::fs::write(images.join("base.raw"), b"base").unwrap();
    std::fs::write(images.join("sub/deep.raw"), b"deep").unwrap();
    std::fs::write(place.path().join("outside/secret"), b"secret").unwrap();
    symlink("base.raw", images.join("near-link")).unwrap();
    symlink("../outside/secret", images.join("far-link")).unwrap();
    symlink("../outside", images.join("dir-link")).unwrap();
    symlink("/proc/self/fd/0", images.join("magic")).unwrap();
    rustix::fs::mkfifoat(CWD, images.join("fifo"), 0o600.into()).unwrap();
    let directory = grant(&images).unwrap().0;
    (place, directory)
}

const WAYS: [Opener; 2] = [open_below, open_steps];

#[tokio::test]
async fn regular_files_open() {
    let (_place, directory) = house();
    for way in WAYS {
        for (name, wanted) in [("base.raw", b"base"), ("sub/deep.raw", b"deep")] {
            let opened = open_by(way, &directory, name).unwrap();
            let bytes = opened.source.read_vec(0, 4).await.unwrap();
            assert_eq!(bytes, wanted);
            assert_eq!(opened.source.name(), format!("{directory}/{name}"));
        }
        let direct = LocalFile::open(format!("{directory}/base.raw")).unwrap();
        let opened = open_by(way, &directory, "base.raw").unwrap();
        assert_eq!(opened.identity, direct.identity());
    }
}

#[test]
fn links_pipes_devices_and_climbing_are_unsafe() {
    let (_place, directory) = house();
    let names = [
        "near-link",
        "far-link",
        "dir-link/secret",
        "magic",
        "fifo",
        "sub",
        "..",
        "../outside/secret",
        "sub/../../outside/secret",
        "/etc/hostname",
        "base.raw/x",
        "nul\0byte",
    ];
    for way in WAYS {
        for name in names {
            let error = open_by(way, &directory, name).expect_err(name);
            assert_eq!(error.kind(), Kind::Unsafe, "{name:?}: {error}");
        }
        let error = open_by(way, "/dev", "null").unwrap_err();
        assert_eq!(error.kind(), Kind::Unsafe, "{error}");
        for name in ["missing", "sub/missing", "missing/base.raw"] {
            let error = open_by(way, &directory, name).expect_err(name);
            assert_eq!(error.kind(), Kind::NotFound, "{name:?}: {error}");
        }
        let error = open_by(way, "images", "base.raw").unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
    }
}

#[test]
fn a_link_put_in_place_of_the_grant_is_unsafe() {
    let (place, directory) = house();
    std::fs::rename(place.path().join("images"), place.path().join("moved")).unwrap();
    symlink(place.path().join("outside"), place.path().join("images")).unwrap();
    for way in WAYS {
        let error = open_by(way, &directory, "secret").unwrap_err();
        assert_eq!(error.kind(), Kind::Unsafe, "{error}");
    }
}

/// An attacker swaps a file for a link to a secret, and a directory for a link, as fast as it
/// can; the secret must never be read.
#[tokio::test(flavor = "multi_thread")]
async fn a_swap_during_the_opening_wins_nothing() {
    let (place, directory) = house();
    let stop = Arc::new(AtomicBool::new(false));
    let (images, done) = (place.path().join("images"), Arc::clone(&stop));
    let attacker = std::thread::spawn(move || {
        while !done.load(Ordering::Relaxed) {
            for (target, victim) in [("../outside/secret", "base.raw"), ("../outside", "sub")] {
                let (link, aside) = (images.join("swap"), images.join("aside"));
                symlink(target, &link).unwrap();
                std::fs::rename(images.join(victim), &aside).unwrap();
                std::fs::rename(&link, images.join(victim)).unwrap();
                std::fs::remove_file(images.join(victim)).unwrap();
                std::fs::rename(&aside, images.join(victim)).unwrap();
            }
        }
    });
    let (mut opened, mut refused) = (0, 0);
    for round in 0..3000 {
        let name = ["base.raw", "sub/secret", "sub/deep.raw"][round % 3];
        match open_by(WAYS[round % 2], &directory, name) {
            Ok(file) => {
                let size = usize::try_from(file.source.size()).unwrap();
                let bytes = file.source.read_vec(0, size).await.unwrap();
                assert_ne!(bytes, b"secret", "{name}");
                opened += 1;
            }
            Err(error) => {
                let kinds = [Kind::Unsafe, Kind::NotFound];
                assert!(kinds.contains(&error.kind()), "{error:?}");
                refused += 1;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    attacker.join().unwrap();
    assert!(opened > 0 && refused > 0, "{opened} opened, {refused} refused");
}

#[tokio::test]
async fn the_gate_of_an_image_opens_its_neighbours() {
    let (place, directory) = house();
    let top = place.path().join("images/base.raw");
    let identity = LocalFile::open(&top).unwrap().identity().to_owned();
    let grants = vec![Grant(directory)];
    let gate =
        OpenGate::new(Arc::new(DirectoryGate), grants, directory_of(&top).unwrap(), identity);
    let request = |name| OpenRequest { referrer: "top", name, role: ReferenceRole::Backing };
    let (source, _) = gate.open(request("sub/deep.raw")).await.unwrap();
    assert_eq!(source.read_vec(0, 4).await.unwrap(), b"deep");
    let cycle = gate.open(request("./base.raw")).await.unwrap_err();
    assert_eq!(cycle.kind(), Kind::Unsafe);
    let link = gate.open(request("far-link")).await.unwrap_err();
    assert_eq!(link.kind(), Kind::Unsafe);
    for polls in 0..3 {
        let call = DirectoryGate.open_beneath("/", "etc/hostname");
        carreto_testkit::conformance::poll_then_drop(call, polls);
    }
}

#[test]
fn grants_are_canonical_directories() {
    let (place, directory) = house();
    let link = place.path().join("link");
    symlink(&directory, &link).unwrap();
    assert_eq!(grant(link.join("sub/..")).unwrap().0, directory);
    assert_eq!(directory_of(link.join("base.raw")).unwrap(), directory);
    assert_eq!(directory_of("/x").unwrap(), "/");
    let error = grant(link.join("base.raw")).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert_eq!(grant(link.join("no")).unwrap_err().kind(), Kind::NotFound);
}
