//! Servers for the tests of object stores: a real S3 over a directory, and one that follows a
//! script of faults.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test file uses a part")]

mod case;
mod faults;

pub use case::{Case, SIZE, bent, content, cut, quick, stores, without};
pub use faults::{ETAG, FaultServer, Request, Step, answer, honest};

use carreto_store::{Credentials, Location, ObjectUrl, StoreEvent, StoreObserver, StoreSettings};
use hyper_util::rt::TokioIo;
use std::sync::Mutex;
use std::time::Duration;
use tokio::net::TcpListener;

pub const KEY: &str = "AKIDcanarykey";
pub const SECRET: &str = "canary-secret-4711";

/// Remembers what happened.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Vec<StoreEvent>>);

impl Recorder {
    pub fn events(&self) -> Vec<StoreEvent> {
        self.0.lock().unwrap().clone()
    }
}

impl StoreObserver for Recorder {
    fn observe(&self, event: StoreEvent) {
        self.0.lock().unwrap().push(event);
    }
}

pub fn url(text: &str) -> ObjectUrl {
    match text.parse().unwrap() {
        Location::Object(url) => url,
        other => panic!("{other} is no object"),
    }
}

pub fn keys() -> Credentials {
    Credentials::Key { id: KEY.into(), secret: SECRET.into(), token: None }
}

/// Flags for a server on this machine, with short times.
pub fn settings(endpoint: &str) -> StoreSettings {
    let mut settings = StoreSettings::default();
    settings.endpoint = Some(endpoint.to_owned());
    settings.credentials = Some(keys());
    settings.retry_for = Some(Duration::from_secs(20));
    settings
}

/// An S3 server in this process that keeps its buckets in a directory.
pub struct S3Server {
    pub endpoint: String,
    pub root: tempfile::TempDir,
}

impl S3Server {
    /// Starts with one empty bucket.
    pub async fn start(bucket: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(bucket)).unwrap();
        let files = s3s_fs::FileSystem::new(root.path()).unwrap();
        let mut builder = s3s::service::S3ServiceBuilder::new(files);
        builder.set_auth(s3s::auth::SimpleAuth::from_single(KEY, SECRET));
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let serve = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service.clone());
                // A client that goes away is no fault of the server.
                tokio::spawn(async move { drop(serve.await) });
            }
        });
        Self { endpoint, root }
    }
}
