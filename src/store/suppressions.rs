//! Addresses that are not written to any more.
//!
//! An address is kept in canonical form, see [`canonical_address`]. `list` names a kind of mail; the empty one is all of them.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use serde::Serialize;

use super::{Store, StoreError, attempt::Begin, tx::Tx, writer::Urgency};
use crate::model::{Channel, ListName, SuppressionKey, SuppressionReason, Timestamp, canonical_address};

/// Entries one page may hold.
pub const SUPPRESSIONS_PAGE_LIMIT: usize = 1000;
/// Rows one page looks at before it hands out a cursor, however few matched.
const SCAN_LIMIT: usize = 5000;

/// How long addresses stay on the list that came on it for a reason that passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuppressionExpiry {
    pub bounced: Duration,
    pub unregistered: Duration,
}

/// The list as the last commit left it.
#[derive(Debug)]
pub(super) struct SuppressionList {
    expiry: SuppressionExpiry,
    /// Rows, those that have expired and are not purged yet included.
    rows: AtomicI64,
}

/// An address to put on the list.
#[derive(Clone, Debug)]
pub struct NewSuppression {
    pub key: SuppressionKey,
    pub reason: SuppressionReason,
    /// A provider, or who added it.
    pub source: String,
    /// Absent: never.
    pub expires_at: Option<Timestamp>,
}

/// What became of addresses put on the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Suppressed {
    /// Were not on it.
    pub added: u64,
    /// Were on it, and stay longer or for a weightier reason now.
    pub changed: u64,
    /// Were on it for as long and as weighty a reason.
    pub kept: u64,
}

/// An entry, as operators see it: with the address, which is what it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[schemars(rename = "Suppression")]
pub struct SuppressionView {
    #[serde(flatten)]
    pub key: SuppressionKey,
    pub reason: SuppressionReason,
    pub source: String,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
}

/// Which entries to list, by channel, address and list.
#[derive(Clone, Debug, Default)]
pub struct SuppressionFilter {
    pub channel: Option<Channel>,
    pub reason: Option<SuppressionReason>,
    /// In canonical form.
    pub address: Option<String>,
    /// Where an earlier page ended.
    pub cursor: Option<SuppressionKey>,
    pub limit: usize,
}

#[derive(Clone, Debug)]
pub struct SuppressionPage {
    pub suppressions: Vec<SuppressionView>,
    /// Present when there may be more; a page can be short, even empty, and still have one.
    pub next_cursor: Option<SuppressionKey>,
}

/// What putting an address on the list did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    Added,
    Changed,
    Kept,
}

impl Store {
    /// Puts addresses on the list, in one commit. Of two entries for the same the one that lasts longer stays, or the weightier.
    pub async fn suppress(&self, entries: Vec<NewSuppression>) -> Result<Suppressed, StoreError> {
        self.writer
            .write(Urgency::Normal, entries.len(), move |tx| {
                let mut done = Suppressed::default();
                for entry in &entries {
                    match put(tx, &entry.key, entry.reason, &entry.source, entry.expires_at, tx.now)? {
                        Put::Added => done.added += 1,
                        Put::Changed => done.changed += 1,
                        Put::Kept => done.kept += 1,
                    }
                }
                Ok(done)
            })
            .await
    }

    /// Takes exactly these entries off the list; how many were on it.
    pub async fn unsuppress(&self, keys: Vec<SuppressionKey>) -> Result<u64, StoreError> {
        self.writer
            .write(Urgency::Normal, keys.len(), move |tx| {
                let mut removed = 0;
                for key in &keys {
                    let gone = tx
                        .connection
                        .prepare_cached("DELETE FROM suppressions WHERE channel = ?1 AND address = ?2 AND list = ?3")?
                        .execute((key.channel.as_number(), &key.address, list_column(key.list.as_ref())))?;
                    tx.count_suppressions(-rows(gone));
                    removed += gone as u64;
                }
                Ok(removed)
            })
            .await
    }

