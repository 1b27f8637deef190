//! Plain web servers, and the other stores, as far as their requests can be seen from here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation of a test is a panic"
)]

mod object_support;

use carreto_block::{Source as _, SourceExt as _};
use carreto_error::{Kind, chain_text};
use carreto_store::{Credentials, Location, Secret, StoreSettings};
use carreto_testkit::{conformance, sparse_disk};
use object_support::{
    FaultServer, Request, Step, answer, honest, quick, settings, stores, url, without,
};

#[tokio::test]
async fn a_web_server_conforms_and_gets_the_address_as_it_was_typed() {
    let content = sparse_disk(200_000, 3);
    let server = FaultServer::start(content.clone(), |_, _| None).await;
    let path = "/a//b%2Fc/disk%20one.raw?X-Sig=canary%2Fsignature&b=2";
    let mut flags = quick();
    flags.part_size = Some(64 << 10);
    flags.headers.insert("x-token".into(), Secret::new("canary-header"));
    let stores = stores(flags);
    let source = stores.open(&url(&format!("{}{path}", server.endpoint))).await.unwrap();
    assert_eq!(source.name(), format!("{}/a//b%2Fc/disk%20one.raw?***", server.endpoint));
    conformance::source(&source, &content).await;
    for request in server.requests() {
        assert_eq!((request.method.as_str(), request.target.as_str()), ("GET", path));
        assert_eq!(request.header("x-token"), Some("canary-header"));
        assert_eq!(request.header("authorization"), None);
    }
}

#[tokio::test]
async fn an_empty_file_is_a_source() {
    let server = FaultServer::start(Vec::new(), |_, _| None).await;
    let source = stores(quick()).open(&url(&format!("{}/x", server.endpoint))).await.unwrap();
    conformance::source(&source, &[]).await;
    let server = FaultServer::start(Vec::new(), |_, _| Some(answer("200 OK", &[], b""))).await;
    let source = stores(quick()).open(&url(&format!("{}/x", server.endpoint))).await.unwrap();
    assert_eq!(source.size(), 0);
}

#[tokio::test]
async fn a_server_without_ranges_is_unsupported() {
    let server =
        FaultServer::start(vec![1; 999], |_, _| Some(answer("200 OK", &[], &[1; 999]))).await;
    let error = stores(quick()).open(&url(&format!("{}/x", server.endpoint))).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("HTTP ranges"), "{error}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_file_without_an_etag_is_held_to_its_time() {
    let content = vec![5; 4096];
    let bytes = content.clone();
    let server = FaultServer::start(content.clone(), move |n, request| {
        let mut steps = without(request, &bytes, &["etag"]);
        if n > 1
            && let Some(Step::Send(bytes)) = steps.first_mut()
        {
            *bytes = String::from_utf8(bytes.clone())
                .unwrap()
                .replace("10:00:00", "10:00:01")
                .into_bytes();
        }
        Some(steps)
    })
    .await;
    let source = stores(quick()).open(&url(&format!("{}/x", server.endpoint))).await.unwrap();
    assert_eq!(source.read_vec(0, 4096).await.unwrap(), content);
    let error = source.read_vec(0, 4096).await.unwrap_err();
    assert_eq!(error.kind(), Kind::SourceChanged);
    assert!(server.requests().iter().all(|r| r.header("if-match").is_none()));
}

/// A weak tag never matches in If-Match, so it must not be sent, only compared.
#[tokio::test]
async fn a_weak_etag_is_compared_here() {
    let content = vec![5; 4096];
    let bytes = content.clone();
    let server = FaultServer::start(content.clone(), move |n, request| {
        let mut steps = honest(request, &bytes);
        let tag = if n > 1 { "W/\"new\"" } else { "W/\"old\"" };
        if let Some(Step::Send(bytes)) = steps.first_mut() {
            *bytes =
                String::from_utf8(bytes.clone()).unwrap().replace("\"first\"", tag).into_bytes();
        }
        Some(steps)
    })
    .await;
    let source = stores(quick()).open(&url(&format!("{}/x", server.endpoint))).await.unwrap();
    assert_eq!(source.read_vec(0, 4096).await.unwrap(), content);
    let error = source.read_vec(0, 4096).await.unwrap_err();
    assert_eq!(error.kind(), Kind::SourceChanged);
    assert!(server.requests().iter().all(|r| r.header("if-match").is_none()));
}

#[tokio::test]
async fn secret_headers_do_not_travel_in_the_clear() {
    let mut flags = quick();
    flags.headers.insert("x-token".into(), Secret::new("canary-header"));
    let error = stores(flags).handle(&url("http://files.example.org/x")).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().contains("without TLS"), "{error}");
}

#[tokio::test]
async fn a_plain_endpoint_elsewhere_must_be_allowed() {
    let mut flags = settings("http://minio.example.org:9000");
    let error = stores(flags.clone()).handle(&url("s3://b/k")).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.remedy().contains("AWS_ALLOW_HTTP"), "{}", error.remedy());
    flags.allow_http = Some(true);
    stores(flags).handle(&url("s3://b/k")).unwrap();
    for endpoint in ["http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1"] {
        stores(settings(endpoint)).handle(&url("s3://b/k")).unwrap();
    }
}

