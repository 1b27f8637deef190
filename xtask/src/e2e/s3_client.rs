//! As much of an S3 client as the suites need: putting objects, signed with version 4
//! (AWS General Reference, "Signature Version 4 signing process"), over plain HTTP.

use crate::Result;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

pub(crate) const REGION: &str = "us-east-1";
const TIMEOUT: Duration = Duration::from_mins(2);

/// An access key.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) key: String,
    pub(crate) secret: String,
}

/// A server that is spoken to path by path.
pub(crate) struct Client {
    /// `host:port`.
    host: String,
    credentials: Credentials,
}

impl Client {
    /// A client of `url`, which is `http://host:port`.
    pub(crate) fn new(url: &str, credentials: Credentials) -> Result<Self> {
        let host = url.trim_end_matches('/').strip_prefix("http://");
        let host = host.filter(|host| host.contains(':') && !host.contains('/'));
        Ok(Self {
            host: host.ok_or_else(|| format!("{url:?} is not http://host:port"))?.to_owned(),
            credentials,
        })
    }

    /// The variables that tell a program about this server.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT_URL", format!("http://{}", self.host)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", self.credentials.key.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.credentials.secret.clone()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("NO_PROXY", "127.0.0.1,localhost".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// Makes a bucket.
    pub(crate) fn make_bucket(&self, bucket: &str) -> Result<()> {
        self.put(&format!("/{bucket}"), 0, &mut std::io::empty())
    }

    /// Puts `file` under `key`, which has letters, digits, `-`, `.` and `/` only.
    pub(crate) fn put_file(&self, bucket: &str, key: &str, file: &Path) -> Result<()> {
        let mut body = File::open(file)?;
        let len = body.metadata()?.len();
        self.put(&format!("/{bucket}/{key}"), len, &mut body)
    }

    fn put(&self, path: &str, len: u64, body: &mut dyn Read) -> Result<()> {
        let date = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let headers = signed_headers(&self.credentials, "PUT", &self.host, path, &date);
        let head = format!("PUT {path} HTTP/1.1\r\n{headers}Content-Length: {len}\r\n");
        let (status, text) = self.send(&head, body)?;
        if status == 200 {
            return Ok(());
        }
        Err(format!("PUT {path}: status {status}: {text}").into())
    }

    /// The status of an unsigned `GET`.
    pub(crate) fn get_status(&self, path: &str) -> Result<u16> {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n", self.host);
        Ok(self.send(&head, &mut std::io::empty())?.0)
    }

    /// Sends a request on a connection of its own; returns the status and the body.
    fn send(&self, head: &str, body: &mut dyn Read) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(&self.host)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        write!(stream, "{head}Connection: close\r\n\r\n")?;
        // A server that refuses closes early; its answer says more than the broken pipe.
        let sent = std::io::copy(body, &mut stream);
        let mut answer = BufReader::new(stream);
        let mut line = String::new();
        answer.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| format!("no HTTP answer: {line:?} ({sent:?})"))?;
        let mut text = Vec::new();
        answer.read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok((status, body.to_owned()))
    }
}

/// The headers of a request with an unsigned payload, `Authorization` among them.
fn signed_headers(
    credentials: &Credentials,
    method: &str,
    host: &str,
    path: &str,
    date: &str,
) -> String {
    let payload = "UNSIGNED-PAYLOAD";
    let headers = format!("host:{host}\nx-amz-content-sha256:{payload}\nx-amz-date:{date}\n");
    let names = "host;x-amz-content-sha256;x-amz-date";
    let request = format!("{method}\n{path}\n\n{headers}\n{names}\n{payload}");
    let day = &date[..8];
    let scope = format!("{day}/{REGION}/s3/aws4_request");
    let digest = hex(&Sha256::digest(request.as_bytes()));
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{digest}");
    let key = signing_key(&credentials.secret, day, REGION, "s3");
    let signature = hex(&hmac(&key, text.as_bytes()));
    let id = &credentials.key;
    format!(
        "Host: {host}\r\nx-amz-content-sha256: {payload}\r\nx-amz-date: {date}\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential={id}/{scope}, \
         SignedHeaders={names}, Signature={signature}\r\n"
    )
}

fn signing_key(secret: &str, day: &str, region: &str, service: &str) -> [u8; 32] {
    let key = hmac(format!("AWS4{secret}").as_bytes(), day.as_bytes());
    let key = hmac(&key, region.as_bytes());
    let key = hmac(&key, service.as_bytes());
    hmac(&key, b"aws4_request")
}

/// HMAC-SHA-256 (RFC 2104).
fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut block = [0; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let pass = |pad: u8, text: &[u8]| -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(block.map(|byte| byte ^ pad));
        digest.update(text);
        digest.finalize().into()
    };
    pass(0x5C, &pass(0x36, text))
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        // Test cases 1, 2 and 6 of RFC 4231.
        let found = hex(&hmac(&[0x0B; 20], b"Hi There"));
        assert_eq!(found, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
        let found = hex(&hmac(b"Jefe", b"what do ya want for nothing?"));
        assert_eq!(found, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        let long = b"Test Using Larger Than Block-Size Key - Hash Key First";
        let found = hex(&hmac(&[0xAA; 131], long));
        assert_eq!(found, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    }

    #[test]
    fn the_signing_key_is_that_of_the_documentation() {
        // The example of "Deriving the signing key" in the AWS General Reference.
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        let key = signing_key(secret, "20150830", "us-east-1", "iam");
        let wanted = "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9";
        assert_eq!(hex(&key), wanted);
    }

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        let client = |url: &str| {
            let credentials = Credentials { key: "k".into(), secret: "s".into() };
            Client::new(url, credentials).map(|client| client.host)
        };
        assert_eq!(client("http://127.0.0.1:9000/").expect("good"), "127.0.0.1:9000");
        for bad in ["127.0.0.1:9000", "https://a:1", "http://a", "http://a:1/b"] {
            assert!(client(bad).is_err(), "{bad}");
        }
    }
}
