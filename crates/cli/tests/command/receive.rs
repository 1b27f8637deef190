//! `carreto receive` and `carreto agent` as their operators see them.

use crate::shell::{Ran, Shell};
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Stdio};

const CONFIG: &str = "listen = '127.0.0.1:0'\nadvertise = ['127.0.0.1:9']\nstate = 'receiver'\n\
                      [[server]]\nname = 'web1'\n";

/// A receiver that has said where it listens.
struct Receiving {
    child: Child,
    token: String,
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn document(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> Value {
    let line = lines.next().unwrap().unwrap();
    serde_json::from_str(&line).expect(&line)
}

fn lines(stream: impl Read) -> impl Iterator<Item = std::io::Result<String>> {
    BufReader::new(stream).lines()
}

fn receive(shell: &Shell, options: &[&str]) -> Receiving {
    let args = [&["receive", "-c", "receive.toml", "--output", "json"], options].concat();
    let mut command = shell.command(&args);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = lines(child.stdout.take().unwrap());
    let token = document(&mut told);
    assert_eq!((&token["type"], &token["server"]), (&"token".into(), &"web1".into()));
    let token = token["token"].as_str().unwrap().to_owned();
    assert_eq!(document(&mut told)["type"], "listening");
    Receiving { child, token }
}

fn configure(shell: &Shell, target: &str) {
    let target = shell.path(target).display().to_string();
    let disk = ["[[server.disk]]\nsource = 'vda'\ntarget = '", &target, "'\n"].concat();
    std::fs::write(shell.path("receive.toml"), [CONFIG, &disk].concat()).unwrap();
}

#[test]
fn a_target_that_cannot_be_used_is_a_warning_at_the_start() {
    let shell = Shell::new();
    configure(&shell, "no-such-folder/disk.raw");
    let mut receiver = receive(&shell, &[]);
    let warning = document(&mut lines(receiver.child.stderr.take().unwrap()));
    assert_eq!(warning["type"], "warning");
    let text = warning["text"].as_str().unwrap();
    assert!(text.starts_with("web1: the target of vda: "), "{text}");
    assert!(text.contains("no-such-folder is missing"), "{text}");
}

#[test]
fn a_token_is_made_again_for_a_server_that_is_named() {
    let shell = Shell::new();
    configure(&shell, "disk.raw");
    let first = receive(&shell, &[]).token.clone();
    let named = receive(&shell, &["--new-token", "web1", "--new-token", "web1"]).token.clone();
    assert_ne!(first, named);
    let run = |options: &[&str]| -> Ran {
        shell.run(&[&["receive", "-c", "receive.toml", "-o", "json"], options].concat())
    };
    let unknown = run(&["--new-token", "web9"]);
    assert_eq!((unknown.code, unknown.stdout.as_str()), (2, ""), "{}", unknown.stderr);
    assert!(unknown.error()["detail"].as_str().unwrap().contains("web9"), "{}", unknown.stderr);
    assert_eq!(run(&["--new-token", "web1", "--new-tokens"]).code, 2);
}

#[test]
fn a_status_without_an_agent_that_ever_ran_has_its_exit_code() {
    let shell = Shell::new();
    configure(&shell, "disk.raw");
    let token = receive(&shell, &[]).token.clone();
    let text = format!("token = '{token}'\nstate = 'agent'\nrun = 'run'\n");
    std::fs::write(shell.path("agent.toml"), text).unwrap();
    let ran = shell.run(&["agent", "status", "-c", "agent.toml", "-o", "json"]);
    assert_eq!((ran.code, ran.error()["retry"].as_str()), (5, Some("resume")), "{}", ran.stderr);
    let help = shell.run(&["agent", "status", "--help"]).stdout;
    assert!(help.contains("agent_running") && help.contains("exit code is 0"), "{help}");
}
