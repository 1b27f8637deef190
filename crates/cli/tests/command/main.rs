//! The command as a user and a script see it: output, exit codes, JSON, interruption.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "helpers of tests may fail, test disks are small"
)]

mod encode;
mod failures;
mod hostile;
mod interruption;
mod receive;
mod settings;
mod shell;
mod store;

use shell::{Shell, example_sha256, examples};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

#[test]
fn the_example_becomes_the_disk_it_promises_in_every_format() {
    for ending in ["qcow2", "vhd", "vmdk"] {
        let shell = Shell::new();
        let image = examples().join(format!("tiny-linux.{ending}"));
        let image = image.to_str().unwrap();
        let ran = shell.run(&["migrate", image, "tiny.raw"]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert!(ran.stdout.contains("verified:"), "{}", ran.stdout);
        for disk in [image, "tiny.raw"] {
            let ran = shell.run(&["digest", disk, "--algorithm", "sha256"]);
            assert_eq!(ran.stdout, format!("{}  {disk}\n", example_sha256()));
        }
        assert_eq!(shell.run(&["compare", image, "tiny.raw"]).stdout, "identical\n");
        assert_eq!(shell.run(&["check", image]).code, 0);
    }
}

#[test]
fn info_has_the_promised_fields() {
    let shell = Shell::new();
    let image = examples().join("tiny-linux.qcow2");
    let facts = shell.run(&["info", image.to_str().unwrap(), "--output", "json"]).json();
    assert_eq!(facts["format"], "qcow2");
    assert_eq!(facts["virtual_size"], 64 << 20);
    for field in [
        "subformat",
        "virtual_size",
        "file_size",
        "allocated_size",
        "cluster_size",
        "backing",
        "warnings",
    ] {
        assert!(facts.get(field).is_some(), "{field} is missing in {facts}");
    }
}

#[test]
fn every_document_has_a_version_and_a_map_covers_the_disk() {
    let shell = Shell::new();
    let image = examples().join("tiny-linux.qcow2");
    let image = image.to_str().unwrap();
    for args in [
        &["info", image][..],
        &["check", image, "--quick"],
        &["map", image],
        &["digest", image],
        &["compare", image, image],
        &["migrate", image, "out.raw", "--dry-run"],
        &["migrate", image, "out.raw"],
    ] {
        let ran = shell.run(&[args, &["--output", "json"]].concat());
        assert_eq!(ran.json()["schema_version"], 1, "{args:?}: {}", ran.stderr);
    }
    let map = shell.run(&["map", image, "-o", "json"]).json();
    let extents = map["extents"].as_array().unwrap();
    let end = extents.iter().fold(0, |at, extent| {
        assert_eq!(extent["start"], at, "{extent}");
        at + extent["length"].as_u64().unwrap()
    });
    assert_eq!(end, 64 << 20);
}

#[test]
fn every_failure_has_its_exit_code_and_names_its_kind() {
    let shell = Shell::new();
    let disk = shell.disk("disk.raw", 3 << 20);
    std::fs::write(shell.path("small.raw"), &disk[..disk.len() - 512]).unwrap();
    let mut cut = std::fs::read(examples().join("tiny-linux.qcow2")).unwrap();
    cut.truncate(cut.len() / 2);
    std::fs::write(shell.path("cut.qcow2"), cut).unwrap();
    let cases: [(&[&str], i32, &str); 8] = [
        (&["migrate", "disk.raw", "small.raw"], 6, "target_too_small"),
        (&["migrate", "cut.qcow2", "out.raw"], 7, "truncated"),
        (&["migrate", "missing.raw", "out.raw"], 4, "not_found"),
        (&["migrate", "disk.raw", "disk.raw"], 2, "usage"),
        (
            &["migrate", "disk.raw", "out.raw", "--limit-rate", "1K", "--timeout", "1s"],
            13,
            "timeout",
        ),
        (&["info", "nothing://x/y"], 2, "usage"),
        (&["compare", "disk.raw", "small.raw"], 6, "mismatch"),
        (&["info", "."], 2, "usage"),
    ];
    for (args, code, kind) in cases {
        let ran = shell.run(&[args, &["--output", "json"]].concat());
        assert_eq!(ran.code, code, "{args:?}: {}", ran.stderr);
        let error = ran.error();
        assert_eq!((&error["type"], &error["kind"]), (&"error".into(), &kind.into()));
        assert_eq!(error["exit"], code);
        assert!(error["remedy"].as_str().unwrap().len() > 10);
        if kind == "truncated" {
            assert!(!shell.path("out.raw").exists(), "the target of a damaged image is untouched");
        }
        let text = shell.run(args);
        assert!(text.stderr.contains(kind) && text.stderr.contains("remedy:"), "{}", text.stderr);
    }
    let small = std::fs::read(shell.path("small.raw")).unwrap();
    assert!(small == disk[..disk.len() - 512], "the target that is too small is untouched");
    let ran = shell.run(&["migrate", "disk.raw", "out.raw"]);
    assert_eq!(ran.code, 0, "the timed-out run resumes: {}", ran.stderr);
    assert!(std::fs::read(shell.path("out.raw")).unwrap() == disk);
}

#[test]
fn damaged_payload_is_named_and_leaves_no_disk_that_boots() {
    let shell = Shell::new();
    let mut image = std::fs::read(examples().join("tiny-linux.qcow2")).unwrap();
    let middle = image.len() / 2;
    image[middle..][..16 << 10].fill(0xff);
    std::fs::write(shell.path("damaged.qcow2"), image).unwrap();
    let ran = shell.run(&["check", "damaged.qcow2", "--quick"]);
    assert_eq!(ran.code, 0, "the structure is whole: {}", ran.stderr);
    let ran = shell.run(&["migrate", "damaged.qcow2", "out.raw", "-o", "json"]);
    assert_eq!((ran.code, &ran.error()["kind"]), (7, &"corrupt".into()), "{}", ran.stderr);
    let out = std::fs::read(shell.path("out.raw")).unwrap();
    assert!(out.len() == 64 << 20 && out[..1 << 20].iter().all(|byte| *byte == 0));
}

#[test]
fn files_may_have_names_that_are_no_text() {
    let shell = Shell::new();
    let disk = shell.disk("disk.raw", 3 << 20);
    let name = |bytes: &'static [u8]| OsStr::from_bytes(bytes);
    let (image, target) = (name(b"my \xff disk.raw"), name(b"out\xfe.raw"));
    std::fs::rename(shell.path("disk.raw"), shell.path("").join(image)).unwrap();
    let run = |args: &[&OsStr]| Shell::end(shell.command(&[]).args(args));
    let ran = run(&[name(b"migrate"), image, target]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(std::fs::read(shell.path("").join(target)).unwrap() == disk);
    assert_eq!(run(&[name(b"compare"), image, target]).stdout, "identical\n");
    let ran = run(&[name(b"info"), image]);
    assert!(ran.stdout.contains("/my%20%FF%20disk.raw"), "{}", ran.stdout);
}

#[test]
fn what_the_user_does_not_expect_is_refused() {
    let shell = Shell::new();
    for (ending, size) in [("qcow2", "63M"), ("vhd", "63M"), ("vmdk", "63M"), ("raw", "2M")] {
        let name = format!("image.{ending}");
        match ending {
            "raw" => drop(shell.disk(&name, 3 << 20)),
            _ => drop(std::fs::copy(
                examples().join(format!("tiny-linux.{ending}")),
                shell.path(&name),
            )),
        }
        let other = if ending == "vmdk" { "qcow2" } else { "vmdk" };
        for bound in [["--max-virtual-size", size], ["--allow-format", other]] {
            for args in [&["info", &name][..], &["migrate", &name, "out.raw"]] {
                let ran = shell.run(&[args, &bound, &["-o", "json"]].concat());
                assert_eq!((ran.code, &ran.error()["kind"]), (9, &"limit".into()), "{args:?}");
            }
        }
        assert!(!shell.path("out.raw").exists());
        let both = ["--allow-format", ending, "--allow-format", other, "--max-virtual-size", "64M"];
        let ran = shell.run(&[&["info", &name][..], &both].concat());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
    }
}

#[test]
fn clap_refuses_with_the_usage_code() {
    let shell = Shell::new();
    for args in [&["frobnicate"][..], &["info"], &["migrate", "a", "b", "--memory", "x"]] {
        assert_eq!(shell.run(args).code, 2, "{args:?}");
    }
    assert_eq!(shell.run(&["--version"]).code, 0);
}

#[test]
fn a_dry_run_writes_nothing() {
    let shell = Shell::new();
    shell.disk("disk.raw", 1 << 20);
    let ran = shell.run(&["migrate", "disk.raw", "out.raw", "--dry-run", "--output", "json"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(ran.json()["target"]["kind"], "missing");
    assert!(!shell.path("out.raw").exists());
}

#[test]
fn completions_and_manual_pages_are_made() {
    let shell = Shell::new();
    assert!(shell.run(&["completions", "bash"]).stdout.contains("_carreto"));
    assert!(shell.run(&["man"]).stdout.contains(".TH carreto"));
    std::fs::create_dir(shell.path("man")).unwrap();
    assert_eq!(shell.run(&["man", "--dir", "man"]).code, 0);
    assert!(shell.path("man/carreto-migrate.1").exists());
}
