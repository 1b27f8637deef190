//! `convert`, `upload`, `download` and `measure` as a user and a script see them.

use crate::shell::{Ran, Shell, examples};
use carreto_testkit::{Bucket, Op, Reply};
use std::process::{Command, Stdio};

const DISK: usize = (12 << 20) + 512;

/// A store, and a shell that has its address and keys.
struct Remote {
    shell: Shell,
    bucket: Bucket,
}

impl Remote {
    fn new() -> Self {
        Self { shell: Shell::new(), bucket: Bucket::start(|_| Reply::Honest) }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.shell.command(args);
        command.env("AWS_ACCESS_KEY_ID", "AKIDtest").env("AWS_SECRET_ACCESS_KEY", "secret");
        command.env("AWS_ENDPOINT_URL", &self.bucket.endpoint).env("AWS_REGION", "here");
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Shell::end(&mut self.command(args))
    }

    fn expect(&self, code: i32, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, code, "{args:?}: {}", ran.stderr);
        ran
    }
}

fn expect(shell: &Shell, code: i32, args: &[&str]) -> Ran {
    let ran = shell.run(args);
    assert_eq!(ran.code, code, "{args:?}: {}", ran.stderr);
    ran
}

/// Every choice that the help offers.
const CHOICES: [&[&str]; 14] = [
    &["--to", "raw"],
    &["--to", "qcow2"],
    &["--to", "qcow2", "--cluster-size", "512"],
    &["--to", "qcow2", "--cluster-size", "2M"],
    &["--to", "qcow2", "--compress", "zlib"],
    &["--to", "qcow2", "--compress", "zlib", "--level", "12"],
    &["--to", "qcow2", "--compress", "zstd"],
    &["--to", "qcow2", "--compress", "zstd", "--level", "19", "--cluster-size", "4K"],
    &["--to", "vhd"],
    &["--to", "vpc", "--subformat", "dynamic"],
    &["--to", "vhd", "--subformat", "fixed"],
    &["--to", "vmdk"],
    &["--to", "vmdk", "--subformat", "monolithicSparse"],
    &["--to", "vmdk", "--subformat", "streamOptimized", "--level", "1"],
];

#[test]
fn every_choice_makes_an_image_of_at_most_the_measured_size() {
    let shell = Shell::new();
    shell.disk("disk.raw", DISK);
    for choice in CHOICES {
        let name = choice[1].replace("vpc", "vhd");
        let measure = [&["measure", "disk.raw", "-o", "json"], choice].concat();
        let measured = expect(&shell, 0, &measure).json();
        let convert = [&["convert", "disk.raw", "made", "--force", "-o", "json"], choice].concat();
        let report = expect(&shell, 0, &convert).json();
        let number = |value: &serde_json::Value, name: &str| value[name].as_u64().unwrap();
        let size = std::fs::metadata(shell.path("made")).unwrap().len();
        assert_eq!(number(&report, "file_size"), size);
        assert_eq!((&report["status"], &report["read_back"]), (&"done".into(), &true.into()));
        assert!(number(&measured, "required") >= size, "{choice:?}: {measured}");
        assert!(number(&measured, "fully_allocated") >= number(&measured, "required"));
        assert_eq!(measured["virtual_size"], report["virtual_size"], "{choice:?}");
        assert_eq!(measured["format"], report["format"], "{choice:?}");
        let info = expect(&shell, 0, &["info", "made", "-f", &name, "-o", "json"]).json();
        assert_eq!(info["virtual_size"], report["virtual_size"], "{choice:?}");
        let compared = shell.run(&["compare", "disk.raw", "made"]);
        if choice.contains(&"fixed") {
            assert_eq!(number(&report, "virtual_size"), 13 << 20, "whole MiB, as Azure wants it");
            assert!(compared.stderr.contains("the sizes differ"), "{}", compared.stderr);
        } else {
            assert_eq!(compared.stdout, "identical\n", "{choice:?}: {}", compared.stderr);
        }
    }
}

#[test]
fn texts_say_what_was_done_and_what_will_be() {
    let shell = Shell::new();
    shell.disk("disk.raw", DISK);
    let ran = expect(&shell, 0, &["measure", "disk.raw", "--to", "raw"]);
    assert!(ran.stdout.contains("required:        12.0 MiB (12583424 bytes)\n"), "{}", ran.stdout);
    let ran = expect(&shell, 0, &["measure", "disk.raw", "--to", "qcow2", "--compress", "zlib"]);
    for words in ["required:        at most", "or compresses", "fully allocated: at most"] {
        assert!(ran.stdout.contains(words), "{}", ran.stdout);
    }
    let ran = expect(&shell, 0, &["convert", "disk.raw", "made", "--to", "vmdk"]);
    for words in ["disk.raw -> made: done in", "as vmdk monolithicSparse", "verified: read back"] {
        assert!(ran.stdout.contains(words), "{}", ran.stdout);
    }
    for (command, to) in [("convert", "--to"), ("upload", "--as"), ("measure", "--to")] {
        let help = expect(&shell, 0, &[command, "--help"]).stdout;
        for option in [to, "--compress", "--level", "--subformat", "--cluster-size"] {
            assert!(help.contains(&format!("{option} <")), "{command}: {help}");
        }
    }
}

