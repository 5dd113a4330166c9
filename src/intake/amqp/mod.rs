//! Jobs over AMQP: a consumer of the queue `tarishi.jobs` that is kept alive, and the rejected queue for what is poison.
//!
//! A message is acknowledged only after its jobs are committed, or after the rejected queue has it. It is never requeued to wait: while
//! the store takes no jobs, nothing is consumed.

mod ledger;
mod message;
mod reject;
mod session;
mod window;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use self::{reject::Rejecter, session::Session};
use crate::{
    accept::Acceptor,
    amqp::{AmqpError, Broker, Link, LinkStatus},
    config::{AmqpConfig, IntakeConfig},
    store::Store,
};

/// How long the end of a session may wait for messages that are being rejected.
const FINISH_LIMIT: Duration = Duration::from_secs(5);

/// The consumer of jobs. Clones share it.
#[derive(Clone)]
pub struct AmqpIntake(Arc<Shared>);

/// What sessions share.
struct Shared {
    broker: Broker,
    link: Link,
    acceptor: Acceptor,
    store: Store,
    limits: Arc<IntakeConfig>,
    prefetch: u16,
    finish_limit: Duration,
    rejecter: Rejecter,
    /// Messages taken and not acknowledged.
    unacknowledged: AtomicUsize,
    /// A message that cannot be read is about: one at a time, so that no other is counted as delivered in vain with it. It comes to the
    /// broker's delivery limit, and so to the rejected queue.
    is_careful: AtomicBool,
    stop: CancellationToken,
}

/// What operators see of it.
#[derive(Clone, Debug, Serialize, schemars::JsonSchema)]
pub struct AmqpStatus {
    /// Without the password.
    pub url: String,
    #[serde(flatten)]
    pub link: LinkStatus,
    /// Messages taken and not acknowledged.
    pub unacknowledged: usize,
}

impl AmqpIntake {
    pub fn new(broker: Broker, acceptor: Acceptor, store: Store, amqp: &AmqpConfig, limits: IntakeConfig, stop: CancellationToken) -> Self {
        Self(Arc::new(Shared {
            link: Link::new("jobs"),
            rejecter: Rejecter::new(broker.clone()),
            broker,
            acceptor,
            store,
            limits: Arc::new(limits),
            prefetch: amqp.prefetch,
            finish_limit: FINISH_LIMIT.min(amqp.call_timeout),
            unacknowledged: AtomicUsize::new(0),
            is_careful: AtomicBool::new(false),
            stop,
        }))
    }

    /// Consumes until the daemon stops; then what has begun is finished and acknowledged.
    pub async fn run(self) {
        let shared = &self.0;
        let mut sessions = shared.link.sessions();
        while !shared.stop.is_cancelled() {
            let ended = shared.session().await;
            shared.unacknowledged(0);
            sessions.ended(ended, &shared.stop).await;
        }
        shared.rejecter.close().await;
    }

    pub fn status(&self) -> AmqpStatus {
        AmqpStatus { url: self.0.broker.url(), link: self.0.link.status(), unacknowledged: self.0.unacknowledged.load(Ordering::Relaxed) }
    }
}

impl Shared {
    /// One session, once the store takes jobs.
    async fn session(self: &Arc<Self>) -> Result<(), AmqpError> {
        if let Some(closed) = self.store.closed_to_jobs() {
            self.link.paused(closed.as_str());
            tokio::select! {
                _ = self.store.closed_to_jobs_changed(Some(closed)) => {}
                () = self.stop.cancelled() => {}
            }
            return Ok(());
        }
        let ended = async { Session::start(self).await?.run().await }.await;
        if matches!(ended, Err(AmqpError::Unreadable { .. })) {
            self.is_careful.store(true, Ordering::Relaxed);
        }
        ended
    }

    fn unacknowledged(&self, messages: usize) {
        self.unacknowledged.store(messages, Ordering::Relaxed);
    }
}
