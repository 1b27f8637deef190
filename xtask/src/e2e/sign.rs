//! Signing requests to S3 with version 4 (AWS General Reference, "Signature Version 4 signing
//! process").

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

/// An access key.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) key: String,
    pub(crate) secret: String,
    /// The session of temporary credentials.
    pub(crate) token: Option<String>,
}

/// What is signed of a request.
pub(super) struct Signed<'a> {
    pub(super) method: &'a str,
    pub(super) host: &'a str,
    pub(super) path: &'a str,
    /// As [`query_text`] makes it.
    pub(super) query: &'a str,
    pub(super) region: &'a str,
}

/// The text of a query: names and values sorted and encoded.
pub(super) fn query_text(query: &[(&str, &str)]) -> String {
    let mut pairs: Vec<_> =
        query.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
    pairs.sort();
    pairs.join("&")
}

fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing into a string does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// The headers of a request with an unsigned payload, `Authorization` among them and `Host` not.
pub(super) fn headers(credentials: &Credentials, request: &Signed<'_>) -> Vec<(String, String)> {
    let date = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let mut headers = vec![
        ("host", request.host.to_owned()),
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD".to_owned()),
        ("x-amz-date", date.clone()),
    ];
    headers.extend(credentials.token.clone().map(|token| ("x-amz-security-token", token)));
    let names: Vec<_> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let lines: Vec<_> = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let lines = lines.concat();
    let Signed { method, path, query, region, .. } = request;
    let text = format!("{method}\n{path}\n{query}\n{lines}\n{names}\nUNSIGNED-PAYLOAD");
    let day = &date[..8];
    let scope = format!("{day}/{region}/s3/aws4_request");
    let digest = hex(&Sha256::digest(text.as_bytes()));
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{digest}");
    let key = signing_key(&credentials.secret, day, region, "s3");
    let signature = hex(&hmac(&key, text.as_bytes()));
    let id = &credentials.key;
    let value = format!(
        "AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}"
    );
    let own = headers.into_iter().skip(1).map(|(name, value)| (name.to_owned(), value));
    own.chain([("Authorization".to_owned(), value)]).collect()
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
    fn a_query_is_sorted_and_encoded() {
        let query = [("uploads", ""), ("prefix", "a b/c"), ("partNumber", "7")];
        assert_eq!(query_text(&query), "partNumber=7&prefix=a%20b%2Fc&uploads=");
    }
}
