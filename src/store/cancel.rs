//! Cancelling jobs.

use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError, tx::Tx, writer::Urgency};
use crate::model::{Channel, Code, DeliveryId, DeliveryKey, JobId, Status};

/// Deliveries cancelled in one commit.
const STEP: u32 = 1000;

/// What a cancel did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct Cancelled {
    /// Deliveries that will not be sent, those not made yet included.
    pub cancelled: u64,
    /// Deliveries with an attempt under way: it runs out, and is not repeated.
    pub too_late: u64,
}

impl Store {
    /// Cancels what a job still has queued, in steps; `None` when there is no such job. A repeat is harmless.
    pub async fn cancel(&self, id: &JobId) -> Result<Option<Cancelled>, StoreError> {
        let key = DeliveryId::job_key(id);
        let found = self
            .writer
            .write(Urgency::Normal, 1, move |tx| {
                tx.connection
                    .prepare_cached(
                        "UPDATE jobs SET cancelled_at = coalesce(cancelled_at, ?2) WHERE key = ?1 RETURNING num, planned - made",
                    )?
                    .query_row((key, tx.now.as_millis()), |row| Ok((row.get::<_, i64>(0)?, row.get::<_, u64>(1)?)))
                    .optional()
            })
            .await?;
        let Some((job, unmade)) = found else { return Ok(None) };
        let mut done = Cancelled { cancelled: unmade, too_late: 0 };
        let mut from = Some(0);
        while let Some(ordinal) = from {
            let (step, next) = self.writer.write(Urgency::Normal, STEP as usize, move |tx| cancel_step(tx, job, ordinal)).await?;
            done.cancelled += step.cancelled;
            done.too_late += step.too_late;
            from = next;
        }
        Ok(Some(done))
    }
}

/// Cancels what a job of few deliveries still has open, in this commit; whether that was anything.
pub(super) fn cancel_in(tx: &mut Tx<'_>, id: &JobId) -> rusqlite::Result<bool> {
    let open: Option<i64> = tx
        .connection
        .prepare_cached("UPDATE jobs SET cancelled_at = coalesce(cancelled_at, ?2) WHERE key = ?1 AND finished_at IS NULL RETURNING num")?
        .query_row((DeliveryId::job_key(id), tx.now.as_millis()), |row| row.get(0))
        .optional()?;
    let Some(job) = open else { return Ok(false) };
    cancel_from(tx, job, 0)?;
    Ok(true)
}

/// Cancels everything of a job from this ordinal on.
pub(super) fn cancel_from(tx: &mut Tx<'_>, job: i64, ordinal: u32) -> rusqlite::Result<()> {
    let mut from = Some(ordinal);
    while let Some(ordinal) = from {
        from = cancel_step(tx, job, ordinal)?.1;
    }
    Ok(())
}

fn cancel_step(tx: &mut Tx<'_>, job: i64, from: u32) -> rusqlite::Result<(Cancelled, Option<u32>)> {
    let until = from.saturating_add(STEP);
    let moved: Vec<(u32, i64)> = tx
        .connection
        .prepare_cached(
            "UPDATE deliveries SET status = 6, code = ?4, lease_owner = 0, updated_at = ?5
             WHERE job = ?1 AND ordinal >= ?2 AND ordinal < ?3 AND status = 0 RETURNING ordinal, channel",
        )?
        .query_map(params![job, from, until, Code::CANCELLED_BY_REQUEST.as_str(), tx.now.as_millis()], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    for (ordinal, channel) in &moved {
        if let Some(channel) = Channel::from_number(*channel) {
            tx.count_moved(DeliveryKey { job, ordinal: *ordinal }, channel, Status::Queued, Status::Cancelled)?;
        }
    }
    let too_late = tx
        .connection
        .prepare_cached("UPDATE deliveries SET cancelling = 1 WHERE job = ?1 AND ordinal >= ?2 AND ordinal < ?3 AND status = 1")?
        .execute((job, from, until))?;
    let more = tx.connection.prepare_cached("SELECT 1 FROM deliveries WHERE job = ?1 AND ordinal >= ?2")?.exists((job, until))?;
    Ok((Cancelled { cancelled: moved.len() as u64, too_late: too_late as u64 }, more.then_some(until)))
}
