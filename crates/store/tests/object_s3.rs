//! Reading objects from a real S3 server in this process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation of a test is a panic"
)]

mod object_support;

use carreto_block::{Source as _, SourceExt as _};
use carreto_error::Kind;
use carreto_store::{Credentials, ObjectStores, StoreConfig};
use carreto_testkit::{conformance, sparse_disk};
use object_support::{KEY, Recorder, S3Server, settings, stores, url};
use std::sync::Arc;
use std::time::Duration;

fn put(server: &S3Server, path: &str, content: &[u8]) {
    let path = server.root.path().join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

#[tokio::test]
async fn an_object_conforms() {
    let server = S3Server::start("images").await;
    let content = sparse_disk((3 << 20) + 511, 7);
    put(&server, "images/a/disk.raw", &content);
    let mut flags = settings(&server.endpoint);
    flags.part_size = Some(256 << 10);
    let stores = stores(flags);
    let source = stores.open(&url("s3://images/a/disk.raw")).await.unwrap();
    assert_eq!(source.name(), "s3://images/a/disk.raw");
    conformance::source(&source, &content).await;
}

#[tokio::test]
async fn small_and_empty_objects_conform() {
    let server = S3Server::start("images").await;
    for len in [0, 1, 511] {
        let content = vec![7; len];
        put(&server, "images/small", &content);
        let source =
            stores(settings(&server.endpoint)).open(&url("s3://images/small")).await.unwrap();
        conformance::source(&source, &content).await;
    }
}

#[tokio::test]
async fn keys_are_taken_as_they_are() {
    let server = S3Server::start("images").await;
    let stores = stores(settings(&server.endpoint));
    for key in ["disk one.raw", "a%20b", "plus+and&", "Größe/盘.qcow2", "what?version=1", "a#b~c"]
    {
        let url = url(&format!("s3://images/{key}"));
        let handle = stores.handle(&url).unwrap();
        handle.put_bytes(key.as_bytes().to_vec().into()).await.unwrap();
        let on_disk = std::fs::read(server.root.path().join("images").join(key)).unwrap();
        assert_eq!(on_disk, key.as_bytes(), "{key}");
        let source = handle.open().await.unwrap();
        let bytes = source.read_vec(0, key.len()).await.unwrap();
        assert_eq!(bytes, key.as_bytes());
    }
}

#[tokio::test]
async fn a_replaced_object_is_noticed() {
    let server = S3Server::start("images").await;
    let handle = stores(settings(&server.endpoint)).handle(&url("s3://images/disk")).unwrap();
    handle.put_bytes(vec![1; 4096].into()).await.unwrap();
    let source = handle.open().await.unwrap();
    let before = source.stamp().await.unwrap();
    assert_eq!(source.read_vec(0, 4096).await.unwrap(), vec![1; 4096]);
    handle.put_bytes(vec![2; 4096].into()).await.unwrap();
    let error = source.read_vec(0, 4096).await.unwrap_err();
    assert_eq!(error.kind(), Kind::SourceChanged, "{error}");
    assert_ne!(source.stamp().await.unwrap(), before);
}

#[tokio::test]
async fn what_is_missing_is_not_found() {
    let server = S3Server::start("images").await;
    let stores = stores(settings(&server.endpoint));
    for name in ["s3://images/none", "s3://nobucket/none"] {
        let error = stores.open(&url(name)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{error}");
        assert_eq!(error.nearest_path(), Some(name));
    }
}

#[tokio::test]
async fn wrong_credentials_are_denied() {
    let server = S3Server::start("images").await;
    put(&server, "images/disk", b"content");
    let mut flags = settings(&server.endpoint);
    flags.credentials = Some(Credentials::Key {
        id: KEY.into(),
        secret: "canary-wrong-secret".into(),
        token: None,
    });
    let error = stores(flags).open(&url("s3://images/disk")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error:?}");
    assert!(error.to_string().contains("SignatureDoesNotMatch"), "{error}");
    let text = format!("{error:?} {}", carreto_error::chain_text(&error));
    assert!(!text.contains("canary-wrong-secret"), "{text}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", server.local_addr().unwrap());
    drop(server);
    let mut flags = settings(&endpoint);
    flags.retry_for = Some(Duration::from_millis(300));
    let events = Arc::new(Recorder::default());
    let stores = ObjectStores::new(StoreConfig::new().with_flags(flags), Arc::clone(&events) as _);
    let error = stores.open(&url("s3://images/disk")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    let text = carreto_error::chain_text(&error);
    assert!(text.contains("no connection can be made"), "{text}");
    assert!(text.contains("Connection refused"), "{text}");
    assert!(!events.events().is_empty());
}
