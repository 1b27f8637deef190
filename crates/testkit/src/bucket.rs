//! An S3 server in the memory of the test that loses answers, forgets uploads and flips bits where
//! its script says so.
//!
//! It speaks just enough of the protocol for one client, checks no signature, and writes to the
//! socket itself, since a proper library refuses to send what must be tested.

use md5::{Digest as _, Md5};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Begin an upload in parts.
    Create,
    /// Take the part of this number, from 1.
    Part(u32),
    /// Make the object of its parts.
    Complete,
    /// Free the parts.
    Abort,
    /// Take a whole object.
    Put,
    /// Say what an object is.
    Head,
    /// Give bytes of an object.
    Get,
}

/// A request as the script sees it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What it asks for.
    pub op: Op,
    /// The key of the object.
    pub key: String,
    /// The upload, where it is about one.
    pub upload: Option<String>,
    /// How many requests came before, of any kind.
    pub number: usize,
    /// How many requests for the same came before.
    pub repeats: usize,
    /// The value of the authorization header.
    pub authorization: String,
}

/// How a request is answered.
#[derive(Debug, Clone)]
pub enum Reply {
    /// As it should be.
    Honest,
    /// With this status, these further header lines (each ended by CR LF) and this body; nothing
    /// is done.
    Refuse(&'static str, &'static str, &'static str),
    /// It is done, but the connection breaks before the answer.
    Lose,
    /// The connection breaks before anything is done.
    Break,
    /// One bit of this byte of the body is another one than was sent.
    Flip(usize),
    /// The upload has expired: it is gone, and the answer says so.
    Expire,
    /// Another writer puts this under the name first.
    Before(Vec<u8>),
}

/// An object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its `ETag` without quotes.
    pub etag: String,
}

#[derive(Debug, Default)]
struct Kept {
    objects: BTreeMap<String, Stored>,
    /// Parts by upload and number, with their tags.
    uploads: BTreeMap<String, BTreeMap<u32, Stored>>,
    log: Vec<Asked>,
    begun: usize,
}

/// The server; it serves until the process ends.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// `http://host:port`
    pub endpoint: String,
    kept: Arc<Mutex<Kept>>,
}

type Script = dyn Fn(&Asked) -> Reply + Send + Sync;

impl Bucket {
    /// Starts a server that answers as `script` says. Addresses are path-style; any bucket exists.
    pub fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let bucket = Self { endpoint, kept: Arc::default() };
        let (serving, script): (_, Arc<Script>) = (bucket.clone(), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (serving, script) = (serving.clone(), Arc::clone(&script));
                // A client that goes away is part of the tests.
                std::thread::spawn(move || drop(serving.serve(&stream, &*script)));
            }
        });
        bucket
    }

    /// The object `bucket/key`.
    pub fn object(&self, key: &str) -> Option<Stored> {
        self.kept().objects.get(key).cloned()
    }

    /// The keys of all objects.
    pub fn keys(&self) -> Vec<String> {
        self.kept().objects.keys().cloned().collect()
    }

    /// The names of the uploads that are neither completed nor aborted.
    pub fn uploads(&self) -> Vec<String> {
        self.kept().uploads.keys().cloned().collect()
    }

    /// Forgets all uploads, as a rule about their age would.
    pub fn expire(&self) {
        self.kept().uploads.clear();
    }

    /// All requests so far.
    pub fn log(&self) -> Vec<Asked> {
        self.kept().log.clone()
    }

    /// How many requests for `op` there were.
    pub fn count(&self, op: Op) -> usize {
        self.kept().log.iter().filter(|asked| asked.op == op).count()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: &TcpStream, script: &Script) -> std::io::Result<()> {
        let mut input = BufReader::new(stream);
        while let Some((head, mut body)) = read_request(&mut input)? {
            let asked = self.note(&head);
            let reply = script(&asked);
            match &reply {
                Reply::Break => return Ok(()),
                Reply::Refuse(status, headers, text) => {
                    let text = if asked.op == Op::Head { "" } else { text };
                    (&*stream).write_all(&answer(status, headers, text.as_bytes()))?;
                    continue;
                }
                Reply::Flip(at) => body[*at] ^= 1,
                Reply::Expire => {
                    self.kept().uploads.remove(asked.upload.as_deref().unwrap_or_default());
                }
                Reply::Before(bytes) => {
                    let stored = Stored { bytes: bytes.clone(), etag: tag(bytes) };
                    self.kept().objects.insert(asked.key.clone(), stored);
                }
                Reply::Honest | Reply::Lose => {}
            }
            let honest = self.kept().apply(&asked, &head, body);
            if matches!(reply, Reply::Lose) {
                return Ok(());
            }
            (&*stream).write_all(&honest)?;
        }
        Ok(())
    }

    fn note(&self, head: &Head) -> Asked {
        let mut kept = self.kept();
        let op = head.op();
        let asked = Asked {
            op,
            key: head.path.clone(),
            upload: head.query("uploadId").map(ToOwned::to_owned),
            number: kept.log.len(),
            repeats: kept.log.iter().filter(|asked| asked.op == op).count(),
            authorization: head.header("authorization").unwrap_or_default().to_owned(),
        };
        kept.log.push(asked.clone());
        asked
    }
}

