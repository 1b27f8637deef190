//! Names and texts that somebody else chose never reach a terminal as they are, and what is secret
//! in what the user typed is not repeated.

use crate::shell::{Ran, Shell, examples};

/// The example as a VMDK whose adapter type is `text`, of the same length as `lsilogic` or `ide`.
fn with_adapter(shell: &Shell, text: &[u8]) {
    let mut image = std::fs::read(examples().join("tiny-linux.vmdk")).unwrap();
    let key = b"ddb.adapterType = \"";
    let at = image.windows(key.len()).position(|window| window == key).unwrap() + key.len();
    let end = at + image[at..].iter().position(|byte| *byte == b'"').unwrap();
    let line_end = end + image[end..].iter().position(|byte| *byte == b'\n').unwrap();
    let rest = image[end..line_end].to_vec();
    let new = [text, &rest].concat();
    // The descriptor is padded with zeros: what follows moves into the padding.
    let tail_end = line_end + image[line_end..].iter().position(|byte| *byte == 0).unwrap();
    let tail = image[line_end..tail_end].to_vec();
    let whole = [new, tail].concat();
    image[at..at + whole.len()].copy_from_slice(&whole);
    std::fs::write(shell.path("hostile.vmdk"), image).unwrap();
}

fn is_clean(ran: &Ran) -> bool {
    let text = format!("{}{}", ran.stdout, ran.stderr);
    !text.chars().any(|c| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c))
}

#[test]
fn images_cannot_drive_the_terminal() {
    let shell = Shell::new();
    with_adapter(&shell, "x\u{1b}[31m\u{9b}0m\u{202e}y".as_bytes());
    for args in [&["info", "hostile.vmdk"][..], &["info", "hostile.vmdk", "-o", "json"]] {
        let ran = shell.run(args);
        let text = format!("{}{}", ran.stdout, ran.stderr);
        assert!(text.contains("202e"), "the text is shown, escaped: {text}");
        assert!(is_clean(&ran), "{args:?}: {text:?}");
    }
}

#[test]
fn names_of_files_cannot_drive_the_terminal() {
    let shell = Shell::new();
    let name = "disk\u{202e}\u{1b}[31m\nwar.gpj";
    shell.disk(name, 1 << 20);
    for command in ["info", "map", "digest"] {
        for format in ["text", "json"] {
            let ran = shell.run(&[command, name, "-o", format]);
            assert_eq!(ran.code, 0, "{}", ran.stderr);
            assert!(is_clean(&ran), "{command} -o {format}: {:?}", ran.stdout);
        }
    }
    let missing = format!("{name}x");
    let ran = shell.run(&["info", &missing]);
    assert_eq!(ran.code, 4);
    assert!(is_clean(&ran), "{:?}", ran.stderr);
    assert_eq!(shell.run(&["info", name, "-o", "json"]).json()["image"], name);
}

#[test]
fn signatures_of_presigned_addresses_are_not_repeated() {
    let shell = Shell::new();
    // Nobody listens on port 1; the time limit ends the retries.
    let url = "http://127.0.0.1:1/disk.raw?X-Amz-Signature=canary";
    let migrate = ["migrate", url, "out.raw", "--timeout", "1s"];
    for args in [
        &migrate[..],
        &[&migrate[..], &["-o", "json"]].concat(),
        &["info", "disk.raw", url],
        &["info", "disk.raw", url, "-o", "json"],
    ] {
        let ran = shell.run(args);
        assert_ne!(ran.code, 0);
        let text = format!("{}{}", ran.stdout, ran.stderr);
        assert!(!ran.stderr.is_empty() && !text.contains("canary"), "{args:?}: {text}");
    }
    let error = shell.run(&[&migrate[..], &["-o", "json"]].concat()).error();
    assert_eq!(error["kind"], "timeout");
    assert!(error["resume"].as_str().unwrap().contains("?***"), "{error}");
}
