//! The gate before every attempt, and what came of it.

use std::sync::Arc;

use rusqlite::{OptionalExtension, params};

use super::{
    Lease, Store, StoreError,
    callbacks::STALE_FAILURE,
    suppressions,
    tx::Tx,
    writer::{Committing, Urgency},
};
use crate::model::{Channel, Code, DeliveryKey, Status, SuppressionReason, Timestamp};

/// [`crate::model::Outcome::as_str`] of an unknown one.
const UNKNOWN: &str = "unknown";

/// An attempt about to be made.
#[derive(Clone, Debug)]
pub struct Begin {
    pub key: DeliveryKey,
    pub channel: Channel,
    /// Attempts recorded so far; the one that begins is the next.
    pub attempts: u32,
    pub provider: &'static str,
    /// The kind of mail it is, where people may refuse kinds of mail.
    pub list: Option<Arc<str>>,
}

/// What the gate said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Recorded, at this moment: call the provider.
    Open { started_at: Timestamp },
    /// Too late; recorded as expired.
    Expired,
    /// Nothing may be sent there any more; recorded as suppressed.
    Suppressed,
    /// Cancelled, collapsed or held by somebody else meanwhile: the provider must not be called.
    Lost,
}

/// What one attempt came to and what follows, as the store keeps it.
#[derive(Clone, Debug)]
pub struct Record {
    pub key: DeliveryKey,
    pub channel: Channel,
    pub number: u32,
    pub provider: &'static str,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    pub outcome: &'static str,
    /// Of the outcome.
    pub code: Option<Code>,
    /// Of the delivery, from the verdict; differs from the outcome's when attempts ran out.
    pub status_code: Option<Code>,
    /// For people, without addresses.
    pub detail: Option<String>,
    pub provider_id: Option<String>,
    /// The provider has said that the address is dead.
    pub address_gone: bool,
    pub status: Status,
    /// Of the next attempt, when `status` is queued.
    pub due_at: Timestamp,
}

/// Where a recorded outcome left its delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// In this status; cancelled instead of queued when somebody asked meanwhile.
    Now(Status),
    /// The attempt was no longer the delivery's current one; kept on its own row. True when a late `sent` lifted the delivery.
    Late { lifted: bool },
}

impl Store {
    /// Records that attempts begin: the gate of DESIGN.md section 2. One answer for each, in order.
    pub async fn begin(&self, attempts: Vec<Begin>, lease: Lease) -> Result<Vec<Gate>, StoreError> {
        self.writer
            .write(Urgency::Normal, attempts.len(), move |tx| {
                let gates = attempts.iter().map(|begin| open_gate(tx, begin, lease)).collect::<rusqlite::Result<Vec<_>>>()?;
                fail::fail_point!("attempt-before-commit");
                Ok(gates)
            })
            .await
    }

    /// Hands an outcome to the writer. The slot is free when this returns; the outcome is durable when the answer commits.
    pub async fn record(&self, record: Record) -> Result<Committing<Recorded>, StoreError> {
        self.writer.enqueue(Urgency::Normal, 2, move |tx| apply_record(tx, &record)).await
    }

    /// Hands an outcome to the writer together with the next provider's attempt: one commit from the one to the other. The gate is absent
    /// when the delivery is no longer waiting for it.
    pub async fn fail_over(&self, record: Record, next: Begin, lease: Lease) -> Result<Committing<(Recorded, Option<Gate>)>, StoreError> {
        self.writer
            .enqueue(Urgency::Normal, 3, move |tx| {
                let recorded = apply_record(tx, &record)?;
                if recorded != Recorded::Now(Status::Queued) {
                    return Ok((recorded, None));
                }
                tx.connection
                    .prepare_cached(
                        "UPDATE deliveries SET lease_owner = ?3 WHERE job = ?1 AND ordinal = ?2 AND status = 0 AND lease_owner = 0",
                    )?
                    .execute((next.key.job, next.key.ordinal, lease.owner))?;
                let gate = open_gate(tx, &next, lease)?;
                Ok((recorded, Some(gate)))
            })
            .await
    }

