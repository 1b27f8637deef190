//! Everything that a store and the line to it can do wrong while an object is read: the right
//! bytes arrive or there is an error of the right kind, never wrong or missing bytes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation of a test is a panic"
)]

mod object_support;

use carreto_block::{Source as _, SourceExt as _};
use carreto_error::{Kind, chain_text};
use carreto_store::{ObjectSource, StoreEvent, StoreSettings};
use carreto_testkit::conformance;
use object_support::{
    Case, ETAG, FaultServer, Request, SIZE, Step, answer, bent, content, cut, honest,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

#[tokio::test]
async fn an_honest_server_conforms() {
    let case = Case::with(|flags| flags.part_size = Some(64 << 10), |_, _, _| None).await;
    conformance::source(&case.open().await.unwrap(), &content()).await;
    for request in case.server.requests() {
        let pinned = request.header("if-match") == Some(ETAG);
        assert!(pinned || request.method == "HEAD", "{request:?}");
    }
    assert_eq!(case.events.events(), []);
}

#[tokio::test]
async fn bursts_of_503_are_waited_out() {
    let case = Case::new(|n, _, _| (n < 3).then(|| answer("503 Slow Down", &[], b""))).await;
    case.reads_right().await;
    let events = case.events.events();
    assert!(
        matches!(
            &events[..],
            [StoreEvent::Throttled { attempt: 1, .. }, _, StoreEvent::Throttled { attempt: 3, .. }]
        ),
        "{events:?}"
    );
}

#[tokio::test]
async fn every_passing_status_is_tried_again() {
    for status in ["408 Request Timeout", "429 Too Many", "500 Oops", "502 Bad", "504 Late"] {
        let case = Case::new(move |n, _, _| (n == 0).then(|| answer(status, &[], b""))).await;
        case.reads_right().await;
    }
}

#[tokio::test]
async fn the_server_decides_how_long_to_wait() {
    let wait = [("retry-after", "1")];
    let case = Case::new(move |n, _, _| (n == 0).then(|| answer("429 Busy", &wait, b""))).await;
    case.reads_right().await;
    let events = case.events.events();
    let [StoreEvent::Throttled { delay, object, .. }] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(*delay, Duration::from_secs(1));
    assert_eq!(object, "s3://images/disk");
}

#[tokio::test]
async fn a_store_that_stays_away_is_unavailable() {
    let case = Case::with(
        |flags| flags.retry_for = Some(Duration::from_millis(500)),
        |_, _, _| Some(answer("503 Slow Down", &[], b"")),
    )
    .await;
    case.fails(Kind::Unavailable, "without success").await;
}

#[tokio::test]
async fn a_cut_body_is_resumed_where_it_broke() {
    let case = Case::new(|n, r, c| (n < 2).then(|| cut(r, c, 100_000, Step::Close))).await;
    case.reads_right().await;
    let starts: Vec<usize> =
        case.server.requests().iter().filter_map(|r| Some(r.range()?.0)).collect();
    assert_eq!(starts, [0, 100_000, 200_000]);
}

#[tokio::test]
async fn a_reset_body_is_resumed() {
    let case = Case::new(|n, r, c| (n < 2).then(|| cut(r, c, 50_000, Step::Reset))).await;
    case.reads_right().await;
}

#[tokio::test]
async fn a_reset_before_the_answer_is_tried_again() {
    let case = Case::new(|n, _, _| (n == 0).then(|| vec![Step::Reset])).await;
    case.reads_right().await;
}

#[tokio::test]
async fn a_stalled_body_is_noticed_and_resumed() {
    let short = |flags: &mut StoreSettings| flags.read_timeout = Some(Duration::from_secs(2));
    let case = Case::with(short, |n, r, c| (n == 0).then(|| cut(r, c, 70_000, Step::Hang))).await;
    case.reads_right().await;
    let resumed =
        case.server.requests().iter().any(|r| r.range().is_some_and(|(first, _)| first == 70_000));
    assert!(resumed, "{:?}", case.server.requests());
}

#[tokio::test]
async fn a_missing_answer_is_noticed() {
    let short = |flags: &mut StoreSettings| flags.read_timeout = Some(Duration::from_secs(2));
    let case = Case::with(short, |n, _, _| (n == 0).then(|| vec![Step::Hang])).await;
    case.reads_right().await;
}

/// One byte now and then would keep a timeout per chunk quiet for ever.
#[tokio::test]
async fn a_trickling_body_is_noticed() {
    let short = |flags: &mut StoreSettings| flags.read_timeout = Some(Duration::from_secs(2));
    let case = Case::with(short, |n, r, c| {
        (n == 0).then(|| {
            let mut steps = cut(r, c, 10, Step::Pause(Duration::from_millis(20)));
            for byte in &c[10..210] {
                steps.push(Step::Send(vec![*byte]));
                steps.push(Step::Pause(Duration::from_millis(20)));
            }
            let body_end = honest(r, c).into_iter().next();
            if let Some(Step::Send(bytes)) = body_end {
                steps.push(Step::Send(bytes[bytes.len() - SIZE + 210..].to_vec()));
            }
            steps
        })
    })
    .await;
    case.reads_right().await;
    let events = case.events.events();
    let StoreEvent::Retry { reason, .. } = &events[0] else {
        panic!("{events:?}");
    };
    assert!(reason.contains("no progress"), "{reason}");
}

#[tokio::test]
async fn a_short_206_with_a_matching_length_is_not_accepted() {
    let short = |n: usize, r: &Request, c: &[u8]| {
        let (first, last) = r.range()?;
        let range = format!("bytes {first}-{last}/{SIZE}");
        let headers = [("etag", ETAG), ("content-range", range.as_str()), DATE];
        (n < 2).then(|| answer("206 Partial Content", &headers, &c[first..first + 10]))
    };
    Case::new(short).await.reads_right().await;
    let always = move |_: usize, r: &Request, c: &[u8]| short(0, r, c);
    Case::new(always).await.fails(Kind::Unavailable, "answered with 10 bytes").await;
}

const DATE: (&str, &str) = ("last-modified", "Sun, 01 Nov 2026 10:00:00 GMT");

#[tokio::test]
async fn a_wrong_content_range_is_not_accepted() {
    for range in [
        "content-range: bytes 1-299999/300000",
        "content-range: bytes 0-299998/300000",
        "content-range: bytes 0-299999/*",
        "content-range: bytes 299999-0/300000",
        "content-range: bytes 0-18446744073709551615/300000",
        "content-range: bytes 0-299999/18446744073709551615",
        "content-range: bytes -1-299999/300000",
        "content-range: lines 0-299999/300000",
        "x-other: 1",
    ] {
        let from = "content-range: bytes 0-299999/300000";
        let once = Case::new(move |n, r, c| (n == 0).then(|| bent(r, c, from, range))).await;
        once.reads_right().await;
    }
    let from = "content-range: bytes 0-299999/300000";
    let to = "content-range: bytes 0-18446744073709551615/300000";
    let always = Case::new(move |_, r, c| Some(bent(r, c, from, to))).await;
    always.fails(Kind::Unavailable, "18446744073709551615").await;
}

#[tokio::test]
async fn the_whole_file_instead_of_a_range_is_not_accepted() {
    let whole =
        |_: usize, _: &Request, c: &[u8]| Some(answer("200 OK", &[("etag", ETAG), DATE], c));
    Case::new(whole).await.fails(Kind::Unavailable, "with the whole file").await;
}

#[tokio::test]
async fn more_bytes_than_the_head_says_are_not_accepted() {
    let more = |n: usize, r: &Request, c: &[u8]| {
        let (first, last) = r.range()?;
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\netag: {ETAG}\r\n{}: {}\r\ntransfer-encoding: chunked\r\n\
             content-range: bytes {first}-{last}/{SIZE}\r\n\r\n{:x}\r\n",
            DATE.0,
            DATE.1,
            SIZE + 5
        );
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&c[first..]);
        bytes.extend_from_slice(b"extra\r\n0\r\n\r\n");
        (n == 0).then(|| vec![Step::Send(bytes)])
    };
    Case::new(more).await.reads_right().await;
}

