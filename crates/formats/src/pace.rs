//! Letting other tasks have a turn during long walks, so that a timeout or a cancellation is
//! noticed. The crate knows no runtime.

use std::future::poll_fn;
use std::task::Poll;

/// Entries of tables between two pauses: well below a tenth of a second's work.
const BETWEEN: u64 = 1 << 18;

/// Counts work and pauses now and then.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    done: u64,
}

impl Pace {
    /// Counts `work` entries, and gives way if there were many since the last time.
    pub(crate) async fn step(&mut self, work: u64) {
        self.done = self.done.saturating_add(work);
        if self.done >= BETWEEN {
            self.done = 0;
            give_way().await;
        }
    }
}

async fn give_way() {
    let mut gave = false;
    poll_fn(|context| {
        if gave {
            return Poll::Ready(());
        }
        gave = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn much_work_gives_way_once() {
        let mut pace = Pace::default();
        assert!(pace.step(BETWEEN - 1).now_or_never().is_some());
        assert!(pace.step(1).now_or_never().is_none());
        assert!(pace.step(1).now_or_never().is_some());
        pace.step(BETWEEN).await;
    }
}
