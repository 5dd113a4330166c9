//! A stream that knows whether a message from the peer is begun and not finished.
//!
//! Follows the frames' heads (RFC 6455, section 5.2) as their bytes go by, and judges nothing: that is tungstenite's, which does not say.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of the longest head: two, eight of length, four of mask.
const HEAD_LIMIT: usize = 14;
/// Opcodes from here on are of control frames, which may stand between the fragments of a message.
const FIRST_CONTROL: u8 = 8;

/// Tells where in a frame and a message the bytes read so far end.
#[derive(Debug)]
pub(super) struct Metered<S> {
    stream: S,
    inbound: Inbound,
}

#[derive(Debug, Default)]
struct Inbound {
    head: [u8; HEAD_LIMIT],
    head_len: u8,
    /// Bytes to come of the frame whose head is complete.
    payload_left: u64,
    /// Fragments of a message came, and not its last.
    is_fragmented: bool,
}

impl<S> Metered<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, inbound: Inbound::default() }
    }

    pub(super) fn get_ref(&self) -> &S {
        &self.stream
    }

    pub(super) fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// `bytes` came in another way.
    pub(super) fn pass(&mut self, bytes: &[u8]) {
        self.inbound.pass(bytes);
    }

    /// Whether a part of a frame or of a message is here, and its end is not.
    pub(super) fn is_unfinished(&self) -> bool {
        self.inbound.head_len > 0 || self.inbound.is_fragmented
    }
}

impl Inbound {
    fn pass(&mut self, mut bytes: &[u8]) {
        while let Some(byte) = bytes.first() {
            if self.payload_left > 0 {
                let here = usize::try_from(self.payload_left).unwrap_or(usize::MAX).min(bytes.len());
                bytes = &bytes[here..];
                self.payload_left -= here as u64;
            } else {
                self.head[usize::from(self.head_len)] = *byte;
                self.head_len += 1;
                bytes = &bytes[1..];
                match self.payload() {
                    None => continue,
                    Some(payload) => self.payload_left = payload,
                }
            }
            if self.payload_left == 0 {
                self.end_frame();
            }
        }
    }

    /// The length of what follows the head, once that is complete.
    fn payload(&self) -> Option<u64> {
        let have = usize::from(self.head_len);
        let second = *self.head[..have].get(1)?;
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        let (extended, short) = match second & 0x7f {
            126 => (2, 0),
            127 => (8, 0),
            short => (0, u64::from(short)),
        };
        if have < 2 + extended + mask {
            return None;
        }
        Some(self.head[2..2 + extended].iter().fold(short, |length, byte| length << 8 | u64::from(*byte)))
    }

    fn end_frame(&mut self) {
        self.head_len = 0;
        if self.head[0] & 0x0f < FIRST_CONTROL {
            self.is_fragmented = self.head[0] & 0x80 == 0;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.inbound.pass(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [1, 2, 3, 4];

    fn frame(first: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match payload {
            0..126 => frame.push(0x80 | u8::try_from(payload).unwrap()),
            126..65_536 => {
                frame.push(0xfe);
                frame.extend(u16::try_from(payload).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(0xff);
                frame.extend((payload as u64).to_be_bytes());
            }
        }
        frame.extend(MASK);
        frame.extend(std::iter::repeat_n(b'x', payload));
        frame
    }

    /// In pieces of every size the same.
    #[track_caller]
    fn check(bytes: &[u8], is_unfinished: bool) {
        for size in [1, 2, 3, 7, 1024, bytes.len().max(1)] {
            let mut metered = Metered::new(());
            bytes.chunks(size).for_each(|piece| metered.inbound.pass(piece));
            assert_eq!(metered.is_unfinished(), is_unfinished, "in pieces of {size}");
        }
    }

    #[test]
    fn whole_messages_are_finished_and_parts_are_not() {
        let [text, text_begun, more, last, ping] = [0x81, 0x01, 0x00, 0x80, 0x89];
        check(&[], false);
        for payload in [0, 1, 125, 126, 65_535, 65_536] {
            let whole = frame(text, payload);
            check(&whole, false);
            check(&whole[..whole.len() - 1], true);
            check(&[whole.clone(), whole[..1].to_vec()].concat(), true);
        }
        check(&frame(text_begun, 3), true);
        check(&[frame(text_begun, 3), frame(ping, 0)].concat(), true);
        check(&[frame(text_begun, 3), frame(more, 0), frame(ping, 4)].concat(), true);
        check(&[frame(text_begun, 3), frame(ping, 4), frame(last, 3)].concat(), false);
        check(&[frame(text, 3), frame(text_begun, 3)].concat(), true);
    }
}
