//! Handshakes over loopback: with the right keys, the wrong ones, and with what is no agent.

use super::*;
use carreto_error::{Kind, Result};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

pub(super) const LIMIT: Duration = Duration::from_secs(10);

/// A receiver that answers one connection with `PONG` and says what it made of it.
pub(super) async fn receiver(
    identity: &Identity,
    limit: Duration,
) -> (String, tokio::task::JoinHandle<Result<Fingerprint>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let doorman = Doorman::new(identity).unwrap();
    let task = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let (mut stream, key) = doorman.accept(tcp, limit).await?;
        stream.write_all(b"PONG").await.unwrap();
        stream.shutdown().await.unwrap();
        Ok(key)
    });
    (address, task)
}

/// An address where nobody listens, and what keeps others from listening there.
pub(super) fn closed_port() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

pub(super) async fn read_pong(mut stream: TlsStream) {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "PONG");
}

#[tokio::test]
async fn both_ends_prove_their_keys() {
    let (agent, host) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let (address, task) = receiver(&host, LIMIT).await;
    let dialer = Dialer::new(&agent, host.fingerprint(), None).unwrap();
    let stream = dialer.dial(&address, LIMIT).await.unwrap();
    let (tcp, state) = stream.get_ref();
    assert_eq!(state.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert!(tcp.nodelay().unwrap());
    let keepalive = rustix::net::sockopt::socket_keepalive(tcp).unwrap();
    let timeout = rustix::net::sockopt::tcp_user_timeout(tcp).unwrap();
    assert!(keepalive && timeout == 45_000);
    read_pong(stream).await;
    assert_eq!(task.await.unwrap().unwrap(), agent.fingerprint());
}

#[tokio::test]
async fn no_session_is_resumed() {
    let (agent, host) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let dialer = Dialer::new(&agent, host.fingerprint(), None).unwrap();
    for _ in 0..2 {
        let (address, task) = receiver(&host, LIMIT).await;
        let stream = dialer.dial(&address, LIMIT).await.unwrap();
        let kind = stream.get_ref().1.handshake_kind();
        assert_eq!(kind, Some(rustls::HandshakeKind::Full));
        read_pong(stream).await;
        task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn another_key_is_denied_and_both_are_named() {
    let (agent, host) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let wanted = Identity::generate().unwrap().fingerprint();
    let (address, task) = receiver(&host, LIMIT).await;
    let dialer = Dialer::new(&agent, wanted, None).unwrap();
    let error = dialer.dial(&address, LIMIT).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    let text = error.to_string();
    assert!(text.contains(&wanted.to_string()), "{text}");
    assert!(text.contains(&host.fingerprint().to_string()), "{text}");
    assert!(error.remedy().contains("fingerprint"), "{}", error.remedy());
    assert!(task.await.unwrap().is_err());
}

#[tokio::test]
async fn a_certificate_without_its_key_is_refused() {
    // The certificate of the receiver, presented by somebody who does not have its key.
    let (agent, host) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let thief = Identity::generate().unwrap();
    let mut config = tls::server(&thief).unwrap();
    let key = rustls::crypto::aws_lc_rs::sign::any_eddsa_type(
        &rustls::pki_types::PrivatePkcs8KeyDer::from(thief.private_key().secret_der().to_vec()),
    );
    let stolen = rustls::sign::CertifiedKey::new(vec![host.certificate()], key.unwrap());
    config.cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(stolen));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let task = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(tcp).await.map(|_| ())
    });
    let dialer = Dialer::new(&agent, host.fingerprint(), None).unwrap();
    let error = dialer.dial(&address, LIMIT).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error:?}");
    assert!(task.await.unwrap().is_err());
}

#[tokio::test]
async fn a_silent_client_is_let_go() {
    let host = Identity::generate().unwrap();
    let (address, task) = receiver(&host, Duration::from_millis(100)).await;
    let _silent = TcpStream::connect(&address).await.unwrap();
    let error = task.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("within 0.1 s"), "{error}");

    let (address, task) = receiver(&host, Duration::from_millis(100)).await;
    let mut slow = TcpStream::connect(&address).await.unwrap();
    slow.write_all(&[22, 3, 1]).await.unwrap();
    assert!(task.await.unwrap().unwrap_err().to_string().contains("within 0.1 s"));

    let (address, task) = receiver(&host, LIMIT).await;
    drop(TcpStream::connect(&address).await.unwrap());
    assert!(task.await.unwrap().unwrap_err().to_string().contains("before a byte came"));
}

#[tokio::test]
async fn a_browser_is_recognised() {
    let host = Identity::generate().unwrap();
    let (address, task) = receiver(&host, LIMIT).await;
    let mut browser = TcpStream::connect(&address).await.unwrap();
    browser.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let error = task.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
    assert!(error.to_string().contains("GET / HTTP/1.1"), "{error}");
}