#[tokio::test]
async fn credentials_that_cannot_be_sent_are_refused() {
    for (id, secret, token) in [
        ("id\n", "canary-secret", None),
        ("id", "canary secret", None),
        ("id", "canary-secret", Some("canary\u{7f}token")),
        ("id", "", None),
    ] {
        let mut flags = settings("http://localhost:1");
        flags.credentials = Some(Credentials::Key {
            id: id.into(),
            secret: secret.into(),
            token: token.map(Secret::new),
        });
        let error = stores(flags).handle(&url("s3://b/k")).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
}

/// Reads an object and returns the requests that the server saw.
async fn read_through(flags: StoreSettings, name: &str, server: &FaultServer) -> Vec<Request> {
    let mut flags = flags;
    flags.endpoint = Some(server.endpoint.clone());
    let source = stores(flags).open(&url(name)).await.unwrap();
    conformance::source(&source, &server.content).await;
    server.requests()
}

#[tokio::test]
async fn google_gets_its_token_and_paths() {
    let server = FaultServer::start(sparse_disk(100_000, 1), |_, _| None).await;
    let mut flags = quick();
    flags.credentials = Some(Credentials::Bearer(Secret::new("canary-bearer")));
    for request in read_through(flags, "gs://images/a/disk", &server).await {
        assert_eq!(request.target, "/images/a%2Fdisk");
        assert_eq!(request.header("authorization"), Some("Bearer canary-bearer"));
    }
    let open = FaultServer::start(vec![1; 10], |_, _| None).await;
    for request in read_through(quick(), "gs://images/disk", &open).await {
        assert_eq!(request.header("authorization"), None);
    }
}

#[tokio::test]
async fn azure_gets_its_signature_and_paths() {
    let server = FaultServer::start(sparse_disk(100_000, 1), |_, _| None).await;
    let mut flags = quick();
    flags.account = Some("account".into());
    flags.credentials = Some(Credentials::SharedAccess(Secret::new("?sv=2026&sig=canary%3D")));
    for request in read_through(flags.clone(), "az://images/a/disk", &server).await {
        assert_eq!(request.target, "/images/a/disk?sv=2026&sig=canary%3D");
    }
    flags.credentials = Some(Credentials::AccountKey(Secret::new("Y2FuYXJ5")));
    let server = FaultServer::start(vec![1; 10], |_, _| None).await;
    for request in read_through(flags.clone(), "az://images/disk", &server).await {
        let signed = request.header("authorization").unwrap();
        assert!(signed.starts_with("SharedKey account:"), "{signed}");
    }
    flags.account = None;
    let error = stores(flags).handle(&url("az://images/disk")).unwrap_err();
    assert!(error.remedy().contains("AZURE_STORAGE_ACCOUNT_NAME"));
}

/// Where a store without an endpoint connects to, seen by a proxy that refuses.
async fn host_of(name: &str, change: impl FnOnce(&mut StoreSettings)) -> String {
    let proxy = FaultServer::start(Vec::new(), |_, _| Some(answer("403 No", &[], b""))).await;
    let mut flags = quick();
    flags.proxy =
        Some(Secret::new(proxy.endpoint.replace("http://", "http://me:canary-password@")));
    change(&mut flags);
    let stores = stores(flags);
    let error = stores.open(&url(name)).await.unwrap_err();
    let text = format!("{error:?} {} {stores:?}", chain_text(&error));
    assert!(!text.contains("canary"), "{text}");
    let request = proxy.requests().swap_remove(0);
    assert_eq!(request.method, "CONNECT");
    request.target
}

#[tokio::test]
async fn clouds_have_the_bucket_in_the_host() {
    let cos = "cos://images-1250000000/disk";
    let region = |flags: &mut StoreSettings| flags.region = Some("ap-guangzhou".into());
    let wanted = "images-1250000000.cos.ap-guangzhou.myqcloud.com:443";
    assert_eq!(host_of(cos, region).await, wanted);
    let endpoint = |flags: &mut StoreSettings| {
        flags.endpoint = Some("https://cos.ap-guangzhou.myqcloud.com".into());
    };
    assert_eq!(host_of(cos, endpoint).await, wanted);
    let whole = |flags: &mut StoreSettings| {
        flags.endpoint = Some(format!("https://{}", wanted.trim_end_matches(":443")));
    };
    assert_eq!(host_of(cos, whole).await, wanted);
    assert_eq!(host_of("s3://images/disk", |_| {}).await, "images.s3.us-east-1.amazonaws.com:443");
    assert_eq!(host_of("s3://my.images/disk", region).await, "s3.ap-guangzhou.amazonaws.com:443");
    assert_eq!(host_of("gs://images/disk", |_| {}).await, "storage.googleapis.com:443");
    let account = |flags: &mut StoreSettings| flags.account = Some("me".into());
    assert_eq!(host_of("az://images/disk", account).await, "me.blob.core.windows.net:443");
    assert_eq!(host_of("https://files.example.org/disk", |_| {}).await, "files.example.org:443");
}

#[tokio::test]
async fn cos_needs_a_region() {
    let error = stores(quick()).handle(&url("cos://b-1/k")).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.remedy().contains("COS_REGION"), "{}", error.remedy());
    let mut flags = quick();
    flags.region = Some("evil.example.org/".into());
    assert_eq!(stores(flags).handle(&url("cos://b-1/k")).unwrap_err().kind(), Kind::Usage);
}

#[tokio::test]
async fn memory_conforms() {
    let content = sparse_disk(200_000, 9);
    let stores = stores(quick());
    let handle = stores.handle(&url("memory:a/disk")).unwrap();
    assert_eq!(handle.open().await.unwrap_err().kind(), Kind::NotFound);
    handle.put_bytes(content.clone().into()).await.unwrap();
    let source = stores.open(&url("memory://a/disk")).await.unwrap();
    conformance::source(&source, &content).await;
    handle.put_bytes(vec![0; 200_000].into()).await.unwrap();
    let error = source.read_vec(0, 10).await.unwrap_err();
    assert_eq!(error.kind(), Kind::SourceChanged);
}

#[test]
fn a_location_of_the_web_needs_no_user() {
    let error = "https://me:canary@h/x".parse::<Location>().unwrap_err();
    assert!(!format!("{error:?}").contains("canary"));
}
