//! The S3 server of the suites: MinIO, built from source in the background, started with random
//! credentials on a free port of this machine, and ended with the suite.

use super::needs;
use super::process;
use super::s3_client::{Client, Credentials};
use crate::Result;
use std::fs::File;
use std::io::Read as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

const MODULE: &str = "github.com/minio/minio";
/// A later one may behave differently, and a failure would not tell which: it is raised on purpose.
const VERSION: &str = "v0.0.0-20260212201848-7aac2a2c5b7c";
const START_LIMIT: Duration = Duration::from_mins(1);

/// The endpoint that the user named instead.
pub(crate) fn external() -> Option<String> {
    std::env::var("CARRETO_E2E_S3").ok().filter(|url| !url.is_empty())
}

/// The pinned version, unless the user named another one.
fn wanted_version() -> String {
    let named = std::env::var("CARRETO_E2E_MINIO_VERSION").ok().filter(|text| !text.is_empty());
    named.unwrap_or_else(|| VERSION.to_owned())
}

/// The Go tool, also where its own installer puts it.
pub(crate) fn go() -> Option<PathBuf> {
    let usual = PathBuf::from("/usr/local/go/bin/go");
    needs::find("go").or_else(|| usual.is_file().then_some(usual))
}

/// A server whose program may still be under construction.
pub(crate) enum Installing {
    External(String),
    Own(JoinHandle<Result<PathBuf>>),
}

impl Installing {
    /// Begins to build MinIO, unless it was built before, into `cache`.
    pub(crate) fn start(cache: &Path) -> Result<Self> {
        if let Some(url) = external() {
            return Ok(Self::External(url));
        }
        let bin = cache.join("bin");
        std::fs::create_dir_all(&bin)?;
        Ok(Self::Own(std::thread::spawn(move || install(&bin))))
    }

    /// Waits for the program and starts it.
    pub(crate) fn serve(self, folder: &Path) -> Result<Server> {
        let built = match self {
            Self::External(url) => return Server::external(&url),
            Self::Own(built) => built,
        };
        let program = built.join().map_err(|_| "the build of MinIO panicked")??;
        Server::start(&program, folder)
    }
}

fn install(bin: &Path) -> Result<PathBuf> {
    let program = bin.join("minio");
    let wanted = wanted_version();
    if program.is_file() && version(&program).is_ok_and(|found| found == wanted) {
        return Ok(program);
    }
    let module = format!("{MODULE}@{wanted}");
    let go = go().ok_or("there is no Go to build MinIO with")?;
    println!("building MinIO {wanted} in the background (some minutes, once)");
    let mut command = Command::new(go);
    command.args(["install", &module]).env("GOBIN", bin);
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(bin.join("minio.log"))?)
        .status()?;
    if status.success() {
        return Ok(program);
    }
    let log = std::fs::read_to_string(bin.join("minio.log"))?;
    let last = log.lines().last().unwrap_or_default();
    Err(format!("go install {module} ended with {status}: {last}").into())
}

/// A server that answers.
pub(crate) struct Server {
    pub(crate) client: Client,
    /// What it says it is.
    pub(crate) version: String,
    child: Option<Child>,
}

impl Server {
    fn external(url: &str) -> Result<Self> {
        let variable = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set"));
        let credentials = Credentials {
            key: variable("AWS_ACCESS_KEY_ID")?,
            secret: variable("AWS_SECRET_ACCESS_KEY")?,
        };
        Ok(Self {
            client: Client::new(url, credentials)?,
            version: format!("S3 at {url}"),
            child: None,
        })
    }

    fn start(program: &Path, folder: &Path) -> Result<Self> {
        let credentials =
            Credentials { key: format!("e2e{}", random_hex(8)?), secret: random_hex(20)? };
        // The port is free again for the blink of an eye until the server takes it.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let log = File::create(folder.join("minio.log"))?;
        let child = Command::new(program)
            .args(["server", "--quiet", "--address", &address])
            .arg(folder.join("data"))
            .env("MINIO_ROOT_USER", &credentials.key)
            .env("MINIO_ROOT_PASSWORD", &credentials.secret)
            .env("MINIO_BROWSER", "off")
            .env("MINIO_UPDATE", "off")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut server = Self {
            client: Client::new(&format!("http://{address}"), credentials)?,
            version: format!("MinIO {}", version(program)?),
            child: Some(child),
        };
        server.wait_until_healthy(&folder.join("minio.log"))?;
        Ok(server)
    }

    fn wait_until_healthy(&mut self, log: &Path) -> Result<()> {
        let start = Instant::now();
        // `live` and `ready` already say yes when requests are still refused.
        while self.client.get_status("/minio/health/cluster").ok() != Some(200) {
            let ended = match &mut self.child {
                Some(child) => child.try_wait()?,
                None => None,
            };
            if ended.is_some() || start.elapsed() > START_LIMIT {
                let log = std::fs::read_to_string(log)?;
                return Err(format!("MinIO does not start: {}", log.trim()).into());
            }
            sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Nothing is left to do about a server that does not die.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The version of the module that a program was built from; the program itself does not know it.
fn version(program: &Path) -> Result<String> {
    let go = go().ok_or("there is no Go to ask for the version of MinIO")?;
    let text = process::succeed(Command::new(go).args(["version", "-m"]).arg(program))?;
    let line = text.lines().find_map(|line| line.strip_prefix("\tmod\t"));
    let version = line.and_then(|line| line.split('\t').nth(1));
    Ok(version.unwrap_or("of unknown version").to_owned())
}

fn random_hex(bytes: u64) -> Result<String> {
    let mut random = Vec::new();
    File::open("/dev/urandom")?.take(bytes).read_to_end(&mut random)?;
    Ok(super::s3_client::hex(&random))
}
