//! Looking after a store: lists of uploads, probes, and checksums of parts, against honest servers
//! and others.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation of a test is a panic"
)]
#![allow(dead_code, reason = "not every test needs all of the support")]

mod object_support;

use bytes::Bytes;
use carreto_error::Kind;
use carreto_store::{
    Checksum, ObjectUpload, PendingUpload, StoreAdmin, StoreProbe, StoreSettings, Verdict,
};
use object_support::{Case, FaultServer, Request, S3Server, Step, answer, settings, stores, url};
use std::time::Duration;

const CREATED: &[u8] =
    b"<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>";

fn admin(flags: StoreSettings, place: &str) -> StoreAdmin {
    stores(flags).admin(&place.parse().unwrap()).unwrap()
}

fn page(uploads: &str, more: &str) -> Vec<Step> {
    let text = format!(
        "<?xml version=\"1.0\"?><ListMultipartUploadsResult xmlns=\"x\">\
         <EncodingType>url</EncodingType>{uploads}{more}</ListMultipartUploadsResult>"
    );
    answer("200 OK", &[("date", "Mon, 23 Nov 2026 12:00:00 GMT")], text.as_bytes())
}

fn upload(key: &str, id: &str) -> String {
    format!(
        "<Upload><Key>{key}</Key><UploadId>{id}</UploadId>\
         <Initiated>2026-11-22T12:00:00.000Z</Initiated></Upload>"
    )
}

#[tokio::test]
async fn a_list_of_uploads_is_read_page_by_page() {
    let case = Case::raw(
        |_| {},
        |_, request: &Request| {
            let next = "<IsTruncated>true</IsTruncated><NextKeyMarker>web/a+b%26</NextKeyMarker>\
                    <NextUploadIdMarker>i/1</NextUploadIdMarker>";
            if !request.target.contains("uploads=") {
                return None;
            }
            if request.target.contains("key-marker=web%2Fa%20b%26&upload-id-marker=i%2F1") {
                return Some(page(&(upload("web/c", "i3") + &upload("website", "i4")), ""));
            }
            Some(page(&(upload("web/a+b%26", "i/1") + &upload("web/a+b%26", "i2")), next))
        },
    )
    .await;
    let admin = case.stores.admin(&"s3://images/web".parse().unwrap()).unwrap();
    let list = admin.pending_uploads(&[]).await.unwrap();
    let found: Vec<_> = list.uploads.iter().map(|u| (u.key.as_str(), u.id.as_str())).collect();
    assert_eq!(found, [("web/a b&", "i/1"), ("web/a b&", "i2"), ("web/c", "i3")]);
    let age = list.now.duration_since(list.uploads[0].begun.unwrap()).unwrap();
    assert_eq!(age, Duration::from_hours(24), "by the server's clock");
    assert!(!list.more);
    assert!(case.server.requests()[0].target.contains("prefix=web"));
}

#[tokio::test]
async fn lists_that_make_no_sense_are_refused() {
    let endless = "<IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker>";
    let long = upload(&"k".repeat(100_000), "i");
    for document in [
        page(&upload("k", "i"), endless),
        page(&upload("", "i"), ""),
        page("<Upload><Key>k</Key></Upload>", ""),
        page(&long, ""),
        answer("200 OK", &[], b"<html>not S3</html>"),
        answer("200 OK", &[], b"<!DOCTYPE x><ListMultipartUploadsResult/>"),
        answer("200 OK", &[], &vec![b'<'; 9 << 20]),
        answer("200 OK", &[], b""),
    ] {
        let server = FaultServer::start(Vec::new(), move |_, _| Some(document.clone())).await;
        let mut flags = settings(&server.endpoint);
        flags.retry_for = Some(Duration::from_millis(50));
        let error = admin(flags, "s3://images").pending_uploads(&[]).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    }
}

