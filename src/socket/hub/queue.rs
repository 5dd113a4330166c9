//! The bounded queue to one socket, and the short way past it for a socket that has nothing to do.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use tokio::net::tcp::OwnedWriteHalf;

use super::{
    super::{Ending, Identity, followed::Followed, session},
    Frame, Home, HubLimits,
};
use crate::model::{Stream, Topic, UserId};

/// Why a queue gives no more frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It was full, and what was in it is dropped.
    Overflowed,
    /// Somebody ended the connection.
    Closed(Ending),
}

/// The reading end of a socket's queue.
#[derive(Debug)]
pub struct FrameReceiver {
    pub(super) queue: Arc<SendQueue>,
}

impl FrameReceiver {
    /// The next frame. The task is woken for a new frame or the queue's end.
    pub fn poll_frame(&mut self, context: &Context<'_>) -> Poll<Result<Arc<Frame>, Stopped>> {
        let mut state = lock(&self.queue.state);
        if let Some(stopped) = state.stopped {
            return Poll::Ready(Err(stopped));
        }
        if let Some(frame) = state.frames.pop_front() {
            state.bytes -= frame.text.len();
            return Poll::Ready(Ok(frame));
        }
        state.wait(context, Interested::InFrames);
        Poll::Pending
    }

    /// For a session that cannot write now: the task is woken for the queue's end only, not for each frame that has to wait anyway.
    pub fn poll_stopped(&mut self, context: &Context<'_>) -> Poll<Stopped> {
        let mut state = lock(&self.queue.state);
        if let Some(stopped) = state.stopped {
            return Poll::Ready(stopped);
        }
        state.wait(context, Interested::InItsEnd);
        Poll::Pending
    }

    /// Takes frames again after an overflow, for a session that will read what it missed.
    pub fn begin_anew(&mut self) {
        let mut state = lock(&self.queue.state);
        state.stopped.take_if(|stopped| *stopped == Stopped::Overflowed);
    }

    /// The place of the first frame of `stream` that waits.
    pub(in super::super) fn first_of(&self, stream: &Stream) -> Option<i64> {
        let state = lock(&self.queue.state);
        let mut places = state.frames.iter().filter_map(|frame| frame.place.as_ref());
        places.find(|place| place.stream == *stream).map(|place| place.seq)
    }

    /// Whether the peer asked for more than the replaced system's frames.
    pub fn is_v1(&self) -> bool {
        self.queue.v1
    }

    /// From here on, while the session rests, frames may be written to `direct` by whoever publishes them.
    pub(in super::super) fn write_directly(&self, direct: Direct) {
        lock(&self.queue.state).direct = Some(direct);
    }

    /// Lets others write, unless there is something in the queue. `followed` is taken, and given back by [`Self::resume`].
    pub(in super::super) fn rest(&self, followed: &mut Vec<Followed>) {
        let mut state = lock(&self.queue.state);
        if state.direct.is_some() && state.stopped.is_none() && state.frames.is_empty() {
            state.resting = Some(Resting { followed: std::mem::take(followed), unwritten: None });
        }
    }

    /// Nobody else writes from here on. Says what is left of a frame that was written in part.
    pub(in super::super) fn resume(&self, followed: &mut Vec<Followed>) -> Option<Bytes> {
        let resting = lock(&self.queue.state).resting.take()?;
        *followed = resting.followed;
        resting.unwritten
    }

    /// Queues an answer of the session's own, under the same limits, so that a peer that asks and never reads is closed like any other.
    pub fn reply(&self, frame: Frame) {
        self.queue.push(&Arc::new(frame));
    }
}

/// A way to write to a socket beside its session.
#[derive(Debug)]
pub(in super::super) struct Direct {
    pub stream: Arc<OwnedWriteHalf>,
    /// Hears of deliveries that were written.
    pub shared: Arc<session::Shared>,
}

/// A session that has written everything and waits.
#[derive(Debug)]
struct Resting {
    followed: Vec<Followed>,
    /// The rest of what the kernel did not take whole.
    unwritten: Option<Bytes>,
}

#[derive(Debug)]
pub(super) struct SendQueue {
    bytes: usize,
    frames: usize,
    v1: bool,
    pub home: Home,
    pub user: UserId,
    pub state: Mutex<QueueState>,
}

