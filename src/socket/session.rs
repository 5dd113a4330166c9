//! One WebSocket connection: a single task that reads, writes, pings and ends it.
//!
//! A state machine that is polled as a whole, so that nothing is cancelled half-way: reading, deadlines and writing each go as far as
//! they can on every wake-up. What a frame says is the protocol's ([`Sessions::start`]'s `answer`), not the session's.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::response::Response;
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::AsyncWriteExt as _,
    sync::mpsc,
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Bytes, Error, Message, Utf8Bytes,
        error::ProtocolError,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    hub::{ConnectionHandle, Frame, FrameReceiver},
    upgrade::Handshake,
};
use crate::model::{DeliveryKey, Timestamp};

/// Allocated for every connection and zero-filled on every read (SOCKETS.md, section 3).
const READ_BUFFER_SIZE: usize = 4 * 1024;
/// Bytes gathered before they are handed to the kernel.
const WRITE_BUFFER_SIZE: usize = 4 * 1024;
/// A backstop. Feeding stops when the kernel takes no more, so the buffer holds [`WRITE_BUFFER_SIZE`] and one frame at most, and no
/// intake takes a job that makes a frame of this size.
const WRITE_BUFFER_LIMIT: usize = 16 * 1024 * 1024;
/// Largest message and frame taken from a client, in bytes.
const MESSAGE_LIMIT: usize = 64 * 1024;
/// Frames fed to the socket before they are flushed and reported.
const FEED_LIMIT: usize = 256;
/// A deadline further off than this is not kept; the timer's own range is limited.
const FARTHEST_DEADLINE: Duration = Duration::from_hours(365 * 24);

#[derive(Clone, Copy, Debug)]
pub struct SessionSettings {
    /// Between two pings. The first comes after a random part of it, so that sockets opened together do not ping together.
    pub ping_interval: Duration,
    /// From a ping until any frame has come in.
    pub pong_timeout: Duration,
    /// From our close, or the peer's, until the connection is dropped.
    pub close_timeout: Duration,
    /// At shutdown each socket is closed after a random part of it, so that they do not all come back at once.
    pub drain: Duration,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The peer closed it.
    PeerClosed,
    /// The connection broke.
    Lost,
    /// Nothing came in for a whole ping.
    Silent,
    /// It did not read what was queued for it.
    TooSlow,
    /// Its token expired.
    Expired,
    /// This process is shutting down.
    Restarting,
    /// It sent a message beyond the limit.
    TooLarge,
    /// It sent text that is not UTF-8.
    NotText,
    /// It broke the protocol in another way.
    Violation,
}

impl Ending {
    pub const ALL: [Self; 9] = [
        Self::PeerClosed,
        Self::Lost,
        Self::Silent,
        Self::TooSlow,
        Self::Expired,
        Self::Restarting,
        Self::TooLarge,
        Self::NotText,
        Self::Violation,
    ];

    /// A short word, fit for a label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PeerClosed => "peer_closed",
            Self::Lost => "lost",
            Self::Silent => "silent",
            Self::TooSlow => "too_slow",
            Self::Expired => "expired",
            Self::Restarting => "restarting",
            Self::TooLarge => "too_large",
            Self::NotText => "not_text",
            Self::Violation => "violation",
        }
    }

    /// What the peer is told (SOCKETS.md, section 2; RFC 6455, section 7.4.1).
    const fn close(self) -> Option<Close> {
        let (code, reason) = match self {
            Self::PeerClosed | Self::Lost => return None,
            Self::Silent => (1011, "no answer to ping"),
            Self::TooSlow => (4408, "too slow"),
            Self::Expired => (4401, "token expired"),
            Self::Restarting => (1012, "restarting"),
            Self::TooLarge => (1009, "message too large"),
            Self::NotText => (1007, "not UTF-8"),
            Self::Violation => (1002, "protocol violation"),
        };
        Some(Close { code, reason: Utf8Bytes::from_static(reason) })
    }

    fn of(error: &Error) -> Self {
        match error {
            Error::Capacity(_) => Self::TooLarge,
            Error::Utf8(_) => Self::NotText,
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Lost,
            Error::Protocol(_) => Self::Violation,
            _ => Self::Lost,
        }
    }

    /// We stopped understanding the peer, so the rest of what it sends is read and thrown away.
    const fn is_undecodable(self) -> bool {
        matches!(self, Self::TooLarge | Self::NotText | Self::Violation)
    }
}

/// A close code and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Close {
    pub code: u16,
    /// At most 123 bytes (RFC 6455, section 5.5).
    pub reason: Utf8Bytes,
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
}

/// Starts sessions, and holds what they share. Clones are the same.
#[derive(Clone, Debug)]
pub struct Sessions {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: SessionSettings,
    delivered: mpsc::Sender<DeliveryKey>,
    counters: Arc<SessionCounters>,
    shutdown: CancellationToken,
    tracker: TaskTracker,
}

