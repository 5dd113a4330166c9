//! One group commit as its writes see it, and the sums that are written once at its end.
//!
//! Whatever moves a delivery says so here, so that the counters, the job's open count and the events cannot be forgotten apart.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicI64, Ordering},
};

use rusqlite::{Connection, OptionalExtension};

use super::{
    events::{EventLog, EventSums},
    suppressions::SuppressionList,
};
use crate::model::{Channel, DeliveryKey, PerChannel, Status, Timestamp};

/// Deliveries by channel and status, and the totals the promise of no silent loss is checked against.
#[derive(Debug, Default)]
pub struct Counts {
    pub accepted: AtomicI64,
    pub purged: AtomicI64,
    statuses: PerChannel<[AtomicI64; Status::ALL.len()]>,
}

impl Counts {
    pub fn get(&self, channel: Channel, status: Status) -> i64 {
        self.statuses[channel][status as usize].load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, channel: Channel, status: Status, value: i64) {
        self.statuses[channel][status as usize].store(value, Ordering::Relaxed);
    }
}

/// What one group commit has done so far: the transaction, and the sums that are written once at its end.
pub(super) struct Tx<'c> {
    pub connection: &'c Connection,
    pub now: Timestamp,
    /// What this commit has done to the pending events.
    pub events: EventSums,
    /// As the last commit left them.
    pub log: &'c EventLog,
    /// As the last commit left it.
    pub suppressions: &'c SuppressionList,
    sums: Sums,
}

#[derive(Default)]
struct Sums {
    accepted: i64,
    purged: i64,
    statuses: PerChannel<[i64; Status::ALL.len()]>,
    /// Entries put on the suppression list, less those taken off.
    suppressions: i64,
    /// Deliveries that ended, by job.
    ended: HashMap<i64, i64>,
}

/// What a commit has written, for the counters in memory once it is durable.
pub(super) struct Written {
    sums: Sums,
    events: EventSums,
}

impl<'c> Tx<'c> {
    pub fn new(connection: &'c Connection, now: Timestamp, log: &'c EventLog, suppressions: &'c SuppressionList) -> Self {
        Self { connection, now, events: EventSums::default(), log, suppressions, sums: Sums::default() }
    }

    /// Deliveries accepted, queued until they move.
    pub fn count_accepted(&mut self, channel: Channel, deliveries: i64) {
        self.sums.accepted += deliveries;
        self.sums.statuses[channel][Status::Queued as usize] += deliveries;
    }

    /// A delivery moved; its row says so already. Its job's open count follows.
    pub fn count_moved(&mut self, key: DeliveryKey, channel: Channel, from: Status, to: Status) -> rusqlite::Result<()> {
        self.sums.statuses[channel][from as usize] -= 1;
        self.sums.statuses[channel][to as usize] += 1;
        let ended = i64::from(to.is_ended()) - i64::from(from.is_ended());
        if ended != 0 {
            *self.sums.ended.entry(key.job).or_default() += ended;
        }
        self.tell_moved(key, to)
    }

    pub fn count_purged(&mut self, channel: Channel, status: Status) {
        self.sums.purged += 1;
        self.sums.statuses[channel][status as usize] -= 1;
    }

    pub fn count_suppressions(&mut self, change: i64) {
        self.sums.suppressions += change;
    }

    /// False only when no address is suppressed, what this commit has written included.
    pub fn has_suppressions(&self) -> bool {
        self.suppressions.rows() + self.sums.suppressions > 0
    }

    /// Writes the sums, in the same commit as what they count.
    pub fn close(mut self) -> rusqlite::Result<Written> {
        let sums = std::mem::take(&mut self.sums);
        sums.write(self.connection)?;
        let mut close = self.connection.prepare_cached(
            "UPDATE jobs SET open = open - ?2, finished_at = CASE WHEN open - ?2 = 0 THEN ?3 END WHERE num = ?1 RETURNING open",
        )?;
        for (job, ended) in sums.ended.iter().filter(|(_, ended)| **ended != 0) {
            let open: Option<i64> = close.query_row((job, ended, self.now.as_millis()), |row| row.get(0)).optional()?;
            if open == Some(0) {
                self.tell_finished(*job)?;
            }
        }
        self.drop_oldest_events()?;
        Ok(Written { sums, events: self.events })
    }
}

impl Sums {
    fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        for (name, by) in [("accepted", self.accepted), ("purged", self.purged)] {
            if by != 0 {
                connection.prepare_cached("UPDATE counters SET value = value + ?2 WHERE name = ?1")?.execute((name, by))?;
            }
        }
        for (channel, statuses) in self.statuses.iter() {
            for (status, by) in Status::ALL.into_iter().zip(statuses).filter(|(_, by)| **by != 0) {
                connection.prepare_cached("UPDATE status_counts SET value = value + ?3 WHERE channel = ?1 AND status = ?2")?.execute((
                    channel.as_number(),
                    status.as_number(),
                    by,
                ))?;
            }
        }
        Ok(())
    }
}

impl Written {
    pub fn publish(&self, counts: &Counts, log: &EventLog, suppressions: &SuppressionList) {
        let Self { sums, events } = self;
        counts.accepted.fetch_add(sums.accepted, Ordering::Relaxed);
        counts.purged.fetch_add(sums.purged, Ordering::Relaxed);
        for (channel, statuses) in sums.statuses.iter() {
            for (status, by) in Status::ALL.into_iter().zip(statuses) {
                counts.statuses[channel][status as usize].fetch_add(*by, Ordering::Relaxed);
            }
        }
        suppressions.publish(sums.suppressions);
        log.publish(*events);
    }
}
