//! The S3 server of a suite: one of our own on a free port of this machine, with random
//! credentials, which can die and come back; or one that the user named.

use super::install::{self, Installed, Product};
use super::s3_client::{Client, Credentials};
use crate::Result;
use std::fs::File;
use std::io::Read as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const START_LIMIT: Duration = Duration::from_mins(1);

/// The endpoint that the user named instead.
pub(crate) fn external() -> Option<String> {
    variable("CARRETO_E2E_S3")
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

/// A server that answers.
pub(crate) struct Server {
    pub(crate) client: Client,
    /// What it says it is.
    pub(crate) version: String,
    own: Option<Own>,
}

/// A server that this program started.
struct Own {
    product: Product,
    program: PathBuf,
    folder: PathBuf,
    address: String,
    credentials: Credentials,
    child: Child,
}

impl Server {
    /// The endpoint `url` with the credentials of the variables that the AWS tools know.
    pub(crate) fn external(url: &str) -> Result<Self> {
        let needed = |name: &str| variable(name).ok_or_else(|| format!("{name} is not set"));
        let credentials = Credentials {
            key: needed("AWS_ACCESS_KEY_ID")?,
            secret: needed("AWS_SECRET_ACCESS_KEY")?,
            token: variable("AWS_SESSION_TOKEN"),
        };
        Ok(Self {
            client: Client::new(url, variable("AWS_REGION").as_deref(), credentials)?,
            version: format!("S3 at {url}"),
            own: None,
        })
    }

    /// Starts a new server whose files lie in `folder`.
    pub(crate) fn start(product: Product, installed: &Installed, folder: &Path) -> Result<Self> {
        let key = format!("e2e{}", random_hex(8)?);
        let credentials = Credentials { key, secret: random_hex(20)?, token: None };
        // The port is free again for the blink of an eye until the server takes it.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let client = Client::new(&format!("http://{address}"), None, credentials.clone())?;
        let (program, folder) = (installed.program.clone(), folder.to_owned());
        let version = format!("{} {}", product.name(), install::version(&program)?);
        let child = spawn(product, &program, &folder, &address, &credentials)?;
        let own = Own { product, program, folder, address, credentials, child };
        let mut server = Self { client, version, own: Some(own) };
        server.wait_until_healthy()?;
        Ok(server)
    }

    /// Whether it can be killed, and counted before.
    pub(crate) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// `host:port` of a server of our own.
    pub(crate) fn address(&self) -> Option<&str> {
        self.own.as_ref().map(|own| own.address.as_str())
    }

    /// Ends it as a power cut of its process would.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let own = self.own.as_mut().ok_or("a server of others cannot be killed")?;
        own.child.kill()?;
        own.child.wait()?;
        Ok(())
    }

    /// Brings it back after [`Self::kill`], on the same port and with the same files.
    pub(crate) fn come_back(&mut self) -> Result<()> {
        let own = self.own.as_mut().ok_or("a server of others cannot be started")?;
        own.child = spawn(own.product, &own.program, &own.folder, &own.address, &own.credentials)?;
        self.wait_until_healthy()
    }

    fn wait_until_healthy(&mut self) -> Result<()> {
        let Some(own) = &mut self.own else { return Ok(()) };
        let path = match own.product {
            // `live` and `ready` already say yes when requests are still refused.
            Product::Minio => "/minio/health/cluster",
            Product::Versity => "/health",
        };
        let start = Instant::now();
        while self.client.get_status(path).ok() != Some(200) {
            if own.child.try_wait()?.is_some() || start.elapsed() > START_LIMIT {
                let log = std::fs::read_to_string(log_of(&own.folder))?;
                return Err(format!("{} does not start: {}", self.version, log.trim()).into());
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(own) = &mut self.own {
            // Nothing is left to do about a server that does not die.
            let _ = own.child.kill();
            let _ = own.child.wait();
        }
    }
}

fn log_of(folder: &Path) -> PathBuf {
    folder.join("server.log")
}

fn spawn(
    product: Product,
    program: &Path,
    folder: &Path,
    address: &str,
    credentials: &Credentials,
) -> Result<Child> {
    // Not one below the other: versitygw keeps old versions beside the data only.
    let (data, versions) = (folder.join("data"), folder.join("versions"));
    std::fs::create_dir_all(&data)?;
    std::fs::create_dir_all(&versions)?;
    let log = File::options().create(true).append(true).open(log_of(folder))?;
    let mut command = Command::new(program);
    match product {
        Product::Minio => command
            .args(["server", "--quiet", "--address", address])
            .arg(data)
            .env("MINIO_ROOT_USER", &credentials.key)
            .env("MINIO_ROOT_PASSWORD", &credentials.secret)
            .env("MINIO_BROWSER", "off")
            .env("MINIO_UPDATE", "off"),
        Product::Versity => command
            .args(["--port", address, "--quiet", "--health", "/health"])
            .args(["posix", "--versioning-dir"])
            .arg(versions)
            .arg(data)
            .env("ROOT_ACCESS_KEY_ID", &credentials.key)
            .env("ROOT_SECRET_ACCESS_KEY", &credentials.secret),
    };
    Ok(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?)
}

/// Random bytes in hexadecimal.
pub(crate) fn random_hex(bytes: u64) -> Result<String> {
    let mut random = Vec::new();
    File::open("/dev/urandom")?.take(bytes).read_to_end(&mut random)?;
    Ok(super::sign::hex(&random))
}