#[derive(Debug)]
pub(super) struct QueueState {
    frames: VecDeque<Arc<Frame>>,
    bytes: usize,
    stopped: Option<Stopped>,
    waiting: Option<(Waker, Interested)>,
    direct: Option<Direct>,
    resting: Option<Resting>,
    pub identity: Identity,
    /// Beside everyone's.
    pub topics: Vec<Topic>,
    pub is_gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interested {
    InFrames,
    InItsEnd,
}

impl SendQueue {
    pub fn new(limits: &HubLimits, v1: bool, home: Home, identity: Identity) -> Self {
        let (bytes, frames) = (limits.send_queue_limit, limits.send_queue_frames);
        Self { bytes, frames, v1, home, user: identity.user_id.clone(), state: Mutex::new(QueueState::new(identity)) }
    }

    pub fn address(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }

    /// Writes `frames`, one after the other of one stream, at once if the session rests and it is their turn, and queues them otherwise.
    /// `wire` is all of them as they go over the wire.
    pub fn write(&self, frames: &[Arc<Frame>], wire: &Bytes) {
        if !lock(&self.state).write_now(frames, wire, self.v1) {
            for frame in frames {
                self.push(frame);
            }
        }
    }

    /// False when the frame is not for this one, or the queue is full or closed.
    pub fn push(&self, frame: &Arc<Frame>) -> bool {
        // What has a place has to be passed over by the session, in its turn.
        if (frame.v1_only && !self.v1 && frame.place.is_none()) || !frame.audience.includes(&self.user) {
            return false;
        }
        let mut state = lock(&self.state);
        if state.stopped.is_some() {
            return false;
        }
        let bytes = state.bytes + frame.text.len();
        let fits = state.frames.is_empty() || (bytes <= self.bytes && state.frames.len() < self.frames);
        if fits {
            state.frames.push_back(Arc::clone(frame));
            state.bytes = bytes;
        } else {
            state.stop(Stopped::Overflowed);
        }
        let wake = state.waiting.take_if(|(_, interested)| !fits || *interested == Interested::InFrames);
        drop(state);
        if let Some((waker, _)) = wake {
            waker.wake();
        }
        fits
    }

    pub fn close_if(&self, meant: impl Fn(&Identity) -> bool, ending: Ending) -> bool {
        let mut state = lock(&self.state);
        if !meant(&state.identity) || matches!(state.stopped, Some(Stopped::Closed(_))) {
            return false;
        }
        state.stop(Stopped::Closed(ending));
        let wake = state.waiting.take();
        drop(state);
        if let Some((waker, _)) = wake {
            waker.wake();
        }
        true
    }
}

impl QueueState {
    fn new(identity: Identity) -> Self {
        Self {
            frames: VecDeque::new(),
            bytes: 0,
            stopped: None,
            waiting: None,
            direct: None,
            resting: None,
            identity,
            topics: Vec::new(),
            is_gone: false,
        }
    }

    /// False when the frames have to be queued: nothing of them is written then.
    fn write_now(&mut self, frames: &[Arc<Frame>], wire: &Bytes, v1: bool) -> bool {
        let (Some(direct), Some(resting)) = (&self.direct, &mut self.resting) else { return false };
        if resting.unwritten.is_some()
            || !self.frames.is_empty()
            || self.stopped.is_some()
            || frames.iter().any(|frame| frame.v1_only && !v1)
        {
            return false;
        }
        let Some(followed) = resting.followed.iter_mut().find(|followed| followed.is_turn_of(frames)) else { return false };
        // The kernel may take nothing now; or never again, which the session finds out for itself.
        let Ok(written) = direct.stream.try_write(wire) else { return false };
        if let Some(place) = frames.last().and_then(|frame| frame.place.as_ref()) {
            followed.next = place.seq + 1;
        }
        for delivery in frames.iter().filter_map(|frame| frame.take_delivery()) {
            direct.shared.report(delivery);
        }
        if written < wire.len() {
            resting.unwritten = Some(wire.slice(written..));
            if let Some((waker, _)) = self.waiting.take() {
                waker.wake();
            }
        }
        true
    }

    /// Nothing is written any more. The stream may close as soon as its session lets go of it.
    pub fn leave(&mut self) -> Vec<Topic> {
        self.is_gone = true;
        (self.direct, self.resting) = (None, None);
        std::mem::take(&mut self.topics)
    }

