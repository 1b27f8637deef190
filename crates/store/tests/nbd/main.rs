//! The NBD client against a server over memory: the conformance suites, and every way in which a
//! server can break the protocol. (`cargo xtask e2e nbd` runs qemu-nbd and nbdkit.)
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "these are tests, on disks that fit in memory"
)]

mod again;
mod server;

use carreto_block::{ByteRange, Placement, Source, SourceExt as _, Target};
use carreto_error::{Error, Kind};
use carreto_store::{NbdOptions, NbdSource, NbdTarget, SilentObserver};
use carreto_testkit::{conformance, sparse_disk};
use server::{Fault, Manner, Server};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const SIZE: usize = (3 << 20) + 4096;

async fn source(server: &Server, options: NbdOptions) -> Result<NbdSource, Error> {
    NbdSource::open(server.address.parse().unwrap(), options, Arc::new(SilentObserver)).await
}

async fn target(server: &Server) -> Result<NbdTarget, Error> {
    let address = server.address.parse().unwrap();
    NbdTarget::open(address, NbdOptions::default(), Arc::new(SilentObserver)).await
}

fn impatient() -> NbdOptions {
    NbdOptions { retry_for: Duration::ZERO, ..NbdOptions::default() }
}

fn manners() -> Vec<Manner> {
    let plain = Manner::default;
    vec![
        plain(),
        Manner { simple: true, no_status: true, ..plain() },
        Manner { no_status: true, ..plain() },
        Manner { min_block: Some(4096), ..plain() },
    ]
}

#[tokio::test]
async fn every_kind_of_server_is_read_and_written_right() {
    for manner in manners() {
        let disk = sparse_disk(SIZE, 5);
        let server = Server::start(disk.clone(), manner.clone()).await;
        conformance::source(&source(&server, impatient()).await.unwrap(), &disk).await;
        conformance::target(&target(&server).await.unwrap()).await;
    }
}

#[tokio::test]
async fn zeros_are_known_without_reading() {
    let mut disk = vec![0; SIZE];
    disk[1 << 20] = 1;
    let server = Server::start(disk, Manner::default()).await;
    let source = source(&server, impatient()).await.unwrap();
    let mut at = 0;
    let mut data = 0;
    while at < SIZE as u64 {
        let rest = ByteRange::new(at, SIZE as u64).unwrap();
        for extent in source.extents(rest, 64).await.unwrap() {
            data += match extent.placement {
                Placement::Zero => 0,
                _ => extent.range.len(),
            };
            at = extent.range.end();
        }
    }
    assert_eq!(data, 4096);
}

#[tokio::test]
async fn a_broken_protocol_is_an_error_and_never_zeros() {
    let disk = sparse_disk(SIZE, 6);
    for fault in [
        Fault::Half,
        Fault::Elsewhere,
        Fault::Twice,
        Fault::Stranger,
        Fault::Huge,
        Fault::Garbage,
        Fault::LongHole,
        Fault::HangUp,
    ] {
        let manner = Manner { fault: Some(fault), ..Manner::default() };
        let server = Server::start(disk.clone(), manner.clone()).await;
        let once = source(&server, impatient()).await.unwrap();
        let error = once.read_vec(0, 8192).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{fault:?}: {error}");
        // The same with patience: the server has come to its senses.
        let server = Server::start(disk.clone(), manner).await;
        let patient = source(&server, NbdOptions::default()).await.unwrap();
        assert!(patient.read_vec(0, 8192).await.unwrap() == disk[..8192], "{fault:?}");
    }
}

#[tokio::test]
async fn what_the_server_refuses_keeps_its_meaning() {
    let cases = [(1, Kind::Denied), (5, Kind::Io), (28, Kind::TargetUnusable), (999, Kind::Io)];
    for (code, kind) in cases {
        let manner = Manner { fault: Some(Fault::Refusal(code)), ..Manner::default() };
        let server = Server::start(vec![1; SIZE], manner).await;
        let source = source(&server, NbdOptions::default()).await.unwrap();
        let error = source.read_vec(0, 512).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(!format!("{error:?}").contains('\u{1b}'), "{error:?}");
        // The connection is still good.
        assert_eq!(source.read_vec(0, 2).await.unwrap(), [1, 1]);
        assert_eq!(server.connections.load(Ordering::Relaxed).min(4), 2, "one for each read");
    }
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let manner = Manner { fault: Some(Fault::Silence), ..Manner::default() };
    let server = Server::start(vec![1; SIZE], manner).await;
    let options = NbdOptions { answer_timeout: Duration::from_millis(50), ..impatient() };
    let source = source(&server, options).await.unwrap();
    let error = source.read_vec(0, 512).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
}

