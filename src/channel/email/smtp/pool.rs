//! Sessions kept open for the next mail.
//!
//! A mail takes one out, or begins one, and puts it back: there are never more of them than mails under way at once.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::session::Session;

pub(super) struct Pool {
    capacity: usize,
    timeout: Duration,
    /// Goodbyes, which nobody waits for.
    farewells: TaskTracker,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    /// The one that has waited longest first.
    sessions: Vec<(Instant, Session)>,
    is_swept: bool,
}

impl Pool {
    pub fn new(capacity: usize, timeout: Duration) -> Arc<Self> {
        Arc::new(Self { capacity, timeout, farewells: TaskTracker::new(), idle: Mutex::default() })
    }

    /// The one used last: it is the least likely to have been closed meanwhile.
    pub fn take(&self) -> Option<Session> {
        let mut idle = self.idle();
        let is_fresh = idle.sessions.last().is_some_and(|(since, _)| since.elapsed() < self.timeout);
        if is_fresh { idle.sessions.pop().map(|(_, session)| session) } else { None }
    }

    pub fn give(self: &Arc<Self>, session: Session) {
        let mut idle = self.idle();
        if idle.sessions.len() >= self.capacity {
            drop(idle);
            self.farewells.spawn(session.quit());
            return;
        }
        idle.sessions.push((Instant::now(), session));
        if !std::mem::replace(&mut idle.is_swept, true) {
            self.farewells.spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Takes out what has waited too long, and says when to look again; never, when nothing is left.
    fn expired(&self) -> (Vec<Session>, Option<Instant>) {
        let mut idle = self.idle();
        let count = idle.sessions.partition_point(|(since, _)| since.elapsed() >= self.timeout);
        let expired = idle.sessions.drain(..count).map(|(_, session)| session).collect();
        let next = idle.sessions.first().map(|(since, _)| *since + self.timeout);
        idle.is_swept = next.is_some();
        (expired, next)
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends sessions that nobody needed in time, until there are none or the pool is gone.
async fn sweep(pool: Weak<Pool>) {
    while let Some(pool) = pool.upgrade() {
        let (expired, next) = pool.expired();
        for session in expired {
            pool.farewells.spawn(session.quit());
        }
        drop(pool);
        let Some(next) = next else { return };
        tokio::time::sleep_until(next).await;
    }
}