#[tokio::test]
async fn a_changed_object_is_never_mixed() {
    // The store keeps to If-Match.
    let case = Case::new(|_, _, _| Some(answer("412 Precondition Failed", &[], b""))).await;
    case.fails(Kind::SourceChanged, "not the one that was opened").await;
    // The store ignores If-Match and serves the new version, here after a broken body.
    let case = Case::new(|n, r, c| {
        Some(match n {
            0 => cut(r, c, 1000, Step::Close),
            _ => bent(r, c, ETAG, "\"second\""),
        })
    })
    .await;
    case.fails(Kind::SourceChanged, "ETag was \"first\" and is \"second\"").await;
    let case = Case::new(|_, r, c| Some(bent(r, c, "/300000", "/300001"))).await;
    case.fails(Kind::SourceChanged, "had 300000 bytes and has 300001").await;
}

#[tokio::test]
async fn a_removed_object_has_changed() {
    let case = Case::new(|_, _, _| Some(answer("404 Not Found", &[], b""))).await;
    case.fails(Kind::SourceChanged, "removed while it was read").await;
}

#[tokio::test]
async fn a_missing_object_is_not_found() {
    let case = Case::raw(|_| {}, |_, _| Some(answer("404 Not Found", &[], b""))).await;
    case.fails(Kind::NotFound, "no such object").await;
    let body = b"<Error><Code>NoSuchBucket</Code></Error>";
    let case = Case::raw(
        |_| {},
        |_, r| {
            let body: &[u8] = if r.method == "HEAD" { b"" } else { body };
            Some(answer("404 Not Found", &[], body))
        },
    )
    .await;
    case.fails(Kind::NotFound, "no such bucket").await;
    assert_eq!(case.server.requests().len(), 2);
}

