//! Uploads in parts, against a real S3 server in this process.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation of a test is a panic"
)]
#![allow(dead_code, reason = "not every test needs all of the support")]

mod object_support;

use bytes::Bytes;
use carreto_block::SourceExt as _;
use carreto_error::Kind;
use carreto_store::{MIN_PART, ObjectStoreHandle};
use carreto_testkit::Rng;
use object_support::{S3Server, settings, stores, url};

fn handle(server: &S3Server) -> ObjectStoreHandle {
    stores(settings(&server.endpoint)).handle(&url("s3://images/disk")).unwrap()
}

/// Two parts of the least size and a short one.
fn parts() -> [Bytes; 3] {
    let lens = [MIN_PART, MIN_PART, 1000].map(|len| usize::try_from(len).unwrap());
    lens.map(|len| {
        let mut bytes = vec![0; len];
        Rng::new(len as u64).fill(&mut bytes);
        bytes.into()
    })
}

fn total(parts: &[Bytes]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}

#[tokio::test]
async fn another_process_goes_on_and_the_parts_make_the_object() {
    let server = S3Server::start("images").await;
    let parts = parts();
    let first = handle(&server).begin_upload().await.unwrap();
    let last = first.put_part(2, parts[2].clone()).await.unwrap();
    // Everything is forgotten but the names.
    let handle = handle(&server);
    let upload = handle.resume_upload(first.id()).unwrap();
    upload.put_part(0, parts[1].clone()).await.unwrap();
    let names = [
        upload.put_part(0, parts[0].clone()).await.unwrap(),
        upload.put_part(1, parts[1].clone()).await.unwrap(),
        last,
    ];
    assert_eq!(handle.facts().await.unwrap(), None, "nothing is visible before the end");
    let facts = upload.complete(&names, total(&parts), None).await.unwrap();
    assert_eq!(facts.size, total(&parts));
    assert_eq!(handle.facts().await.unwrap(), Some(facts.clone()));
    let object = handle.open().await.unwrap();
    let bytes = object.read_vec(0, usize::try_from(facts.size).unwrap()).await.unwrap();
    assert!(bytes == parts.concat());
    // The answer was lost, and the same is asked again.
    assert_eq!(upload.complete(&names, total(&parts), None).await.unwrap(), facts);
}

#[tokio::test]
async fn an_upload_that_is_gone_says_so() {
    let server = S3Server::start("images").await;
    let upload = handle(&server).begin_upload().await.unwrap();
    let name = upload.put_part(0, parts()[2].clone()).await.unwrap();
    upload.abort().await.unwrap();
    upload.put_part(0, parts()[2].clone()).await.expect_err("a part of an aborted upload");
    upload.complete(&[name], 1000, None).await.expect_err("an aborted upload is completed");
    assert_eq!(handle(&server).facts().await.unwrap(), None);
}

#[tokio::test]
async fn another_object_is_not_taken_for_the_upload() {
    let server = S3Server::start("images").await;
    let handle = handle(&server);
    let upload = handle.begin_upload().await.unwrap();
    let name = upload.put_part(0, parts()[2].clone()).await.unwrap();
    upload.abort().await.unwrap();
    handle.put_bytes(vec![1; 999].into()).await.unwrap();
    upload.complete(&[name], 1000, None).await.expect_err("an object of 999 bytes is not it");
}

/// Replacing an image by one of the same size is what raw disks do all the time.
#[tokio::test]
async fn the_object_that_was_there_is_not_taken_for_the_upload() {
    let server = S3Server::start("images").await;
    let handle = handle(&server);
    let [old, new, _] = parts();
    let put = async |bytes: Bytes| {
        let upload = handle.begin_upload().await.unwrap();
        let name = upload.put_part(0, bytes).await.unwrap();
        (upload, [name])
    };
    let (upload, names) = put(old).await;
    let before = upload.complete(&names, MIN_PART, None).await.unwrap();
    let mut other = new.to_vec();
    other[0] ^= 1;
    let (upload, names) = put(other.into()).await;
    upload.abort().await.unwrap();
    let refused = upload.complete(&names, MIN_PART, before.etag.as_deref()).await;
    refused.expect_err("the old object has the size and the number of parts");
    assert_eq!(handle.facts().await.unwrap(), Some(before));
}

#[tokio::test]
async fn a_web_server_takes_no_uploads() {
    let stores = stores(settings("http://127.0.0.1:9"));
    let handle = stores.handle(&url("http://127.0.0.1:9/disk")).unwrap();
    assert_eq!(handle.begin_upload().await.unwrap_err().kind(), Kind::Unsupported);
    assert_eq!(handle.resume_upload("x").unwrap_err().kind(), Kind::Unsupported);
}
