//! The producer: posts at a steady pace however slow the answers are, on as many connections as that takes.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::SocketAddr,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};

use crate::Fallible;

/// Requests under way at once. Beyond it they wait, and the wait counts.
const CONNECTIONS: usize = 256;
/// How long after the last was due answers may take.
const PATIENCE: Duration = Duration::from_secs(15);

pub struct Producer {
    poll: Poll,
    address: SocketAddr,
    connections: Vec<Connection>,
    idle: Vec<usize>,
}

struct Connection {
    stream: TcpStream,
    /// What is not written yet.
    request: Vec<u8>,
    response: Vec<u8>,
    busy: bool,
}

#[derive(Clone, Copy)]
pub struct Pace {
    pub messages: u64,
    /// Between two; zero: one after the other is answered.
    pub every: Duration,
}

/// What the producer was told.
#[derive(Default)]
pub struct Published {
    pub accepted: u64,
    pub refused: u64,
    /// The first refusal's status line and body.
    pub refusal: Option<String>,
    pub seconds: f64,
}

impl Producer {
    pub fn new(address: SocketAddr) -> Fallible<Self> {
        Ok(Self { poll: Poll::new()?, address, connections: Vec::new(), idle: Vec::new() })
    }

    /// Posts what `request` makes of each message's place. It is made, and stamped, when it is due, not when there is a connection for it.
    pub fn publish(&mut self, pace: Pace, mut request: impl FnMut(u64) -> Vec<u8>) -> Fallible<Published> {
        let mut events = Events::with_capacity(CONNECTIONS);
        let mut published = Published::default();
        let mut waiting = std::collections::VecDeque::new();
        let (started, mut made, mut under_way) = (Instant::now(), 0, 0_u64);
        let due = |place: u64| started + pace.every.mul_f64(crate::as_f64(place));
        let give_up = due(pace.messages) + PATIENCE;
        while published.accepted + published.refused < pace.messages {
            let now = Instant::now();
            if now > give_up {
                published.refused = pace.messages - published.accepted;
                published.refusal.get_or_insert("no answer in time".to_owned());
                // What is answered after all is no answer to what comes next.
                self.connections.clear();
                self.idle.clear();
                break;
            }
            while made < pace.messages && due(made) <= now && (!pace.every.is_zero() || under_way == 0) {
                waiting.push_back(request(made));
                made += 1;
                under_way += 1;
            }
            while let Some(index) = if waiting.is_empty() { None } else { self.free()? } {
                self.send(index, waiting.pop_front().unwrap_or_default());
            }
            let next = if made < pace.messages && !pace.every.is_zero() { due(made) } else { give_up };
            self.poll.poll(&mut events, Some(next.saturating_duration_since(Instant::now())))?;
            for event in &events {
                if let Some(response) = self.turn(event.token().0)? {
                    under_way -= 1;
                    if response.starts_with("HTTP/1.1 2") {
                        published.accepted += 1;
                    } else {
                        published.refused += 1;
                        published.refusal.get_or_insert(response);
                    }
                }
            }
        }
        published.seconds = started.elapsed().as_secs_f64();
        Ok(published)
    }

    /// A connection with nothing under way, a new one if there may be more.
    fn free(&mut self) -> Fallible<Option<usize>> {
        if let Some(index) = self.idle.pop() {
            return Ok(Some(index));
        }
        if self.connections.len() >= CONNECTIONS {
            return Ok(None);
        }
        let stream = self.open(self.connections.len())?;
        self.connections.push(Connection { stream, request: Vec::new(), response: Vec::new(), busy: false });
        Ok(Some(self.connections.len() - 1))
    }

    fn open(&self, index: usize) -> Fallible<TcpStream> {
        let stream = std::net::TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        self.poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        Ok(stream)
    }

    fn send(&mut self, index: usize, request: Vec<u8>) {
        let connection = &mut self.connections[index];
        (connection.request, connection.busy) = (request, true);
        connection.write();
    }

    /// The response, once it is complete.
    fn turn(&mut self, index: usize) -> Fallible<Option<String>> {
        let connection = &mut self.connections[index];
        connection.write();
        let mut buffer = [0; 16 * 1024];
        let mut closed = false;
        loop {
            match connection.stream.read(&mut buffer) {
                Ok(0) => closed = true,
                Ok(length) => {
                    connection.response.extend_from_slice(&buffer[..length]);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => closed = true,
            }
            break;
        }
        let complete = is_complete(&connection.response);
        if !connection.busy || !(complete || closed) {
            if closed {
                // An idle one that was closed is replaced at once, so that nothing is sent into it.
                self.replace(index)?;
            }
            return Ok(None);
        }
        let response = String::from_utf8_lossy(&std::mem::take(&mut connection.response)).into_owned();
        connection.busy = false;
        if closed {
            self.replace(index)?;
        }
        self.idle.push(index);
        Ok(Some(if complete { response } else { "closed without an answer".to_owned() }))
    }

    fn replace(&mut self, index: usize) -> Fallible<()> {
        let stream = self.open(index)?;
        self.connections[index] = Connection { stream, request: Vec::new(), response: Vec::new(), busy: false };
        Ok(())
    }
}

impl Connection {
    fn write(&mut self) {
        while !self.request.is_empty() {
            match self.stream.write(&self.request) {
                Ok(written) => drop(self.request.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Reading will find it closed.
                Err(_) => self.request.clear(),
            }
        }
    }
}

/// Whether head and body are there.
fn is_complete(response: &[u8]) -> bool {
    let Some(end) = response.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&response[..end]).to_ascii_lowercase();
    if head.contains("\r\ntransfer-encoding: chunked") {
        return response.ends_with(b"0\r\n\r\n");
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    response.len() >= end + 4 + length.unwrap_or_default()
}
