//! A real listener on a port of its own, and tungstenite's client.

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use axum::http::{HeaderName, StatusCode};
use futures_util::{SinkExt as _, StreamExt as _};
use governor::Quota;
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _, handshake::client::Response},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::*;
use crate::{
    channel::live::notification_frame,
    model::{DeliveryKey, InboxItem, Notification, Place, Severity, UserId},
    socket::{
        AuthSettings, Authenticator, Ending, Endpoint, Frame, Hub, HubLimits, JwtKeySettings, JwtSettings, JwtVerifier, ListenerSettings,
        OriginPolicy, Revocations, SessionCounters, SessionSettings, Sessions, serve, sign_development_token,
    },
    store::{StoreSettings, SuppressionExpiry},
};

const SECRET: &str = "a secret of more than thirty-two bytes!";
/// Far longer than anything here takes; only a hang meets it.
const HANG: Duration = Duration::from_mins(1);
const SESSIONS: SessionSettings = SessionSettings {
    ping_interval: HANG,
    pong_timeout: HANG,
    close_timeout: HANG,
    drain: Duration::ZERO,
    message_limit: 64 * 1024,
    messages: Quota::per_second(NonZeroU32::new(1).unwrap()).allow_burst(NonZeroU32::new(10).unwrap()),
};

type Client = WebSocketStream<TcpStream>;

struct Server {
    addr: SocketAddr,
    hub: Hub,
    delivered: mpsc::Receiver<DeliveryKey>,
    counters: Arc<SessionCounters>,
    shutdown: CancellationToken,
    tracker: TaskTracker,
    _folder: tempfile::TempDir,
}

impl Server {
    async fn start() -> Self {
        Self::with(SESSIONS, 100).await
    }

    async fn with(settings: SessionSettings, max_connections: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let jwt = JwtSettings { leeway: Duration::from_secs(1), ..JwtSettings::of(vec![JwtKeySettings::hs256(None, &SECRET.into())]) };
        let verifier = JwtVerifier::new(&jwt, Arc::new(Revocations::new(HANG, []))).unwrap();
        let origins = OriginPolicy::new(&["https://app.example.com".to_owned()], Some("https://notify.example.com"));
        let auth = AuthSettings {
            cookie: None,
            origins: origins.clone(),
            ticket_lifetime: HANG,
            ticket_key: fernet::Fernet::generate_key().into(),
        };
        let hub = Hub::new(HubLimits {
            connections: 10,
            connections_per_user: 3,
            topics_per_connection: 2,
            send_queue_limit: 128 * 1024,
            send_queue_frames: 100,
        });
        let bus = Bus::memory(hub.clone());
        let authenticator = Arc::new(Authenticator::new(verifier, auth, bus.clone()));
        let (sender, delivered) = mpsc::channel(1000);
        let counters = Arc::new(SessionCounters::default());
        let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
        let sessions = Sessions::new(settings, sender, Arc::clone(&counters), shutdown.clone(), tracker.clone());
        let folder = tempfile::tempdir().unwrap();
        let live = Live {
            store: store(folder.path()),
            bus,
            gate: Gate::new(authenticator.clone(), origins.clone(), hub.clone(), sessions),
            authenticator,
            settings: LiveSettings { ping_interval: settings.ping_interval, replay_limit: 100, public_topics: Vec::new() },
        };
        let app = router(Arc::new(live), origins);
        let listening = ListenerSettings::direct(HANG, HANG, max_connections, Arc::default());
        tracker.spawn(serve(vec![Endpoint::Tcp(listener)], app.into(), listening, shutdown.clone(), tracker.clone()));
        Self { addr, hub, delivered, counters, shutdown, tracker, _folder: folder }
    }

    async fn try_connect(&self, path: &str, headers: &[(&str, &str)]) -> Result<(Client, Response), Error> {
        let mut request = format!("ws://{}{path}", self.addr).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let stream = TcpStream::connect(self.addr).await.unwrap();
        within(client_async(request, stream)).await
    }

    /// Connects as user 42 with a token that lasts.
    async fn connect(&self, query: &str) -> Client {
        self.try_connect(&format!("/ws/notifications/?token={}{query}", token(HANG)), &[]).await.unwrap().0
    }

    async fn check_refused(&self, path: &str, headers: &[(&str, &str)], expected: StatusCode) {
        match self.try_connect(path, headers).await {
            Err(Error::Http(response)) => assert_eq!(response.status(), expected, "{path} {headers:?}"),
            other => panic!("{path} {headers:?}: {other:?}"),
        }
        assert_eq!(self.hub.connections(), 0);
    }
}

fn store(folder: &Path) -> Store {
    Store::open(StoreSettings {
        path: folder.join("tarishi.db"),
        readers: 1,
        group_commit_limit: 100,
        retention: HANG,
        idempotency_retention: HANG,
        inbox_retention: HANG,
        inbox_limit: 100,
        revocation_retention: HANG,
        events: None,
        suppression_expiry: SuppressionExpiry { bounced: HANG, unregistered: HANG },
    })
    .unwrap()
}

