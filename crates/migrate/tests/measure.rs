//! What is measured is what `encode` then writes.
#![expect(clippy::unwrap_used, reason = "helpers of tests may fail")]

use carreto_error::Kind;
use carreto_migrate::{
    EncodeSpec, ImageSpec, OutputFormat, PackCodec, Setup, WriteOptions, encode, measure,
};
use carreto_testkit::Rng;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Noise here and there, so that no unit with data is zeros, and holes between.
fn disk(directory: &Path) -> ImageSpec {
    let path = directory.join("disk.raw");
    let file = File::create(&path).unwrap();
    file.set_len((37 << 20) + 1000).unwrap();
    let mut noise = vec![0; 3 << 20];
    Rng::new(5).fill(&mut noise);
    for at in [0, 9 << 20, 33 << 20] {
        file.write_all_at(&noise, at).unwrap();
    }
    ImageSpec { format: Some("raw".parse().unwrap()), ..ImageSpec::at(path.display().to_string()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_has_the_size_that_was_measured() {
    let qcow2 = || WriteOptions::new(OutputFormat::Qcow2);
    for output in [
        WriteOptions::new(OutputFormat::Raw),
        qcow2(),
        WriteOptions { cluster_size: Some(512), ..qcow2() },
        WriteOptions { cluster_size: Some(2 << 20), ..qcow2() },
        WriteOptions { compress: Some(PackCodec::Deflate), ..qcow2() },
        WriteOptions { compress: Some(PackCodec::Zstd), ..qcow2() },
        WriteOptions::new(OutputFormat::VhdFixed),
        WriteOptions::new(OutputFormat::VhdDynamic),
        WriteOptions::new(OutputFormat::VmdkSparse),
        WriteOptions::new(OutputFormat::VmdkStream),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let image = disk(directory.path());
        let measured = measure(&Setup::default(), &image, &output).await.unwrap();
        let what = format!("{output:?}: {measured:?}");
        let spec = EncodeSpec {
            image,
            target: directory.path().join("made").display().to_string(),
            output: output.clone(),
            as_is: false,
            replace: false,
            part_size: None,
            read_back: false,
            timeout: None,
            stall_timeout: None,
            memory: 64 << 20,
            limit_rate: None,
            state_dir: directory.path().join("state"),
            restart: false,
        };
        let (report, outcome) = encode(&Setup::default(), &spec).await;
        outcome.unwrap();
        let written = report.file_size.unwrap();
        assert_eq!(report.virtual_size, Some(measured.virtual_size), "{what}");
        if output.pack_codec().is_none() {
            assert_eq!(measured.required, written, "{what}");
        } else {
            // Noise does not shrink, so the bound is close.
            let close = written..=written + written / 50;
            assert!(close.contains(&measured.required), "{written}: {what}");
        }
        assert!(measured.fully_allocated >= measured.required, "{what}");
        let full = matches!(output.format, OutputFormat::Raw | OutputFormat::VhdFixed);
        assert_eq!(measured.exact, full, "{what}");
        assert_eq!(measured.fully_allocated == measured.required, full, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_made_is_not_measured() {
    let directory = tempfile::tempdir().unwrap();
    let image = disk(directory.path());
    let bad = WriteOptions { level: Some(3), ..WriteOptions::new(OutputFormat::Qcow2) };
    let error = measure(&Setup::default(), &image, &bad).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    File::options()
        .write(true)
        .open(directory.path().join("disk.raw"))
        .unwrap()
        .set_len(3 << 40)
        .unwrap();
    let vhd = WriteOptions::new(OutputFormat::VhdDynamic);
    assert_eq!(measure(&Setup::default(), &image, &vhd).await.unwrap_err().kind(), Kind::Limit);
}