    fn stop(&mut self, stopped: Stopped) {
        self.stopped = Some(stopped);
        self.frames = VecDeque::new();
        self.bytes = 0;
    }

    fn wait(&mut self, context: &Context<'_>, interested: Interested) {
        match &mut self.waiting {
            Some((waker, waiting_for)) => {
                waker.clone_from(context.waker());
                *waiting_for = interested;
            }
            None => self.waiting = Some((context.waker().clone(), interested)),
        }
    }
}

/// Nothing here panics while it holds a lock, so a poisoned one is still whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use governor::Quota;
    use tokio::{
        io::AsyncReadExt as _,
        net::{TcpListener, TcpSocket, TcpStream},
        sync::mpsc,
    };
    use tokio_util::{sync::CancellationToken, task::TaskTracker};

    use super::*;
    use crate::{
        model::{DeliveryKey, Place, Timestamp},
        socket::{SessionSettings, Sessions, hub::Hub},
    };

    const LIMITS: HubLimits = HubLimits {
        connections: 999,
        connections_per_user: 999,
        topics_per_connection: 2,
        send_queue_limit: 1 << 20,
        send_queue_frames: 4,
    };

    fn everyone() -> Stream {
        Stream::Topic(Topic::everyone())
    }

    fn item(seq: i64, size: usize) -> Arc<Frame> {
        let text = format!("{seq} {}", "x".repeat(size));
        Arc::new(Frame::item(text, Place { stream: everyone(), seq }, Some(DeliveryKey { job: seq, ordinal: 0 })))
    }

    fn wire(frames: &[Arc<Frame>]) -> Bytes {
        frames.iter().flat_map(|frame| frame.wire().to_vec()).collect()
    }

    /// A socket whose session is played by the test.
    struct Fixture {
        frames: FrameReceiver,
        followed: Vec<Followed>,
        peer: TcpStream,
        delivered: mpsc::Receiver<DeliveryKey>,
        _connection: super::super::ConnectionHandle,
    }

    impl Fixture {
        async fn new(hub: &Hub, v1: bool) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_recv_buffer_size(4096).unwrap();
            let peer = socket.connect(listener.local_addr().unwrap()).await.unwrap();
            let (ours, _) = listener.accept().await.unwrap();
            ours.writable().await.unwrap();
            let settings = SessionSettings {
                ping_interval: std::time::Duration::from_secs(25),
                pong_timeout: std::time::Duration::from_secs(10),
                close_timeout: std::time::Duration::from_secs(5),
                drain: std::time::Duration::from_secs(1),
                message_limit: 1024,
                messages: Quota::per_second(std::num::NonZeroU32::MIN),
            };
            let (reporting, delivered) = mpsc::channel(99);
            let sessions = Sessions::new(settings, reporting, Arc::default(), CancellationToken::new(), TaskTracker::new());
            let identity = Identity::of("42".parse().unwrap(), Timestamp::default());
            let (connection, frames) = hub.register(identity, v1, Home::Inbox).unwrap();
            // The reading half is as good as gone; without forgetting it nothing would be shut down.
            let (_, writing) = ours.into_split();
            frames.write_directly(Direct { stream: Arc::new(writing), shared: Arc::clone(sessions.shared()) });
            let followed = vec![Followed { stream: everyone(), next: 1, is_behind: false }];
            Self { frames, followed, peer, delivered, _connection: connection }
        }

        fn write(&self, frames: &[Arc<Frame>]) {
            self.frames.queue.write(frames, &wire(frames));
        }

        fn rest(&mut self) {
            self.frames.rest(&mut self.followed);
        }

        fn queued(&mut self) -> Vec<i64> {
            let mut queued = Vec::new();
            while let Poll::Ready(Ok(frame)) = self.frames.poll_frame(&Context::from_waker(Waker::noop())) {
                queued.push(frame.place.as_ref().unwrap().seq);
            }
            queued
        }

