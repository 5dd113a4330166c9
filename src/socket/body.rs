//! A request's body that has to be complete in time.
//!
//! Whoever announces a body and never sends it would otherwise keep its connection, and the memory set aside for it, for as long as it likes.

use std::{
    error::Error,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use thiserror::Error;
use tokio::time::{Sleep, sleep};

use super::ListenerCounters;

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
