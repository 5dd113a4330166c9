//! Who is connected to this process, what each of them follows, and a bounded queue to each.
//!
//! A queue that is full is emptied and its session told, so that one slow reader costs nobody else anything. What frames say, and the
//! link to other processes, are not here.

mod fan_out;
mod frame;
mod queue;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use indexmap::IndexMap;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

pub(super) use self::queue::Direct;
use self::{
    fan_out::FanOut,
    queue::{SendQueue, lock},
};
pub use self::{
    frame::{Audience, Frame},
    queue::{FrameReceiver, Stopped},
};
use super::{Ending, Identity};
use crate::model::{ConversationId, Stream, Topic, UserId};

#[derive(Clone, Copy, Debug)]
pub struct HubLimits {
    /// Sockets in this process.
    pub connections: usize,
    pub connections_per_user: usize,
    /// Topics one socket may follow, beside everyone's.
    pub topics_per_connection: usize,
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

/// Following one more topic would be beyond the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("too many topics on this connection")]
pub struct TooManyTopics;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// The user's own stream, and everyone's.
    Inbox,
    Conversation(ConversationId),
}

/// Who has sockets here from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interest {
    /// So many of a user, whatever they are for. Told at every change.
    OfUser(UserId, usize),
    /// A topic's or conversation's first follower begins, or the last ceases.
    In(Stream, bool),
    /// So many of a user in a conversation. Told at every change.
    Attending(ConversationId, UserId, usize),
}

/// Hears of every [`Interest`], in order, under the hub's lock: it must only take note.
pub type OnInterest = Box<dyn Fn(Interest) + Send + Sync>;

/// Who is connected to this process. Clones are the same hub.
#[derive(Clone)]
pub struct Hub {
    shared: Arc<Shared>,
}

struct Shared {
    limits: HubLimits,
    registry: Mutex<Registry>,
    fan_out: FanOut,
    on_interest: Option<OnInterest>,
}

#[derive(Default)]
struct Registry {
    users: HashMap<UserId, Vec<Arc<SendQueue>>>,
    /// Of topics and conversations.
    shared: HashMap<Stream, Followers>,
    connections: usize,
}

#[derive(Default)]
struct Followers {
    /// By the queue's address: a topic may have every connection, and each leaves in one step.
    queues: IndexMap<usize, Arc<SendQueue>>,
    /// The same for whoever writes to all of them without the lock, until the next change.
    snapshot: Option<Snapshot>,
}

type Snapshot = Arc<[Arc<SendQueue>]>;

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("connections", &self.connections()).finish_non_exhaustive()
    }
}

impl Hub {
    pub fn new(limits: HubLimits) -> Self {
        Self::with_interest(limits, None)
    }

    /// `on_interest` hears of the streams that have sockets here.
    pub fn with_interest(limits: HubLimits, on_interest: Option<OnInterest>) -> Self {
        Self { shared: Arc::new(Shared { limits, registry: Mutex::default(), fan_out: FanOut::new(&limits), on_interest }) }
    }

    /// From here on the frames of what `home` names are queued to the receiver, until the handle is dropped.
    pub fn register(&self, identity: Identity, v1: bool, home: Home) -> Result<(ConnectionHandle, FrameReceiver), TooMany> {
        let limits = &self.shared.limits;
        let mut registry = self.lock();
        if registry.connections >= limits.connections {
            return Err(TooMany::InTotal);
        }
        let user = identity.user_id.clone();
        let of_user = registry.users.get(&user).map_or(0, Vec::len);
        if of_user >= limits.connections_per_user {
            return Err(TooMany::OfUser);
        }
        let queue = Arc::new(SendQueue::new(limits, v1, home, identity));
        registry.users.entry(user.clone()).or_default().push(Arc::clone(&queue));
        registry.connections += 1;
        self.shared.tell(Interest::OfUser(user.clone(), of_user + 1));
        self.shared.follow(&mut registry, home.shared_stream(), &queue);
        self.shared.tell_attending(&registry, &queue);
        drop(registry);
        let handle = ConnectionHandle { subscriber: Subscriber { shared: Arc::clone(&self.shared), user, queue: Arc::clone(&queue) } };
        Ok((handle, FrameReceiver { queue }))
    }