/// HEAD has no body, so the reason comes from a GET.
#[tokio::test]
async fn a_wrong_clock_is_measured() {
    let body = b"<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the \
                 request time and the current time is too large.</Message></Error>";
    let case = Case::raw(
        |_| {},
        |_, r| {
            let headers = [("date", "Sun, 01 Nov 2015 10:00:00 GMT")];
            let body: &[u8] = if r.method == "HEAD" { b"" } else { body };
            Some(answer("403 Forbidden", &headers, body))
        },
    )
    .await;
    let error = case.open().await.unwrap_err();
    let text = chain_text(&error);
    assert_eq!(error.kind(), Kind::Denied);
    assert!(text.contains("RequestTimeTooSkewed"), "{text}");
    assert!(text.contains(" s ahead of the server's"), "{text}");
    assert!(error.remedy().contains("clock"), "{}", error.remedy());
}

#[tokio::test]
async fn an_expired_token_says_so_and_does_not_show_itself() {
    let body =
        b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message>\
                 <Token-0>canary-token</Token-0></Error>";
    let case = Case::raw(
        |_| {},
        |_, r| {
            let body: &[u8] = if r.method == "HEAD" { b"" } else { body };
            Some(answer("400 Bad Request", &[], body))
        },
    )
    .await;
    case.fails(Kind::Denied, "the session token has expired").await;
    let error = format!("{:?}", case.open().await.unwrap_err());
    assert!(!error.contains("canary-token"), "{error}");
}

#[tokio::test]
async fn a_wrong_region_names_the_right_one() {
    let headers = [("x-amz-bucket-region", "eu-north-1")];
    let case = Case::raw(|_| {}, move |_, _| Some(answer("301 Moved", &headers, b""))).await;
    case.fails(Kind::Denied, "eu-north-1").await;
    let error = case.open().await.unwrap_err();
    assert_eq!(error.remedy(), "set the region to \"eu-north-1\"");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let other = FaultServer::start(content(), |_, _| None).await;
    let address = format!("{}/images/disk", other.endpoint.replace("127.0.0.1", "localhost"));
    for status in ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let address = address.clone();
        let case =
            Case::raw(|_| {}, move |_, _| Some(answer(status, &[("location", &address)], b"")))
                .await;
        case.fails(Kind::Denied, "redirects to localhost, which is not followed").await;
    }
    assert_eq!(other.requests().len(), 0, "the other host was asked");
}

#[tokio::test]
async fn a_huge_head_is_an_error() {
    let soon = |flags: &mut StoreSettings| flags.retry_for = Some(Duration::from_millis(200));
    let case = Case::with(soon, |_, r, c| {
        let huge = format!("x-huge: {}\r\ncontent-range", "h".repeat(2 << 20));
        Some(bent(r, c, "content-range", &huge))
    })
    .await;
    case.fails(Kind::Unavailable, "cannot be understood").await;
}

#[tokio::test]
async fn an_endless_error_page_is_cut_off() {
    let swallowed = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&swallowed);
    let case = Case::with(
        |flags| flags.retry_for = Some(Duration::from_millis(200)),
        move |_, _, _| {
            let head = b"HTTP/1.1 500 Oops\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
            let chunk = [b"10000\r\n".to_vec(), vec![b'x'; 1 << 16], b"\r\n".to_vec()].concat();
            Some(vec![
                Step::Send(head),
                Step::Flood(chunk, 1000),
                Step::Count(Arc::clone(&counter)),
                Step::Hang,
            ])
        },
    )
    .await;
    case.fails(Kind::Unavailable, "500").await;
    assert_eq!(swallowed.load(Ordering::SeqCst), 0, "64 MiB of error page were read");
}

