//! The grammar of the commands of online migration.

use clap::{Args as ClapArgs, Subcommand};
use std::path::PathBuf;

/// What `receive` is told.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example of a configuration:\n  \
    listen = \"0.0.0.0:7443\"\n  \
    advertise = [\"192.0.2.7:7443\"]   # what the join tokens tell the servers\n  \
    state = \"/var/lib/carreto/receive\"\n  \
    [[server]]\n  \
    name = \"web1\"\n  \
    [[server.disk]]\n  \
    source = \"vda\"\n  \
    target = \"/dev/vdb\"              # or a file, or nbd://host/export")]
pub(crate) struct ReceiveArgs {
    /// Where to listen, and which server's disks go where
    #[arg(long = "config-file", short = 'c', value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Make new join tokens for servers that have not joined; older ones are worth nothing then
    #[arg(long)]
    pub(crate) new_tokens: bool,
    /// Make a new join token for this server although it has joined, for an agent that lost its
    /// key (repeatable); what was sent is kept, and the key that comes with it replaces the old one
    #[arg(long, value_name = "NAME", conflicts_with = "new_tokens")]
    pub(crate) new_token: Vec<String>,
    /// End once every server's migration is committed
    #[arg(long)]
    pub(crate) until_committed: bool,
}

/// The commands of the source.
#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Look at everything that a migration would meet; changes nothing
    Check(AgentFile),
    /// Migrate this server, in the foreground; resumes what an earlier run left
    #[command(after_help = "Example of a configuration:\n  \
        token = \"carreto1.…\"             # printed by `carreto receive`\n  \
        disks = [\"/dev/vda\"]             # all disks unless it is said\n  \
        bandwidth = \"08:00,1M 20:00,off\"\n  \
        [cutover]\n  \
        when = \"manual\"                  # or \"ready\"\n  \
        max_pause_seconds = 30\n  \
        [hooks]\n  \
        before = [\"systemctl stop app\"]\n  \
        after = [\"systemctl start app\"]  # when the source works on")]
    Run(AgentFile),
    /// Say where the migration stands
    #[command(
        after_help = "Where no agent runs, the last report of the one before is shown, with \
        `agent_running` false\nin JSON; the exit code is 0 for a report that is there, and 5 where \
        there is none."
    )]
    Status(AgentFile),
    /// Send nothing until `resume`; changes are still followed
    Pause(AgentFile),
    /// Go on
    Resume(AgentFile),
    /// Stop the source for a moment, prove that the target is equal, and commit
    Cutover {
        #[command(flatten)]
        file: AgentFile,
        /// Hash every byte while the source stands still, whatever was tracked
        #[arg(long)]
        strict: bool,
        /// Wait for the end; fails if the cutover is given up
        #[arg(long)]
        wait: bool,
    },
    /// Give a cutover up; without one, end the migration
    Abort(AgentFile),
    /// Remove everything that agents made on this server, and prove it; thaws what a committed
    /// cutover left frozen
    Cleanup {
        #[command(flatten)]
        file: AgentFile,
        /// Copy the certificate there first
        #[arg(long, value_name = "FILE")]
        keep_certificate: Option<PathBuf>,
    },
    /// Thaws the source when its agent cannot; started by the agent
    #[command(hide = true)]
    Watchdog,
}

/// Which agent is meant.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct AgentFile {
    /// The agent's configuration
    #[arg(long = "config-file", short = 'c', value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// The commands of the receiver's operator.
#[derive(Debug, Subcommand)]
pub(crate) enum FleetCommand {
    /// List the servers of a running receiver and where they stand
    Status {
        /// The receiver's configuration
        #[arg(long = "config-file", short = 'c', value_name = "FILE")]
        file: PathBuf,
    },
}

/// What `verify-certificate` is told.
#[derive(Debug, ClapArgs)]
pub(crate) struct CertificateArgs {
    /// The certificate
    pub(crate) file: PathBuf,
    /// A key (sha256:…) that must have signed; the receiver prints its own when it starts
    #[arg(long, value_name = "KEY")]
    pub(crate) trust: Vec<String>,
    /// A disk of the certificate and where its copy is, to be read and compared
    #[arg(long, value_name = "NAME=PATH")]
    pub(crate) disk: Vec<String>,
}