async fn within<F: Future>(future: F) -> F::Output {
    timeout(HANG, future).await.expect("hangs")
}

fn token(lifetime: Duration) -> String {
    sign_development_token(&SECRET.into(), None, &user(), lifetime, Timestamp::now())
}

fn own() -> Stream {
    Stream::User(user())
}

fn user() -> UserId {
    "42".parse().unwrap()
}

fn item(seq: i64) -> InboxItem {
    InboxItem {
        id: 100 + seq,
        place: Place { stream: own(), seq },
        epoch: "e1".into(),
        created_at: "2026-01-15T10:30:00Z".parse().unwrap(),
        seen_at: None,
        read_at: None,
        archived_at: None,
        notification: Notification {
            kind: "message".to_owned(),
            title: "New message".to_owned(),
            message: "Habari".to_owned(),
            severity: Severity::Info,
            related_object_id: None,
            related_object_type: None,
            data: Map::new(),
        },
        delivery: DeliveryKey { job: seq, ordinal: 0 },
    }
}

async fn next(client: &mut Client) -> Message {
    within(client.next()).await.expect("a message before the end").expect("no error")
}

async fn next_json(client: &mut Client) -> Value {
    serde_json::from_str(next(client).await.to_text().unwrap()).unwrap()
}

/// Reads on to the close and gives its code.
async fn close_code(client: &mut Client) -> u16 {
    loop {
        if let Message::Close(frame) = next(client).await {
            return frame.expect("a code").code.into();
        }
    }
}

#[tokio::test]
async fn a_notification_arrives_and_is_reported_delivered() {
    let mut server = Server::start().await;
    let mut client = server.connect("").await;
    let (mut other, _) = server.try_connect(&format!("/ws/notifications?token={}", token(HANG)), &[]).await.unwrap();
    for seq in 1..=3 {
        assert_eq!(server.hub.publish(&own(), &Arc::new(notification_frame(&item(seq)))), 2);
    }
    for seq in 1..=3 {
        for client in [&mut client, &mut other] {
            let frame = next_json(client).await;
            assert_eq!((&frame["type"], &frame["seq"], &frame["user"]), (&json!("notification"), &json!(seq), &json!(42)));
        }
    }
    let mut delivered = Vec::new();
    for _ in 0..3 {
        delivered.push(within(server.delivered.recv()).await.unwrap().job);
    }
    delivered.sort_unstable();
    assert_eq!(delivered, [1, 2, 3], "once each, however many sockets took it");
    client.close(None).await.unwrap();
    assert!(within(client.next()).await.is_none_or(|last| last.unwrap().is_close()));
}

#[tokio::test]
async fn tokens_are_taken_from_headers_too_and_the_subprotocol_is_echoed() {
    let server = Server::start().await;
    let path = "/ws/notifications/";
    let token = token(HANG);
    let (client, response) = server.try_connect(path, &[("authorization", &format!("Bearer {token}"))]).await.unwrap();
    assert!(!response.headers().contains_key("sec-websocket-protocol"));
    drop(client);
    let offered = format!("bearer, {token}");
    let (_client, response) = server.try_connect(path, &[("sec-websocket-protocol", &offered)]).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "bearer");
    let offered = format!("bearer, {token}, tarishi.v1");
    let (mut client, response) = server.try_connect(path, &[("sec-websocket-protocol", &offered)]).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "tarishi.v1");
    assert_eq!(next_json(&mut client).await["type"], "hello");
}

#[tokio::test]
async fn only_clients_that_ask_are_greeted() {
    let server = Server::start().await;
    let mut client = server.connect("&v=1").await;
    let hello = next_json(&mut client).await;
    assert_eq!((&hello["type"], &hello["user_id"], &hello["ping_interval_ms"]), (&json!("hello"), &json!(42), &json!(60_000)));
    assert!(hello["session"].is_string());
    let mut older = server.connect("").await;
    server.hub.publish(&own(), &Arc::new(notification_frame(&item(1))));
    assert_eq!(next_json(&mut older).await["type"], "notification");
}

#[tokio::test]
async fn frames_from_the_client_are_answered() {
    let server = Server::start().await;
    let mut client = server.connect("").await;
    for text in [r#"{"type":"unknown"}"#, "{", r#"{"type":"ping"}"#] {
        client.send(text.into()).await.unwrap();
    }
    client.send(Message::Ping("life".into())).await.unwrap();
    let mut answers = Vec::new();
    for _ in 0..3 {
        match next(&mut client).await {
            Message::Pong(payload) => assert_eq!(payload, "life"),
            message => answers.push(serde_json::from_str::<Value>(message.to_text().unwrap()).unwrap()["type"].clone()),
        }
    }
    assert_eq!(answers, ["error", "pong"]);
}

