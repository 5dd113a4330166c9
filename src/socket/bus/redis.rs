//! The link over Redis: one session after the other, for ever. A session subscribes to what sockets here follow, publishes what is
//! queued, and ends with the first error; whatever may have been missed in between is looked up in the store.

use std::{
    collections::HashSet,
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use indexmap::IndexSet;
use redis::{FromRedisValue as _, PushInfo, PushKind};
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        hub::{Frame, Hub, Interest},
        presence::{Presence, PresenceChange, Present, Seen},
    },
    BusCounters, BusStatus, Control, Controls,
    outgoing::{Message, Outgoing},
    recheck::Recheck,
    server::{BusError, Connection, SUBSCRIBE_BATCH, Server},
    share::Share,
    wire::{self, Channel, Decoded, Names},
};
use crate::{
    config::{BusConfig, RedisUrl},
    event::{Event, emit},
    model::{Stream, Timestamp},
    store::Store,
};

const FIRST_WAIT: Duration = Duration::from_millis(100);
/// A server that is back is found within this time, and what a connection attempt takes.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A session that lived this long was a good one: the next wait is short again.
const GOOD_SESSION: Duration = Duration::from_secs(30);
/// So that many who come at once are subscribed to together.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// A connection that is silent is asked for a sign of life.
const PULSE: Duration = Duration::from_secs(5);
/// Time for the last messages when the process ends.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Users and topics whose following changed, noted while there is a session; beyond it the session begins anew.
const NOTED_LIMIT: usize = 1_000_000;

pub(super) struct Link {
    /// A name of our own: what comes back to us is passed over.
    node: String,
    names: Names,
    server: Server,
    outgoing: Outgoing,
    noted: Noted,
    recheck: Recheck,
    presence: Presence,
    share: Share,
    controls: Controls,
    counters: Arc<BusCounters>,
    /// While there is a session.
    connection: Mutex<Option<Connection>>,
    status: Mutex<BusStatus>,
    leave_grace: Duration,
}

/// Streams whose following changed since they were last looked at. Noted only while a session wants to know.
#[derive(Default)]
struct Noted {
    streams: Mutex<Option<IndexSet<Stream>>>,
    changed: Notify,
}

impl Noted {
    fn note(&self, stream: Stream) {
        if let Some(streams) = &mut *self.lock()
            && streams.len() < NOTED_LIMIT
        {
            streams.insert(stream);
            self.changed.notify_one();
        }
    }

    fn set(&self, streams: Option<IndexSet<Stream>>) {
        *self.lock() = streams;
    }

    fn take(&self) -> IndexSet<Stream> {
        self.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Option<IndexSet<Stream>>> {
        lock(&self.streams)
    }
}

impl Link {
    pub fn new(url: &RedisUrl, config: &BusConfig, presence: &Presence, controls: &Controls, leave_grace: Duration) -> Self {
        let (node, names) = (uuid::Uuid::now_v7().simple().to_string(), Names::new(&config.prefix));
        let queue_limit = usize::try_from(config.queue_limit.as_u64()).unwrap_or(usize::MAX);
        Self {
            server: Server::new(url, config),
            outgoing: Outgoing::new(&node, queue_limit, config.hints_limit),
            noted: Noted::default(),
            recheck: Recheck::default(),
            presence: presence.clone(),
            share: Share::new(&node, &names, presence),
            controls: controls.clone(),
            counters: Arc::default(),
            connection: Mutex::default(),
            status: Mutex::new(BusStatus::new(url)),
            leave_grace,
            node,
            names,
        }
    }

    /// Takes note of who is followed here. Called under the hub's lock.
    pub fn note(&self, interest: Interest) {
        let (stream, is_followed) = match interest {
            // More of them change nothing.
            Interest::OfUser(user, connections @ 0..=1) => (Stream::User(user), connections > 0),
            Interest::In(stream, is_followed) => (stream, is_followed),
            Interest::OfUser(..) | Interest::Attending(..) => return,
        };
        self.recheck.note(&stream, is_followed);
        self.noted.note(stream);
    }

    /// Queues a frame for the other processes.
    pub fn publish(&self, stream: &Stream, frame: &Frame) {
        if let Some(place) = &frame.place {
            self.recheck.shown(stream, place.seq);
        }
        self.outgoing.push(Message::new(&self.node, Channel::Stream(stream.clone()), frame));
    }

    pub fn control(&self, control: &Control) {
        // Names of users and tokens are strings.
        let text = serde_json::to_string(control).unwrap_or_default();
        self.outgoing.push(Message::new(&self.node, Channel::Control, &Frame::new(text)));
    }

    pub async fn use_once(&self, key: &str, ttl: Duration) -> Result<bool, BusError> {
        let connection = self.connection().ok_or(BusError::Unavailable)?;
        connection.set_once(&self.names.once(key), ttl).await
    }

    /// What the other nodes know of somebody; nothing while they cannot be asked.
    pub async fn seen_elsewhere(&self, present: &Present) -> Seen {
        match self.connection() {
            Some(connection) => self.share.seen_elsewhere(&connection, present).await.unwrap_or_default(),
            None => Seen::default(),
        }
    }

