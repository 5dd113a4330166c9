//! The accept loop over real sockets.

use std::net::SocketAddr;

use axum::{
    Extension,
    extract::rejection::StringRejection,
    routing::{get, post},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};

use super::{super::BodyTimedOut, *};
use crate::config::{ClientAddressHeader, ListenAddress};

const PATIENT: Duration = Duration::from_mins(1);
const IMPATIENT: Duration = Duration::from_millis(20);

struct Running {
    addr: SocketAddr,
    counters: Arc<ListenerCounters>,
    shutdown: CancellationToken,
    tracker: TaskTracker,
}

fn settings(timeout: Duration) -> ListenerSettings {
    ListenerSettings::direct(timeout, timeout, 10, Arc::default())
}

fn trusting(proxies: &[&str], proxy_protocol: bool) -> ListenerSettings {
    let proxies = proxies.iter().map(|proxy| proxy.parse().unwrap()).collect();
    ListenerSettings { trust: ProxyTrust { proxies, proxy_protocol, header: ClientAddressHeader::XForwardedFor }, ..settings(PATIENT) }
}

async fn start(settings: ListenerSettings) -> Running {
    start_at(&["127.0.0.1:0".parse().unwrap()], settings).await
}

async fn start_at(addresses: &[ListenAddress], settings: ListenerSettings) -> Running {
    let mut endpoints = Vec::new();
    for address in addresses {
        endpoints.push(Endpoint::bind(address, 0o660).await.unwrap());
    }
    let addr = endpoints[0].address().unwrap().tcp().unwrap();
    let told = |PeerAddr(peer): PeerAddr| peer.map_or_else(|| "nobody".to_owned(), |peer| peer.to_string());
    let app = Router::new()
        .route("/peer", get(async move |Extension(peer): Extension<PeerAddr>| format!("peer {} end", told(peer))))
        .route("/never", get(async || Body::from_stream(futures_util::stream::pending::<io::Result<Bytes>>())))
        .route("/body", post(async |body: Result<String, StringRejection>| body.map_err(|rejected| why(&rejected))));
    let counters = settings.counters.clone();
    let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
    tracker.spawn(serve(endpoints, app, settings, shutdown.clone(), tracker.clone()));
    Running { addr, counters, shutdown, tracker }
}

fn why(rejected: &StringRejection) -> String {
    BodyTimedOut::find(rejected).map_or_else(|| "something else".to_owned(), |timed_out| timed_out.to_string())
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }
}

/// Sends a request with these header lines and reads until one of the endings; gives all of it.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), path: &str, lines: &str, endings: &[&str]) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\n{lines}\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !endings.iter().any(|ending| answer.ends_with(ending.as_bytes())) {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "closed early: {}", String::from_utf8_lossy(&answer));
    }
    String::from_utf8(answer).unwrap()
}

/// Whose request it is, as the daemon sees it, when it comes with these header lines.
async fn peer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), lines: &str) -> String {
    let answer = ask(stream, "/peer", lines, &[" end"]).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    answer.rsplit_once("peer ").unwrap().1.trim_end_matches(" end").to_owned()
}

/// That it is closed without a word.
async fn closed(stream: &mut TcpStream) {
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap_or(0), 0);
}

