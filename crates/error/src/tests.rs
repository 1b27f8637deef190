//! The stable table as a snapshot, and the promises of `Display` and `source`.

use crate::{Chain, Error, IoSide, Kind, ResultExt, chain_text};
use std::io;

/// Names, classes, exit codes, statuses and retry advice are an interface: this text only grows.
const TABLE: &str = "\
usage other 2 400 never
incomplete image_verification_failed 3 200 never
not_found other 4 404 never
unavailable system_error 5 503 resume
mismatch image_verification_failed 6 409 after_remedy
source_changed image_verification_failed 6 409 after_remedy
target_too_small image_verification_failed 6 409 after_remedy
corrupt image_metadata_unavailable 7 422 never
truncated image_metadata_unavailable 7 422 never
ambiguous image_metadata_unavailable 7 422 never
unsupported image_metadata_unavailable 8 422 never
encrypted image_metadata_unavailable 8 422 never
unsafe image_metadata_unavailable 9 422 never
limit image_metadata_unavailable 9 422 never
denied other 10 403 after_remedy
target_unusable other 11 409 after_remedy
locked other 12 409 later
timeout task_timeout 13 504 resume
cancelled other 130 409 resume
io system_error 14 500 resume
internal system_error 1 500 never
";

#[test]
fn the_table_is_stable() {
    let lines: Vec<String> = Kind::ALL
        .iter()
        .map(|kind| {
            let (class, retry) = (kind.class().name(), kind.retry().name());
            format!("{kind} {class} {} {} {retry}\n", kind.exit_code(), kind.http_status())
        })
        .collect();
    assert_eq!(lines.concat(), TABLE);
}

#[test]
fn every_kind_has_a_remedy() {
    for kind in Kind::ALL {
        assert!(kind.remedy().len() > 10, "{kind}");
    }
}

#[test]
fn display_says_operation_path_offset_and_detail() {
    let error = Error::new(Kind::Corrupt, "cluster_bits is 8, expected 9 to 21");
    assert_eq!(error.to_string(), "cluster_bits is 8, expected 9 to 21");
    let error = error.offset(20);
    assert_eq!(error.to_string(), "at byte 20: cluster_bits is 8, expected 9 to 21");
    let error = error.during("read the header").path("a.qcow2");
    let wanted = "read the header of a.qcow2 at byte 20: cluster_bits is 8, expected 9 to 21";
    assert_eq!(error.to_string(), wanted);
}

#[test]
fn a_chain_says_nothing_twice() {
    let system = io::Error::from_raw_os_error(5);
    let error = Error::io(IoSide::Target, "write", "/dev/vdb", system).offset(4096);
    let error = Err::<(), _>(error).wrap_err(|| "copy chunk 3".into()).unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
    assert_eq!(error.nearest_path(), Some("/dev/vdb"));
    assert_eq!(error.nearest_offset(), Some(4096));
    let texts: Vec<String> = Chain::new(&error).map(ToString::to_string).collect();
    assert_eq!(texts.len(), 3);
    for (i, text) in texts.iter().enumerate() {
        for other in texts.iter().skip(i + 1) {
            assert!(!text.contains(other.as_str()), "{text:?} repeats {other:?}");
        }
    }
    assert_eq!(chain_text(&error).matches("copy chunk 3").count(), 1);
}

#[test]
fn system_errors_get_the_kind_of_their_side() {
    let cases = [
        (2, IoSide::Source, Kind::NotFound),
        (13, IoSide::Source, Kind::Denied),
        (16, IoSide::Target, Kind::TargetUnusable),
        (16, IoSide::Source, Kind::Io),
        (28, IoSide::Target, Kind::TargetUnusable),
        (30, IoSide::Target, Kind::TargetUnusable),
        (6, IoSide::Target, Kind::TargetUnusable),
        (6, IoSide::Source, Kind::Io),
        (19, IoSide::Source, Kind::Io),
        (28, IoSide::State, Kind::Io),
        (30, IoSide::State, Kind::Io),
        (5, IoSide::Source, Kind::Io),
    ];
    for (errno, side, kind) in cases {
        let error = Error::io(side, "open", "x", io::Error::from_raw_os_error(errno));
        assert_eq!(error.kind(), kind, "errno {errno} on {side:?}");
    }
}

#[test]
fn wrapping_keeps_kind_remedy_and_size() {
    let inner = Error::new(Kind::TargetTooSmall, "too small").needed(512).remedied_by("grow it");
    let outer = inner.wrap("check the target");
    assert_eq!(outer.kind(), Kind::TargetTooSmall);
    assert_eq!(outer.needed_bytes(), Some(512));
    assert_eq!(outer.remedy(), "grow it");
}

#[test]
fn a_full_state_directory_has_its_own_remedy() {
    for errno in [28, 30] {
        let system = std::io::Error::from_raw_os_error(errno);
        let error = Error::io(IoSide::State, "write the report", "/state", system);
        assert!(error.remedy().contains("--state-dir"), "{}", error.remedy());
    }
}
