//! What an image names is opened below the allowed prefix and nowhere else.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation of a test is a panic"
)]

mod object_support;

use carreto_block::{
    Grant, OpenBeneath as _, OpenGate, OpenRequest, ReferenceRole, SourceExt as _,
};
use carreto_error::Kind;
use carreto_store::{ObjectStores, SilentObserver, StoreConfig};
use object_support::{S3Server, settings, url};
use std::sync::Arc;

async fn stores(server: &S3Server) -> Arc<ObjectStores> {
    let config = StoreConfig::new().with_flags(settings(&server.endpoint));
    let stores = Arc::new(ObjectStores::new(config, Arc::new(SilentObserver)));
    for key in ["a/top", "a/base", "a/sub/base", "b/secret"] {
        let url = url(&format!("s3://images/{key}"));
        let handle = stores.handle(&url).unwrap();
        handle.put_bytes(key.as_bytes().to_vec().into()).await.unwrap();
    }
    stores
}

fn gate(stores: &Arc<ObjectStores>, grants: &[&str]) -> OpenGate {
    let top = url("s3://images/a/top");
    let grants = grants.iter().map(|text| Grant((*text).to_owned())).collect();
    OpenGate::new(Arc::clone(stores) as _, grants, top.directory(), top.to_string())
}

fn request(name: &str) -> OpenRequest<'_> {
    OpenRequest { referrer: "s3://images/a/top", name, role: ReferenceRole::Backing }
}

#[tokio::test]
async fn allowed_objects_open() {
    let server = S3Server::start("images").await;
    let gate = gate(&stores(&server).await, &["s3://images/a"]);
    for (name, content) in
        [("base", "a/base"), ("sub/base", "a/sub/base"), ("sub/../base", "a/base")]
    {
        let (source, _) = gate.open(request(name)).await.unwrap();
        let bytes = source.read_vec(0, content.len()).await.unwrap();
        assert_eq!(bytes, content.as_bytes());
    }
    let error = gate.open(request("none")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
}

#[tokio::test]
async fn everything_else_stays_closed() {
    let server = S3Server::start("images").await;
    let stores = stores(&server).await;
    for name in [
        "../b/secret",
        "/etc/passwd",
        "s3://images/b/secret",
        "http://169.254.169.254/x",
        "../../images/a/base/../../b/secret",
    ] {
        let error = gate(&stores, &["s3://images/a"]).open(request(name)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unsafe, "{name}: {error}");
    }
    let error = gate(&stores, &[]).open(request("base")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsafe);
    let error = gate(&stores, &["s3://images/a"]).open(request("top")).await.unwrap_err();
    assert!(error.to_string().contains("cycle"), "{error}");
    for relative in ["../b/secret", "/x", "a/../../b/secret", ""] {
        let error = stores.open_beneath("s3://images/a", relative).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unsafe, "{relative}");
    }
    let error = stores.open_beneath("/tmp", "x").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
}
