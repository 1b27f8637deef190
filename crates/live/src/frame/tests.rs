//! Frames through short reads, cuts, lies about lengths and dropped calls.

use super::*;
use carreto_error::Kind;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::io::{AsyncWriteExt as _, duplex};

async fn written(frames: &[(u8, &[&[u8]])]) -> Vec<u8> {
    let mut out = std::io::Cursor::new(Vec::new());
    let mut writer = FrameWriter::new(&mut out, DATA_LIMIT);
    for (kind, parts) in frames {
        writer.send(*kind, parts).await.unwrap();
    }
    writer.flush().await.unwrap();
    let bytes = writer.bytes();
    let out = out.into_inner();
    assert_eq!(out.len() as u64, bytes);
    out
}

async fn all(bytes: &[u8], limit: u32) -> carreto_error::Result<Vec<Frame>> {
    let mut reader = FrameReader::new(bytes, limit);
    let mut frames = Vec::new();
    while let Some(frame) = reader.next().await? {
        frames.push(frame);
    }
    assert_eq!(reader.bytes(), bytes.len() as u64);
    Ok(frames)
}

#[tokio::test]
async fn the_bytes_are_these() {
    let bytes = written(&[(7, &[b"ab", b"", b"c"]), (255, &[])]).await;
    assert_eq!(bytes, [4, 0, 0, 0, 7, b'a', b'b', b'c', 1, 0, 0, 0, 255]);
    let frames = all(&bytes, 4).await.unwrap();
    assert_eq!(frames[0], Frame { kind: 7, payload: Bytes::from_static(b"abc") });
    assert_eq!(frames[1], Frame { kind: 255, payload: Bytes::new() });
}

#[tokio::test]
async fn lies_and_cuts() {
    let cases: [(&[u8], Kind, &str); 6] = [
        (&[5, 0, 0, 0, 1], Kind::Limit, "length of a frame is 5, at most 4"),
        (&[255, 255, 255, 255], Kind::Limit, "4294967295"),
        (&[0, 0, 0, 0], Kind::Corrupt, "length of a frame is 0"),
        (&[2, 0, 0, 0, 0, 9], Kind::Corrupt, "kind of a frame is 0"),
        (&[2, 0, 0], Kind::Truncated, "after 3 bytes of a frame of 5"),
        (&[3, 0, 0, 0, 1, 9], Kind::Truncated, "after 6 bytes of a frame of 7"),
    ];
    for (bytes, kind, text) in cases {
        let error = all(bytes, 4).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
    assert_eq!(all(&[], 4).await.unwrap(), []);
}

#[tokio::test]
async fn large_frames_and_the_writers_own_limit() {
    let data = vec![0xA5; 2 << 20];
    let bytes = written(&[(1, &[b"head", &data]), (2, &[b"x"])]).await;
    let frames = all(&bytes, DATA_LIMIT).await.unwrap();
    assert_eq!(frames.len(), 2);
    assert!(frames[0].payload.starts_with(b"head") && frames[0].payload[4..] == data);
    let mut writer = FrameWriter::new(tokio::io::sink(), 4);
    assert_eq!(writer.send(1, &[b"abcd"]).await.unwrap_err().kind(), Kind::Internal);
    assert_eq!(writer.send(0, &[b"a"]).await.unwrap_err().kind(), Kind::Internal);
    writer.send(1, &[b"abc"]).await.unwrap();
    writer.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dropped_read_loses_nothing() {
    let bytes = written(&[(3, &[b"hello"]), (4, &[b"world"])]).await;
    let (mut near, far) = duplex(64);
    let mut reader = FrameReader::new(far, 64);
    let mut found = Vec::new();
    for byte in bytes {
        near.write_all(&[byte]).await.unwrap();
        let next = tokio::time::timeout(Duration::from_millis(1), reader.next()).await;
        if let Ok(frame) = next {
            found.push(frame.unwrap().unwrap());
        }
    }
    drop(near);
    assert_eq!(reader.next().await.unwrap(), None);
    let texts: Vec<_> = found.iter().map(|frame| (frame.kind, &frame.payload[..])).collect();
    assert_eq!(texts, [(3, b"hello".as_slice()), (4, b"world")]);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_write_ends_the_stream() {
    let (near, _far) = duplex(16);
    let mut writer = FrameWriter::new(near, DATA_LIMIT);
    let data = vec![1; 64 << 10];
    let parts: [&[u8]; 1] = [&data];
    let sent = tokio::time::timeout(Duration::from_millis(1), writer.send(1, &parts)).await;
    assert!(sent.is_err());
    assert_eq!(writer.send(1, &[b"x"]).await.unwrap_err().kind(), Kind::Internal);
    assert_eq!(writer.flush().await.unwrap_err().kind(), Kind::Internal);
}

#[tokio::test]
async fn a_broken_connection_is_unavailable() {
    let (near, far) = duplex(16);
    drop(far);
    let mut writer = FrameWriter::new(near, DATA_LIMIT);
    writer.send(1, &[b"x"]).await.unwrap();
    assert_eq!(writer.flush().await.unwrap_err().kind(), Kind::Unavailable);
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Hello {
    version: u32,
    #[serde(default)]
    name: String,
}

#[test]
fn messages() {
    let hello = Hello { version: 1, name: "a\"[\\".to_owned() };
    assert_eq!(decode::<Hello>(&encode(&hello).unwrap()).unwrap(), hello);
    let newer = br#"{"version":2,"name":"b","more":{"deep":[1,2]}}"#;
    assert_eq!(decode::<Hello>(newer).unwrap().version, 2);
    for (text, kind, part) in [
        ("{\"version\":", Kind::Corrupt, "ends too early"),
        ("{}", Kind::Corrupt, "missing or unexpected"),
        ("\0", Kind::Corrupt, "no JSON"),
        ("{\"version\":1} x", Kind::Corrupt, "no JSON"),
    ] {
        let error = decode::<Hello>(text.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(part), "{error}");
    }
    let nested = |n: usize| {
        let (open, close) = ("[".repeat(n), "]".repeat(n));
        format!("{{\"version\":1,\"x\":{open}\"[[[\\\"[[\"{close}}}")
    };
    decode::<Hello>(nested(23).as_bytes()).unwrap();
    assert_eq!(decode::<Hello>(nested(24).as_bytes()).unwrap_err().kind(), Kind::Limit);
}

proptest! {
    #[test]
    fn any_bytes_are_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _ = runtime.block_on(all(&bytes, 64));
        let _ = decode::<Hello>(&bytes);
        let _ = decode::<serde_json::Value>(&bytes);
    }

    #[test]
    fn frames_come_back(sent in prop::collection::vec(
        (1..=255_u8, prop::collection::vec(any::<u8>(), 0..300)), 0..8,
    )) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut out = std::io::Cursor::new(Vec::new());
            let mut writer = FrameWriter::new(&mut out, 1 << 10);
            for (kind, payload) in &sent {
                let (a, b) = payload.split_at(payload.len() / 2);
                writer.send(*kind, &[a, b]).await.unwrap();
            }
            writer.flush().await.unwrap();
            let found = all(out.get_ref(), 301).await.unwrap();
            let found: Vec<_> = found.into_iter().map(|f| (f.kind, f.payload.to_vec())).collect();
            assert_eq!(found, sent);
        });
    }
}