#[test]
fn wrong_combinations_are_refused_before_anything_is_written() {
    let shell = Shell::new();
    shell.disk("disk.raw", 1 << 20);
    for choice in [
        &["--to", "raw", "--compress", "zlib"][..],
        &["--to", "raw", "--cluster-size", "4K"],
        &["--to", "raw", "--subformat", "fixed"],
        &["--to", "qcow2", "--subformat", "dynamic"],
        &["--to", "qcow2", "--level", "3"],
        &["--to", "qcow2", "--compress", "zlib", "--level", "13"],
        &["--to", "qcow2", "--compress", "zstd", "--level", "23"],
        &["--to", "qcow2", "--compress", "lzma"],
        &["--to", "qcow2", "--cluster-size", "1000"],
        &["--to", "qcow2", "--cluster-size", "4M"],
        &["--to", "vhd", "--subformat", "streamOptimized"],
        &["--to", "vhd", "--compress", "zlib"],
        &["--to", "vmdk", "--subformat", "fixed"],
        &["--to", "vmdk", "--level", "3"],
        &["--to", "vdi"],
        &[],
    ] {
        for command in [&["convert", "disk.raw", "made"][..], &["measure", "disk.raw"]] {
            let ran = expect(&shell, 2, &[command, choice].concat());
            assert!(!ran.stderr.is_empty(), "{command:?} {choice:?}");
        }
        assert!(!shell.path("made").exists());
    }
    // Without a format to write there is nothing that options of formats could be about.
    for options in [["--compress", "zlib"], ["--level", "3"], ["--cluster-size", "4K"]] {
        expect(&shell, 2, &[&["upload", "disk.raw", "s3://b/k"][..], &options].concat());
    }
    expect(&shell, 2, &["download", "s3://b/k", "made", "--compress", "zlib"]);
}

#[test]
fn nothing_is_replaced_unasked_and_never_the_image() {
    let shell = Shell::new();
    let disk = shell.disk("disk.raw", 1 << 20);
    std::fs::write(shell.path("made"), b"precious").unwrap();
    let convert = ["convert", "disk.raw", "made", "--to", "qcow2"];
    let ran = expect(&shell, 2, &[&convert[..], &["-o", "json"]].concat());
    let remedy = ran.error()["remedy"].as_str().unwrap().to_owned();
    assert!(remedy.contains("--force"), "{remedy}");
    assert_eq!(
        (&ran.json()["status"], &ran.json()["error"]["exit"]),
        (&"failed".into(), &2.into())
    );
    assert_eq!(std::fs::read(shell.path("made")).unwrap(), b"precious");
    expect(&shell, 0, &[&convert[..], &["--force"]].concat());
    assert_eq!(expect(&shell, 0, &["compare", "disk.raw", "made"]).stdout, "identical\n");
    let own = format!("file://{}", shell.path("disk.raw").display());
    for target in ["disk.raw", "./disk.raw", &own] {
        expect(&shell, 2, &["convert", "disk.raw", target, "--to", "qcow2", "--force"]);
    }
    assert!(std::fs::read(shell.path("disk.raw")).unwrap() == disk);
    expect(&shell, 11, &["convert", "disk.raw", ".", "--to", "raw", "--force"]);
    expect(&shell, 4, &["convert", "missing.raw", "new", "--to", "raw"]);
    expect(&shell, 4, &["convert", "disk.raw", "no/such/folder", "--to", "raw"]);
}

#[test]
fn file_addresses_are_paths() {
    let shell = Shell::new();
    let disk = shell.disk("disk.raw", 1 << 20);
    let url = |name: &str| format!("file://{}", shell.path(name).display());
    expect(&shell, 0, &["convert", &url("disk.raw"), &url("made"), "--to", "raw"]);
    assert!(std::fs::read(shell.path("made")).unwrap() == disk);
    expect(&shell, 0, &["measure", &url("disk.raw"), "--to", "vhd"]);
}

