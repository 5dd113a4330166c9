//! A client of sockets, the notifications' unless it is said otherwise, and one of server-sent events.

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message, client::IntoClientRequest as _},
};

use crate::support::{Daemon, PATIENCE, token};

/// A socket, and what it has been told.
pub struct Client {
    socket: WebSocketStream<TcpStream>,
}

impl Client {
    /// Opens the notifications socket with this query and `Origin`.
    pub async fn try_open(daemon: &Daemon, query: &str, origin: Option<&str>) -> Result<Self, tungstenite::Error> {
        Self::try_open_at(daemon, &format!("/ws/notifications/{query}"), origin).await
    }

    /// Opens the socket with this path and query, and this `Origin`.
    pub async fn try_open_at(daemon: &Daemon, path: &str, origin: Option<&str>) -> Result<Self, tungstenite::Error> {
        Self::try_open_on(daemon.public, path, origin).await
    }

    pub async fn try_open_on(address: SocketAddr, path: &str, origin: Option<&str>) -> Result<Self, tungstenite::Error> {
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        if let Some(origin) = origin {
            request.headers_mut().insert("origin", origin.parse().unwrap());
        }
        let stream = TcpStream::connect(address).await.unwrap();
        client_async(request, stream).await.map(|(socket, _)| Self { socket })
    }

    /// As an existing client does.
    pub async fn open(daemon: &Daemon, user: &str) -> Self {
        Self::try_open(daemon, &format!("?token={}", token(user)), None).await.unwrap()
    }

    /// As a client that knows our frames, with more in its query. Gives the hello too.
    pub async fn open_v1(daemon: &Daemon, user: &str, more: &str) -> (Self, Value) {
        let mut client = Self::try_open(daemon, &format!("?v=1&token={}{more}", token(user)), None).await.unwrap();
        let hello = client.next().await;
        assert_eq!(hello["type"], "hello", "{hello}");
        (client, hello)
    }

    pub async fn send(&mut self, frame: &Value) {
        self.socket.send(Message::text(frame.to_string())).await.unwrap();
    }

    pub async fn send_raw(&mut self, message: Message) {
        self.socket.send(message).await.unwrap();
    }

    /// The next frame that is JSON.
    pub async fn next(&mut self) -> Value {
        match self.next_or_close().await {
            Ok(frame) => frame,
            Err(code) => panic!("closed with {code}"),
        }
    }

    /// The next frame but for pings, or the code the socket was closed with.
    pub async fn next_or_close(&mut self) -> Result<Value, u16> {
        let frame = async {
            loop {
                match self.socket.next().await.unwrap().unwrap() {
                    Message::Text(text) => {
                        let frame: Value = serde_json::from_str(&text).unwrap();
                        // They come when they come.
                        if frame["type"] != "ping" {
                            return Ok(frame);
                        }
                    }
                    Message::Close(frame) => return Err(frame.unwrap().code.into()),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, frame).await.expect("a frame in time")
    }

    /// The next frame of a type, those of other types passed over.
    pub async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.next().await;
            if frame["type"] == kind {
                return frame;
            }
        }
    }

    /// Frames up to and including the next of a type.
    pub async fn up_to(&mut self, kind: &str) -> Vec<Value> {
        let mut frames = Vec::new();
        loop {
            frames.push(self.next().await);
            if frames.last().unwrap()["type"] == kind {
                return frames;
            }
        }
    }

    /// Reads on to the close and gives its code.
    pub async fn close_code(&mut self) -> u16 {
        loop {
            if let Err(code) = self.next_or_close().await {
                return code;
            }
        }
    }

    /// The first ping after a notification.
    pub async fn next_ping(&mut self) -> Value {
        let mut is_told = false;
        let frame = async {
            loop {
                if let Message::Text(text) = self.socket.next().await.unwrap().unwrap() {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    is_told |= frame["type"] == "notification";
                    if is_told && frame["type"] == "ping" {
                        return frame;
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, frame).await.expect("a ping in time")
    }

    /// What comes next is a ping that any client answers, and no frame.
    pub async fn expect_control_ping(mut self) {
        let next = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("a ping in time");
        assert_eq!(next.unwrap().unwrap(), Message::Ping(Vec::new().into()));
    }

    /// Nothing has come by the time the answer to a ping is here.
    pub async fn expect_silence(&mut self) {
        self.send(&serde_json::json!({ "type": "ping" })).await;
        let frame = self.next().await;
        assert_eq!(frame["type"], "pong", "{frame}");
    }

    pub async fn close(mut self) {
        self.socket.close(None).await.ok();
        while let Some(Ok(_)) = self.socket.next().await {}
    }
}

/// A reader of server-sent events.
pub struct Events {
    lines: BufReader<TcpStream>,
    /// Of the last event that had one.
    pub last_id: String,
}

impl Events {
    /// Asks for the events with this query and further header lines.
    pub async fn open(address: SocketAddr, query: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /sse/notifications{query} HTTP/1.1\r\nHost: test\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut events = Self { lines: BufReader::new(stream), last_id: String::new() };
        let mut head = Vec::new();
        loop {
            let line = events.line().await.expect("an answer");
            if line.is_empty() {
                break;
            }
            head.push(line.to_ascii_lowercase());
        }
        assert!(head[0].contains(" 200 "), "{head:?}");
        assert!(head.iter().any(|line| line == "content-type: text/event-stream"), "{head:?}");
        events
    }

    /// `None` at the end.
    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, self.lines.read_line(&mut line)).await.expect("a line in time").unwrap();
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// The data of the next event; `None` at the end.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            let line = self.line().await?;
            if let Some(id) = line.strip_prefix("id: ") {
                id.clone_into(&mut self.last_id);
            } else if let Some(data) = line.strip_prefix("data: ") {
                return Some(serde_json::from_str(data).unwrap());
            }
        }
    }

    pub async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let event = self.next().await.expect("an event");
            if event["type"] == kind {
                return event;
            }
        }
    }
}