        async fn received(&mut self, count: usize) -> Vec<u8> {
            let mut received = vec![0; count];
            self.peer.read_exact(&mut received).await.unwrap();
            received
        }
    }

    #[tokio::test]
    async fn whoever_rests_is_written_to_and_told_of_it_when_it_goes_on() {
        let hub = Hub::new(LIMITS);
        let mut fixture = Fixture::new(&hub, false).await;
        fixture.write(&[item(1, 10)]);
        assert_eq!(fixture.queued(), [1], "a session at work takes its frames itself");
        fixture.followed[0].next = 2;
        fixture.rest();
        let batch = [item(2, 10), item(3, 200), item(4, 70_000)];
        let expected = wire(&batch[..2]);
        fixture.write(&batch[..2]);
        assert_eq!(fixture.received(expected.len()).await, expected);
        assert_eq!(fixture.frames.resume(&mut fixture.followed), None);
        assert_eq!(fixture.followed[0].next, 4);
        assert_eq!(fixture.queued(), [0; 0]);
        assert_eq!([fixture.delivered.try_recv().unwrap().job, fixture.delivered.try_recv().unwrap().job], [2, 3]);
    }

    #[tokio::test]
    async fn what_is_not_its_turn_is_queued() {
        let hub = Hub::new(LIMITS);
        let mut fixture = Fixture::new(&hub, false).await;
        let hint = Arc::new(Frame::hint(Place { stream: everyone(), seq: 1 }));
        let v1 = Arc::new(Frame::v1_item("x", Place { stream: everyone(), seq: 1 }));
        for (frames, queued) in
            [(vec![item(2, 1)], vec![2]), (vec![item(1, 1), item(3, 1)], vec![1, 3]), (vec![hint], vec![1]), (vec![v1], vec![1])]
        {
            fixture.rest();
            fixture.write(&frames);
            assert_eq!(fixture.frames.resume(&mut fixture.followed), None);
            assert_eq!(fixture.queued(), queued);
            assert_eq!(fixture.followed[0].next, 1);
        }
        fixture.peer.try_read(&mut [0; 1]).unwrap_err();
    }

    #[tokio::test]
    async fn what_the_kernel_took_in_part_is_finished_by_the_session() {
        let hub = Hub::new(LIMITS);
        let mut fixture = Fixture::new(&hub, false).await;
        assert!(fixture.frames.poll_frame(&Context::from_waker(Waker::noop())).is_pending());
        fixture.rest();
        let frame = item(1, 16 << 20);
        fixture.write(std::slice::from_ref(&frame));
        fixture.write(&[item(2, 1)]);
        let rest = fixture.frames.resume(&mut fixture.followed).expect("so much at once is beyond any buffer");
        assert!(!rest.is_empty() && frame.wire().ends_with(&rest));
        assert_eq!((fixture.followed[0].next, fixture.queued()), (2, vec![2]));
        let begun = fixture.received(frame.wire().len() - rest.len()).await;
        assert_eq!([begun, rest.to_vec()].concat(), *frame.wire());
    }

    #[tokio::test]
    async fn many_followers_get_everything_in_order_from_the_workers() {
        let hub = Hub::new(LIMITS);
        let stop = CancellationToken::new();
        let workers: Vec<_> = hub.fan_out(&stop).map(tokio::spawn).collect();
        let mut fixtures = Vec::new();
        for _ in 0..100 {
            fixtures.push(Fixture::new(&hub, true).await);
        }
        while hub.shared.fan_out.running.load(Relaxed) < workers.len() {
            tokio::task::yield_now().await;
        }
        fixtures.iter_mut().for_each(Fixture::rest);
        let batch: Vec<_> = (1..=3).map(|seq| item(seq, 100)).collect();
        for frame in &batch {
            assert_eq!(hub.publish(&everyone(), frame), 100);
        }
        let expected = wire(&batch);
        for fixture in &mut fixtures {
            assert_eq!(fixture.received(expected.len()).await, expected);
        }
        stop.cancel();
        for worker in workers {
            worker.await.unwrap();
        }
        // Nobody writes any more: queued, as for a few.
        assert_eq!(hub.publish(&everyone(), &item(4, 1)), 100);
        assert_eq!(fixtures[7].queued(), [4]);
    }

    #[tokio::test]
    async fn workers_that_are_behind_leave_the_rest_to_be_read() {
        let hub = Hub::new(LIMITS);
        let mut fixtures = Vec::new();
        for _ in 0..40 {
            fixtures.push(Fixture::new(&hub, true).await);
        }
        let stop = CancellationToken::new();
        for seq in 1..=9 {
            hub.shared.fan_out.push(&everyone(), &item(seq, 1));
        }
        stop.cancel();
        for worker in hub.fan_out(&stop) {
            worker.await;
        }
        assert_eq!(fixtures[0].queued(), [1, 2, 3, 9]);
    }
}
