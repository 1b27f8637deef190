//! `store gc` and `store probe`, and exports as targets: what they refuse, and what they keep.

use crate::shell::{Ran, Shell};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};

/// The last line of stderr is an error of this kind, and tells what to do about it.
fn expect_error(ran: &Ran, code: i32, kind: &str, words: &[&str]) {
    let error = ran.error();
    assert_eq!((ran.code, &error["kind"]), (code, &kind.into()), "{}", ran.stderr);
    assert_eq!((&error["type"], &error["exit"]), (&"error".into(), &code.into()));
    assert!(error["remedy"].as_str().unwrap().len() > 10, "{error}");
    for word in words {
        assert!(error["detail"].as_str().unwrap().contains(word), "{word}: {error}");
    }
}

#[test]
fn places_that_are_no_buckets_of_s3_are_refused() {
    let shell = Shell::new();
    shell.disk("disk.raw", 1 << 20);
    let file = format!("file://{}", shell.path("").display());
    let cases: [(&str, i32, &str, &str); 9] = [
        ("gs://bucket", 8, "unsupported", "Google Cloud Storage"),
        ("gs://bucket/folder", 8, "unsupported", "Google Cloud Storage"),
        ("az://container", 8, "unsupported", "Azure"),
        ("http://127.0.0.1:1/x", 8, "unsupported", "web server"),
        ("disk.raw", 2, "usage", "paths and exports"),
        (&file, 2, "usage", "paths and exports"),
        ("nbd://127.0.0.1:1/export", 2, "usage", "paths and exports"),
        ("nbd+unix:///export?socket=/none", 2, "usage", "paths and exports"),
        ("s3://", 2, "usage", "s3:"),
    ];
    for (place, code, kind, word) in cases {
        for command in ["gc", "probe"] {
            let ran = shell.run(&["store", command, place, "-o", "json"]);
            assert_eq!(ran.stdout, "", "{command} {place}");
            expect_error(&ran, code, kind, &[word]);
            let text = shell.run(&["store", command, place]);
            assert_eq!(text.code, code, "{}", text.stderr);
            assert!(text.stderr.contains(word) && text.stderr.contains("remedy:"));
        }
        let ran = shell.run(&["store", "gc", place, "--yes", "--force-needed", "-o", "json"]);
        expect_error(&ran, code, kind, &[word]);
    }
}

#[test]
fn lines_that_make_no_sense_are_usage_errors() {
    let shell = Shell::new();
    for args in [
        &["store"][..],
        &["store", "gc"],
        &["store", "probe"],
        &["store", "sweep", "s3://b"],
        &["store", "gc", "s3://b", "s3://c"],
        &["store", "gc", "s3://b", "--older-than", "x"],
        &["store", "gc", "s3://b", "--older-than", "-1s"],
        &["store", "probe", "s3://b", "--yes"],
    ] {
        let ran = shell.run(args);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{args:?}: {}", ran.stderr);
        assert!(!ran.stderr.is_empty(), "{args:?}");
    }
    let ran = shell.run(&["store", "gc", "s3://b", "--older-than", "x", "-o", "json"]);
    expect_error(&ran, 2, "usage", &["--older-than"]);
}

#[test]
fn an_export_that_nobody_serves_is_unavailable_at_once() {
    let shell = Shell::new();
    let disk = shell.disk("disk.raw", 1 << 20);
    // Bound and not listening: nobody else gets the port, and connections are refused.
    let port = closed_port();
    let export = format!("nbd://127.0.0.1:{}/disk", port.0);
    for more in [&[][..], &["--yes"], &["--dry-run"], &["--restart", "--yes"]] {
        let line = [&["migrate", "disk.raw", &export, "-o", "json"][..], more].concat();
        expect_error(&shell.run(&line), 5, "unavailable", &["connect", &export]);
    }
    for line in [&["info", &export][..], &["download", &export, "new"]] {
        let ran = shell.run(&[line, &["-o", "json"]].concat());
        expect_error(&ran, 5, "unavailable", &["connect", &export]);
    }
    assert!(!shell.path("new").exists());
    let socket = "nbd+unix:///disk?socket=/no/such/socket";
    let ran = shell.run(&["migrate", "disk.raw", socket, "--yes", "-o", "json"]);
    expect_error(&ran, 4, "not_found", &["connect", socket]);
    assert!(std::fs::read(shell.path("disk.raw")).unwrap() == disk);
}

