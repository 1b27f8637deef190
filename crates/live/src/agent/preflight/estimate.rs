//! What the first pass will take.

use super::super::config::AgentConfig;
use super::document::{CostRange, DiskFacts, Prediction, Range};
use super::findings::Findings;
use crate::granule::granules_in;
use carreto_error::Result;
use jiff::Zoned;
use std::time::Duration;

/// Bytes of memory for a granule of data: its leaf in the ledger, a mark, and its bits in sets.
const OF_DATA: u64 = 42;
/// For a granule of zeros: a mark, and its bits in sets.
const OF_ZEROS: u64 = 3;
/// For each thread that prepares pieces, and for everything else: tables, buffers, connections.
const OF_THREAD: u64 = 16 << 20;
const BASE: u64 = 64 << 20;

/// What was measured.
pub(super) struct Measured<'a> {
    pub(super) disks: &'a [DiskFacts],
    /// Bytes per second over the line.
    pub(super) rate: Option<f64>,
}

/// # Errors
/// `Usage` for a price that is none.
pub(super) fn estimate(
    config: &AgentConfig,
    measured: &Measured<'_>,
    findings: &mut Findings,
) -> Result<Prediction> {
    let read_bytes = measured.disks.iter().map(|disk| disk.size).sum();
    let wire_bytes = wire(measured);
    let reading = reading(config, measured.disks);
    let configured = config.bandwidth.rate_at(Zoned::now().datetime()).map(|rate| rate as f64);
    let at = |rate: f64| seconds(wire_bytes, rate, reading);
    let limited = |limit: f64| at(measured.rate.map_or(limit, |rate| rate.min(limit)));
    let (seconds, configured_seconds) = (measured.rate.map(at), configured.map(limited));
    strict_pause(config, reading, findings);
    Ok(Prediction {
        read_bytes,
        wire_bytes,
        seconds,
        configured_seconds,
        memory_bytes: memory(config, measured.disks),
        cost: cost(config, wire_bytes, configured_seconds.or(seconds))?,
    })
}

/// Bytes on the wire: by the samples, and at least what the file systems use.
fn wire(measured: &Measured<'_>) -> Range<u64> {
    let mut range = Range { low: 0_u64, high: 0_u64 };
    for disk in measured.disks {
        let Some(sample) = disk.sample else {
            range.high = range.high.saturating_add(disk.size);
            continue;
        };
        let size = disk.size as f64;
        let low = (sample.wire_share - sample.wire_share_error).max(0.0) * size;
        let high = (sample.wire_share + sample.wire_share_error).min(1.0) * size;
        // Used bytes may be zeros, so they are a lower estimate only as far as samples agree.
        let used = disk.used_bytes.map(|used| used.min(disk.size) as f64 * sample.compressed);
        let low = used.map_or(low, |used| low.max(used).min(sample.wire_share * size));
        range.low = range.low.saturating_add(bytes(low));
        range.high = range.high.saturating_add(bytes(high));
    }
    range
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates at both ends"
)]
fn bytes(number: f64) -> u64 {
    number as u64
}

/// Seconds that reading every disk takes: all readers at a time, or one.
fn reading(config: &AgentConfig, disks: &[DiskFacts]) -> Range<f64> {
    let one: f64 = disks
        .iter()
        .filter_map(|disk| Some(disk.size as f64 / disk.sample?.read_rate.max(1.0)))
        .sum();
    Range { low: one / config.worker_count() as f64, high: one }
}

/// The slower one of reading and sending decides.
fn seconds(wire: Range<u64>, rate: f64, reading: Range<f64>) -> Range<f64> {
    let sending = |bytes: u64| bytes as f64 / rate.max(1.0);
    Range { low: sending(wire.low).max(reading.low), high: sending(wire.high).max(reading.high) }
}

/// The strict mode reads everything while the source stands still.
fn strict_pause(config: &AgentConfig, reading: Range<f64>, findings: &mut Findings) {
    let (low, high) = (reading.low, reading.high);
    if !config.cutover.strict {
        return;
    }
    let text = format!("strict: reading every disk takes {low:.0} to {high:.0} s of pause");
    if low > config.cutover.max_pause_seconds {
        let remedy = "set cutover.strict = false, or raise cutover.max_pause_seconds";
        findings.warning("pause", text, remedy);
    } else {
        findings.ok("pause", text);
    }
}

fn memory(config: &AgentConfig, disks: &[DiskFacts]) -> u64 {
    let of = |disk: &DiskFacts| {
        let data = disk.sample.map_or(1.0, |sample| 1.0 - sample.zero_share);
        let granules = granules_in(disk.size);
        let data = bytes(granules as f64 * data).min(granules);
        let zeros = (granules - data).saturating_mul(OF_ZEROS);
        data.saturating_mul(OF_DATA).saturating_add(zeros)
    };
    let threads = (config.worker_count() as u64).saturating_mul(OF_THREAD);
    disks.iter().map(of).fold(BASE.saturating_add(threads), u64::saturating_add)
}

/// None without prices, or without a time.
fn cost(
    config: &AgentConfig,
    wire: Range<u64>,
    seconds: Option<Range<f64>>,
) -> Result<Option<CostRange>> {
    let (Some(prices), Some(seconds)) = (&config.cost, seconds) else { return Ok(None) };
    let time = |seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    let low = prices.estimate(wire.low, time(seconds.low))?;
    let high = prices.estimate(wire.high, time(seconds.high))?;
    Ok(Some(CostRange { low, high }))
}