#[test]
fn an_image_goes_up_and_comes_down_as_it_is() {
    let remote = Remote::new();
    let image = examples().join("tiny-linux.qcow2");
    let image = image.to_str().unwrap();
    let ran = remote.expect(0, &["upload", image, "s3://b/tiny.qcow2", "-o", "json"]);
    assert_eq!(ran.json()["status"], "done");
    let bytes = std::fs::read(image).unwrap();
    assert!(remote.bucket.object("b/tiny.qcow2").unwrap().bytes == bytes);
    remote.expect(2, &["upload", image, "s3://b/tiny.qcow2"]);
    remote.expect(0, &["upload", image, "s3://b/tiny.qcow2", "--force", "--read-back"]);
    remote.expect(0, &["download", "s3://b/tiny.qcow2", "back"]);
    assert!(std::fs::read(remote.shell.path("back")).unwrap() == bytes);
    remote.expect(2, &["download", "s3://b/tiny.qcow2", "back"]);
    remote.expect(4, &["download", "s3://b/missing", "other"]);
    assert!(!remote.shell.path("other").exists());
    assert_eq!(remote.bucket.uploads(), Vec::<String>::new());
}

#[test]
fn an_upload_makes_another_format_on_the_way() {
    let remote = Remote::new();
    let disk = remote.shell.disk("disk.raw", DISK);
    let options = ["--as", "vmdk", "--subformat", "streamOptimized", "--part-size", "5M"];
    let ran = remote.expect(0, &[&["upload", "disk.raw", "s3://b/d.vmdk"][..], &options].concat());
    assert!(ran.stdout.contains("as vmdk streamOptimized"), "{}", ran.stdout);
    let ran = remote.expect(0, &["compare", "disk.raw", "s3://b/d.vmdk"]);
    assert_eq!(ran.stdout, "identical\n");
    remote.expect(0, &["convert", "s3://b/d.vmdk", "s3://b/d.raw", "--to", "raw"]);
    assert!(remote.bucket.object("b/d.raw").unwrap().bytes == disk);
    let small = ["upload", "disk.raw", "s3://b/x", "--part-size", "1M"];
    assert!(remote.expect(2, &small).stderr.contains("5 MiB"));
}

#[test]
fn a_killed_upload_goes_on_where_it_was() {
    let remote = Remote::new();
    let disk = remote.shell.disk("disk.raw", 24 << 20);
    let upload = ["upload", "disk.raw", "s3://b/k", "--part-size", "5M", "-o", "json"];
    let mut command = remote.command(&[&upload[..], &["--limit-rate", "4M"]].concat());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while remote.bucket.count(Op::Part(2)) == 0 {
        assert!(child.try_wait().unwrap().is_none(), "it ended early");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(remote.bucket.keys(), Vec::<String>::new(), "nothing looks whole");
    let report = remote.expect(0, &upload).json();
    assert!(report["resumed_bytes"].as_u64().unwrap() >= 5 << 20, "{report}");
    assert_eq!(remote.bucket.count(Op::Create), 1, "the same upload");
    assert!(remote.bucket.object("b/k").unwrap().bytes == disk);
}

/// The state directory has no room for the checkpoint; the bound on the size of files stands for
/// a full disk, which the system reports with another number and the same meaning.
#[test]
fn a_checkpoint_without_room_ends_the_run_and_the_next_one_goes_on() {
    let remote = Remote::new();
    let disk = remote.shell.disk("disk.raw", 24 << 20);
    let upload = ["upload", "disk.raw", "s3://b/k", "--part-size", "5M", "-o", "json"];
    let mut full = Command::new("sh");
    let line = "ulimit -f 1; trap '' XFSZ; exec \"$0\" \"$@\"";
    full.args(["-c", line]).arg(env!("CARGO_BIN_EXE_carreto")).args(upload);
    let command = remote.command(&[]);
    full.current_dir(remote.shell.path("")).env_clear().stdin(Stdio::null());
    full.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ran = Shell::end(&mut full);
    assert_eq!((ran.code, &ran.error()["kind"]), (14, &"io".into()), "{}", ran.stderr);
    assert!(ran.error()["remedy"].as_str().unwrap().contains("--state-dir"), "{}", ran.stderr);
    assert_eq!(remote.bucket.keys(), Vec::<String>::new(), "nothing looks whole");
    remote.expect(0, &upload);
    assert!(remote.bucket.object("b/k").unwrap().bytes == disk);
    assert_eq!(remote.bucket.uploads(), Vec::<String>::new());
}

#[test]
fn a_reader_that_went_away_changes_nothing() {
    let shell = Shell::new();
    shell.disk("disk.raw", 1 << 20);
    for (name, redirect) in [("a", "<&- >&-"), ("b", ">/dev/full"), ("c", "| true")] {
        let line = format!("\"$0\" convert disk.raw {name} --to qcow2 {redirect}");
        let mut command = Command::new("sh");
        command.args(["-c", &line]).arg(env!("CARGO_BIN_EXE_carreto"));
        command.current_dir(shell.path("")).env_clear();
        command.env("CARRETO_STATE_DIR", shell.path("state"));
        let ran = Shell::end(&mut command);
        assert!(!ran.stderr.contains("panicked"), "{redirect}: {}", ran.stderr);
        assert_eq!(shell.run(&["compare", "disk.raw", name]).stdout, "identical\n", "{redirect}");
    }
}