    /// Queues `frame` to every socket that follows `stream` and says to how many. Never waits. What has many followers is left to
    /// [`Self::fan_out`], where that runs.
    pub fn publish(&self, stream: &Stream, frame: &Arc<Frame>) -> usize {
        let registry = self.lock();
        match stream {
            Stream::User(user) => registry.inboxes(user).filter(|queue| queue.push(frame)).count(),
            // Of one user's, however many follow.
            Stream::Conversation(id) if let Audience::Only(user) = &frame.audience => {
                let queues = registry.users.get(user).into_iter().flatten();
                queues.filter(|queue| queue.home == Home::Conversation(*id) && queue.push(frame)).count()
            }
            stream => {
                let Some(Followers { queues, .. }) = registry.shared.get(stream) else { return 0 };
                if self.shared.fan_out.takes(queues.len()) {
                    let followers = queues.len();
                    drop(registry);
                    self.shared.fan_out.push(stream, frame);
                    return followers;
                }
                queues.values().filter(|queue| queue.push(frame)).count()
            }
        }
    }

    /// What writes frames to the many followers of a stream: futures that are to run beside each other until `stop`.
    pub fn fan_out(&self, stop: &CancellationToken) -> impl Iterator<Item = impl Future<Output = ()> + Send + use<>> + use<> {
        fan_out::workers(self, stop)
    }

    fn followers(&self, stream: &Stream) -> Option<Snapshot> {
        let mut registry = self.lock();
        let Followers { queues, snapshot } = registry.shared.get_mut(stream)?;
        Some(snapshot.get_or_insert_with(|| queues.values().cloned().collect()).clone())
    }

    /// Whether anybody here follows `stream`, so that nobody encodes a frame for nobody.
    pub fn is_followed(&self, stream: &Stream) -> bool {
        let registry = self.lock();
        match stream {
            Stream::User(user) => registry.inboxes(user).next().is_some(),
            stream => registry.shared.contains_key(stream),
        }
    }

    /// Whose sockets here are in the conversation.
    pub fn attending(&self, conversation: ConversationId) -> Vec<UserId> {
        let registry = self.lock();
        let followers = registry.shared.get(&Stream::Conversation(conversation));
        let mut users: Vec<_> =
            followers.into_iter().flat_map(|followers| followers.queues.values()).map(|queue| queue.user.clone()).collect();
        users.sort_unstable();
        users.dedup();
        users
    }

    /// Every stream that has a socket here.
    pub fn followed(&self) -> Vec<Stream> {
        let registry = self.lock();
        registry.users.keys().cloned().map(Stream::User).chain(registry.shared.keys().cloned()).collect()
    }

    /// Ends the user's connections in a conversation; says how many.
    pub fn close_in(&self, conversation: ConversationId, user: &UserId, ending: Ending) -> usize {
        let queues = self.lock().users.get(user).cloned().unwrap_or_default();
        let in_it = queues.iter().filter(|queue| queue.home == Home::Conversation(conversation));
        in_it.filter(|queue| queue.close_if(|_| true, ending)).count()
    }

    /// Ends every connection whose identity is `meant`; says how many.
    pub fn close_where(&self, meant: impl Fn(&Identity) -> bool, ending: Ending) -> usize {
        let queues: Vec<_> = self.lock().users.values().flatten().cloned().collect();
        queues.iter().filter(|queue| queue.close_if(&meant, ending)).count()
    }

    /// Sockets connected.
    pub fn connections(&self) -> usize {
        self.lock().connections
    }

    /// Users with at least one socket.
    pub fn users(&self) -> usize {
        self.lock().users.len()
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        lock(&self.shared.registry)
    }
}

impl Home {
    /// What it follows beside the user's own stream.
    fn shared_stream(self) -> Stream {
        match self {
            Self::Inbox => Stream::Topic(Topic::everyone()),
            Self::Conversation(id) => Stream::Conversation(id),
        }
    }
}

