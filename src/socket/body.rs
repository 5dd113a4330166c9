//! A request's body: it has to be complete in time, and what nobody read of it is known.
//!
//! Whoever announces a body and never sends it would otherwise keep its connection, and the memory set aside for it, for as long as it likes.
//! And whoever is answered before all was read has to know whether the connection goes on.

use std::{
    error::Error,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use thiserror::Error;
use tokio::time::{Sleep, sleep, timeout};

use super::ListenerCounters;

/// What may be read of a body that nobody wants, so that its connection can go on: bytes, and how long to wait for them.
const REST_LIMIT: u64 = 64 * 1024;
const REST_TIME: Duration = Duration::from_millis(100);

/// The body was not complete in time; the sources of what reading it failed with lead here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the body was not complete within {0:?}")]
pub struct BodyTimedOut(pub Duration);

impl BodyTimedOut {
    /// Finds it among the sources of `error`.
    pub fn find(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(timed_out) = error.downcast_ref() {
                return Some(*timed_out);
            }
            next = error.source();
        }
        None
    }
}

/// A body and the time it has, from the first moment it was waited for.
#[derive(Debug)]
pub(super) struct TimedBody<B> {
    body: B,
    timeout: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
    counters: Arc<ListenerCounters>,
}

impl<B> TimedBody<B> {
    pub fn new(body: B, timeout: Duration, counters: Arc<ListenerCounters>) -> Self {
        Self { body, timeout, deadline: None, counters }
    }
}

impl<B> Body for TimedBody<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin,
{
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let timeout = self.timeout;
        ready!(self.deadline.get_or_insert_with(|| Box::pin(sleep(timeout))).as_mut().poll(context));
        self.counters.body_timeouts.fetch_add(1, Relaxed);
        Poll::Ready(Some(Err(BodyTimedOut(timeout).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body in somebody else's hands, whose end is looked for once they have let go of it.
#[derive(Debug)]
pub(super) struct LentBody<B>(Arc<Mutex<Lent<B>>>);

#[derive(Debug)]
struct Lent<B> {
    body: B,
    /// Whether its last frame was its end or an error, once that has come.
    ended_well: Option<bool>,
}

impl<B> LentBody<B> {
    /// The body to hand out, and what [`Self::comes_to_its_end`] is asked of.
    pub fn new(body: B) -> (Self, Self) {
        let lent = Arc::new(Mutex::new(Lent { body, ended_well: None }));
        (Self(lent.clone()), Self(lent))
    }

    fn lock(&self) -> MutexGuard<'_, Lent<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Body<Data = Bytes> + Unpin> LentBody<B> {
    /// Whether the body has been read to its end, or is now: where the rest may be read it is dropped, if it is small and there at once.
    pub async fn comes_to_its_end(self, may_read_on: bool) -> bool {
        let Ok(lent) = Arc::try_unwrap(self.0).map(Mutex::into_inner) else { return false };
        let Lent { mut body, ended_well } = lent.unwrap_or_else(PoisonError::into_inner);
        if let Some(ended_well) = ended_well {
            return ended_well;
        }
        if body.is_end_stream() || !may_read_on || body.size_hint().lower() > REST_LIMIT {
            return body.is_end_stream();
        }
        let rest = async {
            let mut dropped = 0;
            while let Some(frame) = body.frame().await {
                dropped += frame.ok()?.data_ref().map_or(0, |data| data.len() as u64);
                if dropped > REST_LIMIT {
                    return None;
                }
            }
            Some(())
        };
        timeout(REST_TIME, rest).await.is_ok_and(|over| over.is_some())
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for LentBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut lent = self.lock();
        let frame = ready!(Pin::new(&mut lent.body).poll_frame(context));
        match &frame {
            Some(Ok(_)) => {}
            Some(Err(_)) => lent.ended_well = Some(false),
            // After an error, too.
            None => _ = lent.ended_well.get_or_insert(true),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.lock().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream::{self, StreamExt as _};
    use http_body_util::{BodyExt as _, Full, StreamBody};

    use super::*;

    #[tokio::test]
    async fn a_small_rest_that_is_there_is_dropped() {
        let (lent, kept) = LentBody::new(Full::new(Bytes::from_static(b"unread")));
        drop(lent);
        assert!(kept.comes_to_its_end(true).await);
        let (lent, kept) = LentBody::new(Full::new(Bytes::from_static(b"read")));
        assert_eq!(lent.collect().await.unwrap().to_bytes(), "read");
        assert!(kept.comes_to_its_end(true).await);
    }

    #[tokio::test]
    async fn what_is_large_or_late_or_held_is_not_over() {
        let frames = || stream::repeat_with(|| Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[0; 1024]))));
        let all = usize::try_from(REST_LIMIT).unwrap() / 1024;
        let (lent, kept) = LentBody::new(StreamBody::new(frames().take(all)));
        drop(lent);
        assert!(kept.comes_to_its_end(true).await, "all that may be dropped");
        let (lent, kept) = LentBody::new(StreamBody::new(frames().take(all + 1)));
        drop(lent);
        assert!(!kept.comes_to_its_end(true).await, "more than may be dropped");
        let (lent, kept) = LentBody::new(StreamBody::new(frames().take(1).chain(stream::pending())));
        drop(lent);
        assert!(!kept.comes_to_its_end(true).await, "announced and never sent");
        let (lent, kept) = LentBody::new(Full::new(Bytes::from_static(b"unread")));
        drop(lent);
        assert!(!kept.comes_to_its_end(false).await, "reading would ask for it");
        let (lent, kept) = LentBody::new(Full::new(Bytes::from(vec![0; 1024 * (all + 1)])));
        drop(lent);
        assert!(!kept.comes_to_its_end(true).await, "announced as more than may be dropped");
        let (_lent, kept) = LentBody::new(Full::new(Bytes::new()));
        assert!(!kept.comes_to_its_end(true).await, "somebody may still read it");
    }

    #[tokio::test]
    async fn how_it_ended_for_whoever_read_it_counts() {
        // Neither kind says how long it is.
        let good = || stream::iter([Ok::<_, &str>(Frame::data(Bytes::from_static(b"read")))]);
        let (lent, kept) = LentBody::new(StreamBody::new(good()));
        lent.collect().await.unwrap();
        assert!(kept.comes_to_its_end(false).await, "read, though nothing more may be");
        let (lent, kept) = LentBody::new(StreamBody::new(good().chain(stream::iter([Err("broken")]))));
        lent.collect().await.unwrap_err();
        assert!(!kept.comes_to_its_end(true).await);
    }
}