#[tokio::test]
async fn refusals_come_before_the_upgrade() {
    let server = Server::start().await;
    let good = format!("/ws/notifications/?token={}", token(HANG));
    server.check_refused(&good, &[("origin", "https://evil.example")], StatusCode::FORBIDDEN).await;
    server.check_refused(&format!("{good}&v=1"), &[("origin", "https://evil.example")], StatusCode::FORBIDDEN).await;
    server.check_refused("/ws/notifications/?token=bad", &[], StatusCode::FORBIDDEN).await;
    server.check_refused("/ws/notifications/", &[], StatusCode::FORBIDDEN).await;
    assert_eq!(server.counters.refused.load(Relaxed), 4);
    for origin in ["https://app.example.com", "https://notify.example.com"] {
        assert!(server.try_connect(&good, &[("origin", origin)]).await.is_ok());
    }
}

#[tokio::test]
async fn a_request_that_is_no_upgrade_is_told_so() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(b"GET /ws/notifications/ HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
    assert!(answer.contains("upgrade: websocket") && answer.ends_with(r#"{"error":"this address speaks WebSocket only"}"#), "{answer}");
}

#[tokio::test]
async fn clients_that_ask_are_refused_by_code() {
    let server = Server::start().await;
    let (mut client, _) = server.try_connect("/ws/notifications/?v=1&token=bad", &[]).await.unwrap();
    assert_eq!(close_code(&mut client).await, 4401);
    for bad in ["&since=x", "&since=-1", "&topic=a%20b"] {
        assert_eq!(close_code(&mut server.connect(bad).await).await, 4400, "{bad}");
    }
    let _room = [server.connect("").await, server.connect("").await, server.connect("").await];
    assert_eq!(close_code(&mut server.connect("&v=1").await).await, 4409);
}

#[tokio::test]
async fn upgraded_sockets_count_among_the_listeners_connections() {
    let server = Server::with(SESSIONS, 1).await;
    let mut client = server.connect("").await;
    assert!(server.try_connect("/ws/notifications/", &[]).await.is_err_and(|error| !matches!(error, Error::Http(_))));
    client.send(r#"{"type":"ping"}"#.into()).await.unwrap();
    assert_eq!(next_json(&mut client).await["type"], "pong");
}

#[tokio::test]
async fn an_expiring_token_closes_its_socket() {
    let server = Server::start().await;
    let short = token(Duration::from_secs(1));
    let (mut client, _) = server.try_connect(&format!("/ws/notifications/?token={short}"), &[]).await.unwrap();
    assert_eq!(close_code(&mut client).await, 4401);
    assert_eq!(server.counters.ended(Ending::Expired), 1);
    assert_eq!(server.hub.connections(), 0);
}

#[tokio::test]
async fn a_slow_reader_is_closed_and_another_goes_on() {
    let server = Server::start().await;
    let (mut slow, mut fast) = (server.connect("").await, server.connect("").await);
    let frame = Arc::new(Frame::new("x".repeat(60 * 1024)));
    // The kernel's buffers take some megabytes before the queue has to.
    while server.hub.publish(&own(), &frame) == 2 {
        assert_eq!(next(&mut fast).await.len(), frame.text.len());
    }
    assert_eq!(next(&mut fast).await.len(), frame.text.len());
    assert_eq!(close_code(&mut slow).await, 4408);
    assert_eq!(server.counters.ended(Ending::TooSlow), 1);
    assert_eq!(server.hub.publish(&own(), &frame), 1);
    assert_eq!(next(&mut fast).await.len(), frame.text.len());
}

#[tokio::test]
async fn a_silent_client_is_pinged_and_closed() {
    let short = Duration::from_millis(20);
    let server = Server::with(SessionSettings { ping_interval: short, pong_timeout: short, close_timeout: short, ..SESSIONS }, 100).await;
    // Without the client's state machine nobody answers the pings.
    let mut stream = server.connect("").await.into_inner();
    let mut sent = Vec::new();
    within(stream.read_to_end(&mut sent)).await.unwrap();
    assert!(sent.starts_with(&[0x89, 0]), "a ping comes first: {sent:?}");
    let reason = b"no answer to ping";
    assert!(sent.ends_with(reason) && sent.windows(2).any(|code| code == 1011_u16.to_be_bytes()), "{sent:?}");
    assert_eq!(server.counters.ended(Ending::Silent), 1);
}

#[tokio::test]
async fn a_message_beyond_the_limit_closes_the_socket() {
    let server = Server::start().await;
    let mut client = server.connect("").await;
    client.send("x".repeat(64 * 1024 + 1).into()).await.unwrap();
    assert_eq!(close_code(&mut client).await, 1009);
    assert_eq!(server.counters.ended(Ending::TooLarge), 1);
}

#[tokio::test]
async fn shutdown_closes_every_socket_and_leaves_no_task() {
    let server = Server::start().await;
    let mut clients = [server.connect("").await, server.connect("&v=1").await];
    server.shutdown.cancel();
    for client in &mut clients {
        assert_eq!(close_code(client).await, 1012);
        while let Some(Ok(_)) = within(client.next()).await {}
    }
    server.tracker.close();
    within(server.tracker.wait()).await;
    assert_eq!(server.hub.connections(), 0);
    assert_eq!(server.counters.ended(Ending::Restarting), 2);
}
