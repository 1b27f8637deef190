//! Dialling through a proxy of each kind, and through what is none.

use super::tests::{LIMIT, closed_port, read_pong, receiver};
use super::*;
use carreto_error::Kind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// A proxy that reads a request, lets `judge` answer it, and connects where `judge` says.
async fn http_proxy(
    judge: impl FnOnce(String) -> (String, Option<String>) + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(near.read_u8().await.unwrap());
        }
        let (answer, target) = judge(String::from_utf8(head).unwrap());
        near.write_all(answer.as_bytes()).await.unwrap();
        if let Some(target) = target {
            let mut far = TcpStream::connect(target).await.unwrap();
            let _ = copy_bidirectional(&mut near, &mut far).await;
        }
    });
    address
}

async fn dial_through(proxy: &str, address: &str, host: &Identity) -> carreto_error::Result<()> {
    let agent = Identity::generate().unwrap();
    let proxy = Some(proxy.parse().unwrap());
    let dialer = Dialer::new(&agent, host.fingerprint(), proxy).unwrap();
    read_pong(dialer.dial(address, LIMIT).await?).await;
    Ok(())
}

#[tokio::test]
async fn connect_with_credentials() {
    let host = Identity::generate().unwrap();
    let (address, task) = receiver(&host, LIMIT).await;
    let target = address.clone();
    let proxy = http_proxy(move |head| {
        assert!(head.starts_with(&format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n")));
        // printf 'us er:p:a@ss' | base64
        assert!(head.contains("\r\nProxy-Authorization: Basic dXMgZXI6cDphQHNz\r\n"), "{head}");
        ("HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n".to_owned(), Some(target))
    })
    .await;
    let proxy = format!("http://us%20er:p%3Aa%40ss@{proxy}");
    dial_through(&proxy, &address, &host).await.unwrap();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn proxies_that_refuse() {
    let host = Identity::generate().unwrap();
    for (answer, kind, text) in [
        ("HTTP/1.1 407 Auth\r\n\r\n", Kind::Denied, "user and a password"),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", Kind::Unavailable, "403 Forbidden"),
        ("SSH-2.0-x\r\n\r\n", Kind::Unavailable, "does not speak HTTP"),
        ("HTTP/1.1 2000 x\r\n\r\n", Kind::Unavailable, "does not speak HTTP"),
        ("HTTP/1.1 200", Kind::Unavailable, "closed the connection"),
    ] {
        let proxy = http_proxy(|_| (answer.to_owned(), None)).await;
        let dialled = dial_through(&format!("http://{proxy}"), "h.invalid:1", &host).await;
        let error = dialled.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
        assert!(error.to_string().contains(&proxy), "{error}");
    }
    let endless = http_proxy(|_| ("x".repeat(20_000), None)).await;
    let error = dial_through(&format!("http://{endless}"), "h:1", &host).await.unwrap_err();
    assert!(error.to_string().contains("more than 16384"), "{error}");
}

#[tokio::test]
async fn a_proxy_that_is_not_there() {
    let host = Identity::generate().unwrap();
    let (_kept, address) = closed_port();
    let proxy = format!("http://u:secret@{address}");
    let error = dial_through(&proxy, "h:1", &host).await.unwrap_err();
    let text = carreto_error::chain_text(&error);
    assert!(text.contains("proxy cannot be reached") && !text.contains("secret"), "{text}");
}

/// A SOCKS 5 server made after RFC 1928 and 1929 that checks what it reads.
async fn socks_proxy(password: bool, reply: u8) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut hello = [0; 2];
        near.read_exact(&mut hello).await.unwrap();
        let mut methods = vec![0; usize::from(hello[1])];
        near.read_exact(&mut methods).await.unwrap();
        near.write_all(&[5, if password { 2 } else { 0 }]).await.unwrap();
        if password {
            let mut proof = [0; 6];
            near.read_exact(&mut proof).await.unwrap();
            let good = proof == [1, 1, b'u', 2, b'p', b'w'];
            near.write_all(&[1, u8::from(!good)]).await.unwrap();
        }
        let mut request = [0; 10];
        if near.read_exact(&mut request).await.is_err() {
            return;
        }
        assert_eq!(request[..8], [5, 1, 0, 1, 127, 0, 0, 1]);
        near.write_all(&[5, reply, 0, 3, 2, b'h', b'i', 0, 9]).await.unwrap();
        let port = u16::from_be_bytes([request[8], request[9]]);
        let mut far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let _ = copy_bidirectional(&mut near, &mut far).await;
    });
    address
}

#[tokio::test]
async fn socks() {
    let host = Identity::generate().unwrap();
    for (proxy, user) in [(socks_proxy(false, 0).await, ""), (socks_proxy(true, 0).await, "u:pw@")]
    {
        let (address, task) = receiver(&host, LIMIT).await;
        dial_through(&format!("socks5://{user}{proxy}"), &address, &host).await.unwrap();
        task.await.unwrap().unwrap();
    }
    for (proxy, user, kind, text) in [
        (socks_proxy(true, 0).await, "u:no@", Kind::Denied, "refuses the user"),
        (socks_proxy(true, 0).await, "", Kind::Denied, "no way of signing in"),
        (socks_proxy(false, 2).await, "", Kind::Unavailable, "its rules forbid it"),
    ] {
        let proxy = format!("socks5://{user}{proxy}");
        let error = dial_through(&proxy, "127.0.0.1:9", &host).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn addresses_of_proxies() {
    for (text, shown) in [
        ("http://h", "http://h:8080"),
        ("http://h:80", "http://h:80"),
        ("http://u:p@h:80/", "http://h:80"),
        ("socks5://10.0.0.1", "socks5://10.0.0.1:1080"),
        ("socks5h://[::1]:9", "socks5://[::1]:9"),
    ] {
        let proxy: Proxy = text.parse().unwrap();
        assert_eq!(proxy.to_string(), shown);
        assert_eq!(format!("{proxy:?}"), format!("Proxy({shown})"));
    }
    for bad in ["", "h:1", "https://h", "http://", "http://h:x", "http://h/path", "http://a b"] {
        let error = bad.parse::<Proxy>().unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{bad}");
    }
    let error = "ftp://u:secret@h".parse::<Proxy>().unwrap_err();
    assert!(!carreto_error::chain_text(&error).contains("secret"));
}
