//! The uploads that are under way in a bucket.
//!
//! `ListMultipartUploads`, `ListParts` and `AbortMultipartUpload` of the Amazon S3 API reference.
//! Every answer may come from anybody: pages must bring something new, and keys, numbers and the
//! list as a whole have bounds.

use super::admin::{Reply, StoreAdmin};
use super::raw::{Answer, Ask, is_addressable};
use super::time;
use super::xml::{self, Element};
use carreto_error::{Error, Kind, Result};
use http::{Method, StatusCode};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// Uploads that a list has at most.
const MAX_UPLOADS: usize = 100_000;
/// Bytes of a key, an id or a marker; S3 allows 1,024 for a key.
const MAX_NAME: usize = 8 << 10;
/// Pages of a list of parts: 10,000 parts, 1,000 at a time, and some of a server with smaller ones.
const MAX_PART_PAGES: usize = 100;

/// An upload that is neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingUpload {
    /// The key of the object that it would become.
    pub key: String,
    /// The store's name for it.
    pub id: String,
    /// When it began, if the store says so.
    pub begun: Option<SystemTime>,
}

/// Uploads that are under way.
#[derive(Debug, Clone)]
pub struct PendingUploads {
    /// In the order of their keys.
    pub uploads: Vec<PendingUpload>,
    /// The server's time when it answered, or this machine's.
    pub now: SystemTime,
    /// Whether there are more than a list can have.
    pub more: bool,
}

/// What has been sent for an upload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SentParts {
    /// Their number.
    pub parts: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the last one came.
    pub last: Option<SystemTime>,
}

/// A list while its pages come in.
struct Listing {
    found: BTreeMap<(String, String), Option<SystemTime>>,
    now: Option<SystemTime>,
    more: bool,
    /// A server that lists uploads by the whole key only, or all of a bucket.
    by_key: bool,
}

impl StoreAdmin {
    /// The uploads under way in the place, and those of `keys`.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// `Denied`, `NotFound` for the bucket; `Unsupported` when the server has no such list;
    /// `Unavailable` when it makes no sense.
    pub async fn pending_uploads(&self, keys: &[String]) -> Result<PendingUploads> {
        let mut listing = Listing { found: BTreeMap::new(), now: None, more: false, by_key: false };
        self.list(self.place().folder(), &mut listing).await?;
        if listing.by_key {
            // MinIO takes the prefix for a key, and knows the rest of a bucket's uploads only from
            // its memory, which the caller's keys make up for after a restart.
            if !self.place().folder().is_empty() {
                self.list("", &mut listing).await?;
            }
            for key in keys {
                self.list(key, &mut listing).await?;
            }
        }
        let Listing { found, now, more, .. } = listing;
        let uploads = found.into_iter().map(|((key, id), begun)| PendingUpload { key, id, begun });
        let uploads = uploads.filter(|upload| self.place().holds(&upload.key)).collect();
        Ok(PendingUploads { uploads, now: now.unwrap_or_else(super::clock::now), more })
    }

    /// The uploads whose key begins with `prefix`, whatever the server understands by it.
    async fn list(&self, prefix: &str, listing: &mut Listing) -> Result<()> {
        let mut markers = None;
        loop {
            let mut ask = Ask::bucket(Method::GET).query("uploads", "");
            ask = ask.query("encoding-type", "url").query("max-uploads", "1000");
            if !prefix.is_empty() {
                ask = ask.query("prefix", prefix);
            }
            if let Some((key, id)) = &markers {
                ask = ask.query("key-marker", key).query("upload-id-marker", id);
            }
            let answer = self.demand(&ask, "list the uploads").await?;
            listing.now = listing.now.or_else(|| answer.date());
            listing.by_key |= answer.header("server").is_some_and(|name| name.contains("MinIO"));
            let page = self.page(&answer, "ListMultipartUploadsResult")?;
            let before = listing.found.len();
            let decode = is_encoded(&page);
            for upload in page.all("Upload") {
                let key = self.name(upload.text_of("Key"), decode)?;
                let id = self.name(upload.text_of("UploadId"), false)?;
                let begun = upload.text_of("Initiated").and_then(time::parse);
                listing.found.insert((key, id), begun);
            }
            if !is_truncated(&page) {
                return Ok(());
            }
            if listing.found.len() >= MAX_UPLOADS {
                listing.more = true;
                return Ok(());
            }
            if listing.found.len() == before {
                return Err(self.senseless("a page of the list of uploads brings nothing new"));
            }
            let key = self.name(page.text_of("NextKeyMarker"), decode)?;
            let id = self.name(page.text_of("NextUploadIdMarker"), false).unwrap_or_default();
            markers = Some((key, id));
        }
    }

