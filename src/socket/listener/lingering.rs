//! A stream that is closed so that the peer still reads the last answer.
//!
//! Closing a socket while the peer sends resets the connection, and a reset may take away what the peer had not read yet: the answer that
//! says why its request is not read on (RFC 9112, section 9.6). So what we send is ended first, and what comes is dropped for a while.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// Closing it waits for the peer's end if the peer is still sending.
#[derive(Debug)]
pub(super) struct Lingering<S> {
    stream: S,
    peer_is_sending: Arc<AtomicBool>,
    patience: Duration,
    /// Until when to wait for the peer's end; set once ours is sent.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Lingering<S> {
    /// `peer_is_sending` is set by whoever knows that the peer has not sent all it announced; what is there on closing tells it too.
    /// `patience` is how long its end is waited for.
    pub(super) fn new(stream: S, peer_is_sending: Arc<AtomicBool>, patience: Duration) -> Self {
        Self { stream, peer_is_sending, patience, deadline: None }
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
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

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, peer_is_sending, patience, deadline } = self.get_mut();
        if deadline.is_none() {
            ready!(Pin::new(&mut *stream).poll_shutdown(context))?;
        }
        let deadline = deadline.get_or_insert_with(|| Box::pin(sleep(*patience)));
        // First, for whoever sends without end.
        if deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut dropped = [MaybeUninit::uninit(); 4096];
        loop {
            let mut buffer = ReadBuf::uninit(&mut dropped);
            match Pin::new(&mut *stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => peer_is_sending.store(true, Relaxed),
                Poll::Pending if peer_is_sending.load(Relaxed) => return Poll::Pending,
                Poll::Pending | Poll::Ready(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
        time::timeout,
    };

    use super::*;

    const PATIENT: Duration = Duration::from_mins(1);

    fn lingering(peer_is_sending: bool, patience: Duration) -> (Lingering<DuplexStream>, DuplexStream) {
        let (ours, theirs) = duplex(64);
        (Lingering::new(ours, Arc::new(AtomicBool::new(peer_is_sending)), patience), theirs)
    }

    #[tokio::test]
    async fn nobody_waits_for_a_peer_that_sends_nothing() {
        let (mut ours, _theirs) = lingering(false, PATIENT);
        timeout(PATIENT / 2, ours.shutdown()).await.expect("at once").unwrap();
    }

    #[tokio::test]
    async fn what_is_still_sent_is_dropped_until_the_peer_ends() {
        for announced in [true, false] {
            let (mut ours, mut theirs) = lingering(announced, PATIENT);
            if !announced {
                theirs.write_all(&[0; 64]).await.unwrap();
            }
            let closing = tokio::spawn(async move { ours.shutdown().await });
            assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0, "ours has ended");
            theirs.write_all(&[0; 1000]).await.unwrap();
            drop(theirs);
            let closed = timeout(PATIENT / 2, closing).await;
            closed.expect("it ends with the peer").unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_peer_that_sends_without_end_is_left() {
        let (mut ours, mut theirs) = lingering(true, Duration::from_millis(20));
        let sending = tokio::spawn(async move { while theirs.write_all(&[0; 1000]).await.is_ok() {} });
        let closing = tokio::spawn(async move { ours.shutdown().await });
        timeout(PATIENT, closing).await.expect("it is left").unwrap().unwrap();
        sending.await.unwrap();
    }
}
