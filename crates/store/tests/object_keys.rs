//! Temporary keys expire before a large disk is copied; the run goes on with new ones.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation of a test is a panic"
)]

mod object_support;

use async_trait::async_trait;
use carreto_block::SourceExt as _;
use carreto_error::{Error, Kind, Result, chain_text};
use carreto_store::{
    CredentialProvider, Credentials, ObjectStores, Provider, StoreConfig, StoreEvent,
};
use object_support::{FaultServer, Recorder, Request, SIZE, Step, answer, content, settings, url};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Whether requests of the key `AKIDold` are refused.
type Expired = Arc<AtomicBool>;

async fn server(expired: &Expired) -> FaultServer {
    let expired = Arc::clone(expired);
    FaultServer::start(content(), move |_, request| {
        let old = request.header("authorization").is_none_or(|text| text.contains("AKIDold"));
        (old && expired.load(Ordering::SeqCst)).then(|| refusal(request))
    })
    .await
}

fn refusal(request: &Request) -> Vec<Step> {
    let page = b"<Error><Code>ExpiredToken</Code><Message>canary-secret-1</Message></Error>";
    let page: &[u8] = if request.method == "HEAD" { b"" } else { page };
    answer("400 Bad Request", &[], page)
}

fn write(path: &Path, id: &str, number: u32) {
    let text = format!(
        "[work]\naws_access_key_id = {id}\naws_secret_access_key = canary-secret-{number}\n\
         aws_session_token = canary-token-{number}\n"
    );
    std::fs::write(path, text).unwrap();
}

/// Settings for `server` without keys of their own.
fn config(server: &FaultServer) -> StoreConfig {
    let mut flags = settings(&server.endpoint);
    flags.credentials = None;
    flags.part_size = Some(64 << 10);
    StoreConfig::new().with_flags(flags)
}

#[tokio::test]
async fn a_profile_file_is_read_again_when_its_keys_expire() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("credentials");
    write(&path, "AKIDold", 1);
    let expired = Expired::default();
    let server = server(&expired).await;
    let config = config(&server).with_aws_profile_file(&path, "work").unwrap();
    let events = Arc::new(Recorder::default());
    let stores = ObjectStores::new(config.clone(), Arc::clone(&events) as _);
    let source = stores.open(&url("s3://images/disk")).await.unwrap();
    assert!(source.read_vec(0, SIZE).await.unwrap() == content());
    expired.store(true, Ordering::SeqCst);
    let error = source.read_vec(0, SIZE).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    assert!(chain_text(&error).contains("expired"), "{error}");
    assert!(error.remedy().contains("new temporary credentials"), "{}", error.remedy());
    write(&path, "AKIDnew", 2);
    assert!(source.read_vec(0, SIZE).await.unwrap() == content());
    let token = server.requests().last().unwrap().headers["x-amz-security-token"].clone();
    assert_eq!(token, "canary-token-2");
    let texts = format!("{config:?} {stores:?} {source:?} {error:?} {:?}", events.events());
    assert!(!texts.contains("canary"), "{texts}");
}

/// Hands out what it was given, in order, and the last one for ever.
#[derive(Debug)]
struct List {
    ids: Mutex<Vec<&'static str>>,
    asked: Arc<AtomicUsize>,
}

#[async_trait]
impl CredentialProvider for List {
    async fn credentials(&self) -> Result<Credentials> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut ids = self.ids.lock().unwrap();
        let id = if ids.len() > 1 { ids.remove(0) } else { ids[0] };
        if id == "broken" {
            return Err(Error::new(Kind::Unavailable, "the vault is closed"));
        }
        let secret = "canary-secret-1".into();
        Ok(Credentials::Key { id: id.into(), secret, token: None })
    }
}

/// Stores with a provider that hands out `ids`, whether old keys are refused from the start on.
async fn listed(
    ids: &[&'static str],
    expired: &Expired,
) -> (ObjectStores, Arc<AtomicUsize>, Arc<Recorder>, FaultServer) {
    let server = server(expired).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let list = List { ids: Mutex::new(ids.to_vec()), asked: Arc::clone(&asked) };
    let mut flags = settings(&server.endpoint);
    flags.credentials = Some(Credentials::Provider(Provider::new(list)));
    flags.part_size = Some(64 << 10);
    let events = Arc::new(Recorder::default());
    let stores = ObjectStores::new(StoreConfig::new().with_flags(flags), Arc::clone(&events) as _);
    (stores, asked, events, server)
}

#[tokio::test]
async fn one_renewal_serves_all_parts() {
    let expired = Expired::default();
    let (stores, asked, events, _server) = listed(&["AKIDold", "AKIDnew"], &expired).await;
    let source = stores.open(&url("s3://images/disk")).await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    expired.store(true, Ordering::SeqCst);
    assert!(source.read_vec(0, SIZE).await.unwrap() == content());
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    let events = events.events();
    assert!(!events.is_empty());
    for event in &events {
        let StoreEvent::Retry { reason, .. } = event else {
            panic!("{event:?}");
        };
        assert!(reason.contains("expired"), "{reason}");
    }
    assert!(!format!("{events:?}").contains("canary"), "{events:?}");
}

#[tokio::test]
async fn keys_that_stay_expired_are_denied() {
    let expired = Expired::default();
    expired.store(true, Ordering::SeqCst);
    let (stores, asked, _, server) = listed(&["AKIDold"], &expired).await;
    let error = stores.open(&url("s3://images/disk")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    assert_eq!((asked.load(Ordering::SeqCst), server.requests().len()), (2, 2));
    let (stores, _, _, server) = listed(&["AKIDold1", "AKIDold2", "AKIDold3"], &expired).await;
    let error = stores.open(&url("s3://images/disk")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    assert!(server.requests().len() <= 6, "{:?}", server.requests());
}

#[tokio::test]
async fn the_reason_of_a_provider_is_told() {
    let expired = Expired::default();
    let (stores, ..) = listed(&["broken"], &expired).await;
    let error = stores.open(&url("s3://images/disk")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(chain_text(&error).contains("the vault is closed"), "{error}");
    expired.store(true, Ordering::SeqCst);
    let (stores, ..) = listed(&["AKIDold", "broken"], &expired).await;
    let error = stores.open(&url("s3://images/disk")).await.unwrap_err();
    assert!(chain_text(&error).contains("the vault is closed"), "{error}");
}

#[tokio::test]
async fn a_provider_does_not_fit_other_stores() {
    let expired = Expired::default();
    let (stores, ..) = listed(&["AKIDold"], &expired).await;
    let error = stores.handle(&url("gs://images/disk")).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage, "{error}");
}
