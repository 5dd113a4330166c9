//! Who is connected to this process, and a bounded queue to each of them.
//!
//! A queue that is full is emptied and its session told, so that one slow reader costs nobody else anything. What frames say, and the
//! link to other processes, are not here.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use thiserror::Error;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::model::{DeliveryKey, UserId};

/// One text frame, encoded once however many sockets it goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Reference-counted, and known to be UTF-8 without checking again for each socket.
    pub text: Utf8Bytes,
    /// Reported as written once a socket has taken it.
    pub delivery: Option<DeliveryKey>,
}

impl Frame {
    pub fn new(text: impl Into<Utf8Bytes>) -> Self {
        Self { text: text.into(), delivery: None }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct HubLimits {
    /// Sockets in this process.
    pub connections: usize,
    pub connections_per_user: usize,
    /// Bytes of text one socket's queue may hold. A single larger frame passes when the queue is empty.
    pub send_queue_limit: usize,
    /// Frames one socket's queue may hold.
    pub send_queue_frames: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TooMany {
    #[error("too many connections of this user")]
    OfUser,
    #[error("too many connections")]
    InTotal,
}

/// The queue was full, and what was in it is dropped: the session must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the send queue overflowed")]
pub struct Overflowed;

/// Who is connected to this process. Clones are the same hub.
#[derive(Clone, Debug)]
pub struct Hub {
    limits: HubLimits,
    registry: Arc<Mutex<Registry>>,
}

#[derive(Debug, Default)]
struct Registry {
    users: HashMap<UserId, Vec<Arc<SendQueue>>>,
    connections: usize,
}

impl Hub {
    pub fn new(limits: HubLimits) -> Self {
        Self { limits, registry: Arc::default() }
    }

    /// From here on `user`'s frames are queued to the receiver, until the handle is dropped.
    pub fn register(&self, user: UserId) -> Result<(ConnectionHandle, FrameReceiver), TooMany> {
        let mut registry = lock(&self.registry);
        if registry.connections >= self.limits.connections {
            return Err(TooMany::InTotal);
        }
        let of_user = registry.users.get(&user).map_or(0, Vec::len);
        if of_user >= self.limits.connections_per_user {
            return Err(TooMany::OfUser);
        }
        let queue = Arc::new(SendQueue { limits: self.limits, state: Mutex::default() });
        registry.users.entry(user.clone()).or_default().push(Arc::clone(&queue));
        registry.connections += 1;
        drop(registry);
        let handle = ConnectionHandle { registry: Arc::clone(&self.registry), user, queue: Arc::clone(&queue) };
        Ok((handle, FrameReceiver { queue }))
    }

    /// Queues `frame` to every socket of `user` and says to how many. Never waits.
    pub fn publish(&self, user: &UserId, frame: &Arc<Frame>) -> usize {
        let registry = lock(&self.registry);
        registry.users.get(user).map_or(0, |queues| queues.iter().filter(|queue| queue.push(frame)).count())
    }

    /// Whether `user` has a socket here, so that nobody encodes a frame for nobody.
    pub fn is_connected(&self, user: &UserId) -> bool {
        lock(&self.registry).users.contains_key(user)
    }

    /// Sockets connected.
    pub fn connections(&self) -> usize {
        lock(&self.registry).connections
    }

    /// Users with at least one socket.
    pub fn users(&self) -> usize {
        lock(&self.registry).users.len()
    }
}

/// A socket's place in the hub, given up on drop.
#[derive(Debug)]
pub struct ConnectionHandle {
    registry: Arc<Mutex<Registry>>,
    user: UserId,
    queue: Arc<SendQueue>,
}

impl Drop for ConnectionHandle {
    fn drop(&mut self) {
        let mut registry = lock(&self.registry);
        if let Some(queues) = registry.users.get_mut(&self.user) {
            queues.retain(|queue| !Arc::ptr_eq(queue, &self.queue));
            if queues.is_empty() {
                registry.users.remove(&self.user);
            }
            registry.connections -= 1;
        }
    }
}

/// The reading end of a socket's queue.
#[derive(Debug)]
pub struct FrameReceiver {
    queue: Arc<SendQueue>,
}

impl FrameReceiver {
    /// The next frame. The task is woken for a new frame or an overflow.
    pub fn poll_frame(&mut self, context: &Context<'_>) -> Poll<Result<Arc<Frame>, Overflowed>> {
        let mut state = lock(&self.queue.state);
        if state.overflowed {
            return Poll::Ready(Err(Overflowed));
        }
        if let Some(frame) = state.frames.pop_front() {
            state.bytes -= frame.text.len();
            return Poll::Ready(Ok(frame));
        }
        state.wait(context, Interest::Frames);
        Poll::Pending
    }

    /// For a session that cannot write now: the task is woken for an overflow only, not for each frame that has to wait anyway.
    pub fn poll_overflow(&mut self, context: &Context<'_>) -> Poll<Overflowed> {
        let mut state = lock(&self.queue.state);
        if state.overflowed {
            return Poll::Ready(Overflowed);
        }
        state.wait(context, Interest::Overflow);
        Poll::Pending
    }

    /// Queues an answer of the session's own, under the same limits, so that a peer that asks and never reads is closed like any other.
    pub fn reply(&self, frame: Frame) {
        self.queue.push(&Arc::new(frame));
    }
}

#[derive(Debug)]
struct SendQueue {
    limits: HubLimits,
    state: Mutex<QueueState>,
}

#[derive(Debug, Default)]
struct QueueState {
    frames: VecDeque<Arc<Frame>>,
    bytes: usize,
    overflowed: bool,
    waiting: Option<(Waker, Interest)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interest {
    Frames,
    Overflow,
}

impl SendQueue {
    /// False when the queue is full, now or before.
    fn push(&self, frame: &Arc<Frame>) -> bool {
        let mut state = lock(&self.state);
        if state.overflowed {
            return false;
        }
        let bytes = state.bytes + frame.text.len();
        let fits = state.frames.is_empty() || (bytes <= self.limits.send_queue_limit && state.frames.len() < self.limits.send_queue_frames);
        if fits {
            state.frames.push_back(Arc::clone(frame));
            state.bytes = bytes;
        } else {
            state.overflowed = true;
            state.frames = VecDeque::new();
            state.bytes = 0;
        }
        let wake = state.waiting.take_if(|(_, interest)| !fits || *interest == Interest::Frames);
        drop(state);
        if let Some((waker, _)) = wake {
            waker.wake();
        }
        fits
    }
}

impl QueueState {
    fn wait(&mut self, context: &Context<'_>, interest: Interest) {
        match &mut self.waiting {
            Some((waker, waiting_for)) => {
                waker.clone_from(context.waker());
                *waiting_for = interest;
            }
            None => self.waiting = Some((context.waker().clone(), interest)),
        }
    }
}

/// Nothing here panics while it holds a lock, so a poisoned one is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
        task::Wake,
    };

    use super::*;

    const LIMITS: HubLimits = HubLimits { connections: 4, connections_per_user: 2, send_queue_limit: 10, send_queue_frames: 3 };

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn user(id: &str) -> UserId {
        id.parse().unwrap()
    }

    fn frame(text: &'static str) -> Arc<Frame> {
        Arc::new(Frame::new(text))
    }

    fn next(receiver: &mut FrameReceiver) -> Poll<Result<String, Overflowed>> {
        receiver.poll_frame(&Context::from_waker(Waker::noop())).map_ok(|frame| frame.text.to_string())
    }

    #[test]
    fn frames_go_to_every_socket_of_the_user_and_to_nobody_else() {
        let hub = Hub::new(LIMITS);
        let (_first_handle, mut first) = hub.register(user("1")).unwrap();
        let (_second_handle, mut second) = hub.register(user("1")).unwrap();
        let (_other_handle, mut other) = hub.register(user("2")).unwrap();
        assert_eq!(hub.publish(&user("1"), &frame("a")), 2);
        assert_eq!(hub.publish(&user("1"), &frame("b")), 2);
        assert_eq!(hub.publish(&user("3"), &frame("c")), 0);
        for receiver in [&mut first, &mut second] {
            assert_eq!(next(receiver), Poll::Ready(Ok("a".to_owned())));
            assert_eq!(next(receiver), Poll::Ready(Ok("b".to_owned())));
            assert_eq!(next(receiver), Poll::Pending);
        }
        assert_eq!(next(&mut other), Poll::Pending);
    }

    #[test]
    fn connections_are_counted_limited_and_given_up_on_drop() {
        let hub = Hub::new(LIMITS);
        let first = hub.register(user("1")).unwrap();
        let _second = hub.register(user("1")).unwrap();
        assert_eq!(hub.register(user("1")).unwrap_err(), TooMany::OfUser);
        let _third = hub.register(user("2")).unwrap();
        let fourth = hub.register(user("3")).unwrap();
        assert_eq!(hub.register(user("4")).unwrap_err(), TooMany::InTotal);
        assert_eq!((hub.connections(), hub.users()), (4, 3));
        drop(first);
        assert_eq!((hub.connections(), hub.users()), (3, 3));
        drop(fourth);
        assert_eq!((hub.connections(), hub.users()), (2, 2));
        assert!(hub.register(user("4")).is_ok());
    }

    #[track_caller]
    fn check_overflow(texts: &[&'static str], queued: &[bool]) {
        let hub = Hub::new(LIMITS);
        let (_handle, mut receiver) = hub.register(user("1")).unwrap();
        let took: Vec<bool> = texts.iter().map(|text| hub.publish(&user("1"), &frame(text)) == 1).collect();
        assert_eq!(took, queued, "{texts:?}");
        assert_eq!(next(&mut receiver) == Poll::Ready(Err(Overflowed)), queued.contains(&false), "{texts:?}");
    }

    #[test]
    fn a_queue_is_bounded_in_bytes_and_in_frames() {
        check_overflow(&["12345", "67890"], &[true, true]);
        check_overflow(&["12345", "678901", "2"], &[true, false, false]);
        check_overflow(&["1", "2", "3", "4"], &[true, true, true, false]);
        check_overflow(&["larger than the limit"], &[true]);
        check_overflow(&["larger than the limit", "1"], &[true, false]);
    }

    #[test]
    fn a_slow_socket_does_not_stop_another() {
        let hub = Hub::new(LIMITS);
        let (_slow_handle, mut slow) = hub.register(user("1")).unwrap();
        let (_fast_handle, mut fast) = hub.register(user("1")).unwrap();
        for expected in [2, 2, 1, 1] {
            assert_eq!(hub.publish(&user("1"), &frame("12345")), expected);
            assert_eq!(next(&mut fast), Poll::Ready(Ok("12345".to_owned())));
        }
        assert_eq!(next(&mut slow), Poll::Ready(Err(Overflowed)));
    }

    #[test]
    fn a_blocked_session_is_woken_by_overflow_only() {
        let hub = Hub::new(LIMITS);
        let (_handle, mut receiver) = hub.register(user("1")).unwrap();
        let count = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&count));
        assert!(receiver.poll_frame(&Context::from_waker(&waker)).is_pending());
        hub.publish(&user("1"), &frame("1"));
        assert_eq!(count.0.load(Relaxed), 1);
        assert!(receiver.poll_overflow(&Context::from_waker(&waker)).is_pending());
        hub.publish(&user("1"), &frame("2"));
        assert_eq!(count.0.load(Relaxed), 1);
        hub.publish(&user("1"), &frame("1234567890"));
        assert_eq!(count.0.load(Relaxed), 2);
        assert!(receiver.poll_overflow(&Context::from_waker(&waker)).is_ready());
    }
}