#[tokio::test]
async fn an_upload_that_cannot_be_aborted_says_why() {
    let server = FaultServer::start(Vec::new(), |_, request: &Request| {
        assert_eq!(request.method, "DELETE");
        Some(match request.target.as_str() {
            "/images/gone?uploadId=i" => answer("404 Not Found", &[], b"<Code>NoSuchUpload</Code>"),
            "/images/kept?uploadId=i" => answer("403 Forbidden", &[], b"<Code>AccessDenied</Code>"),
            _ => answer("204 No Content", &[], b""),
        })
    })
    .await;
    let admin = admin(settings(&server.endpoint), "s3://images");
    let named = |key: &str| PendingUpload { key: key.to_owned(), id: "i".to_owned(), begun: None };
    assert!(admin.abort_upload(&named("freed")).await.unwrap());
    assert!(!admin.abort_upload(&named("gone")).await.unwrap());
    let error = admin.abort_upload(&named("kept")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    // An address would name another object.
    let error = admin.abort_upload(&named("a/../kept")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn stores_that_do_not_speak_s3_are_refused_with_a_remedy() {
    let stores = stores(StoreSettings::default());
    for place in ["gs://images", "az://images/a", "https://images/a", "memory:a"] {
        let error = stores.admin(&place.parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{place}");
    }
}

#[tokio::test]
async fn a_probe_notices_promises_that_are_not_kept() {
    let server = FaultServer::start(Vec::new(), |_, request: &Request| {
        Some(match request.method.as_str() {
            "POST" => answer("501 Not Implemented", &[], b""),
            _ => answer("200 OK", &[("etag", "\"x\"")], b""),
        })
    })
    .await;
    let probe = StoreProbe::new(&admin(settings(&server.endpoint), "s3://images/web"));
    probe.run().await.unwrap();
    assert!(probe.clean_up().await.is_empty());
    let findings = probe.findings();
    let verdict = |name| findings.iter().find(|f| f.name == name).unwrap().verdict;
    for name in [
        "range",
        "range_suffix",
        "read_if_match",
        "write_if_none_match",
        "write_if_match",
        "put_crc64nvme",
        "put_sha256",
    ] {
        assert_eq!(verdict(name), Verdict::Ignored, "{name}");
    }
    assert_eq!(verdict("write"), Verdict::Yes);
    for name in ["multipart", "etag_md5", "versioning"] {
        assert_eq!(verdict(name), Verdict::No, "{name}");
    }
    let requests = server.requests();
    let below = |r: &Request| r.target.starts_with("/images/web/.carreto-probe-");
    assert!(requests.iter().all(below), "a key that it did not make");
    let deleted = requests.iter().filter(|request| request.method == "DELETE").count();
    assert!(deleted >= 1, "nothing was removed");
}

#[tokio::test]
async fn a_probe_of_a_real_server_removes_what_it_made() {
    let server = S3Server::start("images").await;
    let probe = StoreProbe::new(&admin(settings(&server.endpoint), "s3://images"));
    probe.run().await.unwrap();
    assert_eq!(probe.clean_up().await, Vec::<String>::new());
    let findings = probe.findings();
    let verdict = |name| findings.iter().find(|f| f.name == name).unwrap().verdict;
    for name in ["write", "head", "range", "write_if_none_match", "multipart", "clock"] {
        assert_eq!(verdict(name), Verdict::Yes, "{name}");
    }
}

#[tokio::test]
async fn who_may_not_write_is_told_so() {
    let server = FaultServer::start(Vec::new(), |_, _| {
        Some(answer("403 Forbidden", &[], b"<Code>AccessDenied</Code>"))
    })
    .await;
    let probe = StoreProbe::new(&admin(settings(&server.endpoint), "s3://images"));
    probe.run().await.unwrap();
    assert_eq!(probe.findings()[0].verdict, Verdict::Denied);
}

/// A server that takes uploads; `part` answers each part.
async fn parts(part: impl Fn(usize, &Request) -> Vec<Step> + Send + Sync + 'static) -> FaultServer {
    let count = std::sync::atomic::AtomicUsize::new(0);
    FaultServer::start(Vec::new(), move |_, request: &Request| {
        Some(if request.method == "POST" {
            answer("200 OK", &[], CREATED)
        } else {
            let number = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            part(number, request)
        })
    })
    .await
}

async fn begin(server: &FaultServer, checksum: Option<Checksum>) -> ObjectUpload {
    let mut flags = settings(&server.endpoint);
    flags.checksum = checksum;
    stores(flags).handle(&url("s3://images/disk")).unwrap().begin_upload().await.unwrap()
}

const SUM: &str = "x-amz-checksum-crc64nvme";

fn taken() -> Vec<Step> {
    answer("200 OK", &[("etag", "\"e\"")], b"")
}

#[tokio::test]
async fn a_checksum_that_is_refused_is_left_out_from_then_on() {
    let server = parts(|_, request| match request.header(SUM) {
        Some(_) => answer("400 Bad Request", &[], b"<Code>InvalidRequest</Code>"),
        None => taken(),
    })
    .await;
    let upload = begin(&server, None).await;
    assert_eq!(upload.id(), "crc64nvme:u1");
    assert_eq!(ObjectUpload::id_in_store(upload.id()), "u1");
    for index in 0..2 {
        upload.put_part(index, Bytes::from_static(b"123456789")).await.unwrap();
    }
    let sums: Vec<_> = server.requests().iter().skip(1).map(|r| r.header(SUM).is_some()).collect();
    assert_eq!(sums, [true, false, false]);
    // Whoever asked for the checksum wants it.
    let upload = begin(&server, Some(Checksum::Crc64Nvme)).await;
    let error = upload.put_part(0, Bytes::from_static(b"1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Usage, "{error}");
}

#[tokio::test]
async fn a_store_without_checksums_is_asked_for_none() {
    let server = FaultServer::start(Vec::new(), |_, request: &Request| {
        Some(match request.header("x-amz-checksum-algorithm") {
            Some(_) => answer("501 Not Implemented", &[], b"<Code>NotImplemented</Code>"),
            None if request.method == "POST" => answer("200 OK", &[], CREATED),
            None => taken(),
        })
    })
    .await;
    let upload = begin(&server, None).await;
    assert_eq!(upload.id(), "u1");
    upload.put_part(0, Bytes::from_static(b"1")).await.unwrap();
    assert_eq!(server.requests()[2].header(SUM), None);
}

#[tokio::test]
async fn the_checksum_of_an_upload_outlives_the_settings() {
    let server = parts(|_, _| taken()).await;
    let id = begin(&server, None).await.id().to_owned();
    for (id, expected) in [(id.as_str(), true), ("u1", false)] {
        let handle = stores(settings(&server.endpoint)).handle(&url("s3://images/disk")).unwrap();
        let upload = handle.resume_upload(id).unwrap();
        assert_eq!(upload.id(), id);
        upload.put_part(0, Bytes::from_static(b"123456789")).await.unwrap();
        let last = server.requests().pop().unwrap();
        // The check value of CRC-64/NVME, big endian, in Base64.
        assert_eq!(last.header(SUM), expected.then_some("rosUhgp5mIg="), "{id}");
        assert!(last.target.contains("uploadId=u1"), "{}", last.target);
    }
}

#[tokio::test]
async fn bytes_that_were_damaged_on_the_way_are_sent_again() {
    for code in ["BadDigest", "XAmzContentChecksumMismatch"] {
        let body = format!("<Error><Code>{code}</Code></Error>");
        let damaged = move || answer("400 Bad Request", &[], body.as_bytes());
        let again = damaged.clone();
        let once = parts(move |n, _| if n == 0 { damaged() } else { taken() }).await;
        let upload = begin(&once, None).await;
        upload.put_part(0, Bytes::from_static(b"1")).await.unwrap();
        assert!(once.requests().iter().skip(1).all(|r| r.header(SUM).is_some()));
        let always = parts(move |_, _| again()).await;
        let upload = begin(&always, None).await;
        let error = upload.put_part(0, Bytes::from_static(b"1")).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Mismatch, "{error}");
        assert_eq!(always.requests().len(), 1 + 5, "a few times, with the checksum");
    }
}

#[tokio::test]
async fn every_checksum_makes_the_object_on_a_real_server() {
    let server = S3Server::start("images").await;
    for checksum in [Checksum::Auto, Checksum::Crc64Nvme, Checksum::Sha256, Checksum::None] {
        let mut flags = settings(&server.endpoint);
        flags.checksum = Some(checksum);
        let handle = stores(flags).handle(&url("s3://images/disk")).unwrap();
        let upload = handle.begin_upload().await.unwrap();
        let part = upload.put_part(0, Bytes::from_static(b"123456789")).await.unwrap();
        let facts = upload.complete(&[part], 9, None).await.unwrap();
        assert_eq!(facts.size, 9, "{checksum}");
    }
}
