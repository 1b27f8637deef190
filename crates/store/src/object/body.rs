//! The bytes of an answer on their way into the caller's buffer.

use super::failure::{Again, Failure};
use super::handle::{Limits, ObjectStoreHandle};
use bytes::Bytes;
use carreto_error::{Error, Kind, Result};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// The body of an answer.
pub(super) type Body = BoxStream<'static, object_store::Result<Bytes>>;

/// Copies a body into `buf`, holding it to that length and to some progress. Returns how many
/// bytes arrived, which are right also after a failure.
pub(super) async fn receive(
    mut body: Body,
    buf: &mut [u8],
    limits: &Limits,
    handle: &ObjectStoreHandle,
) -> (usize, Result<(), Failure>) {
    let mut pace = Pace::new(limits);
    let mut done = 0;
    while done < buf.len() {
        let chunk = match timeout_at(pace.deadline, body.next()).await {
            Err(_) => return (done, Err(Failure::stalled(pace.patience, pace.bytes))),
            Ok(None) => return (done, Err(short(done, buf.len()))),
            Ok(Some(Err(error))) => return (done, Err(handle.bucket.failure(&error))),
            Ok(Some(Ok(chunk))) => chunk,
        };
        let Some(room) = buf.get_mut(done..done + chunk.len()) else {
            return (0, Err(excess()));
        };
        room.copy_from_slice(&chunk);
        done += chunk.len();
        pace.advance(chunk.len());
    }
    (done, Ok(()))
}

fn short(done: usize, wanted: usize) -> Failure {
    let text = format!("the answer ended after {done} of {wanted} bytes");
    Failure::new(Again::Later, Error::new(Kind::Unavailable, text))
}

fn excess() -> Failure {
    let text = "the answer has more bytes than were asked for";
    Failure::new(Again::Few, Error::new(Kind::Unavailable, text))
}

/// Notices a body that stands still, or only trickles.
struct Pace {
    patience: Duration,
    needed: u64,
    deadline: Instant,
    bytes: u64,
}

impl Pace {
    fn new(limits: &Limits) -> Self {
        Self {
            patience: limits.read_timeout,
            needed: limits.min_progress.max(1),
            deadline: Instant::now() + limits.read_timeout,
            bytes: 0,
        }
    }

    fn advance(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if self.bytes >= self.needed {
            self.bytes = 0;
            self.deadline = Instant::now() + self.patience;
        }
    }
}
