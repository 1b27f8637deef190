//! The grammar of the command line. Parsing has no side effects.

use crate::live_args::{AgentCommand, CertificateArgs, FleetCommand, ReceiveArgs};
use crate::quantity::{parse_duration, parse_size};
use crate::text::file_url;
use carreto_migrate::{Algorithm, Format, ImageSpec};
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Moves disk images into a cloud: an image in a store becomes a verified disk.
#[derive(Debug, Parser)]
#[command(
    name = "carreto",
    version,
    max_term_width = 80,
    propagate_version = true,
    after_help = "Examples:\n  \
        carreto migrate disk.qcow2 disk.raw\n  \
        carreto migrate s3://images/web01.vmdk /dev/vdb --role system --yes\n  \
        carreto info disk.vhd --output json\n  \
        carreto digest disk.qcow2 --algorithm sha256\n\n\
        Exit codes: 0 done, 2 usage, 4 not found, 5 store unavailable (rerun resumes),\n\
        6 verification failed or target too small, 7 image damaged, 8 not supported,\n\
        9 refused for safety, 10 access denied, 11 target not usable, 12 locked,\n\
        13 timeout, 14 input/output error, 130/143 interrupted, 1 internal."
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Global {
    /// How results are printed on stdout and errors on stderr
    #[arg(
        long,
        short = 'o',
        global = true,
        value_enum,
        default_value = "text",
        env = "CARRETO_OUTPUT"
    )]
    pub(crate) output: Output,
    /// How progress is shown on stderr; SIGUSR1 prints a line at once
    #[arg(long, global = true, value_enum, default_value = "auto", env = "CARRETO_PROGRESS")]
    pub(crate) progress: ProgressStyle,
    /// Time between progress lines
    #[arg(long, global = true, value_name = "DURATION", default_value = "10s",
          value_parser = parse_duration, env = "CARRETO_PROGRESS_INTERVAL")]
    pub(crate) progress_interval: Duration,
    /// A configuration file instead of the user's and the system's
    #[arg(long, global = true, value_name = "FILE", env = "CARRETO_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Text,
    /// One JSON document
    Json,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressStyle {
    /// A bar on a terminal, lines elsewhere
    Auto,
    /// A bar
    Tty,
    /// A line every interval
    Plain,
    /// A JSON object every interval
    Json,
    /// Nothing
    None,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say what an image is; reads no payload
    Info {
        #[command(flatten)]
        image: ImageArgs,
    },
    /// Check that an image is whole
    Check {
        #[command(flatten)]
        image: ImageArgs,
        /// Walk the metadata only; do not decode compressed data
        #[arg(long)]
        quick: bool,
    },
    /// Print where the bytes of an image are
    Map {
        #[command(flatten)]
        image: ImageArgs,
    },
    /// Print the digest of the bytes a guest would read
    Digest {
        #[command(flatten)]
        image: ImageArgs,
        /// blake3 and sha256 equal b3sum and sha256sum of the raw disk; sha256-nonzero64k and
        /// sparse take time for the data only
        #[arg(long, default_value = "blake3", value_name = "NAME")]
        algorithm: Algorithm,
    },
    /// Compare the bytes that guests would read from two images
    Compare {
        /// An image, as a path or URL
        #[arg(value_parser = location())]
        a: String,
        /// Another image
        #[arg(value_parser = location())]
        b: String,
        #[command(flatten)]
        open: OpenArgs,
    },
    /// Write an image onto a disk, verify it, and report
    Migrate(MigrateArgs),
    /// Make an image file of another image or a disk
    Convert(ConvertArgs),
    /// Put an image file or a disk into an object store
    Upload {
        #[command(flatten)]
        run: EncodeArgs,
        /// Make this format of it on the way; the file goes as it is by default
        #[arg(long = "as", value_enum, value_name = "FORMAT")]
        to: Option<OutputArg>,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Get an image file out of an object store, as it is
    Download {
        #[command(flatten)]
        run: EncodeArgs,
    },
    /// Say how large the file would be that convert makes of an image; reads no payload
    #[command(after_help = "Examples:\n  \
        carreto measure disk.qcow2 --to raw\n  \
        carreto measure disk.raw --to vmdk --subformat streamOptimized --output json\n\n\
        Sizes are upper bounds where data may turn out to be zeros or may be compressed.")]
    Measure {
        #[command(flatten)]
        image: ImageArgs,
        /// The format to write
        #[arg(long, value_enum, value_name = "FORMAT")]
        to: OutputArg,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Take the disks of running servers, many at once
    Receive(ReceiveArgs),
    /// Migrate this running server
    Agent {
        #[command(subcommand)]
        command: AgentCommand,
    },
    /// Look at all servers of a receiver
    Fleet {
        #[command(subcommand)]
        command: FleetCommand,
    },
    /// Check the certificate of an online migration
    VerifyCertificate(CertificateArgs),
    /// Look after an object store
    Store {
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write all pages into a directory
    Man {
        /// Where to write one page for every command
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

impl Command {
    /// Whether it is no way through one image, and has its own word for where it stands.
    pub(crate) const fn reports_by_itself(&self) -> bool {
        matches!(self, Self::Receive(_) | Self::Agent { .. } | Self::Fleet { .. })
    }

    /// Whether the same command again goes on where an interrupted one ended.
    pub(crate) const fn is_resumable(&self) -> bool {
        matches!(
            self,
            Self::Migrate(_)
                | Self::Convert(_)
                | Self::Upload { .. }
                | Self::Download { .. }
                | Self::Receive(_)
                | Self::Agent { command: AgentCommand::Run(_) }
        )
    }
}

/// An image and how to open it.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct ImageArgs {
    /// The image: a path, or a URL (file, s3, cos, gs, az, http, https, nbd, nbd+unix)
    #[arg(value_parser = location())]
    pub(crate) image: String,
    /// The format; found out from the bytes by default
    #[arg(long, short = 'f', value_name = "FORMAT")]
    pub(crate) format: Option<Format>,
    #[command(flatten)]
    pub(crate) open: OpenArgs,
}

/// Takes a path or a URL; a path that is no text becomes a URL, which has an escape for every byte.
fn location() -> impl TypedValueParser<Value = String> {
    OsStringValueParser::new()
        .map(|word| word.into_string().unwrap_or_else(|path| file_url(Path::new(&path))))
}

/// How to open images.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct OpenArgs {
    /// Allow the image to name files inside this directory (repeatable)
    #[arg(long, value_name = "DIR")]
    pub(crate) allow_dir: Vec<String>,
    /// Read an internal snapshot, by name or id, instead of the active state
    #[arg(long, value_name = "NAME")]
    pub(crate) snapshot: Option<String>,
    /// Read a VHD although its checksums are wrong
    #[arg(long)]
    pub(crate) ignore_checksum: bool,
    /// Refuse an image of another format (repeatable)
    #[arg(long, value_name = "FORMAT")]
    pub(crate) allow_format: Vec<Format>,
    /// Refuse a larger disk, for example 2T
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) max_virtual_size: Option<u64>,
}

impl OpenArgs {
    pub(crate) fn spec(&self, location: &str, format: Option<Format>) -> ImageSpec {
        ImageSpec {
            location: location.to_owned(),
            format,
            snapshot: self.snapshot.clone(),
            allow_dirs: self.allow_dir.clone(),
            ignore_checksum: self.ignore_checksum,
            allow_formats: self.allow_format.clone(),
            max_virtual_size: self.max_virtual_size,
        }
    }
}

impl ImageArgs {
    pub(crate) fn spec(&self) -> ImageSpec {
        self.open.spec(&self.image, self.format)
    }
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  \
    carreto migrate disk.qcow2 disk.raw\n  \
    carreto migrate s3://images/web01.qcow2 /dev/vdb --yes\n\n\
    Run the same command again to resume an interrupted migration.")]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    pub(crate) image: ImageArgs,
    /// A block device, the URL of an NBD export, or a file; a missing file is created with the
    /// image's virtual size
    pub(crate) target: PathBuf,
    /// What the disk will be used for
    #[arg(long, value_enum)]
    pub(crate) role: Option<RoleArg>,
    /// How the result is verified
    #[arg(long, value_enum, default_value = "full")]
    pub(crate) verify: VerifyArg,
    /// End with "task timeout" after this time, for example 90m
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// End with "task timeout" when nothing moves for this time
    #[arg(long, value_name = "DURATION", default_value = "2h", value_parser = parse_duration)]
    pub(crate) stall_timeout: Duration,
    /// Memory for everything in flight
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    pub(crate) memory: u64,
    /// Read at most this much from the store each second, for example 10M
    #[arg(long, value_name = "RATE", value_parser = parse_size)]
    pub(crate) limit_rate: Option<u64>,
    /// Where journals, locks and reports lie
    #[arg(long, value_name = "DIR", env = "CARRETO_STATE_DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Begin again instead of resuming
    #[arg(long)]
    pub(crate) restart: bool,
    /// Do all checks, print the plan, write nothing
    #[arg(long, short = 'n')]
    pub(crate) dry_run: bool,
    /// Overwrite a block device or an export without asking
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
}

/// What the disk will be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleArg {
    /// A server boots from it
    System,
    /// A server mounts it
    Data,
}

/// How the result is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum VerifyArg {
    /// Read everything back, past the page cache, and compare digests
    Full,
    /// Do not read back
    None,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  \
    carreto convert disk.raw disk.qcow2 --to qcow2 --compress zstd\n  \
    carreto convert disk.qcow2 s3://images/disk.vmdk --to vmdk --subformat streamOptimized\n\n\
    Run the same command again to resume an interrupted conversion.")]
pub(crate) struct ConvertArgs {
    #[command(flatten)]
    pub(crate) run: EncodeArgs,
    /// The format to write
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) to: OutputArg,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

/// Options of the format that is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, ClapArgs)]
pub(crate) struct FormatArgs {
    /// qcow2: compress clusters
    #[arg(long, value_enum, value_name = "CODEC")]
    pub(crate) compress: Option<CompressArg>,
    /// How hard to compress: zlib 1 to 12, zstd 1 to 22
    #[arg(long, value_name = "N")]
    pub(crate) level: Option<i32>,
    /// The variant of the format
    #[arg(long, value_enum, value_name = "NAME")]
    pub(crate) subformat: Option<SubformatArg>,
    /// qcow2: the cluster size, from 512 to 2M
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) cluster_size: Option<u64>,
}

