//! The commands that look at images.

use crate::args::{ImageArgs, OpenArgs, Output};
use crate::console::{print, print_json, print_lines};
use crate::quantity::show_size;
use crate::text::redact;
use carreto_error::{Error, Kind, Result};
use carreto_migrate::{Algorithm, Difference, ImageFacts, MapEntry, MapKind, Setup};

/// `carreto info`
pub(crate) async fn info(setup: &Setup, image: &ImageArgs, output: Output) -> Result<()> {
    let mut facts = carreto_migrate::inspect(setup, &image.spec()).await?;
    facts.image = redact(&facts.image);
    match output {
        Output::Json => print_json(&facts),
        Output::Text => print_lines(&describe(&facts)),
    }
}

/// `carreto check`
pub(crate) async fn check(
    setup: &Setup,
    image: &ImageArgs,
    quick: bool,
    output: Output,
) -> Result<()> {
    let mut outcome = carreto_migrate::check(setup, &image.spec(), quick).await?;
    outcome.facts.image = redact(&outcome.facts.image);
    match output {
        Output::Json => print_json(&outcome),
        Output::Text => {
            let count = outcome.facts.warnings.len();
            let verdict = match count {
                0 => "no errors found".to_owned(),
                1 => "readable, with 1 warning".to_owned(),
                _ => format!("readable, with {count} warnings"),
            };
            let mut lines = describe(&outcome.facts);
            lines.push(format!("result:         {verdict}"));
            print_lines(&lines)
        }
    }
}

/// `carreto map`
pub(crate) async fn map(setup: &Setup, image: &ImageArgs, output: Output) -> Result<()> {
    let mut entries = Vec::new();
    if output == Output::Text {
        print("start length kind offset file")?;
    }
    carreto_migrate::map(setup, &image.spec(), |entry| match output {
        Output::Json => {
            entries.push(entry);
            Ok(())
        }
        Output::Text => print(&map_line(&entry)),
    })
    .await?;
    match output {
        Output::Json => print_json(&serde_json::json!({ "schema_version": 1, "extents": entries })),
        Output::Text => Ok(()),
    }
}

fn map_line(entry: &MapEntry) -> String {
    let kind = match entry.kind {
        MapKind::Data => "data",
        MapKind::Compressed => "compressed",
        MapKind::Zero => "zero",
    };
    let offset = entry.offset.map_or("-".into(), |offset| format!("{offset:#x}"));
    let file = entry.file.as_deref().unwrap_or("-");
    format!("{:#x} {:#x} {kind} {offset} {file}", entry.start, entry.length)
}

/// `carreto digest`
pub(crate) async fn digest(
    setup: &Setup,
    image: &ImageArgs,
    algorithm: Algorithm,
    output: Output,
) -> Result<()> {
    let hex = carreto_migrate::digest(setup, &image.spec(), algorithm).await?;
    let name = redact(&image.image);
    match output {
        Output::Text => print(&format!("{hex}  {name}")),
        Output::Json => print_json(&serde_json::json!({
            "schema_version": 1,
            "image": name,
            "algorithm": algorithm.name(),
            "digest": hex,
        })),
    }
}

/// `carreto compare`
pub(crate) async fn compare(
    setup: &Setup,
    a: &str,
    b: &str,
    open: &OpenArgs,
    output: Output,
) -> Result<()> {
    let (first, second) = (open.spec(a, None), open.spec(b, None));
    let difference = carreto_migrate::compare(setup, &first, &second).await?;
    let Some(difference) = difference else {
        return match output {
            Output::Text => print("identical"),
            Output::Json => {
                print_json(&serde_json::json!({"schema_version": 1, "identical": true}))
            }
        };
    };
    let error = match difference {
        Difference::Size(a, b) => {
            Error::new(Kind::Mismatch, format!("the sizes differ: {a} and {b} bytes"))
        }
        Difference::Content(at) => {
            Error::new(Kind::Mismatch, "the first difference is here").offset(at)
        }
    };
    Err(error
        .during(format!("compare {} with {}", redact(a), redact(b)))
        .remedied_by("the images hold different disks; find out which is the right one"))
}

fn describe(facts: &ImageFacts) -> Vec<String> {
    let size = |bytes: u64| format!("{} ({bytes} bytes)", show_size(bytes));
    let mut lines = vec![
        format!("image:          {}", facts.image),
        format!("format:         {} ({})", facts.format, facts.subformat),
        format!("virtual size:   {}", size(facts.virtual_size)),
        format!("file size:      {}", size(facts.file_size)),
        format!("allocated size: {}", size(facts.allocated_size)),
    ];
    lines.extend(facts.cluster_size.map(|bytes| format!("cluster size:   {}", show_size(bytes))));
    if let Some(backing) = &facts.backing {
        let format = backing.format.unwrap_or("format not recorded");
        lines.push(format!("backing file:   {} ({format})", backing.name));
    }
    for (name, value) in &facts.details {
        lines.push(format!("{:<15} {value}", format!("{name}:")));
    }
    for warning in &facts.warnings {
        lines.push(format!("warning:        {} ({})", warning.text, warning.code));
    }
    lines
}
