//! Retention: old rows go, in small steps, and the counters remember them.

use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError, callbacks, live, revocations, suppressions, tx::Tx, writer::Urgency};
use crate::model::{Channel, Status};

/// Rows removed in one commit.
const STEP: usize = 1000;

/// What one step of the purge removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    pub deliveries: u64,
    pub jobs: u64,
    pub inbox_items: u64,
    pub remembered_ids: u64,
    /// Messages that were never finished and never came back.
    pub suspects: u64,
    /// Callbacks that no repeat is expected of any more.
    pub callbacks: u64,
    /// Addresses whose time on the suppression list is over.
    pub suppressions: u64,
    /// Revocations that no token can be old enough for any more.
    pub revocations: u64,
}

impl Purged {
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    pub fn add(&mut self, step: Self) {
        self.deliveries += step.deliveries;
        self.jobs += step.jobs;
        self.inbox_items += step.inbox_items;
        self.remembered_ids += step.remembered_ids;
        self.suspects += step.suspects;
        self.callbacks += step.callbacks;
        self.suppressions += step.suppressions;
        self.revocations += step.revocations;
    }
}

impl Store {
    /// Removes up to a thousand rows past their retention, behind everything else in the writer's queue. Empty when nothing is left to do.
    pub async fn purge_step(&self) -> Result<Purged, StoreError> {
        let settings = self.settings.clone();
        self.writer
            .write(Urgency::Background, STEP, move |tx| {
                let finished_before = tx.now.saturating_sub(settings.retention).as_millis();
                let remembered_since = tx.now.saturating_sub(settings.idempotency_retention).as_millis();
                let inbox_since = tx.now.saturating_sub(settings.inbox_retention).as_millis();
                let revoked_since = tx.now.saturating_sub(settings.revocation_retention).as_millis();
                let mut purged = Purged::default();
                while purged.deliveries < STEP as u64 && purged.jobs < STEP as u64 {
                    let Some(job) = oldest_finished(tx, finished_before)? else { break };
                    purge_job(tx, job, remembered_since, &mut purged)?;
                }
                let connection = tx.connection;
                purged.remembered_ids = connection
                    .prepare_cached("DELETE FROM remembered WHERE key IN (SELECT key FROM remembered WHERE accepted_at < ?1 LIMIT ?2)")?
                    .execute(params![remembered_since, STEP])? as u64;
                purged.suspects = connection
                    .prepare_cached("DELETE FROM suspects WHERE key IN (SELECT key FROM suspects WHERE at < ?1 LIMIT ?2)")?
                    .execute(params![remembered_since, STEP])? as u64;
                purged.inbox_items = live::purge_in(tx, inbox_since, STEP)?;
                purged.callbacks = callbacks::purge_in(tx, STEP)?;
                purged.suppressions = suppressions::purge_in(tx, STEP)?;
                purged.revocations = revocations::purge_in(tx, revoked_since, STEP)?;
                Ok(purged)
            })
            .await
    }
}

/// The next job to remove. `None` too while the broker has yet to be told something of it: events are told in order, so it is no use to
/// look further, and however many jobs wait for the broker, this stays one look-up.
fn oldest_finished(tx: &Tx<'_>, before: i64) -> rusqlite::Result<Option<i64>> {
    let oldest = tx
        .connection
        .prepare_cached(
            "SELECT num, EXISTS (SELECT 1 FROM pending_events WHERE job = num) FROM jobs
             WHERE finished_at IS NOT NULL AND finished_at < ?1 ORDER BY finished_at LIMIT 1",
        )?
        .query_row([before], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(oldest.and_then(|(job, is_pending): (i64, bool)| (!is_pending).then_some(job)))
}

fn purge_job(tx: &mut Tx<'_>, job: i64, remembered_since: i64, purged: &mut Purged) -> rusqlite::Result<()> {
    let gone: Vec<(u32, i64, i64)> = tx
        .connection
        .prepare_cached(
            "DELETE FROM deliveries WHERE job = ?1 AND ordinal IN (SELECT ordinal FROM deliveries WHERE job = ?1 ORDER BY ordinal LIMIT ?2)
             RETURNING ordinal, channel, status",
        )?
        .query_map(params![job, STEP], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (ordinal, channel, status) in &gone {
        for beside in ["DELETE FROM attempts WHERE job = ?1 AND ordinal = ?2", "DELETE FROM confirmations WHERE job = ?1 AND ordinal = ?2"]
        {
            tx.connection.prepare_cached(beside)?.execute((job, ordinal))?;
        }
        if let (Some(channel), Some(status)) = (Channel::from_number(*channel), Status::from_number(*status)) {
            tx.count_purged(channel, status);
        }
    }
    purged.deliveries += gone.len() as u64;
    if gone.len() < STEP {
        tx.connection
            .prepare_cached(
                "INSERT INTO remembered (key, body_hash, planned, accepted_at)
                 SELECT key, body_hash, planned, accepted_at FROM jobs WHERE num = ?1 AND accepted_at >= ?2
                 ON CONFLICT (key) DO UPDATE
                 SET body_hash = excluded.body_hash, planned = excluded.planned, accepted_at = excluded.accepted_at",
            )?
            .execute((job, remembered_since))?;
        purged.jobs += tx.connection.prepare_cached("DELETE FROM jobs WHERE num = ?1")?.execute([job])? as u64;
    }
    Ok(())
}
