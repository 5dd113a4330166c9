//! The accept loop over real sockets.

use std::net::SocketAddr;

use axum::{
    Extension, Router,
    extract::rejection::StringRejection,
    http::header::CONNECTION,
    response::IntoResponse,
    routing::{any, get, post},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
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
        .route("/echo", any(async move |Extension(peer): Extension<PeerAddr>, switch: Option<Extension<Switch>>| echo(&told(peer), switch)))
        .route("/beside", get(async || "by the router end"))
        .route("/never", get(async || Body::from_stream(futures_util::stream::pending::<io::Result<Bytes>>())))
        .route("/body", post(async |body: Result<String, StringRejection>| body.map_err(|rejected| why(&rejected))));
    let counters = settings.counters.clone();
    let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
    let app = App::from(app).with_socket("/beside", async |_| (StatusCode::UPGRADE_REQUIRED, "beside the router end").into_response());
    tracker.spawn(serve(endpoints, app, settings, shutdown.clone(), tracker.clone()));
    Running { addr, counters, shutdown, tracker }
}

/// Switches to a protocol that greets whose connection it is, then says what it hears.
fn echo(peer: &str, switch: Option<Extension<Switch>>) -> axum::response::Response {
    let Some(Extension(switch)) = switch else { return StatusCode::UPGRADE_REQUIRED.into_response() };
    let greeting = format!("hello {peer}: ");
    switch.to(Box::new(|mut wire, read| {
        Box::pin(async move {
            wire.write_all(greeting.as_bytes()).await.unwrap();
            wire.write_all(&read).await.unwrap();
            let (mut heard, mut said) = tokio::io::split(wire);
            // Some clients do not say goodbye.
            let _ = tokio::io::copy(&mut heard, &mut said).await;
        })
    }));
    (StatusCode::SWITCHING_PROTOCOLS, [(CONNECTION, "upgrade"), (UPGRADE, "websocket")]).into_response()
}

const ASKING: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

/// The head of a request for an upgrade, with these header lines beside.
fn asking(lines: &str) -> String {
    format!("GET /echo HTTP/1.1\r\nHost: test\r\n{ASKING}{lines}\r\n")
}

/// That what comes next is `expected`.
async fn comes(stream: &mut (impl AsyncRead + Unpin), expected: &str) {
    let mut come = vec![0; expected.len()];
    let whole = timeout(PATIENT, stream.read_exact(&mut come)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&come), expected, "{whole:?}");
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

#[tokio::test]
async fn a_first_request_that_asks_for_it_switches_protocols() {
    let running = start(settings(PATIENT)).await;
    let greeted = format!("{SWITCHED}hello 127.0.0.1: ");
    // The answer and the first words are one write.
    let mut stream = running.connect().await;
    stream.write_all(asking("").as_bytes()).await.unwrap();
    let mut come = [0; 1024];
    let length = stream.read(&mut come).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&come[..length]), greeted);
    stream.write_all(b"one").await.unwrap();
    comes(&mut stream, "one").await;
    // What came with the head is heard, all of it and once.
    let mut stream = running.connect().await;
    stream.write_all(format!("{}one", asking("Host: other\r\n")).as_bytes()).await.unwrap();
    comes(&mut stream, &format!("{greeted}one")).await;
    stream.write_all(b"two").await.unwrap();
    comes(&mut stream, "two").await;
    // However the head comes.
    let mut stream = running.connect().await;
    stream.set_nodelay(true).unwrap();
    for byte in asking("").as_bytes() {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    comes(&mut stream, &greeted).await;
    assert_eq!(running.counters.header_timeouts.load(Relaxed), 0);
}

#[tokio::test]
async fn a_later_request_switches_protocols_too() {
    let running = start(settings(PATIENT)).await;
    for read_with_it in ["", "one"] {
        let mut stream = running.connect().await;
        peer(&mut stream, "").await;
        let answer = ask(&mut stream, "/echo", ASKING, &["hello 127.0.0.1: "]).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        stream.write_all(format!("{read_with_it}two").as_bytes()).await.unwrap();
        comes(&mut stream, &format!("{read_with_it}two")).await;
    }
    // Both requests and the first words at once, more than hyper reads in one go.
    let mut stream = running.connect().await;
    let plain = format!("GET /peer HTTP/1.1\r\nHost: test\r\nX-Long: {}\r\n\r\n", "x".repeat(16 * 1024));
    let words = "y".repeat(100_000);
    let (mut reading, mut writing) = stream.split();
    let sent = format!("{plain}{}{words}", asking(""));
    let sending = async move { writing.write_all(sent.as_bytes()).await.unwrap() };
    let receiving = async {
        let mut come = Vec::new();
        while !come.ends_with(words.as_bytes()) {
            assert_ne!(timeout(PATIENT, reading.read_buf(&mut come)).await.unwrap().unwrap(), 0);
        }
        String::from_utf8(come).unwrap()
    };
    let ((), come) = tokio::join!(sending, receiving);
    assert!(come.contains("peer 127.0.0.1 end") && come.ends_with(&format!("hello 127.0.0.1: {words}")));
}

