//! One WebSocket connection: a single task that reads, writes, pings and ends it.
//!
//! A state machine that is polled as a whole, so that nothing is cancelled half-way: reading, deadlines and writing each go as far as
//! they can on every wake-up. What a frame says is the [`Protocol`]'s, and in which order frames go out the [`Sequencer`]'s.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::response::Response;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::{
    io::AsyncWriteExt as _,
    sync::mpsc,
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Bytes, Message,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Ending,
    auth::Identity,
    deadlines::{Deadlines, Due, PingWheel},
    ending::Close,
    hub::{ConnectionHandle, Direct, FrameReceiver},
    metered::Metered,
    sequencer::{Protocol, Received, Sequencer},
    upgrade::Handshake,
    wire::Wire,
};
use crate::model::{DeliveryKey, Timestamp};

/// Allocated for every connection and zero-filled on every read (SOCKETS.md, section 3).
const READ_BUFFER_SIZE: usize = 1024;
/// Bytes gathered before they are handed to the kernel.
const WRITE_BUFFER_SIZE: usize = 4 * 1024;
/// A backstop. Feeding stops when the kernel takes no more, so the buffer holds [`WRITE_BUFFER_SIZE`] and one frame at most, and no
/// intake takes a job that makes a frame of this size.
const WRITE_BUFFER_LIMIT: usize = 16 * 1024 * 1024;
/// Frames fed to the socket before they are flushed and reported.
const FEED_LIMIT: usize = 256;
/// A deadline further off than this is not kept; the timer's own range is limited.
pub(super) const FARTHEST_DEADLINE: Duration = Duration::from_hours(365 * 24);

#[derive(Clone, Copy, Debug)]
pub struct SessionSettings {
    /// Between two pings. The first comes after a random part of it, so that sockets opened together do not ping together.
    pub ping_interval: Duration,
    /// From a ping until any frame has come in; and from a message's first byte until its last.
    pub pong_timeout: Duration,
    /// From our close, or the peer's, until the connection is dropped.
    pub close_timeout: Duration,
    /// At shutdown each socket is closed after a random part of it, so that they do not all come back at once.
    pub drain: Duration,
    /// Bytes of the largest message taken from a client.
    pub message_limit: usize,
    /// Messages taken from one connection: so many per second, and so many at once.
    pub messages: Quota,
}

/// What happened to sessions, from the start of the process.
#[derive(Debug, Default)]
pub struct SessionCounters {
    /// Upgraded and running.
    pub opened: AtomicU64,
    /// Upgrades refused, by status or by close code.
    pub refused: AtomicU64,
    /// Deliveries written to a socket that nobody had room to hear of.
    pub unreported: AtomicU64,
    ended: [AtomicU64; Ending::ALL.len()],
}

impl SessionCounters {
    /// Sessions that ended so.
    pub fn ended(&self, ending: Ending) -> u64 {
        self.ended[ending as usize].load(Relaxed)
    }

    pub(super) fn count_ended(&self, ending: Ending) {
        self.ended[ending as usize].fetch_add(1, Relaxed);
    }
}

/// Starts sessions, and holds what they share. Clones are the same.
#[derive(Clone, Debug)]
pub struct Sessions {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub settings: SessionSettings,
    delivered: mpsc::Sender<DeliveryKey>,
    pub counters: Arc<SessionCounters>,
    pub shutdown: CancellationToken,
    tracker: TaskTracker,
    wheel: PingWheel,
}

impl Shared {
    /// Reports a delivery that a socket has taken.
    pub fn report(&self, delivery: DeliveryKey) {
        if self.delivered.try_send(delivery).is_err() {
            self.counters.unreported.fetch_add(1, Relaxed);
        }
    }
}

impl Sessions {
    /// `delivered` hears of each delivery once a socket has taken it; when it is full the report is dropped and counted.
    pub fn new(
        settings: SessionSettings,
        delivered: mpsc::Sender<DeliveryKey>,
        counters: Arc<SessionCounters>,
        shutdown: CancellationToken,
        tracker: TaskTracker,
    ) -> Self {
        let wheel = PingWheel::new(&settings, Instant::now());
        Self { shared: Arc::new(Shared { settings, delivered, counters, shutdown, tracker, wheel }) }
    }

    pub fn settings(&self) -> &SessionSettings {
        &self.shared.settings
    }