    /// Fails a delivery of ours that waits for a provider nobody has any more. No other may try: that one may have taken it.
    pub async fn give_up(&self, key: DeliveryKey, channel: Channel) -> Result<(), StoreError> {
        let owner = self.owner();
        self.writer
            .write(Urgency::Normal, 1, move |tx| {
                let failed = tx
                    .connection
                    .prepare_cached(
                        "UPDATE deliveries SET status = 4, code = ?4, lease_owner = 0, updated_at = ?5
                         WHERE job = ?1 AND ordinal = ?2 AND status = 0 AND lease_owner = ?3",
                    )?
                    .execute((key.job, key.ordinal, owner, Code::UNKNOWN_OUTCOME.as_str(), tx.now.as_millis()))?;
                if failed == 1 {
                    tx.count_moved(key, channel, Status::Queued, Status::Failed)?;
                }
                Ok(())
            })
            .await
    }

    /// How many earlier attempts of a delivery that still waits used none of them up: the set-up was refused, or a limit of our own held it
    /// back. Any other permanent outcome would have ended it.
    pub async fn uncounted_attempts(&self, key: DeliveryKey) -> Result<u32, StoreError> {
        self.read(move |connection| {
            let counted = connection
                .prepare_cached("SELECT count(*) FROM attempts WHERE job = ?1 AND ordinal = ?2 AND (outcome = 'permanent' OR code = ?3)")?
                .query_row((key.job, key.ordinal, Code::VELOCITY_LIMITED.as_str()), |row| row.get(0))?;
            Ok(counted)
        })
        .await
    }

    /// Marks live deliveries as written to a socket. Those not `sent` (any more) are left alone.
    pub async fn mark_delivered(&self, keys: Vec<DeliveryKey>) -> Result<(), StoreError> {
        self.writer.write(Urgency::Normal, keys.len(), move |tx| mark_delivered_in(tx, &keys)).await
    }
}

pub(super) fn mark_delivered_in(tx: &mut Tx<'_>, keys: &[DeliveryKey]) -> rusqlite::Result<()> {
    for key in keys {
        let moved = tx
            .connection
            .prepare_cached(
                "UPDATE deliveries SET status = 3, updated_at = ?3 WHERE job = ?1 AND ordinal = ?2 AND status = 2 RETURNING channel",
            )?
            .query_row((key.job, key.ordinal, tx.now.as_millis()), |row| row.get::<_, i64>(0))
            .optional()?;
        if let Some(channel) = moved.and_then(Channel::from_number) {
            tx.count_moved(*key, channel, Status::Sent, Status::Delivered)?;
        }
    }
    Ok(())
}

/// Compare and swap: queued, held by us, not expired, and nobody made an attempt meanwhile.
pub(super) fn open_gate(tx: &mut Tx<'_>, begin: &Begin, lease: Lease) -> rusqlite::Result<Gate> {
    let now = tx.now.as_millis();
    if suppressions::holds_back(tx, begin)? {
        let suppressed = tx
            .connection
            .prepare_cached(
                "UPDATE deliveries SET status = 7, code = ?5, lease_owner = 0, updated_at = ?6
                 WHERE job = ?1 AND ordinal = ?2 AND status = 0 AND attempts = ?3 AND lease_owner = ?4",
            )?
            .execute(params![begin.key.job, begin.key.ordinal, begin.attempts, lease.owner, Code::SUPPRESSED.as_str(), now])?;
        if suppressed == 1 {
            tx.count_moved(begin.key, begin.channel, Status::Queued, Status::Suppressed)?;
            return Ok(Gate::Suppressed);
        }
        return Ok(Gate::Lost);
    }
    let opened = tx
        .connection
        .prepare_cached(
            "UPDATE deliveries SET status = 1, attempts = attempts + 1, provider = ?5, attempt_at = ?6, updated_at = ?6, lease_until = ?7
             WHERE job = ?1 AND ordinal = ?2 AND status = 0 AND attempts = ?3 AND lease_owner = ?4 AND expires_at > ?6",
        )?
        .execute(params![begin.key.job, begin.key.ordinal, begin.attempts, lease.owner, begin.provider, now, lease.until.as_millis()])?;
    if opened == 1 {
        tx.count_moved(begin.key, begin.channel, Status::Queued, Status::Sending)?;
        return Ok(Gate::Open { started_at: tx.now });
    }
    let expired = tx
        .connection
        .prepare_cached(
            "UPDATE deliveries SET status = 5, code = ?5, lease_owner = 0, updated_at = ?4
             WHERE job = ?1 AND ordinal = ?2 AND status = 0 AND lease_owner = ?3 AND expires_at <= ?4",
        )?
        .execute(params![begin.key.job, begin.key.ordinal, lease.owner, now, Code::EXPIRED.as_str()])?;
    if expired == 1 {
        tx.count_moved(begin.key, begin.channel, Status::Queued, Status::Expired)?;
        return Ok(Gate::Expired);
    }
    Ok(Gate::Lost)
}

