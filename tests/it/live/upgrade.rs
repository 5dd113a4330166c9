//! The opening handshake as bytes: however it comes, over whatever connection, and how it is refused.

use std::fmt::Write as _;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};

use super::raw::{Raw, TEXT, frame, request};
use crate::support::{Answer, Certificate, Daemon, PATIENCE, Setup, connect_tls, token};

const REFUSED: &str = "tarishi_sockets_refused_total";

async fn connect(daemon: &Daemon) -> TcpStream {
    let stream = TcpStream::connect(daemon.public).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// What comes next, up to what ends so.
async fn until(stream: &mut (impl AsyncRead + Unpin), ending: &str) -> String {
    let mut come = Vec::new();
    while !come.ends_with(ending.as_bytes()) {
        let byte = tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("an answer in time");
        come.push(byte.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&come))));
    }
    String::from_utf8_lossy(&come).into_owned()
}

/// The answer to a request of any kind: its status, its head in lower case and its body.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> (u16, String, Value) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = until(stream, "\r\n\r\n").await.to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head, serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test]
async fn a_handshake_may_come_in_pieces_and_with_frames_behind_it() {
    let mut setup = Setup::new();
    let daemon = setup.start().await;
    let ping = frame(TEXT, true, json!({ "type": "ping" }).to_string().as_bytes());
    let mut stream = connect(&daemon).await;
    for byte in request("42").as_bytes() {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut raw = Raw::answered(stream).await;
    assert_eq!(raw.next_text().await["type"], "hello");
    raw.expect_answer().await;
    // Frames in the packet of the head, whole and in part.
    for cut in [0, 3] {
        let mut stream = connect(&daemon).await;
        let (with_it, later) = ping.split_at(ping.len() - cut);
        stream.write_all(&[request("42").as_bytes(), &ping, with_it].concat()).await.unwrap();
        let mut raw = Raw::answered(stream).await;
        assert_eq!(raw.next_text().await["type"], "hello");
        raw.next_of("pong").await;
        raw.send(later).await;
        raw.next_of("pong").await;
        raw.expect_answer().await;
    }
    // After something else on the same connection, with frames behind it too.
    for behind in [&[][..], &ping] {
        let mut stream = connect(&daemon).await;
        assert_eq!(ask(&mut stream, "GET /nowhere HTTP/1.1\r\nHost: test\r\n\r\n").await.0, 404);
        stream.write_all(&[request("42").as_bytes(), behind].concat()).await.unwrap();
        let mut raw = Raw::answered(stream).await;
        assert_eq!(raw.next_text().await["type"], "hello");
        if !behind.is_empty() {
            raw.next_of("pong").await;
        }
        raw.expect_answer().await;
    }
    assert_eq!(daemon.metric(REFUSED).await, 0);
}

#[tokio::test]
async fn every_way_to_the_daemon_opens_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::make(folder.path(), "tls");
    let mut setup = Setup::new()
        .with("public.tls.certificate_file", &certificate.file.display())
        .with("public.tls.key_file", &certificate.key_file.display());
    let tcp = setup.public_url().replace("http://", "");
    let file = setup.folder().join("public.sock");
    setup.set("public.listen", &format!("[\"{tcp}\", \"unix:public.sock\"]"));
    let daemon = setup.start().await;
    let mut tls = connect_tls(daemon.public, "127.0.0.1", &certificate).await.unwrap();
    let mut unix = UnixStream::connect(&file).await.unwrap();
    let plain = "GET /nowhere HTTP/1.1\r\nHost: test\r\n\r\n";
    opens(&mut tls).await;
    opens(&mut unix).await;
    // Where HTTP was spoken before.
    let mut tls = connect_tls(daemon.public, "127.0.0.1", &certificate).await.unwrap();
    let mut unix = UnixStream::connect(&file).await.unwrap();
    assert_eq!((ask(&mut tls, plain).await.0, ask(&mut unix, plain).await.0), (404, 404));
    opens(&mut tls).await;
    opens(&mut unix).await;
    assert_eq!(daemon.api.get("/v1/status").await.expect(200)["sockets"], 4);
}

/// That a socket opens, and is heard.
async fn opens(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let ping = frame(TEXT, true, json!({ "type": "ping" }).to_string().as_bytes());
    stream.write_all(&[request("42").as_bytes(), &ping].concat()).await.unwrap();
    let head = until(stream, "\r\n\r\n").await;
    let mut lines: Vec<_> = head.trim_end().lines().filter(|line| !line.starts_with("date: ")).collect();
    lines[1..].sort_unstable();
    let accept = "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    assert_eq!(lines, ["HTTP/1.1 101 Switching Protocols", "connection: upgrade", accept, "upgrade: websocket"]);
    let said = until(stream, "{\"type\":\"pong\"}").await;
    assert!(said.contains("\"type\":\"hello\""), "{said}");
}

