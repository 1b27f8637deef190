//! As much of an S3 client as the suites need, independent of the one under test: signed requests
//! over plain HTTP by itself, and over TLS through curl.

use super::carreto::text as text_of;
use super::process;
pub(crate) use super::sign::Credentials;
use super::sign::{self, Signed};
use crate::Result;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const REGION: &str = "us-east-1";
const TIMEOUT: Duration = Duration::from_mins(2);

/// An upload in parts that is under way: its key and its id.
pub(crate) type Upload = (String, String);

/// A server that is spoken to path by path.
pub(crate) struct Client {
    secure: bool,
    /// `host:port`.
    host: String,
    region: String,
    credentials: Credentials,
}

impl Client {
    /// A client of `url`, which is `http://host:port` or `https://host`.
    pub(crate) fn new(url: &str, region: Option<&str>, credentials: Credentials) -> Result<Self> {
        let url = url.trim_end_matches('/');
        let (secure, host) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(host), _) => (true, host),
            (_, Some(host)) if host.contains(':') => (false, host),
            _ => return Err(format!("{url:?} is not http://host:port or https://host").into()),
        };
        if host.is_empty() || host.contains('/') {
            return Err(format!("{url:?} has a path or no host").into());
        }
        let region = region.unwrap_or(REGION).to_owned();
        Ok(Self { secure, host: host.to_owned(), region, credentials })
    }

    fn url(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}", self.host)
    }

    /// The variables that tell a program about this server.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let token = self.credentials.token.clone().map(|token| ("AWS_SESSION_TOKEN", token));
        [
            ("AWS_ENDPOINT_URL", self.url()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", self.region.clone()),
            ("AWS_ACCESS_KEY_ID", self.credentials.key.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.credentials.secret.clone()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("NO_PROXY", "127.0.0.1,localhost".to_owned()),
        ]
        .into_iter()
        .chain(token)
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }

    /// Makes a bucket.
    pub(crate) fn make_bucket(&self, bucket: &str) -> Result<()> {
        let place = format!(
            "<CreateBucketConfiguration><LocationConstraint>{}</LocationConstraint>\
             </CreateBucketConfiguration>",
            self.region
        );
        let body = if self.region == REGION { "" } else { &place };
        self.put_text(&format!("/{bucket}"), &[], body)
    }

    /// Puts `file` under `key`, which has letters, digits, `-`, `.` and `/` only.
    pub(crate) fn put_file(&self, bucket: &str, key: &str, file: &Path) -> Result<()> {
        let mut body = File::open(file)?;
        let len = body.metadata()?.len();
        self.ok("PUT", &format!("/{bucket}/{key}"), &[], len, &mut body).map(drop)
    }

    /// Lets everybody read the objects of `bucket`.
    pub(crate) fn let_everybody_read(&self, bucket: &str) -> Result<()> {
        let policy = serde_json::json!({"Version": "2012-10-17", "Statement": [{
            "Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject"],
            "Resource": [format!("arn:aws:s3:::{bucket}/*")],
        }]});
        self.put_text(&format!("/{bucket}"), &[("policy", "")], &policy.to_string())
    }

    /// Makes `bucket` keep old versions.
    pub(crate) fn keep_versions(&self, bucket: &str) -> Result<()> {
        let text = "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                    <Status>Enabled</Status></VersioningConfiguration>";
        self.put_text(&format!("/{bucket}"), &[("versioning", "")], text)
    }

    /// The ids of the versions of `key`.
    pub(crate) fn versions(&self, bucket: &str, key: &str) -> Result<Vec<String>> {
        let query = [("versions", ""), ("prefix", key)];
        let text = self.get(&format!("/{bucket}"), &query)?;
        let versions = elements(&text, "Version").into_iter();
        let own = versions.filter(|version| element(version, "Key") == Some(key));
        Ok(own.filter_map(|version| element(version, "VersionId")).map(str::to_owned).collect())
    }

    /// The keys of the first objects of `bucket`.
    pub(crate) fn keys(&self, bucket: &str) -> Result<Vec<String>> {
        let text = self.get(&format!("/{bucket}"), &[("list-type", "2")])?;
        let objects = elements(&text, "Contents").into_iter();
        let keys = objects.map(|object| element(object, "Key").map(str::to_owned));
        keys.collect::<Option<_>>().ok_or_else(|| format!("what is this? {text}").into())
    }

    /// The uploads in parts under way whose key begins with `prefix`.
    pub(crate) fn uploads(&self, bucket: &str, prefix: &str) -> Result<Vec<Upload>> {
        let query = [("uploads", ""), ("prefix", prefix)];
        let text = self.get(&format!("/{bucket}"), &query)?;
        let uploads = elements(&text, "Upload").into_iter().map(|upload| {
            let field = |name| element(upload, name).map(str::to_owned);
            Some((field("Key")?, field("UploadId")?))
        });
        uploads.collect::<Option<_>>().ok_or_else(|| format!("what is this? {text}").into())
    }

    /// Bytes of the parts that have arrived of an upload.
    pub(crate) fn parts_size(&self, bucket: &str, (key, id): &Upload) -> Result<u64> {
        let path = format!("/{bucket}/{key}");
        let (mut sum, mut marker) = (0, "0".to_owned());
        loop {
            let query = [("uploadId", id.as_str()), ("part-number-marker", &marker)];
            let text = self.get(&path, &query)?;
            for part in elements(&text, "Part") {
                let size = element(part, "Size").and_then(|size| size.parse::<u64>().ok());
                sum += size.ok_or("a part without its size")?;
            }
            if element(&text, "IsTruncated") != Some("true") {
                return Ok(sum);
            }
            let next = element(&text, "NextPartNumberMarker").ok_or("a list without its end")?;
            next.clone_into(&mut marker);
        }
    }

    pub(crate) fn abort(&self, bucket: &str, (key, id): &Upload) -> Result<()> {
        self.delete(&format!("/{bucket}/{key}"), &[("uploadId", id)])
    }

    /// Removes a bucket with everything in it.
    pub(crate) fn remove_bucket(&self, bucket: &str) -> Result<()> {
        for upload in self.uploads(bucket, "")? {
            self.abort(bucket, &upload)?;
        }
        loop {
            let text = self.get(&format!("/{bucket}"), &[("versions", "")])?;
            let all = [elements(&text, "Version"), elements(&text, "DeleteMarker")].concat();
            if all.is_empty() {
                return self.delete(&format!("/{bucket}"), &[]);
            }
            for version in all {
                let key = element(version, "Key").ok_or("a version without its key")?;
                let id = element(version, "VersionId").ok_or("a version without its id")?;
                self.delete(&format!("/{bucket}/{key}"), &[("versionId", id)])?;
            }
        }
    }

    fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<String> {
        self.ok("GET", path, query, 0, &mut std::io::empty())
    }

    fn delete(&self, path: &str, query: &[(&str, &str)]) -> Result<()> {
        self.ok("DELETE", path, query, 0, &mut std::io::empty()).map(drop)
    }

    fn put_text(&self, path: &str, query: &[(&str, &str)], text: &str) -> Result<()> {
        self.ok("PUT", path, query, text.len() as u64, &mut text.as_bytes()).map(drop)
    }

    fn ok(
        &self,
        method: &str,
        path: &str,
        query: &[(&str, &str)],
        len: u64,
        body: &mut dyn Read,
    ) -> Result<String> {
        let query = sign::query_text(query);
        let request =
            Signed { method, host: &self.host, path, query: &query, region: &self.region };
        let headers = sign::headers(&self.credentials, &request);
        let path = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let (status, text) = if self.secure {
            self.send_by_curl(method, &path, &headers, body)?
        } else {
            let lines: Vec<_> =
                headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            self.send(&format!("{method} {path}"), &lines.concat(), len, body)?
        };
        match status {
            200 | 204 => Ok(text),
            _ => Err(format!("{method} {path}: status {status}: {text}").into()),
        }
    }

    /// The status of an unsigned `GET`.
    pub(crate) fn get_status(&self, path: &str) -> Result<u16> {
        Ok(self.send(&format!("GET {path}"), "", 0, &mut std::io::empty())?.0)
    }

    /// Sends a request on a connection of its own; returns the status and the body. Version 1.0,
    /// so that the answer ends with the connection and comes in one piece.
    fn send(
        &self,
        what: &str,
        headers: &str,
        len: u64,
        body: &mut dyn Read,
    ) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(&self.host)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let host = &self.host;
        write!(
            stream,
            "{what} HTTP/1.0\r\nHost: {host}\r\n{headers}Content-Length: {len}\r\n\r\n"
        )?;
        // A server that refuses closes early; its answer says more than the broken pipe.
        let sent = std::io::copy(body, &mut stream);
        let mut answer = BufReader::new(stream);
        let mut line = String::new();
        answer.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|code| code.trim().parse().ok());
        let status = status.ok_or_else(|| format!("no HTTP answer: {line:?} ({sent:?})"))?;
        let mut text = Vec::new();
        answer.read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok((status, body.to_owned()))
    }

    fn send_by_curl(
        &self,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: &mut dyn Read,
    ) -> Result<(u16, String)> {
        let mut file = tempfile::NamedTempFile::new()?;
        let len = std::io::copy(body, &mut file)?;
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "600", "--write-out", "\n%{http_code}", "-X", method]);
        // In a file, because a session is a secret and arguments are not.
        let mut lines = tempfile::NamedTempFile::new()?;
        for (name, value) in headers {
            writeln!(lines, "{name}: {value}")?;
        }
        command.args(["-H", &format!("@{}", text_of(lines.path())?)]);
        match (method, len) {
            ("PUT", 0) => command.args(["-H", "Content-Length: 0"]),
            ("PUT", _) => command.arg("-T").arg(file.path()),
            _ => &mut command,
        };
        let text = process::succeed(command.arg(format!("{}{path}", self.url())))?;
        let (text, status) = text.rsplit_once('\n').ok_or("curl printed no status")?;
        Ok((status.parse()?, text.to_owned()))
    }
}

/// What the elements `name` hold.
fn elements<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let pieces = text.split(open.as_str()).skip(1);
    pieces.filter_map(|piece| piece.split_once(close.as_str()).map(|(inside, _)| inside)).collect()
}

fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    elements(text, name).first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_perhaps_a_port() {
        let client = |url: &str| {
            let credentials = Credentials { key: "k".into(), secret: "s".into(), token: None };
            Client::new(url, None, credentials).map(|client| client.url())
        };
        assert_eq!(client("http://127.0.0.1:9000/").expect("good"), "http://127.0.0.1:9000");
        assert_eq!(client("https://s3.example.org").expect("good"), "https://s3.example.org");
        for bad in ["127.0.0.1:9000", "ftp://a:1", "http://a", "http://a:1/b", "https://"] {
            assert!(client(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn elements_are_found() {
        let text = "<R><U><K>a</K></U><U><K>b</K></U></R>";
        assert_eq!(elements(text, "U"), ["<K>a</K>", "<K>b</K>"]);
        assert_eq!(element(text, "K"), Some("a"));
        assert_eq!(element(text, "X"), None);
    }
}