/// The first request is answered once all the others have come.
#[tokio::test]
async fn a_stall_does_not_hold_the_other_parts() {
    let seen = Arc::new(AtomicUsize::new(0));
    let case = Case::with(
        |flags| flags.part_size = Some(64 << 10),
        move |n, r, c| {
            seen.fetch_add(1, Ordering::SeqCst);
            (n == 0).then(|| {
                let mut steps = vec![Step::Until(Arc::clone(&seen), 5)];
                steps.extend(honest(r, c));
                steps
            })
        },
    )
    .await;
    assert!(case.read().await.unwrap() == content());
    let ranges: Vec<_> = case.server.requests().iter().filter_map(Request::range).collect();
    assert_eq!(ranges.len(), 5, "every part once: {ranges:?}");
    assert_eq!(case.events.events(), [], "the others waited for the first");
}

#[tokio::test]
async fn the_number_of_requests_is_bounded() {
    let running = Arc::new(AtomicUsize::new(0));
    let seen = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let top = Arc::clone(&most);
    let case = Case::with(
        |flags| {
            flags.part_size = Some(64 << 10);
            flags.max_requests = Some(2);
        },
        move |_, r, c| {
            top.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            seen.fetch_add(1, Ordering::SeqCst);
            // The first ones wait for each other, so two are under way at once.
            let mut steps =
                vec![Step::Until(Arc::clone(&seen), 2), Step::Uncount(Arc::clone(&running))];
            steps.extend(honest(r, c));
            Some(steps)
        },
    )
    .await;
    let source = Arc::new(case.open().await.unwrap());
    let read = |source: Arc<ObjectSource>| async move { source.read_vec(0, SIZE).await.unwrap() };
    let (a, b) = tokio::join!(read(Arc::clone(&source)), read(source));
    assert!(a == content() && b == content());
    assert_eq!(most.load(Ordering::SeqCst), 2);
    assert_eq!(case.events.events(), [], "one request waited for another in vain");
}

#[tokio::test]
async fn a_dropped_read_frees_its_requests() {
    let case = Case::with(
        |flags| flags.max_requests = Some(1),
        |n, _, _| (n < 3).then(|| vec![Step::Hang]),
    )
    .await;
    let source = case.open().await.unwrap();
    for _ in 0..3 {
        let mut buf = vec![0; SIZE];
        let read = source.read_at(0, &mut buf);
        let before = case.server.requests().len();
        tokio::select! {
            _ = read => panic!("the server hangs"),
            () = async {
                while case.server.requests().len() == before {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            } => {}
        }
    }
    assert!(source.read_vec(0, SIZE).await.unwrap() == content());
}

#[tokio::test]
async fn connections_are_used_again() {
    let case = Case::new(|_, _, _| None).await;
    let source = case.open().await.unwrap();
    for _ in 0..20 {
        source.read_vec(17, 100_000).await.unwrap();
    }
    assert_eq!(case.server.requests().len(), 21);
    // A request can be quicker than the return of the connection before it.
    let connections = case.server.connections();
    assert!(connections <= 3, "{connections} connections");
}

/// An outage lasts from the last byte on: a bad line that still moves is not given up.
#[tokio::test]
async fn progress_renews_the_budget() {
    let case = Case::with(
        |flags| flags.retry_for = Some(Duration::from_secs(1)),
        |_, r, c| {
            let (first, last) = r.range()?;
            Some(cut(r, c, (last + 1 - first).min(10_000), Step::Close))
        },
    )
    .await;
    case.reads_right().await;
    assert_eq!(case.events.events().len(), 29);
}

#[tokio::test]
async fn a_refusal_without_credentials_says_what_is_missing() {
    let refuse = |_: usize, _: &Request| Some(answer("403 Forbidden", &[], b""));
    let unsigned = Case::raw(|flags| flags.credentials = None, refuse).await;
    let error = unsigned.open().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(error.remedy().contains("not signed"), "{}", error.remedy());
    let signed = Case::raw(|_| {}, refuse).await.open().await.unwrap_err();
    assert!(!signed.remedy().contains("not signed"), "{}", signed.remedy());
}
