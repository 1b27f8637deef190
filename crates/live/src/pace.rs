//! How fast data may leave: a limit that can change with the time of the day and of the week.
//!
//! One [`Throttle`] is shared by all data streams of an agent. The control connection is not
//! throttled.

mod clock;
mod rate;
mod schedule;
mod throttle;

#[cfg(test)]
mod schedule_tests;
#[cfg(test)]
mod throttle_tests;

pub use clock::{SystemClock, WallClock};
pub use schedule::Schedule;
pub use throttle::Throttle;
