//! Tokens there and back, cut, changed and made up.

use super::token::{check_address, parse};
use super::{Fingerprint, JoinToken, Secret, check_server_name};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use carreto_error::Kind;
use proptest::prelude::*;

fn sample() -> JoinToken {
    JoinToken {
        addresses: vec!["10.0.0.5:7443".to_owned(), "[fe80::1]:7443".to_owned()],
        receiver: Fingerprint::of_key(&[7; 32]),
        server: "db-1.example".to_owned(),
        secret: Secret::from_bytes([9; 32]),
        expires: Some("2026-05-06T07:08:09Z".parse().unwrap()),
    }
}

#[test]
fn text_and_back() {
    let token = sample();
    let text = token.to_string();
    assert!(text.starts_with("carreto1.") && text.len() < 400, "{text}");
    assert_eq!(text.parse::<JoinToken>().unwrap(), token);
    let wrapped = format!(" {}\n{}\r\n", &text[..80], &text[80..]);
    assert_eq!(wrapped.parse::<JoinToken>().unwrap(), token);
    let endless = JoinToken { expires: None, ..token };
    assert_eq!(endless.to_string().parse::<JoinToken>().unwrap(), endless);
    let debug = format!("{endless:?}");
    assert!(!debug.contains("9, 9, 9") && debug.contains("Secret(…)"), "{debug}");
}

#[test]
fn expiry_is_told() {
    let token = sample();
    assert!(!token.is_expired("2026-05-06T07:08:08Z".parse().unwrap()));
    assert!(token.is_expired("2026-05-06T07:08:09Z".parse().unwrap()));
}

#[test]
fn every_cut_is_recognised() {
    let text = sample().to_string();
    for end in 0..text.len() {
        let error = text[..end].parse::<JoinToken>().unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        let wanted = if end < 9 { "begin" } else { "cut off" };
        assert!(error.to_string().contains(wanted), "{end}: {error}");
    }
    let longer = format!("{text}A");
    assert!(longer.parse::<JoinToken>().is_err());
}

#[test]
fn every_changed_character_is_recognised() {
    let text = sample().to_string();
    for at in 0..text.len() {
        for other in ["A", "b", "_", "=", "é"] {
            let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert!(changed == text || changed.parse::<JoinToken>().is_err(), "{changed}");
        }
    }
}

#[test]
fn another_version_is_named() {
    let error = "carreto2.AAAA".parse::<JoinToken>().unwrap_err();
    assert!(error.to_string().contains("version is 2"), "{error}");
    let error = "a".repeat(5000).parse::<JoinToken>().unwrap_err();
    assert!(error.to_string().contains("5000 bytes"), "{error}");
}

#[test]
fn names_and_addresses() {
    for good in ["a", "web-1", "A.b_c", &"x".repeat(64)] {
        check_server_name(good).unwrap();
    }
    for bad in ["", ".a", "-a", "a/b", "a b", "é", "a\n", &"x".repeat(65)] {
        assert!(check_server_name(bad).is_err(), "{bad}");
    }
    for good in ["h:1", "10.0.0.1:65535", "[::1]:443", "a-b.c:7443"] {
        check_address(good).unwrap();
    }
    for bad in ["", "h", "h:", "h:0", "h:65536", ":1", "[::1:443", "[x]:1", "a b:1", "a/b:1"] {
        assert!(check_address(bad).is_err(), "{bad}");
    }
    for bad in ["h:+1", "u@h:1", "h\r\n:1", "::1:443"] {
        assert!(check_address(bad).is_err(), "{bad}");
    }
    let none = JoinToken { addresses: Vec::new(), ..sample() };
    assert!(none.check().is_err());
}

proptest! {
    #[test]
    fn any_text_is_an_answer(text in ".{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = text.parse::<JoinToken>();
        let _ = format!("carreto1.{}", URL_SAFE_NO_PAD.encode(&bytes)).parse::<JoinToken>();
        let _ = parse(&bytes);
    }
}
