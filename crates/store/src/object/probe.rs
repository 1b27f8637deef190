//! What a server does, found out by doing it: servers that speak S3 differ in what they promise,
//! and some answer "done" to conditions and checksums that they never looked at.
//!
//! Everything happens under a random key, and everything made is noted before the request that
//! makes it, so that it can be removed whatever happens on the way.

use super::admin::{Reply, StoreAdmin, shown};
use super::clock;
use super::failure::Failure;
use super::raw::{Answer, Ask};
use super::upload::MIN_PART;
use super::uploads::{PendingUpload, SentParts};
use carreto_error::{Error, Kind, Result};
use http::{Method, StatusCode};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The object that is written, and its digests: MD5 in hexadecimal, the others in Base64.
const BODY: &[u8] = b"carreto probes this store\n";
const BODY_MD5: &str = "c0efdc7f949ebb172e05e823609c8186";
/// A header, the algorithm, the right value, and that of other bytes.
const CHECKSUMS: [(&str, &str, &str, &str, &str, &str); 2] = [
    (
        "put_crc64nvme",
        "part_crc64nvme",
        "x-amz-checksum-crc64nvme",
        "CRC64NVME",
        "x3wNyrt1y9A=",
        "Mk5e/BsRoGA=",
    ),
    (
        "put_sha256",
        "part_sha256",
        "x-amz-checksum-sha256",
        "SHA256",
        "HhxgOxahSVAoKLKArw3gxVUvavbByeKQFHmnt+BkjfU=",
        "/j5d7atgXjhNY8yxLl35IG783EXDibvRbyJ6+Agicd8=",
    ),
];
const NO_ETAG: &str = "\"00000000000000000000000000000000\"";
/// How long a failing request is tried again: a server that cannot do something may say so with
/// 500.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a step found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The server does it.
    Yes,
    /// The server refuses it.
    No,
    /// The server says that it did it, and did not.
    Ignored,
    /// The credentials do not allow it.
    Denied,
    /// Something that it needs is missing.
    NotTested,
}

impl Verdict {
    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Ignored => "ignored",
            Self::Denied => "denied",
            Self::NotTested => "not tested",
        }
    }
}

/// The outcome of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The step; stable.
    pub name: &'static str,
    /// What was found.
    pub verdict: Verdict,
    /// What the server said, or how much.
    pub detail: String,
}

/// What was made and has to be removed.
#[derive(Debug, Default)]
struct Made {
    /// Keys with the versions that are known.
    objects: Vec<(String, Option<String>)>,
    uploads: Vec<PendingUpload>,
    findings: Vec<Finding>,
}

/// A probe of a place. [`Self::clean_up`] belongs behind [`Self::run`], also when that failed or
/// was dropped.
#[derive(Debug)]
pub struct StoreProbe {
    admin: StoreAdmin,
    folder: String,
    made: Mutex<Made>,
}

type Found = (Verdict, String);

impl StoreProbe {
    /// Probes `admin`'s place. Makes no request.
    pub fn new(admin: &StoreAdmin) -> Self {
        let name = format!(".carreto-probe-{:016x}{:016x}", clock::random(), clock::random());
        let folder = admin.place().below(&name);
        Self { admin: admin.patient_for(PATIENCE), folder, made: Mutex::default() }
    }

    /// What was found so far.
    pub fn findings(&self) -> Vec<Finding> {
        self.made().findings.clone()
    }

