//! A client without a library in between: it sends whatever bytes it is told to.

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::support::{Daemon, PATIENCE, token};

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
/// Stand where a short length would, and say in how many bytes the length follows.
const IN_TWO_BYTES: u8 = 0x7e;
const IN_EIGHT_BYTES: u8 = 0x7f;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// Where the kernel takes the request and the frames, but as little as it may.
const SMALL_BUFFER: u32 = 4096;

/// A frame as it goes over the wire, masked as a client's must be.
pub fn frame(opcode: u8, is_last: bool, payload: &[u8]) -> Vec<u8> {
    let first = if is_last { FIN | opcode } else { opcode };
    let mut bytes = head(first, payload.len());
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The beginning of a masked frame that says it has so many bytes, with this first byte.
pub fn head(first: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![first];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length @ ..=125), _) => bytes.push(MASKED | length),
        (_, Ok(length)) => {
            bytes.push(MASKED | IN_TWO_BYTES);
            bytes.extend(length.to_be_bytes());
        }
        _ => {
            bytes.push(MASKED | IN_EIGHT_BYTES);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes
}

/// What asks for a socket of `user`'s that knows our frames.
pub fn request(user: &str) -> String {
    format!(
        "GET /ws/notifications/?v=1&token={} HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        token(user)
    )
}

/// A frame of the server's.
#[derive(Debug)]
pub struct Received {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

/// An open socket.
pub struct Raw {
    stream: TcpStream,
}

impl Raw {
    /// A client that knows our frames, its hello still to be read.
    pub async fn open(daemon: &Daemon, user: &str) -> Self {
        Self::upgrade(TcpStream::connect(daemon.public).await.unwrap(), user).await
    }

    /// The same with as little room as the kernel allows for what it does not read.
    pub async fn open_narrow(daemon: &Daemon, user: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(SMALL_BUFFER).unwrap();
        Self::upgrade(socket.connect(daemon.public).await.unwrap(), user).await
    }

    async fn upgrade(mut stream: TcpStream, user: &str) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.write_all(request(user).as_bytes()).await.unwrap();
        Self::answered(stream).await
    }

    /// Once the request is sent.
    pub async fn answered(mut stream: TcpStream) -> Self {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        Self { stream }
    }

    /// Sends these bytes, unless the server has closed the connection; says whether they went out.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        tokio::time::timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("sent in time").is_ok()
    }

    /// Sends text that is JSON.
    pub async fn say(&mut self, value: &Value) {
        self.send(&frame(TEXT, true, value.to_string().as_bytes())).await;
    }

    /// The next frame; `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<Received> {
        tokio::time::timeout(PATIENCE, self.read()).await.expect("a frame in time")
    }

    async fn read(&mut self) -> Option<Received> {
        let first = self.stream.read_u8().await.ok()?;
        assert_eq!(first & 0x70, 0, "reserved bits");
        let length = match self.stream.read_u8().await.ok()? {
            IN_TWO_BYTES => self.stream.read_u16().await.ok()?.into(),
            IN_EIGHT_BYTES => self.stream.read_u64().await.ok()?,
            length => u64::from(length),
        };
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.stream.read_exact(&mut payload).await.ok()?;
        assert_eq!(first & FIN, FIN, "the daemon sends whole messages");
        Some(Received { opcode: first & 0x0f, payload })
    }

    /// The next text, as JSON.
    pub async fn next_text(&mut self) -> Value {
        loop {
            let received = self.next().await.expect("the connection is open");
            match received.opcode {
                TEXT => return serde_json::from_slice(&received.payload).unwrap(),
                PING => {}
                opcode => panic!("opcode {opcode}: {:?}", received.payload),
            }
        }
    }

    /// The next text of this type, those of other types passed over.
    pub async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let text = self.next_text().await;
            if text["type"] == kind {
                return text;
            }
        }
    }

    /// The connection understands and is understood.
    pub async fn expect_answer(&mut self) {
        self.say(&json!({ "type": "ping" })).await;
        self.next_of("pong").await;
    }

    /// Reads on to the end; the texts on the way, and the code of the server's close, if there was one.
    pub async fn rest(&mut self) -> (Vec<Value>, Option<u16>) {
        let (mut texts, mut code) = (Vec::new(), None);
        while let Some(received) = self.next().await {
            match received.opcode {
                TEXT => texts.push(serde_json::from_slice(&received.payload).unwrap()),
                CLOSE => {
                    let [high, low, ..] = received.payload[..] else { panic!("a close without a code") };
                    assert_eq!(code.replace(u16::from_be_bytes([high, low])), None, "closed twice");
                    // As a client answers.
                    self.send(&frame(CLOSE, true, &[high, low])).await;
                    self.stream.shutdown().await.ok();
                }
                _ => {}
            }
        }
        (texts, code)
    }

    pub async fn close_code(&mut self) -> Option<u16> {
        self.rest().await.1
    }
}
