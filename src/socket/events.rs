//! Server-sent events: what a socket would be told, as one response that does not end, for networks that break WebSocket.
//!
//! Frames go out in the same order and under the same limits. Every event has an id that says how far its reader has come, which browsers
//! send back by themselves when they reconnect.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    http::{
        HeaderValue,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::Response,
};
use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::StreamBody;
use hyper::body::Frame as BodyFrame;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{
    Ending,
    hub::{ConnectionHandle, Frame},
    listener::ConnectionPermit,
    sequencer::{Protocol, Sequencer},
    session::{Registration, Sessions, Shared},
};
use crate::model::Place;

/// Frames in one chunk, at most.
const CHUNK_FRAMES: usize = 64;
/// How long a browser waits before it reconnects, unless the server is going away.
const RETRY: Duration = Duration::from_secs(2);
/// A comment: keeps the connection from looking idle to what stands in between.
const BEAT: &[u8] = b":\n\n";

/// Says how far a reader has come, for the id of an event.
pub type Mark<P> = fn(&P, &[Place]) -> String;

/// The response whose body is the stream.
pub(super) fn response<P: Protocol>(
    sessions: &Sessions,
    registration: Registration,
    permit: Option<ConnectionPermit>,
    protocol: P,
    mark: Mark<P>,
) -> Response {
    let shared = Arc::clone(sessions.shared());
    shared.counters.opened.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let Registration { connection, frames, lifetime } = registration;
    let now = Instant::now();
    let events = Events {
        sequencer: Sequencer::new(protocol, frames),
        mark,
        expiry: now + lifetime.min(super::session::FARTHEST_DEADLINE),
        restart: None,
        beat: now + shared.settings.ping_interval.mul_f64(fastrand::f64()),
        timer: Box::pin(sleep_until(now)),
        cancelled: Box::pin(shared.shutdown.clone().cancelled_owned()),
        greeting: true,
        ending: None,
        shared,
        _connection: connection,
        _permit: permit,
    };
    let mut response = Response::new(Body::new(StreamBody::new(events)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would gather events otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// What a reader is told that comes while this process goes: an answer of another status would be the last word to a browser.
pub(super) fn come_back() -> Response {
    let mut response = Response::new(Body::from(format!("retry: {}\n\n", RETRY.as_millis())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

struct Events<P: Protocol> {
    sequencer: Sequencer<P>,
    mark: Mark<P>,
    expiry: Instant,
    restart: Option<Instant>,
    beat: Instant,
    timer: Pin<Box<Sleep>>,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    greeting: bool,
    ending: Option<Ending>,
    shared: Arc<Shared>,
    _connection: ConnectionHandle,
    _permit: Option<ConnectionPermit>,
}

impl<P: Protocol> Events<P> {
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.ending.is_some() {
            return Poll::Ready(None);
        }
        let mut chunk = BytesMut::new();
        if std::mem::take(&mut self.greeting) {
            chunk.put_slice(format!("retry: {}\n\n", RETRY.as_millis()).as_bytes());
        }
        if self.restart.is_none() && self.cancelled.as_mut().poll(context).is_ready() {
            self.restart = Some(Instant::now() + self.shared.settings.drain.mul_f64(fastrand::f64()));
        }
        for _ in 0..CHUNK_FRAMES {
            match self.sequencer.poll_next(context) {
                Poll::Pending => break,
                Poll::Ready(Ok(frame)) => self.write(&frame, &mut chunk),
                Poll::Ready(Err(ending)) => {
                    self.end(ending);
                    break;
                }
            }
        }
        let now = Instant::now();
        if self.ending.is_none() {
            if self.expiry <= now {
                self.end(Ending::Expired);
            } else if self.restart.is_some_and(|restart| restart <= now) {
                let retry_after = self.shared.settings.drain.mul_f64(fastrand::f64()).max(RETRY);
                chunk.put_slice(format!("retry: {}\n\n", retry_after.as_millis()).as_bytes());
                self.end(Ending::Restarting);
            } else if self.beat <= now {
                self.beat = now + self.shared.settings.ping_interval;
                match self.sequencer.ping() {
                    Some(frame) => self.write(&frame, &mut chunk),
                    None => chunk.put_slice(BEAT),
                }
            }
        }
        if !chunk.is_empty() {
            return Poll::Ready(Some(chunk.freeze()));
        }
        if self.ending.is_some() {
            return Poll::Ready(None);
        }
        let earliest = self.restart.into_iter().fold(self.expiry.min(self.beat), Instant::min);
        self.timer.as_mut().reset(earliest);
        match self.timer.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn write(&self, frame: &Frame, chunk: &mut BytesMut) {
        if let Some(delivery) = frame.take_delivery() {
            self.shared.report(delivery);
        }
        let id = if frame.place.is_some() { Some((self.mark)(&self.sequencer.protocol, &self.sequencer.reached())) } else { None };
        chunk.reserve(frame.text.len() + 64);
        if let Some(id) = id {
            chunk.put_slice(b"id: ");
            chunk.put_slice(id.as_bytes());
            chunk.put_u8(b'\n');
        }
        // JSON has no line breaks of its own.
        chunk.put_slice(b"data: ");
        chunk.put_slice(frame.text.as_bytes());
        chunk.put_slice(b"\n\n");
    }

    fn end(&mut self, ending: Ending) {
        self.ending = Some(ending);
    }
}

impl<P: Protocol> Drop for Events<P> {
    fn drop(&mut self) {
        self.shared.counters.count_ended(self.ending.unwrap_or(Ending::PeerClosed));
    }
}

impl<P: Protocol> futures_util::Stream for Events<P> {
    type Item = Result<BodyFrame<Bytes>, Infallible>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_chunk(context).map(|chunk| chunk.map(|bytes| Ok(BodyFrame::data(bytes))))
    }
}
