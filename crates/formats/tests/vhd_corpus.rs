//! VHDs that other tools made are read to the content that is known of them, and malformed ones
//! are refused for the right reason.
#![expect(clippy::print_stderr, reason = "what was compared is said")]

mod vhd_support;

use carreto_block::OpenGate;
use carreto_error::Result;
use carreto_formats::{Format, Limits, OpenOptions, Warning, open};
use std::path::Path;
use vhd_support::corpus::{Corpus, FileSource, sha256_content, sha256_nonzero64k};

#[tokio::test]
async fn every_vhd_of_the_corpus_has_its_known_content() {
    let Some(corpus) = Corpus::find("every_vhd_of_the_corpus_has_its_known_content") else {
        return;
    };
    let mut images = 0;
    for entry in corpus.manifest() {
        if entry["format"] != "vhd" {
            continue;
        }
        let name = entry["file"].as_str().expect("a name");
        let gate = corpus.gate(name);
        let image = open(corpus.source(name), &OpenOptions::default(), &gate).await.expect(name);
        assert_eq!(image.info().format, Format::Vhd, "{name}");
        assert_eq!(image.info().subformat, entry["subformat"].as_str().expect("text"));
        assert_eq!(Some(image.size()), entry["virtual_size"].as_u64(), "{name}");
        let report = image.check(&Limits::default()).await.expect(name);
        if let Some(wanted) = entry["sha256_content"].as_str() {
            assert_eq!(sha256_content(image.as_ref()).await, wanted, "{name}");
        }
        let wanted = entry["sha256_nonzero64k"].as_str().expect("a hash");
        assert_eq!(sha256_nonzero64k(image.as_ref()).await, wanted, "{name}");
        let codes = |list: &[Warning]| list.iter().map(|w| w.code).collect::<Vec<_>>().join(" ");
        eprintln!(
            "{name}: as known; {} {}",
            codes(&image.info().warnings),
            codes(&report.warnings)
        );
        images += 1;
    }
    assert!(images >= 17, "only {images} images");
}

async fn verdict(path: &Path) -> Result<Vec<Warning>> {
    let file = FileSource::open(path)?;
    let image = open(file, &OpenOptions::default(), &OpenGate::closed()).await?;
    let report = image.check(&Limits::default()).await?;
    let mut warnings = image.info().warnings.clone();
    warnings.extend(report.warnings);
    Ok(warnings)
}

#[tokio::test]
async fn every_malformed_vhd_gives_the_wanted_kind() {
    let Some(corpus) = Corpus::find("every_malformed_vhd_gives_the_wanted_kind") else {
        return;
    };
    let mut cases = 0;
    for (path, wanted) in corpus.malformed() {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.extension().is_none_or(|extension| extension != "vhd") {
            continue;
        }
        let found = match verdict(&path).await {
            Ok(warnings) if warnings.is_empty() => "ok".to_owned(),
            Ok(warnings) => {
                eprintln!("{name}: {}", warnings[0].text);
                "ok-warn".to_owned()
            }
            Err(error) => {
                eprintln!("{name}: {}", carreto_error::chain_text(&error));
                error.kind().name().to_owned()
            }
        };
        assert_eq!(found, wanted, "{name}");
        cases += 1;
    }
    assert!(cases >= 15, "only {cases} cases");
}