impl Kept {
    fn apply(&mut self, asked: &Asked, head: &Head, body: Vec<u8>) -> Vec<u8> {
        let upload = asked.upload.as_deref().unwrap_or_default();
        match asked.op {
            Op::Create => self.create(&asked.key),
            Op::Put => {
                let etag = tag(&body);
                let quoted = format!("etag: \"{etag}\"\r\n");
                self.objects.insert(asked.key.clone(), Stored { bytes: body, etag });
                answer("200 OK", &quoted, b"")
            }
            Op::Part(number) => match self.uploads.get_mut(upload) {
                Some(parts) => {
                    let etag = tag(&body);
                    let quoted = format!("etag: \"{etag}\"\r\n");
                    parts.insert(number, Stored { bytes: body, etag });
                    answer("200 OK", &quoted, b"")
                }
                None => no_such_upload(),
            },
            Op::Complete => self.complete(&asked.key, upload, &String::from_utf8_lossy(&body)),
            Op::Abort => match self.uploads.remove(upload) {
                Some(_) => answer("204 No Content", "", b""),
                None => no_such_upload(),
            },
            Op::Head | Op::Get => match self.objects.get(&asked.key) {
                Some(stored) => give(stored, head),
                None if asked.op == Op::Head => answer("404 Not Found", "", b""),
                None => error("404 Not Found", "NoSuchKey"),
            },
        }
    }

    fn create(&mut self, key: &str) -> Vec<u8> {
        self.begun += 1;
        let id = format!("upload-{}", self.begun);
        self.uploads.insert(id.clone(), BTreeMap::new());
        let text = format!(
            "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>{key}</Key>\
             <UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
        );
        answer("200 OK", "", text.as_bytes())
    }