    /// Takes all steps. May be dropped at any time.
    ///
    /// # Errors
    /// When the server cannot be reached, does not accept the credentials at all, or has no such
    /// bucket.
    pub async fn run(&self) -> Result<()> {
        let object = self.key("object");
        let put = self.ask(Ask::object(Method::PUT, &object).body(BODY)).await?;
        let mut etag = None;
        let found = match &put {
            Reply::Done(answer) => {
                etag = answer.header("etag");
                self.note("clock", skew(answer));
                self.note("versioning", versions(answer));
                (Verdict::Yes, String::new())
            }
            Reply::Refused(failure) if is_no_access(failure) => return put.done().map(drop),
            Reply::Refused(failure) => refusal(failure),
        };
        let written = found.0 == Verdict::Yes;
        self.note("write", found);
        if written {
            self.note("etag_md5", etag_form(etag.as_deref()));
            self.reading(&object).await?;
            self.conditions(&object, etag.as_deref()).await?;
            for (name, _, header, _, right, wrong) in CHECKSUMS {
                let put = || Ask::object(Method::PUT, &object).body(BODY);
                let found = self.checksum(put().header(header, right), put().header(header, wrong));
                self.note(name, found.await?);
            }
            self.multipart().await?;
        }
        Ok(())
    }

    async fn reading(&self, key: &str) -> Result<()> {
        let head = match self.ask(Ask::object(Method::HEAD, key)).await? {
            Reply::Done(answer) => {
                let right = answer.header("content-length") == Some(BODY.len().to_string());
                (if right { Verdict::Yes } else { Verdict::No }, String::new())
            }
            Reply::Refused(failure) => refusal(&failure),
        };
        self.note("head", head);
        let last = BODY.len() - 4;
        for (name, range, wanted) in
            [("range", "bytes=2-5", &BODY[2..6]), ("range_suffix", "bytes=-4", &BODY[last..])]
        {
            let get = Ask::object(Method::GET, key).header("range", range);
            let found = match self.ask(get).await? {
                Reply::Done(answer) if answer.body == wanted => (Verdict::Yes, String::new()),
                Reply::Done(_) => (Verdict::No, "other bytes came".to_owned()),
                Reply::Refused(failure) => match &failure.bad {
                    Some(bad) => (Verdict::Ignored, self.admin.clean(&bad.to_string())),
                    None => refusal(&failure),
                },
            };
            self.note(name, found);
        }
        let get = Ask::object(Method::GET, key).header("if-match", NO_ETAG);
        let found = condition(self.ask(get).await?);
        self.note("read_if_match", found);
        Ok(())
    }

    /// Writes the same bytes again, so that nothing changes where a condition is ignored.
    async fn conditions(&self, key: &str, etag: Option<&str>) -> Result<()> {
        let put = || Ask::object(Method::PUT, key).body(BODY);
        let found = condition(self.ask(put().header("if-none-match", "*")).await?);
        self.note("write_if_none_match", found);
        let mut found = condition(self.ask(put().header("if-match", NO_ETAG)).await?);
        if let (Verdict::Yes, Some(etag)) = (found.0, etag)
            && let Reply::Refused(failure) = self.ask(put().header("if-match", etag)).await?
        {
            found = (Verdict::No, format!("also refused when it holds: {}", refusal(&failure).1));
        }
        self.note("write_if_match", found);
        Ok(())
    }

    /// Sends the right checksum and then a wrong one.
    async fn checksum(&self, right: Ask, wrong: Ask) -> Result<Found> {
        if let Reply::Refused(failure) = self.ask(right).await? {
            return Ok(refusal(&failure));
        }
        Ok(match self.ask(wrong).await? {
            Reply::Done(_) => (Verdict::Ignored, "a wrong one was accepted".to_owned()),
            Reply::Refused(failure) => (Verdict::Yes, refusal(&failure).1),
        })
    }

