//! Where the daemon listens, for whom, and with which certificate.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::UnixStream,
};

use crate::support::{Certificate, Daemon, Setup, connect, connect_tls};

const OVER_ADDRESS_LIMIT: &str = "tarishi_connections_over_address_limit_total{listener=\"public\"}";
const PROXY_REFUSED: &str = "tarishi_connections_proxy_refused_total{listener=\"public\"}";
const TLS_FAILED: &str = "tarishi_connections_tls_failed_total{listener=\"public\"}";

/// The status of a request to somewhere that does not exist; `None` when the connection was closed instead.
async fn status(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), lines: &str) -> Option<u16> {
    stream.write_all(format!("GET /nowhere HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n").as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    // Problem details are one object: the end of it is the end of the answer.
    while !answer.ends_with(b"}") {
        if stream.read_buf(&mut answer).await.ok()? == 0 {
            return None;
        }
    }
    String::from_utf8_lossy(&answer).split(' ').nth(1)?.parse().ok()
}

async fn hang_up(daemon: &Daemon, event: &str, times: usize) {
    daemon.process.signal("HUP");
    let told = async || Some(daemon.events(event)).filter(|events| events.len() == times);
    daemon.process.until(&format!("it says {times} times `{event}`"), told).await;
}

#[tokio::test]
async fn it_listens_on_ports_and_unix_sockets_at_once() {
    let mut setup = Setup::new();
    let file = setup.folder().join("public.sock");
    let tcp = setup.public_url().replace("http://", "");
    setup.set("public.listen", &format!("[\"{tcp}\", \"unix:public.sock\"]"));
    setup.set("public.socket_mode", "0600");
    let daemon = setup.start().await;
    assert_eq!(daemon.events("daemon started")[0]["public"], format!("{tcp}, unix:public.sock"));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(status(&mut UnixStream::connect(&file).await.unwrap(), "").await, Some(404));
    assert_eq!(status(&mut connect(daemon.public, "127.0.0.1").await.unwrap(), "").await, Some(404));
    // A second one does not take its place.
    let other = Setup::new().with("public.listen", &format!("unix:{}", file.display()));
    let process = other.spawn(&[]);
    assert_eq!(process.end().await.code, Some(3));
    assert!(process.lines().join("\n").contains("somebody listens there"), "{:?}", process.lines());
    // What a crash leaves is replaced at the next start, and what an orderly end leaves is nothing.
    daemon.process.kill().await;
    assert!(fs::metadata(&file).unwrap().file_type().is_socket());
    let daemon = setup.start().await;
    assert_eq!(status(&mut UnixStream::connect(&file).await.unwrap(), "").await, Some(404));
    assert_eq!(daemon.terminate().await.code, Some(0));
    assert!(!file.exists());
    fs::write(&file, "precious").unwrap();
    let (process, ended) = setup.try_start(&[]).await.err().unwrap();
    assert_eq!(ended.code, Some(3));
    assert!(process.lines().join("\n").contains("public.listen: cannot listen on unix:public.sock"), "{:?}", process.lines());
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[tokio::test]
async fn one_address_has_so_many_connections_and_the_log_says_so() {
    let mut setup = Setup::new().with("public.max_connections_per_address", "1");
    let daemon = setup.start().await;
    let mut first = connect(daemon.public, "127.0.0.9").await.unwrap();
    assert_eq!(status(&mut first, "").await, Some(404));
    // Not even when it says that it speaks for others.
    assert_eq!(status(&mut connect(daemon.public, "127.0.0.9").await.unwrap(), "X-Forwarded-For: 192.0.2.1\r\n").await, None);
    assert_eq!(status(&mut connect(daemon.public, "127.0.0.8").await.unwrap(), "").await, Some(404));
    daemon.metric_is(OVER_ADDRESS_LIMIT, 1).await;
    let said = daemon.process.find_line(|line| line.contains("connections refused").then(|| line.to_owned())).await.unwrap();
    assert!(said.contains("\"over_address_limit\":1") && said.contains("public.trusted_proxies"), "{said}");
}

#[tokio::test]
async fn a_trusted_proxy_speaks_for_others() {
    let mut setup =
        Setup::new().with("public.max_connections_per_address", "1").with("public.trusted_proxies", "[\"127.0.0.9\", \"unix\"]");
    let file = setup.folder().join("public.sock");
    let tcp = setup.public_url().replace("http://", "");
    setup.set("public.listen", &format!("[\"{tcp}\", \"unix:public.sock\"]"));
    let daemon = setup.start().await;
    // Two connections of its own, and requests for many on each.
    for _ in 0..2 {
        let mut proxy = connect(daemon.public, "127.0.0.9").await.unwrap();
        let mut local = UnixStream::connect(&file).await.unwrap();
        for client in 1..4 {
            let line = format!("X-Forwarded-For: 192.0.2.{client}\r\n");
            assert_eq!(status(&mut proxy, &line).await, Some(404));
            assert_eq!(status(&mut local, &line).await, Some(404));
        }
    }
    assert_eq!(daemon.metric(OVER_ADDRESS_LIMIT).await, 0);
}

#[tokio::test]
async fn with_the_proxy_protocol_only_proxies_connect() {
    let mut setup = Setup::new().with("public.proxy_protocol", "true").with("public.trusted_proxies", "[\"127.0.0.9\"]");
    setup.set("public.max_connections_per_address", "1");
    let daemon = setup.start().await;
    let header = "PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n";
    let mut proxied = connect(daemon.public, "127.0.0.9").await.unwrap();
    proxied.write_all(header.as_bytes()).await.unwrap();
    assert_eq!(status(&mut proxied, "").await, Some(404));
    let mut again = connect(daemon.public, "127.0.0.9").await.unwrap();
    again.write_all(header.as_bytes()).await.unwrap();
    assert_eq!(status(&mut again, "").await, None);
    daemon.metric_is(OVER_ADDRESS_LIMIT, 1).await;
    let mut stranger = connect(daemon.public, "127.0.0.8").await.unwrap();
    let _ = stranger.write_all(header.as_bytes()).await;
    assert_eq!(status(&mut stranger, "").await, None);
    daemon.metric_is(PROXY_REFUSED, 1).await;
    assert_eq!(status(&mut connect(daemon.public, "127.0.0.9").await.unwrap(), "").await, None);
    daemon.metric_is(PROXY_REFUSED, 2).await;
}

#[tokio::test]
async fn tls_takes_a_good_new_certificate_and_keeps_the_old_one_otherwise() {
    let mut setup = Setup::new().with("public.tls.certificate_file", "tls.pem").with("public.tls.key_file", "tls.key");
    let folder = setup.folder().to_owned();
    let old = Certificate::make(&folder, "tls");
    let presented = async |daemon: &Daemon, certificate: &Certificate| {
        let mut stream = connect_tls(daemon.public, "127.0.0.1", certificate).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(status(&mut stream, "").await, Some(404));
        let certificates = stream.get_ref().1.peer_certificates().unwrap().to_vec();
        (stream, certificates)
    };
    let daemon = setup.start().await;
    let (mut before, certificates) = presented(&daemon, &old).await;
    assert_eq!(certificates, [old.der()]);
    // Plain HTTP is not understood.
    assert_eq!(status(&mut connect(daemon.public, "127.0.0.1").await.unwrap(), "").await, None);
    daemon.metric_is(TLS_FAILED, 1).await;

    let new = Certificate::make(&folder, "new");
    fs::copy(&new.file, folder.join("tls.pem")).unwrap();
    hang_up(&daemon, "certificate refused: the old one stays in use; mend the files, then send SIGHUP again", 1).await;
    let old_der = certificates;
    let kept = Certificate { file: folder.join("old.pem"), key_file: old.key_file.clone() };
    fs::write(&kept.file, pem(old_der[0].as_ref())).unwrap();
    assert_eq!(presented(&daemon, &kept).await.1, old_der);

    fs::copy(&new.key_file, folder.join("tls.key")).unwrap();
    hang_up(&daemon, "certificate reloaded: new connections get it", 1).await;
    assert_eq!(presented(&daemon, &new).await.1, [new.der()]);
    // Connections that were there are left alone.
    assert_eq!(status(&mut before, "").await, Some(404));
    assert_eq!(daemon.metric("tarishi_certificate_reloads_total{result=\"refused\"}").await, 1);
    assert_eq!(daemon.terminate().await.code, Some(0));

    fs::set_permissions(folder.join("tls.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let (process, ended) = setup.try_start(&[]).await.err().unwrap();
    assert_eq!(ended.code, Some(3));
    let said = process.lines().join("\n");
    assert!(said.contains("public.tls.key_file: tls.key may be used by everyone") && said.contains("chmod 600 tls.key"), "{said}");
}

#[tokio::test]
async fn over_tls_too_an_early_answer_reaches_whoever_is_still_sending() {
    const BODY: usize = 8 << 20;
    let mut setup = Setup::new().with("public.tls.certificate_file", "tls.pem").with("public.tls.key_file", "tls.key");
    let certificate = Certificate::make(setup.folder(), "tls");
    let daemon = setup.start().await;
    let mut stream = connect_tls(daemon.public, "127.0.0.1", &certificate).await.unwrap();
    stream.write_all(format!("POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: {BODY}\r\n\r\n").as_bytes()).await.unwrap();
    stream.write_all(&vec![b' '; BODY]).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
}

fn pem(der: &[u8]) -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64_STANDARD.encode(der))
}

#[tokio::test]
async fn without_tls_a_hang_up_leaves_the_listener_alone() {
    let mut setup = Setup::new();
    let daemon = setup.start().await;
    hang_up(&daemon, "templates reloaded", 1).await;
    assert_eq!(status(&mut connect(daemon.public, "127.0.0.1").await.unwrap(), "").await, Some(404));
}
