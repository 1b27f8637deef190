//! Finding and checking the parent of a differencing disk.
//!
//! The image names its parent up to nine times, in forms that fit the machine it was made on
//! ("Parent Locator" and "Parent Unicode Name" in the VHD specification). Only what can be made a
//! plain name is asked for, and only through the gate.

use super::header::{Header, Locator, utf16};
use super::{Layer, layer};
use crate::names::{base_name, path_here};
use crate::{BackingInfo, Format, Image, ImageInfo, OpenOptions, Warning};
use carreto_block::{OpenGate, OpenRequest, ReferenceRole, Source, SourceExt as _};
use carreto_error::{Error, Kind, Result, ResultExt as _};
use std::sync::Arc;

/// Paths of Windows end at 32767 UTF-16 units.
const MAX_NAME: u64 = 64 << 10;
const REMEDY: &str = "merge the disk with its parents into one image with the tool that made it; \
                      or put the parents beside it and allow their directory with --allow-dir";

/// A name of the parent as the image has it.
#[derive(Debug)]
struct Name {
    text: String,
    /// How good this kind of name is; the lowest is tried first.
    rank: u8,
}

/// Opens the parent that `header` names and checks that it is the one meant.
pub(super) async fn open(
    file: &dyn Source,
    header: &Header,
    options: &OpenOptions,
    gate: &OpenGate,
    info: &mut ImageInfo,
) -> Result<Arc<dyn Image>> {
    let names = names(file, header).await?;
    let Some(first) = names.first() else {
        let text = "it is a differencing disk that does not name its parent";
        return Err(Error::new(Kind::Unsafe, text).remedied_by(REMEDY));
    };
    info.backing = Some(BackingInfo { name: first.text.clone(), format: Some(Format::Vhd) });
    let (source, inner) = through_gate(file, &names, gate).await?;
    let options = options.for_reference(Format::Vhd);
    let name = source.name().to_owned();
    let parent = Box::pin(layer(source, &options, &inner))
        .await
        .wrap_err(|| format!("open the parent {name:?}"))?;
    compare(header, &parent, info)?;
    Ok(parent.image)
}

/// All names, best first.
async fn names(file: &dyn Source, header: &Header) -> Result<Vec<Name>> {
    let mut list = Vec::new();
    for locator in &header.locators {
        if let Some(rank) = rank_of(locator.platform) {
            let text = locator_text(file, locator).await?;
            list.push(Name { text, rank });
        }
    }
    let text = header.parent_name.clone();
    list.push(Name { text, rank: 3 });
    list.retain(|name| !name.text.is_empty());
    list.sort_by_key(|name| name.rank);
    Ok(list)
}

/// Relative names first. `None` for codes whose data is no path: Mac OS aliases, unknown ones.
fn rank_of(platform: [u8; 4]) -> Option<u8> {
    match &platform {
        b"W2ru" | b"Wi2r" => Some(0),
        b"MacX" => Some(1),
        b"W2ku" | b"Wi2k" => Some(2),
        _ => None,
    }
}

async fn locator_text(file: &dyn Source, locator: &Locator) -> Result<String> {
    let Locator { platform, data } = locator;
    let code = platform.escape_ascii();
    if data.len() > MAX_NAME {
        let text = format!(
            "parent locator {code} has {} bytes, a path has at most {MAX_NAME}",
            data.len()
        );
        return Err(Error::new(Kind::Limit, text));
    }
    if data.end() > file.size() {
        let text = format!("parent locator {code} at {data} lies past the end of the file");
        return Err(Error::new(Kind::Truncated, text).offset(data.start()));
    }
    let len = usize::try_from(data.len()).unwrap_or(0);
    let bytes = file.read_vec(data.start(), len).await?;
    Ok(match platform {
        b"W2ru" | b"W2ku" => utf16(&bytes, u16::from_le_bytes),
        _ => String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned(),
    })
}

/// Tries the names in turn. A name that the gate refuses or that does not exist leaves the next
/// one to be tried.
async fn through_gate(
    file: &dyn Source,
    names: &[Name],
    gate: &OpenGate,
) -> Result<(Arc<dyn Source>, OpenGate)> {
    let mut refused = None;
    let mut missing = None;
    for name in &candidates(names) {
        let request = OpenRequest { referrer: file.name(), name, role: ReferenceRole::Parent };
        match gate.open(request).await {
            Ok(opened) => return Ok(opened),
            Err(error) if error.kind() == Kind::Unsafe => refused = refused.or(Some(error)),
            Err(error) if error.kind() == Kind::NotFound => missing = missing.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    let all: Vec<_> = names.iter().map(|name| format!("{:?}", name.text)).collect();
    let text =
        format!("the parent of this differencing disk ({}) cannot be opened", all.join(", "));
    Err(match missing.or(refused) {
        Some(error) => error.wrap(text),
        None => Error::new(Kind::Unsafe, text).remedied_by(REMEDY),
    })
}

/// What to ask the gate for: the names as far as they are paths here, then the last parts of all
/// of them, which may lie in the image's own directory.
fn candidates(names: &[Name]) -> Vec<String> {
    let mut list: Vec<String> = Vec::new();
    let paths = names.iter().filter_map(|name| path_here(&name.text));
    let bases = names.iter().filter_map(|name| base_name(&name.text));
    for candidate in paths.chain(bases) {
        if !list.contains(&candidate) {
            list.push(candidate);
        }
    }
    list
}

fn compare(header: &Header, parent: &Layer, info: &mut ImageInfo) -> Result<()> {
    if header.parent_id != parent.unique_id {
        let text = format!(
            "the parent {} has the unique id {}, {} is wanted: it is another disk",
            parent.image.name(),
            parent.unique_id,
            header.parent_id
        );
        return Err(Error::new(Kind::Corrupt, text));
    }
    // Windows records the modification time of the file instead, or nothing.
    if header.parent_time != 0 && header.parent_time != parent.time_stamp {
        let text = format!(
            "the parent's time stamp is {}, {} was recorded: it may have been changed since",
            parent.time_stamp, header.parent_time
        );
        info.warnings.push(Warning::new("parent_time", text));
    }
    let size = parent.image.info().virtual_size;
    if size != info.virtual_size {
        let text = format!("the parent has {size} bytes, the disk {}", info.virtual_size);
        info.warnings.push(Warning::new("parent_size", text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Name, candidates};

    #[test]
    fn paths_come_before_last_parts() {
        let name = |text: &str| Name { text: text.into(), rank: 0 };
        let names = [name("..\\p.vhd"), name("D:\\q.vhd"), name("p.vhd")];
        assert_eq!(candidates(&names), ["../p.vhd", "p.vhd", "q.vhd"]);
    }
}
