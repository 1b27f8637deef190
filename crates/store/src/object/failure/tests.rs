//! What is worth trying again, and for how long.

use super::*;
use http::HeaderMap;

fn verdict_of(status: u16, body: &str) -> (Kind, Again) {
    let status = StatusCode::from_u16(status).unwrap();
    verdict(&StatusAnswer::new(status, &HeaderMap::new(), body))
}

#[test]
fn passing_outages_last_as_long_as_the_budget() {
    for status in [408, 423, 425, 500, 502, 504, 505, 507, 508, 511, 520, 522, 524, 529, 599] {
        assert_eq!(verdict_of(status, ""), (Kind::Unavailable, Again::Later), "{status}");
    }
    for status in [429, 503, 509] {
        let throttled = (Kind::Unavailable, Again::Throttled(None));
        assert_eq!(verdict_of(status, ""), throttled, "{status}");
    }
    let slow = "<Error><Code>SlowDown</Code></Error>";
    assert_eq!(verdict_of(400, slow), (Kind::Unavailable, Again::Throttled(None)));
}

#[test]
fn what_does_not_pass_is_not_waited_for() {
    for (status, kind) in [
        (301, Kind::Denied),
        (400, Kind::Usage),
        (401, Kind::Denied),
        (403, Kind::Denied),
        (404, Kind::NotFound),
        (405, Kind::Unsupported),
        (412, Kind::SourceChanged),
        (418, Kind::Usage),
        (501, Kind::Unsupported),
    ] {
        assert_eq!(verdict_of(status, ""), (kind, Again::Never), "{status}");
    }
}

#[test]
fn an_unknown_key_is_no_missing_object() {
    let body = "<Error><Code>XAdminUserNotFound</Code><Message>No user</Message></Error>";
    assert_eq!(verdict_of(404, body), (Kind::Denied, Again::Never));
    let body = "<Error><Code>NoSuchKey</Code></Error>";
    assert_eq!(verdict_of(404, body), (Kind::NotFound, Again::Never));
}

#[test]
fn answers_of_garbage_last_as_long_as_the_budget() {
    for kind in [HttpErrorKind::Unknown, HttpErrorKind::Decode, HttpErrorKind::Interrupted] {
        let error = HttpError::new(kind, Foreign("a garbled status line".into()));
        let failure = of_transport(&error, &Redactor::default());
        assert_eq!((failure.again, failure.error.kind()), (Again::Later, Kind::Unavailable));
    }
    let error = HttpError::new(HttpErrorKind::Connect, Foreign("invalid certificate".into()));
    let failure = of_transport(&error, &Redactor::default());
    assert_eq!((failure.again, failure.error.kind()), (Again::Never, Kind::Denied));
}
