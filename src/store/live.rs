//! Live notifications on their way into their streams, and out again when their time is over. The first attempt at one may be part of
//! accept's own commit; all others come by the lane.
//!
//! A place is taken under the stream's own counter row in the commit that inserts the item, so that the order of commits is the order of
//! places. An item that is replaced keeps its place.

use std::sync::Arc;

use rusqlite::params;

use super::{
    Begin, Gate, Lease, Record, Store, StoreError,
    attempt::{apply_record, open_gate},
    tx::Tx,
    writer::{Committing, Urgency},
};
use crate::model::{Status, Stream, Timestamp, Topic, UserId};

/// Rows that a live notification touches on its way into its stream: delivery, attempt, item, and the stream's counter.
pub(super) const ROWS_PER_ITEM: usize = 4;

/// A live delivery about to be stored.
#[derive(Clone, Debug)]
pub struct LiveItem {
    pub begin: Begin,
    pub stream: Stream,
    /// The notification as it is stored, in JSON.
    pub notification: Arc<str>,
    pub collapse_key: Option<String>,
}

/// A live notification that is now in its stream, and `sent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveStored {
    pub id: i64,
    pub seq: i64,
    pub created_at: Timestamp,
    /// Of the user's inbox; 0 for a topic.
    pub unread: i64,
}

impl Store {
    /// Hands live notifications to the writer: attempts, items and `sent` of all of them in one commit, in order. Each answer is what was
    /// stored, or what the gate said instead.
    pub async fn send_live(
        &self,
        items: Arc<Vec<LiveItem>>,
        lease: Lease,
    ) -> Result<Committing<Vec<Result<LiveStored, Gate>>>, StoreError> {
        let inbox_limit = self.settings.inbox_limit;
        self.writer
            .enqueue(Urgency::Normal, items.len() * ROWS_PER_ITEM, move |tx| {
                let stored = items.iter().map(|item| open_and_store(tx, item, lease, inbox_limit)).collect::<rusqlite::Result<Vec<_>>>()?;
                fail::fail_point!("live-before-commit");
                Ok(stored)
            })
            .await
    }
}

fn open_and_store(tx: &mut Tx<'_>, item: &LiveItem, lease: Lease, inbox_limit: u32) -> rusqlite::Result<Result<LiveStored, Gate>> {
    match open_gate(tx, &item.begin, lease)? {
        Gate::Open { started_at } => store_begun(tx, item, started_at, inbox_limit).map(Ok),
        refused => Ok(Err(refused)),
    }
}

/// Puts the item of an attempt that has begun into its stream, and records the attempt as `sent`.
pub(super) fn store_begun(tx: &mut Tx<'_>, item: &LiveItem, started_at: Timestamp, inbox_limit: u32) -> rusqlite::Result<LiveStored> {
    let stored = match &item.stream {
        Stream::User(user) => insert_inbox(tx, item, user, inbox_limit)?,
        Stream::Topic(topic) => insert_topic(tx, item, topic, inbox_limit)?,
        // A live delivery names a user or a topic.
        Stream::Conversation(_) => return Err(rusqlite::Error::InvalidQuery),
    };
    let record = Record {
        key: item.begin.key,
        channel: item.begin.channel,
        number: item.begin.attempts + 1,
        provider: item.begin.provider,
        started_at,
        finished_at: tx.now,
        outcome: "sent",
        code: None,
        status_code: None,
        detail: None,
        provider_id: Some(stored.id.to_string()),
        address_gone: false,
        status: Status::Sent,
        due_at: tx.now,
    };
    apply_record(tx, &record)?;
    Ok(stored)
}

