//! Leases: taking due deliveries into a lane's memory, keeping them, giving them back.

use std::{collections::HashMap, sync::Arc};

use rusqlite::{Row, params};

use super::{Lease, Store, StoreError, tx::Tx, writer::Urgency};
use crate::model::{Address, Channel, Code, Delivery, DeliveryId, DeliveryKey, Envelope, Priority, Status, Timestamp};

/// What a claim brought.
#[derive(Debug, Default)]
pub struct Claimed {
    pub deliveries: Vec<Delivery>,
    /// By priority, when the earliest delivery still unclaimed is due; [`Timestamp::FAR_FUTURE`] when there is none.
    pub next_due: [Timestamp; 3],
    /// Rows that do not read back, now failed as `unreadable`.
    pub unreadable: Vec<(DeliveryId, String)>,
}

/// An attempt that an earlier incarnation recorded and never finished.
#[derive(Debug)]
pub struct Interrupted {
    pub delivery: Delivery,
    pub provider: String,
    pub started_at: Timestamp,
}

/// The columns [`read_delivery`] wants, in its order.
const COLUMNS: &str =
    "d.job, d.ordinal, d.channel, d.priority, d.user_id, d.address, d.locale, d.timezone, d.attempts, d.due_at, d.expires_at,
     CASE d.pinned WHEN 1 THEN d.provider END";

impl Store {
    /// Leases up to `wanted` due deliveries of each priority.
    pub async fn claim(&self, channel: Channel, wanted: [usize; 3], lease: Lease) -> Result<Claimed, StoreError> {
        self.writer.write(Urgency::Normal, wanted.iter().sum(), move |tx| claim(tx, channel, wanted, lease)).await
    }

    /// Prolongs every lease this incarnation holds on deliveries that wait in `channel`'s lane.
    pub async fn renew_leases(&self, channel: Channel, lease: Lease) -> Result<usize, StoreError> {
        self.set_lease(channel, lease.owner, lease.owner, lease.until).await
    }

    /// Gives back every delivery of `channel` that waits in memory without an attempt under way.
    pub async fn give_back(&self, channel: Channel, owner: i64) -> Result<usize, StoreError> {
        self.set_lease(channel, owner, 0, Timestamp::from_millis(0)).await
    }

    /// Gives back deliveries of ours that wait in memory, to be taken again from `due_at` on.
    pub async fn postpone(&self, keys: Vec<DeliveryKey>, due_at: Timestamp) -> Result<(), StoreError> {
        let owner = self.owner();
        self.writer
            .write(Urgency::Normal, keys.len(), move |tx| {
                for key in &keys {
                    tx.connection
                        .prepare_cached(
                            "UPDATE deliveries SET due_at = ?4, lease_owner = 0 WHERE job = ?1 AND ordinal = ?2 AND status = 0 AND lease_owner = ?3",
                        )?
                        .execute((key.job, key.ordinal, owner, due_at.as_millis()))?;
                }
                Ok(())
            })
            .await
    }

    async fn set_lease(&self, channel: Channel, owner: i64, new_owner: i64, until: Timestamp) -> Result<usize, StoreError> {
        self.writer
            .write(Urgency::Normal, 1, move |tx| {
                let mut changed = 0;
                for priority in Priority::ALL {
                    changed += tx
                        .connection
                        .prepare_cached(
                            "UPDATE deliveries INDEXED BY deliveries_due SET lease_owner = ?4, lease_until = ?5
                             WHERE status = 0 AND channel = ?1 AND priority = ?2 AND lease_owner = ?3",
                        )?
                        .execute((channel.as_number(), priority.as_number(), owner, new_owner, until.as_millis()))?;
                }
                Ok(changed)
            })
            .await
    }

    /// Attempts recorded by an earlier incarnation and never finished: their outcomes are unknown. Rows that do not read back fail as
    /// `unreadable`: one of them must not keep the others.
    pub async fn interrupted(&self) -> Result<Vec<Interrupted>, StoreError> {
        let owner = self.owner();
        let (interrupted, unreadable) = self.read(move |connection| Ok(read_interrupted(connection, owner)?)).await?;
        if !unreadable.is_empty() {
            let rows = unreadable.len();
            let fail = move |tx: &mut Tx<'_>| {
                unreadable.iter().try_for_each(|(key, channel)| fail_unreadable(tx, *key, *channel, Status::Sending))
            };
            self.writer.write(Urgency::Normal, rows, fail).await?;
        }
        Ok(interrupted)
    }
}

