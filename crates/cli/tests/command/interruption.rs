//! Killed, interrupted, asked: what a run leaves behind and what it says.

use crate::shell::{Ran, Shell};
use std::io::{BufRead as _, BufReader};
use std::num::NonZero;
use std::process::{Child, ChildStderr, Command, Stdio};

const MIB: u64 = 1 << 20;
/// Guest bytes of a work item of the engine.
const ITEM: u64 = 2 * MIB;
const DISK: usize = 24 << 20;
const MIGRATE: [&str; 5] = ["migrate", "disk.raw", "out.raw", "--output", "json"];
/// Slow enough to be interrupted, and to be seen doing it.
const SLOWLY: [&str; 6] =
    ["--limit-rate", "4M", "--progress", "json", "--progress-interval", "20ms"];

/// A slow migration under way.
struct Running {
    child: Child,
    stderr: BufReader<ChildStderr>,
    heard: String,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { child, stderr, heard: String::new() }
    }

    fn next_line(&mut self) -> String {
        let mut line = String::new();
        let read = self.stderr.read_line(&mut line).unwrap();
        self.heard.push_str(&line);
        assert!(read > 0, "it ended early: {}", self.heard);
        line
    }

    /// Waits until `bytes` of the disk are said to be done.
    fn wait_for(&mut self, bytes: u64) {
        loop {
            let line = self.next_line();
            let event: serde_json::Value = serde_json::from_str(&line).expect(&line);
            if event["done_bytes"].as_u64().is_some_and(|done| done >= bytes) {
                return;
            }
        }
    }

    fn signal(&self, name: &str) {
        let line = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &line]).status().unwrap().success());
    }

    fn end(mut self) -> Ran {
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.stderr, &mut rest).unwrap();
        let output = self.child.wait_with_output().unwrap();
        Ran { stderr: self.heard + &rest, ..Ran::of(&output) }
    }
}

fn never_looks_complete(shell: &Shell) {
    let looks = std::fs::read(shell.path("out.raw")).unwrap_or_default();
    let begin = &looks[..looks.len().min(1 << 20)];
    assert!(begin.iter().all(|byte| *byte == 0), "it looks complete");
}

/// Runs to the end, and sends again no more than what was in flight.
fn resumes(shell: &Shell, disk: &[u8], at_least: u64) {
    let ran = shell.run(&MIGRATE);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(std::fs::read(shell.path("out.raw")).unwrap() == disk);
    let copied = &ran.json()["copied"];
    let bytes = |name: &str| copied[name].as_u64().unwrap();
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get) as u64;
    let in_flight = (cores + 1) * ITEM;
    assert!(bytes("resumed_bytes") >= at_least.saturating_sub(in_flight), "{copied}");
    assert!(bytes("resumed_bytes") > 0, "{copied}");
    assert!(bytes("resent_bytes") <= in_flight, "{copied}");
    assert!(bytes("read_bytes") <= DISK as u64 - bytes("resumed_bytes"), "{copied}");
}

#[test]
fn killed_again_and_again_it_goes_on_where_it_was() {
    let shell = Shell::new();
    let disk = shell.disk("disk.raw", DISK);
    let mut reached = 0;
    for round in 1..=3 {
        let mut run = Running::start(shell.command(&MIGRATE).args(SLOWLY));
        reached = round * 4 * MIB;
        run.wait_for(reached);
        run.child.kill().unwrap();
        let ran = run.end();
        assert_eq!(ran.code, -1, "killed: {}", ran.stderr);
        never_looks_complete(&shell);
    }
    resumes(&shell, &disk, reached);
}

#[test]
fn signals_end_it_at_a_safe_point_with_their_exit_code() {
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let shell = Shell::new();
        let disk = shell.disk("disk.raw", DISK);
        let mut run = Running::start(shell.command(&MIGRATE).args(SLOWLY));
        run.wait_for(8 * MIB);
        run.signal(name);
        let ran = run.end();
        assert_eq!(ran.code, code, "{}", ran.stderr);
        for line in ran.stderr.lines() {
            assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "no JSON: {line}");
        }
        assert!(ran.stderr.contains("safe point"), "{}", ran.stderr);
        for error in [&ran.error(), &ran.json()["error"]] {
            assert_eq!((&error["kind"], &error["exit"]), (&"cancelled".into(), &code.into()));
        }
        assert!(ran.error()["resume"].is_string());
        never_looks_complete(&shell);
        resumes(&shell, &disk, 8 * MIB);
    }
}

#[test]
fn a_signal_asks_how_far_it_is() {
    let shell = Shell::new();
    shell.disk("disk.raw", DISK);
    let quiet = ["migrate", "disk.raw", "out.raw", "--progress", "none", "--limit-rate", "4M"];
    let mut run = Running::start(&mut shell.command(&quiet));
    while !shell.path("out.raw").exists() {
        assert!(run.child.try_wait().unwrap().is_none(), "it ended early");
        std::thread::yield_now();
    }
    let line = loop {
        run.signal("USR1");
        let line = run.next_line();
        if !line.starts_with("prepare ") {
            break line;
        }
    };
    assert!(line.starts_with("copy ") && line.contains("/24 MiB "), "{line}");
    run.signal("TERM");
    assert_eq!(run.end().code, 143);
}

#[test]
fn lines_come_also_when_nothing_moves() {
    let shell = Shell::new();
    shell.disk("disk.raw", DISK);
    let lines = ["--progress", "plain", "--progress-interval", "20ms"];
    let mut run =
        Running::start(shell.command(&MIGRATE[..3]).args(["--limit-rate", "1"]).args(lines));
    let mut last = String::new();
    while !(last.starts_with("copy ") && run.next_line() == last) {
        last = run.next_line();
    }
    run.signal("INT");
    assert_eq!(run.end().code, 130);
}
