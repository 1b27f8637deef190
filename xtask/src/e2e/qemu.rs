//! Suite `qemu`: whatever qemu-img makes, Carreto reads as qemu-img does.

use super::carreto::{Carreto, text};
use super::images::Image;
use super::report::Tally;
use super::{Lab, disk};
use crate::Result;
use std::path::Path;

pub(crate) fn run(lab: &mut Lab, tally: &mut Tally) -> Result<()> {
    let folder = lab.folder("qemu")?;
    let carreto = lab.carreto.clone();
    for image in lab.images()? {
        let mut check =
            |what: &str, result| tally.check(&format!("{} {what}", image.label), result);
        check("digest", digest(&carreto, image));
        check("info", info(&carreto, image));
        check("check", structure(&carreto, image));
        let target = folder.join("target");
        check("migrate", migrate(&carreto, image, &target));
    }
    Ok(())
}

/// The arguments that open the gate for an image that names other files.
fn gate(image: &Image) -> Result<Vec<&str>> {
    let folder = image.path.parent().unwrap_or(Path::new("/"));
    Ok(if image.refers { vec!["--allow-dir", text(folder)?] } else { Vec::new() })
}

fn arguments<'a>(command: &'a str, image: &'a Image, more: &[&'a str]) -> Result<Vec<&'a str>> {
    let mut arguments = vec![command, text(&image.path)?];
    arguments.extend(gate(image)?);
    arguments.extend_from_slice(more);
    Ok(arguments)
}

/// The line of `digest` is that of `sha256sum`.
fn digest(carreto: &Carreto, image: &Image) -> Result<()> {
    let arguments = arguments("digest", image, &["--algorithm", "sha256"])?;
    let found = carreto.expect(0, &arguments)?.stdout;
    let wanted = format!("{}  {}", disk::sha256(&image.disk)?, text(&image.path)?);
    if found.trim_end() == wanted {
        return Ok(());
    }
    Err(format!("{:?}, wanted {wanted:?}", found.trim_end()).into())
}

fn info(carreto: &Carreto, image: &Image) -> Result<()> {
    let arguments = arguments("info", image, &["--output", "json"])?;
    let printed = carreto.expect(0, &arguments)?.stdout;
    let info: serde_json::Value = serde_json::from_str(&printed)?;
    let (format, size) = (&info["format"], &info["virtual_size"]);
    if format != image.format || size.as_u64() != Some(image.virtual_size) {
        let (wanted, bytes) = (image.format, image.virtual_size);
        return Err(format!("{format} of {size} bytes, wanted {wanted} of {bytes}").into());
    }
    Ok(())
}

fn structure(carreto: &Carreto, image: &Image) -> Result<()> {
    carreto.expect(0, &arguments("check", image, &[])?)?;
    Ok(())
}

fn migrate(carreto: &Carreto, image: &Image, target: &Path) -> Result<()> {
    carreto.migrate_and_compare(image, text(&image.path)?, target, &gate(image)?)
}
