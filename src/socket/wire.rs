//! The bytes beneath a session: the connection's own stream, without the layers that HTTP needed.
//!
//! A plain TCP connection can be written to by others while its session rests ([`super::hub`]). What they could not write whole goes out
//! before anything else, and so does the answer that opened the session.

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
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
    /// What is to go out before what the session writes.
    unwritten: Bytes,
    /// The kernel took less than it was given, and nobody has been told since that everything is out.
    is_clogged: bool,
}

enum Stream {
    /// The writing half is gone once it is shut down.
    Tcp(OwnedReadHalf, Option<Arc<OwnedWriteHalf>>),
    /// TLS, or a Unix socket.
    Other(Box<dyn Duplex>),
}

/// Both directions of any stream.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Duplex for S {}

impl Wire {
    pub fn tcp(stream: TcpStream) -> Self {
        let (reading, writing) = stream.into_split();
        Self::over(Stream::Tcp(reading, Some(Arc::new(writing))))
    }

    pub fn other(stream: impl Duplex) -> Self {
        Self::over(Stream::Other(Box::new(stream)))
    }

    fn over(stream: Stream) -> Self {
        Self { stream, unwritten: Bytes::new(), is_clogged: false }
    }

    /// For others to write to, while nothing of ours is on its way.
    pub fn direct(&self) -> Option<Arc<OwnedWriteHalf>> {
        match &self.stream {
            Stream::Tcp(_, writing) => writing.clone(),
            Stream::Other(_) => None,
        }
    }

    /// `unwritten` goes out before all else: the answer to the upgrade, or what somebody wrote directly, and the kernel did not take whole.
    pub fn finish(&mut self, unwritten: Bytes) {
        self.unwritten = unwritten;
        self.is_clogged = true;
    }

    /// Whether something is to go out before what the session writes, or with the first of that.
    pub fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// Whether something of ours may still be on its way.
    pub fn is_clogged(&self) -> bool {
        self.is_clogged
    }

    /// Writes what is unwritten and, in the same breath, what it can of `bytes`; says how much of those.
    fn poll_unwritten(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut more = 0;
        while !self.unwritten.is_empty() {
            let parts = [IoSlice::new(&self.unwritten), IoSlice::new(bytes)];
            let written = ready!(self.stream.poll_write(context, &parts))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let before = written.min(self.unwritten.len());
            // Nothing of it left holds no memory; advanced to its end it would.
            self.unwritten = self.unwritten.slice(before..);
            more = written - before;
        }
        Poll::Ready(Ok(more))
    }
}

impl Stream {
    fn poll_write(&mut self, context: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let writing = match self {
            Self::Tcp(_, Some(writing)) => writing,
            Self::Tcp(_, None) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Self::Other(stream) => return Pin::new(stream).poll_write_vectored(context, parts),
        };
        loop {
            ready!(writing.as_ref().as_ref().poll_write_ready(context))?;
            // Nearly always one part has it all, and then the kernel has less to look at.
            let written = match parts {
                [whole, rest @ ..] if rest.iter().all(|part| part.is_empty()) => writing.try_write(whole),
                parts => writing.try_write_vectored(parts),
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp(..) => "Tcp",
            Self::Other(_) => "Other",
        })
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
        match ready!(self.poll_unwritten(context, bytes))? {
            0 => self.stream.poll_write(context, &[IoSlice::new(bytes)]),
            written => Poll::Ready(Ok(written)),
        }
    }

    /// Called once everything of the caller's has been written.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_unwritten(context, &[]))?;
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
