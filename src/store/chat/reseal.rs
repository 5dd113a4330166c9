//! Sealing what is stored anew, under another key, beside the work of the day.

use rusqlite::params;

use super::super::{Store, StoreError, writer::Urgency};
use crate::model::{ConversationId, MessageId};

/// Messages one page of sealed texts holds at most.
const PAGE_LIMIT: usize = 1000;

/// What a message says, sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedMessage {
    pub id: MessageId,
    pub conversation: ConversationId,
    pub sealed: String,
}

/// A sealed text to be put in the place of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reseal {
    pub id: MessageId,
    pub old: String,
    pub new: String,
}

impl Store {
    /// Sealed texts of the messages after `after`, in the order of their ids, without the deleted ones.
    pub async fn sealed_page(&self, after: MessageId, limit: usize) -> Result<Vec<SealedMessage>, StoreError> {
        self.read(move |connection| {
            let mut statement = connection
                .prepare_cached("SELECT id, conversation, sealed FROM messages WHERE id > ?1 AND sealed <> '' ORDER BY id LIMIT ?2")?;
            let page = statement.query_map(params![after.0, limit.clamp(1, PAGE_LIMIT)], |row| {
                Ok(SealedMessage { id: MessageId(row.get(0)?), conversation: ConversationId(row.get(1)?), sealed: row.get(2)? })
            })?;
            Ok(page.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Puts sealed texts in the place of others, where those are still there, in one commit behind everything else in the writer's queue;
    /// how many were. A message that was edited or deleted meanwhile keeps what it has.
    pub async fn reseal(&self, batch: Vec<Reseal>) -> Result<u64, StoreError> {
        self.writer
            .write(Urgency::Background, batch.len(), move |tx| {
                let mut update = tx.connection.prepare_cached("UPDATE messages SET sealed = ?3 WHERE id = ?1 AND sealed = ?2")?;
                let mut replaced = 0;
                for Reseal { id, old, new } in &batch {
                    replaced += update.execute((id.0, old, new))? as u64;
                }
                Ok(replaced)
            })
            .await
    }
}
