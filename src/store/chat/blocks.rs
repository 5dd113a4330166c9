//! Who does not want to hear of whom.

use super::super::{Store, StoreError, writer::Urgency};
use crate::model::UserId;

/// People one user can block.
pub const BLOCKS_LIMIT: usize = 1000;

/// What became of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockAdded {
    Added,
    /// It was there.
    Known,
    /// There are [`BLOCKS_LIMIT`] already.
    Full,
}

impl Store {
    /// Whom `user` has blocked.
    pub async fn blocks(&self, user: UserId) -> Result<Vec<UserId>, StoreError> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached("SELECT blocked FROM chat_blocks WHERE user_id = ?1 ORDER BY blocked")?;
            let blocked = statement.query_map([user.as_str()], |row| super::user(row, 0))?;
            Ok(blocked.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Whether `user` has blocked `other`.
    pub async fn is_blocked(&self, user: UserId, other: UserId) -> Result<bool, StoreError> {
        self.read(move |connection| {
            let sql = "SELECT 1 FROM chat_blocks WHERE user_id = ?1 AND blocked = ?2";
            Ok(connection.prepare_cached(sql)?.exists((user.as_str(), other.as_str()))?)
        })
        .await
    }

    /// From now on `user` hears nothing of `other`: in a conversation of two neither can write, in a larger one their messages make no
    /// notice.
    pub async fn block(&self, user: UserId, other: UserId) -> Result<BlockAdded, StoreError> {
        self.writer
            .write(Urgency::Normal, 1, move |tx| {
                let known = "SELECT 1 FROM chat_blocks WHERE user_id = ?1 AND blocked = ?2";
                if tx.connection.prepare_cached(known)?.exists((user.as_str(), other.as_str()))? {
                    return Ok(BlockAdded::Known);
                }
                let count: usize = tx
                    .connection
                    .prepare_cached("SELECT count(*) FROM chat_blocks WHERE user_id = ?1")?
                    .query_row([user.as_str()], |row| row.get(0))?;
                if count >= BLOCKS_LIMIT {
                    return Ok(BlockAdded::Full);
                }
                tx.connection.prepare_cached("INSERT INTO chat_blocks (user_id, blocked, created_at) VALUES (?1, ?2, ?3)")?.execute((
                    user.as_str(),
                    other.as_str(),
                    tx.now.as_millis(),
                ))?;
                Ok(BlockAdded::Added)
            })
            .await
    }

    /// Takes a block back; false when there was none.
    pub async fn unblock(&self, user: UserId, other: UserId) -> Result<bool, StoreError> {
        self.writer
            .write(Urgency::Normal, 1, move |tx| {
                let gone = tx
                    .connection
                    .prepare_cached("DELETE FROM chat_blocks WHERE user_id = ?1 AND blocked = ?2")?
                    .execute((user.as_str(), other.as_str()))?;
                Ok(gone == 1)
            })
            .await
    }
}
