//! The bytes beneath a session: the connection's own stream, without the layers that HTTP needed, where that can be had.
//!
//! A plain TCP connection can be written to by others while its session rests ([`super::hub`]); what they could not write whole goes out
//! before anything else. TLS and Unix sockets are reached through hyper's.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use hyper::upgrade::{Parts, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

#[derive(Debug)]
pub(super) struct Wire {
    stream: Stream,
    /// What somebody else has begun to write.
    unwritten: Bytes,
    /// The kernel took less than it was given, and nobody has been told since that everything is out.
    is_clogged: bool,
}

#[derive(Debug)]
enum Stream {
    /// The writing half is gone once it is shut down.
    Tcp(OwnedReadHalf, Option<Arc<OwnedWriteHalf>>),
    Other(TokioIo<Upgraded>),
}

impl Wire {
    /// And what was read of it already.
    pub fn new(upgraded: Upgraded) -> (Self, Bytes) {
        let (stream, read) = match upgraded.downcast::<TokioIo<TcpStream>>() {
            Ok(Parts { io, read_buf, .. }) => {
                let (reading, writing) = io.into_inner().into_split();
                (Stream::Tcp(reading, Some(Arc::new(writing))), read_buf)
            }
            Err(upgraded) => (Stream::Other(TokioIo::new(upgraded)), Bytes::new()),
        };
        (Self { stream, unwritten: Bytes::new(), is_clogged: false }, read)
    }

    /// For others to write to, while nothing of ours is on its way.
    pub fn direct(&self) -> Option<Arc<OwnedWriteHalf>> {
        match &self.stream {
            Stream::Tcp(_, writing) => writing.clone(),
            Stream::Other(_) => None,
        }
    }

    /// `unwritten` goes out before all else: what somebody wrote directly, and the kernel did not take whole.
    pub fn finish(&mut self, unwritten: Bytes) {
        self.unwritten = unwritten;
        self.is_clogged = true;
    }

    /// Whether something of ours may still be on its way.
    pub fn is_clogged(&self) -> bool {
        self.is_clogged
    }

    fn poll_unwritten(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unwritten.is_empty() {
            let written = ready!(self.stream.poll_write(context, &self.unwritten))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unwritten.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl Stream {
    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let writing = match self {
            Self::Tcp(_, Some(writing)) => writing,
            Self::Tcp(_, None) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Self::Other(stream) => return Pin::new(stream).poll_write(context, bytes),
        };
        loop {
            ready!(writing.as_ref().as_ref().poll_write_ready(context))?;
            match writing.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(reading, _) => Pin::new(reading).poll_read(context, buffer),
            Stream::Other(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.is_clogged = true;
        ready!(self.poll_unwritten(context))?;
        self.stream.poll_write(context, bytes)
    }

    /// Called once everything of the caller's has been written.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_unwritten(context))?;
        if let Stream::Other(stream) = &mut self.stream {
            ready!(Pin::new(stream).poll_flush(context))?;
        }
        self.is_clogged = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            // Whoever could write directly has let go before a session closes: with the last handle the direction is shut down.
            Stream::Tcp(_, writing) => drop(writing.take()),
            Stream::Other(stream) => ready!(Pin::new(stream).poll_shutdown(context))?,
        }
        Poll::Ready(Ok(()))
    }
}
