//! A web server for one object: it counts, fails, or falls silent as a test wants it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Serves until the process ends.
pub(crate) struct Server {
    pub(crate) url: String,
    requests: Arc<AtomicU64>,
}

impl Server {
    /// Serves `disk`; request number `fail_at`, counted from 1, is answered with 404.
    pub(crate) fn start(disk: Vec<u8>, fail_at: u64) -> Self {
        Self::with(move |stream, number| answer(stream, &disk, number == fail_at))
    }

    /// Takes requests and never answers.
    pub(crate) fn silent() -> Self {
        Self::with(|stream, _| {
            let mut lines = BufReader::new(stream).lines();
            while let Some(Ok(_)) = lines.next() {}
        })
    }

    fn with(serve: impl Fn(TcpStream, u64) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/disk.raw", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicU64::new(0));
        let (counter, serve) = (requests.clone(), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let number = counter.fetch_add(1, Ordering::SeqCst) + 1;
                let serve = serve.clone();
                std::thread::spawn(move || serve(stream, number));
            }
        });
        Self { url, requests }
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

fn answer(stream: TcpStream, disk: &[u8], fail: bool) {
    let mut out = stream.try_clone().unwrap();
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let head = lines.next().unwrap_or_default().starts_with("HEAD");
    let mut range = None;
    for line in lines.take_while(|line| !line.is_empty()) {
        if let Some(text) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            let (from, to) = text.split_once('-').unwrap();
            let to = to.parse().unwrap_or(usize::MAX).min(disk.len() - 1);
            range = Some((from.parse::<usize>().unwrap(), to));
        }
    }
    let common = "ETag: \"one\"\r\nLast-Modified: Wed, 01 Jan 2025 00:00:00 GMT\r\n\
                  Accept-Ranges: bytes\r\nConnection: close\r\n";
    let (status, extra, body) = match range {
        _ if fail => ("404 Not Found", String::new(), &[][..]),
        Some((from, to)) => {
            let extra = format!("Content-Range: bytes {from}-{to}/{}\r\n", disk.len());
            ("206 Partial Content", extra, &disk[from..=to])
        }
        None => ("200 OK", String::new(), disk),
    };
    let len = body.len();
    let head_text = format!("HTTP/1.1 {status}\r\n{common}{extra}Content-Length: {len}\r\n\r\n");
    // A client may have had enough.
    let _gone = out.write_all(head_text.as_bytes());
    if !head {
        let _gone = out.write_all(body);
    }
}