type Unreadable = Vec<(DeliveryKey, Channel)>;

fn read_interrupted(connection: &rusqlite::Connection, owner: i64) -> rusqlite::Result<(Vec<Interrupted>, Unreadable)> {
    let mut statement = connection.prepare(&format!(
        "SELECT {COLUMNS}, j.key, j.envelope, d.provider, d.attempt_at FROM deliveries d INDEXED BY deliveries_open
         JOIN jobs j ON j.num = d.job WHERE d.status <= 1 AND d.status = 1 AND d.lease_owner <> ?1"
    ))?;
    let mut rows = statement.query([owner])?;
    let (mut interrupted, mut unreadable) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        let delivery = serde_json::from_str(&row.get::<_, String>(13)?)
            .map_err(|error| error.to_string())
            .and_then(|envelope: Envelope| read_delivery(row, row.get(12).map_err(|error| error.to_string())?, Arc::new(envelope)));
        if let Ok(delivery) = delivery {
            let started_at = Timestamp::from_millis(row.get::<_, Option<i64>>(15)?.unwrap_or_default());
            interrupted.push(Interrupted { delivery, provider: row.get::<_, Option<String>>(14)?.unwrap_or_default(), started_at });
        } else if let Some(channel) = Channel::from_number(row.get(2)?) {
            unreadable.push((DeliveryKey { job: row.get(0)?, ordinal: row.get(1)? }, channel));
        }
    }
    Ok((interrupted, unreadable))
}

/// Voids every lease of earlier incarnations on deliveries that were waiting. On SQLite one process holds the file, so all of them.
pub(super) fn void_leases(connection: &rusqlite::Connection) -> rusqlite::Result<usize> {
    let mut voided = 0;
    for channel in Channel::ALL {
        for priority in Priority::ALL {
            voided += connection.execute(
                "UPDATE deliveries INDEXED BY deliveries_due SET lease_owner = 0
                 WHERE status = 0 AND channel = ?1 AND priority = ?2 AND lease_owner > 0",
                (channel.as_number(), priority.as_number()),
            )?;
        }
    }
    Ok(voided)
}

fn claim(tx: &mut Tx<'_>, channel: Channel, wanted: [usize; 3], lease: Lease) -> rusqlite::Result<Claimed> {
    let mut claimed = Claimed::default();
    let mut envelopes: HashMap<i64, Result<KeyedEnvelope, String>> = HashMap::new();
    for (priority, wanted) in Priority::ALL.into_iter().zip(wanted) {
        let keys = due_keys(tx, channel, priority, wanted)?;
        for key in keys {
            let (job_key, envelope) = match envelopes.entry(key.job).or_insert_with(|| read_envelope(tx, key.job)) {
                Ok((job_key, envelope)) => (*job_key, Ok(envelope.clone())),
                Err(reason) => ([0; 12], Err(reason.clone())),
            };
            let delivery = tx
                .connection
                .prepare_cached(&format!("SELECT {COLUMNS} FROM deliveries d WHERE job = ?1 AND ordinal = ?2"))?
                .query_row((key.job, key.ordinal), |row| Ok(envelope.and_then(|envelope| read_delivery(row, job_key, envelope))))?;
            match delivery {
                Ok(delivery) => {
                    tx.connection
                        .prepare_cached("UPDATE deliveries SET lease_owner = ?3, lease_until = ?4 WHERE job = ?1 AND ordinal = ?2")?
                        .execute((key.job, key.ordinal, lease.owner, lease.until.as_millis()))?;
                    claimed.deliveries.push(delivery);
                }
                Err(reason) => {
                    fail_unreadable(tx, key, channel, Status::Queued)?;
                    claimed.unreadable.push((DeliveryId::new(job_key, key.ordinal), reason));
                }
            }
        }
        claimed.next_due[priority as usize] = earliest_due(tx, channel, priority)?;
    }
    Ok(claimed)
}