#[tokio::test]
async fn garbage_after_a_good_start_is_an_error() {
    let host = Identity::generate().unwrap();
    let (address, task) = receiver(&host, LIMIT).await;
    let mut scanner = TcpStream::connect(&address).await.unwrap();
    scanner.write_all(&[22, 3, 1, 0, 4, 1, 0, 0, 0, 0]).await.unwrap();
    let error = task.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
}

/// The settings of a client that accepts the receiver and is wrong in one way.
fn odd_client(
    versions: &[&'static rustls::SupportedProtocolVersion],
    identity: Option<&Identity>,
    protocols: &[&[u8]],
) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier::KeyVerifier::new(None, algorithms)));
    let mut config = match identity {
        Some(one) => {
            builder.with_client_auth_cert(vec![one.certificate()], one.private_key()).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    config
}

async fn refusal_of(config: rustls::ClientConfig) -> carreto_error::Error {
    let host = Identity::generate().unwrap();
    let (address, task) = receiver(&host, LIMIT).await;
    let tcp = TcpStream::connect(&address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("x.invalid").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
    if let Ok(mut stream) = stream {
        let _ = stream.read_u8().await;
    }
    task.await.unwrap().unwrap_err()
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let agent = Identity::generate().unwrap();
    let old = odd_client(&[&rustls::version::TLS12], Some(&agent), &[PROTOCOL]);
    let error = refusal_of(old).await;
    assert!(error.to_string().contains("does not speak TLS 1.3"), "{error}");
}

#[tokio::test]
async fn clients_that_are_no_agents() {
    let agent = Identity::generate().unwrap();
    let tls13 = &[&rustls::version::TLS13];
    let error = refusal_of(odd_client(tls13, None, &[PROTOCOL])).await;
    assert_eq!(error.kind(), Kind::Denied);
    assert!(error.to_string().contains("shows no certificate"), "{error}");
    let error = refusal_of(odd_client(tls13, Some(&agent), &[b"h2"])).await;
    assert!(error.to_string().contains("not carreto-live/1"), "{error}");
    let error = refusal_of(odd_client(tls13, Some(&agent), &[])).await;
    assert!(error.to_string().contains("not carreto-live/1"), "{error}");
}

#[tokio::test]
async fn nobody_listens() {
    let agent = Identity::generate().unwrap();
    let dialer = Dialer::new(&agent, agent.fingerprint(), None).unwrap();
    let (_kept, address) = closed_port();
    let error = dialer.dial(&address, LIMIT).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(error.remedy().contains("carreto receive"), "{}", error.remedy());
    assert_eq!(dialer.dial("nonsense", LIMIT).await.unwrap_err().kind(), Kind::Usage);

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let error = dialer.dial(&address, Duration::from_millis(100)).await.unwrap_err();
    assert!(error.to_string().contains("within 0.1 s"), "{error}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.write_all(b"SSH-2.0-x\r\n").await.unwrap();
        let _ = tcp.read_u8().await;
    });
    let error = dialer.dial(&address, LIMIT).await.unwrap_err();
    assert!(error.to_string().contains("does not speak TLS"), "{error:?}");
}

#[tokio::test]
async fn the_first_address_that_answers() {
    let (agent, host) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let dialer = Dialer::new(&agent, host.fingerprint(), None).unwrap();
    let (_kept, gone) = closed_port();
    let (address, task) = receiver(&host, LIMIT).await;
    let addresses = [gone.clone(), address.clone()];
    let (stream, found) = dialer.dial_any(&addresses, LIMIT).await.unwrap();
    assert_eq!(found, address);
    read_pong(stream).await;
    task.await.unwrap().unwrap();

    let (other, _task) = receiver(&Identity::generate().unwrap(), LIMIT).await;
    let error = dialer.dial_any(&[other, gone], LIMIT).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert_eq!(dialer.dial_any(&[], LIMIT).await.unwrap_err().kind(), Kind::Usage);
}

#[tokio::test]
async fn a_connection_that_is_cut_is_not_an_end() {
    // Whoever sits on the line can end TCP, but not TLS.
    let (agent, host) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let doorman = Doorman::new(&host).unwrap();
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let (stream, _) = doorman.accept(tcp, LIMIT).await.unwrap();
        let mut writer = crate::frame::FrameWriter::new(stream, 64);
        writer.send(9, &[b"whole"]).await.unwrap();
        writer.flush().await.unwrap();
    });
    let dialer = Dialer::new(&agent, host.fingerprint(), None).unwrap();
    let stream = dialer.dial(&address, LIMIT).await.unwrap();
    let mut reader = crate::frame::FrameReader::new(stream, 64);
    assert_eq!(reader.next().await.unwrap().unwrap().kind, 9);
    assert_eq!(reader.next().await.unwrap_err().kind(), Kind::Unavailable);
}
