//! The outbox of events: what the broker is told of, written in the commit that makes it true, and kept until it has been told.
//!
//! Publishing is somebody else's; [`super::pending`] is what they read. When events are off, nothing here costs more than a branch.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use rusqlite::{Connection, OptionalExtension, Params, params};
use tokio::sync::watch;

use super::{Store, tx::Tx};
use crate::{
    config::WhenFull,
    model::{Code, DeliveryKey, Status, StatusSet},
};

/// Which events are kept for the broker, and how many.
#[derive(Clone, Debug)]
pub struct EventSettings {
    /// Statuses that deliveries' events are written for.
    pub statuses: StatusSet,
    /// Events kept while the broker is away, at least 1.
    pub limit: u64,
    pub when_full: WhenFull,
}

/// Why no job is taken at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosedToJobs {
    /// The last write failed.
    Unwritable,
    /// As many events are pending as may be, and none may be dropped.
    EventsFull,
}

impl ClosedToJobs {
    /// For operators.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unwritable => "the store cannot be written",
            Self::EventsFull => "the broker has not taken our events for too long: amqp.events.limit is reached",
        }
    }
}

/// What a pending event is about; part of the stored format, never renumbered.
pub(super) mod kind {
    pub const DELIVERY: i64 = 0;
    pub const JOB_FINISHED: i64 = 1;
    pub const ADDRESS_GONE: i64 = 2;
}

/// The pending events, as the last commit left them.
#[derive(Debug)]
pub(super) struct EventLog {
    settings: Option<EventSettings>,
    pending: AtomicU64,
    dropped: AtomicI64,
    /// The highest sequence number committed.
    written: watch::Sender<i64>,
    /// Whether their number keeps jobs out.
    full: watch::Sender<bool>,
}

/// What one commit does to the pending events.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EventSums {
    inserted: u64,
    /// Those dropped included.
    removed: u64,
    dropped: i64,
    /// The last one inserted.
    last_seq: i64,
}

impl Store {
    /// The highest sequence number of an event committed; set after each commit that wrote some. What was found at open, or 0, before.
    pub fn events_written(&self) -> watch::Receiver<i64> {
        self.events.written.subscribe()
    }

    /// Events the broker has yet to be told.
    pub fn events_pending(&self) -> u64 {
        self.events.pending.load(Ordering::Relaxed)
    }

    /// Events the broker will never be told: dropped at the limit, or left over when events were switched off.
    pub fn events_dropped(&self) -> i64 {
        self.events.dropped.load(Ordering::Relaxed)
    }

    /// Why no job is taken at the moment; `None` when they are.
    pub fn closed_to_jobs(&self) -> Option<ClosedToJobs> {
        if !self.is_writable() {
            Some(ClosedToJobs::Unwritable)
        } else if self.events.is_full() {
            Some(ClosedToJobs::EventsFull)
        } else {
            None
        }
    }

    /// Resolves with [`Self::closed_to_jobs`] when it is no longer `was`.
    pub async fn closed_to_jobs_changed(&self, was: Option<ClosedToJobs>) -> Option<ClosedToJobs> {
        let (mut failure, mut full) = (self.writer.failures(), self.events.full.subscribe());
        loop {
            let now = self.closed_to_jobs();
            if now != was {
                return now;
            }
            // Both senders live as long as this store.
            tokio::select! {
                _ = failure.changed() => {}
                _ = full.changed() => {}
            }
        }
    }
}

impl EventLog {
    /// Reads what is pending. Without settings, what an earlier configuration left has been dropped by [`drop_leftovers`].
    pub fn open(connection: &Connection, settings: Option<EventSettings>) -> rusqlite::Result<Self> {
        let (pending, last) =
            connection.query_row("SELECT count(*), coalesce(max(seq), 0) FROM pending_events", (), |row| Ok((row.get(0)?, row.get(1)?)))?;
        let dropped = connection.query_row("SELECT value FROM counters WHERE name = 'events_dropped'", (), |row| row.get(0))?;
        let log = Self {
            settings,
            pending: AtomicU64::new(pending),
            dropped: AtomicI64::new(dropped),
            written: watch::Sender::new(last),
            full: watch::Sender::new(false),
        };
        log.judge_full();
        Ok(log)
    }

    pub fn publish(&self, sums: EventSums) {
        if sums.inserted == 0 && sums.removed == 0 {
            return;
        }
        // Only the writer's thread changes them.
        self.pending.store(self.pending_after(sums), Ordering::Relaxed);
        self.dropped.fetch_add(sums.dropped, Ordering::Relaxed);
        self.judge_full();
        if sums.inserted > 0 {
            self.written.send_replace(sums.last_seq);
        }
    }

    fn is_full(&self) -> bool {
        *self.full.borrow()
    }

    fn pending_after(&self, sums: EventSums) -> u64 {
        (self.pending.load(Ordering::Relaxed) + sums.inserted).saturating_sub(sums.removed)
    }

