//! The one door to the wall clock and to chance. Durations are measured with tokio's clock, which
//! tests can pause.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, SystemTime};

/// The time of day.
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}

/// A number that nobody can guess.
pub(super) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Between half of `delay` and all of it, so that clients that failed together do not come back
/// together.
pub(super) fn jittered(delay: Duration) -> Duration {
    let chance = random() % 1024;
    let share = u32::try_from(chance).unwrap_or(0);
    delay / 2 + delay / 2 * share / 1024
}
