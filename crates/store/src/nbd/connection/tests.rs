//! A connection against a peer in memory, with a clock that runs only while everybody waits.

use super::super::wire::{CMD_BLOCK_STATUS, CMD_READ, SIMPLE_MAGIC, STRUCTURED_MAGIC};
use super::*;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};
use tokio::time::sleep;

const PATIENCE: Duration = Duration::from_mins(2);

fn connect(room: usize, allocation: Option<u32>) -> (Connection, DuplexStream) {
    let (ours, theirs) = duplex(room);
    let structured = allocation.is_some();
    let mut agreed = Agreed::plain(1 << 40);
    (agreed.structured, agreed.allocation) = (structured, allocation);
    (Connection::start(Box::new(ours), agreed, Arc::default()), theirs)
}

fn read(len: u32) -> Request {
    let wanted = Assembly::bytes(0, usize::try_from(len).unwrap());
    Request { command: CMD_READ, flags: 0, offset: 0, len, payload: Vec::new(), wanted }
}

fn status() -> Request {
    let (command, wanted) = (CMD_BLOCK_STATUS, Assembly::status());
    Request { command, flags: 0, offset: 0, len: 1 << 30, payload: Vec::new(), wanted }
}

/// Reads the head of a request; gives its cookie.
async fn cookie(peer: &mut DuplexStream) -> u64 {
    let mut head = [0; 28];
    peer.read_exact(&mut head).await.unwrap();
    u64::from_be_bytes(head[8..16].try_into().unwrap())
}

async fn answer(peer: &mut DuplexStream, cookie: u64) {
    peer.write_u32(SIMPLE_MAGIC).await.unwrap();
    peer.write_u32(0).await.unwrap();
    peer.write_u64(cookie).await.unwrap();
}

/// Answers with `count` descriptors of 4096 bytes, every other zero, or breaks off when the
/// client hangs up.
async fn describe(peer: &mut DuplexStream, context: u32, count: u32) -> std::io::Result<()> {
    let cookie = cookie(peer).await;
    peer.write_u32(STRUCTURED_MAGIC).await?;
    peer.write_u32(0x0001_0005).await?;
    peer.write_u64(cookie).await?;
    peer.write_u32(4 + 8 * count).await?;
    peer.write_u32(context).await?;
    for number in 0..count {
        peer.write_u64((4096 << 32) | (u64::from(number % 2) * 3)).await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_slow_connection_is_waited_for() {
    let (connection, mut peer) = connect(64, None);
    let server = async {
        let cookie = cookie(&mut peer).await;
        answer(&mut peer, cookie).await;
        for byte in 0..100 {
            sleep(PATIENCE * 9 / 10).await;
            peer.write_u8(byte).await.unwrap();
        }
    };
    let (answered, ()) = tokio::join!(connection.call(read(100), PATIENCE), server);
    let Assembly::Bytes { bytes, .. } = answered.unwrap() else { unreachable!() };
    assert_eq!(bytes, (0..100).collect::<Vec<u8>>());
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_closed() {
    let (connection, mut peer) = connect(64, None);
    let server = async {
        cookie(&mut peer).await;
        // Hears the other side hang up, although the connection is still held.
        assert_eq!(peer.read(&mut [0]).await.unwrap(), 0);
    };
    let (answered, ()) = tokio::join!(connection.call(read(1), PATIENCE), server);
    assert_eq!(answered.unwrap_err().kind(), Kind::Unavailable);
    assert!(connection.is_broken());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_hangs_up_on_one_side_is_let_go() {
    let (connection, peer) = connect(64, None);
    let (mut from, mut to) = split(peer);
    to.shutdown().await.unwrap();
    assert_eq!(from.read(&mut [0]).await.unwrap(), 0);
    let error = connection.call(read(1), PATIENCE).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn callers_that_go_away_leave_nothing_behind() {
    // The peer takes one request and a half.
    let (connection, mut peer) = connect(40, None);
    {
        let calls = (0..100).map(|_| connection.call(read(1), PATIENCE));
        let mut calls: FuturesUnordered<_> = calls.collect();
        tokio::time::timeout(PATIENCE / 2, calls.next()).await.unwrap_err();
    }
    let left = connection.shared.lock().waiting.len();
    assert!((1..=QUEUE + 2).contains(&left), "{left} wait");
    assert!(!connection.retire());
    for _ in 0..left {
        let cookie = cookie(&mut peer).await;
        answer(&mut peer, cookie).await;
        peer.write_u8(7).await.unwrap();
    }
    let server = async {
        let cookie = cookie(&mut peer).await;
        answer(&mut peer, cookie).await;
        peer.write_u8(8).await.unwrap();
    };
    let (answered, ()) = tokio::join!(connection.call(read(1), PATIENCE), server);
    let Assembly::Bytes { bytes, .. } = answered.unwrap() else { unreachable!() };
    assert_eq!(bytes, [8]);
    assert!(connection.retire());
}

#[tokio::test(start_paused = true)]
async fn the_longest_block_status_is_taken_and_its_beginning_kept() {
    for count in [2, 65_536, 1 << 20] {
        let (connection, mut peer) = connect(1 << 16, Some(5));
        let (answered, described) =
            tokio::join!(connection.call(status(), PATIENCE), describe(&mut peer, 5, count));
        described.unwrap();
        let Assembly::Status { pieces, .. } = answered.unwrap() else { unreachable!() };
        assert_eq!(pieces.len(), count.min(8192) as usize);
        assert_eq!(pieces[..2], [(4096, false), (4096, true)]);
    }
    for (context, count) in [(5, (1 << 20) + 1), (6, 2), (5, 0)] {
        let (connection, mut peer) = connect(1 << 16, Some(5));
        // The peer may notice that the client has hung up.
        let (answered, _described) =
            tokio::join!(connection.call(status(), PATIENCE), describe(&mut peer, context, count));
        assert_eq!(answered.unwrap_err().kind(), Kind::Unavailable, "{context} {count}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_context_everything_may_be_data() {
    let (connection, _peer) = connect(64, None);
    let Assembly::Status { pieces, .. } = connection.call(status(), PATIENCE).await.unwrap() else {
        unreachable!()
    };
    assert_eq!(pieces, [(1 << 30, false)]);
}
