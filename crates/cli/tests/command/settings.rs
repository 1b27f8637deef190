//! What the command takes from its environment.

use crate::shell::Shell;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::mpsc::{Receiver, Sender, channel};

#[test]
fn variables_that_are_no_text_are_none_of_its_business() {
    let shell = Shell::new();
    shell.disk("disk.raw", 1 << 20);
    let strange = OsStr::from_bytes(b"\xff");
    let mut command = shell.command(&["info", "disk.raw"]);
    let ran = Shell::end(command.env("FOO", strange).env(strange, "x"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

/// A store that refuses everybody. Gives its address, and the `Authorization` of what it is asked.
fn store() -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || refuse(stream, &sender));
        }
    });
    (address, receiver)
}

fn refuse(mut stream: TcpStream, sender: &Sender<String>) {
    let mut authorization = String::from("nothing");
    for line in BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok) {
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("authorization")
        {
            value.trim().clone_into(&mut authorization);
        }
    }
    // The test may be over already.
    let _ = sender.send(authorization);
    let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
}

/// Asks a store for an object and gives the key that the request was signed with.
fn key_of(shell: &Shell, variables: &[(&str, &str)]) -> String {
    let (address, requests) = store();
    let mut command = shell.command(&["info", "s3://bucket/disk.raw"]);
    command.env("HOME", shell.path("home")).env("AWS_ENDPOINT_URL", address);
    command.env("AWS_ALLOW_HTTP", "true").envs(variables.iter().copied());
    let ran = Shell::end(&mut command);
    assert_eq!(ran.code, 10, "{}", ran.stderr);
    assert!(!format!("{}{}", ran.stdout, ran.stderr).contains("canary"), "{}", ran.stderr);
    let authorization = requests.try_recv().expect(&ran.stderr);
    let key = authorization.split_once("Credential=").and_then(|(_, rest)| rest.split_once('/'));
    key.map_or(authorization.clone(), |(key, _)| key.to_owned())
}

#[test]
fn profiles_of_the_aws_tools_are_read() {
    let shell = Shell::new();
    let write = |name: &str, text: &str| {
        let path = shell.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let keys = |name: &str, key: &str| {
        format!("[{name}]\naws_access_key_id = {key}\naws_secret_access_key = canary{key}\n")
    };
    write("home/.aws/credentials", &(keys("default", "AKDEFAULT") + &keys("other", "AKOTHER")));
    write("home/.aws/config", "[default]\nregion = eu-west-1\n[profile other]\nregion = x-1\n");
    write("elsewhere", &keys("default", "AKELSEWHERE"));
    assert_eq!(key_of(&shell, &[]), "AKDEFAULT");
    assert_eq!(key_of(&shell, &[("AWS_PROFILE", "other")]), "AKOTHER");
    let elsewhere = shell.path("elsewhere");
    let variable = ("AWS_SHARED_CREDENTIALS_FILE", elsewhere.to_str().unwrap());
    assert_eq!(key_of(&shell, &[variable]), "AKELSEWHERE");
    let environment = [("AWS_ACCESS_KEY_ID", "AKENV"), ("AWS_SECRET_ACCESS_KEY", "canary")];
    assert_eq!(key_of(&shell, &environment), "AKENV");
    let own = "[store.s3]\naccess_key_id = \"AKOWN\"\nsecret_access_key = \"canary\"\n";
    write("home/.config/carreto/config.toml", own);
    assert_eq!(key_of(&shell, &[]), "AKOWN", "a file of our own counts more than the default");
    assert_eq!(key_of(&shell, &[("AWS_PROFILE", "other")]), "AKOTHER");
}