impl Sessions {
    /// `delivered` hears of each frame with a delivery once a socket has taken it, once for every such socket; when it is full the
    /// report is dropped and counted.
    pub fn new(
        settings: SessionSettings,
        delivered: mpsc::Sender<DeliveryKey>,
        counters: Arc<SessionCounters>,
        shutdown: CancellationToken,
        tracker: TaskTracker,
    ) -> Self {
        Self { shared: Arc::new(Shared { settings, delivered, counters, shutdown, tracker }) }
    }

    pub fn settings(&self) -> &SessionSettings {
        &self.shared.settings
    }

    pub(super) fn counters(&self) -> &SessionCounters {
        &self.shared.counters
    }

    /// Answers the upgrade and runs the session behind it: `opening` first, then what the hub queues and what `answer` makes of each
    /// text that comes in.
    pub(super) fn start<H>(&self, handshake: Handshake, registration: Registration, opening: Option<Frame>, answer: H) -> Response
    where
        H: Fn(&str) -> Option<Frame> + Send + Unpin + 'static,
    {
        let response = handshake.response();
        let Handshake { upgrade, permit, .. } = handshake;
        let shared = Arc::clone(&self.shared);
        self.shared.tracker.spawn(async move {
            let _held_until_closed = permit;
            let Ok(upgraded) = upgrade.await else { return };
            shared.counters.opened.fetch_add(1, Relaxed);
            let socket = web_socket(upgraded).await;
            let deadlines = Deadlines::new(&shared.settings, registration.lifetime, Instant::now(), fastrand::f64());
            let Registration { connection, frames, .. } = registration;
            let session =
                Session { socket, frames, answer, opening, deadlines, shared, unflushed: Vec::new(), ping_due: false, dirty: false };
            session.run(connection).await;
        });
        response
    }

    /// Answers the upgrade only to close the socket with a code: browsers show a refused upgrade's status to nobody.
    pub(super) fn start_closed(&self, handshake: Handshake, close: Close) -> Response {
        let response = handshake.response();
        let Handshake { upgrade, permit, .. } = handshake;
        let shared = Arc::clone(&self.shared);
        self.shared.tracker.spawn(async move {
            let _held_until_closed = permit;
            let Ok(upgraded) = upgrade.await else { return };
            let mut socket = web_socket(upgraded).await;
            let _timed_out = timeout(shared.settings.close_timeout, finish(&mut socket, Some(close))).await;
        });
        response
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
    pub(super) fn new((connection, frames): (ConnectionHandle, FrameReceiver), expires_at: Timestamp, now: Timestamp) -> Self {
        Self { connection, frames, lifetime: expires_at.since(now) }
    }
}

type Socket = WebSocketStream<TokioIo<Upgraded>>;

async fn web_socket(upgraded: Upgraded) -> Socket {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_SIZE)
        .write_buffer_size(WRITE_BUFFER_SIZE)
        .max_write_buffer_size(WRITE_BUFFER_LIMIT)
        .max_message_size(Some(MESSAGE_LIMIT))
        .max_frame_size(Some(MESSAGE_LIMIT));
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await
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

struct Session<H> {
    socket: Socket,
    frames: FrameReceiver,
    answer: H,
    opening: Option<Frame>,
    deadlines: Deadlines,
    shared: Arc<Shared>,
    /// Deliveries fed to the socket and not flushed yet.
    unflushed: Vec<DeliveryKey>,
    ping_due: bool,
    /// Something was fed to the socket and not flushed yet.
    dirty: bool,
}

impl<H: Fn(&str) -> Option<Frame> + Unpin> Session<H> {
    async fn run(mut self, connection: ConnectionHandle) {
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
        shared.counters.ended[ending as usize].fetch_add(1, Relaxed);
        if ending != Ending::Lost {
            let _timed_out = timeout(shared.settings.close_timeout, self.close(ending)).await;
        }
    }

