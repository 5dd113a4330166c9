//! The way to every hub that may have somebody for a frame: this process's own, and by way of the link those of the others.
//!
//! Only ever a hint: the store is the truth, and whoever misses a frame finds the gap and reads. What frames mean is not known here.

mod once;
mod outgoing;
mod recheck;
mod redis;
mod server;
mod share;
mod wire;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

pub use self::server::BusError;
use self::{once::UsedKeys, redis::Link};
use super::{
    hub::{Frame, Hub, HubLimits, Interest},
    presence::{Presence, PresenceChanges, Present, Seen},
};
use crate::{
    config::{BusConfig, BusUrl},
    model::{ConversationId, Revocation, Stream, Timestamp, UserId},
    store::Store,
};

/// Controls kept for a reader that is behind; then it is told that it missed some.
const CONTROLS: usize = 4096;

/// What concerns every process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Control {
    /// These tokens are not good any more: their connections are to be closed.
    Revoked(Revocation),
    /// Who takes part in this conversation has changed; the connections of who is gone are to be closed.
    MembershipChanged { conversation: ConversationId, gone: Option<UserId> },
    /// What others said for a while was not heard. Only ever heard, never sent.
    #[serde(skip)]
    Missed,
}

/// Tells controls to whoever listens in this process.
#[derive(Clone, Debug)]
struct Controls(broadcast::Sender<Control>);

impl Controls {
    fn tell(&self, control: Control) {
        // Nobody listens, perhaps.
        let _ = self.0.send(control);
    }
}

/// Reads controls as they come.
#[derive(Debug)]
pub struct ControlReceiver(broadcast::Receiver<Control>);

impl ControlReceiver {
    /// The next; `None` when the process ends.
    pub async fn next(&mut self) -> Option<Control> {
        match self.0.recv().await {
            Ok(control) => Some(control),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Control::Missed),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// How the link is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct BusStatus {
    /// Without the password.
    pub url: String,
    pub connected: bool,
    pub since: Timestamp,
    /// With sharded pub/sub.
    pub sharded: bool,
    /// Why not, when not connected.
    pub reason: Option<String>,
    /// Messages and hints that wait to be published.
    pub waiting: usize,
}

/// What went over the link, from the start of the process.
#[derive(Debug, Default)]
pub struct BusCounters {
    pub published: AtomicU64,
    /// From others.
    pub received: AtomicU64,
    /// Of no version that we know.
    pub unreadable: AtomicU64,
    /// Streams that were found to be further than had been told.
    pub healed: AtomicU64,
    /// Sessions, the first included.
    pub connected: AtomicU64,
    /// Users, topics and conversations subscribed to now.
    pub subscriptions: AtomicU64,
}

/// Shows frames to whoever follows their stream, wherever they are connected. Clones are the same bus.
#[derive(Clone)]
pub struct Bus {
    hub: Hub,
    presence: Presence,
    controls: Controls,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Memory(Arc<UsedKeys>),
    Redis(Arc<Link>),
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus").field("hub", &self.hub).field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Bus {
    /// For one process, over a hub of the caller's. Who is online is not known.
    pub fn memory(hub: Hub) -> Self {
        let controls = Controls(broadcast::Sender::new(CONTROLS));
        Self { hub, presence: Presence::new(Duration::ZERO, false), controls, kind: Kind::Memory(Arc::default()) }
    }

    /// As configured, with a hub of its own. Nothing is connected before [`Self::run`].
    pub fn open(config: &BusConfig, limits: HubLimits, presence_grace: Duration) -> Self {
        let presence = Presence::new(presence_grace, config.url != BusUrl::Memory);
        let controls = Controls(broadcast::Sender::new(CONTROLS));
        let kind = match &config.url {
            BusUrl::Memory => Kind::Memory(Arc::default()),
            BusUrl::Redis(url) => Kind::Redis(Arc::new(Link::new(url, config, &presence, &controls, presence_grace))),
        };
        let (noted, link) = (presence.clone(), kind.clone());
        let on_interest = move |interest: Interest| {
            match &interest {
                Interest::OfUser(user, connections) => noted.note(&Present::Online(user.clone()), *connections),
                Interest::Attending(conversation, user, connections) => {
                    noted.note(&Present::In(*conversation, user.clone()), *connections);
                }
                Interest::In(..) => {}
            }
            if let Kind::Redis(link) = &link {
                link.note(interest);
            }
        };
        Self { hub: Hub::with_interest(limits, Some(Box::new(on_interest))), presence, controls, kind }
    }

    /// Does what has to be done beside the callers: the link, grace times, and looking up within `recheck_interval` whether the link told
    /// everything. Ends with `stop`, once the last messages are out.
    pub async fn run(self, store: Store, recheck_interval: Duration, stop: CancellationToken) {
        let linked = async {
            match &self.kind {
                Kind::Memory(_) => stop.cancelled().await,
                // In rounds of half of it: who comes in the middle of one waits for the end of the next.
                Kind::Redis(link) => link.run(&self.hub, &store, recheck_interval / 2, &stop).await,
            }
        };
        tokio::select! {
            () = linked => {}
            () = self.presence.run() => {}
        }
    }

    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Whether anybody may follow `stream`, so that nobody encodes a frame for nobody.
    pub fn is_followed(&self, stream: &Stream) -> bool {
        matches!(self.kind, Kind::Redis(_)) || self.hub.is_followed(stream)
    }

