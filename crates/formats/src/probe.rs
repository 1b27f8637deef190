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
    /// What is odd about the file and its name.
    pub warnings: Vec<Warning>,
}

/// The two ends of a file.
#[derive(Debug)]
struct Ends {
    head: Vec<u8>,
    /// The last bytes, at most [`TAIL`]; they may be bytes of `head` too.
    tail: Vec<u8>,
    size: u64,
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
        Ok(Self { head, tail, size })
    }
}

/// Looks at the start and the end of `file`, with one read each.
///
/// A detector looks for a signature; whether the rest of the format is whole is the reader's to
/// say. A file that nothing matches is raw, except one whose name is that of an image: it has
/// lost its signature.
///
/// Cancel safe.
///
/// # Errors
/// `Ambiguous` when several formats match, naming them; `Unsupported` (or `Encrypted`) for known
/// formats that are not read; `Truncated` for a `.vhd` without a footer, `Corrupt` for a
/// `.qcow2`, `.vmdk`, `.vhdx` or `.vdi` with neither its signature nor a partition table; what
/// reading meets.
pub async fn probe(file: &dyn Source) -> Result<Probe> {
    let ends = Ends::read(file).await.wrap_err(|| "look for the image's format".into())?;
    decide(&ends, file.name()).or_path(file.name())
}

fn decide(ends: &Ends, name: &str) -> Result<Probe> {
    let extension = extension_of(name);
    let mut matches = detect::images(ends);
    if matches.is_empty() && VHD_NAMES.contains(&extension.as_str()) {
        matches.extend(detect::vhd_cookie(ends));
    }
    let Some(first) = matches.first() else {
        return raw(ends, name, &extension);
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
            let warnings = match extension.as_str() {
                "raw" | "img" | "dd" => vec![not_raw(format, &extension)],
                _ => Vec::new(),
            };
            Ok(Probe { format, evidence: first.evidence.clone(), warnings })
        }
    }
}

/// The part of a name behind its last dot, in lower case.
fn extension_of(name: &str) -> String {
    name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase()).unwrap_or_default()
}

fn not_raw(format: Format, extension: &str) -> Warning {
    let text = format!(
        "the file is called .{extension}, but its bytes are taken as {format}: if it is a raw \
         disk, whose guest can write any header into it, say so with --format raw"
    );
    Warning::new("name_not_format", text)
}

fn label(found: &Match) -> String {
    format!("{} ({})", found.name, found.evidence)
}

fn ambiguous(labels: &[String]) -> Error {
    let text = format!("the file is more than one thing: {}", labels.join(", "));
    Error::new(Kind::Ambiguous, text)
}

/// Names of which a file without any signature is not whole.
const VHD_NAMES: [&str; 3] = ["vhd", "avhd", "vpc"];
const OTHER_NAMES: [&str; 4] = ["qcow2", "vmdk", "vhdx", "vdi"];

/// The data of a flat VMDK, which is a raw disk by itself.
fn is_flat(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with("-flat.vmdk")
}

/// Refuses to take a file for a raw disk that is called an image: its signature is damaged, unless
/// its bytes are plainly those of a disk.
fn refuse_name(ends: &Ends, name: &str, extension: &str) -> Result<()> {
    if VHD_NAMES.contains(&extension) {
        let text = format!(
            "the file is called .{extension}, but has no VHD footer at its end: it is not whole"
        );
        let remedy = "upload it again; if it is a raw disk, say so with --format raw";
        return Err(Error::new(Kind::Truncated, text).remedied_by(remedy));
    }
    if !OTHER_NAMES.contains(&extension) || is_flat(name) {
        return Ok(());
    }
    let lower = name.to_ascii_lowercase();
    let part = lower.strip_suffix(".vmdk").and_then(|stem| stem.rsplit_once("-f"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if part.is_some_and(|(_, number)| digits(number)) {
        let text = "the name is that of one part of a flat VMDK in several files";
        let remedy = "name the descriptor file (a short text) instead; to copy this file alone, \
                      as a raw disk, say so with --format raw";
        return Err(Error::new(Kind::Corrupt, text).remedied_by(remedy));
    }
    if detect::disk_content(ends).is_some() {
        return Ok(());
    }
    let text = format!(
        "the file is called .{extension}, but does not start as one: it is damaged, or has \
         another format"
    );
    let remedy = "upload it again; if it is a raw disk, say so with --format raw";
    Err(Error::new(Kind::Corrupt, text).remedied_by(remedy))
}

fn raw(ends: &Ends, name: &str, extension: &str) -> Result<Probe> {
    refuse_name(ends, name, extension)?;
    let mut warnings = Vec::new();
    if OTHER_NAMES.contains(&extension) && !is_flat(name) {
        let text = format!(
            "the file is called .{extension}, but holds a partition table where its header would \
             be, so it is taken as a raw disk"
        );
        warnings.push(Warning::new("name_not_format", text));
    }
    if detect::vhd_cookie(ends).is_some() {
        let text = "the last sector starts as a VHD footer, but its checksum, type or size is not \
                    that of one, so the file is taken as a raw disk: say --format raw or \
                    --format vhd to have it your way";
        warnings.push(Warning::new("vhd_footer_in_raw", text));
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
    let mut matches = detect::images(&ends);
    if !matches.iter().any(|found| found.name == "vhd") {
        matches.extend(detect::vhd_cookie(&ends));
    }
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
