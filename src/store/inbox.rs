//! Inboxes and topics as their readers see them, and what users say of their items. An item that is deleted keeps its place.

use std::sync::Arc;

use rusqlite::{Connection, Row, params};

use super::{Head, Store, StoreError, attempt::mark_delivered_in, heads::head, tx::Tx, writer::Urgency};
use crate::model::{DeliveryKey, InboxItem, Place, Stream, Timestamp, Topic, UserId};

/// Items one page holds at most.
pub const ITEMS_PAGE_LIMIT: usize = 200;
/// Items one listing holds at most.
pub const INBOX_LIST_LIMIT: usize = 1000;
/// Items one change names at most.
pub const CHANGE_LIMIT: usize = 1000;

/// Items of one stream in ascending order.
#[derive(Clone, Debug)]
pub struct Replay {
    pub items: Vec<InboxItem>,
    /// Everything up to this seq is in `items` or is no more.
    pub through: i64,
    pub head: Head,
}

/// Which of a user's items to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct InboxFilter {
    /// Only unread ones, or only read ones.
    pub read: Option<bool>,
    pub archived: bool,
    /// Where an earlier page ended: items before this seq.
    pub before: Option<i64>,
    pub limit: usize,
}

/// A page of items, newest first.
#[derive(Clone, Debug)]
pub struct InboxPage {
    pub items: Vec<InboxItem>,
    /// Present when there is more.
    pub next_before: Option<i64>,
    pub head: Head,
}

/// Which items a change is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// By id; at most [`CHANGE_LIMIT`].
    Ids(Vec<i64>),
    /// All up to this seq.
    UpTo(i64),
    All,
}

/// What a user says of items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemChange {
    Seen,
    /// Seen too.
    Read,
    Unread,
    Archive,
    Unarchive,
    Delete,
}

impl ItemChange {
    pub const ALL: [Self; 6] = [Self::Seen, Self::Read, Self::Unread, Self::Archive, Self::Unarchive, Self::Delete];

    /// The word of frames and requests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Read => "read",
            Self::Unread => "unread",
            Self::Archive => "archive",
            Self::Unarchive => "unarchive",
            Self::Delete => "delete",
        }
    }
}

/// What a change did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Items that are different now.
    pub ids: Vec<i64>,
    /// Items the change named that exist, different or not.
    pub found: usize,
    pub unread: i64,
}

impl Store {
    /// What follows `after` in `stream`, up to `limit` items, and how far that covers it.
    pub async fn stream_since(&self, stream: Stream, after: i64, limit: usize) -> Result<Replay, StoreError> {
        let epoch = self.epoch.clone();
        self.read(move |connection| {
            // One snapshot: an item that arrives meanwhile is neither in the items nor counted as covered.
            let snapshot = connection.unchecked_transaction()?;
            let head = head(&snapshot, &stream)?;
            let items = items_since(&snapshot, &stream, after, limit.min(ITEMS_PAGE_LIMIT), &epoch)?;
            let through = match items.last() {
                Some(last) if items.len() >= limit.min(ITEMS_PAGE_LIMIT) => last.place.seq,
                _ => head.seq.max(after),
            };
            Ok(Replay { items, through, head })
        })
        .await
    }

