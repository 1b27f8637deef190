//! What the command takes from its environment.

use crate::shell::Shell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

#[test]
fn variables_that_are_no_text_are_none_of_its_business() {
    let shell = Shell::new();
    shell.disk("disk.raw", 1 << 20);
    let strange = OsStr::from_bytes(b"\xff");
    let mut command = shell.command(&["info", "disk.raw"]);
    let ran = Shell::end(command.env("FOO", strange).env(strange, "x"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}
