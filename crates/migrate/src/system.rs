//! The one door to the clock and to what identifies the running system.

use jiff::Timestamp;

/// Now, in RFC 3339 (UTC) with seconds.
pub(crate) fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A text that changes with every boot: whether the page cache of an earlier run still lives.
///
/// Without one (no `/proc`), every process counts as a boot of its own, which is safe.
pub(crate) fn boot_id() -> String {
    let path = "/proc/sys/kernel/random/boot_id";
    std::fs::read_to_string(path).map_or_else(
        |_| format!("process {} at {}", std::process::id(), now()),
        |text| text.trim().to_owned(),
    )
}

/// Nanoseconds since 1970.
pub(crate) fn nanos() -> i128 {
    Timestamp::now().as_nanosecond()
}