    /// What has been sent for `upload`; `None` when it is gone.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// As [`Self::pending_uploads`].
    pub async fn sent_parts(&self, upload: &PendingUpload) -> Result<Option<SentParts>> {
        let mut sent = SentParts::default();
        let mut marker = 0;
        for _ in 0..MAX_PART_PAGES {
            let Some(page) = self.part_page(upload, marker).await? else {
                return Ok(None);
            };
            for part in page.all("Part") {
                let size: Option<u64> = part.text_of("Size").and_then(|text| text.parse().ok());
                let total = size.and_then(|size| sent.bytes.checked_add(size));
                sent.bytes = total.ok_or_else(|| self.senseless("a part has no size"))?;
                sent.parts += 1;
                sent.last = sent.last.max(part.text_of("LastModified").and_then(time::parse));
            }
            if !is_truncated(&page) {
                return Ok(Some(sent));
            }
            let next = page.text_of("NextPartNumberMarker").and_then(|text| text.parse().ok());
            let next = next.filter(|next: &u64| *next > marker);
            marker = next.ok_or_else(|| self.senseless("the list of parts does not go on"))?;
        }
        Err(self.senseless("the list of parts does not end"))
    }

    async fn part_page(&self, upload: &PendingUpload, marker: u64) -> Result<Option<Element>> {
        let mut ask = self.of_upload(Method::GET, upload)?.query("max-parts", "1000");
        if marker > 0 {
            ask = ask.query("part-number-marker", marker.to_string());
        }
        match self.ask(&ask).await {
            Ok(Reply::Done(answer)) => self.page(&answer, "ListPartsResult").map(Some),
            Ok(Reply::Refused(failure)) if is_gone(&failure) => Ok(None),
            Ok(Reply::Refused(failure)) => Err(self.place_error(failure.error, "list the parts")),
            Err(error) => Err(self.place_error(error, "list the parts")),
        }
    }

    /// Gives up `upload` and frees what was sent. `false` when it was gone already.
    ///
    /// Not cancel safe: a dropped call may or may not have aborted it.
    ///
    /// # Errors
    /// As [`Self::pending_uploads`].
    pub async fn abort_upload(&self, upload: &PendingUpload) -> Result<bool> {
        match self.ask(&self.of_upload(Method::DELETE, upload)?).await {
            Ok(Reply::Done(_)) => Ok(true),
            Ok(Reply::Refused(failure)) if is_gone(&failure) => Ok(false),
            Ok(Reply::Refused(failure)) => Err(self.place_error(failure.error, "abort the upload")),
            Err(error) => Err(self.place_error(error, "abort the upload")),
        }
    }

    fn of_upload(&self, method: Method, upload: &PendingUpload) -> Result<Ask> {
        if !is_addressable(&upload.key) {
            let text = "the key of the upload has a form that cannot be addressed";
            return Err(Error::new(Kind::Unsupported, text)
                .path(self.place().to_string())
                .remedied_by("abort it with the store's own tools"));
        }
        Ok(Ask::object(method, &upload.key).query("uploadId", upload.id.as_str()))
    }

    /// The document in `answer`, whose root has that name.
    pub(super) fn page(&self, answer: &Answer, root: &str) -> Result<Element> {
        let page = xml::parse(&answer.body).map_err(|error| self.senseless(error.to_string()))?;
        if page.name != root {
            return Err(self.senseless(format!("the server answered {:?}, not {root}", page.name)));
        }
        Ok(page)
    }

    fn name(&self, text: Option<&str>, decode: bool) -> Result<String> {
        let name = text.map(|text| if decode { decoded(text) } else { text.to_owned() });
        name.filter(|name| !name.is_empty() && name.len() <= MAX_NAME).ok_or_else(|| {
            self.senseless("the list of uploads has a name that is missing, empty or too long")
        })
    }
}

fn is_gone(failure: &super::failure::Failure) -> bool {
    failure
        .answer
        .as_ref()
        .is_some_and(|answer| answer.status == StatusCode::NOT_FOUND && !answer.is("NoSuchBucket"))
}

fn is_truncated(page: &Element) -> bool {
    page.text_of("IsTruncated").is_some_and(|text| text.trim() == "true")
}

fn is_encoded(page: &Element) -> bool {
    page.text_of("EncodingType").is_some_and(|text| text.trim() == "url")
}

/// A name that was asked for with `encoding-type=url`, in which a plus sign is a space.
fn decoded(text: &str) -> String {
    let plain = text.replace('&', "%26").replace('=', "%3D");
    let first = url::form_urlencoded::parse(plain.as_bytes()).next();
    first.map(|(name, _)| name.into_owned()).unwrap_or_default()
}
