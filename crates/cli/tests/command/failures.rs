//! Failures of the command itself: odd arguments, and a stdout that takes nothing.

use crate::shell::Shell;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::process::Stdio;

#[test]
fn usage_errors_keep_the_format_that_was_asked_for() {
    let shell = Shell::new();
    for args in [
        &["frobnicate", "-o", "json"][..],
        &["info", "--output=json"],
        &["-ojson", "migrate", "a", "b", "--memory", "x"],
    ] {
        let ran = shell.run(args);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{args:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        let error = ran.error();
        assert_eq!((&error["kind"], &error["exit"]), (&"usage".into(), &2.into()));
    }
    let ran = Shell::end(shell.command(&["frobnicate"]).env("CARRETO_OUTPUT", "json"));
    assert_eq!(ran.error()["kind"], "usage");
    for args in [&["--version", "-o", "json"][..], &["--help"], &["help", "migrate"]] {
        let ran = shell.run(args);
        assert_eq!(ran.code, 0, "{args:?}");
        assert!(!ran.stdout.is_empty() && ran.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn the_line_that_resumes_is_one_for_a_shell() {
    let shell = Shell::new();
    shell.disk("my disk.raw", 3 << 20);
    let strange = OsStr::from_bytes(b"out\xff.raw");
    let slow = ["--limit-rate", "1K", "--timeout", "1s"];
    let mut command = shell.command(&["migrate", "my disk.raw"]);
    let ran = Shell::end(command.arg(strange).args(slow).args(["-o", "json"]));
    assert_eq!(ran.code, 13, "{}", ran.stderr);
    let resume = ran.error()["resume"].as_str().unwrap().to_owned();
    let wanted = " migrate 'my disk.raw' $'out\\xff.raw' --limit-rate 1K --timeout 1s -o json";
    assert!(resume.ends_with(wanted), "{resume}");
    let ran = shell.run(&[&["migrate", "my disk.raw", "out 2.raw"][..], &slow].concat());
    assert!(ran.stderr.contains("to resume: ") && ran.stderr.contains(" 'out 2.raw' --"));
}

#[test]
fn a_full_stdout_does_not_hide_what_became_of_the_disk() {
    let shell = Shell::new();
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let disk = shell.disk("disk.raw", 3 << 20);
    for format in ["text", "json"] {
        let mut command = shell.command(&["migrate", "disk.raw", "out.raw", "-o", format]);
        let ran = Shell::end(command.stdout(full()));
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        assert!(ran.stderr.contains("the migration is done"), "{}", ran.stderr);
        assert!(!ran.stderr.contains("unmount"), "{}", ran.stderr);
        assert!(std::fs::read(shell.path("out.raw")).unwrap() == disk);
    }
    std::fs::write(shell.path("small.raw"), [0; 512]).unwrap();
    let mut command = shell.command(&["migrate", "disk.raw", "small.raw", "-o", "json"]);
    let ran = Shell::end(command.stdout(full()));
    assert_eq!((ran.code, &ran.error()["kind"]), (6, &"target_too_small".into()));
    let ran = Shell::end(shell.command(&["info", "disk.raw", "-o", "json"]).stdout(full()));
    assert_eq!((ran.code, &ran.error()["kind"]), (1, &"internal".into()));
}

#[test]
fn a_reader_that_had_enough_is_no_failure() {
    let shell = Shell::new();
    let image = "fragmented.raw";
    let file = File::create(shell.path(image)).unwrap();
    file.set_len(64 << 20).unwrap();
    for at in 0..256 {
        file.write_all_at(b"data", at << 18).unwrap();
    }
    assert!(shell.run(&["map", image]).stdout.lines().count() > 500, "it is fragmented");
    for args in [&["map", image][..], &["map", image, "-o", "json"], &["info", image]] {
        let mut command = shell.command(args);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ran = Shell::end(command.stdout(writer));
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{args:?}");
    }
}