#[tokio::test]
async fn who_is_refused_another_protocol_goes_on_with_this_one() {
    let running = start(settings(PATIENT)).await;
    let mut stream = running.connect().await;
    let elsewhere = asking("").replace("/echo", "/elsewhere");
    stream.write_all(format!("{elsewhere}{elsewhere}").as_bytes()).await.unwrap();
    for _ in 0..2 {
        comes(&mut stream, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\ndate: ").await;
        let mut rest = Vec::new();
        while !rest.ends_with(b"\r\n\r\n") {
            rest.push(stream.read_u8().await.unwrap());
        }
    }
    assert_eq!(peer(&mut stream, "").await, "127.0.0.1");
    // Asked for in a way that is hyper's to read: with a body, with another method, for another protocol.
    for (method, lines) in [("GET", "Content-Length: 0\r\n"), ("POST", "")] {
        let mut stream = running.connect().await;
        stream.write_all(asking(lines).replace("GET", method).as_bytes()).await.unwrap();
        comes(&mut stream, "HTTP/1.1 101 ").await;
    }
    let mut stream = running.connect().await;
    assert!(ask(&mut stream, "/echo", "", &["\r\n\r\n"]).await.starts_with("HTTP/1.1 426 "));
}

#[tokio::test]
async fn a_head_has_an_end() {
    let running = start(settings(PATIENT)).await;
    let mut stream = running.connect().await;
    let endless = format!("GET /echo HTTP/1.1\r\n{ASKING}X-Long: {}", "x".repeat(CONNECTION_BUFFER_LIMIT));
    // It may be closed before all of it is taken.
    let _ = stream.write_all(endless.as_bytes()).await;
    comes(&mut stream, "HTTP/1.1 431 ").await;
    let mut stream = running.connect().await;
    stream.write_all(b"GET /echo HTTP/1.1\r\nno colon\r\n\r\n").await.unwrap();
    comes(&mut stream, "HTTP/1.1 400 ").await;
    // One that begins to ask, and ends.
    let mut stream = running.connect().await;
    stream.write_all(&asking("").as_bytes()[..40]).await.unwrap();
    stream.shutdown().await.unwrap();
    closed(&mut stream).await;
}

#[tokio::test]
async fn whoever_asks_too_slowly_is_closed_and_whoever_has_switched_may_be_silent() {
    let running = start(settings(Duration::from_millis(200))).await;
    let mut switched = running.connect().await;
    switched.write_all(asking("").as_bytes()).await.unwrap();
    comes(&mut switched, SWITCHED).await;
    let mut slow = running.connect().await;
    slow.write_all(&asking("").as_bytes()[..40]).await.unwrap();
    closed(&mut slow).await;
    counted(&running.counters.header_timeouts, 1).await;
    comes(&mut switched, "hello 127.0.0.1: ").await;
    switched.write_all(b"still here").await.unwrap();
    comes(&mut switched, "still here").await;
}

#[tokio::test]
async fn places_are_held_until_what_was_switched_to_ends() {
    let running = start(ListenerSettings { max_connections_per_address: 1, ..trusting(&["127.0.0.1"], false) }).await;
    let first = "X-Forwarded-For: 192.0.2.1\r\n";
    let greeted = format!("{SWITCHED}hello 192.0.2.1: ");
    let mut held = running.connect().await;
    held.write_all(asking(first).as_bytes()).await.unwrap();
    comes(&mut held, &greeted).await;
    let mut other = running.connect().await;
    other.write_all(asking(first).as_bytes()).await.unwrap();
    comes(&mut other, "HTTP/1.1 429 Too Many Requests\r\n").await;
    assert_eq!(running.counters.over_address_limit.load(Relaxed), 1);
    drop(held);
    let again = async {
        loop {
            let mut stream = running.connect().await;
            stream.write_all(asking(first).as_bytes()).await.unwrap();
            let mut start = [0; 12];
            stream.read_exact(&mut start).await.unwrap();
            if start.ends_with(b"101") {
                return;
            }
        }
    };
    timeout(PATIENT, again).await.unwrap();

    let running = start(ListenerSettings { max_connections: 1, ..settings(PATIENT) }).await;
    let mut held = running.connect().await;
    held.write_all(asking("").as_bytes()).await.unwrap();
    comes(&mut held, SWITCHED).await;
    closed(&mut running.connect().await).await;
    assert_eq!(running.counters.over_limit.load(Relaxed), 1);
}

#[tokio::test]
async fn over_unix_sockets_and_behind_the_proxy_protocol_it_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("public.sock");
    let running = start_at(&["127.0.0.1:0".parse().unwrap(), ListenAddress::Unix(file.clone())], settings(PATIENT)).await;
    let mut unix = UnixStream::connect(&file).await.unwrap();
    unix.write_all(format!("{}one", asking("")).as_bytes()).await.unwrap();
    comes(&mut unix, &format!("{SWITCHED}hello nobody: one")).await;
    drop(running);
    let running = start(trusting(&["127.0.0.1"], true)).await;
    let mut stream = running.connect().await;
    let header = "PROXY TCP4 192.0.2.1 127.0.0.1 4096 8000\r\n";
    stream.write_all(format!("{header}{}one", asking("")).as_bytes()).await.unwrap();
    comes(&mut stream, &format!("{SWITCHED}hello 192.0.2.1: one")).await;
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_heads() {
    let running = start(settings(PATIENT)).await;
    let mut silent = running.connect().await;
    let mut switched = running.connect().await;
    switched.write_all(asking("").as_bytes()).await.unwrap();
    comes(&mut switched, SWITCHED).await;
    running.shutdown.cancel();
    running.tracker.close();
    closed(&mut silent).await;
    // What was switched to ends when it likes.
    comes(&mut switched, "hello 127.0.0.1: ").await;
    switched.shutdown().await.unwrap();
    running.tracker.wait().await;
}

/// A request that is answered without its body being read.
fn unread(lines: &str) -> String {
    format!("POST /peer HTTP/1.1\r\nHost: test\r\n{lines}\r\n")
}

#[tokio::test]
async fn who_is_answered_early_may_finish_and_reads_the_answer() {
    const LARGE: usize = 8 << 20;
    let running = start(settings(PATIENT)).await;
    for lines in [format!("Content-Length: {LARGE}\r\n"), "Transfer-Encoding: chunked\r\n".to_owned()] {
        let mut stream = running.connect().await;
        stream.write_all(unread(&lines).as_bytes()).await.unwrap();
        let body = if lines.starts_with("Content-Length") { vec![b'x'; LARGE] } else { b"4\r\nbody\r\n".repeat(LARGE / 9) };
        stream.write_all(&body).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("no reset");
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn a_small_body_that_nobody_read_leaves_the_connection_open() {
    let running = start(settings(PATIENT)).await;
    let mut stream = running.connect().await;
    for body in ["{}".to_owned(), "x".repeat(4000)] {
        stream.write_all(unread(&format!("Content-Length: {}\r\n", body.len())).as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        comes(&mut stream, "HTTP/1.1 405 Method Not Allowed\r\n").await;
        let mut rest = Vec::new();
        while !rest.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut rest).await.unwrap(), 0);
        }
        assert!(!String::from_utf8(rest).unwrap().contains("connection: close"));
    }
    assert_eq!(peer(&mut stream, "").await, "127.0.0.1");
}

#[tokio::test]
async fn who_waits_to_be_asked_for_a_body_is_not_asked_in_vain() {
    let running = start(settings(PATIENT)).await;
    let mut stream = running.connect().await;
    stream.write_all(unread("Content-Length: 2\r\nExpect: 100-continue\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn a_socket_beside_the_router_gets_all_that_asks_for_another_protocol() {
    let running = start(settings(PATIENT)).await;
    let mut stream = running.connect().await;
    // Over one connection: the first request is read here, and the others by hyper.
    for _ in 0..2 {
        let answer = ask(&mut stream, "/beside", ASKING, &[" end"]).await;
        assert!(answer.starts_with("HTTP/1.1 426 ") && answer.ends_with("beside the router end"), "{answer}");
    }
    assert!(ask(&mut stream, "/beside", "", &[" end"]).await.ends_with("by the router end"));
}
