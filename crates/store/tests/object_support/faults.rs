//! A server for one object that can misbehave at every byte. It writes to the socket itself,
//! because a proper HTTP library refuses to send what must be tested.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// The head of a request.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub target: String,
    /// By lower-case name.
    pub headers: BTreeMap<String, String>,
}

impl Request {
    fn parse(head: &str) -> Self {
        let mut lines = head.split("\r\n");
        let mut words = lines.next().unwrap().split(' ');
        Self {
            method: words.next().unwrap().to_owned(),
            target: words.next().unwrap().to_owned(),
            headers: lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first and the last byte asked for.
    pub fn range(&self) -> Option<(usize, usize)> {
        let range = self.header("range")?.strip_prefix("bytes=")?;
        let (first, last) = range.split_once('-')?;
        Some((first.parse().unwrap(), last.parse().unwrap()))
    }
}

/// One thing to do on the connection; after the last one the next request is read.
#[derive(Debug, Clone)]
pub enum Step {
    Send(Vec<u8>),
    Pause(Duration),
    /// Sends the same bytes that many times.
    Flood(Vec<u8>, usize),
    /// Counts that the steps before were done.
    Count(Arc<AtomicUsize>),
    /// Counts back, before what follows is sent.
    Uncount(Arc<AtomicUsize>),
    /// Waits until that many were counted.
    Until(Arc<AtomicUsize>, usize),
    /// Says nothing more and keeps the connection open.
    Hang,
    Close,
    /// Ends the connection with a reset instead of an end of file.
    Reset,
}

/// An answer without a body or with one.
pub fn answer(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<Step> {
    let mut head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    let mut bytes = (head + "\r\n").into_bytes();
    bytes.extend_from_slice(body);
    vec![Step::Send(bytes)]
}

type Script = dyn Fn(usize, &Request) -> Option<Vec<Step>> + Send + Sync;

/// The server. Its script sees the number of the request, from 0, and the request, and returns
/// what to do, or nothing for the honest answer.
pub struct FaultServer {
    pub endpoint: String,
    pub content: Arc<Vec<u8>>,
    requests: Arc<Mutex<Vec<Request>>>,
    connections: Arc<AtomicUsize>,
}

pub const ETAG: &str = "\"first\"";

impl FaultServer {
    pub async fn start(
        content: Vec<u8>,
        script: impl Fn(usize, &Request) -> Option<Vec<Step>> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            endpoint: format!("http://{}", listener.local_addr().unwrap()),
            content: Arc::new(content),
            requests: Arc::default(),
            connections: Arc::default(),
        };
        let (content, requests) = (Arc::clone(&server.content), Arc::clone(&server.requests));
        let script: Arc<Script> = Arc::new(script);
        let connections = Arc::clone(&server.connections);
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                let (content, requests) = (Arc::clone(&content), Arc::clone(&requests));
                let script = Arc::clone(&script);
                // A client that goes away in the middle is what is tested.
                tokio::spawn(async move {
                    drop(serve(socket, &content, &requests, &*script).await);
                });
            }
        });
        server
    }

    /// Connections that were made so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

async fn serve(
    mut socket: TcpStream,
    content: &[u8],
    requests: &Mutex<Vec<Request>>,
    script: &Script,
) -> std::io::Result<()> {
    let mut input = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = input.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end;
            }
            if socket.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
        };
        let request = Request::parse(std::str::from_utf8(&input[..end]).unwrap());
        let body: usize = request.header("content-length").map_or(0, |text| text.parse().unwrap());
        while input.len() < end + 4 + body {
            if socket.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
        }
        input.drain(..end + 4 + body);
        let number = {
            let mut list = requests.lock().unwrap();
            list.push(request.clone());
            list.len() - 1
        };
        let steps = script(number, &request).unwrap_or_else(|| honest(&request, content));
        for step in steps {
            match step {
                Step::Send(bytes) => socket.write_all(&bytes).await?,
                Step::Flood(bytes, times) => {
                    for _ in 0..times {
                        socket.write_all(&bytes).await?;
                    }
                }
                Step::Count(counter) => {
                    counter.fetch_add(1, Ordering::SeqCst);
                }
                Step::Uncount(counter) => {
                    counter.fetch_sub(1, Ordering::SeqCst);
                }
                Step::Until(counter, wanted) => {
                    while counter.load(Ordering::SeqCst) < wanted {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }
                Step::Pause(time) => tokio::time::sleep(time).await,
                Step::Hang => std::future::pending().await,
                Step::Close => return socket.shutdown().await,
                Step::Reset => {
                    socket.set_zero_linger()?;
                    return Ok(());
                }
            }
        }
    }
}

/// What a correct server answers.
pub fn honest(request: &Request, content: &[u8]) -> Vec<Step> {
    let size = content.len();
    if request.header("if-match").is_some_and(|tag| tag != ETAG) {
        return answer("412 Precondition Failed", &[], b"");
    }
    let date = ("last-modified", "Sun, 01 Nov 2026 10:00:00 GMT");
    if request.method == "HEAD" {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {size}\r\netag: {ETAG}\r\n{}: {}\r\n\r\n",
            date.0, date.1
        );
        return vec![Step::Send(head.into_bytes())];
    }
    match request.range() {
        Some((first, _)) if first >= size => {
            let range = format!("bytes */{size}");
            answer("416 Range Not Satisfiable", &[("content-range", &range)], b"")
        }
        Some((first, last)) => {
            let last = last.min(size - 1);
            let range = format!("bytes {first}-{last}/{size}");
            let headers = [("etag", ETAG), date, ("content-range", &range)];
            answer("206 Partial Content", &headers, &content[first..=last])
        }
        None => answer("200 OK", &[("etag", ETAG), date], content),
    }
}