impl Registry {
    fn inboxes(&self, user: &UserId) -> impl Iterator<Item = &Arc<SendQueue>> {
        self.users.get(user).into_iter().flatten().filter(|queue| queue.home == Home::Inbox)
    }
}

impl Shared {
    fn tell(&self, interest: Interest) {
        if let Some(on_interest) = &self.on_interest {
            on_interest(interest);
        }
    }

    /// How many connections of the same user are where `queue` is, or was.
    fn tell_attending(&self, registry: &Registry, queue: &SendQueue) {
        let Home::Conversation(conversation) = queue.home else { return };
        let of_user = registry.users.get(&queue.user).into_iter().flatten();
        let count = of_user.filter(|other| other.home == queue.home).count();
        self.tell(Interest::Attending(conversation, queue.user.clone(), count));
    }

    fn follow(&self, registry: &mut Registry, stream: Stream, queue: &Arc<SendQueue>) {
        let Followers { queues, snapshot } = registry.shared.entry(stream.clone()).or_default();
        let is_first = queues.is_empty();
        queues.insert(queue.address(), Arc::clone(queue));
        *snapshot = None;
        if is_first {
            self.tell(Interest::In(stream, true));
        }
    }

    fn unfollow(&self, registry: &mut Registry, stream: Stream, queue: &Arc<SendQueue>) {
        let Some(Followers { queues, snapshot }) = registry.shared.get_mut(&stream) else { return };
        queues.swap_remove(&queue.address());
        *snapshot = None;
        if queues.is_empty() {
            registry.shared.remove(&stream);
            self.tell(Interest::In(stream, false));
        }
    }
}

/// A socket's place in the hub, given up on drop.
#[derive(Debug)]
pub struct ConnectionHandle {
    subscriber: Subscriber,
}

impl ConnectionHandle {
    pub fn subscriber(&self) -> Subscriber {
        self.subscriber.clone()
    }
}

impl Drop for ConnectionHandle {
    fn drop(&mut self) {
        let Subscriber { shared, user, queue } = &self.subscriber;
        let mut registry = lock(&shared.registry);
        if let Some(queues) = registry.users.get_mut(user) {
            queues.retain(|other| !Arc::ptr_eq(other, queue));
            let left = queues.len();
            if left == 0 {
                registry.users.remove(user);
            }
            shared.tell(Interest::OfUser(user.clone(), left));
            registry.connections -= 1;
            shared.tell_attending(&registry, queue);
        }
        let topics = lock(&queue.state).leave();
        for stream in topics.into_iter().map(Stream::Topic).chain([queue.home.shared_stream()]) {
            shared.unfollow(&mut registry, stream, queue);
        }
    }
}

/// Lets a connection follow topics. Clones are of the same connection.
#[derive(Clone)]
pub struct Subscriber {
    shared: Arc<Shared>,
    user: UserId,
    queue: Arc<SendQueue>,
}

