//! WebSocket frames by hand (RFC 6455, section 5), and the mark that a bench message carries.

use std::time::{SystemTime, UNIX_EPOCH};

pub const TEXT: u8 = 0x1;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
const PONG: u8 = 0xA;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
/// What clients mask with; any bytes will do where no proxy is to be protected.
const MASK: [u8; 4] = [0x5A, 0xC3, 0x17, 0x88];
/// No server here sends a longer one.
const PAYLOAD_LIMIT: usize = 1024 * 1024;

/// A frame from the server.
pub struct Frame<'a> {
    pub opcode: u8,
    pub payload: &'a [u8],
    /// Bytes of the whole frame.
    pub length: usize,
}

/// The frame at the start of `bytes`; `None` when it is not all there.
pub fn parse(bytes: &[u8]) -> Result<Option<Frame<'_>>, String> {
    let &[first, second, ..] = bytes else { return Ok(None) };
    let (payload, head) = match second {
        126 => match bytes.get(2..4) {
            Some(length) => (usize::from(u16::from_be_bytes([length[0], length[1]])), 4),
            None => return Ok(None),
        },
        127 => match bytes.get(2..10).and_then(|length| length.try_into().ok()) {
            Some(length) => (usize::try_from(u64::from_be_bytes(length)).unwrap_or(usize::MAX), 10),
            None => return Ok(None),
        },
        length => (usize::from(length), 2),
    };
    if second & MASKED != 0 || payload > PAYLOAD_LIMIT {
        return Err(format!("not a server's frame: {first:02x} {second:02x}"));
    }
    let length = head + payload;
    Ok(bytes.get(head..length).map(|payload| Frame { opcode: first & 0x0F, payload, length }))
}

/// A text frame from a server.
pub fn text(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![FINAL | TEXT];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length), _) if length < 126 => frame.push(length),
        (_, Ok(length)) => {
            frame.push(126);
            frame.extend(length.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend(payload);
    frame
}

/// A client's answer to a ping.
pub fn pong(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![FINAL | PONG, MASKED | u8::try_from(payload.len()).unwrap_or(125)];
    frame.extend(MASK);
    frame.extend(payload.iter().take(125).zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// What a message says of itself: which run it belongs to, its place in that run, and when it was sent.
#[derive(Clone, Copy)]
pub struct Mark {
    pub run: u64,
    pub index: u64,
    /// Nanoseconds since the epoch: processes have no other clock in common that needs no unsafe code.
    pub sent_at: u64,
}

impl Mark {
    pub fn new(run: u64, index: u64) -> Self {
        Self { run, index, sent_at: now_nanos() }
    }

    pub fn find(payload: &[u8]) -> Option<Self> {
        let start = payload.iter().position(|byte| *byte == b'~')?;
        let mut numbers = payload[start + 1..].split(|byte| *byte == b'.').map(number);
        Some(Self { run: numbers.next()?, index: numbers.next()?, sent_at: numbers.next()? })
    }
}

impl std::fmt::Display for Mark {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "~{}.{}.{}.", self.run, self.index, self.sent_at)
    }
}

/// The number after `"seq":`.
pub fn sequence(payload: &[u8]) -> Option<u64> {
    const NAME: &[u8] = br#""seq":"#;
    let place = payload.windows(NAME.len()).rposition(|window| window == NAME)?;
    Some(number(&payload[place + NAME.len()..]))
}

fn number(text: &[u8]) -> u64 {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number: u64, digit| number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')))
}

pub fn now_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