    pub fn status(&self) -> BusStatus {
        let waiting = self.outgoing.waiting();
        BusStatus { waiting, ..lock(&self.status).clone() }
    }

    pub fn counters(&self) -> &BusCounters {
        &self.counters
    }

    /// Of the queue: what became a hint, and what was dropped.
    pub fn shortened(&self) -> (u64, u64) {
        (self.outgoing.hinted.load(Relaxed), self.outgoing.dropped.load(Relaxed))
    }

    /// Keeps a session until `stop`, and looks up in the store what it may have missed.
    pub async fn run(self: &Arc<Self>, hub: &Hub, store: &Store, recheck_interval: Duration, stop: &CancellationToken) {
        tokio::select! {
            () = self.recheck.run(hub, store, &self.counters, recheck_interval) => {}
            () = self.sessions(hub, stop) => {}
        }
    }

    async fn sessions(self: &Arc<Self>, hub: &Hub, stop: &CancellationToken) {
        let mut waits = waits();
        loop {
            let started = Instant::now();
            match self.session(hub, stop).await {
                Ok(()) => return,
                Err(error) => self.lost(&error),
            }
            if started.elapsed() >= GOOD_SESSION {
                waits = self::waits();
            }
            tokio::select! {
                () = sleep(waits.next().unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT)) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// One session, until something goes wrong or all is to end.
    async fn session(self: &Arc<Self>, hub: &Hub, stop: &CancellationToken) -> Result<(), BusError> {
        let lost = CancellationToken::new();
        let incoming = Incoming { link: self.clone(), hub: hub.clone(), lost: lost.clone(), leaving: Arc::default() };
        let leaving = incoming.leaving.clone();
        let on_push = Box::new(move |push| {
            incoming.take(push);
            Ok(())
        });
        let connection = tokio::select! {
            connected = self.server.connect(on_push) => connected?,
            () = stop.cancelled() => return Ok(()),
        };
        let _until_it_ends = Session { link: self };
        // What changes from here on is noted, so that nothing falls between the two.
        self.noted.set(Some(IndexSet::new()));
        let followed = hub.followed();
        let for_all = [Channel::Control, Channel::Presence].map(|channel| self.names.channel(&channel));
        connection.subscribe(&for_all).await?;
        let mut subscribed = HashSet::new();
        self.subscribe(&connection, &followed, &mut subscribed).await?;
        self.outgoing.restore();
        self.connected(&connection);
        let ended = tokio::select! {
            ended = self.publishing(&connection) => ended,
            ended = self.following(&connection, hub, subscribed, &leaving) => ended,
            ended = self.pulse(&connection) => ended,
            ended = self.share.keep(&connection, &self.outgoing) => ended,
            () = lost.cancelled() => Err(BusError::Lost),
            () = stop.cancelled() => {
                // What cannot be said in time is found by reading.
                let _ = timeout(LAST_WORDS, self.end(&connection)).await;
                return Ok(());
            }
        };
        ended.map(|never| match never {})
    }

    async fn publishing(&self, connection: &Connection) -> Result<Infallible, BusError> {
        loop {
            let batch = self.outgoing.batch().await;
            connection.publish(&self.names, &batch).await?;
            self.counters.published.fetch_add(self.outgoing.published() as u64, Relaxed);
        }
    }

    /// Subscribes to what is followed here, and to nothing else.
    async fn following(
        &self,
        connection: &Connection,
        hub: &Hub,
        mut subscribed: HashSet<Stream>,
        leaving: &AtomicI64,
    ) -> Result<Infallible, BusError> {
        loop {
            self.noted.changed.notified().await;
            sleep(DEBOUNCE).await;
            let noted = self.noted.take();
            if noted.len() >= NOTED_LIMIT {
                return Err(BusError::Full);
            }
            let (followed, others): (Vec<Stream>, Vec<Stream>) = noted.into_iter().partition(|stream| hub.is_followed(stream));
            let new: Vec<Stream> = followed.into_iter().filter(|stream| !subscribed.contains(stream)).collect();
            self.subscribe(connection, &new, &mut subscribed).await?;
            let old: Vec<Stream> = others.into_iter().filter(|stream| subscribed.remove(stream)).collect();
            for old in old.chunks(SUBSCRIBE_BATCH) {
                leaving.fetch_add(i64::try_from(old.len()).unwrap_or(i64::MAX), Relaxed);
                connection.unsubscribe(&self.channels(old)).await?;
            }
            self.counters.subscriptions.store(subscribed.len() as u64, Relaxed);
        }
    }

    async fn subscribe(&self, connection: &Connection, streams: &[Stream], subscribed: &mut HashSet<Stream>) -> Result<(), BusError> {
        for streams in streams.chunks(SUBSCRIBE_BATCH) {
            connection.subscribe(&self.channels(streams)).await?;
            subscribed.extend(streams.iter().cloned());
            self.counters.subscriptions.store(subscribed.len() as u64, Relaxed);
            // What was published between the follower's first look at the store and now was missed.
            self.recheck.soon(streams.iter().cloned());
        }
        Ok(())
    }

    fn channels(&self, streams: &[Stream]) -> Vec<String> {
        streams.iter().map(|stream| self.names.channel(&Channel::Stream(stream.clone()))).collect()
    }

    /// A connection over which nothing comes is one that nobody has to answer on: so somebody is asked.
    async fn pulse(&self, connection: &Connection) -> Result<Infallible, BusError> {
        let mut pulse = interval(PULSE);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            pulse.tick().await;
            connection.ping().await?;
        }
    }

    fn connected(&self, connection: &Connection) {
        *lock(&self.connection) = Some(connection.clone());
        self.presence.link(true);
        let is_first = self.counters.connected.fetch_add(1, Relaxed) == 0;
        if !is_first {
            // What others told meanwhile was told to nobody here.
            self.controls.tell(Control::Missed);
            self.presence.tell(PresenceChange::Missed);
        }
        let (url, sharded) = (self.server.url(), connection.is_sharded());
        lock(&self.status).connected(sharded);
        emit(&Event::BusConnected { url: &url, sharded });
    }

    fn lost(&self, error: &BusError) {
        let reason = error.to_string();
        let is_news = lock(&self.status).lost(&reason, error.needs_a_person());
        if is_news {
            emit(&Event::BusLost { reason: &reason, needs_a_person: error.needs_a_person() });
        }
    }

    /// What is still to be said when the process ends.
    async fn end(&self, connection: &Connection) -> Result<(), BusError> {
        self.outgoing.restore();
        while self.outgoing.waiting() > 0 {
            let batch = self.outgoing.batch().await;
            connection.publish(&self.names, &batch).await?;
            self.outgoing.published();
        }
        self.share.leave(connection, self.leave_grace).await
    }

    fn connection(&self) -> Option<Connection> {
        lock(&self.connection).clone()
    }
}

/// What is so only while there is a session.
struct Session<'l> {
    link: &'l Link,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        *lock(&self.link.connection) = None;
        self.link.noted.set(None);
        self.link.presence.link(false);
        self.link.counters.subscriptions.store(0, Relaxed);
    }
}