impl std::fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscriber").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Subscriber {
    /// From here on the topic's frames are queued to this connection. Nothing changes when they are already.
    pub fn follow(&self, topic: &Topic) -> Result<(), TooManyTopics> {
        let mut registry = lock(&self.shared.registry);
        let mut state = lock(&self.queue.state);
        if state.is_gone || *topic == Topic::everyone() || state.topics.contains(topic) {
            return Ok(());
        }
        if state.topics.len() >= self.shared.limits.topics_per_connection {
            return Err(TooManyTopics);
        }
        state.topics.push(topic.clone());
        drop(state);
        self.shared.follow(&mut registry, Stream::Topic(topic.clone()), &self.queue);
        Ok(())
    }

    pub fn unfollow(&self, topic: &Topic) {
        let mut registry = lock(&self.shared.registry);
        let mut state = lock(&self.queue.state);
        let before = state.topics.len();
        state.topics.retain(|other| other != topic);
        let was_followed = state.topics.len() < before;
        drop(state);
        if was_followed {
            self.shared.unfollow(&mut registry, Stream::Topic(topic.clone()), &self.queue);
        }
    }

    /// The topics followed, beside everyone's.
    pub fn topics(&self) -> Vec<Topic> {
        lock(&self.queue.state).topics.clone()
    }

    /// Who the connection is from now on: the same user, with another token.
    pub fn renew(&self, identity: Identity) {
        lock(&self.queue.state).identity = identity;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
        task::{Context, Poll, Wake, Waker},
    };

    use super::*;
    use crate::model::{DeliveryKey, Place, Timestamp};

    const LIMITS: HubLimits =
        HubLimits { connections: 4, connections_per_user: 2, topics_per_connection: 2, send_queue_limit: 10, send_queue_frames: 3 };

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn identity(id: &str) -> Identity {
        Identity::of(id.parse().unwrap(), Timestamp::default())
    }

    fn user(id: &str) -> Stream {
        Stream::User(id.parse().unwrap())
    }

    fn topic(name: &str) -> Topic {
        name.parse().unwrap()
    }

    fn frame(text: &'static str) -> Arc<Frame> {
        Arc::new(Frame::new(text))
    }

    fn next(receiver: &mut FrameReceiver) -> Poll<Result<String, Stopped>> {
        receiver.poll_frame(&Context::from_waker(Waker::noop())).map_ok(|frame| frame.text.to_string())
    }

    #[test]
    fn frames_go_to_every_socket_of_the_user_and_to_nobody_else() {
        let hub = Hub::new(LIMITS);
        let (_first_handle, mut first) = hub.register(identity("1"), false, Home::Inbox).unwrap();
        let (_second_handle, mut second) = hub.register(identity("1"), true, Home::Inbox).unwrap();
        let (_other_handle, mut other) = hub.register(identity("2"), true, Home::Inbox).unwrap();
        assert_eq!(hub.publish(&user("1"), &frame("a")), 2);
        assert_eq!(hub.publish(&user("1"), &Arc::new(Frame::v1("b"))), 1);
        assert_eq!(hub.publish(&user("3"), &frame("c")), 0);
        assert_eq!(next(&mut first), Poll::Ready(Ok("a".to_owned())));
        assert_eq!(next(&mut first), Poll::Pending);
        assert_eq!(next(&mut second), Poll::Ready(Ok("a".to_owned())));
        assert_eq!(next(&mut second), Poll::Ready(Ok("b".to_owned())));
        assert_eq!(next(&mut other), Poll::Pending);
    }

    #[test]
    fn a_topic_reaches_its_followers_and_the_star_everyone() {
        let hub = Hub::new(LIMITS);
        let (first_handle, mut first) = hub.register(identity("1"), false, Home::Inbox).unwrap();
        let (_second_handle, mut second) = hub.register(identity("2"), false, Home::Inbox).unwrap();
        let dar = Stream::Topic(topic("city.dar"));
        assert_eq!(hub.publish(&dar, &frame("a")), 0);
        first_handle.subscriber().follow(&topic("city.dar")).unwrap();
        first_handle.subscriber().follow(&topic("city.dar")).unwrap();
        assert_eq!(hub.publish(&dar, &frame("b")), 1);
        assert_eq!(hub.publish(&Stream::Topic(Topic::everyone()), &frame("c")), 2);
        assert_eq!(next(&mut first), Poll::Ready(Ok("b".to_owned())));
        assert_eq!(next(&mut first), Poll::Ready(Ok("c".to_owned())));
        assert_eq!(next(&mut second), Poll::Ready(Ok("c".to_owned())));
        first_handle.subscriber().follow(&topic("city.arusha")).unwrap();
        assert_eq!(first_handle.subscriber().follow(&topic("city.mwanza")), Err(TooManyTopics));
        first_handle.subscriber().unfollow(&topic("city.arusha"));
        assert_eq!(first_handle.subscriber().follow(&topic("city.mwanza")), Ok(()));
        let late = first_handle.subscriber();
        drop(first_handle);
        assert!(!hub.is_followed(&dar));
        late.follow(&topic("city.dar")).unwrap();
        assert!(!hub.is_followed(&dar), "nobody is left to follow it");
    }

    #[test]
    fn interest_is_told_as_it_changes() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let note = told.clone();
        let on_interest: OnInterest = Box::new(move |interest| note.lock().unwrap().push(interest));
        let hub = Hub::with_interest(LIMITS, Some(on_interest));
        let everyone = Stream::Topic(Topic::everyone());
        let first = hub.register(identity("1"), false, Home::Inbox).unwrap();
        let second = hub.register(identity("1"), false, Home::Inbox).unwrap();
        second.0.subscriber().follow(&topic("a")).unwrap();
        drop(first);
        let mut followed = hub.followed();
        followed.sort();
        assert_eq!(followed, [user("1"), everyone.clone(), Stream::Topic(topic("a"))]);
        drop(second);
        let (a, told) = (Stream::Topic(topic("a")), told.lock().unwrap());
        let of_user = |count| Interest::OfUser("1".parse().unwrap(), count);
        let begun = [of_user(1), Interest::In(everyone.clone(), true), of_user(2), Interest::In(a.clone(), true)];
        let ended = [of_user(1), of_user(0), Interest::In(a, false), Interest::In(everyone, false)];
        assert_eq!(*told, [begun, ended].concat());
    }

    #[test]
    fn who_is_in_a_conversation_hears_of_that_alone() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let note = told.clone();
        let on_interest: OnInterest = Box::new(move |interest| note.lock().unwrap().push(interest));
        let hub = Hub::with_interest(LIMITS, Some(on_interest));
        let (id, one, two): (_, UserId, UserId) = (ConversationId(7), "1".parse().unwrap(), "2".parse().unwrap());
        let (asha, mut of_asha) = hub.register(identity("1"), true, Home::Conversation(id)).unwrap();
        let (_juma, mut of_juma) = hub.register(identity("2"), false, Home::Conversation(id)).unwrap();
        let chat = Stream::Conversation(id);
        assert!(!hub.is_followed(&user("1")) && hub.is_followed(&chat));
        assert_eq!(hub.publish(&user("1"), &frame("a")) + hub.publish(&Stream::Topic(Topic::everyone()), &frame("b")), 0);
        assert_eq!(hub.publish(&chat, &Arc::new(Frame::new("c").to(Audience::Except(one.clone())))), 1);
        assert_eq!(hub.publish(&chat, &Arc::new(Frame::new("d").to(Audience::Only(one.clone())))), 1);
        assert_eq!(hub.publish(&chat, &Arc::new(Frame::v1("e"))), 1);
        let place = Place { stream: chat.clone(), seq: 1 };
        assert_eq!(hub.publish(&chat, &Arc::new(Frame::v1_item("f", place))), 2, "its place is everybody's");
        let all = |receiver: &mut FrameReceiver| {
            std::iter::from_fn(|| if let Poll::Ready(Ok(text)) = next(receiver) { Some(text) } else { None }).collect::<String>()
        };
        assert_eq!((all(&mut of_asha), all(&mut of_juma)), ("def".to_owned(), "cf".to_owned()));
        assert_eq!(hub.attending(id), [one.clone(), two.clone()]);
        drop(asha);
        assert_eq!(
            (hub.attending(id), hub.close_in(id, &one, Ending::Revoked), hub.close_in(id, &two, Ending::Revoked)),
            (vec![two.clone()], 0, 1)
        );
        let came = [Interest::OfUser(one.clone(), 1), Interest::In(chat, true), Interest::Attending(id, one.clone(), 1)];
        let more = [
            Interest::OfUser(two.clone(), 1),
            Interest::Attending(id, two, 1),
            Interest::OfUser(one.clone(), 0),
            Interest::Attending(id, one, 0),
        ];
        assert_eq!(*told.lock().unwrap(), [&came[..], &more[..]].concat());
    }

    #[test]
    fn connections_are_counted_limited_and_given_up_on_drop() {
        let hub = Hub::new(LIMITS);
        let register = |id: &str| hub.register(identity(id), false, Home::Inbox);
        let first = register("1").unwrap();
        let _second = register("1").unwrap();
        assert_eq!(register("1").unwrap_err(), TooMany::OfUser);
        let _third = register("2").unwrap();
        let fourth = register("3").unwrap();
        assert_eq!(register("4").unwrap_err(), TooMany::InTotal);
        assert_eq!((hub.connections(), hub.users()), (4, 3));
        drop(first);
        assert_eq!((hub.connections(), hub.users()), (3, 3));
        drop(fourth);
        assert_eq!((hub.connections(), hub.users()), (2, 2));
        assert!(register("4").is_ok());
    }

    #[track_caller]
    fn check_overflow(texts: &[&'static str], queued: &[bool]) {
        let hub = Hub::new(LIMITS);
        let (_handle, mut receiver) = hub.register(identity("1"), false, Home::Inbox).unwrap();
        let took: Vec<bool> = texts.iter().map(|text| hub.publish(&user("1"), &frame(text)) == 1).collect();
        assert_eq!(took, queued, "{texts:?}");
        let overflowed = queued.contains(&false);
        assert_eq!(next(&mut receiver) == Poll::Ready(Err(Stopped::Overflowed)), overflowed, "{texts:?}");
        receiver.begin_anew();
        assert_eq!(hub.publish(&user("1"), &frame("")), 1, "{texts:?}");
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
        let (_slow_handle, mut slow) = hub.register(identity("1"), false, Home::Inbox).unwrap();
        let (_fast_handle, mut fast) = hub.register(identity("1"), false, Home::Inbox).unwrap();
        for expected in [2, 2, 1, 1] {
            assert_eq!(hub.publish(&user("1"), &frame("12345")), expected);
            assert_eq!(next(&mut fast), Poll::Ready(Ok("12345".to_owned())));
        }
        assert_eq!(next(&mut slow), Poll::Ready(Err(Stopped::Overflowed)));
    }

    #[test]
    fn a_blocked_session_is_woken_by_the_end_only() {
        let hub = Hub::new(LIMITS);
        let (_handle, mut receiver) = hub.register(identity("1"), false, Home::Inbox).unwrap();
        let count = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&count));
        assert!(receiver.poll_frame(&Context::from_waker(&waker)).is_pending());
        hub.publish(&user("1"), &frame("1"));
        assert_eq!(count.0.load(Relaxed), 1);
        assert!(receiver.poll_stopped(&Context::from_waker(&waker)).is_pending());
        hub.publish(&user("1"), &frame("2"));
        assert_eq!(count.0.load(Relaxed), 1);
        hub.publish(&user("1"), &frame("1234567890"));
        assert_eq!(count.0.load(Relaxed), 2);
        assert!(receiver.poll_stopped(&Context::from_waker(&waker)).is_ready());
    }

    #[test]
    fn connections_are_ended_by_who_they_are() {
        let hub = Hub::new(LIMITS);
        let (one_handle, mut one) = hub.register(identity("1"), false, Home::Inbox).unwrap();
        let (_other_handle, mut other) = hub.register(identity("2"), false, Home::Inbox).unwrap();
        one_handle.subscriber().renew(Identity { jti: Some("new".to_owned()), ..identity("1") });
        assert_eq!(hub.close_where(|identity| identity.jti.as_deref() == Some("old"), Ending::Revoked), 0);
        assert_eq!(hub.close_where(|identity| identity.jti.as_deref() == Some("new"), Ending::Revoked), 1);
        assert_eq!(hub.close_where(|identity| identity.jti.is_some(), Ending::Revoked), 0, "closed already");
        assert_eq!(next(&mut one), Poll::Ready(Err(Stopped::Closed(Ending::Revoked))));
        one.begin_anew();
        assert_eq!(next(&mut one), Poll::Ready(Err(Stopped::Closed(Ending::Revoked))));
        assert_eq!(next(&mut other), Poll::Pending);
    }

    #[test]
    fn a_delivery_is_reported_once_however_many_take_it() {
        let key = DeliveryKey { job: 7, ordinal: 0 };
        let place = Place { stream: user("1"), seq: 1 };
        let frame = Frame::item("x", place, Some(key));
        assert_eq!([frame.take_delivery(), frame.take_delivery()], [Some(key), None]);
    }
}
