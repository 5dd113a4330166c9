//! A connection before TLS, read so that nothing said in the clear can be taken for something said inside.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::{
    io::{AsyncBufRead as _, AsyncRead, AsyncWrite, BufReader, ReadBuf},
    net::TcpStream,
};

/// Octets the server may send without a word from us in between. The longest there is is a TLS handshake with its certificates.
const UNASKED_LIMIT: usize = 256 * 1024;

/// Gives out at most one line at a time.
///
/// `lettre` reads ahead, and keeps what it has read when STARTTLS turns the connection into a TLS one: whoever can write into the
/// connection before it is encrypted could put answers there that would count as the server's own afterwards (CVE-2011-0411 and its
/// kin). With this stream below it has never read beyond the line that it waits for; whatever was sent after the answer to STARTTLS
/// meets the TLS handshake, which it breaks.
#[derive(Debug)]
pub(super) struct PlainStream {
    inner: BufReader<TcpStream>,
    unasked: usize,
}

impl PlainStream {
    pub fn new(stream: TcpStream) -> Self {
        Self { inner: BufReader::new(stream), unasked: 0 }
    }
}

impl AsyncRead for PlainStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = ready!(Pin::new(&mut this.inner).poll_fill_buf(cx))?;
        let line = read.iter().position(|byte| *byte == b'\n').map_or(read.len(), |end| end + 1);
        let taken = line.min(into.remaining());
        into.put_slice(&read[..taken]);
        Pin::new(&mut this.inner).consume(taken);
        this.unasked += taken;
        if this.unasked > UNASKED_LIMIT {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server does not stop talking")));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PlainStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.unasked = 0;
        Pin::new(&mut this.inner).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

impl AsyncTokioStream for PlainStream {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.inner.get_ref().peer_addr()
    }
}
