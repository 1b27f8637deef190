//! What a clock on the wall shows.

use jiff::Zoned;
use jiff::civil::DateTime;

/// Where a throttle reads the time of the day.
pub trait WallClock: Send + Sync + std::fmt::Debug {
    /// The date and the time here and now, summer time included.
    fn now(&self) -> DateTime;
}

/// The clock and the time zone of the system; UTC when it has no zone.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl WallClock for SystemClock {
    fn now(&self) -> DateTime {
        Zoned::now().datetime()
    }
}