    async fn multipart(&self) -> Result<()> {
        let upload = match self.begin("parts", None).await? {
            Ok(upload) => upload,
            Err(found) => {
                self.note("multipart", found);
                return Ok(());
            }
        };
        let first = vec![0; usize::try_from(MIN_PART).unwrap_or_default()];
        let parts = [self.part(&upload, 1, first).await?, self.part(&upload, 2, BODY).await?];
        let [Ok(first), Ok(second)] = parts else {
            let failed = parts.into_iter().find_map(std::result::Result::err);
            self.note("multipart", failed.unwrap_or((Verdict::No, String::new())));
            return Ok(());
        };
        let listed = self.admin.sent_parts(&upload).await;
        self.note("list_parts", of_list(listed.map(|sent| sent.is_some_and(|s| s.parts == 2))));
        let keys = [upload.key.clone()];
        let listed = self.admin.pending_uploads(&keys).await;
        let listed = listed.map(|list| list.uploads.iter().any(|found| found.id == upload.id));
        self.note("list_uploads", of_list(listed));
        let tags = [first, second];
        let (found, etag) = self.complete(&upload, &tags).await?;
        let whole = found.0 == Verdict::Yes;
        self.note("multipart", found);
        if whole {
            let is_numbered =
                etag.as_deref().is_some_and(|tag| tag.trim_matches('"').ends_with("-2"));
            let verdict = if is_numbered { Verdict::Yes } else { Verdict::No };
            self.note("etag_parts", (verdict, etag.unwrap_or_default()));
            let (again, _) = self.complete(&upload, &tags).await?;
            self.note("complete_again", again);
        }
        self.small_parts().await?;
        self.abort().await?;
        for (_, name, header, algorithm, right, wrong) in CHECKSUMS {
            let found = self.part_checksum(header, algorithm, right, wrong).await?;
            self.note(name, found);
        }
        Ok(())
    }

    async fn small_parts(&self) -> Result<()> {
        let found = match self.begin("small", None).await? {
            Err(found) => found,
            Ok(upload) => {
                let mut tags = Vec::new();
                for number in 1..=2 {
                    tags.extend(self.part(&upload, number, BODY).await?);
                }
                match self.complete(&upload, &tags).await?.0 {
                    (Verdict::Yes, _) => (Verdict::No, "smaller parts are accepted".to_owned()),
                    (Verdict::No, detail) => (Verdict::Yes, detail),
                    other => other,
                }
            }
        };
        self.note("small_parts_refused", found);
        Ok(())
    }

    async fn abort(&self) -> Result<()> {
        let found = match self.begin("aborted", None).await? {
            Err(found) => found,
            Ok(upload) => {
                let _stored = self.part(&upload, 1, BODY).await?;
                match self.admin.abort_upload(&upload).await {
                    Err(error) => of_error(&error),
                    Ok(_) => match self.after_abort(&upload).await {
                        Ok(None) => (Verdict::Yes, String::new()),
                        Ok(Some(_)) => (Verdict::Ignored, "the parts are still there".to_owned()),
                        Err(error) => (Verdict::NotTested, error.to_string()),
                    },
                }
            }
        };
        self.note("abort", found);
        Ok(())
    }

    async fn after_abort(&self, upload: &PendingUpload) -> Result<Option<SentParts>> {
        self.ended(upload);
        // Some servers have no access to give to what is gone.
        match self.admin.sent_parts(upload).await {
            Err(error) if error.kind() == Kind::Denied => Ok(None),
            Ok(Some(sent)) if sent.parts == 0 => Ok(None),
            outcome => outcome,
        }
    }

    /// The upload needs no further abort, which some servers would refuse.
    fn ended(&self, upload: &PendingUpload) {
        self.made().uploads.retain(|known| known != upload);
    }

    async fn part_checksum(
        &self,
        header: &'static str,
        algorithm: &str,
        right: &str,
        wrong: &str,
    ) -> Result<Found> {
        let upload = match self.begin(algorithm, Some(algorithm)).await? {
            Ok(upload) => upload,
            Err(found) => return Ok(found),
        };
        let put = |value: &str| part(&upload, 1).body(BODY).header(header, value);
        self.checksum(put(right), put(wrong)).await
    }

    async fn begin(
        &self,
        name: &str,
        algorithm: Option<&str>,
    ) -> Result<Result<PendingUpload, Found>> {
        let key = self.key(name);
        let mut ask = Ask::object(Method::POST, &key).query("uploads", "");
        if let Some(algorithm) = algorithm {
            ask = ask.header("x-amz-checksum-algorithm", algorithm);
        }
        let answer = match self.ask(ask).await? {
            Reply::Done(answer) => answer,
            Reply::Refused(failure) => return Ok(Err(refusal(&failure))),
        };
        let page = self.admin.page(&answer, "InitiateMultipartUploadResult")?;
        let id = page.text_of("UploadId").unwrap_or_default().to_owned();
        let upload = PendingUpload { key, id, begun: None };
        self.made().uploads.push(upload.clone());
        Ok(Ok(upload))
    }