/// Waits until a counter stands at `expected`: some things happen after the peer has seen the end of the connection.
async fn counted(counter: &AtomicU64, expected: u64) {
    let reached = async {
        while counter.load(Relaxed) < expected {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENT, reached).await.unwrap();
    assert_eq!(counter.load(Relaxed), expected);
}

#[tokio::test]
async fn serves_and_tells_the_peers_address_and_drains() {
    let running = start(settings(PATIENT)).await;
    let mut stream = running.connect().await;
    assert_eq!(peer(&mut stream, "").await, "127.0.0.1");
    // Nobody is trusted to say otherwise.
    assert_eq!(peer(&mut stream, "X-Forwarded-For: 192.0.2.1\r\n").await, "127.0.0.1");
    running.shutdown.cancel();
    running.tracker.close();
    running.tracker.wait().await;
    closed(&mut stream).await;
}

#[tokio::test]
async fn several_addresses_are_one_listener() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("public.sock");
    let addresses = ["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap(), ListenAddress::Unix(file.clone())];
    let running = start_at(&addresses, ListenerSettings { max_connections: 2, ..settings(PATIENT) }).await;
    let mut unix = UnixStream::connect(&file).await.unwrap();
    assert_eq!(peer(&mut unix, "X-Forwarded-For: 192.0.2.1\r\n").await, "nobody");
    let mut tcp = running.connect().await;
    assert_eq!(peer(&mut tcp, "").await, "127.0.0.1");
    closed(&mut running.connect().await).await;
    running.shutdown.cancel();
    running.tracker.close();
    running.tracker.wait().await;
    assert!(!file.exists());
}

#[tokio::test]
async fn a_silent_connection_is_closed_after_the_header_timeout() {
    let running = start(settings(IMPATIENT)).await;
    let mut stream = running.connect().await;
    stream.write_all(b"GET /peer HTTP/1.1\r\nHo").await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
    counted(&running.counters.header_timeouts, 1).await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let running = start(settings(IMPATIENT)).await;
    for (sent, expected) in [("whole", "whole"), ("half", "the body was not complete within 20ms")] {
        let mut stream = running.connect().await;
        let request = format!("POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n{sent}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with(expected), "{answer}");
    }
    counted(&running.counters.body_timeouts, 1).await;
}

#[tokio::test]
async fn one_connection_too_many_is_closed_at_once_and_counted() {
    let running = start(ListenerSettings { max_connections: 1, ..settings(PATIENT) }).await;
    let mut first = running.connect().await;
    peer(&mut first, "").await;
    closed(&mut running.connect().await).await;
    assert_eq!(running.counters.over_limit.load(Relaxed), 1);
    assert_eq!(running.counters.accepted.load(Relaxed), 2);
    peer(&mut first, "").await;
}

#[tokio::test]
async fn one_address_does_not_take_every_place() {
    let running = start(ListenerSettings { max_connections_per_address: 1, ..settings(PATIENT) }).await;
    let mut first = running.connect().await;
    peer(&mut first, "").await;
    closed(&mut running.connect().await).await;
    counted(&running.counters.over_address_limit, 1).await;
    let elsewhere = tokio::net::TcpSocket::new_v4().unwrap();
    elsewhere.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let mut other = elsewhere.connect(running.addr).await.unwrap();
    assert_eq!(peer(&mut other, "").await, "127.0.0.9");
    peer(&mut first, "").await;
}

#[tokio::test]
async fn behind_a_proxy_each_request_is_its_clients() {
    let running = start(ListenerSettings { max_connections_per_address: 1, ..trusting(&["127.0.0.1"], false) }).await;
    let mut stream = running.connect().await;
    assert_eq!(peer(&mut stream, "").await, "127.0.0.1");
    for client in ["192.0.2.1", "192.0.2.2", "2001:db8::1"] {
        assert_eq!(peer(&mut stream, &format!("X-Forwarded-For: 198.51.100.1, {client}\r\n")).await, client);
    }
    // The place is held for as long as the response takes, and the proxy's own connections are not counted.
    let mut busy = running.connect().await;
    let first = "X-Forwarded-For: 192.0.2.1\r\n";
    ask(&mut busy, "/never", first, &["\r\n\r\n"]).await;
    let refused = ask(&mut stream, "/peer", first, &["}"]).await;
    assert!(refused.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{refused}");
    assert_eq!(running.counters.over_address_limit.load(Relaxed), 1);
    assert_eq!(peer(&mut stream, "X-Forwarded-For: 192.0.2.2\r\n").await, "192.0.2.2");
    drop(busy);
    let freed = async { while !ask(&mut stream, "/peer", first, &["}", " end"]).await.ends_with(" end") {} };
    timeout(PATIENT, freed).await.unwrap();
}

#[tokio::test]
async fn the_proxy_protocol_tells_whose_connection_it_is() {
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\x7f\0\0\x01\x10\0\x1f\x40";
    let running = start(ListenerSettings { max_connections_per_address: 1, ..trusting(&["127.0.0.1"], true) }).await;
    let mut first = running.connect().await;
    first.write_all(v2).await.unwrap();
    assert_eq!(peer(&mut first, "X-Forwarded-For: 192.0.2.7\r\n").await, "192.0.2.1");
    let mut second = running.connect().await;
    second.write_all(b"PROXY TCP4 192.0.2.1 127.0.0.1 4096 8000\r\n").await.unwrap();
    closed(&mut second).await;
    counted(&running.counters.over_address_limit, 1).await;
    let mut third = running.connect().await;
    third.write_all(b"PROXY TCP6 2001:db8::1 ::1 4096 8000\r\n").await.unwrap();
    assert_eq!(peer(&mut third, "").await, "2001:db8::1");
    // A health check of the proxy's own.
    let mut local = running.connect().await;
    local.write_all(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").await.unwrap();
    assert_eq!(peer(&mut local, "").await, "127.0.0.1");
}

#[tokio::test]
async fn who_is_no_trusted_proxy_gets_nowhere_where_proxies_are_expected() {
    let running = start(ListenerSettings { header_timeout: IMPATIENT, ..trusting(&["127.0.0.1"], true) }).await;
    let elsewhere = tokio::net::TcpSocket::new_v4().unwrap();
    elsewhere.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let mut stranger = elsewhere.connect(running.addr).await.unwrap();
    closed(&mut stranger).await;
    counted(&running.counters.proxy_refused, 1).await;
    let mut without = running.connect().await;
    without.write_all(b"GET /peer HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
    closed(&mut without).await;
    counted(&running.counters.proxy_refused, 2).await;
    let mut slow = running.connect().await;
    slow.write_all(b"PROXY TCP4 192.0.2.1 ").await.unwrap();
    closed(&mut slow).await;
    counted(&running.counters.proxy_refused, 3).await;
}
