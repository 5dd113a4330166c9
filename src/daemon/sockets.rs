//! The sockets: who is connected, how they are told, and how they are sent away.

use std::sync::{Arc, Mutex, PoisonError};

use governor::Quota;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{authentication, background};
use anyhow::anyhow;

use crate::{
    accept::Acceptor,
    chat::{self, Chat},
    config::Config,
    live::{Live, LiveSettings},
    model::DeliveryKey,
    socket::{Authenticator, Bus, Gate, HubLimits, SessionCounters, SessionSettings, Sessions},
    store::Store,
};

/// Live deliveries written to sockets that wait to be marked so; past it they stay `sent` until seen.
const DELIVERED_QUEUE: usize = 16_384;

pub(super) struct Sockets {
    pub bus: Bus,
    pub counters: Arc<SessionCounters>,
    sessions: Sessions,
    delivered: Mutex<Option<mpsc::Receiver<DeliveryKey>>>,
    /// What runs beside the chat, until it does.
    beside_chat: Mutex<Option<chat::Background>>,
    close: CancellationToken,
    tracker: TaskTracker,
    /// The bus ends, after everything that has something to tell.
    stop_bus: CancellationToken,
    /// What marks deliveries that sockets have taken, and its end: nothing takes any more.
    marking: TaskTracker,
    stop_marking: CancellationToken,
}

impl Sockets {
    pub(super) fn new(config: &Config) -> Self {
        let (close, tracker, counters) = (CancellationToken::new(), TaskTracker::new(), Arc::<SessionCounters>::default());
        let (reporting, delivered) = mpsc::channel(DELIVERED_QUEUE);
        let settings = SessionSettings {
            ping_interval: config.socket.ping_interval,
            pong_timeout: config.socket.pong_timeout,
            close_timeout: config.socket.close_timeout,
            drain: config.shutdown.drain / 2,
            message_limit: usize::try_from(config.socket.message_limit.as_u64()).unwrap_or(usize::MAX),
            messages: Quota::per_second(config.socket.messages_per_second).allow_burst(config.socket.messages_burst),
        };
        let sessions = Sessions::new(settings, reporting, counters.clone(), close.clone(), tracker.clone());
        let limits = HubLimits {
            connections: config.public.max_connections,
            connections_per_user: config.public.max_connections_per_user,
            topics_per_connection: config.live.topics_per_connection,
            send_queue_limit: usize::try_from(config.public.send_queue_limit.as_u64()).unwrap_or(usize::MAX),
            send_queue_frames: config.socket.send_queue_frames,
        };
        let bus = Bus::open(&config.bus, limits, config.socket.presence_grace);
        Self {
            bus,
            counters,
            sessions,
            delivered: Mutex::new(Some(delivered)),
            beside_chat: Mutex::default(),
            close,
            tracker,
            stop_bus: CancellationToken::new(),
            marking: TaskTracker::new(),
            stop_marking: CancellationToken::new(),
        }
    }

    /// Keeps the bus running, and its hub and what is beside the chat, until every socket is closed.
    pub(super) fn run_bus(&self, config: &Config, store: &Store, acceptor: &Acceptor, tracker: &TaskTracker) {
        tracker.spawn(self.bus.clone().run(store.clone(), config.socket.ping_interval, self.stop_bus.clone()));
        for worker in self.bus.hub().fan_out(&self.stop_bus) {
            tracker.spawn(worker);
        }
        if let Some(beside_chat) = self.beside_chat.lock().unwrap_or_else(PoisonError::into_inner).take() {
            tracker.spawn(beside_chat.notices(acceptor.clone(), self.stop_bus.clone()));
            tracker.spawn(beside_chat.run(self.stop_bus.clone()));
        }
    }

    /// The chat, where there is one.
    ///
    /// # Errors
    /// Its keys or its hook cannot be used.
    pub(super) fn open_chat(
        &self,
        config: &Config,
        store: &Store,
        authenticator: &Arc<Authenticator>,
    ) -> anyhow::Result<Option<Arc<Chat>>> {
        if !config.chat.is_on() {
            return Ok(None);
        }
        let (store, gate) = (store.clone(), self.gate(config, authenticator));
        let opened = chat::open(store, self.bus.clone(), gate, authenticator.clone(), config.chat.clone());
        let (chat, beside) = opened.map_err(|problem| anyhow!(problem))?;
        *self.beside_chat.lock().unwrap_or_else(PoisonError::into_inner) = Some(beside);
        Ok(Some(chat))
    }

    fn gate(&self, config: &Config, authenticator: &Arc<Authenticator>) -> Gate {
        let origins = authentication::origins(&config.public);
        Gate::new(authenticator.clone(), origins, self.bus.hub().clone(), self.sessions.clone())
    }

    /// Marks the deliveries that sockets take, until [`Self::marked`].
    pub(super) fn run_marking(&self, store: &Store) {
        if let Some(delivered) = self.delivered.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.marking.spawn(background::mark_delivered(store.clone(), delivered, self.stop_marking.clone()));
        }
    }

    /// Resolves when whatever sockets had taken is marked. Only once none of them takes any more.
    pub(super) async fn marked(&self) {
        self.stop_marking.cancel();
        self.marking.close();
        self.marking.wait().await;
    }

    /// The live notifications.
    pub(super) fn live(&self, config: &Config, store: &Store, authenticator: &Arc<Authenticator>) -> Arc<Live> {
        Arc::new(Live {
            store: store.clone(),
            bus: self.bus.clone(),
            gate: self.gate(config, authenticator),
            authenticator: authenticator.clone(),
            settings: LiveSettings {
                ping_interval: config.socket.ping_interval,
                replay_limit: config.live.replay_limit,
                public_topics: config.live.public_topics.clone(),
            },
        })
    }

    /// Tells every socket to come back later, and opens no more.
    pub(super) fn close(&self) {
        self.close.cancel();
        self.tracker.close();
    }

    /// Resolves when every socket is closed. Only after [`Self::close`].
    pub(super) async fn closed(&self) {
        self.tracker.wait().await;
        self.stop_bus.cancel();
    }
}