#[tokio::test]
async fn a_refusal_is_told_as_everywhere_and_leaves_the_connection_open() {
    let mut setup = Setup::new().with("public.allowed_origins", "[\"https://app.example.com\"]");
    let daemon = setup.start().await;
    let good = request("42").replace("v=1&", "");
    let without_token = good.replace("?token=", "?nothing=");
    let cases = [
        (without_token.clone(), 403, "forbidden"),
        (good.replace("/ws/notifications/", "/ws/nowhere/"), 404, "not_found"),
        (good.replace("Host: test", "Origin: https://evil.example"), 403, "forbidden"),
        (good.replace("Version: 13", "Version: 8"), 426, "upgrade_required"),
        (good.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ=="), 400, "bad_request"),
        (good.replace("Connection: keep-alive, Upgrade\r\n", ""), 400, "bad_request"),
        (good.replace("Upgrade: websocket\r\n", ""), 426, "upgrade_required"),
        (good.replace("websocket", "h2c"), 426, "upgrade_required"),
        (good.replace("GET", "POST"), 400, "bad_request"),
    ];
    let mut all = connect(&daemon).await;
    for (request, status, code) in &cases {
        // The first of its connection, and one of many.
        for stream in [&mut connect(&daemon).await, &mut all] {
            let (found, head, body) = ask(stream, request).await;
            assert_eq!((found, body["code"].as_str(), &body["status"]), (*status, Some(*code), &json!(status)), "{request}: {head}");
            assert!(head.contains("content-type: application/problem+json\r\n") && head.contains("\r\ndate: "), "{head}");
            assert_eq!(head.contains("sec-websocket-version: 13\r\n"), *status == 426, "{head}");
        }
    }
    // Whoever goes nowhere is no socket refused.
    assert_eq!(daemon.metric(REFUSED).await, 2 * (cases.len() as u64 - 1));
    // Two at once, then one that is let in.
    let mut stream = connect(&daemon).await;
    let later = request("42").replace("/?v=1&", "?v=1&");
    stream.write_all(format!("{without_token}{without_token}{later}").as_bytes()).await.unwrap();
    for _ in 0..2 {
        assert!(until(&mut stream, "}").await.contains("\r\n\r\n{"));
    }
    let mut raw = Raw::answered(stream).await;
    raw.next_of("hello").await;
    // By close code, to those who asked for it.
    let mut stream = connect(&daemon).await;
    stream.write_all(request("42").replace("&token=", "&token=x").as_bytes()).await.unwrap();
    assert_eq!(Raw::answered(stream).await.close_code().await, Some(4401));
}

#[tokio::test]
async fn heads_are_limited_in_size_and_time() {
    let mut setup = Setup::new().with("public.header_timeout", "300ms");
    let daemon = setup.start().await;
    let mut lines = String::new();
    for line in 0..2000 {
        write!(lines, "X-Line-{line}: {}\r\n", "x".repeat(32)).unwrap();
    }
    let mut stream = connect(&daemon).await;
    // It may be closed before all of it is taken.
    let _ = stream.write_all(request("42").replace("Host: test\r\n", &lines).as_bytes()).await;
    assert!(until(&mut stream, "\r\n").await.starts_with("HTTP/1.1 431 "));
    let mut stream = connect(&daemon).await;
    stream.write_all(&request("42").as_bytes()[..100]).await.unwrap();
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0, "closed without a word");
    daemon.metric_is("tarishi_connections_header_timeouts_total{listener=\"public\"}", 1).await;
    // One that is open may be silent for longer.
    let mut raw = Raw::open(&daemon, "42").await;
    raw.next_of("hello").await;
    let mut slow = connect(&daemon).await;
    slow.write_all(b"GET ").await.unwrap();
    assert_eq!(slow.read(&mut [0; 16]).await.unwrap(), 0, "closed without a word");
    raw.expect_answer().await;
}

#[tokio::test]
async fn a_body_is_none_of_a_handshakes_business() {
    let mut setup = Setup::new();
    let daemon = setup.start().await;
    let mut stream = connect(&daemon).await;
    let with_length = request("42").replace("Host: test", "Host: test\r\nContent-Length: 0");
    stream.write_all(with_length.as_bytes()).await.unwrap();
    let mut raw = Raw::answered(stream).await;
    raw.next_of("hello").await;
    raw.expect_answer().await;
    let mut stream = connect(&daemon).await;
    let twice = request("42").replace("Host: test", "Host: test\r\nHost: other");
    stream.write_all(twice.as_bytes()).await.unwrap();
    Raw::answered(stream).await.next_of("hello").await;
    let answer = Answer::of(daemon.public_api().request(reqwest::Method::GET, &format!("/ws/notifications?token={}", token("42")))).await;
    answer.unwrap().expect_problem(426, "upgrade_required");
}
