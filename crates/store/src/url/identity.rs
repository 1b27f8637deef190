//! Which parameters of a web address name the object, and which only allow reading it.
//!
//! A presigned address is signed anew for every run, and its signature is a secret; what a job is
//! remembered by must neither change with it nor hold it.

use ::url::Url;

/// Parameters of signatures and tokens, in lower case: signature version 2 of S3, Google, OSS and
/// OBS; `CloudFront`; Tencent COS; Azure's shared access signatures have a list of their own.
const SIGNATURE: [&str; 27] = [
    "awsaccesskeyid",
    "googleaccessid",
    "ossaccesskeyid",
    "accesskeyid",
    "signature",
    "expires",
    "policy",
    "key-pair-id",
    "security-token",
    "sign",
    "sig",
    "token",
    "access_token",
    "auth_token",
    "auth",
    "authorization",
    "apikey",
    "api_key",
    "password",
    "q-sign-algorithm",
    "q-ak",
    "q-sign-time",
    "q-key-time",
    "q-header-list",
    "q-url-param-list",
    "q-signature",
    "hdnts",
];

/// What the signed headers of the clouds begin with.
const SIGNED: [&str; 5] = ["x-amz-", "x-goog-", "x-cos-", "x-oss-", "x-obs-"];

/// The fields of a shared access signature beside `sig` ("Create a service SAS" and "Create a user
/// delegation SAS", Azure Storage documentation). They mean this only where there is a `sig`.
const AZURE: [&str; 21] = [
    "sv", "ss", "srt", "sr", "sp", "st", "se", "sip", "spr", "si", "ses", "sdd", "skoid", "sktid",
    "skt", "ske", "sks", "skv", "saoid", "suoid", "scid",
];

/// The parameters that name the object, in the order of their names, each with a fingerprint of
/// its value; `None` when there are none.
pub(super) fn of_query(url: &Url) -> Option<String> {
    let pairs: Vec<_> = url.query_pairs().collect();
    let azure = pairs.iter().any(|(name, _)| name.eq_ignore_ascii_case("sig"));
    let mut kept: Vec<String> = pairs
        .iter()
        .filter(|(name, _)| !is_signature(&name.to_ascii_lowercase(), azure))
        .map(|(name, value)| format!("{:016x}={:016x}", fingerprint(name), fingerprint(value)))
        .collect();
    kept.sort();
    (!kept.is_empty()).then(|| kept.join("&"))
}

fn is_signature(name: &str, azure: bool) -> bool {
    SIGNATURE.contains(&name)
        || SIGNED.iter().any(|prefix| name.starts_with(prefix))
        || (azure && AZURE.contains(&name))
}

/// FNV-1a, 64 bits (IETF draft-eastlake-fnv): the same in every release, which the hashes of the
/// standard library do not promise.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
