//! One object is one version: bytes of two are never mixed, whatever a server does or does not
//! say about its versions.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation of a test is a panic"
)]

mod object_support;

use carreto_block::{Source as _, SourceExt as _};
use carreto_error::{Kind, chain_text};
use object_support::{
    Case, ETAG, FaultServer, SIZE, Step, answer, bent, content, honest, quick, stores, url, without,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const MARKS: [&str; 2] = ["etag", "last-modified"];

#[tokio::test]
async fn a_web_file_without_any_mark_is_refused_unless_accepted() {
    let bytes = content();
    let server = FaultServer::start(content(), move |_, r| Some(without(r, &bytes, &MARKS))).await;
    let name = url(&format!("{}/x", server.endpoint));
    let error = stores(quick()).open(&name).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    assert!(error.remedy().contains("accept_unversioned"), "{}", error.remedy());
    let mut flags = quick();
    flags.accept_unversioned = Some(true);
    let source = stores(flags).open(&name).await.unwrap();
    assert!(source.read_vec(0, SIZE).await.unwrap() == content());
}

#[tokio::test]
async fn what_was_accepted_without_a_mark_may_not_get_one() {
    let gone = Arc::new(AtomicBool::new(true));
    let (bytes, bare) = (content(), Arc::clone(&gone));
    let server = FaultServer::start(content(), move |_, r| {
        let names: &[&str] = if bare.load(Ordering::SeqCst) { &MARKS } else { &["etag"] };
        Some(without(r, &bytes, names))
    })
    .await;
    let mut flags = quick();
    flags.accept_unversioned = Some(true);
    let source = stores(flags).open(&url(&format!("{}/x", server.endpoint))).await.unwrap();
    let stamp = source.stamp().await.unwrap();
    gone.store(false, Ordering::SeqCst);
    let error = source.read_vec(0, SIZE).await.unwrap_err();
    assert_eq!(error.kind(), Kind::SourceChanged, "{error}");
    assert_ne!(source.stamp().await.unwrap(), stamp);
}

/// HEAD has no tag, the bytes of two versions have two.
#[tokio::test]
async fn the_tag_of_the_first_bytes_holds_when_head_has_none() {
    let bytes = content();
    let gets = AtomicUsize::new(0);
    let case = Case::raw(
        |flags| flags.part_size = Some(64 << 10),
        move |_, r| {
            Some(match r.method.as_str() {
                "HEAD" => without(r, &bytes, &["etag"]),
                _ if gets.fetch_add(1, Ordering::SeqCst) < 3 => honest(r, &bytes),
                // A store that does not know If-Match.
                _ => {
                    let mut request = r.clone();
                    request.headers.remove("if-match");
                    bent(&request, &bytes, ETAG, "\"second\"")
                }
            })
        },
    )
    .await;
    case.fails(Kind::SourceChanged, "ETag was \"first\" and is \"second\"").await;
    let pinned = case.server.requests();
    let reads = pinned.iter().filter(|r| r.range().is_some_and(|(_, last)| last > 0));
    assert!(reads.clone().count() > 0);
    assert!(reads.into_iter().all(|r| r.header("if-match") == Some(ETAG)), "{pinned:?}");
}

#[tokio::test]
async fn bytes_without_the_tag_of_the_object_are_not_taken() {
    let case = Case::new(|_, r, c| Some(without(r, c, &["etag"]))).await;
    case.fails(Kind::SourceChanged, "its ETag was \"first\" and is missing").await;
    let case = Case::new(|_, r, c| Some(without(r, c, &MARKS))).await;
    case.fails(Kind::SourceChanged, "its ETag was \"first\" and is missing").await;
    let case = Case::new(|_, r, c| Some(bent(r, c, "10:00:00", "10:00:01"))).await;
    case.fails(Kind::SourceChanged, "time of modification").await;
    // A strong tag stands for the bytes without a time.
    let case = Case::new(|_, r, c| Some(without(r, c, &["last-modified"]))).await;
    assert!(case.read().await.unwrap() == content());
}

#[tokio::test]
async fn a_tag_that_vanishes_makes_another_stamp() {
    let vanished = Arc::new(AtomicBool::new(false));
    let (bytes, gone) = (content(), Arc::clone(&vanished));
    let case = Case::raw(
        |_| {},
        move |_, r| gone.load(Ordering::SeqCst).then(|| without(r, &bytes, &["etag"])),
    )
    .await;
    let source = case.open().await.unwrap();
    let stamp = source.stamp().await.unwrap();
    assert_eq!(stamp, source.stamp().await.unwrap());
    vanished.store(true, Ordering::SeqCst);
    assert_ne!(source.stamp().await.unwrap(), stamp);
}

#[tokio::test]
async fn a_length_of_zero_is_confirmed_by_a_get() {
    let case = Case::raw(
        |_| {},
        |_, r| (r.method == "HEAD").then(|| answer("200 OK", &[("etag", ETAG)], b"")),
    )
    .await;
    let source = case.open().await.unwrap();
    assert_eq!(source.size(), SIZE as u64);
    assert!(source.read_vec(0, SIZE).await.unwrap() == content());
}

#[tokio::test]
async fn empty_objects_are_empty_by_both_answers() {
    for status in ["416 Range Not Satisfiable", "200 OK"] {
        let server = FaultServer::start(Vec::new(), move |_, r| {
            let headers = [("content-range", "bytes */0"), ("etag", ETAG)];
            (r.method == "GET").then(|| answer(status, &headers, b""))
        })
        .await;
        let flags = object_support::settings(&server.endpoint);
        let source = stores(flags).open(&url("s3://images/disk")).await.unwrap();
        assert_eq!(source.size(), 0);
        assert_eq!(server.requests().len(), 2, "{:?}", server.requests());
        assert_eq!(source.stamp().await.unwrap(), source.stamp().await.unwrap());
    }
}

#[tokio::test]
async fn head_and_get_must_tell_one_size() {
    let case = Case::raw(
        |_| {},
        |_, r| {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", SIZE + 1);
            (r.method == "HEAD").then(|| vec![Step::Send(head.into_bytes())])
        },
    )
    .await;
    let error = case.open().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    let text = chain_text(&error);
    assert!(text.contains("claims 300001 bytes to HEAD, 300000 to GET"), "{text}");
}
