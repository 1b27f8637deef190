//! The order of changes to one target. An async call that is dropped leaves its work on a blocking
//! thread; without an order, its late zeros or old bytes could fall on what was written after it.

use super::calls::{HOP, blocking};
use carreto_block::{AlignedBuf, ByteRange};
use carreto_error::{Error, Kind, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Whether somebody still waits for a call; by default somebody does.
#[derive(Debug, Clone, Default)]
pub(super) struct Call(Option<Arc<AtomicBool>>);

impl Call {
    /// # Errors
    /// `Cancelled` when the call was dropped.
    pub(super) fn check(&self) -> Result<()> {
        if self.0.as_ref().is_some_and(|dropped| dropped.load(Ordering::SeqCst)) {
            return Err(Error::new(Kind::Cancelled, "nobody waits for it any more"));
        }
        Ok(())
    }
}

/// Lies in the future of a call and tells its work when that is dropped.
struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Runs `work` on a thread that may block. Dropping the future tells the `work` through its
/// [`Call`]; what has not entered its turn by then never does.
pub(super) async fn told<T: Send + 'static>(
    work: impl FnOnce(&Call) -> Result<T> + Send + 'static,
) -> Result<T> {
    let waiting = Waiting(Arc::default());
    let call = Call(Some(Arc::clone(&waiting.0)));
    let outcome = blocking(move || work(&call)).await;
    drop(waiting);
    outcome
}

/// A target whose changes wait for their turn.
pub(super) trait InTurn: Clone + Send + Sync + 'static {
    /// Writes `data` at `offset`.
    fn write_in_turn(&self, offset: u64, data: &[u8], call: &Call) -> Result<()>;
    /// Zeroes `range`.
    fn zero_in_turn(&self, range: ByteRange, call: &Call) -> Result<()>;
    /// Gives `range` back.
    fn discard_in_turn(&self, range: ByteRange, call: &Call) -> Result<()>;
}

/// An async write made of blocking ones.
pub(super) async fn write<W: InTurn>(writer: &W, offset: u64, data: &[u8]) -> Result<()> {
    let mut at = offset;
    for chunk in data.chunks(HOP) {
        let mut bytes = AlignedBuf::zeroed(chunk.len())?;
        bytes.copy_from_slice(chunk);
        let writer = writer.clone();
        told(move |call| writer.write_in_turn(at, &bytes, call)).await?;
        at = at.saturating_add(chunk.len() as u64);
    }
    Ok(())
}

/// An async zeroing.
pub(super) async fn zero<W: InTurn>(writer: &W, range: ByteRange) -> Result<()> {
    let writer = writer.clone();
    told(move |call| writer.zero_in_turn(range, call)).await
}

/// An async discard.
pub(super) async fn discard<W: InTurn>(writer: &W, range: ByteRange) -> Result<()> {
    let writer = writer.clone();
    told(move |call| writer.discard_in_turn(range, call)).await
}

/// The ranges that are being changed; changes of bytes in common happen one after the other.
#[derive(Debug, Default)]
pub(super) struct Turns {
    state: Mutex<State>,
    left: Condvar,
}

#[derive(Debug, Default)]
struct State {
    busy: Vec<ByteRange>,
    waiting: usize,
}

impl Turns {
    /// Waits until nothing else changes `range`. Those waited for are running, so this ends.
    ///
    /// # Errors
    /// `Cancelled` when the call was dropped before its turn came.
    pub(super) fn enter(&self, range: ByteRange, call: &Call) -> Result<Turn<'_>> {
        let mut state = self.lock();
        while state.busy.iter().any(|busy| overlap(*busy, range)) {
            state.waiting += 1;
            state = self.left.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
        // Under the lock: who drops the call and then enters finds either this range or none.
        call.check()?;
        state.busy.push(range);
        Ok(Turn { turns: self, range })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn overlap(one: ByteRange, other: ByteRange) -> bool {
    !one.is_empty() && !other.is_empty() && one.start() < other.end() && other.start() < one.end()
}

/// The right to change a range, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'t> {
    turns: &'t Turns,
    range: ByteRange,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.turns.lock();
        if let Some(at) = state.busy.iter().position(|busy| *busy == self.range) {
            state.busy.swap_remove(at);
        }
        if state.waiting > 0 {
            self.turns.left.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start, end).unwrap()
    }

    #[test]
    fn a_change_waits_for_one_of_the_same_bytes_and_for_no_other() {
        let turns = Turns::default();
        let call = Call::default();
        let first = turns.enter(range(0, 100), &call).unwrap();
        drop(turns.enter(range(100, 200), &call).unwrap());
        drop(turns.enter(range(50, 50), &call).unwrap());
        let (sender, receiver) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _turn = turns.enter(range(99, 150), &Call::default()).unwrap();
                sender.send("second").unwrap();
            });
            while turns.lock().waiting == 0 {
                assert_eq!(receiver.try_recv(), Err(mpsc::TryRecvError::Empty), "did not wait");
                std::thread::yield_now();
            }
            assert_eq!(receiver.try_recv(), Err(mpsc::TryRecvError::Empty), "did not wait");
            drop(first);
            assert_eq!(receiver.recv(), Ok("second"));
        });
        assert_eq!(turns.lock().busy, []);
    }

    #[test]
    fn a_dropped_call_never_gets_its_turn() {
        let turns = Turns::default();
        let waiting = Waiting(Arc::default());
        let call = Call(Some(Arc::clone(&waiting.0)));
        drop(turns.enter(range(0, 10), &call).unwrap());
        drop(waiting);
        let error = turns.enter(range(0, 10), &call).unwrap_err();
        assert_eq!(error.kind(), Kind::Cancelled);
        assert_eq!(turns.lock().busy, []);
    }

    #[test]
    fn dropping_the_future_tells_the_work() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (started, is_started) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel();
        let (ended, outcome) = mpsc::channel();
        let _entered = runtime.enter();
        let mut work = Box::pin(told(move |call| {
            started.send(call.check().is_ok()).unwrap();
            may_go_on.recv().unwrap();
            ended.send(call.check().is_err()).unwrap();
            Ok(())
        }));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(work.as_mut().poll(&mut context).is_pending());
        assert_eq!(is_started.recv(), Ok(true));
        drop(work);
        go_on.send(()).unwrap();
        assert_eq!(outcome.recv(), Ok(true));
    }
}
