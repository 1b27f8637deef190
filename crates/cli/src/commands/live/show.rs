//! Reports of online migrations for people.

use crate::args::Output;
use crate::console::{print_json, print_lines};
use crate::quantity::{show_duration, show_size};
use carreto_error::Result;
use carreto_migrate::live::{
    Cleaned, CutoverReport, DiskReport, Finding, FleetEntry, FleetStatus, Prediction, Preflight,
    Report, Severity, State,
};
use std::time::Duration;

/// Prints where a migration stands.
pub(super) fn report(report: &Report, output: Output) -> Result<()> {
    match output {
        Output::Json => print_json(report),
        Output::Text => print_lines(&lines(report)),
    }
}

/// Prints where all servers stand.
pub(super) fn fleet(status: &FleetStatus, output: Output) -> Result<()> {
    match output {
        Output::Json => print_json(status),
        Output::Text => print_lines(&status.servers.iter().map(entry).collect::<Vec<_>>()),
    }
}

fn entry(entry: &FleetEntry) -> String {
    let state = match (&entry.report, entry.joined) {
        _ if entry.committed => "COMMITTED".to_owned(),
        (Some(report), _) => line(report),
        (None, true) => "joined".to_owned(),
        (None, false) => "waits for its agent".to_owned(),
    };
    let connection = match entry.connected {
        Some(true) => "connected",
        _ => "-",
    };
    format!("{:16} {:9} {state}", entry.server, connection)
}

