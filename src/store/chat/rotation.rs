//! How far a change of keys has come. Which keys they are, only their name tells, and that only to who has them.

use rusqlite::OptionalExtension;

use super::super::{Store, StoreError, writer::Urgency};
use crate::model::MessageId;

/// Where the row of `meta` says it: the key's name, a space, the message's id.
const POSITION_KEY: &str = "chat_rotation";

impl Store {
    /// Up to which message everything is sealed with the key of this name, as far as an unfinished change of keys has come; 0 when there
    /// is none.
    pub async fn chat_rotation(&self, key: String) -> Result<MessageId, StoreError> {
        let kept: Option<String> = self
            .read(|connection| {
                let sql = "SELECT value FROM meta WHERE key = ?1";
                Ok(connection.prepare_cached(sql)?.query_row([POSITION_KEY], |row| row.get(0)).optional()?)
            })
            .await?;
        let position = kept.as_deref().and_then(|kept| kept.strip_prefix(&key)).and_then(|rest| rest.trim().parse().ok());
        Ok(MessageId(position.unwrap_or(0)))
    }

    /// Keeps how far the change to this key has come; `None` when it is done.
    pub async fn keep_chat_rotation(&self, key: String, position: Option<MessageId>) -> Result<(), StoreError> {
        self.writer
            .write(Urgency::Background, 1, move |tx| {
                match position {
                    Some(position) => tx
                        .connection
                        .prepare_cached(
                            "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                        )?
                        .execute((POSITION_KEY, format!("{key} {position}")))?,
                    None => tx.connection.prepare_cached("DELETE FROM meta WHERE key = ?1")?.execute([POSITION_KEY])?,
                };
                Ok(())
            })
            .await
    }

    /// The largest id of any message; 0 when there is none.
    pub async fn last_message_id(&self) -> Result<MessageId, StoreError> {
        self.read(|connection| {
            let sql = "SELECT coalesce(max(id), 0) FROM messages";
            Ok(MessageId(connection.prepare_cached(sql)?.query_row((), |row| row.get(0))?))
        })
        .await
    }
}