    /// Entries that are in force and match `filter`.
    pub async fn suppressions(&self, filter: SuppressionFilter) -> Result<SuppressionPage, StoreError> {
        let now = Timestamp::now();
        self.read(move |connection| Ok(list(connection, &filter, now)?)).await
    }

    /// Entries on the list.
    pub fn suppression_count(&self) -> i64 {
        self.suppressions.rows()
    }

    /// What unsubscribe links are sealed with: 32 bytes in Base64 (RFC 4648, section 5), the same for as long as this store lives.
    pub fn unsubscribe_key(&self) -> &secrecy::SecretString {
        &self.unsubscribe_key
    }
}

impl SuppressionList {
    pub fn open(connection: &Connection, expiry: SuppressionExpiry) -> rusqlite::Result<Self> {
        let rows = connection.query_row("SELECT count(*) FROM suppressions", (), |row| row.get(0))?;
        Ok(Self { expiry, rows: AtomicI64::new(rows) })
    }

    pub fn rows(&self) -> i64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Only the writer's thread does.
    pub fn publish(&self, change: i64) {
        self.rows.fetch_add(change, Ordering::Relaxed);
    }

    /// When an address that came on the list now leaves it; `None` is never.
    fn expires_at(&self, reason: SuppressionReason, now: Timestamp) -> Option<Timestamp> {
        match reason {
            SuppressionReason::Bounced => Some(now.saturating_add(self.expiry.bounced)),
            SuppressionReason::Unregistered => Some(now.saturating_add(self.expiry.unregistered)),
            _ => None,
        }
    }
}

impl Tx<'_> {
    /// Why nothing may be sent to this address, if so. Costs nothing while the list is empty.
    pub fn suppressed_for(&self, channel: Channel, address: &str, list: Option<&str>) -> rusqlite::Result<Option<String>> {
        if !self.has_suppressions() {
            return Ok(None);
        }
        // What has no canonical form (a push topic, an inbox) cannot be on the list.
        match canonical_address(channel, address) {
            Ok(address) => reason(self.connection, channel, &address, list, self.now),
            Err(_) => Ok(None),
        }
    }
}

/// Whether nothing may be sent to where this delivery goes.
pub(super) fn holds_back(tx: &Tx<'_>, begin: &Begin) -> rusqlite::Result<bool> {
    if !tx.has_suppressions() {
        return Ok(false);
    }
    let address: Option<String> = tx
        .connection
        .prepare_cached("SELECT address FROM deliveries WHERE job = ?1 AND ordinal = ?2")?
        .query_row((begin.key.job, begin.key.ordinal), |row| row.get(0))
        .optional()?;
    let Some(address) = address else { return Ok(false) };
    Ok(tx.suppressed_for(begin.channel, &address, begin.list.as_deref())?.is_some())
}

/// Why nothing may be sent there, if so. The address is canonical.
pub(super) fn reason(
    connection: &Connection,
    channel: Channel,
    address: &str,
    list: Option<&str>,
    now: Timestamp,
) -> rusqlite::Result<Option<String>> {
    connection
        .prepare_cached(
            "SELECT reason FROM suppressions WHERE channel = ?1 AND address = ?2 AND (list = '' OR list = ?3)
             AND (expires_at IS NULL OR expires_at > ?4) LIMIT 1",
        )?
        .query_row((channel.as_number(), address, list.unwrap_or_default(), now.as_millis()), |row| row.get(0))
        .optional()
}

/// What was found out about an address.
pub(super) struct Found<'a> {
    pub list: Option<ListName>,
    pub reason: SuppressionReason,
    pub source: &'a str,
    /// When it was so.
    pub at: Timestamp,
}

/// What no longer holds of an address.
#[derive(Clone, Copy, Default)]
pub(super) struct Told<'a> {
    /// The empty one is all mail. Absent: every list.
    pub list: Option<&'a str>,
    /// An entry made after this moment stays: the news is older than it. Absent: it is news of now.
    pub by: Option<Timestamp>,
}

