//! What a user types is a path or a URL, and never shown with its secrets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation of a test is a panic"
)]

use carreto_error::Kind;
use carreto_store::{Location, ObjectUrl, Scheme};
use std::path::PathBuf;

fn object(text: &str) -> ObjectUrl {
    match text.parse() {
        Ok(Location::Object(url)) => url,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn paths_stay_paths() {
    for path in [
        "disk.raw",
        "/dev/vdb",
        "./s3://b/k",
        "./s3:",
        "a:b",
        "C:\\disk.vhd",
        "json:{}",
        "1x://y",
        "-",
        "nbd:x",
    ] {
        assert_eq!(path.parse::<Location>().unwrap(), Location::File(path.into()), "{path}");
    }
    let file = |text: &str| text.parse::<Location>().unwrap();
    assert_eq!(file("file:///a/b%20c"), Location::File(PathBuf::from("/a/b c")));
    assert_eq!(file("file://localhost/a"), Location::File(PathBuf::from("/a")));
    assert_eq!(file("file:/a"), Location::File(PathBuf::from("/a")));
}

#[test]
fn urls_have_a_bucket_and_a_key() {
    for (text, scheme, bucket, key) in [
        ("s3://images/a/b.raw", Scheme::S3, "images", "a/b.raw"),
        ("S3://images/b%20?x#y", Scheme::S3, "images", "b%20?x#y"),
        ("cos://img-125/k", Scheme::Cos, "img-125", "k"),
        ("gs://i.m_g/k", Scheme::Gs, "i.m_g", "k"),
        ("az://$web/k", Scheme::Az, "$web", "k"),
        ("http://h:8080/p/q?z=1#f", Scheme::Http, "h:8080", "p/q"),
        ("https://[::1]/p", Scheme::Https, "[::1]", "p"),
        ("memory:k", Scheme::Memory, "", "k"),
        ("memory://a/k", Scheme::Memory, "", "a/k"),
    ] {
        let url = object(text);
        assert_eq!((url.scheme(), url.bucket(), url.key()), (scheme, bucket, key), "{text}");
    }
}

#[test]
fn nonsense_is_refused() {
    for text in [
        "",
        "s3:",
        "s3:b/k",
        "s3://",
        "s3://b",
        "s3://b/",
        "s3:///k",
        "s3://b/a//k",
        "s3://b/../k",
        "s3://b/./k",
        "s3://b/a\nb",
        "s3://b/a\0",
        "s3://me:pw@b/k",
        "s3://-b/k",
        "s3://b b/k",
        "gs://b/k/",
        "oss://b/k",
        "http://",
        "http:///x",
        "https://h/a\nb",
        "https://me@h/x",
        "https://me:pw@h/x",
        "http:x",
        "file:",
        "file:a",
        "file://host/a",
        "memory:",
        "memory:a/../b",
        &format!("s3://b/{}", "k".repeat(1025)),
    ] {
        let error = text.parse::<Location>().unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{text:?}");
        assert!(!format!("{error:?}").contains("pw"), "{error:?}");
    }
}

#[test]
fn no_signature_is_shown() {
    let url = object("https://h/p/disk?X-Amz-Signature=canary&a=b");
    for text in
        [url.to_string(), format!("{url:?}"), format!("{:?}", Location::Object(url.clone()))]
    {
        assert_eq!(text, "https://h/p/disk?***");
    }
    assert_eq!(url.directory(), "https://h/p");
    assert_eq!(object("s3://b/k").directory(), "s3://b");
    assert_eq!(object("s3://b/a/k").directory(), "s3://b/a");
}

#[test]
fn names_below_a_prefix_stay_below() {
    let beneath = |directory: &str, name: &str| {
        ObjectUrl::beneath(directory, name).map(|url| url.to_string())
    };
    assert_eq!(beneath("s3://b/a", "x/y").unwrap(), "s3://b/a/x/y");
    assert_eq!(beneath("s3://b", "x").unwrap(), "s3://b/x");
    assert_eq!(beneath("https://h/a", "x y%2e/z?q#f").unwrap(), "https://h/a/x%20y%252e/z%3Fq%23f");
    assert_eq!(beneath("https://h", "x").unwrap(), "https://h/x");
    assert_eq!(beneath("memory://a", "x").unwrap(), "memory://a/x");
    for name in ["", "/x", "..", "../x", "a/../../x", "a//x", "./x", "x/", "a\nb"] {
        for directory in ["s3://b/a", "https://h/a", "memory://a"] {
            let error = ObjectUrl::beneath(directory, name).unwrap_err();
            assert_eq!(error.kind(), Kind::Unsafe, "{directory} {name:?}");
        }
    }
    for directory in ["/tmp", "", "https://h/a?sig=1", "file:///tmp", "nonsense://a"] {
        assert_eq!(
            ObjectUrl::beneath(directory, "x").unwrap_err().kind(),
            Kind::Usage,
            "{directory}"
        );
    }
}

#[test]
fn an_object_url_is_checked_when_it_is_put_together() {
    assert_eq!(ObjectUrl::new(Scheme::S3, "b", "k").unwrap().to_string(), "s3://b/k");
    assert!(ObjectUrl::new(Scheme::S3, "b/c", "k").is_err());
    assert!(ObjectUrl::new(Scheme::S3, "b", "../k").is_err());
    assert!(ObjectUrl::new(Scheme::Https, "h", "k").is_err());
}

#[test]
fn an_identity_outlives_its_signature_and_does_not_hold_it() {
    let identity = |text: &str| object(text).identity();
    let bare = identity("https://files.example.org/a/disk.qcow2");
    assert_eq!(bare, "https://files.example.org/a/disk.qcow2");
    for query in [
        "X-Amz-Algorithm=AWS4&X-Amz-Date=1&X-Amz-Security-Token=canary&x-amz-signature=canary",
        "AWSAccessKeyId=canary&Expires=17&Signature=canary",
        "sv=2026&sr=b&sp=r&se=2026&skoid=canary&sig=canary",
        "q-sign-algorithm=sha1&q-ak=canary&q-signature=canary&x-cos-security-token=canary",
        "X-Goog-Signature=canary&X-Goog-Expires=9",
        "access_token=canary",
    ] {
        assert_eq!(identity(&format!("https://files.example.org/a/disk.qcow2?{query}")), bare);
    }
    let one = identity("https://files.example.org/get?id=canary-1&v=2&X-Amz-Date=1");
    assert_eq!(one, identity("https://files.example.org/get?v=2&id=canary-1&X-Amz-Date=2"));
    assert_ne!(one, identity("https://files.example.org/get?id=canary-2&v=2"));
    // Without a signature of Azure these are parameters like any other.
    assert_ne!(identity("https://h/get?sr=1"), identity("https://h/get?sr=2"));
    assert!(!one.contains("canary"), "{one}");
    assert_eq!(identity("s3://images/disk?x=1"), "s3://images/disk?x=1");
}
