//! Settings come from flags, the environment, a profile and a file, in that order.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation of a test is a panic"
)]

mod object_support;

use carreto_block::SourceExt as _;
use carreto_error::Kind;
use carreto_store::{
    Credentials, ObjectStores, Secret, SilentObserver, StoreConfig, StoreSettings,
};
use object_support::url;
use std::sync::Arc;
use std::time::Duration;

const FILE: &str = r#"
[other]
x = 1
[store]
retry_for = "10m"
region = "file-general"
max_requests = 3
[store.s3]
region = "file-s3"
access_key_id = "file-id"
secret_access_key = "canary-file"
session_token = "canary-file-token"
headers = { x-a = "canary-a", x-b = "canary-b" }
[store.s3.buckets."my.images"]
region = "file-bucket"
endpoint = "https://one.example.org"
virtual_host = true
headers = { x-b = "canary-c" }
[store.http.buckets."h:8080"]
read_timeout = "500ms"
"#;

fn settings(config: &StoreConfig, name: &str) -> StoreSettings {
    config.settings(&url(name))
}

fn id(settings: &StoreSettings) -> (&str, Option<&str>) {
    match settings.credentials.as_ref() {
        Some(Credentials::Key { id, token, .. }) => (id, token.as_ref().map(Secret::expose)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_special_goes_over_the_general() {
    let config = StoreConfig::new().with_file(FILE).unwrap();
    let region = |name: &str| settings(&config, name).region.unwrap();
    assert_eq!(region("gs://b/k"), "file-general");
    assert_eq!(region("s3://b/k"), "file-s3");
    assert_eq!(region("s3://my.images/k"), "file-bucket");
    let bucket = settings(&config, "s3://my.images/k");
    assert_eq!(id(&bucket), ("file-id", Some("canary-file-token")));
    assert_eq!(bucket.retry_for, Some(Duration::from_mins(10)));
    assert_eq!(bucket.max_requests, Some(3));
    assert_eq!(bucket.virtual_host, Some(true));
    assert_eq!(bucket.headers["x-a"].expose(), "canary-a");
    assert_eq!(bucket.headers["x-b"].expose(), "canary-c");
    for name in ["http://h:8080/k", "https://h:8080/k"] {
        assert_eq!(settings(&config, name).read_timeout, Some(Duration::from_millis(500)));
    }
    assert_eq!(settings(&config, "http://h/k").read_timeout, None);
    assert!(!format!("{config:?}").contains("canary"), "{config:?}");
}

#[test]
fn flags_go_over_the_environment_over_a_profile_over_the_file() {
    let file = StoreConfig::new().with_file(FILE).unwrap();
    let profile = "[default]\naws_access_key_id = no\naws_secret_access_key = no\n\
                   [work] # mine\n[profile work]\nregion = profile\n\
                   aws_access_key_id = profile-id\naws_secret_access_key=a=b\n";
    let config = file.with_aws_profile(profile, "work").unwrap();
    let one = settings(&config, "s3://b/k");
    assert_eq!((id(&one), one.region.as_deref()), (("profile-id", None), Some("profile")));
    assert_eq!(settings(&config, "cos://b-1/k").credentials, None);

    let env = [
        ("AWS_ACCESS_KEY_ID", "env-id"),
        ("AWS_SECRET_ACCESS_KEY", "canary-env"),
        ("AWS_SESSION_TOKEN", ""),
        ("AWS_DEFAULT_REGION", "env"),
        ("AWS_ENDPOINT_URL", "https://general"),
        ("AWS_ENDPOINT_URL_S3", "https://special"),
        ("AWS_ALLOW_HTTP", "True"),
        ("TENCENTCLOUD_SECRET_ID", "tencent-id"),
        ("TENCENTCLOUD_SECRET_KEY", "canary-tencent"),
        ("TENCENTCLOUD_REGION", "ap-x"),
        ("HTTPS_PROXY", "http://canary@proxy:1"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/a/b.json"),
        ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
        ("AZURE_STORAGE_SAS_TOKEN", "canary-sas"),
        ("PATH", "/bin"),
    ];
    let config = config.with_env(env).unwrap();
    let two = settings(&config, "s3://b/k");
    assert_eq!((id(&two), two.region.as_deref()), (("env-id", None), Some("env")));
    assert_eq!(two.endpoint.as_deref(), Some("https://special"));
    assert_eq!(two.allow_http, Some(true));
    let cos = settings(&config, "cos://b-1/k");
    assert_eq!((id(&cos).0, cos.region.as_deref()), ("tencent-id", Some("ap-x")));
    assert_eq!(cos.endpoint, None);
    let gs = settings(&config, "gs://b/k");
    assert_eq!(gs.credentials, Some(Credentials::ApplicationFile("/a/b.json".into())));
    let az = settings(&config, "az://b/k");
    assert_eq!(az.account.as_deref(), Some("account"));
    assert_eq!(az.credentials, Some(Credentials::SharedAccess("canary-sas".into())));
    assert!(settings(&config, "https://h/k").proxy.is_some());

    let mut flags = StoreSettings::default();
    flags.region = Some("flag".into());
    let config = config.with_flags(flags);
    let three = settings(&config, "s3://b/k");
    assert_eq!((id(&three).0, three.region.as_deref()), ("env-id", Some("flag")));
    assert!(!format!("{config:?}").contains("canary"), "{config:?}");
}

#[test]
fn mistakes_are_named_and_values_are_not() {
    for (file, words) in [
        ("[store]\nretry_for = canary\n", "line 2"),
        ("[store\nsecret = \"canary\"", "line 1"),
        ("store = \"canary\"", "store in the configuration file is not a table"),
        ("[store]\ns3 = \"canary\"", "store.s3 in the configuration file is not a table"),
        ("[store]\nretry_for = \"canary\"", "store.retry_for"),
        ("[store]\nretry_for = \"99999999999999999999h\"", "store.retry_for"),
        ("[store]\nread_timeout = \"18446744073709551615s\"", "at most 365d"),
        ("[store]\nretry_for = \"366d\"", "at most 365d"),
        ("[store]\nmax_requests = -1", "store.max_requests"),
        ("[store.s3]\nsecret_acces_key = \"canary\"", "store.s3.secret_acces_key"),
        ("[store.s3]\nsecret_access_key = \"canary\"", "needs both"),
        (
            "[store.s3]\nsecret_access_key = 4711\naccess_key_id = \"x\"",
            "store.s3.secret_access_key",
        ),
        ("[store.s3]\nsession_token = \"canary\"", "needs both"),
        (
            "[store.gs]\nbearer_token = \"canary\"\nsas_token = \"canary\"",
            "two kinds of credentials",
        ),
        ("[store.s3.headers]\nx = 4711", "store.s3.headers.x"),
        ("[store.s3.buckets]\nb = 4711", "store.s3.buckets.b"),
        ("[store.s3]\nallow_http = \"canary\"", "store.s3.allow_http"),
    ] {
        let error = StoreConfig::new().with_file(file).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        let text = format!("{error:?}");
        assert!(text.contains(words), "{text} lacks {words}");
        assert!(!text.contains("canary") && !text.contains("4711"), "{text}");
    }
    let error = StoreConfig::new().with_env([("AWS_ALLOW_HTTP", "canary")]).unwrap_err();
    assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    assert!(error.to_string().contains("the variable "), "{error}");
    let profile = "[p]\naws_access_key_id = canary";
    let error = StoreConfig::new().with_aws_profile(profile, "p").unwrap_err();
    assert!(!format!("{error:?}").contains("canary"), "{error:?}");
}

#[test]
fn half_a_key_in_the_environment_is_an_error_of_its_store_alone() {
    for (variable, missing, name) in [
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "s3://b/k"),
        ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "s3://b/k"),
        ("COS_SECRET_ID", "COS_SECRET_KEY", "cos://b-1/k"),
    ] {
        let env = [(variable, "canary"), ("COS_REGION", "ap-x")];
        let config = StoreConfig::new().with_env(env).unwrap();
        let error = stores_of(config.clone()).handle(&url(name)).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains(missing), "{error}");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        stores_of(config.clone()).handle(&url("https://h/k")).unwrap();
        let mut flags = StoreSettings::default();
        flags.anonymous = Some(true);
        stores_of(config.with_flags(flags)).handle(&url(name)).unwrap();
    }
}

fn stores_of(config: StoreConfig) -> ObjectStores {
    ObjectStores::new(config, Arc::new(SilentObserver))
}

#[test]
fn the_header_of_a_profile_ends_at_its_bracket() {
    let text = "[default]\naws_access_key_id = d\naws_secret_access_key = d-secret # mine\n\
                [prod] # production\naws_access_key_id = p\naws_secret_access_key = p-secret\n\
                [broken\naws_access_key_id = b\naws_secret_access_key = b-secret\n";
    for (profile, wanted) in [("default", Some("d")), ("prod", Some("p")), ("broken", None)] {
        let config = StoreConfig::new().with_aws_profile(text, profile).unwrap();
        let found = settings(&config, "s3://b/k").credentials;
        let key = wanted.map(|id| Credentials::Key {
            id: id.into(),
            secret: format!("{id}-secret").as_str().into(),
            token: None,
        });
        assert_eq!(found, key, "{profile}");
    }
}

#[test]
fn a_later_file_goes_over_an_earlier_one_field_by_field() {
    let system = "[store]\nproxy = \"http://p:1\"\nretry_for = \"1m\"\n\
                  [store.s3]\nregion = \"system\"\n";
    let user = "[store]\nretry_for = \"2m\"\n[store.s3]\nendpoint = \"https://user\"\n";
    let config = StoreConfig::new().with_file(system).unwrap().with_file(user).unwrap();
    let found = settings(&config, "s3://b/k");
    assert_eq!(found.proxy, Some(Secret::new("http://p:1")));
    assert_eq!(found.retry_for, Some(Duration::from_mins(2)));
    assert_eq!(found.region.as_deref(), Some("system"));
    assert_eq!(found.endpoint.as_deref(), Some("https://user"));
}

/// As flags may hand in any duration, the bound is not only one of the file.
#[tokio::test]
async fn endless_timeouts_do_not_overflow_the_clock() {
    let server = object_support::FaultServer::start(vec![7; 4096], |_, _| None).await;
    let mut flags = object_support::settings(&server.endpoint);
    flags.read_timeout = Some(Duration::MAX);
    flags.connect_timeout = Some(Duration::MAX);
    flags.retry_for = Some(Duration::MAX);
    let source = object_support::stores(flags).open(&url("s3://images/disk")).await.unwrap();
    assert_eq!(source.read_vec(0, 4096).await.unwrap(), vec![7; 4096]);
}
