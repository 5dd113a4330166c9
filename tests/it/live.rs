//! The live channel end to end: a client's own socket, the inbox behind it.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message, client::IntoClientRequest as _, protocol::frame::coding::CloseCode},
};

use crate::support::{Daemon, PATIENCE, Setup, StoreFile, job, recipient, token};

type Socket = WebSocketStream<TcpStream>;

/// Sockets are closed over half of the drain time, each at a moment of its own.
fn with_short_drain() -> Setup {
    Setup::new().with("shutdown.drain", "200ms")
}

/// Opens the notifications socket with this query and `Origin`.
async fn open(daemon: &Daemon, query: &str, origin: Option<&str>) -> Result<Socket, tungstenite::Error> {
    let mut request = format!("ws://{}/ws/notifications/{query}", daemon.public).into_client_request().unwrap();
    if let Some(origin) = origin {
        request.headers_mut().insert("origin", origin.parse().unwrap());
    }
    let stream = TcpStream::connect(daemon.public).await.unwrap();
    client_async(request, stream).await.map(|(socket, _)| socket)
}

async fn open_as(daemon: &Daemon, user: &str) -> Socket {
    open(daemon, &format!("?token={}", token(user)), None).await.unwrap()
}

/// The next frame that is JSON.
async fn next_frame(socket: &mut Socket) -> Value {
    let frame = async {
        loop {
            if let Message::Text(text) = socket.next().await.unwrap().unwrap() {
                return serde_json::from_str(&text).unwrap();
            }
        }
    };
    tokio::time::timeout(PATIENCE, frame).await.expect("a frame in time")
}

#[track_caller]
fn refused(opened: Result<Socket, tungstenite::Error>) -> u16 {
    match opened {
        Err(tungstenite::Error::Http(response)) => response.status().as_u16(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was let in"),
    }
}

#[tokio::test]
async fn a_notification_reaches_every_socket_of_its_user_and_no_other() {
    let mut setup = with_short_drain();
    let daemon = setup.start().await;
    let mut phone = open_as(&daemon, "42").await;
    let mut laptop = open_as(&daemon, "42").await;
    let mut other = open_as(&daemon, "43").await;
    for number in 1..=3 {
        let id = format!("live-{number}");
        daemon.api.post("/v1/jobs", &job(&id, &[json!({ "user_id": 42 })], &["live"])).await.expect(202);
        let (frame, same) = (next_frame(&mut phone).await, next_frame(&mut laptop).await);
        assert_eq!(frame, same);
        assert_eq!((&frame["type"], &frame["seq"], &frame["user"]), (&json!("notification"), &json!(number), &json!(42)));
        assert_eq!((&frame["title"], &frame["message"]), (&json!(format!("About {id}")), &json!("Habari ya leo")));
        assert_eq!((&frame["is_read"], frame["epoch"].is_string()), (&json!(false), true));
        let delivered = daemon.job_when(&id, |job| job["deliveries"][0]["status"] == "delivered").await;
        assert_eq!(delivered["status"], "finished");
    }
    // Nobody connected: it waits in the inbox as sent.
    daemon.api.post("/v1/jobs", &job("absent", &[recipient("44")], &["live"])).await.expect(202);
    assert_eq!(daemon.finished("absent").await["deliveries"][0]["status"], "sent");
    // The other user got only what is theirs, and their own numbering.
    daemon.api.post("/v1/jobs", &job("theirs", &[recipient("43")], &["live"])).await.expect(202);
    let frame = next_frame(&mut other).await;
    assert_eq!((&frame["seq"], &frame["title"]), (&json!(1), &json!("About theirs")));
    phone.send(Message::text(r#"{"type":"ping"}"#)).await.unwrap();
    assert_eq!(next_frame(&mut phone).await, json!({ "type": "pong" }));
    assert_eq!(daemon.api.get("/v1/status").await.expect(200)["sockets"], 3);
    assert_eq!(daemon.terminate().await.code, Some(0));
    StoreFile::open(&setup.store_path()).check_inbox();
}

#[tokio::test]
async fn the_numbering_goes_on_after_a_crash() {
    let mut setup = Setup::new();
    let mut epochs = Vec::new();
    for life in 1..=3 {
        let daemon = setup.start().await;
        let mut socket = open_as(&daemon, "42").await;
        daemon.api.post("/v1/jobs", &job(&format!("life-{life}"), &[recipient("42")], &["live"])).await.expect(202);
        let frame = next_frame(&mut socket).await;
        assert_eq!(frame["seq"], life);
        epochs.push(frame["epoch"].clone());
        daemon.process.kill().await;
    }
    epochs.dedup();
    assert_eq!(epochs.len(), 1, "one history, one epoch");
}

#[tokio::test]
async fn only_good_tokens_and_known_pages_open_a_socket() {
    let mut setup = Setup::new().with("public.allowed_origins", "[\"https://app.example.com\"]");
    let daemon = setup.start().await;
    let good = format!("?token={}", token("42"));
    assert_eq!(refused(open(&daemon, "", None).await), 403);
    assert_eq!(refused(open(&daemon, "?token=nonsense", None).await), 403);
    let (head, _) = good.rsplit_once('.').unwrap();
    let forged = format!("{head}.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    assert_eq!(refused(open(&daemon, &forged, None).await), 403);
    assert_eq!(refused(open(&daemon, &good, Some("https://evil.example")).await), 403);
    open(&daemon, &good, Some("https://app.example.com")).await.unwrap();
    assert!(!daemon.process.lines().iter().any(|line| line.contains(head)), "a token in the log");
}

#[tokio::test]
async fn a_daemon_that_ends_asks_its_sockets_to_come_back() {
    let mut setup = with_short_drain();
    let daemon = setup.start().await;
    let mut socket = open_as(&daemon, "42").await;
    daemon.process.signal("TERM");
    let closed = async {
        loop {
            if let Message::Close(frame) = socket.next().await.unwrap().unwrap() {
                return frame.unwrap().code;
            }
        }
    };
    let code = tokio::time::timeout(PATIENCE, closed).await.unwrap();
    assert_eq!(code, CloseCode::Restart);
    socket.close(None).await.ok();
    assert_eq!(daemon.process.end().await.code, Some(0));
}