/// Options of every command that makes a file.
#[derive(Debug, ClapArgs)]
pub(crate) struct EncodeArgs {
    #[command(flatten)]
    pub(crate) image: ImageArgs,
    /// The file to make: a path, or the URL of an object
    #[arg(value_parser = location())]
    pub(crate) target: String,
    /// Replace what is there under the target's name
    #[arg(long)]
    pub(crate) force: bool,
    /// Read an uploaded object back and compare it; files are always read back
    #[arg(long)]
    pub(crate) read_back: bool,
    /// The size of the parts of an upload, from 5M; chosen by the size of the disk by default
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) part_size: Option<u64>,
    /// End with "task timeout" after this time, for example 90m
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// End with "task timeout" when nothing moves for this time
    #[arg(long, value_name = "DURATION", default_value = "2h", value_parser = parse_duration)]
    pub(crate) stall_timeout: Duration,
    /// Memory for everything in flight
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    pub(crate) memory: u64,
    /// Read at most this much each second, for example 10M
    #[arg(long, value_name = "RATE", value_parser = parse_size)]
    pub(crate) limit_rate: Option<u64>,
    /// Where checkpoints and locks lie
    #[arg(long, value_name = "DIR", env = "CARRETO_STATE_DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Begin again instead of resuming
    #[arg(long)]
    pub(crate) restart: bool,
}

