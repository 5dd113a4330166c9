//! What providers call back with: what became of messages they took.
//!
//! A status never goes backwards, and a repeat changes nothing. What a callback means is decided by whoever read it; here it is applied.

use std::collections::HashMap;

use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError, suppressions, tx::Tx, writer::Urgency};
use crate::model::{Channel, Code, DeliveryId, DeliveryKey, ListName, Status, SuppressionReason, Timestamp};

/// How long a callback is remembered. Providers repeat for a day at most.
const REMEMBERED: std::time::Duration = std::time::Duration::from_hours(7 * 24);

/// One thing a provider told us.
#[derive(Clone, Debug)]
pub struct Callback {
    pub provider: &'static str,
    pub channel: Channel,
    /// The same for a repeat, and for nothing else of this provider's.
    pub key: String,
    /// Absent when the callback names none of ours.
    pub delivery: Option<DeliveryId>,
    /// The provider's id of the message, or more that begins with it and a dot.
    pub provider_id: Option<String>,
    /// The address as the callback has it: what counts when the delivery is not known (any more).
    pub address: Option<String>,
    /// When it happened, as the provider says.
    pub at: Timestamp,
    pub report: Report,
}

/// What a callback says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The provider has taken the message.
    Taken,
    Delivered,
    /// It was not delivered after all.
    Failed {
        code: Code,
        /// What it says about the address.
        suppress: Option<SuppressionReason>,
        /// It came back: such a thing can happen after it was delivered.
        is_bounce: bool,
    },
    Opened,
    Clicked,
    Complained,
    /// Absent `list`: from everything.
    Unsubscribed {
        list: Option<ListName>,
    },
    Resubscribed {
        list: Option<ListName>,
    },
}

impl Report {
    /// Whether only somebody who has the message can have caused it.
    const fn shows_delivery(&self) -> bool {
        matches!(self, Self::Delivered | Self::Opened | Self::Clicked | Self::Complained)
    }
}

/// What callbacks did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Deliveries that ended up in another status.
    pub moves: Vec<Moved>,
    /// Callbacks that were known already.
    pub repeated: u32,
    /// Callbacks about no delivery that is here.
    pub unknown: u32,
    /// Addresses that were not on the suppression list and are now.
    pub suppressed: Vec<SuppressedAddress>,
    /// Entries of the suppression list that were taken back.
    pub released: u64,
}

/// A delivery that a callback moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    pub id: DeliveryId,
    pub channel: Channel,
    pub from: Status,
    pub to: Status,
    pub code: Option<Code>,
}

/// An address that came on the suppression list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuppressedAddress {
    pub channel: Channel,
    pub address: String,
    pub list: Option<ListName>,
    pub reason: SuppressionReason,
}

/// What a status report finds.
struct Found {
    key: DeliveryKey,
    address: String,
    status: Status,
    code: Option<String>,
    attempts: u32,
    provider: Option<String>,
    provider_id: Option<String>,
    confirmed: Option<Status>,
}

/// Of an outcome with the provider's id `?6`: the failure that was kept for it is that of another message.
pub(super) const STALE_FAILURE: &str = "(confirmed = 4 AND provider_id IS NOT NULL AND ?6 IS NOT NULL AND provider_id <> ?6
     AND substr(provider_id, 1, length(?6) + 1) <> ?6 || '.')";

/// What became of a message after it was sent, as it is stored; never renumbered.
pub(super) mod confirmation {
    pub const DELIVERED: i64 = 0;
    pub const OPENED: i64 = 1;
    pub const CLICKED: i64 = 2;
}

impl Store {
    /// Applies callbacks in one commit, in the order given.
    pub async fn apply_callbacks(&self, callbacks: Vec<Callback>) -> Result<Applied, StoreError> {
        self.writer
            .write(Urgency::Normal, callbacks.len() * 2, move |tx| {
                let mut applied = Applied::default();
                callbacks.iter().try_for_each(|callback| apply(tx, callback, &mut applied))?;
                Ok(applied)
            })
            .await
    }

    /// The template of each of these deliveries that has one and is still here.
    pub async fn delivery_templates(&self, ids: Vec<DeliveryId>) -> Result<HashMap<DeliveryId, String>, StoreError> {
        self.read(move |connection| {
            let mut templates = HashMap::new();
            for id in ids {
                let template: Option<Option<String>> = connection
                    .prepare_cached("SELECT template FROM jobs WHERE key = ?1")?
                    .query_row([id.job_key], |row| row.get(0))
                    .optional()?;
                templates.extend(template.flatten().map(|template| (id, template)));
            }
            Ok(templates)
        })
        .await
    }
}

