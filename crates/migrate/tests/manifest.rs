//! The manifest beside an uploaded image: written by every upload, and held against what is read.
#![expect(clippy::unwrap_used, reason = "helpers of tests may fail")]

#[path = "support/s3.rs"]
mod s3;

use carreto_error::{Kind, Result};
use carreto_migrate::{
    Algorithm, EncodeReport, EncodeSpec, ImageSpec, JobSpec, OutputFormat, PackCodec, Report,
    Setup, Verify, WriteOptions, digest, encode, migrate,
};
use carreto_testkit::{Rng, sparse_disk};
use s3::S3Server;
use std::fs::File;
use std::path::{Path, PathBuf};

const MIB: usize = 1 << 20;

struct Bench {
    server: S3Server,
    directory: tempfile::TempDir,
    setup: Setup,
}

impl Bench {
    /// A server, and the file `disk.raw`.
    async fn new(disk: &[u8]) -> Self {
        let server = S3Server::start().await;
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("disk.raw"), disk).unwrap();
        let setup = server.setup();
        Self { server, directory, setup }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn spec(&self, image: &str, target: &str, output: OutputFormat) -> EncodeSpec {
        EncodeSpec {
            image: ImageSpec::at(image),
            target: target.to_owned(),
            output: WriteOptions::new(output),
            as_is: false,
            replace: false,
            part_size: None,
            read_back: false,
            timeout: None,
            stall_timeout: None,
            memory: 64 << 20,
            limit_rate: None,
            state_dir: self.path("state"),
            restart: false,
        }
    }

    async fn upload(&self, output: OutputFormat) -> EncodeReport {
        let mut spec = self.spec(&self.text("disk.raw"), "s3://images/disk", output);
        let packs = output == OutputFormat::Qcow2;
        spec.output.compress = packs.then_some(PackCodec::Zstd);
        let (report, outcome) = encode(&self.setup, &spec).await;
        outcome.unwrap();
        assert!(report.manifest_written);
        report
    }

    /// Moves `image` to `target` as it is.
    async fn move_file(&self, image: &str, target: &str) -> (EncodeReport, Result<()>) {
        let spec = self.spec(image, target, OutputFormat::Raw);
        encode(&self.setup, &EncodeSpec { as_is: true, ..spec }).await
    }

    async fn migrate(&self, verify: Verify) -> (Report, Result<()>) {
        self.migrate_as(None, verify).await
    }

    async fn migrate_as(&self, format: Option<&str>, verify: Verify) -> (Report, Result<()>) {
        let format = format.map(|name| name.parse().unwrap());
        let image = ImageSpec { format, ..ImageSpec::at("s3://images/disk") };
        let job = JobSpec::new(image, self.path("target"), self.path("state"));
        migrate(&self.setup, &JobSpec { verify, ..job }).await
    }

    fn manifest(&self) -> serde_json::Value {
        let json = std::fs::read(self.server.file("disk.carreto.json")).unwrap();
        serde_json::from_slice(&json).unwrap()
    }
}

/// What a disk does by itself: nobody is told.
fn flip(file: &Path, at: usize) {
    let modified = file.metadata().unwrap().modified().unwrap();
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(file, bytes).unwrap();
    File::options().write(true).open(file).unwrap().set_modified(modified).unwrap();
}

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Rng::new(len as u64).fill(&mut bytes);
    bytes
}