/// The formats that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputArg {
    /// The bytes of the disk
    Raw,
    /// QEMU's format
    Qcow2,
    /// Microsoft's format; dynamic by default
    #[value(alias = "vpc")]
    Vhd,
    /// VMware's format; monolithicSparse by default
    Vmdk,
}

/// Variants of formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SubformatArg {
    /// VHD without empty blocks
    Dynamic,
    /// VHD with every byte, as Azure takes it
    Fixed,
    /// VMDK without empty grains
    #[value(name = "monolithicSparse")]
    MonolithicSparse,
    /// Compressed VMDK, as vSphere and AWS import it
    #[value(name = "streamOptimized")]
    StreamOptimized,
}

/// How clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompressArg {
    /// Readable by everything
    Zlib,
    /// Smaller and faster; needs QEMU 5.1
    Zstd,
}

/// What is done to a store.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// List uploads that nobody finished and, with --yes, abort the old ones
    Gc(GcArgs),
    /// Try what a store can do: ranges, conditions, checksums, uploads in parts
    Probe {
        /// A bucket, or a folder of one; nothing in it is touched but what the probe makes
        #[arg(value_parser = location())]
        place: String,
    },
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  \
    carreto store gc s3://images\n  \
    carreto store gc s3://images/web --older-than 2d --yes\n\n\
    The age counts from the last part that was sent.")]
pub(crate) struct GcArgs {
    /// A bucket, or a folder of one: `s3://bucket/folder`, `cos://bucket`
    #[arg(value_parser = location())]
    pub(crate) place: String,
    /// The age from which an upload counts as abandoned; one under way elsewhere is younger
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = parse_duration)]
    pub(crate) older_than: Duration,
    /// Abort the abandoned ones
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
    /// Abort also those that a checkpoint of this machine would go on with
    #[arg(long)]
    pub(crate) force_needed: bool,
    /// Where checkpoints lie
    #[arg(long, value_name = "DIR", env = "CARRETO_STATE_DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}
