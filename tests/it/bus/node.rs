//! A node of the tests: a bus with its hub, over a store that all nodes of a fixture share; and who follows streams there.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tarishi::{
    config::{self, BusConfig, Sources},
    model::{Channel, Place, Stream, Timestamp},
    socket::{Bus, ConnectionHandle, Frame, FrameReceiver, Home, HubLimits, Identity, Subscriber},
    store::{Placement, Store},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    fixture::{Offer, Sqlite, TestStore, first},
    support::{PATIENCE, install_cryptography, until},
};

/// So that what is to be seen is seen soon.
pub const GRACE: Duration = Duration::from_millis(100);
const LIMITS: HubLimits = HubLimits {
    connections: 100_000,
    connections_per_user: 100,
    topics_per_connection: 100,
    send_queue_limit: 1 << 30,
    send_queue_frames: 1_000_000,
};

pub fn user(id: &str) -> Stream {
    Stream::User(id.parse().unwrap())
}

/// `[bus]` with these keys.
pub fn bus_config(keys: &[(&str, &str)]) -> BusConfig {
    let call_timeout = [("bus.call_timeout", "1s"), ("bus.connect_timeout", "1s")];
    let keys = call_timeout.iter().chain(keys);
    let overrides = keys.map(|(key, value)| ((*key).to_owned(), toml::Value::String((*value).to_owned()))).collect();
    config::load(&Sources { overrides, ..Sources::default() }).unwrap().bus
}

pub struct Fixture {
    store: TestStore<Sqlite>,
    /// Within which everything followed is looked up.
    pub interval: Duration,
    items: AtomicU32,
}

impl Fixture {
    pub fn new() -> Self {
        install_cryptography();
        // So long that nothing heals by it before a test is over.
        Self { store: TestStore::fresh(), interval: Duration::from_hours(1), items: AtomicU32::new(0) }
    }

    pub fn store(&self) -> Store {
        self.store.clone()
    }

    /// A node that is connected.
    pub async fn node(&self, url: &str) -> Node {
        let node = self.start(&bus_config(&[("bus.url", url)]));
        node.linked().await;
        node
    }

    pub fn start(&self, config: &BusConfig) -> Node {
        let bus = Bus::open(config, LIMITS, GRACE);
        let stop = CancellationToken::new();
        let running = tokio::spawn(bus.clone().run(self.store(), self.interval, stop.clone()));
        Node { bus, stop, running, store: self.store() }
    }

    /// Puts one more item into a user's inbox; its seq. Nobody is told.
    pub async fn store_item(&self, user: &str) -> i64 {
        let id = format!("item-{}", self.items.fetch_add(1, Ordering::Relaxed));
        let offer = Offer::new(&id).to(Channel::Live, user).placed(Placement::Leased);
        let key = first(self.store.take(offer.build()).await);
        self.store.live(key, user, None).await.unwrap().seq
    }
}

/// Dropped, it is gone without a word.
pub struct Node {
    pub bus: Bus,
    stop: CancellationToken,
    running: JoinHandle<()>,
    store: Store,
}

impl Node {
    pub async fn linked(&self) {
        until("the bus is connected", async || self.bus.status().unwrap().connected.then_some(())).await;
    }

    pub async fn unlinked(&self) {
        until("the bus is lost", async || (!self.bus.status().unwrap().connected).then_some(())).await;
    }

    /// Sessions with the server, the one that lasts included.
    pub fn sessions(&self) -> u64 {
        self.bus.counters().unwrap().0.connected.load(Ordering::Relaxed)
    }

    pub fn register(&self, user: &str, v1: bool) -> (ConnectionHandle, FrameReceiver) {
        self.bus.hub().register(Identity::of(user.parse().unwrap(), Timestamp::now()), v1, Home::Inbox).unwrap()
    }

    /// A connection of `user`, which reads what it is not told.
    pub fn follow(&self, user: &str) -> Follower {
        Follower::over(self.register(user, true), self.store.clone())
    }

    /// Shows an item, as who stored it does.
    pub fn publish_item(&self, id: &str, seq: i64) {
        let place = Place { stream: user(id), seq };
        self.bus.publish(&user(id), &Arc::new(Frame::item(format!("item {seq}"), place, None)));
    }

    /// Ends it as a daemon ends.
    pub async fn end(mut self) {
        self.stop.cancel();
        (&mut self.running).await.unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// One connection and how far it has come, in its user's stream.
pub struct Follower {
    handle: ConnectionHandle,
    frames: FrameReceiver,
    store: Store,
    reached: i64,
}

impl Follower {
    pub fn of(registered: (ConnectionHandle, FrameReceiver), fixture: &Fixture) -> Self {
        Self::over(registered, fixture.store())
    }

    fn over((handle, frames): (ConnectionHandle, FrameReceiver), store: Store) -> Self {
        Self { handle, frames, store, reached: 0 }
    }

    pub fn subscriber(&self) -> Subscriber {
        self.handle.subscriber()
    }

    async fn next(&mut self) -> Arc<Frame> {
        let next = poll_fn(|context| self.frames.poll_frame(context));
        tokio::time::timeout(PATIENCE, next).await.expect("a frame in time").unwrap()
    }

    /// The text of the next frame that has one, as it comes.
    pub async fn raw(&mut self) -> String {
        loop {
            let frame = self.next().await;
            if !frame.is_hint() {
                return frame.text.to_string();
            }
        }
    }

    /// Reads on as a session does, gaps from the store, until it has come to `seq`; nothing twice and nothing left out.
    pub async fn up_to(&mut self, seq: i64) {
        while self.reached < seq {
            let frame = self.next().await;
            let Some(place) = frame.place.clone() else { continue };
            if place.seq == self.reached + 1 && !frame.is_hint() {
                self.reached += 1;
            } else if place.seq > self.reached {
                self.reached = self.store.stream_since(place.stream, self.reached, 10_000).await.unwrap().through;
            }
        }
        assert_eq!(self.reached, seq);
    }

    #[track_caller]
    pub fn expect_nothing(&mut self) {
        let context = Context::from_waker(Waker::noop());
        while let Poll::Ready(frame) = self.frames.poll_frame(&context) {
            let frame = frame.unwrap();
            assert!(frame.is_hint(), "{frame:?}");
        }
    }
}