/// What comes over one connection, without being asked for.
struct Incoming {
    link: Arc<Link>,
    hub: Hub,
    lost: CancellationToken,
    /// Subscriptions we have given up, and have not been told so yet.
    leaving: Arc<AtomicI64>,
}

impl Incoming {
    fn take(&self, push: PushInfo) {
        match push.kind {
            PushKind::Message | PushKind::SMessage => self.message(push),
            // One that nobody asked for: its slot has moved to another node.
            PushKind::Unsubscribe | PushKind::SUnsubscribe if self.leaving.fetch_sub(1, Relaxed) <= 0 => self.lost.cancel(),
            PushKind::Disconnection => self.lost.cancel(),
            _ => {}
        }
    }

    fn message(&self, push: PushInfo) {
        let mut data = push.data.into_iter().map(Vec::<u8>::from_redis_value);
        let (Some(Ok(channel)), Some(Ok(message))) = (data.next(), data.next()) else { return };
        let link = &self.link;
        let Some(channel) = link.names.parse(&channel) else { return };
        let received = match wire::decode(&link.node, message) {
            Decoded::Received(received) => received,
            Decoded::Own => return,
            Decoded::Unknown => {
                link.counters.unreadable.fetch_add(1, Relaxed);
                return;
            }
        };
        link.counters.received.fetch_add(1, Relaxed);
        match channel {
            Channel::Stream(stream) => {
                let frame = received.into_frame(&stream);
                if let Some(place) = &frame.place {
                    link.recheck.shown(&stream, place.seq);
                }
                self.hub.publish(&stream, &Arc::new(frame));
            }
            // A control of a version that is newer than we are says nothing to us.
            Channel::Control => {
                if let Ok(control) = serde_json::from_str(&received.text) {
                    link.controls.tell(control);
                }
            }
            Channel::Presence => link.share.hear(&received.text),
        }
    }
}

/// How long to wait after each failure in a row: without end, and not all at the same moment.
fn waits() -> ExponentialBackoff {
    ExponentialBuilder::new().with_min_delay(FIRST_WAIT).with_max_delay(LONGEST_WAIT).without_max_times().with_jitter().build()
}

/// Nothing here panics while it holds a lock, so a poisoned one is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BusStatus {
    fn new(url: &RedisUrl) -> Self {
        Self { url: url.to_string(), connected: false, since: Timestamp::now(), sharded: false, reason: None, waiting: 0 }
    }

    fn connected(&mut self, sharded: bool) {
        (self.connected, self.since, self.sharded, self.reason) = (true, Timestamp::now(), sharded, None);
    }

    /// Whether that is news: said once while it stays so, and again only when it now takes a person to mend.
    fn lost(&mut self, reason: &str, needs_a_person: bool) -> bool {
        let was_known = !self.connected && self.reason.is_some();
        let is_news = !was_known || needs_a_person && self.reason.as_deref() != Some(reason);
        if !was_known {
            self.since = Timestamp::now();
        }
        (self.connected, self.reason) = (false, Some(reason.to_owned()));
        is_news
    }
}
