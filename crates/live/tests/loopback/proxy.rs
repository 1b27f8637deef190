//! A network in between: it can be cut after a number of bytes, and it can stand still.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: Mutex<Option<SocketAddr>>,
    cut: Mutex<CancellationToken>,
    /// Bytes until the next cut; negative for never.
    left: AtomicI64,
    cuts: AtomicU64,
    stalled: watch::Sender<bool>,
}

impl Proxy {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream: Mutex::default(),
            cut: Mutex::default(),
            left: AtomicI64::new(-1),
            cuts: AtomicU64::new(0),
            stalled: watch::channel(false).0,
        });
        tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared }
    }

    pub(crate) fn lead_to(&self, upstream: SocketAddr) {
        *self.shared.upstream.lock().unwrap() = Some(upstream);
    }

    /// Cuts every connection now.
    pub(crate) fn cut(&self) {
        self.shared.cut();
    }

    /// Cuts every connection when so many more bytes have passed.
    pub(crate) fn cut_after(&self, bytes: u64) {
        self.shared.left.store(i64::try_from(bytes).unwrap(), Ordering::Release);
    }

    pub(crate) fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::Acquire)
    }

    /// Lets nothing pass, or goes on.
    pub(crate) fn stall(&self, stalled: bool) {
        self.shared.stalled.send_replace(stalled);
    }
}

impl Shared {
    fn cut(&self) {
        let old = std::mem::take(&mut *self.cut.lock().unwrap());
        old.cancel();
        self.cuts.fetch_add(1, Ordering::AcqRel);
    }

    /// How many of `bytes` may pass.
    fn pass(&self, bytes: usize) -> usize {
        let len = i64::try_from(bytes).unwrap();
        let before = self.left.load(Ordering::Acquire);
        if before < 0 {
            return bytes;
        }
        self.left.fetch_sub(len, Ordering::AcqRel);
        if before > len {
            return bytes;
        }
        self.left.store(-1, Ordering::Release);
        self.cut();
        usize::try_from(before).unwrap()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((near, _)) = listener.accept().await {
        let (shared, upstream) = (Arc::clone(&shared), *shared.upstream.lock().unwrap());
        let cut = shared.cut.lock().unwrap().clone();
        tokio::spawn(async move {
            let Some(upstream) = upstream else { return };
            let Ok(far) = TcpStream::connect(upstream).await else { return };
            let (near, far) = (near.into_split(), far.into_split());
            tokio::select! {
                () = cut.cancelled() => {}
                () = copy(near.0, far.1, &shared) => {}
                () = copy(far.0, near.1, &shared) => {}
            }
        });
    }
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    shared: &Shared,
) {
    let mut buffer = vec![0; 16 << 10];
    let mut stalled = shared.stalled.subscribe();
    while let Ok(count) = from.read(&mut buffer).await {
        if count == 0 || stalled.wait_for(|stalled| !stalled).await.is_err() {
            return;
        }
        let passed = shared.pass(count);
        if to.write_all(&buffer[..passed]).await.is_err() || passed < count {
            return;
        }
    }
}