    async fn part(
        &self,
        upload: &PendingUpload,
        number: u32,
        body: impl Into<bytes::Bytes>,
    ) -> Result<Result<String, Found>> {
        Ok(match self.ask(part(upload, number).body(body)).await? {
            Reply::Done(answer) => Ok(answer.header("etag").unwrap_or_default()),
            Reply::Refused(failure) => Err(refusal(&failure)),
        })
    }

    async fn complete(
        &self,
        upload: &PendingUpload,
        tags: &[String],
    ) -> Result<(Found, Option<String>)> {
        let mut body = String::from("<CompleteMultipartUpload>");
        for (tag, number) in tags.iter().zip(1..) {
            let tag: String =
                tag.chars().filter(|c| c.is_ascii_alphanumeric() || "-_\"".contains(*c)).collect();
            let number = format!("<PartNumber>{number}</PartNumber>");
            body.extend(["<Part>", &number, "<ETag>", &tag, "</ETag></Part>"]);
        }
        body += "</CompleteMultipartUpload>";
        let ask = Ask::object(Method::POST, &upload.key).query("uploadId", upload.id.as_str());
        let answer = match self.ask(ask.body(body)).await? {
            Reply::Done(answer) => answer,
            Reply::Refused(failure) => return Ok((refusal(&failure), None)),
        };
        // An error may come after the head of a success.
        Ok(match super::xml::parse(&answer.body) {
            Ok(page) if page.name == "CompleteMultipartUploadResult" => {
                self.ended(upload);
                ((Verdict::Yes, String::new()), page.text_of("ETag").map(str::to_owned))
            }
            Ok(page) => {
                let code = page.text_of("Code").unwrap_or(&page.name);
                ((Verdict::No, self.admin.clean(&format!("200 with {code}"))), None)
            }
            Err(error) => ((Verdict::No, error.to_string()), None),
        })
    }

    /// Makes a request and notes what it may make.
    async fn ask(&self, ask: Ask) -> Result<Reply> {
        let writes = ask.writes().map(str::to_owned);
        if let Some(key) = &writes {
            self.made().add(key, None);
        }
        let reply = self.admin.ask(&ask).await?;
        if let (Some(key), Reply::Done(answer)) = (&writes, &reply)
            && let Some(version) = answer.header("x-amz-version-id")
        {
            self.made().add(key, Some(version));
        }
        Ok(reply)
    }

    /// Removes everything that was made. Returns what could not be removed.
    pub async fn clean_up(&self) -> Vec<String> {
        let (uploads, objects) = {
            let mut made = self.made();
            (std::mem::take(&mut made.uploads), std::mem::take(&mut made.objects))
        };
        let step = |found: &Finding| found.name == "abort" && found.verdict == Verdict::Yes;
        let may_abort = self.findings().iter().any(step);
        let mut left = Vec::new();
        for upload in uploads {
            // Who may abort one upload may abort all: s3s-fs refuses access to what is gone.
            let aborted = self.admin.abort_upload(&upload).await;
            if aborted.is_err_and(|error| !(may_abort && error.kind() == Kind::Denied)) {
                left.push(format!("the upload {} of {}", upload.id, upload.key));
            }
        }
        for (key, version) in objects {
            let mut ask = Ask::object(Method::DELETE, &key);
            if let Some(version) = &version {
                ask = ask.query("versionId", version.as_str());
            }
            match self.admin.ask(&ask).await {
                Ok(Reply::Done(answer)) => {
                    let marker = answer.header("x-amz-delete-marker").is_some();
                    if let (None, true, Some(id)) =
                        (&version, marker, answer.header("x-amz-version-id"))
                    {
                        let ask = Ask::object(Method::DELETE, &key).query("versionId", id);
                        let _best_effort = self.admin.ask(&ask).await;
                    }
                }
                Ok(Reply::Refused(failure)) if status(&failure) == Some(StatusCode::NOT_FOUND) => {}
                _ => left.push(key),
            }
        }
        left
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{}", self.folder, name.to_ascii_lowercase())
    }