/// Forgets callbacks of long ago, up to `limit`.
pub(super) fn purge_in(tx: &Tx<'_>, limit: usize) -> rusqlite::Result<u64> {
    let before = tx.now.saturating_sub(REMEMBERED).as_millis();
    let gone = tx
        .connection
        .prepare_cached("DELETE FROM callbacks WHERE (provider, key) IN (SELECT provider, key FROM callbacks WHERE at < ?1 LIMIT ?2)")?
        .execute(params![before, limit])?;
    Ok(gone as u64)
}

fn apply(tx: &mut Tx<'_>, callback: &Callback, applied: &mut Applied) -> rusqlite::Result<()> {
    let news = tx
        .connection
        .prepare_cached("INSERT INTO callbacks (provider, key, at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")?
        .execute((callback.provider, &callback.key, tx.now.as_millis()))?;
    if news == 0 {
        applied.repeated += 1;
        return Ok(());
    }
    let found = match callback.delivery {
        Some(id) => find(tx, id, callback.channel)?,
        None => None,
    };
    match (&found, callback.delivery) {
        (Some(found), Some(id)) => {
            confirm(tx, found.key, callback)?;
            take_report(tx, found, id, callback, applied)?;
        }
        _ => applied.unknown += 1,
    }
    let address = found.as_ref().map(|found| found.address.as_str()).or(callback.address.as_deref());
    if let Some(address) = address {
        change_list(tx, address, callback, applied)?;
    }
    Ok(())
}

fn find(tx: &Tx<'_>, id: DeliveryId, channel: Channel) -> rusqlite::Result<Option<Found>> {
    let status = |number: Option<i64>| number.and_then(Status::from_number);
    let found = tx
        .connection
        .prepare_cached(
            "SELECT d.job, d.address, d.status, d.code, d.attempts, d.provider, d.provider_id, d.confirmed FROM jobs j
             JOIN deliveries d ON d.job = j.num WHERE j.key = ?1 AND d.ordinal = ?2 AND d.channel = ?3",
        )?
        .query_row((id.job_key, id.ordinal, channel.as_number()), |row| {
            let Some(now) = status(row.get(2)?) else { return Ok(None) };
            Ok(Some(Found {
                key: DeliveryKey { job: row.get(0)?, ordinal: id.ordinal },
                address: row.get(1)?,
                status: now,
                code: row.get(3)?,
                attempts: row.get(4)?,
                provider: row.get(5)?,
                provider_id: row.get(6)?,
                confirmed: status(row.get(7)?),
            }))
        })
        .optional()?;
    Ok(found.flatten())
}

/// Keeps when it was first delivered, opened or clicked.
fn confirm(tx: &Tx<'_>, key: DeliveryKey, callback: &Callback) -> rusqlite::Result<()> {
    let kind = match callback.report {
        Report::Delivered => confirmation::DELIVERED,
        Report::Opened => confirmation::OPENED,
        Report::Clicked => confirmation::CLICKED,
        _ => return Ok(()),
    };
    tx.connection
        .prepare_cached(
            "INSERT INTO confirmations (job, ordinal, kind, at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (job, ordinal, kind) DO UPDATE SET at = min(at, excluded.at)",
        )?
        .execute((key.job, key.ordinal, kind, callback.at.as_millis()))?;
    Ok(())
}