/// One line about a migration.
pub(super) fn line(report: &Report) -> String {
    let is_ahead = !report.state.is_cutover() && report.state != State::Committed;
    let behind = Some(report.backlog_bytes).filter(|bytes| *bytes > 0);
    let eta = report.eta_seconds.filter(|eta| is_ahead && *eta >= 1.0);
    let pause = report.predicted_pause_seconds.filter(|_| is_ahead);
    let parts = [
        Some(format!("{}: {}", report.server, state(report))),
        behind.map(|bytes| format!("{} behind", show_size(bytes))),
        eta.map(|eta| format!("about {} to go", seconds(eta))),
        pause.map(|pause| format!("a cutover now would pause {}", seconds(pause))),
        report.error.as_ref().map(|error| error.detail.clone()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn state(report: &Report) -> String {
    serde_json::to_value(report.state)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn seconds(seconds: f64) -> String {
    let bounded = seconds.clamp(0.0, 1e9);
    if bounded < 10.0 {
        return format!("{bounded:.1} s");
    }
    show_duration(Duration::from_secs_f64(bounded.round()))
}

fn lines(report: &Report) -> Vec<String> {
    let mut lines = vec![
        format!("server:    {} (migration {})", report.server, report.migration),
        format!("state:     {}", line(report)),
        format!("next:      {}", report.next_action),
    ];
    lines.extend(report.agent_running.map(agent));
    lines.extend(totals(report));
    lines.extend(report.disks.iter().map(disk));
    let refused = report.disks.iter().flat_map(|disk| &disk.refused_trackers);
    lines.extend(refused.map(|why| format!("note:      {why}")));
    if let Some(report) = &report.cutover {
        lines.push(cutover(report));
        lines.extend(report.certificate.iter().map(|path| format!("proof:     {path}")));
    }
    lines
}

fn agent(is_running: bool) -> String {
    let word = if is_running { "running" } else { "not running; this is its last report" };
    format!("agent:     {word}")
}

fn totals(report: &Report) -> [String; 4] {
    let totals = &report.totals;
    [
        format!(
            "sent:      {} of data, {} of zeros, {} by reference, {} on the wire",
            show_size(totals.data_bytes),
            show_size(totals.zero_bytes),
            show_size(totals.reference_bytes),
            show_size(totals.wire_bytes)
        ),
        format!(
            "read:      {}, of which {} was there already; {} granules sent again",
            show_size(totals.read_bytes),
            show_size(totals.unchanged_bytes),
            totals.resent_granules
        ),
        format!(
            "tracking:  {} epochs, {} suspect, {} rescans, {} granules missed; {} reconnects",
            totals.epochs,
            totals.suspect_epochs,
            totals.rescans,
            totals.missed_granules,
            totals.reconnects
        ),
        format!(
            "rate:      {}/s sent, {}/s changes, lag {}",
            rate(report.rate),
            rate(report.change_rate),
            seconds(report.lag_seconds)
        ),
    ]
}

fn disk(disk: &DiskReport) -> String {
    let root = disk.root.as_ref().map(|root| format!(", blake3 {root}"));
    let doubt = disk.distrust.as_ref().map(|why| format!(" (not trusted: {why})"));
    format!(
        "disk:      {} ({}) → {}, {} behind, by {}{}{}",
        disk.name,
        show_size(disk.size),
        disk.target,
        show_size(disk.backlog_bytes),
        disk.tracker,
        doubt.unwrap_or_default(),
        root.unwrap_or_default()
    )
}

fn cutover(cutover: &CutoverReport) -> String {
    let steps: Vec<String> =
        cutover.steps.iter().map(|(name, took)| format!("{name} {took:.2}")).collect();
    format!(
        "cutover:   {:.2} s pause ({}); {} granules compared, {} sent, {} missed{}",
        cutover.pause_seconds,
        steps.join(", "),
        cutover.compared_granules,
        cutover.sent_granules,
        cutover.missed_granules,
        if cutover.strict { ", strict" } else { "" }
    )
}

fn rate(value: f64) -> String {
    // Rates are far below what an f64 holds exactly, and never negative.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to what a u64 holds"
    )]
    let bytes = value.clamp(0.0, 1e15) as u64;
    show_size(bytes)
}

/// Prints what a preflight found.
pub(super) fn preflight(preflight: &Preflight, output: Output) -> Result<()> {
    if output == Output::Json {
        return print_json(preflight);
    }
    let mut lines: Vec<String> = preflight.findings.iter().flat_map(finding).collect();
    lines.push(estimate(&preflight.estimate));
    print_lines(&lines)
}

fn estimate(estimate: &Prediction) -> String {
    let (wire, read) = (estimate.wire_bytes, show_size(estimate.read_bytes));
    let time = estimate.configured_seconds.or(estimate.seconds);
    let parts = [
        Some(format!("estimate: {read} to read")),
        Some(format!("{} to {} on the wire", show_size(wire.low), show_size(wire.high))),
        time.map(|time| format!("{} to {}", seconds(time.low), seconds(time.high))),
        estimate
            .cost
            .as_ref()
            .map(|cost| format!("{} to {} {}", cost.low.total, cost.high.total, cost.low.currency)),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn finding(finding: &Finding) -> Vec<String> {
    let word = match finding.severity {
        Severity::Ok => "ok",
        Severity::Warning => "warning",
        Severity::Blocked => "BLOCKED",
    };
    let mut lines = vec![format!("{word:8} {}: {}", finding.item, finding.detail)];
    lines.extend(finding.remedy.iter().map(|remedy| format!("         remedy: {remedy}")));
    lines
}

/// Prints what was removed.
pub(super) fn cleaned(cleaned: &Cleaned, output: Output) -> Result<()> {
    if output == Output::Json {
        return print_json(cleaned);
    }
    let mut lines: Vec<String> =
        cleaned.before.listed().into_iter().map(|what| format!("before:   {what}")).collect();
    lines.extend(cleaned.removed.iter().map(|what| format!("removed:  {what}")));
    lines.extend(cleaned.after.listed().into_iter().map(|what| format!("after:    {what}")));
    if cleaned.after.is_empty() {
        lines.push("after:    nothing".to_owned());
    }
    print_lines(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_that_an_agent_left_says_so() {
        assert_eq!(agent(true), "agent:     running");
        assert!(agent(false).contains("not running"));
    }
}