pub(super) fn apply_record(tx: &mut Tx<'_>, record: &Record) -> rusqlite::Result<Recorded> {
    fail::fail_point!("outcome-before-commit");
    let now = tx.now.as_millis();
    let sent = sent_before(tx, record)?;
    let (status, code, provider, provider_id) = match &sent {
        Some((provider, provider_id)) => (Status::Sent, None, provider.as_deref(), provider_id.as_deref()),
        None => (record.status, record.status_code, None, record.provider_id.as_deref()),
    };
    let moved = tx
        .connection
        .prepare_cached(&format!(
            "UPDATE deliveries
             SET status = CASE WHEN confirmed IS NOT NULL AND NOT {STALE_FAILURE} THEN 2
                               WHEN ?4 = 0 AND cancelling = 1 THEN 6 ELSE ?4 END,
                 code = CASE WHEN confirmed IS NOT NULL AND NOT {STALE_FAILURE} THEN code
                             WHEN ?4 = 0 AND cancelling = 1 THEN ?8 ELSE ?5 END,
                 confirmed = CASE WHEN {STALE_FAILURE} THEN NULL ELSE confirmed END,
                 provider = coalesce(?10, provider), provider_id = coalesce(?6, provider_id), due_at = ?7, lease_owner = 0, updated_at = ?9,
                 pinned = pinned OR ?11
             WHERE job = ?1 AND ordinal = ?2 AND status = 1 AND attempts = ?3 RETURNING status, confirmed",
        ))?
        .query_row(
            params![
                record.key.job,
                record.key.ordinal,
                record.number,
                status.as_number(),
                code.map(Code::as_str),
                provider_id,
                record.due_at.as_millis(),
                Code::CANCELLED_BY_REQUEST.as_str(),
                now,
                provider,
                // Whoever may have taken it is the only one to try again, from then on.
                record.outcome == UNKNOWN,
            ],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?)),
        )
        .optional()?;
    let is_news = keep_attempt(tx, record)?;
    let status = |number: i64| Status::from_number(number);
    let recorded = match moved.and_then(|(moved, confirmed)| Some((status(moved)?, confirmed.and_then(status)))) {
        Some((status, confirmed)) => {
            tx.count_moved(record.key, record.channel, Status::Sending, status)?;
            Recorded::Now(confirm(tx, record, confirmed)?.unwrap_or(status))
        }
        None => Recorded::Late { lifted: record.status == Status::Sent && lift(tx, record)? },
    };
    if record.address_gone && is_news {
        tx.tell_address_gone(record.key, record.code, record.provider)?;
        if let Some(reason) = record.code.and_then(SuppressionReason::of) {
            suppress(tx, record, reason)?;
        }
    }
    Ok(recorded)
}

/// Nothing goes to this delivery's address any more.
fn suppress(tx: &mut Tx<'_>, record: &Record, reason: SuppressionReason) -> rusqlite::Result<()> {
    let address: Option<String> = tx
        .connection
        .prepare_cached("SELECT address FROM deliveries WHERE job = ?1 AND ordinal = ?2")?
        .query_row((record.key.job, record.key.ordinal), |row| row.get(0))
        .optional()?;
    let Some(address) = address else { return Ok(()) };
    let entry = suppressions::Found { list: None, reason, source: record.provider, at: tx.now };
    suppressions::add_in(tx, record.channel, &address, entry).map(drop)
}

