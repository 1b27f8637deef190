//! A proxy that counts: what a client really sent, which neither side knows when the other dies.

use crate::Result;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Hands on what it gets, on a port of its own, until it is dropped.
pub(crate) struct Proxy {
    address: String,
    sent: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    cut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    /// In front of `server`, which is `host:port` and may come and go.
    pub(crate) fn start(server: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let (sent, ended) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (cut, open) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<TcpStream>>>::default());
        let (server, count, end) = (server.to_owned(), Arc::clone(&sent), Arc::clone(&ended));
        let (is_cut, opened) = (Arc::clone(&cut), Arc::clone(&open));
        thread::spawn(move || {
            for client in listener.incoming() {
                if end.load(Ordering::Relaxed) {
                    break;
                }
                if let (Ok(client), false) = (client, is_cut.load(Ordering::Relaxed)) {
                    if let Ok(client) = client.try_clone() {
                        lock(&opened).push(client);
                    }
                    let (server, count) = (server.clone(), Arc::clone(&count));
                    thread::spawn(move || connect(client, &server, &count));
                }
            }
        });
        Ok(Self { address, sent, ended, cut, open })
    }

    /// `host:port` of it.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Ends every connection and takes no new one until [`Self::mend`].
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
        for client in lock(&self.open).drain(..) {
            // It may have ended before.
            let _ = client.shutdown(Shutdown::Both);
        }
    }

    /// Takes connections again.
    pub(crate) fn mend(&self) {
        self.cut.store(false, Ordering::Relaxed);
    }

    /// Where it is reached.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The bytes that clients have sent so far, the heads of their requests among them.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // The thread sees the end when somebody comes; it does no harm when nobody can.
        let _ = TcpStream::connect(&self.address);
    }
}

fn lock(open: &Mutex<Vec<TcpStream>>) -> MutexGuard<'_, Vec<TcpStream>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves one client. A server that is away is a connection that ends at once.
fn connect(client: TcpStream, server: &str, count: &AtomicU64) {
    let Ok(server) = TcpStream::connect(server) else {
        // There is a second handle, so that dropping this one would not end it.
        let _ = client.shutdown(Shutdown::Both);
        return;
    };
    let (Ok(from_server), Ok(to_client)) = (server.try_clone(), client.try_clone()) else { return };
    let back = thread::spawn(move || hand_on(from_server, to_client, &AtomicU64::new(0)));
    hand_on(client, server, count);
    // A thread that panicked has ended the connection too.
    let _ = back.join();
}

/// Until one side ends, which ends the other.
fn hand_on(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    let mut buf = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut buf) {
        count.fetch_add(len as u64, Ordering::Relaxed);
        if to.write_all(&buf[..len]).is_err() {
            break;
        }
    }
    // Both are gone already when this fails.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_arrives_and_is_counted() {
        let server = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = server.local_addr().expect("an address").to_string();
        let echo = thread::spawn(move || {
            let (mut client, _) = server.accept().expect("a client");
            let mut bytes = [0; 5];
            client.read_exact(&mut bytes).expect("five bytes");
            client.write_all(&[&bytes[..], b"!"].concat()).expect("written");
        });
        let proxy = Proxy::start(&address).expect("it starts");
        let host = proxy.url().replace("http://", "");
        let mut client = TcpStream::connect(&host).expect("a connection");
        client.write_all(b"hello").expect("written");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("read");
        echo.join().expect("it echoes");
        assert_eq!((answer.as_str(), proxy.sent()), ("hello!", 5));
        // A link that is cut ends what is open and what comes.
        let mut open = TcpStream::connect(&host).expect("a connection");
        proxy.cut();
        let mut answer = Vec::new();
        assert_eq!(open.read_to_end(&mut answer).unwrap_or(0), 0);
        proxy.mend();
        // The server is gone: the connection ends without an answer.
        let mut client = TcpStream::connect(&host).expect("a connection");
        let mut answer = Vec::new();
        assert!(client.read_to_end(&mut answer).map_or(0, |len| len) == 0);
    }
}