/// Puts an address on the list for as long as the settings say, as part of another write. A device that is gone is forgotten as well.
/// True when the address was not on the list; false too when it is nothing that can be.
pub(super) fn add_in(tx: &mut Tx<'_>, channel: Channel, address: &str, found: Found<'_>) -> rusqlite::Result<bool> {
    let Found { list, reason, source, at } = found;
    let Ok(key) = SuppressionKey::new(channel, address, list) else { return Ok(false) };
    if channel == Channel::Push && reason == SuppressionReason::Unregistered {
        tx.connection.prepare_cached("DELETE FROM push_tokens WHERE token = ?1")?.execute([&key.address])?;
    }
    let expires_at = tx.suppressions.expires_at(reason, tx.now);
    Ok(put(tx, &key, reason, source, expires_at, at)? == Put::Added)
}

/// Takes an address off the list if it is there for one of these reasons, as part of another write; how many entries that were.
pub(super) fn remove_in(
    tx: &mut Tx<'_>,
    channel: Channel,
    address: &str,
    told: Told<'_>,
    reasons: &[SuppressionReason],
) -> rusqlite::Result<u64> {
    if !tx.has_suppressions() {
        return Ok(0);
    }
    let Ok(address) = canonical_address(channel, address) else { return Ok(0) };
    let mut removed = 0;
    for reason in reasons {
        let gone = tx
            .connection
            .prepare_cached(
                "DELETE FROM suppressions WHERE channel = ?1 AND address = ?2 AND reason = ?3 AND (?4 IS NULL OR list = ?4)
                 AND (?5 IS NULL OR created_at <= ?5)",
            )?
            .execute((channel.as_number(), &address, reason.as_str(), told.list, told.by.map(Timestamp::as_millis)))?;
        removed += gone;
    }
    tx.count_suppressions(-rows(removed));
    Ok(removed as u64)
}

/// Removes entries that are over, up to `limit`.
pub(super) fn purge_in(tx: &mut Tx<'_>, limit: usize) -> rusqlite::Result<u64> {
    let gone = tx
        .connection
        .prepare_cached(
            "DELETE FROM suppressions WHERE (channel, address, list) IN
             (SELECT channel, address, list FROM suppressions WHERE expires_at IS NOT NULL AND expires_at <= ?1 LIMIT ?2)",
        )?
        .execute(params![tx.now.as_millis(), limit])?;
    tx.count_suppressions(-rows(gone));
    Ok(gone as u64)
}

fn put(
    tx: &mut Tx<'_>,
    key: &SuppressionKey,
    reason: SuppressionReason,
    source: &str,
    expires_at: Option<Timestamp>,
    at: Timestamp,
) -> rusqlite::Result<Put> {
    let place = (key.channel.as_number(), &key.address, list_column(key.list.as_ref()));
    let present = tx
        .connection
        .prepare_cached("SELECT expires_at, reason FROM suppressions WHERE channel = ?1 AND address = ?2 AND list = ?3")?
        .query_row(place, |row| Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, String>(1)?)))
        .optional()?;
    let result = match &present {
        None => Put::Added,
        // It is over, and merely not purged yet.
        Some((Some(until), _)) if *until <= tx.now.as_millis() => Put::Added,
        Some((until, present)) => {
            let weight = |until: Option<i64>, reason: SuppressionReason| (until.unwrap_or(i64::MAX), reason);
            // A reason of a later version, which we do not know, is not ours to replace.
            let present = present.parse().unwrap_or(SuppressionReason::Manual);
            if weight(expires_at.map(Timestamp::as_millis), reason) > weight(*until, present) { Put::Changed } else { Put::Kept }
        }
    };
    if result == Put::Kept {
        // It was so again: what takes it back has to come after that.
        tx.connection
            .prepare_cached(
                "UPDATE suppressions SET created_at = max(created_at, ?5) WHERE channel = ?1 AND address = ?2 AND list = ?3 AND reason = ?4",
            )?
            .execute((place.0, place.1, place.2, reason.as_str(), at.as_millis()))?;
        return Ok(result);
    }
    tx.connection
        .prepare_cached(
            "INSERT INTO suppressions (channel, address, list, reason, source, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (channel, address, list) DO UPDATE
             SET reason = excluded.reason, source = excluded.source, created_at = excluded.created_at, expires_at = excluded.expires_at",
        )?
        .execute(params![place.0, place.1, place.2, reason.as_str(), source, at.as_millis(), expires_at.map(Timestamp::as_millis)])?;
    if present.is_none() {
        tx.count_suppressions(1);
    }
    Ok(result)
}

