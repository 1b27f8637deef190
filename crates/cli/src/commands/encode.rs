//! `carreto convert`, `carreto upload`, `carreto download` and `carreto measure`

use crate::args::{
    CompressArg, ConvertArgs, EncodeArgs, FormatArgs, ImageArgs, Output, OutputArg, SubformatArg,
};
use crate::console::{self, print_json, print_lines};
use crate::progress::Progress;
use crate::quantity::{show_duration, show_size};
use crate::text::redact;
use crate::{failure, settings};
use carreto_error::{Error, Kind, Result};
use carreto_migrate::{
    EncodeReport, EncodeSpec, ImageSpec, OutputFormat, PackCodec, Setup, WriteOptions,
};
use std::time::Duration;

/// Reads an image and writes another.
pub(crate) async fn convert(
    setup: &Setup,
    args: &ConvertArgs,
    output: Output,
    progress: &Progress,
) -> Result<()> {
    let spec = spec(&args.run, args.run.image.spec(), options(args.to, &args.format)?);
    run(setup, &spec, output, progress).await
}

/// Moves the bytes of a file as they are, or makes another format of them on the way.
pub(crate) async fn transfer(
    setup: &Setup,
    args: &EncodeArgs,
    to: Option<OutputArg>,
    format: &FormatArgs,
    output: Output,
    progress: &Progress,
) -> Result<()> {
    let image = args.image.spec();
    let spec = if let Some(to) = to {
        spec(args, image, options(to, format)?)
    } else {
        if *format != FormatArgs::default() {
            let text = "the file goes as it is, so there is no format to choose options of";
            return Err(Error::new(Kind::Usage, text).remedied_by("name the format with --as"));
        }
        EncodeSpec { as_is: true, ..spec(args, image, WriteOptions::new(OutputFormat::Raw)) }
    };
    run(setup, &spec, output, progress).await
}

/// Says how large a file would be.
pub(crate) async fn measure(
    setup: &Setup,
    image: &ImageArgs,
    to: OutputArg,
    format: &FormatArgs,
    output: Output,
) -> Result<()> {
    let options = options(to, format)?;
    let mut found = carreto_migrate::measure(setup, &image.spec(), &options).await?;
    found.image = redact(&found.image);
    if output == Output::Json {
        return print_json(&found);
    }
    let size = |bytes: u64| format!("{} ({bytes} bytes)", show_size(bytes));
    let (bound, note) = match (found.exact, options.pack_codec()) {
        (true, _) => ("", ""),
        (false, None) => ("at most ", ", less where data is zeros"),
        (false, Some(_)) => ("at most ", ", less where data is zeros or compresses"),
    };
    print_lines(&[
        format!("image:           {} ({})", found.image, found.source_format),
        format!("format:          {}", found.format),
        format!("virtual size:    {}", size(found.virtual_size)),
        format!("required:        {bound}{}{note}", size(found.required)),
        format!("fully allocated: {bound}{}", size(found.fully_allocated)),
    ])
}

async fn run(setup: &Setup, spec: &EncodeSpec, output: Output, progress: &Progress) -> Result<()> {
    let (report, outcome) = carreto_migrate::encode(setup, spec).await;
    progress.end();
    let error = outcome.as_ref().err().map(failure::document);
    let report = EncodeReport { error, ..report };
    let printed = match (output, &outcome) {
        (Output::Json, _) => print_json(&report),
        (Output::Text, Ok(())) => print_lines(&describe(&report)),
        (Output::Text, Err(_)) => Ok(()),
    };
    // What became of the file counts more than what became of the report.
    outcome?;
    printed.map_err(|error| {
        if console::nobody_reads(&error) {
            return error;
        }
        error.wrap("the file is written, but the report cannot be printed")
    })
}

fn spec(args: &EncodeArgs, image: ImageSpec, output: WriteOptions) -> EncodeSpec {
    EncodeSpec {
        image,
        target: args.target.clone(),
        output,
        as_is: false,
        replace: args.force,
        part_size: args.part_size,
        read_back: args.read_back,
        timeout: args.timeout,
        stall_timeout: Some(args.stall_timeout).filter(|limit| !limit.is_zero()),
        memory: args.memory,
        limit_rate: args.limit_rate,
        state_dir: args.state_dir.clone().unwrap_or_else(settings::state_dir),
        restart: args.restart,
    }
}

fn options(to: OutputArg, format: &FormatArgs) -> Result<WriteOptions> {
    let output = match (to, format.subformat) {
        (OutputArg::Raw, None) => OutputFormat::Raw,
        (OutputArg::Qcow2, None) => OutputFormat::Qcow2,
        (OutputArg::Vhd, None | Some(SubformatArg::Dynamic)) => OutputFormat::VhdDynamic,
        (OutputArg::Vhd, Some(SubformatArg::Fixed)) => OutputFormat::VhdFixed,
        (OutputArg::Vmdk, None | Some(SubformatArg::MonolithicSparse)) => OutputFormat::VmdkSparse,
        (OutputArg::Vmdk, Some(SubformatArg::StreamOptimized)) => OutputFormat::VmdkStream,
        _ => {
            let text = "the format has no such subformat: vhd has dynamic and fixed, vmdk has \
                        monolithicSparse and streamOptimized";
            return Err(Error::new(Kind::Usage, text));
        }
    };
    let compress = format.compress.map(|codec| match codec {
        CompressArg::Zlib => PackCodec::Deflate,
        CompressArg::Zstd => PackCodec::Zstd,
    });
    Ok(WriteOptions {
        compress,
        level: format.level,
        cluster_size: format.cluster_size,
        ..WriteOptions::new(output)
    })
}

fn describe(report: &EncodeReport) -> Vec<String> {
    let elapsed = Duration::try_from_secs_f64(report.elapsed_seconds).unwrap_or_default();
    let mut lines = vec![
        format!("{} -> {}: done in {}", report.image, report.target, show_duration(elapsed)),
        format!(
            "written:  {} as {}, {} of data read",
            show_size(report.file_size.unwrap_or_default()),
            report.format,
            show_size(report.data_bytes),
        ),
    ];
    if report.resumed_bytes > 0 {
        let (before, now) = (show_size(report.resumed_bytes), show_size(report.sent_bytes));
        lines.push(format!("resumed:  {before} were there before, {now} sent now"));
    }
    if let Some(digest) = &report.digest {
        lines.push(format!("digest:   carreto-sparse-v1 {digest}"));
    }
    if report.read_back {
        lines.push("verified: read back, and every byte is what was read".into());
    }
    if report.manifest_matched {
        lines.push("manifest: every part is what was uploaded".into());
    }
    if report.manifest_written {
        lines.push(format!("manifest: {}.carreto.json", report.target));
    }
    for warning in &report.warnings {
        lines.push(format!("warning:  {} ({})", warning.text, warning.code));
    }
    lines
}