    /// Part numbers and tags have to be those of the parts, in order, as S3 wants it.
    fn complete(&mut self, key: &str, upload: &str, list: &str) -> Vec<u8> {
        let Some(parts) = self.uploads.get(upload) else {
            return no_such_upload();
        };
        let named = list.split("<Part>").skip(1).map(|part| {
            let text = |name: &str| {
                let (_, rest) = part.split_once(&format!("<{name}>"))?;
                Some(rest.split_once('<')?.0.replace("&quot;", ""))
            };
            let number = text("PartNumber")?.parse::<u32>().ok()?;
            let stored = parts.get(&number)?;
            (text("ETag")?.trim_matches('"') == stored.etag).then_some((number, stored))
        });
        let Some(named) = named.collect::<Option<Vec<_>>>() else {
            return error("400 Bad Request", "InvalidPart");
        };
        if named.is_empty() || !named.iter().map(|(number, _)| *number).is_sorted_by(|a, b| a < b) {
            return error("400 Bad Request", "InvalidPartOrder");
        }
        let bytes: Vec<u8> = named.iter().flat_map(|(_, part)| part.bytes.clone()).collect();
        let mut digests = Md5::new();
        for (_, part) in &named {
            digests.update(Md5::digest(&part.bytes));
        }
        let etag = format!("{}-{}", hex(digests.finalize().into()), named.len());
        self.uploads.remove(upload);
        let text = format!(
            "<CompleteMultipartUploadResult><ETag>\"{etag}\"</ETag></CompleteMultipartUploadResult>"
        );
        self.objects.insert(key.to_owned(), Stored { bytes, etag });
        answer("200 OK", "", text.as_bytes())
    }
}

/// The head of a request.
struct Head {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
}

impl Head {
    fn query(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    fn op(&self) -> Op {
        match (self.method.as_str(), self.query("partNumber"), self.query("uploadId")) {
            ("POST", _, None) => Op::Create,
            ("POST", _, Some(_)) => Op::Complete,
            ("PUT", Some(number), _) => Op::Part(number.parse().unwrap()),
            ("PUT", None, _) => Op::Put,
            ("DELETE", ..) => Op::Abort,
            ("HEAD", ..) => Op::Head,
            ("GET", ..) => Op::Get,
            (method, ..) => panic!("unexpected {method}"),
        }
    }
}

fn read_request(input: &mut BufReader<&TcpStream>) -> std::io::Result<Option<(Head, Vec<u8>)>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" if lines.is_empty() => {}
            "" => break,
            text => lines.push(text.to_owned()),
        }
    }
    let mut words = lines[0].split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let headers = lines[1..].iter().filter_map(|line| line.split_once(": "));
    let head = Head {
        method: method.to_owned(),
        path: path.trim_start_matches('/').to_owned(),
        query: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        headers: headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect(),
    };
    let len = head.header("content-length").map_or(0, |text| text.parse().unwrap());
    let mut body = vec![0; len];
    input.read_exact(&mut body)?;
    Ok(Some((head, body)))
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let len = body.len();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {len}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

fn error(status: &str, code: &str) -> Vec<u8> {
    let text = format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>");
    answer(status, "", text.as_bytes())
}

fn no_such_upload() -> Vec<u8> {
    error("404 Not Found", "NoSuchUpload")
}

fn give(stored: &Stored, head: &Head) -> Vec<u8> {
    let Stored { bytes, etag } = stored;
    let quoted = format!("\"{etag}\"");
    if head.header("if-match").is_some_and(|wanted| wanted != quoted) {
        return answer("412 Precondition Failed", "", b"");
    }
    let common = format!("etag: {quoted}\r\nlast-modified: Sun, 01 Nov 2026 10:00:00 GMT\r\n");
    let size = bytes.len();
    if head.method == "HEAD" {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n{common}\r\n");
        return head.into_bytes();
    }
    let range = head.header("range").and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse::<usize>().ok()?, last.parse::<usize>().ok()?.min(size.max(1) - 1)))
    });
    match range {
        Some((first, _)) if first >= size => {
            answer("416 Range Not Satisfiable", &format!("content-range: bytes */{size}\r\n"), b"")
        }
        Some((first, last)) => {
            let headers = format!("{common}content-range: bytes {first}-{last}/{size}\r\n");
            answer("206 Partial Content", &headers, &bytes[first..=last])
        }
        None => answer("200 OK", &common, bytes),
    }
}

/// The `ETag` of an object that was put at once, and of a part: its MD5.
fn tag(bytes: &[u8]) -> String {
    hex(Md5::digest(bytes).into())
}

fn hex(digest: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(digest))
}