    /// Items up to `since` whose state changed after the item at `since` came: at least those somebody who left then has not heard of.
    pub async fn inbox_changed(&self, user: UserId, since: i64, limit: usize) -> Result<Vec<i64>, StoreError> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id FROM inbox WHERE user_id = ?1 AND seq <= ?2 AND changed_at >=
                    coalesce((SELECT created_at FROM inbox WHERE user_id = ?1 AND seq <= ?2 ORDER BY seq DESC LIMIT 1), 0)
                 ORDER BY changed_at DESC LIMIT ?3",
            )?;
            let ids = statement.query_map(params![user.as_str(), since, limit], |row| row.get(0))?;
            Ok(ids.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// A page of a user's inbox, newest first.
    pub async fn inbox(&self, user: UserId, filter: InboxFilter) -> Result<InboxPage, StoreError> {
        let epoch = self.epoch.clone();
        self.read(move |connection| {
            let snapshot = connection.unchecked_transaction()?;
            let stream = Stream::User(user);
            let limit = filter.limit.clamp(1, INBOX_LIST_LIMIT);
            let archived = if filter.archived { "archived_at IS NOT NULL" } else { "archived_at IS NULL" };
            let read = match filter.read {
                None => "",
                Some(true) => "AND read_at IS NOT NULL",
                Some(false) => "AND read_at IS NULL",
            };
            let sql = format!(
                "SELECT {INBOX_COLUMNS} FROM inbox WHERE user_id = ?1 AND seq < ?2 AND deleted_at IS NULL AND {archived} {read}
                 ORDER BY seq DESC LIMIT ?3"
            );
            let items = read_items(&snapshot, &sql, &stream, filter.before.unwrap_or(i64::MAX), limit + 1, &epoch)?;
            Ok(page(items, limit, head(&snapshot, &stream)?))
        })
        .await
    }

    /// One item of a user's inbox.
    pub async fn inbox_item(&self, user: UserId, id: i64) -> Result<Option<InboxItem>, StoreError> {
        let epoch = self.epoch.clone();
        self.read(move |connection| {
            let sql = format!("SELECT {INBOX_COLUMNS} FROM inbox WHERE user_id = ?1 AND id = ?2 AND deleted_at IS NULL LIMIT ?3");
            Ok(read_items(connection, &sql, &Stream::User(user), id, 1, &epoch)?.pop())
        })
        .await
    }

    /// A page of a topic, newest first.
    pub async fn topic_items(&self, topic: Topic, before: Option<i64>, limit: usize) -> Result<InboxPage, StoreError> {
        let epoch = self.epoch.clone();
        self.read(move |connection| {
            let snapshot = connection.unchecked_transaction()?;
            let (stream, limit) = (Stream::Topic(topic), limit.clamp(1, ITEMS_PAGE_LIMIT));
            let sql = format!("SELECT {TOPIC_COLUMNS} FROM topic_items WHERE topic = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3");
            let items = read_items(&snapshot, &sql, &stream, before.unwrap_or(i64::MAX), limit + 1, &epoch)?;
            Ok(page(items, limit, head(&snapshot, &stream)?))
        })
        .await
    }

    /// Changes the state of a user's items. What they were brought by counts as delivered from then on.
    pub async fn change_items(&self, user: UserId, chosen: Chosen, change: ItemChange) -> Result<Changed, StoreError> {
        let rows = match &chosen {
            Chosen::Ids(ids) => ids.len(),
            Chosen::UpTo(_) | Chosen::All => CHANGE_LIMIT,
        };
        self.writer.write(Urgency::Normal, rows, move |tx| change_items(tx, &user, &chosen, change)).await
    }
}

fn page(items: Vec<InboxItem>, limit: usize, head: Head) -> InboxPage {
    let mut items = items;
    let has_more = items.len() > limit;
    items.truncate(limit);
    let next_before = if has_more { items.last().map(|item| item.place.seq) } else { None };
    InboxPage { items, next_before, head }
}

const INBOX_COLUMNS: &str = "id, seq, job, ordinal, notification, created_at, seen_at, read_at, archived_at";
const TOPIC_COLUMNS: &str = "id, seq, job, ordinal, notification, created_at, NULL, NULL, NULL";

fn items_since(connection: &Connection, stream: &Stream, after: i64, limit: usize, epoch: &Arc<str>) -> rusqlite::Result<Vec<InboxItem>> {
    let sql = match stream {
        Stream::User(_) => {
            format!("SELECT {INBOX_COLUMNS} FROM inbox WHERE user_id = ?1 AND seq > ?2 AND deleted_at IS NULL ORDER BY seq LIMIT ?3")
        }
        Stream::Topic(_) => format!("SELECT {TOPIC_COLUMNS} FROM topic_items WHERE topic = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3"),
        // Its events are the chat's to read.
        Stream::Conversation(_) => return Ok(Vec::new()),
    };
    read_items(connection, &sql, stream, after, limit, epoch)
}