    pub(super) fn counters(&self) -> &SessionCounters {
        &self.shared.counters
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Whether sockets are being closed, and no new one is opened.
    pub fn is_draining(&self) -> bool {
        self.shared.shutdown.is_cancelled()
    }

    /// Answers the upgrade; the session follows it.
    pub(super) fn start<P: Protocol>(&self, handshake: Handshake, registration: Registration, protocol: P) -> Response {
        let (shared, tracked) = (Arc::clone(&self.shared), self.shared.tracker.token());
        handshake.response(move |wire, read| {
            shared.counters.opened.fetch_add(1, Relaxed);
            let socket = web_socket(wire, read, shared.settings.message_limit);
            let first_ping = shared.wheel.after(shared.settings.ping_interval.mul_f64(fastrand::f64()), Instant::now());
            let deadlines = Deadlines::new(first_ping, registration.lifetime, Instant::now());
            let Registration { connection, frames, .. } = registration;
            if let Some(stream) = socket.get_ref().get_ref().direct() {
                frames.write_directly(Direct { stream, shared: Arc::clone(&shared) });
            }
            let mut session = Session {
                socket,
                sequencer: Sequencer::new(protocol, frames),
                deadlines,
                messages: RateLimiter::direct(shared.settings.messages),
                shared,
                unflushed: Vec::new(),
                pings: Pings::None,
                dirty: false,
            };
            // Holds nothing but the session: what it is made of would otherwise take its room once more, for as long as it lasts.
            async move {
                let _tracked = tracked;
                session.run(connection).await;
            }
        })
    }

    /// Answers the upgrade only to close the socket with a code: browsers show a refused upgrade's status to nobody.
    pub(super) fn start_closed(&self, handshake: Handshake, close: Close) -> Response {
        let (settings, tracked) = (self.shared.settings, self.shared.tracker.token());
        handshake.response(async move |wire, read| {
            let _tracked = tracked;
            let mut socket = web_socket(wire, read, settings.message_limit);
            let _timed_out = timeout(settings.close_timeout, finish(&mut socket, Some(close))).await;
        })
    }
}

/// A session's place in the hub, and how long it may keep it.
#[derive(Debug)]
pub(super) struct Registration {
    pub connection: ConnectionHandle,
    pub frames: FrameReceiver,
    pub lifetime: Duration,
}

impl Registration {
    pub(super) fn new((connection, frames): (ConnectionHandle, FrameReceiver), identity: &Identity, now: Timestamp) -> Self {
        Self { connection, frames, lifetime: identity.expires_at.since(now) }
    }
}

type Socket = WebSocketStream<Metered<Wire>>;

/// `read` came with the request.
fn web_socket(wire: Wire, read: Vec<u8>, message_limit: usize) -> Socket {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_SIZE)
        .write_buffer_size(WRITE_BUFFER_SIZE)
        .max_write_buffer_size(WRITE_BUFFER_LIMIT)
        .max_message_size(Some(message_limit))
        .max_frame_size(Some(message_limit));
    let mut metered = Metered::new(wire);
    metered.pass(&read);
    let made = WebSocketStream::from_partially_read(metered, read, Role::Server, Some(config));
    made.now_or_never().expect("the handshake is done, and nothing else is waited for")
}

/// Sends our close, if any, and reads until the peer has closed too. The caller gives it a timeout.
async fn finish(socket: &mut Socket, close: Option<Close>) {
    if let Some(Close { code, reason }) = close
        && socket.send(Message::Close(Some(CloseFrame { code: code.into(), reason }))).await.is_err()
    {
        return;
    }
    while let Some(Ok(_)) = socket.next().await {}
}

struct Session<P: Protocol> {
    socket: Socket,
    sequencer: Sequencer<P>,
    deadlines: Deadlines,
    messages: DefaultDirectRateLimiter,
    shared: Arc<Shared>,
    /// Deliveries fed to the socket and not flushed yet.
    unflushed: Vec<DeliveryKey>,
    pings: Pings,
    /// Something was fed to the socket and not flushed yet.
    dirty: bool,
}

/// What of a ping is still to go out: the control frame that any client answers, and the protocol's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pings {
    None,
    Both,
    Own,
}

impl<P: Protocol> Session<P> {
    async fn run(&mut self, connection: ConnectionHandle) {
        let shared = Arc::clone(&self.shared);
        let mut cancelled = pin!(shared.shutdown.cancelled());
        let mut timer = pin!(sleep_until(self.deadlines.earliest()));
        let ending = poll_fn(|context| {
            if self.deadlines.restart.is_none() && cancelled.as_mut().poll(context).is_ready() {
                self.deadlines.restart = Some(Instant::now() + shared.settings.drain.mul_f64(fastrand::f64()));
            }
            self.poll(context, timer.as_mut())
        })
        .await;
        // Out of the hub first: what is closing counts against nobody's limit and is sent nothing.
        drop(connection);
        shared.counters.count_ended(ending);
        if ending != Ending::Lost {
            // Boxed, so that a running session does not carry the room for it.
            let _timed_out = Box::pin(timeout(shared.settings.close_timeout, self.close(ending))).await;
        }
    }

