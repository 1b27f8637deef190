//! Certificates there and back, changed in every bit, signed by others, and disks beside them.

use super::*;
use crate::trust::{Fingerprint, Identity, verify_signature};
use carreto_block::AlignedBuf;
use carreto_error::Kind;
use carreto_testkit::MemSource;
use proptest::prelude::*;

struct Ends {
    agent: Identity,
    receiver: Identity,
}

fn ends() -> Ends {
    Ends { agent: Identity::generate().unwrap(), receiver: Identity::generate().unwrap() }
}

fn statement(ends: &Ends) -> Statement {
    Statement {
        version: Statement::VERSION,
        migration: "7d1f".to_owned(),
        server: "db \"ü\" 1".to_owned(),
        carreto: "0.1.0".to_owned(),
        mode: Mode::Strict,
        disks: vec![Disk {
            source: "/dev/vda".to_owned(),
            identity: "wwn-0x5000".to_owned(),
            size: 5,
            // printf hello | b3sum
            root: "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f"
                .parse()
                .unwrap(),
            rehashed: 1,
            sent_frozen: 1,
            target: "/srv/db1.raw".to_owned(),
        }],
        frozen_at: "2026-05-06T07:08:09.5Z".parse().unwrap(),
        committed_at: "2026-05-06T07:08:11Z".parse().unwrap(),
        pause_ms: 1500,
        audits: Audits { epochs: 9, suspect: 1, rescans: 1 },
        trackers: vec!["bpf".to_owned()],
        unfrozen: Vec::new(),
        agent: ends.agent.fingerprint(),
        receiver: ends.receiver.fingerprint(),
    }
}

fn signed(ends: &Ends) -> Certificate {
    let mut made = Certificate::new(statement(ends)).unwrap();
    made.sign(Role::Agent, &ends.agent).unwrap();
    made.sign(Role::Receiver, &ends.receiver).unwrap();
    made
}

#[test]
fn both_ends_sign_the_same() {
    let ends = ends();
    // The way it goes over the wire: one end signs, the other reads, compares and signs.
    let mut first = Certificate::new(statement(&ends)).unwrap();
    first.sign(Role::Receiver, &ends.receiver).unwrap();
    assert_eq!(first.verify(&[]).unwrap_err().kind(), Kind::Denied);
    let mut second = Certificate::from_json(first.to_json().unwrap().as_bytes()).unwrap();
    assert_eq!(second.statement(), &statement(&ends));
    second.sign(Role::Agent, &ends.agent).unwrap();
    second.sign(Role::Agent, &ends.agent).unwrap();
    let read = Certificate::from_json(second.to_json().unwrap().as_bytes()).unwrap();
    assert_eq!(read, second);
    let verified = read.verify(&[ends.receiver.fingerprint()]).unwrap();
    let [agent, receiver] = verified.signers;
    assert_eq!(
        (agent.role, agent.key, agent.trusted),
        (Role::Agent, ends.agent.fingerprint(), false)
    );
    assert!(receiver.trusted && receiver.key == ends.receiver.fingerprint());
    read.verify(&[]).unwrap();
    let error = read.verify(&[Fingerprint::of_key(&[1; 32])]).unwrap_err();
    assert!(error.to_string().contains(&agent.key.to_string()), "{error}");
}