fn insert_inbox(tx: &Tx<'_>, item: &LiveItem, user: &UserId, limit: u32) -> rusqlite::Result<LiveStored> {
    let (user, now) = (user.as_str(), tx.now.as_millis());
    let replaced = match &item.collapse_key {
        None => 0,
        Some(key) => tx
            .connection
            .prepare_cached(
                "UPDATE inbox SET deleted_at = ?3, changed_at = ?3, notification = '', collapse_key = NULL
                 WHERE user_id = ?1 AND collapse_key = ?2 AND deleted_at IS NULL RETURNING read_at IS NULL AND archived_at IS NULL",
            )?
            .query_map((user, key, now), |row| row.get::<_, i64>(0))?
            .sum::<rusqlite::Result<i64>>()?,
    };
    let (seq, mut unread, floor): (i64, i64, i64) = tx
        .connection
        .prepare_cached(
            "INSERT INTO inbox_users (user_id, seq, unread) VALUES (?1, 1, 1)
             ON CONFLICT (user_id) DO UPDATE SET seq = seq + 1, unread = unread + 1 - ?2 RETURNING seq, unread, floor",
        )?
        .query_row((user, replaced), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    tx.connection
        .prepare_cached(
            "INSERT INTO inbox (user_id, seq, job, ordinal, notification, collapse_key, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![user, seq, item.begin.key.job, item.begin.key.ordinal, &*item.notification, item.collapse_key, now])?;
    let id = tx.connection.last_insert_rowid();
    let oldest = seq - i64::from(limit);
    if oldest > floor {
        let mut drop = tx.connection.prepare_cached(
            "DELETE FROM inbox WHERE user_id = ?1 AND seq <= ?2
             RETURNING created_at, read_at IS NULL AND archived_at IS NULL AND deleted_at IS NULL",
        )?;
        let mut floor_at = 0;
        for dropped in drop.query_map((user, oldest), |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))? {
            let (created_at, was_unread) = dropped?;
            floor_at = floor_at.max(created_at);
            unread -= was_unread;
        }
        tx.connection
            .prepare_cached("UPDATE inbox_users SET unread = ?2, floor = ?3, floor_at = max(floor_at, ?4) WHERE user_id = ?1")?
            .execute((user, unread, oldest, floor_at))?;
    }
    Ok(LiveStored { id, seq, created_at: tx.now, unread })
}

fn insert_topic(tx: &Tx<'_>, item: &LiveItem, topic: &Topic, limit: u32) -> rusqlite::Result<LiveStored> {
    let topic = topic.as_str();
    if let Some(key) = &item.collapse_key {
        tx.connection.prepare_cached("DELETE FROM topic_items WHERE topic = ?1 AND collapse_key = ?2")?.execute((topic, key))?;
    }
    let (seq, floor): (i64, i64) = tx
        .connection
        .prepare_cached(
            "INSERT INTO topics (topic, seq, floor, floor_at) VALUES (?1, 1, 0, 0)
             ON CONFLICT (topic) DO UPDATE SET seq = seq + 1 RETURNING seq, floor",
        )?
        .query_row([topic], |row| Ok((row.get(0)?, row.get(1)?)))?;
    tx.connection
        .prepare_cached(
            "INSERT INTO topic_items (topic, seq, job, ordinal, notification, collapse_key, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            topic,
            seq,
            item.begin.key.job,
            item.begin.key.ordinal,
            &*item.notification,
            item.collapse_key,
            tx.now.as_millis()
        ])?;
    let id = tx.connection.last_insert_rowid();
    let oldest = seq - i64::from(limit);
    if oldest > floor {
        let floor_at: Option<i64> = tx
            .connection
            .prepare_cached("SELECT max(created_at) FROM topic_items WHERE topic = ?1 AND seq <= ?2")?
            .query_row((topic, oldest), |row| row.get(0))?;
        tx.connection.prepare_cached("DELETE FROM topic_items WHERE topic = ?1 AND seq <= ?2")?.execute((topic, oldest))?;
        tx.connection.prepare_cached("UPDATE topics SET floor = ?2, floor_at = max(floor_at, ?3) WHERE topic = ?1")?.execute((
            topic,
            oldest,
            floor_at.unwrap_or(0),
        ))?;
    }
    Ok(LiveStored { id, seq, created_at: tx.now, unread: 0 })
}

/// Removes items older than `since`, a step at a time; says how many.
pub(super) fn purge_in(tx: &Tx<'_>, since: i64, step: usize) -> rusqlite::Result<u64> {
    let gone: Vec<(String, i64, i64, bool)> = tx
        .connection
        .prepare_cached(
            "DELETE FROM inbox WHERE id IN (SELECT id FROM inbox WHERE created_at < ?1 ORDER BY created_at LIMIT ?2)
             RETURNING user_id, seq, created_at, read_at IS NULL AND archived_at IS NULL AND deleted_at IS NULL",
        )?
        .query_map(params![since, step], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (user, seq, created_at, was_unread) in &gone {
        tx.connection
            .prepare_cached(
                "UPDATE inbox_users SET unread = unread - ?4, floor = max(floor, ?2), floor_at = max(floor_at, ?3) WHERE user_id = ?1",
            )?
            .execute(params![user, seq, created_at, was_unread])?;
    }
    let of_topics: Vec<(String, i64, i64)> = tx
        .connection
        .prepare_cached(
            "DELETE FROM topic_items WHERE id IN (SELECT id FROM topic_items WHERE created_at < ?1 ORDER BY created_at LIMIT ?2)
             RETURNING topic, seq, created_at",
        )?
        .query_map(params![since, step], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (topic, seq, created_at) in &of_topics {
        tx.connection
            .prepare_cached("UPDATE topics SET floor = max(floor, ?2), floor_at = max(floor_at, ?3) WHERE topic = ?1")?
            .execute((topic, seq, created_at))?;
    }
    Ok((gone.len() + of_topics.len()) as u64)
}