fn list(connection: &Connection, filter: &SuppressionFilter, now: Timestamp) -> rusqlite::Result<SuppressionPage> {
    // Each form walks the primary key; what it does not narrow is checked row by row.
    let channels: Vec<Channel> = match filter.channel {
        Some(channel) => vec![channel],
        None => Channel::ALL.into_iter().filter(|channel| filter.cursor.as_ref().is_none_or(|cursor| *channel >= cursor.channel)).collect(),
    };
    let mut page = SuppressionPage { suppressions: Vec::new(), next_cursor: None };
    let mut scanned = 0;
    for channel in channels {
        let after = filter.cursor.as_ref().filter(|cursor| cursor.channel == channel);
        let (address, list) = after.map_or(("", ""), |key| (key.address.as_str(), list_column(key.list.as_ref())));
        let mut sql = "SELECT channel, address, list, reason, source, created_at, expires_at FROM suppressions
                       WHERE channel = ?1 AND (address, list) > (?2, ?3)"
            .to_owned();
        let number = channel.as_number();
        let mut values: Vec<&dyn ToSql> = vec![&number, &address, &list];
        if let Some(only) = &filter.address {
            sql.push_str(" AND address = ?4");
            values.push(only);
        }
        sql.push_str(" ORDER BY address, list");
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query(&values[..])?;
        while let Some(row) = rows.next()? {
            scanned += 1;
            let view = read_view(row)?;
            let key = view.key.clone();
            let is_in_force = view.expires_at.is_none_or(|until| until > now);
            if is_in_force && filter.reason.is_none_or(|reason| view.reason == reason) {
                page.suppressions.push(view);
            }
            if page.suppressions.len() >= filter.limit || scanned >= SCAN_LIMIT {
                page.next_cursor = Some(key);
                return Ok(page);
            }
        }
    }
    Ok(page)
}

fn read_view(row: &Row<'_>) -> rusqlite::Result<SuppressionView> {
    let unreadable = |column: usize, reason: String| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            rusqlite::types::Type::Text,
            Box::<dyn std::error::Error + Send + Sync>::from(reason),
        )
    };
    let list: String = row.get(2)?;
    Ok(SuppressionView {
        key: SuppressionKey {
            channel: Channel::from_number(row.get(0)?).ok_or_else(|| unreadable(0, "unknown channel".to_owned()))?,
            address: row.get(1)?,
            list: if list.is_empty() { None } else { Some(list.parse().map_err(|reason| unreadable(2, reason))?) },
        },
        reason: row.get::<_, String>(3)?.parse().map_err(|reason| unreadable(3, reason))?,
        source: row.get(4)?,
        created_at: Timestamp::from_millis(row.get(5)?),
        expires_at: row.get::<_, Option<i64>>(6)?.map(Timestamp::from_millis),
    })
}

fn list_column(list: Option<&ListName>) -> &str {
    list.map_or("", ListName::as_str)
}

fn rows(changed: usize) -> i64 {
    i64::try_from(changed).unwrap_or(i64::MAX)
}
