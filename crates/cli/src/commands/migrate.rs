//! `carreto migrate`

use crate::args::{MigrateArgs, Output, RoleArg, VerifyArg};
use crate::console::{self, print_json, print_lines};
use crate::progress::Progress;
use crate::quantity::{show_duration, show_size, whole};
use crate::text::redact;
use crate::{failure, settings};
use carreto_error::Result;
use carreto_migrate::{JobSpec, Plan, Report, Role, Setup, Verify};
use std::time::Duration;

/// Runs a migration, or prints its plan.
pub(crate) async fn run(
    setup: &Setup,
    args: &MigrateArgs,
    output: Output,
    progress: &Progress,
) -> Result<()> {
    let mut spec = job(args);
    if args.dry_run {
        let mut plan = carreto_migrate::plan(setup, &spec).await?;
        plan.image.image = redact(&plan.image.image);
        return match output {
            Output::Json => print_json(&plan),
            Output::Text => print_lines(&describe_plan(&plan)),
        };
    }
    spec.confirmed = args.yes || confirmed(args);
    let (report, outcome) = carreto_migrate::migrate(setup, &spec).await;
    progress.end();
    let report = for_print(report, &outcome);
    let printed = match (output, &outcome) {
        (Output::Json, _) => print_json(&report),
        (Output::Text, Ok(())) => print_lines(&describe(&report)),
        (Output::Text, Err(_)) => Ok(()),
    };
    // What became of the disk counts more than what became of the report.
    outcome?;
    printed.map_err(|error| {
        if console::nobody_reads(&error) {
            return error;
        }
        let done = "the migration is done, but its report cannot be printed";
        let dir = spec.state_dir.join("jobs");
        error.wrap(done).remedied_by(format!(
            "nothing is left to do; the report lies in {} as well",
            dir.display()
        ))
    })
}

/// The report with the exit code that this process will end with, and without signatures.
fn for_print(report: Report, outcome: &Result<()>) -> Report {
    let error = outcome.as_ref().err().map(failure::document);
    Report { image: redact(&report.image), error, ..report }
}

fn job(args: &MigrateArgs) -> JobSpec {
    let state_dir = args.state_dir.clone().unwrap_or_else(settings::state_dir);
    JobSpec {
        role: args.role.map(|role| match role {
            RoleArg::System => Role::System,
            RoleArg::Data => Role::Data,
        }),
        verify: match args.verify {
            VerifyArg::Full => Verify::Full,
            VerifyArg::None => Verify::None,
        },
        timeout: args.timeout,
        stall_timeout: Some(args.stall_timeout).filter(|limit| !limit.is_zero()),
        memory: args.memory,
        limit_rate: args.limit_rate,
        restart: args.restart,
        ..JobSpec::new(args.image.spec(), &args.target, state_dir)
    }
}

/// Asks on a terminal before a device is overwritten.
fn confirmed(args: &MigrateArgs) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    let is_device =
        std::fs::metadata(&args.target).is_ok_and(|found| found.file_type().is_block_device());
    let is_export = args.target.to_str().is_some_and(is_export);
    if !(is_device || is_export) || !console::is_interactive() {
        return false;
    }
    let name = args.target.display().to_string();
    let question = format!("Everything on {name} will be lost. Type its name to go on:");
    console::confirm(&question, &name)
}

/// Whether the text names an NBD export.
fn is_export(text: &str) -> bool {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    scheme.is_some_and(|scheme| matches!(scheme.as_str(), "nbd" | "nbd+unix"))
}

fn describe(report: &Report) -> Vec<String> {
    let copied = &report.copied;
    let mut lines = vec![format!(
        "{} -> {}: done in {}",
        report.image,
        report.target,
        show_duration(Duration::try_from_secs_f64(report.elapsed_seconds).unwrap_or_default()),
    )];
    lines.push(format!(
        "copied:   {} of data ({} of zeros not transferred), {}/s",
        show_size(copied.data_bytes),
        show_size(copied.zero_bytes),
        show_size(whole(copied.data_bytes_per_second)),
    ));
    if copied.resumed_bytes > 0 {
        let (resumed, resent) = (show_size(copied.resumed_bytes), show_size(copied.resent_bytes));
        lines.push(format!("resumed:  {resumed} were done before, {resent} sent again"));
    }
    match &report.verify.digest {
        Some(digest) => lines.push(format!(
            "verified: {} read back, {} {digest}",
            show_size(report.verify.read_bytes),
            report.verify.algorithm,
        )),
        None => lines.push("verified: no (--verify none)".into()),
    }
    if report.verify.manifest_matched == Some(true) {
        lines.push("manifest: the disk is what was uploaded".into());
    }
    for warning in &report.warnings {
        lines.push(format!("warning:  {} ({})", warning.text, warning.code));
    }
    lines
}

fn describe_plan(plan: &Plan) -> Vec<String> {
    let mut lines = vec![
        format!("image:    {} ({}, {})", plan.image.image, plan.image.format, plan.image.subformat),
        format!("disk:     {} bytes", plan.image.virtual_size),
        format!("target:   {}", plan.target),
        format!("to copy:  {} of data", show_size(plan.data_bytes)),
        format!("verify:   {}", plan.verify),
    ];
    if plan.resumed_bytes > 0 {
        lines.push(format!("resumes:  {} are done", show_size(plan.resumed_bytes)));
    }
    for warning in &plan.image.warnings {
        lines.push(format!("warning:  {} ({})", warning.text, warning.code));
    }
    if plan.needs_yes {
        lines.push("confirm:  a disk is overwritten only with --yes, or when asked".into());
    }
    lines.push("nothing was written (--dry-run)".into());
    lines
}