    /// Full at the limit, and no longer below nine tenths of it: intake must not flutter.
    fn judge_full(&self) {
        let Some(EventSettings { limit, when_full: WhenFull::Stop, .. }) = self.settings else { return };
        let pending = self.pending.load(Ordering::Relaxed);
        self.full.send_if_modified(|full| {
            let was = *full;
            *full = pending >= limit || (was && pending.saturating_mul(10) >= limit.saturating_mul(9));
            *full != was
        });
    }
}

impl Tx<'_> {
    /// Whether no job may be taken, this commit's own events included.
    pub fn is_closed_by_events(&self) -> bool {
        match self.log.settings {
            Some(EventSettings { limit, when_full: WhenFull::Stop, .. }) => {
                self.log.is_full() || self.log.pending_after(self.events) >= limit
            }
            _ => false,
        }
    }

    /// A delivery has become a row. It has been queued, even if its attempt begins in the same commit.
    pub fn tell_made(&mut self, key: DeliveryKey) -> rusqlite::Result<()> {
        if !self.tells(Status::Queued) {
            return Ok(());
        }
        self.insert_event(
            "INSERT INTO pending_events (kind, job, ordinal, status, attempts, at) VALUES (?1, ?2, ?3, ?4, 0, ?5)",
            params![kind::DELIVERY, key.job, key.ordinal, Status::Queued.as_number(), self.now.as_millis()],
        )
    }

    /// A delivery's row is in this status by now; the event keeps what else the row says at this moment.
    pub fn tell_moved(&mut self, key: DeliveryKey, to: Status) -> rusqlite::Result<()> {
        if !self.tells(to) {
            return Ok(());
        }
        self.insert_event(
            "INSERT INTO pending_events (kind, job, ordinal, status, code, attempts, provider, provider_id, at)
             SELECT ?1, job, ordinal, status, code, attempts, provider, provider_id, ?4 FROM deliveries WHERE job = ?2 AND ordinal = ?3",
            params![kind::DELIVERY, key.job, key.ordinal, self.now.as_millis()],
        )
    }

    /// None of a job's deliveries is queued or sending any more.
    pub fn tell_finished(&mut self, job: i64) -> rusqlite::Result<()> {
        if self.log.settings.is_none() {
            return Ok(());
        }
        self.insert_event(
            "INSERT INTO pending_events (kind, job, at) VALUES (?1, ?2, ?3)",
            params![kind::JOB_FINISHED, job, self.now.as_millis()],
        )
    }

    /// A provider has said that a delivery's address is dead.
    pub fn tell_address_gone(&mut self, key: DeliveryKey, code: Option<Code>, provider: &str) -> rusqlite::Result<()> {
        if self.log.settings.is_none() {
            return Ok(());
        }
        self.insert_event(
            "INSERT INTO pending_events (kind, job, ordinal, code, provider, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![kind::ADDRESS_GONE, key.job, key.ordinal, code.map(Code::as_str), provider, self.now.as_millis()],
        )
    }

    /// Forgets events up to this one.
    pub fn remove_events(&mut self, through: i64) -> rusqlite::Result<u64> {
        let removed = self.connection.prepare_cached("DELETE FROM pending_events WHERE seq <= ?1")?.execute([through])? as u64;
        self.events.removed += removed;
        Ok(removed)
    }

    /// Makes room for what this commit has written, where the oldest may be dropped for it.
    pub fn drop_oldest_events(&mut self) -> rusqlite::Result<()> {
        let Some(EventSettings { limit, when_full: WhenFull::DropOldest, .. }) = self.log.settings else { return Ok(()) };
        let excess = self.log.pending_after(self.events).saturating_sub(limit);
        if self.events.inserted == 0 || excess == 0 {
            return Ok(());
        }
        let last: Option<i64> = self
            .connection
            .prepare_cached("SELECT seq FROM pending_events ORDER BY seq LIMIT 1 OFFSET ?1")?
            .query_row([excess - 1], |row| row.get(0))
            .optional()?;
        let Some(through) = last else { return Ok(()) };
        let dropped = i64::try_from(self.remove_events(through)?).unwrap_or(i64::MAX);
        self.events.dropped += dropped;
        count_dropped(self.connection, dropped)
    }

    fn tells(&self, status: Status) -> bool {
        self.log.settings.as_ref().is_some_and(|settings| settings.statuses.contains(status))
    }

    fn insert_event(&mut self, sql: &str, values: impl Params) -> rusqlite::Result<()> {
        let inserted = self.connection.prepare_cached(sql)?.execute(values)? as u64;
        if inserted > 0 {
            self.events.inserted += inserted;
            self.events.last_seq = self.connection.last_insert_rowid();
        }
        Ok(())
    }
}

/// Events are off: what an earlier configuration left will be told to nobody.
pub(super) fn drop_leftovers(connection: &Connection) -> rusqlite::Result<()> {
    let dropped = connection.execute("DELETE FROM pending_events", ())?;
    count_dropped(connection, i64::try_from(dropped).unwrap_or(i64::MAX))
}

fn count_dropped(connection: &Connection, dropped: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("UPDATE counters SET value = value + ?1 WHERE name = 'events_dropped'")?.execute([dropped])?;
    Ok(())
}
