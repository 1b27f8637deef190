//! Names that an image gives to other files.

use crate::builder::{Put, Spec, build};
use crate::malformed::Want::Fail;
use crate::malformed::expect;
use carreto_error::Kind::{Corrupt, Unsafe, Unsupported};

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn names_of_other_files_open_nothing() {
    let long = "x".repeat(1023);
    let names = [
        "/etc/passwd",
        "../../etc/hostname",
        "json:{}",
        "http://h/x",
        "nbd:localhost",
        "\\\\h\\x",
        "test.qcow2",
        "a\0b",
        "/dev/sda",
        "",
        &long,
    ];
    for name in names {
        let backing = Spec { backing: Some((name.into(), Some("raw".into()))), ..Spec::new(MIB) };
        let want = if name.is_empty() { Corrupt } else { Unsafe };
        let file = build(&backing, &[0; 1 << 20], &[], |_| Put::Absent).file;
        expect(name, &file, Fail(want)).await;
        let data = Spec { data_file: Some(name.into()), ..Spec::new(MIB) };
        let file = build(&data, &[0; 1 << 20], &[], |_| Put::Absent).file;
        expect(name, &file, Fail(Unsafe)).await;
    }
    for (format, want) in [("qed", Unsupported), ("a format too long", Corrupt), ("", Unsupported)]
    {
        let backing =
            Spec { backing: Some(("base".into(), Some(format.into()))), ..Spec::new(MIB) };
        let file = build(&backing, &[0; 1 << 20], &[], |_| Put::Absent).file;
        expect(format, &file, Fail(want)).await;
    }
}