    async fn close(&mut self, ending: Ending) {
        if ending == Ending::Restarting
            && let Some(frame) = self.sequencer.protocol.farewell(self.shared.settings.drain.mul_f64(fastrand::f64()))
            && self.socket.feed(Message::Text(frame.text)).await.is_err()
        {
            return;
        }
        finish(&mut self.socket, ending.close()).await;
        if ending.is_undecodable() {
            // Unread bytes would turn our close into a reset that overtakes the close frame.
            let raw = self.socket.get_mut();
            if raw.shutdown().await.is_ok() {
                let _ended = tokio::io::copy(raw, &mut tokio::io::sink()).await;
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>, timer: Pin<&mut Sleep>) -> Poll<Ending> {
        if let Some(unwritten) = self.sequencer.resume() {
            self.socket.get_mut().get_mut().finish(unwritten);
            self.dirty = true;
        }
        let polled = self.poll_all(context, timer);
        if polled.is_pending() && !self.dirty && !self.socket.get_ref().get_ref().is_clogged() {
            self.sequencer.rest();
        }
        polled
    }

    fn poll_all(&mut self, context: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<Ending> {
        loop {
            if self.sequencer.is_busy() {
                // Not listening says nothing about the peer.
                self.deadlines.heard();
                self.deadlines.message = None;
            } else if let Poll::Ready(ending) = self.poll_read(context) {
                return Poll::Ready(ending);
            }
            // Also with what was just begun, which may be over at once: nobody listens to the peer since.
            let was_busy = self.sequencer.is_busy();
            match self.deadlines.pass(Instant::now(), &self.shared.settings, &self.shared.wheel) {
                Due::Nothing => {}
                Due::Ping => self.pings = Pings::Both,
                Due::End(ending) => return Poll::Ready(ending),
            }
            if let Poll::Ready(ending) = self.poll_write(context) {
                return Poll::Ready(ending);
            }
            if was_busy && !self.sequencer.is_busy() {
                // What came in meanwhile has waited for this.
                continue;
            }
            let earliest = self.deadlines.earliest();
            if timer.deadline() != earliest {
                timer.as_mut().reset(earliest);
            }
            if timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Ending> {
        while !self.sequencer.is_busy() {
            let message = match self.socket.poll_next_unpin(context) {
                Poll::Pending => {
                    self.deadlines.wait_for_message(self.socket.get_ref().is_unfinished(), &self.shared.settings);
                    return Poll::Pending;
                }
                Poll::Ready(Some(Ok(message))) => message,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Ending::of(&error)),
                Poll::Ready(None) => return Poll::Ready(Ending::PeerClosed),
            };
            self.deadlines.heard();
            if matches!(message, Message::Close(_)) {
                return Poll::Ready(Ending::PeerClosed);
            }
            if self.messages.check().is_err() {
                return Poll::Ready(Ending::TooMany);
            }
            if matches!(message, Message::Text(_) | Message::Binary(_)) {
                self.deadlines.message = None;
            }
            let Message::Text(text) = message else { continue };
            match self.sequencer.receive(&text) {
                Received::Nothing => {}
                Received::Renewed(until) => self.deadlines.prolong(until.since(Timestamp::now())),
                Received::End(ending) => return Poll::Ready(ending),
            }
        }
        Poll::Pending
    }

    /// Feeds what there is, then flushes once. Pending when there is nothing left to write or the kernel takes no more.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Ending> {
        loop {
            if self.dirty {
                match self.socket.poll_flush_unpin(context) {
                    Poll::Pending => return self.sequencer.poll_stopped(context),
                    Poll::Ready(Err(_)) => return Poll::Ready(Ending::Lost),
                    Poll::Ready(Ok(())) => self.report(),
                }
            }
            for _ in 0..FEED_LIMIT {
                match self.socket.poll_ready_unpin(context) {
                    Poll::Pending => break,
                    Poll::Ready(Err(_)) => return Poll::Ready(Ending::Lost),
                    Poll::Ready(Ok(())) => {}
                }
                let message = match self.poll_message(context) {
                    Poll::Pending => break,
                    Poll::Ready(Err(ending)) => return Poll::Ready(ending),
                    Poll::Ready(Ok(message)) => message,
                };
                if self.socket.start_send_unpin(message).is_err() {
                    return Poll::Ready(Ending::Lost);
                }
                self.dirty = true;
            }
            // The answer to the upgrade goes out with the greeting, or alone where there is none.
            self.dirty |= self.socket.get_ref().get_ref().has_unwritten() && !self.sequencer.is_about_to_greet();
            if !self.dirty {
                return Poll::Pending;
            }
        }
    }

    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Result<Message, Ending>> {
        match std::mem::replace(&mut self.pings, Pings::None) {
            Pings::None => {}
            Pings::Both => {
                self.pings = Pings::Own;
                return Poll::Ready(Ok(Message::Ping(Bytes::new())));
            }
            Pings::Own => {
                if let Some(frame) = self.sequencer.ping() {
                    return Poll::Ready(Ok(Message::Text(frame.text)));
                }
            }
        }
        self.sequencer.poll_next(context).map(|next| {
            let frame = next?;
            self.unflushed.extend(frame.take_delivery());
            Ok(Message::Text(frame.text.clone()))
        })
    }

    fn report(&mut self) {
        self.dirty = false;
        for delivery in self.unflushed.drain(..) {
            self.shared.report(delivery);
        }
    }
}