fn codes(report: &Report) -> Vec<&'static str> {
    report.warnings.iter().map(|warning| warning.code).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_is_what_its_manifest_says() {
    use OutputFormat::{Qcow2, Raw, VhdDynamic, VhdFixed, VmdkSparse, VmdkStream};
    // Sizes that formats round up, within a leaf and at its end, and one that they do not.
    for size in [7 * MIB, 3 * MIB + 1000, 2 * MIB + (64 << 10) + 512] {
        for output in [Raw, Qcow2, VhdDynamic, VhdFixed, VmdkSparse, VmdkStream] {
            let mut disk = sparse_disk(size, 5);
            disk[size - 10..].fill(3);
            let bench = Bench::new(&disk).await;
            let uploaded = bench.upload(output).await;
            // Without a footer anywhere, a fixed VHD is found by its name only.
            let format = match output {
                Raw => "raw",
                Qcow2 => "qcow2",
                VhdDynamic | VhdFixed => "vhd",
                VmdkSparse | VmdkStream => "vmdk",
            };
            let (report, outcome) = bench.migrate_as(Some(format), Verify::Full).await;
            outcome.unwrap();
            assert_eq!(report.verify.manifest_matched, Some(true), "{output:?} {size}");
            assert!(codes(&report).iter().all(|code| !code.starts_with("manifest")));
            let local = ImageSpec::at(bench.text("disk.raw"));
            let wanted = digest(&bench.setup, &local, Algorithm::Sparse).await.unwrap();
            assert_eq!(uploaded.digest.as_deref(), Some(wanted.as_str()));
            assert_eq!(bench.manifest()["digest"], wanted);
            let target = std::fs::read(bench.path("target")).unwrap();
            assert!(target[..size] == disk && target[size..].iter().all(|byte| *byte == 0));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_changed_in_the_store_is_found_before_it_is_written() {
    let disk = noise(6 * MIB);
    for at in [100, 3 * MIB + 5, 6 * MIB - 1] {
        let bench = Bench::new(&disk).await;
        bench.upload(OutputFormat::Raw).await;
        flip(&bench.server.file("disk"), at);
        let (report, outcome) = bench.migrate_as(Some("raw"), Verify::Full).await;
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), Kind::Mismatch, "{error}");
        assert_eq!(error.nearest_offset(), Some((at / MIB * MIB) as u64));
        assert_eq!(report.verify.manifest_matched, Some(false));
        let target = std::fs::read(bench.path("target")).unwrap();
        let chunk = at / MIB * MIB;
        assert!(target[chunk..chunk + MIB].iter().all(|byte| *byte == 0), "it was written");
        assert!(target[..MIB].iter().all(|byte| *byte == 0), "the disk looks whole");
        // The same again, and after the repair the job goes on.
        let again = bench.migrate_as(Some("raw"), Verify::Full).await.1;
        assert_eq!(again.unwrap_err().kind(), Kind::Mismatch);
        flip(&bench.server.file("disk"), at);
        bench.migrate_as(Some("raw"), Verify::Full).await.1.unwrap();
        assert!(std::fs::read(bench.path("target")).unwrap() == disk);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_in_place_of_zeros_and_behind_the_end_is_found() {
    let size = 2 * MIB + 700;
    let mut disk = sparse_disk(size, 6);
    disk[MIB..].fill(0);
    disk[size - 1] = 1;
    let bench = Bench::new(&disk).await;
    bench.upload(OutputFormat::VhdFixed).await;
    for at in [MIB + 9, size - 5, size + 5, 3 * MIB - 1] {
        flip(&bench.server.file("disk"), at);
        let outcome = bench.migrate_as(Some("vhd"), Verify::Full).await.1;
        assert_eq!(outcome.unwrap_err().kind(), Kind::Mismatch, "{at}");
        flip(&bench.server.file("disk"), at);
    }
    bench.migrate_as(Some("vhd"), Verify::Full).await.1.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_verification_a_manifest_is_named_but_not_used() {
    let bench = Bench::new(&noise(2 * MIB)).await;
    bench.upload(OutputFormat::Qcow2).await;
    let (report, outcome) = bench.migrate(Verify::None).await;
    outcome.unwrap();
    assert_eq!(codes(&report), ["manifest_not_checked"]);
    assert_eq!(report.verify.manifest_matched, Some(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_another_object_and_what_is_none_are_told() {
    let disk = noise(2 * MIB);
    let bench = Bench::new(&disk).await;
    bench.upload(OutputFormat::Qcow2).await;
    let manifest = std::fs::read(bench.server.file("disk.carreto.json")).unwrap();
    // Somebody replaced the image, and not the manifest.
    let other = bench.spec(&bench.text("disk.raw"), "s3://images/disk", OutputFormat::VmdkSparse);
    encode(&bench.setup, &EncodeSpec { replace: true, ..other }).await.1.unwrap();
    let path = bench.server.file("disk.carreto.json");
    std::fs::write(&path, &manifest).unwrap();
    let (report, outcome) = bench.migrate(Verify::Full).await;
    outcome.unwrap();
    assert_eq!(codes(&report), ["manifest_stale"]);
    assert_eq!(report.verify.manifest_matched, None);
    for nonsense in [b"{}".to_vec(), vec![b'['; 17 << 20], Vec::new()] {
        std::fs::write(&path, nonsense).unwrap();
        let (report, outcome) = bench.migrate(Verify::Full).await;
        outcome.unwrap();
        assert_eq!(codes(&report), ["manifest_unreadable"]);
    }
    std::fs::remove_file(&path).unwrap();
    let (report, outcome) = bench.migrate(Verify::Full).await;
    outcome.unwrap();
    assert_eq!((codes(&report), report.verify.manifest_matched), (vec![], None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_goes_as_it_is_carries_the_digest_of_its_disk() {
    let disk = noise(9 * MIB);
    let bench = Bench::new(&disk).await;
    let (raw, local) = (bench.text("disk.raw"), bench.text("disk.qcow2"));
    encode(&bench.setup, &bench.spec(&raw, &local, OutputFormat::Qcow2)).await.1.unwrap();
    let (report, outcome) = bench.move_file(&local, "s3://images/disk").await;
    outcome.unwrap();
    let wanted = digest(&bench.setup, &ImageSpec::at(&raw), Algorithm::Sparse).await.unwrap();
    assert_eq!(report.digest.as_deref(), Some(wanted.as_str()));
    assert_eq!((report.source_format, report.virtual_size), (Some("qcow2"), Some(9 << 20)));
    assert_eq!(bench.manifest()["format"], "qcow2");

    let (report, outcome) = bench.migrate(Verify::Full).await;
    outcome.unwrap();
    assert_eq!(report.verify.manifest_matched, Some(true));

    let copy = bench.text("copy.qcow2");
    let (report, outcome) = bench.move_file("s3://images/disk", &copy).await;
    outcome.unwrap();
    assert!(report.manifest_matched);
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&local).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_finds_a_byte_that_changed() {
    let bench = Bench::new(&noise(20 * MIB)).await;
    bench.upload(OutputFormat::Qcow2).await;
    flip(&bench.server.file("disk"), 9 * MIB);
    let copy = bench.text("copy");
    let (report, outcome) = bench.move_file("s3://images/disk", &copy).await;
    let error = outcome.unwrap_err();
    assert_eq!((error.kind(), error.nearest_offset()), (Kind::Mismatch, Some(8 << 20)));
    assert!(!report.manifest_matched && !Path::new(&copy).exists());
    flip(&bench.server.file("disk"), 9 * MIB);
    let (report, outcome) = bench.move_file("s3://images/disk", &copy).await;
    outcome.unwrap();
    assert!(report.manifest_matched, "what was read wrongly is not gone on from");
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(bench.server.file("disk")).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_image_goes_as_it_is_with_a_warning_unless_it_was_named() {
    let bench = Bench::new(&noise(3 * MIB)).await;
    let (raw, local) = (bench.text("disk.raw"), bench.text("disk.qcow2"));
    encode(&bench.setup, &bench.spec(&raw, &local, OutputFormat::Qcow2)).await.1.unwrap();
    let bytes = std::fs::read(&local).unwrap();
    std::fs::write(&local, &bytes[..MIB]).unwrap();
    let mut named = bench.spec(&local, "s3://images/disk", OutputFormat::Raw);
    named.as_is = true;
    named.image.format = Some("qcow2".parse().unwrap());
    let error = encode(&bench.setup, &named).await.1.unwrap_err();
    assert_eq!(error.kind(), Kind::Truncated, "{error}");
    assert!(!bench.server.file("disk").exists());

    let (report, outcome) = bench.move_file(&local, "s3://images/disk").await;
    outcome.unwrap();
    assert_eq!(report.warnings[0].code, "no_readable_image");
    assert_eq!((&report.digest, &bench.manifest()["digest"]), (&None, &serde_json::Value::Null));
    let copy = bench.text("copy");
    let (report, outcome) = bench.move_file("s3://images/disk", &copy).await;
    outcome.unwrap();
    assert!(report.manifest_matched);
    assert!(std::fs::read(&copy).unwrap() == bytes[..MIB]);
}
