//! SIGINT and SIGTERM: the first asks the run to end at a safe point, the second ends it now.
//! SIGUSR1 asks how far it is.

use crate::progress::Progress;
use carreto_error::{Error, IoSide, Result};
use carreto_migrate::Stop;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The exit code of the signal that came first; 0 for none.
static FIRST: AtomicU8 = AtomicU8::new(0);

/// The exit code that the first signal asks for.
pub(crate) fn exit_code() -> Option<u8> {
    Some(FIRST.load(Ordering::SeqCst)).filter(|code| *code != 0)
}

/// Listens from now on.
pub(crate) fn listen(stop: &Stop, progress: &Arc<Progress>) -> Result<()> {
    for (kind, code) in [(SignalKind::interrupt(), 130), (SignalKind::terminate(), 143)] {
        tokio::spawn(end(register(kind)?, code, stop.clone(), Arc::clone(progress)));
    }
    tokio::spawn(show(register(SignalKind::user_defined1())?, Arc::clone(progress)));
    Ok(())
}

fn register(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|e| Error::io(IoSide::State, "listen for signals", "process", e))
}

async fn end(mut signal: Signal, code: u8, stop: Stop, progress: Arc<Progress>) {
    while signal.recv().await.is_some() {
        if FIRST.compare_exchange(0, code, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            std::process::exit(i32::from(code));
        }
        progress.answer("ending at a safe point; once more to end now");
        stop.cancel_with(code);
    }
}

async fn show(mut signal: Signal, progress: Arc<Progress>) {
    while signal.recv().await.is_some() {
        progress.show_line();
    }
}