#[tokio::test]
async fn exports_that_cannot_be_had_say_why() {
    let refused = |kind: u32| Manner { refuse_export: Some(1 << 31 | kind), ..Manner::default() };
    let cases =
        [(2, Kind::Denied), (5, Kind::Unsupported), (6, Kind::NotFound), (1, Kind::Unsupported)];
    for (code, kind) in cases {
        let server = Server::start(vec![1; SIZE], refused(code)).await;
        let error = source(&server, impatient()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(!error.to_string().contains('\u{1b}'), "{error:?}");
    }
    for manner in [
        Manner { read_only: true, ..Manner::default() },
        Manner { no_flush: true, ..Manner::default() },
    ] {
        let server = Server::start(vec![1; SIZE], manner).await;
        assert_eq!(target(&server).await.unwrap_err().kind(), Kind::TargetUnusable);
    }
}

#[tokio::test]
async fn a_server_of_something_else_is_recognised() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("nbd://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH_9.2 and more\r\n").await.unwrap();
    });
    let options = NbdOptions::default();
    let opened = NbdSource::open(address.parse().unwrap(), options, Arc::new(SilentObserver)).await;
    assert_eq!(opened.unwrap_err().kind(), Kind::Unsupported);
}

#[tokio::test]
async fn a_target_whose_connection_broke_stays_broken() {
    for (fault, after) in [(Fault::PowerLoss, 1), (Fault::WriteRefusal(108), 1)] {
        let manner = Manner { fault: Some(fault), fault_after: after, ..Manner::default() };
        let server = Server::start(vec![0; SIZE], manner).await;
        let target = target(&server).await.unwrap();
        target.write_at(0, &[7; 4096]).await.unwrap();
        let error = target.write_at(8192, &[7; 4096]).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        assert!(target.is_interrupted());
        for _ in 0..2 {
            // A flush that reached the server anew would call lost writes safe.
            let error = target.flush().await.unwrap_err();
            assert_eq!(error.kind(), Kind::Unavailable, "{error}");
            let error = target.write_at(0, &[8; 4096]).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        }
        assert!(server.disk.lock().unwrap()[0] != 8, "nothing is written after the loss");
        assert_eq!(server.flushes.load(Ordering::Relaxed), 0);
    }
}

/// A server that lost power answers new connections as if nothing had been; only the old ones
/// tell.
#[tokio::test]
async fn a_flush_asks_every_connection_that_carried_a_write() {
    let server = Server::start(vec![0; SIZE], Manner::default()).await;
    let target = target(&server).await.unwrap();
    for at in 0..4 {
        target.write_at(at * 4096, &[1; 4096]).await.unwrap();
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 4);
    target.flush().await.unwrap();
    assert_eq!(server.flushes.load(Ordering::Relaxed), 4);
    target.flush().await.unwrap();
    assert_eq!(server.flushes.load(Ordering::Relaxed), 5, "nothing was written in between");
}

#[tokio::test]
async fn what_is_read_back_comes_over_new_connections() {
    let server = Server::start(vec![0; SIZE], Manner::default()).await;
    let target = target(&server).await.unwrap();
    target.write_at(4096, &[9; 4096]).await.unwrap();
    let before = server.connections.load(Ordering::Relaxed);
    let reader = target.reader().await.unwrap();
    assert_eq!(server.flushes.load(Ordering::Relaxed), 1, "what is read back is flushed");
    assert_eq!(reader.read_vec(4095, 3).await.unwrap(), [0, 9, 9]);
    assert!(server.connections.load(Ordering::Relaxed) > before);
    drop(reader);
    // Connections that were ended on purpose are no loss.
    target.write_at(0, &[3; 4096]).await.unwrap();
    target.flush().await.unwrap();
    assert!(!target.is_interrupted());
    assert_eq!(server.disk.lock().unwrap()[..2], [3, 3]);
}

#[tokio::test]
async fn zeroing_is_fast_where_the_server_says_so_and_right_where_not() {
    for fast in [Some(true), Some(false), None] {
        let manner = Manner { fast_zero: fast, ..Manner::default() };
        let server = Server::start(vec![7; SIZE], manner).await;
        let target = target(&server).await.unwrap();
        for _ in 0..2 {
            target.write_zeroes(ByteRange::new(4096, SIZE as u64).unwrap()).await.unwrap();
        }
        let disk = server.disk.lock().unwrap();
        assert!(disk[..4096].iter().all(|b| *b == 7) && disk[4096..].iter().all(|b| *b == 0));
    }
}

#[tokio::test]
async fn a_refused_write_keeps_its_meaning() {
    let cases = [
        (1, Kind::TargetUnusable),
        (28, Kind::TargetUnusable),
        (5, Kind::Io),
        (22, Kind::Io),
        (108, Kind::Unavailable),
    ];
    for (code, kind) in cases {
        let manner = Manner { fault: Some(Fault::WriteRefusal(code)), ..Manner::default() };
        let server = Server::start(vec![1; SIZE], manner).await;
        let target = target(&server).await.unwrap();
        let error = target.write_at(0, &[2; 512]).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{code}: {error}");
    }
}