/// Takes the status that the provider's callback brought while the attempt was under way; what it says stands above the outcome.
fn confirm(tx: &mut Tx<'_>, record: &Record, confirmed: Option<Status>) -> rusqlite::Result<Option<Status>> {
    let Some(status) = confirmed.filter(|status| Status::Sent.may_become(*status)) else { return Ok(None) };
    tx.connection
        .prepare_cached(
            "UPDATE deliveries SET status = ?3, code = CASE ?3 WHEN 4 THEN code END, confirmed = NULL WHERE job = ?1 AND ordinal = ?2",
        )?
        .execute((record.key.job, record.key.ordinal, status.as_number()))?;
    tx.count_moved(record.key, record.channel, Status::Sent, status)?;
    Ok(Some(status))
}

/// Keeps an attempt's outcome on its own row: the first that is known, unless it turns out later to be sent; and says whether this one is
/// it. Nothing for a delivery that was purged meanwhile.
fn keep_attempt(tx: &Tx<'_>, record: &Record) -> rusqlite::Result<bool> {
    let kept = tx
        .connection
        .prepare_cached(
            "INSERT INTO attempts (job, ordinal, number, provider, started_at, finished_at, outcome, code, detail, provider_id)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10 WHERE EXISTS (SELECT 1 FROM deliveries WHERE job = ?1 AND ordinal = ?2)
             ON CONFLICT (job, ordinal, number) DO UPDATE
             SET provider = excluded.provider, started_at = excluded.started_at, finished_at = excluded.finished_at,
                 outcome = excluded.outcome, code = excluded.code, detail = excluded.detail, provider_id = excluded.provider_id
             WHERE outcome = 'unknown' OR (excluded.outcome = 'sent' AND outcome <> 'sent')",
        )?
        .execute(params![
            record.key.job,
            record.key.ordinal,
            record.number,
            record.provider,
            record.started_at.as_millis(),
            record.finished_at.as_millis(),
            record.outcome,
            record.code.map(Code::as_str),
            record.detail,
            record.provider_id,
        ])?;
    Ok(kept == 1)
}

/// Whether an earlier attempt turned out to be sent while this one was under way: then nothing may be sent again, whatever this one came to.
fn sent_before(tx: &Tx<'_>, record: &Record) -> rusqlite::Result<Option<(Option<String>, Option<String>)>> {
    if record.status == Status::Sent || record.number <= 1 {
        return Ok(None);
    }
    tx.connection
        .prepare_cached("SELECT provider, provider_id FROM attempts WHERE job = ?1 AND ordinal = ?2 AND outcome = 'sent' LIMIT 1")?
        .query_row((record.key.job, record.key.ordinal), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

/// A late `sent` lifts a delivery that was given up as unknown, or that waits to be sent again.
fn lift(tx: &mut Tx<'_>, record: &Record) -> rusqlite::Result<bool> {
    let from = tx
        .connection
        .prepare_cached("SELECT status FROM deliveries WHERE job = ?1 AND ordinal = ?2 AND (status = 0 OR (status = 4 AND code = ?3))")?
        .query_row((record.key.job, record.key.ordinal, Code::UNKNOWN_OUTCOME.as_str()), |row| row.get::<_, i64>(0))
        .optional()?;
    let Some(from) = from.and_then(Status::from_number) else { return Ok(false) };
    tx.connection
        .prepare_cached(
            "UPDATE deliveries SET status = 2, code = NULL, provider = ?3, provider_id = ?4, lease_owner = 0, updated_at = ?5
             WHERE job = ?1 AND ordinal = ?2",
        )?
        .execute(params![record.key.job, record.key.ordinal, record.provider, record.provider_id, tx.now.as_millis()])?;
    tx.count_moved(record.key, record.channel, from, Status::Sent)?;
    Ok(true)
}