#[test]
fn an_export_is_no_place_for_a_file() {
    let shell = Shell::new();
    shell.disk("disk.raw", 1 << 20);
    for target in ["nbd://127.0.0.1:1/disk", "nbd+unix:///disk?socket=/none"] {
        for line in [
            &["convert", "disk.raw", target, "--to", "raw"][..],
            &["convert", "disk.raw", target, "--to", "qcow2", "--force"],
            &["upload", "disk.raw", target],
        ] {
            let ran = shell.run(&[line, &["-o", "json"]].concat());
            expect_error(&ran, 2, "usage", &[target]);
            assert!(ran.error()["remedy"].as_str().unwrap().contains("migrate"));
        }
    }
}

/// A port that refuses connections as long as this lives.
fn closed_port() -> (u16, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // A connection from it keeps the port from being given away.
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (server, _) = listener.accept().unwrap();
    (port, client, server)
}

/// A server with one upload that began long ago and whose last part came in at `last`, by a clock
/// that says noon. Gives its address and the requests.
fn with_upload(last: &'static str) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            answer(stream, &sender, last);
        }
    });
    (address, receiver)
}

fn answer(mut stream: TcpStream, sender: &Sender<String>, last: &str) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    while lines.next().is_some_and(|line| !line.is_empty()) {}
    let (status, body) = if request.starts_with("DELETE ") {
        ("204 No Content", String::new())
    } else if request.contains("uploadId=") {
        let part = format!(
            "<Part><PartNumber>1</PartNumber><Size>5242880</Size>\
             <LastModified>{last}</LastModified></Part>"
        );
        ("200 OK", format!("<ListPartsResult>{part}</ListPartsResult>"))
    } else {
        let upload = "<Upload><Key>k</Key><UploadId>u1</UploadId>\
                      <Initiated>2026-10-01T12:00:00.000Z</Initiated></Upload>";
        let document = "ListMultipartUploadsResult";
        ("200 OK", format!("<{document}>{upload}</{document}>"))
    };
    // The test may be over already.
    let _ = sender.send(request);
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\ndate: Mon, 23 Nov 2026 12:00:00 GMT\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
}

#[test]
fn an_upload_that_something_is_sent_for_is_kept_however_long_ago_it_began() {
    for (last, state, age) in [
        // Later than the list: sent while the uploads were looked through.
        ("2026-11-23T12:00:07.000Z", "young", 0),
        ("2026-11-23T11:59:00.000Z", "young", 60),
        ("2026-11-01T12:00:00.000Z", "aborted", 22 * 86400),
    ] {
        let (address, requests) = with_upload(last);
        let shell = Shell::new();
        let mut command = shell.command(&["store", "gc", "s3://b", "--yes", "-o", "json"]);
        command.env("AWS_ACCESS_KEY_ID", "AKIDtest").env("AWS_SECRET_ACCESS_KEY", "secret");
        command.env("AWS_ENDPOINT_URL", address).env("AWS_REGION", "here");
        let ran = Shell::end(&mut command);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let upload = &ran.json()["uploads"][0];
        assert_eq!((&upload["state"], &upload["age_seconds"]), (&state.into(), &age.into()));
        assert_eq!((&upload["parts"], &upload["bytes"]), (&1.into(), &5_242_880.into()));
        let deleted = requests.try_iter().filter(|line| line.starts_with("DELETE ")).count();
        assert_eq!(deleted, usize::from(state == "aborted"), "{last}");
    }
}
