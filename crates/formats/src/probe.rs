//! Finding out the format of a file that the user named.
//!
//! Only files that the user named are looked at: the format of a parent or a backing file comes
//! from the image that names it, because a guest can write any header into its raw disk. All
//! detectors run, and more than one match is refused rather than decided.

mod detect;
mod magic;

use crate::{Format, Warning};
use carreto_block::{Source, SourceExt as _};
use carreto_error::{Error, Kind, Result, ResultExt as _};
use detect::{Match, Verdict};

/// Bytes looked at from the start: up to the second volume descriptor of an ISO 9660 image.
const HEAD: u64 = 36 << 10;
/// Bytes looked at from the end: a footer.
const TAIL: u64 = 512;

/// What the bytes of a file look like.
#[derive(Debug, Clone)]
pub struct Probe {
    /// The one format that matches; raw when none does.
    pub format: Format,
    /// What it was recognised by.
    pub evidence: String,
    /// What is odd about a file that is taken as raw.
    pub warnings: Vec<Warning>,
}

/// The two ends of a file.
#[derive(Debug)]
struct Ends {
    head: Vec<u8>,
    /// The last bytes, at most [`TAIL`]; they may be bytes of `head` too.
    tail: Vec<u8>,
}

impl Ends {
    async fn read(file: &dyn Source) -> Result<Self> {
        let size = file.size();
        let len = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let head = file.read_vec(0, len(size.min(HEAD))).await?;
        let tail_len = size.min(TAIL);
        let tail = if size <= HEAD {
            head[head.len() - len(tail_len)..].to_vec()
        } else {
            file.read_vec(size - tail_len, len(tail_len)).await?
        };
        Ok(Self { head, tail })
    }
}

/// Looks at the start and the end of `file`, with one read each.
///
/// A detector looks for a signature; whether the rest of the format is whole is the reader's to
/// say. A file that nothing matches is raw, except one that is called `.vhd`: a fixed VHD that
/// was cut has lost its only signature.
///
/// Cancel safe.
///
/// # Errors
/// `Ambiguous` when several formats match, naming them; `Unsupported` (or `Encrypted`) for known
/// formats that are not read; `Truncated` for a `.vhd` without a footer; what reading meets.
pub async fn probe(file: &dyn Source) -> Result<Probe> {
    let ends = Ends::read(file).await.wrap_err(|| "look for the image's format".into())?;
    decide(&ends, file.name()).or_path(file.name())
}

fn decide(ends: &Ends, name: &str) -> Result<Probe> {
    let matches = detect::images(ends);
    let Some(first) = matches.first() else {
        return raw(ends, name);
    };
    if matches.len() > 1 {
        return Err(ambiguous(&matches.iter().map(label).collect::<Vec<_>>()));
    }
    match first.verdict {
        Verdict::Refused { kind, remedy } => {
            let text = format!("the file is {}, which is not read", label(first));
            Err(Error::new(kind, text).remedied_by(remedy))
        }
        Verdict::Read(format) => {
            let guest = detect::disk_content(ends);
            if let Some(content) = guest.filter(|_| first.at_start) {
                return Err(ambiguous(&[label(first), content.into()]));
            }
            Ok(Probe { format, evidence: first.evidence.clone(), warnings: Vec::new() })
        }
    }
}

fn label(found: &Match) -> String {
    format!("{} ({})", found.name, found.evidence)
}

fn ambiguous(labels: &[String]) -> Error {
    let text = format!("the file is more than one thing: {}", labels.join(", "));
    Error::new(Kind::Ambiguous, text)
}

fn raw(ends: &Ends, name: &str) -> Result<Probe> {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    let extension = extension.unwrap_or_default().to_ascii_lowercase();
    if matches!(extension.as_str(), "vhd" | "avhd") {
        let text = "the file is called .vhd, but has no VHD footer at its end: it is not whole";
        let remedy = "upload it again; if it is a raw disk, say so with --format raw";
        return Err(Error::new(Kind::Truncated, text).remedied_by(remedy));
    }
    let mut warnings = Vec::new();
    let flat = name.to_ascii_lowercase().ends_with("-flat.vmdk");
    if matches!(extension.as_str(), "qcow2" | "vmdk" | "vhdx" | "vdi") && !flat {
        let text =
            format!("the file is called .{extension}, but its bytes are taken as a raw disk");
        warnings.push(Warning::new("name_not_format", text));
    }
    if ends.head.is_empty() {
        warnings.push(Warning::new("empty_file", "the file has no bytes"));
    }
    if detect::is_iso(&ends.head) {
        let text = "the file is an ISO 9660 image (a CD or DVD): as a disk it only boots if it \
                    was made for that";
        warnings.push(Warning::new("iso9660", text));
    }
    Ok(Probe { format: Format::Raw, evidence: "no known signature".into(), warnings })
}

/// What to tell a user who wants `file` taken as raw: any image that its bytes look like.
///
/// Cancel safe.
///
/// # Errors
/// What reading meets.
pub(crate) async fn headers_in_raw(file: &dyn Source) -> Result<Vec<Warning>> {
    let ends = Ends::read(file).await?;
    let matches = detect::images(&ends);
    let warning = |found: &Match| {
        let text = format!(
            "taken as raw as asked, but the bytes look like {}: if they are, what is copied is \
             the image file and not the disk in it",
            label(found)
        );
        Warning::new("image_header_in_raw", text)
    };
    Ok(matches.iter().map(warning).collect())
}