/// `sql` takes the stream's key, a number and a limit.
fn read_items(
    connection: &Connection,
    sql: &str,
    stream: &Stream,
    number: i64,
    limit: usize,
    epoch: &Arc<str>,
) -> rusqlite::Result<Vec<InboxItem>> {
    let key = match stream {
        Stream::User(user) => user.as_str(),
        Stream::Topic(topic) => topic.as_str(),
        Stream::Conversation(_) => return Ok(Vec::new()),
    };
    let mut statement = connection.prepare_cached(sql)?;
    let items = statement.query_map(params![key, number, limit], |row| read_item(row, stream, epoch))?;
    items.collect()
}

fn read_item(row: &Row<'_>, stream: &Stream, epoch: &Arc<str>) -> rusqlite::Result<InboxItem> {
    let notification: String = row.get(4)?;
    let notification = serde_json::from_str(&notification)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(4, rusqlite::types::Type::Text, Box::new(error)))?;
    let moment = |column: usize| row.get::<_, Option<i64>>(column).map(|at| at.map(Timestamp::from_millis));
    Ok(InboxItem {
        id: row.get(0)?,
        place: Place { stream: stream.clone(), seq: row.get(1)? },
        epoch: epoch.clone(),
        created_at: Timestamp::from_millis(row.get(5)?),
        seen_at: moment(6)?,
        read_at: moment(7)?,
        archived_at: moment(8)?,
        notification,
        delivery: DeliveryKey { job: row.get(2)?, ordinal: row.get(3)? },
    })
}

fn change_items(tx: &mut Tx<'_>, user: &UserId, chosen: &Chosen, change: ItemChange) -> rusqlite::Result<Changed> {
    // What is set, and which items that makes a difference to.
    let (set, different) = match change {
        ItemChange::Seen => ("seen_at = ?3", "seen_at IS NULL"),
        ItemChange::Read => ("read_at = ?3, seen_at = coalesce(seen_at, ?3)", "read_at IS NULL"),
        ItemChange::Unread => ("read_at = NULL", "read_at IS NOT NULL"),
        ItemChange::Archive => ("archived_at = ?3, seen_at = coalesce(seen_at, ?3)", "archived_at IS NULL"),
        ItemChange::Unarchive => ("archived_at = NULL", "archived_at IS NOT NULL"),
        ItemChange::Delete => ("deleted_at = ?3, notification = '', collapse_key = NULL", "deleted_at IS NULL"),
    };
    let mut changed = Changed::default();
    let mut delivered = Vec::new();
    let mut apply = |which: &str, number: i64| -> rusqlite::Result<()> {
        changed.found += tx
            .connection
            .prepare_cached(&format!("SELECT count(*) FROM inbox WHERE user_id = ?1 AND {which} AND deleted_at IS NULL"))?
            .query_row((user.as_str(), number), |row| row.get::<_, usize>(0))?;
        let mut update = tx.connection.prepare_cached(&format!(
            "UPDATE inbox SET {set}, changed_at = ?3 WHERE user_id = ?1 AND {which} AND deleted_at IS NULL AND {different}
             RETURNING id, job, ordinal"
        ))?;
        let rows = update.query_map((user.as_str(), number, tx.now.as_millis()), |row| {
            Ok((row.get::<_, i64>(0)?, DeliveryKey { job: row.get(1)?, ordinal: row.get(2)? }))
        })?;
        for row in rows {
            let (id, delivery) = row?;
            changed.ids.push(id);
            delivered.push(delivery);
        }
        Ok(())
    };
    match chosen {
        Chosen::Ids(ids) => ids.iter().try_for_each(|id| apply("id = ?2", *id))?,
        Chosen::UpTo(seq) => apply("seq <= ?2", *seq)?,
        Chosen::All => apply("seq > ?2", 0)?,
    }
    if changed.ids.is_empty() {
        changed.unread = head(tx.connection, &Stream::User(user.clone()))?.unread;
        return Ok(changed);
    }
    // Counted anew over this user's own items: every change moves it in a way of its own.
    changed.unread = tx
        .connection
        .prepare_cached(
            "UPDATE inbox_users SET unread = (SELECT count(*) FROM inbox WHERE user_id = ?1 AND read_at IS NULL AND archived_at IS NULL
             AND deleted_at IS NULL) WHERE user_id = ?1 RETURNING unread",
        )?
        .query_row([user.as_str()], |row| row.get(0))?;
    mark_delivered_in(tx, &delivered)?;
    Ok(changed)
}
