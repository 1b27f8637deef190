//! SIGINT and SIGTERM: the first asks the run to end at a safe point, the second ends it now.

use crate::console;
use carreto_error::{Error, IoSide, Result};
use carreto_migrate::Stop;
use std::sync::atomic::{AtomicU8, Ordering};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The exit code of the signal that came first; 0 for none.
static FIRST: AtomicU8 = AtomicU8::new(0);

/// The exit code that the first signal asks for.
pub(crate) fn exit_code() -> Option<u8> {
    Some(FIRST.load(Ordering::SeqCst)).filter(|code| *code != 0)
}

/// Listens from now on.
pub(crate) fn listen(stop: Stop) -> Result<()> {
    let interrupt = register(SignalKind::interrupt())?;
    let terminate = register(SignalKind::terminate())?;
    tokio::spawn(wait(interrupt, 130, stop.clone()));
    tokio::spawn(wait(terminate, 143, stop));
    Ok(())
}

fn register(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|e| Error::io(IoSide::State, "listen for signals", "process", e))
}

async fn wait(mut signal: Signal, code: u8, stop: Stop) {
    while signal.recv().await.is_some() {
        if FIRST.swap(code, Ordering::SeqCst) != 0 {
            std::process::exit(i32::from(code));
        }
        console::tell("carreto: ending at a safe point; once more to end now");
        stop.cancel_with(code);
    }
}