fn due_keys(tx: &Tx<'_>, channel: Channel, priority: Priority, wanted: usize) -> rusqlite::Result<Vec<DeliveryKey>> {
    tx.connection
        .prepare_cached(
            "SELECT job, ordinal FROM deliveries INDEXED BY deliveries_due
             WHERE status = 0 AND channel = ?1 AND priority = ?2 AND lease_owner = 0 AND due_at <= ?3 ORDER BY due_at LIMIT ?4",
        )?
        .query_map(params![channel.as_number(), priority.as_number(), tx.now.as_millis(), wanted], |row| {
            Ok(DeliveryKey { job: row.get(0)?, ordinal: row.get(1)? })
        })?
        .collect()
}

fn earliest_due(tx: &Tx<'_>, channel: Channel, priority: Priority) -> rusqlite::Result<Timestamp> {
    let due: Option<i64> = tx
        .connection
        .prepare_cached(
            "SELECT min(due_at) FROM deliveries INDEXED BY deliveries_due WHERE status = 0 AND channel = ?1 AND priority = ?2 AND lease_owner = 0",
        )?
        .query_row((channel.as_number(), priority.as_number()), |row| row.get(0))?;
    Ok(due.map_or(Timestamp::FAR_FUTURE, Timestamp::from_millis))
}

/// A job's part of its deliveries' ids, and what they share.
type KeyedEnvelope = ([u8; 12], Arc<Envelope>);

fn read_envelope(tx: &Tx<'_>, job: i64) -> Result<KeyedEnvelope, String> {
    let row = tx
        .connection
        .prepare_cached("SELECT key, envelope FROM jobs WHERE num = ?1")
        .and_then(|mut statement| statement.query_row([job], |row| Ok((row.get::<_, [u8; 12]>(0)?, row.get::<_, String>(1)?))));
    let (key, envelope) = row.map_err(|error| format!("job row {job}: {error}"))?;
    let envelope = serde_json::from_str(&envelope).map_err(|error| format!("job row {job}: {error}"))?;
    Ok((key, Arc::new(envelope)))
}

fn read_delivery(row: &Row<'_>, job_key: [u8; 12], job: Arc<Envelope>) -> Result<Delivery, String> {
    let get = |error: rusqlite::Error| error.to_string();
    let parse = |text: Option<String>| text.map(|text| text.parse()).transpose();
    let key = DeliveryKey { job: row.get(0).map_err(get)?, ordinal: row.get(1).map_err(get)? };
    let channel = Channel::from_number(row.get(2).map_err(get)?).ok_or("unknown channel")?;
    Ok(Delivery {
        key,
        id: DeliveryId::new(job_key, key.ordinal),
        job,
        channel,
        priority: Priority::from_number(row.get(3).map_err(get)?).ok_or("unknown priority")?,
        user_id: parse(row.get(4).map_err(get)?)?,
        address: Address::from_stored(channel, &row.get::<_, String>(5).map_err(get)?)?,
        locale: row.get::<_, Option<String>>(6).map_err(get)?.map(|text| text.parse()).transpose()?,
        timezone: row.get::<_, Option<String>>(7).map_err(get)?.map(|text| text.parse()).transpose()?,
        attempts: row.get(8).map_err(get)?,
        due_at: Timestamp::from_millis(row.get(9).map_err(get)?),
        expires_at: Timestamp::from_millis(row.get(10).map_err(get)?),
        pinned: row.get::<_, Option<String>>(11).map_err(get)?.map(Into::into),
    })
}

/// A row that does not read back would be claimed for ever: it fails with a code that a person can look for.
fn fail_unreadable(tx: &mut Tx<'_>, key: DeliveryKey, channel: Channel, from: Status) -> rusqlite::Result<()> {
    let failed = tx
        .connection
        .prepare_cached(
            "UPDATE deliveries SET status = 4, code = ?3, lease_owner = 0, updated_at = ?4 WHERE job = ?1 AND ordinal = ?2 AND status = ?5",
        )?
        .execute((key.job, key.ordinal, Code::UNREADABLE.as_str(), tx.now.as_millis(), from.as_number()))?;
    if failed == 1 {
        tx.count_moved(key, channel, from, Status::Failed)?;
    }
    Ok(())
}
