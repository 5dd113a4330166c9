//! Keeping a session alive: built again after whatever ended it, for ever, with one word per change of state.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::AmqpError;
use crate::{
    event::{Event, emit},
    model::Timestamp,
};

const FIRST_WAIT: Duration = Duration::from_millis(200);
/// A broker that is back is found within this time.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Between sessions that end over a message that cannot be read.
const UNREADABLE_WAIT: Duration = Duration::from_millis(5);
/// A session that lived this long was a good one: the next wait is short again.
const GOOD_SESSION: Duration = Duration::from_secs(30);

/// How one session with the broker is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct LinkStatus {
    pub connected: bool,
    pub since: Timestamp,
    /// The host we are connected to.
    pub host: Option<String>,
    /// Why not, when not connected.
    pub reason: Option<String>,
}

/// A session that is kept alive.
#[derive(Debug)]
pub struct Link {
    /// In logs and in the status: `jobs`, `events`.
    name: &'static str,
    status: watch::Sender<LinkStatus>,
}

impl Link {
    pub fn new(name: &'static str) -> Self {
        let status = LinkStatus { connected: false, since: Timestamp::now(), host: None, reason: None };
        Self { name, status: watch::Sender::new(status) }
    }

    pub fn status(&self) -> LinkStatus {
        self.status.borrow().clone()
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The session is there, and works.
    pub fn connected(&self, host: &str) {
        let changed = self.status.send_if_modified(|status| {
            let changed = !status.connected;
            *status = LinkStatus { connected: true, since: Timestamp::now(), host: Some(host.to_owned()), reason: None };
            changed
        });
        if changed {
            emit(&Event::BrokerConnected { link: self.name, host });
        }
    }

    /// Nothing is wrong with the broker, but we want nothing of it at the moment. Whose fault that is, is said elsewhere.
    pub fn paused(&self, reason: &str) {
        let since = Timestamp::now();
        self.status.send_replace(LinkStatus { connected: false, since, host: None, reason: Some(reason.to_owned()) });
    }

    /// The session is over. Said once: while it stays so, only when it now takes a person to mend.
    pub fn lost(&self, error: &AmqpError) {
        let reason = error.to_string();
        let changed = self.status.send_if_modified(|status| {
            let told = status.reason.is_some() && !status.connected;
            let news = !told || error.needs_a_person() && status.reason.as_ref() != Some(&reason);
            if status.connected || status.reason.is_none() {
                status.since = Timestamp::now();
            }
            (status.connected, status.host, status.reason) = (false, None, Some(reason.clone()));
            news
        });
        if changed {
            emit(&Event::BrokerLost { link: self.name, reason: &reason, needs_a_person: error.needs_a_person() });
        }
    }

    /// For whoever runs sessions one after the other, for ever.
    pub fn sessions(&self) -> Sessions<'_> {
        Sessions { link: self, wait: waits().build(), started: Instant::now() }
    }
}

/// The time between sessions: a little longer after each that failed.
#[derive(Debug)]
pub struct Sessions<'l> {
    link: &'l Link,
    wait: ExponentialBackoff,
    started: Instant,
}

impl Sessions<'_> {
    /// A session has ended. Resolves when the next may begin, or the daemon stops. Without an error the next is as good as the first.
    pub async fn ended(&mut self, ended: Result<(), AmqpError>, stop: &CancellationToken) {
        let is_good = ended.is_ok() || self.started.elapsed() >= GOOD_SESSION;
        if is_good {
            self.wait = waits().build();
        }
        if let (Err(error), false) = (&ended, stop.is_cancelled()) {
            self.link.lost(error);
        }
        let wait = match ended {
            // Each try takes the broker closer to giving the message up.
            Err(AmqpError::Unreadable { .. }) => UNREADABLE_WAIT,
            _ => self.wait.next().unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT),
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => {}
        }
        self.started = Instant::now();
    }
}

/// How long to wait after each failure in a row: without end, and not all at the same moment.
pub fn waits() -> ExponentialBuilder {
    ExponentialBuilder::new().with_min_delay(FIRST_WAIT).with_max_delay(LONGEST_WAIT).without_max_times().with_jitter()
}