    /// Queues `frame` to whoever follows `stream`; says to how many sockets of this process. Never waits.
    pub fn publish(&self, stream: &Stream, frame: &Arc<Frame>) -> usize {
        if let Kind::Redis(link) = &self.kind {
            link.publish(stream, frame);
        }
        self.hub.publish(stream, frame)
    }

    /// Tells every process, this one too. Never waits.
    pub fn control(&self, control: Control) {
        if let Kind::Redis(link) = &self.kind {
            link.control(&control);
        }
        self.controls.tell(control);
    }

    /// Controls from now on.
    pub fn controls(&self) -> ControlReceiver {
        ControlReceiver(self.controls.0.subscribe())
    }

    /// Whether it is more than this process that [`Self::use_once`] asks and remembers for.
    pub fn is_shared(&self) -> bool {
        matches!(self.kind, Kind::Redis(_))
    }

    /// Whether this is the first use of `key` within `ttl`, over all processes.
    ///
    /// # Errors
    /// Nobody can say: the key must then not be taken for good.
    pub async fn use_once(&self, key: &str, ttl: Duration) -> Result<bool, BusError> {
        match &self.kind {
            Kind::Memory(used) => used.use_once(key, ttl, Instant::now()).ok_or(BusError::Full),
            Kind::Redis(link) => link.use_once(key, ttl).await,
        }
    }

    /// Whether somebody is there, over all processes that can be asked.
    pub async fn presence(&self, present: &Present) -> Seen {
        let here = self.presence.here(present);
        let elsewhere = match &self.kind {
            Kind::Memory(_) => Seen::default(),
            Kind::Redis(link) => link.seen_elsewhere(present).await,
        };
        Seen { online: here.online || elsewhere.online, connections: here.connections + elsewhere.connections }
    }

    /// Who comes and goes from now on, over all processes.
    pub fn presence_changes(&self) -> PresenceChanges {
        self.presence.changes()
    }

    /// `None` for one process alone.
    pub fn status(&self) -> Option<BusStatus> {
        match &self.kind {
            Kind::Memory(_) => None,
            Kind::Redis(link) => Some(link.status()),
        }
    }

    /// What went over the link, and of what it had no room for, how much became hints and how much was dropped. `None` for one process alone.
    pub fn counters(&self) -> Option<(&BusCounters, u64, u64)> {
        match &self.kind {
            Kind::Memory(_) => None,
            Kind::Redis(link) => {
                let (hinted, dropped) = link.shortened();
                Some((link.counters(), hinted, dropped))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Revoked;

    #[test]
    fn controls_have_one_form() {
        // Golden: nodes of different versions run side by side during an upgrade.
        let revocation = Revocation {
            id: 7,
            what: Revoked::Jti("a-b".to_owned()),
            reason: None,
            revoked_by: "backend".to_owned(),
            revoked_at: "2026-01-15T10:30:00Z".parse().unwrap(),
        };
        let json = r#"{"type":"revoked","id":7,"jti":"a-b","reason":null,"revoked_by":"backend","revoked_at":"2026-01-15T10:30:00Z"}"#;
        let control = Control::Revoked(revocation);
        assert_eq!(serde_json::to_string(&control).unwrap(), json);
        assert_eq!(serde_json::from_str::<Control>(json).unwrap(), control);
        let json = r#"{"type":"membership_changed","conversation":7,"gone":"42"}"#;
        let control = Control::MembershipChanged { conversation: ConversationId(7), gone: Some("42".parse().unwrap()) };
        assert_eq!(serde_json::to_string(&control).unwrap(), json);
        assert_eq!(serde_json::from_str::<Control>(json).unwrap(), control);
        assert!(serde_json::from_str::<Control>(r#"{"type":"missed"}"#).is_err());
        assert!(serde_json::from_str::<Control>(r#"{"type":"later"}"#).is_err());
    }

    #[tokio::test]
    async fn one_process_hears_itself() {
        let limits =
            HubLimits { connections: 4, connections_per_user: 2, topics_per_connection: 2, send_queue_limit: 10, send_queue_frames: 3 };
        let bus = Bus::memory(Hub::new(limits));
        let mut controls = bus.controls();
        let control = Control::Revoked(Revocation {
            id: 1,
            what: Revoked::Jti("a".to_owned()),
            reason: None,
            revoked_by: "backend".to_owned(),
            revoked_at: Timestamp::default(),
        });
        bus.control(control.clone());
        assert_eq!(controls.next().await, Some(control.clone()));
        for _ in 0..=CONTROLS {
            bus.control(control.clone());
        }
        assert_eq!(controls.next().await, Some(Control::Missed));
        assert!(bus.use_once("ticket", Duration::from_secs(30)).await.unwrap());
        assert!(!bus.use_once("ticket", Duration::from_secs(30)).await.unwrap());
        assert!(bus.status().is_none());
    }
}