fn take_report(tx: &mut Tx<'_>, found: &Found, id: DeliveryId, callback: &Callback, applied: &mut Applied) -> rusqlite::Result<()> {
    let is_failure = matches!(callback.report, Report::Failed { .. });
    if is_failure && found.is_of_another_provider(callback) {
        return Ok(());
    }
    if found.status == Status::Sending {
        return keep_for_the_outcome(tx, found, callback);
    }
    if is_failure && found.has_another_id(callback) {
        return Ok(());
    }
    let moves = moves(found.status, found.code.as_deref(), found.attempts, &callback.report);
    let Some(last) = moves.last() else { return Ok(()) };
    let mut from = found.status;
    for to in moves {
        let code = code_in(*to, &callback.report);
        // Who took it, where that was in doubt: callbacks, and people who ask the provider, look for both.
        let (provider, provider_id) = match (from, to) {
            (Status::Sent, _) => (None, None),
            _ => (Some(callback.provider), callback.provider_id.as_deref()),
        };
        tx.connection
            .prepare_cached(
                "UPDATE deliveries SET status = ?3, code = ?4, provider = coalesce(?5, provider), provider_id = coalesce(?6, provider_id),
                                       lease_owner = 0, updated_at = ?7 WHERE job = ?1 AND ordinal = ?2",
            )?
            .execute(params![
                found.key.job,
                found.key.ordinal,
                to.as_number(),
                code.map(Code::as_str),
                provider,
                provider_id,
                tx.now.as_millis()
            ])?;
        tx.count_moved(found.key, callback.channel, from, *to)?;
        from = *to;
    }
    if let Report::Failed { code, suppress: Some(SuppressionReason::Bounced), .. } = callback.report {
        tx.tell_address_gone(found.key, Some(code), callback.provider)?;
    }
    let code = code_in(*last, &callback.report);
    applied.moves.push(Moved { id, channel: callback.channel, from: found.status, to: *last, code });
    Ok(())
}

impl Found {
    /// Whether what failed was an attempt of another provider's, before the one that counts.
    fn is_of_another_provider(&self, callback: &Callback) -> bool {
        self.provider.as_deref().is_some_and(|provider| provider != callback.provider)
    }

    /// Whether it is about another message than the one that counts, of an attempt before.
    fn has_another_id(&self, callback: &Callback) -> bool {
        match (&self.provider_id, &callback.provider_id) {
            (Some(ours), Some(told)) => told.strip_prefix(ours.as_str()).is_none_or(|rest| !rest.is_empty() && !rest.starts_with('.')),
            _ => false,
        }
    }
}

/// The attempt is under way, and its outcome is to be recorded by whoever makes it: the report waits for that, the weightiest of them.
/// What a failure is called waits as the delivery's code, and the id it is about as the delivery's: it may be an earlier attempt's, whose
/// outcome was not known, and the outcome shows by its own id whether it is ([`STALE_FAILURE`]).
fn keep_for_the_outcome(tx: &Tx<'_>, found: &Found, callback: &Callback) -> rusqlite::Result<()> {
    let told = match &callback.report {
        Report::Taken => Status::Sent,
        report if report.shows_delivery() => Status::Delivered,
        Report::Failed { is_bounce: false, .. } if found.confirmed == Some(Status::Delivered) => return Ok(()),
        Report::Failed { .. } => Status::Failed,
        _ => return Ok(()),
    };
    // Of two messages the one that did not fail counts.
    let is_of_another = found.confirmed == Some(Status::Failed) && found.has_another_id(callback);
    if found.confirmed.is_some_and(|confirmed| confirmed >= told) && !is_of_another {
        return Ok(());
    }
    tx.connection
        .prepare_cached(
            "UPDATE deliveries SET confirmed = ?3, code = ?4, provider_id = coalesce(?5, provider_id)
             WHERE job = ?1 AND ordinal = ?2",
        )?
        .execute((
            found.key.job,
            found.key.ordinal,
            told.as_number(),
            code_in(told, &callback.report).map(Code::as_str),
            callback.provider_id.as_deref(),
        ))?;
    Ok(())
}

/// The statuses a delivery takes one after the other; none when it is old news.
///
/// A delivery whose attempt came to an unknown end (or to one we took for a failure) and that waits for the next has been sent after all:
/// it must not be sent again.
fn moves(now: Status, code: Option<&str>, attempts: u32, report: &Report) -> &'static [Status] {
    use Status::{Delivered, Failed, Queued, Sent};
    let is_in_doubt = match now {
        Queued => attempts > 0,
        Failed => code == Some(Code::UNKNOWN_OUTCOME.as_str()),
        _ => false,
    };
    match (report, now) {
        (Report::Taken, _) if is_in_doubt => &[Sent],
        (report, Queued) if is_in_doubt && report.shows_delivery() => &[Sent, Delivered],
        (report, Failed) if is_in_doubt && report.shows_delivery() => &[Delivered],
        (Report::Delivered, Sent) => &[Delivered],
        (Report::Failed { .. }, _) if is_in_doubt => &[Sent, Failed],
        (Report::Failed { .. }, Sent) | (Report::Failed { is_bounce: true, .. }, Delivered) => &[Failed],
        _ => &[],
    }
}

