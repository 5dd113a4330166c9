//! A stream whose first bytes were read already, and are read again.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[derive(Debug)]
pub(super) struct Rewound<S> {
    read: Bytes,
    stream: S,
}

impl<S> Rewound<S> {
    /// `read` comes before what is still in the stream.
    pub(super) fn new(stream: S, read: Bytes) -> Self {
        Self { read, stream }
    }

    /// The stream, and what of its first bytes was not read again.
    pub(super) fn into_parts(self) -> (S, Bytes) {
        (self.stream, self.read)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = self.read.len().min(buffer.remaining());
        buffer.put_slice(&self.read[..length]);
        self.read.advance(length);
        if self.read.is_empty() {
            // An empty one may still hold the memory.
            self.read = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
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
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn what_was_read_comes_first_in_pieces_of_any_size() {
        for size in 1..8 {
            let mut rewound = Rewound::new(&b"world"[..], Bytes::from_static(b"hello "));
            let (mut whole, mut piece) = (Vec::new(), vec![0; size]);
            loop {
                let length = rewound.read(&mut piece).await.unwrap();
                if length == 0 {
                    break;
                }
                whole.extend_from_slice(&piece[..length]);
            }
            assert_eq!(whole, b"hello world", "in pieces of {size}");
        }
    }

    #[tokio::test]
    async fn what_was_not_read_again_is_given_back() {
        let mut rewound = Rewound::new(&b"world"[..], Bytes::from_static(b"hello "));
        assert_eq!(rewound.read(&mut [0; 2]).await.unwrap(), 2);
        let (stream, read) = rewound.into_parts();
        assert_eq!((stream, &read[..]), (&b"world"[..], &b"llo "[..]));
    }
}
