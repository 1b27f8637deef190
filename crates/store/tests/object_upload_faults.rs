//! Uploads to a store that stays busy for longer than the HTTP library's own patience.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation of a test is a panic"
)]
#![allow(dead_code, reason = "not every test needs all of the support")]

mod object_support;

use bytes::Bytes;
use carreto_error::Kind;
use carreto_store::{ObjectStores, StoreConfig, StoreEvent};
use object_support::{FaultServer, Recorder, answer, settings, url};
use std::sync::Arc;
use std::time::Duration;

const BUSY: &[u8] = b"<Error><Code>SlowDown</Code></Error>";

/// A server that is busy for `bursts` requests, and a part that is sent to it. Time is paused:
/// only the waits between the requests move it.
async fn put_part(bursts: usize, patience: Duration) -> (carreto_error::Result<String>, usize) {
    let server = FaultServer::start(Vec::new(), move |number, _| {
        Some(if number < bursts {
            answer("503 Slow Down", &[], BUSY)
        } else {
            answer("200 OK", &[("etag", "\"part\"")], b"")
        })
    })
    .await;
    let mut flags = settings(&server.endpoint);
    flags.retry_for = Some(patience);
    let events = Arc::new(Recorder::default());
    let stores = ObjectStores::new(StoreConfig::new().with_flags(flags), Arc::clone(&events) as _);
    let handle = stores.handle(&url("s3://images/disk")).unwrap();
    let upload = handle.resume_upload("id").unwrap();
    let outcome = upload.put_part(0, Bytes::from_static(b"bytes")).await;
    let throttled = |event: &&StoreEvent| matches!(event, StoreEvent::Throttled { .. });
    (outcome, events.events().iter().filter(throttled).count())
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_forty_refusals_is_waited_out() {
    let (outcome, throttled) = put_part(40, Duration::from_hours(1)).await;
    assert_eq!(outcome.unwrap(), "\"part\"");
    assert_eq!(throttled, 40, "every wait is told");
}

#[tokio::test(start_paused = true)]
async fn patience_ends() {
    let (outcome, throttled) = put_part(usize::MAX, Duration::from_mins(10)).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(throttled > 20, "{throttled} waits in ten minutes");
}
