//! A second connection: what is kept from the first, and what is not.

use super::server::{Fault, Later, Manner, Server};
use super::{SIZE, impatient, source, target};
use carreto_block::{ByteRange, Placement, Source as _, SourceExt as _, Target as _};
use carreto_error::Kind;
use carreto_store::{NbdOptions, NbdSource, SilentObserver};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpStream, UnixListener};
use tokio::task::JoinHandle;

fn one_connection() -> NbdOptions {
    NbdOptions { connections: 1, ..NbdOptions::default() }
}

#[tokio::test]
async fn a_server_with_one_place_is_left_before_it_is_asked_again() {
    for fault in [Fault::Garbage, Fault::Twice, Fault::Stranger, Fault::Silence] {
        let manner = Manner { fault: Some(fault), one_client: true, ..Manner::default() };
        let server = Server::start(vec![3; SIZE], manner).await;
        let options = NbdOptions { answer_timeout: Duration::from_secs(1), ..one_connection() };
        let source = source(&server, options).await.unwrap();
        assert_eq!(source.read_vec(0, 2).await.unwrap(), [3, 3], "{fault:?}");
        assert_eq!(server.connections.load(Ordering::Relaxed), 2, "{fault:?}");
    }
}

/// Every connection has its own number for the context.
#[tokio::test]
async fn the_context_is_that_of_the_connection() {
    for later in [None, Some(Later::NoStatus)] {
        let manner = Manner { fault: Some(Fault::HangUp), later, ..Manner::default() };
        let server = Server::start(vec![0; SIZE], manner).await;
        let source = source(&server, one_connection()).await.unwrap();
        let range = ByteRange::new(0, 8192).unwrap();
        let first = source.extents(range, 8).await.unwrap();
        assert!(first.iter().all(|extent| matches!(extent.placement, Placement::Zero)));
        assert_eq!(source.read_vec(0, 2).await.unwrap(), [0, 0]);
        let second = source.extents(range, 8).await.unwrap();
        assert_eq!(server.connections.load(Ordering::Relaxed), 2);
        let known = second.iter().all(|extent| matches!(extent.placement, Placement::Zero));
        assert_eq!((known, second.is_empty()), (later.is_none(), false));
    }
}

#[tokio::test]
async fn another_disk_is_refused() {
    let manner = Manner {
        fault: Some(Fault::HangUp),
        min_block: Some(512),
        later: Some(Later::Blocks),
        ..Manner::default()
    };
    let server = Server::start(vec![3; SIZE], manner.clone()).await;
    let blocks = source(&server, one_connection()).await.unwrap();
    assert_eq!(blocks.read_vec(0, 2).await.unwrap_err().kind(), Kind::SourceChanged);
    let server = Server::start(vec![3; SIZE], Manner { later: None, ..manner }).await;
    let size = source(&server, one_connection()).await.unwrap();
    server.disk.lock().unwrap().truncate(SIZE - 4096);
    assert_eq!(size.read_vec(0, 2).await.unwrap_err().kind(), Kind::SourceChanged);
}

/// Serves `server` on a Unix socket until it is aborted.
fn forward(socket: PathBuf, server: &Server) -> JoinHandle<()> {
    let place = server.address.trim_start_matches("nbd://").trim_end_matches("/disk").to_owned();
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = TcpStream::connect(&place).await.unwrap();
            // Either side may hang up.
            let _ended = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        }
    })
}

async fn over(socket: &Path) -> NbdSource {
    let address = format!("nbd+unix:///disk?socket={}", socket.display());
    let observer = Arc::new(SilentObserver);
    NbdSource::open(address.parse().unwrap(), one_connection(), observer).await.unwrap()
}

/// The socket is gone, then nobody listens, then the export is not there yet.
#[tokio::test]
async fn a_server_that_is_started_anew_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("nbd.sock");
    let manner = Manner { later: Some(Later::Unknown), ..Manner::default() };
    let server = Server::start(vec![3; SIZE], manner).await;
    let forwarding = forward(socket.clone(), &server);
    let source = over(&socket).await;
    forwarding.abort();
    // It ended because it was aborted.
    let _aborted = forwarding.await;
    std::fs::remove_file(&socket).unwrap();
    let restart = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        tokio::time::sleep(Duration::from_millis(400)).await;
        std::fs::remove_file(&socket).unwrap();
        // It serves until the runtime of the test ends.
        drop(forward(socket.clone(), &server));
    };
    let (read, ()) = tokio::join!(source.read_vec(0, 2), restart);
    assert_eq!(read.unwrap(), [3, 3]);
    assert_eq!(server.connections.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn zeroing_that_is_too_much_for_the_server_is_asked_for_in_parts() {
    for (code, fast_zero) in [(22, None), (75, None), (22, Some(true)), (75, Some(true))] {
        let zero_limit = Some((1 << 20, code));
        let min_block = Some(1);
        let manner = Manner { min_block, fast_zero, zero_limit, ..Manner::default() };
        let server = Server::start(vec![3; SIZE], manner).await;
        let target = target(&server).await.unwrap();
        target.write_zeroes(ByteRange::new(0, SIZE as u64 - 1).unwrap()).await.unwrap();
        let disk = server.disk.lock().unwrap().clone();
        assert!(disk[..SIZE - 1].iter().all(|byte| *byte == 0) && disk[SIZE - 1] == 3);
    }
    let manner = Manner { zero_limit: Some((0, 22)), min_block: Some(1), ..Manner::default() };
    let server = Server::start(vec![3; SIZE], manner).await;
    let target = target(&server).await.unwrap();
    let refused = target.write_zeroes(ByteRange::new(0, SIZE as u64).unwrap()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Io, "{refused}");
}

#[tokio::test]
async fn senseless_sizes_and_states_are_refused() {
    let manner = Manner { claims: Some(u64::MAX), ..Manner::default() };
    let server = Server::start(vec![3; SIZE], manner).await;
    assert_eq!(source(&server, impatient()).await.unwrap_err().kind(), Kind::Unavailable);
    let manner = Manner { status_bytes: Some(512), min_block: Some(4096), ..Manner::default() };
    let server = Server::start(vec![3; SIZE], manner).await;
    let source = source(&server, impatient()).await.unwrap();
    let (inside, before) =
        (ByteRange::new(100, 5000).unwrap(), ByteRange::new(1024, 5000).unwrap());
    assert_eq!(
        source.extents(inside, 8).await.unwrap()[0].range,
        ByteRange::new(100, 512).unwrap()
    );
    assert_eq!(source.extents(before, 8).await.unwrap_err().kind(), Kind::Unavailable);
}