    fn note(&self, name: &'static str, (verdict, detail): Found) {
        self.made().findings.push(Finding { name, verdict, detail });
    }

    fn made(&self) -> std::sync::MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Made {
    fn add(&mut self, key: &str, version: Option<String>) {
        let object = (key.to_owned(), version);
        if !self.objects.contains(&object) {
            self.objects.push(object);
        }
    }
}

fn part(upload: &PendingUpload, number: u32) -> Ask {
    Ask::object(Method::PUT, &upload.key)
        .query("partNumber", number.to_string())
        .query("uploadId", upload.id.as_str())
}

fn status(failure: &Failure) -> Option<StatusCode> {
    failure.answer.as_ref().map(|answer| answer.status)
}

/// Whether nothing could be found out: no bucket, or nobody who may ask.
fn is_no_access(failure: &Failure) -> bool {
    const CODES: [&str; 5] = [
        "NoSuchBucket",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "RequestTimeTooSkewed",
        "AuthorizationHeaderMalformed",
    ];
    failure.answer.as_ref().is_none_or(|answer| {
        let known = CODES.iter().any(|code| answer.is(code));
        let status = answer.status;
        known || status.is_redirection() || matches!(status.as_u16(), 401 | 404 | 407)
    })
}

fn refusal(failure: &Failure) -> Found {
    match &failure.answer {
        Some(answer) => {
            let denied = matches!(answer.status.as_u16(), 401 | 403);
            (if denied { Verdict::Denied } else { Verdict::No }, shown(answer))
        }
        None => (Verdict::No, failure.error.to_string()),
    }
}

/// A condition that does not hold was sent.
fn condition(reply: Reply) -> Found {
    match reply {
        Reply::Done(_) => (Verdict::Ignored, "done although it does not hold".to_owned()),
        Reply::Refused(failure) => {
            let found = refusal(&failure);
            let wanted = [StatusCode::PRECONDITION_FAILED, StatusCode::CONFLICT];
            let kept = status(&failure).is_some_and(|status| wanted.contains(&status));
            if kept { (Verdict::Yes, found.1) } else { found }
        }
    }
}

fn of_list(listed: Result<bool>) -> Found {
    match listed {
        Ok(true) => (Verdict::Yes, String::new()),
        Ok(false) => (Verdict::No, "it is not in the list".to_owned()),
        Err(error) => of_error(&error),
    }
}

fn of_error(error: &Error) -> Found {
    let denied = error.kind() == Kind::Denied;
    (if denied { Verdict::Denied } else { Verdict::No }, error.to_string())
}

fn skew(answer: &Answer) -> Found {
    const NOTABLE: u64 = 300;
    let Some(date) = answer.date() else {
        return (Verdict::NotTested, "the server does not say its time".to_owned());
    };
    let (seconds, side) = match answer.received.duration_since(date) {
        Ok(ahead) => (ahead.as_secs(), "ahead of"),
        Err(behind) => (behind.duration().as_secs(), "behind"),
    };
    let verdict = if seconds < NOTABLE { Verdict::Yes } else { Verdict::No };
    (verdict, format!("this machine is {seconds} s {side} the server"))
}

fn versions(answer: &Answer) -> Found {
    let versioned = answer.header("x-amz-version-id").is_some_and(|id| id != "null");
    (if versioned { Verdict::Yes } else { Verdict::No }, String::new())
}

fn etag_form(etag: Option<&str>) -> Found {
    match etag.map(|etag| etag.trim_matches('"')) {
        None => (Verdict::No, "there is no ETag".to_owned()),
        Some(etag) if etag.eq_ignore_ascii_case(BODY_MD5) => (Verdict::Yes, String::new()),
        Some(etag) => (Verdict::No, etag.to_owned()),
    }
}