    async fn close(mut self, ending: Ending) {
        finish(&mut self.socket, ending.close()).await;
        if ending.is_undecodable() {
            // Unread bytes would turn our close into a reset that overtakes the close frame.
            let raw = self.socket.get_mut();
            if raw.shutdown().await.is_ok() {
                let _ended = tokio::io::copy(raw, &mut tokio::io::sink()).await;
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<Ending> {
        if let Poll::Ready(ending) = self.poll_read(context) {
            return Poll::Ready(ending);
        }
        loop {
            match self.deadlines.pass(Instant::now(), &self.shared.settings) {
                Due::Nothing => {}
                Due::Ping => self.ping_due = true,
                Due::End(ending) => return Poll::Ready(ending),
            }
            if let Poll::Ready(ending) = self.poll_write(context) {
                return Poll::Ready(ending);
            }
            let earliest = self.deadlines.earliest();
            if timer.deadline() != earliest {
                timer.as_mut().reset(earliest);
            }
            ready!(timer.as_mut().poll(context));
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Ending> {
        loop {
            let message = match ready!(self.socket.poll_next_unpin(context)) {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Poll::Ready(Ending::of(&error)),
                None => return Poll::Ready(Ending::PeerClosed),
            };
            self.deadlines.pong = None;
            match message {
                Message::Text(text) => {
                    if let Some(frame) = (self.answer)(&text) {
                        self.frames.reply(frame);
                    }
                }
                Message::Close(_) => return Poll::Ready(Ending::PeerClosed),
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    /// Feeds what there is, then flushes once. Pending when there is nothing left to write or the kernel takes no more.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Ending> {
        loop {
            if self.dirty {
                match self.socket.poll_flush_unpin(context) {
                    Poll::Pending => return self.frames.poll_overflow(context).map(|_overflowed| Ending::TooSlow),
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
            if !self.dirty {
                return Poll::Pending;
            }
        }
    }

    fn poll_message(&mut self, context: &Context<'_>) -> Poll<Result<Message, Ending>> {
        if let Some(frame) = self.opening.take() {
            return Poll::Ready(Ok(Message::Text(frame.text)));
        }
        if std::mem::take(&mut self.ping_due) {
            return Poll::Ready(Ok(Message::Ping(Bytes::new())));
        }
        self.frames.poll_frame(context).map(|next| {
            let frame = next.map_err(|_overflowed| Ending::TooSlow)?;
            self.unflushed.extend(frame.delivery);
            Ok(Message::Text(frame.text.clone()))
        })
    }

    fn report(&mut self) {
        self.dirty = false;
        for delivery in self.unflushed.drain(..) {
            if self.shared.delivered.try_send(delivery).is_err() {
                self.shared.counters.unreported.fetch_add(1, Relaxed);
            }
        }
    }
}

/// When a session must do something though nothing comes in.
#[derive(Debug)]
struct Deadlines {
    ping: Instant,
    /// Set while a ping is out and nothing has come in since.
    pong: Option<Instant>,
    expiry: Instant,
    /// Set once this process is shutting down.
    restart: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    Ping,
    End(Ending),
}

impl Deadlines {
    /// `phase` is in 0..1.
    fn new(settings: &SessionSettings, lifetime: Duration, now: Instant, phase: f64) -> Self {
        Self { ping: now + settings.ping_interval.mul_f64(phase), pong: None, expiry: now + lifetime.min(FARTHEST_DEADLINE), restart: None }
    }

    fn earliest(&self) -> Instant {
        [self.pong, self.restart].into_iter().flatten().fold(self.ping.min(self.expiry), Instant::min)
    }

    /// What is due at `now`; a ping that is due is moved on to the next.
    fn pass(&mut self, now: Instant, settings: &SessionSettings) -> Due {
        let passed = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if passed(Some(self.expiry)) {
            Due::End(Ending::Expired)
        } else if passed(self.restart) {
            Due::End(Ending::Restarting)
        } else if passed(self.pong) {
            Due::End(Ending::Silent)
        } else if passed(Some(self.ping)) {
            self.ping = now + settings.ping_interval;
            self.pong = self.pong.or(Some(now + settings.pong_timeout));
            Due::Ping
        } else {
            Due::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: SessionSettings = SessionSettings {
        ping_interval: Duration::from_secs(25),
        pong_timeout: Duration::from_secs(10),
        close_timeout: Duration::from_secs(5),
        drain: Duration::from_secs(10),
    };

    #[test]
    fn pings_come_in_intervals_and_silence_ends_the_session() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut deadlines = Deadlines::new(&SETTINGS, Duration::MAX, start, 0.2);
        assert_eq!(deadlines.earliest(), at(5));
        assert_eq!(deadlines.pass(at(4), &SETTINGS), Due::Nothing);
        assert_eq!(deadlines.pass(at(5), &SETTINGS), Due::Ping);
        assert_eq!(deadlines.earliest(), at(15));
        deadlines.pong = None;
        assert_eq!(deadlines.earliest(), at(30));
        assert_eq!(deadlines.pass(at(30), &SETTINGS), Due::Ping);
        assert_eq!(deadlines.pass(at(39), &SETTINGS), Due::Nothing);
        assert_eq!(deadlines.pass(at(40), &SETTINGS), Due::End(Ending::Silent));
    }

    #[test]
    fn expiry_goes_before_restart_and_restart_before_silence() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut deadlines = Deadlines::new(&SETTINGS, Duration::from_mins(1), start, 1.0);
        deadlines.pong = Some(at(50));
        deadlines.restart = Some(at(55));
        assert_eq!(deadlines.earliest(), at(25));
        assert_eq!(deadlines.pass(at(55), &SETTINGS), Due::End(Ending::Restarting));
        assert_eq!(deadlines.pass(at(60), &SETTINGS), Due::End(Ending::Expired));
    }

    #[test]
    fn endings_are_counted_each_on_its_own() {
        for (index, ending) in Ending::ALL.into_iter().enumerate() {
            assert_eq!(ending as usize, index, "{}", ending.as_str());
        }
    }
}
