//! `carreto store gc` and `carreto store probe`

use crate::args::{GcArgs, Output, StoreCommand};
use crate::console::{print_json, print_lines};
use crate::progress::Progress;
use crate::quantity::{show_duration, show_size};
use crate::settings;
use carreto_error::Result;
use carreto_migrate::{GcReport, GcSpec, Setup, UploadEntry, UploadFate};
use std::time::Duration;

/// Runs the command.
pub(crate) async fn run(
    setup: &Setup,
    command: &StoreCommand,
    output: Output,
    progress: &Progress,
) -> Result<()> {
    match command {
        StoreCommand::Gc(args) => gc(setup, args, output, progress).await,
        StoreCommand::Probe { place } => probe(setup, place, output, progress).await,
    }
}

async fn gc(setup: &Setup, args: &GcArgs, output: Output, progress: &Progress) -> Result<()> {
    let spec = GcSpec {
        place: args.place.clone(),
        older_than: args.older_than,
        abort: args.yes,
        abort_needed: args.force_needed,
        state_dir: args.state_dir.clone().unwrap_or_else(settings::state_dir),
    };
    let (report, outcome) = carreto_migrate::store_gc(setup, &spec).await?;
    progress.end();
    match output {
        Output::Json => print_json(&report)?,
        Output::Text => print_lines(&describe(&report, args.yes))?,
    }
    outcome
}

async fn probe(setup: &Setup, place: &str, output: Output, progress: &Progress) -> Result<()> {
    let (report, outcome) = carreto_migrate::store_probe(setup, place).await?;
    progress.end();
    match output {
        Output::Json => print_json(&report)?,
        Output::Text => {
            let found = report.findings.iter();
            let mut lines: Vec<String> =
                found.map(|f| format!("{:20} {:10} {}", f.name, f.result, f.detail)).collect();
            lines.extend(report.left.iter().map(|left| format!("warning:  left behind: {left}")));
            print_lines(&lines)?;
        }
    }
    outcome
}

fn describe(report: &GcReport, aborting: bool) -> Vec<String> {
    let mut lines: Vec<String> = report.uploads.iter().map(line).collect();
    let count = |fate| report.uploads.iter().filter(|upload| upload.state == fate).count();
    let (all, aborted) = (report.uploads.len(), count(UploadFate::Aborted));
    lines.push(if aborting {
        let freed = show_size(report.freed_bytes);
        format!("{}: {aborted} of {all} uploads aborted, {freed} freed", report.store)
    } else {
        let abandoned = count(UploadFate::Abandoned);
        let hint = if abandoned > 0 { "; abort them with --yes" } else { "" };
        format!("{}: {all} uploads under way, {abandoned} abandoned{hint}", report.store)
    });
    if report.more {
        lines.push("warning:  there are more uploads; run the command again".to_owned());
    }
    lines
}

fn line(upload: &UploadEntry) -> String {
    let age = upload.age_seconds.map_or("of unknown age".to_owned(), |age| {
        format!("{} old", show_duration(Duration::from_secs(age)))
    });
    let sent = match (upload.parts, upload.bytes) {
        (Some(parts), Some(bytes)) => format!(", {parts} parts, {}", show_size(bytes)),
        _ => String::new(),
    };
    let fate = match upload.state {
        UploadFate::Young => "young",
        UploadFate::Needed => "needed",
        UploadFate::Abandoned => "abandoned",
        UploadFate::Aborted => "aborted",
        UploadFate::Gone => "gone",
        _ => "failed",
    };
    let job = upload.job.as_ref().map(|job| format!(" by the job {job}")).unwrap_or_default();
    let begun = upload.begun.as_deref().unwrap_or("at an unknown time");
    let UploadEntry { key, upload_id, .. } = upload;
    format!("{fate:9} {key}  begun {begun}, {age}{sent}{job}  {upload_id}")
}
