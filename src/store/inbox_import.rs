//! Notifications taken over from another system, as items of inboxes, and what an import checks at its end.

use rusqlite::{OptionalExtension, params};
use serde_json::json;

use super::{Store, StoreError, tx::Tx, writer::Urgency};
use crate::model::{Timestamp, UserId};

/// A notification with the id it has elsewhere.
#[derive(Clone, Debug)]
pub struct ImportedNotification {
    pub id: i64,
    pub user: UserId,
    /// A [`crate::model::Notification`] as JSON.
    pub notification: String,
    pub created_at: Timestamp,
    pub read_at: Option<Timestamp>,
}

/// What one batch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImportedNotifications {
    pub added: u64,
    /// They were here.
    pub known: u64,
    /// Of those added: another item has their id here, so that they got a new one.
    pub renumbered: u64,
}

impl Store {
    /// Takes over notifications, the oldest first, in one commit. A batch can be given again. No delivery brought them, so none is counted;
    /// the number that would be its job's is the negative of their id elsewhere.
    pub async fn import_notifications(&self, batch: Vec<ImportedNotification>) -> Result<ImportedNotifications, StoreError> {
        self.writer
            .write(Urgency::Background, batch.len() * 2, move |tx| {
                let mut done = ImportedNotifications::default();
                for item in &batch {
                    import_item(tx, item, &mut done)?;
                }
                Ok(done)
            })
            .await
    }

    /// Those of `conversations` and `messages` that are not here.
    pub async fn not_imported(&self, conversations: Vec<i64>, messages: Vec<i64>) -> Result<(Vec<i64>, Vec<i64>), StoreError> {
        self.read(move |connection| {
            let missing = |table: &str, ids: &[i64]| -> rusqlite::Result<Vec<i64>> {
                let sql = format!("SELECT value FROM json_each(?1) WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE id = value)");
                connection.prepare_cached(&sql)?.query_map([json!(ids).to_string()], |row| row.get(0))?.collect()
            };
            Ok((missing("conversations", &conversations)?, missing("messages", &messages)?))
        })
        .await
    }
}

fn import_item(tx: &Tx<'_>, item: &ImportedNotification, done: &mut ImportedNotifications) -> rusqlite::Result<()> {
    let mut known = tx.connection.prepare_cached("SELECT 1 FROM inbox WHERE job = ?1 AND ordinal = 0")?;
    if known.exists([-item.id])? {
        done.known += 1;
        return Ok(());
    }
    done.added += 1;
    let taken: Option<i64> =
        tx.connection.prepare_cached("SELECT id FROM inbox WHERE id = ?1")?.query_row([item.id], |row| row.get(0)).optional()?;
    done.renumbered += u64::from(taken.is_some());
    let seq: i64 = tx
        .connection
        .prepare_cached(
            "INSERT INTO inbox_users (user_id, seq, unread) VALUES (?1, 1, ?2)
             ON CONFLICT (user_id) DO UPDATE SET seq = seq + 1, unread = unread + ?2 RETURNING seq",
        )?
        .query_row((item.user.as_str(), item.read_at.is_none()), |row| row.get(0))?;
    tx.connection
        .prepare_cached(
            "INSERT INTO inbox (id, user_id, seq, job, ordinal, notification, created_at, seen_at, read_at)
             VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6, ?7, ?7)",
        )?
        .execute(params![
            taken.is_none().then_some(item.id),
            item.user.as_str(),
            seq,
            -item.id,
            item.notification,
            item.created_at.as_millis(),
            item.read_at.map(Timestamp::as_millis),
        ])?;
    Ok(())
}
