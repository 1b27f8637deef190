//! `carreto verify-certificate`

use crate::args::Output;
use crate::console::{print_json, print_lines};
use crate::live_args::CertificateArgs;
use carreto_error::{Error, IoSide, Kind, Result, ResultExt as _};
use carreto_migrate::live::{Certificate, Fingerprint, compare_with_disk};
use carreto_migrate::{Format, ImageSpec, Setup};
use serde_json::json;

/// More than any certificate has.
const MOST_BYTES: u64 = 16 << 20;

pub(super) async fn run(setup: &Setup, args: &CertificateArgs, output: Output) -> Result<()> {
    let certificate = read(args)?;
    let trusted = args.trust.iter().map(|key| key.parse()).collect::<Result<Vec<Fingerprint>>>()?;
    let verified = certificate.verify(&trusted)?;
    let mut compared = Vec::new();
    for pair in &args.disk {
        let (name, path) = pair
            .split_once('=')
            .ok_or_else(|| Error::new(Kind::Usage, format!("--disk {pair} is not NAME=PATH")))?;
        let image = ImageSpec { format: Some(Format::Raw), ..ImageSpec::at(path.to_owned()) };
        compare_with_disk(setup, &certificate, name, &image)
            .await
            .wrap_err(|| format!("compare {path} with the disk {name} of the certificate"))?;
        compared.push(name.to_owned());
    }
    let statement = certificate.statement();
    let signers: Vec<_> = verified
        .signers
        .iter()
        .map(|signer| json!({"role": signer.role, "key": signer.key, "trusted": signer.trusted}))
        .collect();
    match output {
        Output::Json => print_json(&json!({
            "schema_version": 1,
            "valid": true,
            "statement": statement,
            "signers": signers,
            "compared": compared,
        })),
        Output::Text => {
            let mut lines = vec![format!(
                "valid: {} (migration {}), frozen at {}, committed at {}, {} ms of pause",
                statement.server,
                statement.migration,
                statement.frozen_at,
                statement.committed_at,
                statement.pause_ms
            )];
            lines.extend(verified.signers.iter().map(|signer| {
                let trusted = if signer.trusted { " (trusted)" } else { "" };
                format!("signed by the {} {}{trusted}", signer.role, signer.key)
            }));
            lines.extend(statement.disks.iter().map(|disk| {
                let same = if compared.contains(&disk.source) { ", compared: equal" } else { "" };
                format!("{} ({} bytes): blake3 {}{same}", disk.source, disk.size, disk.root)
            }));
            print_lines(&lines)
        }
    }
}

fn read(args: &CertificateArgs) -> Result<Certificate> {
    let name = args.file.display().to_string();
    let fail = |error| Error::io(IoSide::State, "read the certificate", &name, error);
    let size = std::fs::metadata(&args.file).map_err(fail)?.len();
    if size > MOST_BYTES {
        let text = format!("a certificate does not have {size} bytes");
        return Err(Error::new(Kind::Limit, text).path(name));
    }
    let json = std::fs::read(&args.file).map_err(fail)?;
    Certificate::from_json(&json).or_path(&name)
}
