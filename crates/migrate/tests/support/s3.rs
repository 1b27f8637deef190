//! An S3 server in this process that keeps its objects as files.

use carreto_migrate::Setup;
use carreto_store::{Credentials, StoreConfig, StoreSettings};
use hyper_util::rt::TokioIo;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpListener;

const KEY: &str = "AKIDtest";
const SECRET: &str = "secret";

/// Serves one bucket, `images`, until the process ends.
pub(crate) struct S3Server {
    endpoint: String,
    root: tempfile::TempDir,
}

impl S3Server {
    pub(crate) async fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("images")).unwrap();
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

    /// The file that holds the object `key`.
    pub(crate) fn file(&self, key: &str) -> PathBuf {
        self.root.path().join("images").join(key)
    }

    /// Settings that reach the server.
    pub(crate) fn setup(&self) -> Setup {
        let mut settings = StoreSettings::default();
        settings.endpoint = Some(self.endpoint.clone());
        let (id, secret) = (KEY.into(), SECRET.into());
        settings.credentials = Some(Credentials::Key { id, secret, token: None });
        settings.retry_for = Some(Duration::from_secs(20));
        Setup { stores: StoreConfig::new().with_flags(settings), ..Setup::default() }
    }
}
