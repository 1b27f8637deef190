//! Canaries: everything secret is given a name that cannot occur by chance, everything that can
//! be printed is printed, and no canary may be in it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation of a test is a panic"
)]

mod object_support;

use carreto_block::{Source as _, SourceExt as _};
use carreto_error::chain_text;
use carreto_store::{Credentials, ObjectStores, ObjectUrl, Secret, StoreConfig, StoreSettings};
use object_support::{FaultServer, Recorder, Request, Step, answer, url};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

fn flags(endpoint: &str) -> StoreSettings {
    let mut flags = StoreSettings::default();
    flags.endpoint = Some(endpoint.to_owned());
    flags.account = Some("account".into());
    flags.retry_for = Some(Duration::from_millis(50));
    flags.read_timeout = Some(Duration::from_secs(1));
    flags.headers.insert("x-extra".into(), Secret::new("canary-header-1"));
    flags
}

/// Everything that the server learnt, sent back in every place where a server can say something.
fn echo(status: &str, request: &Request) -> Vec<Step> {
    let all = request.headers.values().cloned().collect::<Vec<_>>().join(" ");
    let all = format!("{all} {}", request.target);
    let body =
        format!("<Error><Code>{all}</Code><Message>{all}</Message><Region>{all}</Region></Error>");
    let location = format!("http://other.example.org/{}", request.target);
    let headers = [
        ("location", location.as_str()),
        ("x-amz-bucket-region", &all),
        ("etag", &all),
        ("x-ms-error-code", &all),
    ];
    let body = if request.method == "HEAD" { "" } else { &body };
    answer(status, &headers, body.as_bytes())
}

/// Opens and reads `name` on a server that answers with `status`, and returns all texts.
async fn all_texts(name: &ObjectUrl, flags: StoreSettings) -> String {
    let events = Arc::new(Recorder::default());
    let config = StoreConfig::new().with_flags(flags);
    let mut texts = format!("{config:?} {name} {name:?}");
    let stores = ObjectStores::new(config, Arc::clone(&events) as _);
    let handle = stores.handle(name).unwrap();
    write!(texts, "{stores:?} {handle:?} {}", handle.name()).unwrap();
    match handle.open().await {
        Ok(source) => {
            write!(texts, "{source:?} {} {}", source.name(), source.identity()).unwrap();
            if let Err(error) = source.read_vec(0, 1000).await {
                write!(texts, "{error:?} {error} {} {}", chain_text(&error), error.remedy())
                    .unwrap();
            }
            match source.stamp().await {
                Ok(stamp) => write!(texts, "{stamp:?}").unwrap(),
                Err(error) => write!(texts, "{error:?} {}", chain_text(&error)).unwrap(),
            }
        }
        Err(error) => {
            write!(texts, "{error:?} {error} {} {}", chain_text(&error), error.remedy()).unwrap();
        }
    }
    if let Err(error) = handle.put_bytes(vec![1; 10].into()).await {
        write!(texts, "{error:?} {} {}", chain_text(&error), error.remedy()).unwrap();
    }
    write!(texts, "{:?} {stores:?}", events.events()).unwrap();
    texts
}

fn credentials() -> Vec<(&'static str, Credentials)> {
    let key = Credentials::Key {
        id: "AKID".into(),
        secret: "canary-secret-1".into(),
        token: Some("canary-token-1".into()),
    };
    vec![
        ("s3://images/disk", key.clone()),
        ("cos://images-1/disk", key),
        ("gs://images/disk", Credentials::Bearer("canary-bearer-1".into())),
        ("az://images/disk", Credentials::AccountKey("Y2FuYXJ5LWtleQ==".into())),
        ("az://images/disk", Credentials::SharedAccess("sv=1&sig=canary-signature-1".into())),
        ("az://images/disk", Credentials::Bearer("canary-bearer-2".into())),
    ]
}

fn assert_clean(texts: &str, case: &str) {
    for canary in ["canary", "Y2FuYXJ5LWtleQ"] {
        if let Some(at) = texts.find(canary) {
            panic!("{case}: …{}…", &texts[at.saturating_sub(300)..texts.len().min(at + 60)]);
        }
    }
}

#[tokio::test]
async fn no_secret_is_in_any_text() {
    for status in [
        "200 OK",
        "301 Moved",
        "400 Bad",
        "403 Forbidden",
        "404 Not Found",
        "412 Failed",
        "418 Teapot",
        "503 Slow",
    ] {
        let server = FaultServer::start(vec![7; 2000], move |n, request| {
            (status != "200 OK" && n > 0).then(|| echo(status, request))
        })
        .await;
        for (name, credentials) in credentials() {
            let mut flags = flags(&server.endpoint);
            flags.credentials = Some(credentials);
            let texts = all_texts(&url(name), flags).await;
            assert_clean(&texts, &format!("{name} {status}"));
            assert!(texts.contains("***"), "the canary was never given: {texts}");
        }
        let name =
            format!("{}/disk?X-Amz-Signature=canary-signature-2&b=canary-3", server.endpoint);
        let texts = all_texts(&url(&name), flags("http://localhost")).await;
        assert_clean(&texts, &format!("web {status}"));
    }
}

/// A server repeats a signature as it understood it, not as it was escaped.
#[tokio::test]
async fn secrets_are_left_out_without_their_escaping_too() {
    let page = "<Error><Code>X</Code><Message>can/ary+1= and can ary+2 can/ary=3</Message></Error>";
    let server = FaultServer::start(Vec::new(), move |_, request| {
        let page = if request.method == "HEAD" { "" } else { page };
        Some(answer("403 Forbidden", &[], page.as_bytes()))
    })
    .await;
    let signed = format!("{}/disk?X-Amz-Signature=can%2Fary%2B1%3D&t=can+ary%2B2", server.endpoint);
    let texts = all_texts(&url(&signed), flags("http://localhost")).await;
    assert!(texts.contains("*** and *** "), "{texts}");
    assert!(!texts.contains("can/ary+1") && !texts.contains("can ary+2"), "{texts}");
    let mut flags = flags(&server.endpoint);
    flags.credentials = Some(Credentials::SharedAccess("sv=2026-01-01&sig=can%2Fary%3D3".into()));
    let texts = all_texts(&url("az://images/disk"), flags).await;
    assert!(texts.contains("can ary+2 ***"), "{texts}");
    assert!(!texts.contains("can/ary=3"), "{texts}");
}

/// The servers above see what they echo; this one shows that the echo reaches the texts.
#[tokio::test]
async fn the_echo_is_heard() {
    let server =
        FaultServer::start(vec![7; 2000], |_, request| Some(echo("403 No", request))).await;
    let mut flags = flags(&server.endpoint);
    flags.headers.insert("x-open".into(), Secret::new("open"));
    let texts = all_texts(&url("s3://images/disk"), flags).await;
    assert!(texts.contains("carreto/"), "the user agent is echoed: {texts}");
}

#[tokio::test]
async fn no_secret_is_in_the_texts_of_a_dead_line() {
    for step in [Step::Reset, Step::Close, Step::Send(b"HTTP/1.1 garbage\r\n\r\n".to_vec())] {
        let server =
            FaultServer::start(Vec::new(), move |_, _| Some(vec![step.clone(), Step::Close])).await;
        for (name, credentials) in credentials() {
            let mut flags = flags(&server.endpoint);
            flags.credentials = Some(credentials);
            assert_clean(&all_texts(&url(name), flags).await, name);
        }
        let name = format!("{}/disk?sig=canary-signature-2", server.endpoint);
        assert_clean(&all_texts(&url(&name), flags("http://localhost")).await, "web");
    }
}