fn code_in(status: Status, report: &Report) -> Option<Code> {
    match (status, report) {
        (Status::Failed, Report::Failed { code, .. }) => Some(*code),
        _ => None,
    }
}

/// What a report says about the address itself.
fn change_list(tx: &mut Tx<'_>, address: &str, callback: &Callback, applied: &mut Applied) -> rusqlite::Result<()> {
    let (reason, list) = match &callback.report {
        Report::Failed { suppress: Some(reason), .. } => (*reason, None),
        Report::Complained => (SuppressionReason::Complained, None),
        Report::Unsubscribed { list } => (SuppressionReason::Unsubscribed, list.clone()),
        Report::Resubscribed { list } => {
            let list = list.as_ref().map_or("", ListName::as_str);
            let told = suppressions::Told { list: Some(list), by: Some(callback.at) };
            applied.released += suppressions::remove_in(tx, callback.channel, address, told, &[SuppressionReason::Unsubscribed])?;
            return Ok(());
        }
        _ => return Ok(()),
    };
    let entry = suppressions::Found { list: list.clone(), reason, source: callback.provider, at: callback.at };
    if suppressions::add_in(tx, callback.channel, address, entry)? {
        applied.suppressed.push(SuppressedAddress { channel: callback.channel, address: address.to_owned(), list, reason });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(now: &str, report: &Report, expected: &[Status]) {
        let (status, rest) = now.split_once(' ').unwrap_or((now, ""));
        let status: Status = status.parse().expect("a status");
        let found = moves(status, (status == Status::Failed).then_some(rest), rest.parse().unwrap_or(1), report);
        assert_eq!(found, expected, "{now}: {report:?}");
        // Each step is a move of the design's, but the one that proves that what waits has been sent.
        let mut from = status;
        for to in found {
            assert!(from.may_become(*to) || (from == Status::Queued && *to == Status::Sent), "{from} to {to}");
            from = *to;
        }
    }

    #[test]
    fn statuses_never_go_backwards() {
        use Status::{Delivered, Failed};
        let failed = Report::Failed { code: Code::UNDELIVERED, suppress: None, is_bounce: false };
        let bounced = Report::Failed { code: Code::BOUNCED, suppress: Some(SuppressionReason::Bounced), is_bounce: true };
        check("sent", &Report::Taken, &[]);
        check("sent", &Report::Delivered, &[Delivered]);
        check("sent", &failed, &[Failed]);
        check("delivered", &Report::Taken, &[]);
        check("delivered", &Report::Delivered, &[]);
        check("delivered", &failed, &[]);
        check("delivered", &bounced, &[Failed]);
        check("failed bounced", &Report::Taken, &[]);
        check("failed bounced", &Report::Delivered, &[]);
        check("failed bounced", &bounced, &[]);
        for over in ["expired", "cancelled", "suppressed"] {
            for report in [&Report::Taken, &Report::Delivered, &failed, &bounced] {
                check(over, report, &[]);
            }
        }
        for report in [Report::Opened, Report::Clicked, Report::Complained, Report::Unsubscribed { list: None }] {
            check("sent", &report, &[]);
        }
    }

    #[test]
    fn what_was_in_doubt_is_settled() {
        use Status::{Delivered, Failed, Sent};
        let failed = Report::Failed { code: Code::UNDELIVERED, suppress: None, is_bounce: false };
        check("failed unknown_outcome", &Report::Taken, &[Sent]);
        check("failed unknown_outcome", &Report::Delivered, &[Delivered]);
        check("failed unknown_outcome", &failed, &[Sent, Failed]);
        check("queued 1", &Report::Taken, &[Sent]);
        check("queued 2", &Report::Delivered, &[Sent, Delivered]);
        check("queued 1", &failed, &[Sent, Failed]);
        for report in [Report::Opened, Report::Clicked, Report::Complained] {
            check("failed unknown_outcome", &report, &[Delivered]);
            check("queued 1", &report, &[Sent, Delivered]);
            check("queued 0", &report, &[]);
        }
        // Never attempted: whatever it is about, it is not this.
        check("queued 0", &Report::Delivered, &[]);
        check("queued 0", &failed, &[]);
    }
}
