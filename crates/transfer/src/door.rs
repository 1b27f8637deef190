//! The one door to blocking threads.

use carreto_error::{Error, Kind, Result};

/// Runs `work` on a thread where blocking is allowed.
///
/// Dropping the future does not stop work that has begun.
///
/// # Errors
/// What `work` returns; `Internal` when it panicked.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|failure| {
        Err(Error::new(Kind::Internal, "a worker thread ended unexpectedly").caused_by(failure))
    })
}