#[test]
fn a_signature_is_over_the_prefix_and_the_text() {
    let ends = ends();
    let json: serde_json::Value = serde_json::from_str(&signed(&ends).to_json().unwrap()).unwrap();
    let message = format!("carreto-certificate-v1\n{}", json["statement"].as_str().unwrap());
    for (index, identity) in [&ends.agent, &ends.receiver].into_iter().enumerate() {
        let signature = json["signatures"][index]["signature"].as_str().unwrap();
        let signature: [u8; 64] = crate::trust::hex::decode(signature).unwrap();
        verify_signature(&identity.public_key(), message.as_bytes(), &signature).unwrap();
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let ends = ends();
    let json = signed(&ends).to_json().unwrap().into_bytes();
    let trusted = [ends.agent.fingerprint(), ends.receiver.fingerprint()];
    let verify = |json: &[u8]| Certificate::from_json(json)?.verify(&trusted).map(|_| ());
    verify(&json).unwrap();
    for at in 0..json.len() {
        for bit in 0..8 {
            let mut changed = json.clone();
            changed[at] ^= 1 << bit;
            assert!(verify(&changed).is_err(), "bit {bit} of byte {at}");
        }
    }
    for end in 0..json.len() - 1 {
        assert!(verify(&json[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn keys_of_others_do_not_sign() {
    let (ends, thief) = (ends(), Identity::generate().unwrap());
    let mut made = Certificate::new(statement(&ends)).unwrap();
    assert_eq!(made.sign(Role::Agent, &thief).unwrap_err().kind(), Kind::Usage);
    assert_eq!(made.sign(Role::Agent, &ends.receiver).unwrap_err().kind(), Kind::Usage);
    let mut theirs = statement(&ends);
    theirs.agent = thief.fingerprint();
    let mut other = Certificate::new(theirs).unwrap();
    other.sign(Role::Agent, &thief).unwrap();
    let error = made.add(other.signatures()[0].clone()).unwrap_err();
    assert!(error.to_string().contains(&thief.fingerprint().to_string()), "{error}");
    // A true signature of the same key for another statement.
    let mut later = statement(&ends);
    later.pause_ms = 1;
    let mut later = Certificate::new(later).unwrap();
    later.sign(Role::Agent, &ends.agent).unwrap();
    let error = made.add(later.signatures()[0].clone()).unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(made.signatures().is_empty());
}

/// A change, and the error that it leads to.
type Change = (fn(&mut Statement), Kind, &'static str);

#[test]
fn statements_that_are_refused() {
    let ends = ends();
    let cases: [Change; 8] = [
        (|s| s.version = 2, Kind::Unsupported, "version of the statement is 2"),
        (|s| s.server.clear(), Kind::Corrupt, "server has 0 bytes"),
        (|s| s.server = "a\u{1b}[2J".to_owned(), Kind::Corrupt, "U+001B"),
        (|s| s.disks[0].target = "a\u{202e}b".to_owned(), Kind::Corrupt, "U+202E"),
        (|s| s.disks.clear(), Kind::Corrupt, "disks has 0 entries"),
        (|s| s.disks[0].size = 0, Kind::Corrupt, "size of /dev/vda is 0"),
        (|s| s.committed_at = jiff::Timestamp::UNIX_EPOCH, Kind::Corrupt, "committed_at"),
        (|s| s.receiver = s.agent, Kind::Corrupt, "expected two keys"),
    ];
    for (change, kind, text) in cases {
        let mut changed = statement(&ends);
        change(&mut changed);
        let error = Certificate::new(changed).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn documents_that_are_refused() {
    let json = signed(&ends()).to_json().unwrap();
    for (from, to, kind) in [
        ("\"version\": 1,\n", "\"version\": 2,\n", Kind::Unsupported),
        ("carreto-certificate", "carreto-certificatf", Kind::Corrupt),
        ("\"by\": \"receiver\"", "\"by\": \"agent\"", Kind::Corrupt),
        ("\"signatures\"", "\"more\": 1, \"signatures\"", Kind::Corrupt),
        ("\"signatures\"", "\"version\": 1, \"signatures\"", Kind::Corrupt),
    ] {
        let changed = json.replacen(from, to, 1);
        assert_ne!(changed, json);
        let error = Certificate::from_json(changed.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), kind, "{from} {error}");
    }
    let large = vec![b' '; (8 << 20) + 1];
    assert_eq!(Certificate::from_json(&large).unwrap_err().kind(), Kind::Limit);
}

#[tokio::test]
async fn disks_are_compared_as_b3sum_does() {
    let disk = statement(&ends()).disks.remove(0);
    let mut done = Vec::new();
    let mut note = |at| done.push(at);
    check_disk(&disk, &MemSource::new("good", b"hello".to_vec()), &mut note).await.unwrap();
    assert_eq!(done, [5]);
    for (content, text) in [(b"hellp".to_vec(), "its BLAKE3 is"), (b"hello ".to_vec(), "6 bytes")] {
        let source = MemSource::new("bad", content);
        let error = check_disk(&disk, &source, &mut |_| {}).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Mismatch);
        assert!(error.to_string().contains(text), "{error}");
    }
    // More than one step, and an end that is none.
    let mut content = AlignedBuf::zeroed((9 << 20) + 3).unwrap().to_vec();
    content[8 << 20] = 1;
    let large = Disk { size: content.len() as u64, root: blake3::hash(&content).into(), ..disk };
    check_disk(&large, &MemSource::new("large", content), &mut |_| {}).await.unwrap();
}

proptest! {
    #[test]
    fn any_bytes_are_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,99}") {
        let _ = Certificate::from_json(&bytes);
        let document = serde_json::json!({
            "format": "carreto-certificate", "version": 1, "statement": text, "signatures": [],
        });
        let _ = Certificate::from_json(document.to_string().as_bytes());
        let _ = text.parse::<Root>();
    }
}
