//! One WebSocket of a client process: connects, upgrades, reads frames, answers pings.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    mem,
    net::{Ipv4Addr, SocketAddr},
};

use mio::net::TcpStream;
use socket2::{Domain, Socket, Type};

use crate::frame;

/// The example of RFC 6455, section 1.3: a key of each socket's own would only cost.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// Longest response head, in bytes.
const HEAD_LIMIT: usize = 16 * 1024;

/// The upgrade request for `target`.
pub fn request(target: &str, host: SocketAddr) -> Vec<u8> {
    format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
    .into_bytes()
}

pub struct Connection {
    pub stream: TcpStream,
    pub user: u64,
    /// The last `seq` of its user, for who counts them.
    pub last_sequence: Option<u64>,
    state: State,
    /// The start of something that has not all come yet.
    partial: Vec<u8>,
}

enum State {
    /// With the request to write once it is.
    Connecting(Vec<u8>),
    Upgrading,
    Open,
    Ended,
}

/// What an event came to.
pub enum Turn {
    Same,
    Opened,
    /// Before it was open.
    Failed(String),
    /// After.
    Ended(String),
}

impl Connection {
    pub fn open(address: SocketAddr, source: Ipv4Addr, user: u64, request: Vec<u8>) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        // A connect under way is told as an error (EINPROGRESS), as is one that failed; the first event shows which.
        let _under_way = socket.connect(&address.into());
        let stream = TcpStream::from_std(socket.into());
        Ok(Self { stream, user, last_sequence: None, state: State::Connecting(request), partial: Vec::new() })
    }

    /// Goes as far as it can. `closed` when the peer will send no more; `text` takes the payload of each text frame.
    pub fn turn(&mut self, closed: bool, buffer: &mut [u8], text: &mut impl FnMut(u64, &mut Option<u64>, &[u8])) -> Turn {
        let turned = self.write_request().and_then(|()| self.read(closed, buffer, text));
        match turned {
            Ok(true) => Turn::Opened,
            Ok(false) => Turn::Same,
            Err(why) => match mem::replace(&mut self.state, State::Ended) {
                State::Ended => Turn::Same,
                State::Open => Turn::Ended(why),
                State::Connecting(_) | State::Upgrading => Turn::Failed(why),
            },
        }
    }

    fn write_request(&mut self) -> Result<(), String> {
        let State::Connecting(request) = &self.state else { return Ok(()) };
        if let Ok(Some(error)) = self.stream.take_error() {
            return Err(error.to_string());
        }
        match self.stream.write(request) {
            Ok(written) if written == request.len() => self.state = State::Upgrading,
            Ok(_) => return Err("a fresh socket did not take the request".to_owned()),
            Err(error) if matches!(error.kind(), ErrorKind::NotConnected | ErrorKind::WouldBlock) => {}
            Err(error) => return Err(error.to_string()),
        }
        Ok(())
    }

    /// Whether it was opened just now.
    fn read(&mut self, closed: bool, buffer: &mut [u8], text: &mut impl FnMut(u64, &mut Option<u64>, &[u8])) -> Result<bool, String> {
        let mut opened = false;
        if matches!(self.state, State::Connecting(_) | State::Ended) {
            return Ok(opened);
        }
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Err("closed without a word".to_owned()),
                Ok(length) => {
                    opened |= self.take(&buffer[..length], text)?;
                    // Less than there was room for: the kernel has no more, and the next byte is another event.
                    if length < buffer.len() && !closed {
                        return Ok(opened);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(opened),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    fn take(&mut self, bytes: &[u8], text: &mut impl FnMut(u64, &mut Option<u64>, &[u8])) -> Result<bool, String> {
        if self.partial.is_empty() {
            let (opened, used) = self.consume(bytes, text)?;
            self.partial.extend_from_slice(&bytes[used..]);
            return Ok(opened);
        }
        let mut whole = mem::take(&mut self.partial);
        whole.extend_from_slice(bytes);
        let (opened, used) = self.consume(&whole, text)?;
        self.partial.extend_from_slice(&whole[used..]);
        Ok(opened)
    }

    /// Whether it was opened just now, and how many bytes are dealt with.
    fn consume(&mut self, bytes: &[u8], text: &mut impl FnMut(u64, &mut Option<u64>, &[u8])) -> Result<(bool, usize), String> {
        let (mut opened, mut used) = (false, 0);
        if matches!(self.state, State::Upgrading) {
            let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
                return if bytes.len() > HEAD_LIMIT { Err("an endless response".to_owned()) } else { Ok((false, 0)) };
            };
            let head = String::from_utf8_lossy(&bytes[..end]);
            if !head.starts_with("HTTP/1.1 101 ") || !head.contains(ACCEPT) {
                return Err(head.lines().next().unwrap_or_default().to_owned());
            }
            self.state = State::Open;
            (opened, used) = (true, end + 4);
        }
        while let Some(frame) = frame::parse(&bytes[used..])? {
            used += frame.length;
            match frame.opcode {
                frame::TEXT => text(self.user, &mut self.last_sequence, frame.payload),
                // A socket that does not take six bytes is about to end anyway.
                frame::PING => drop(self.stream.write(&frame::pong(frame.payload))),
                frame::CLOSE => return Err(closing(frame.payload)),
                _ => {}
            }
        }
        Ok((opened, used))
    }
}

fn closing(payload: &[u8]) -> String {
    match payload {
        [first, second, reason @ ..] => {
            format!("close {} {}", u16::from_be_bytes([*first, *second]), String::from_utf8_lossy(reason))
        }
        _ => "close without a code".to_owned(),
    }
}
