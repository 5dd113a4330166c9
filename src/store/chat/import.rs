//! Conversations and messages taken over from another system, with the ids they have there.
//!
//! A batch can be given again: what is known is passed over. New ids go on after the largest one taken over.

use rusqlite::{OptionalExtension, params};
use serde_json::{Map, Value};

use super::{
    super::{Store, StoreError, tx::Tx, writer::Urgency},
    conversations::{NewParticipant, direct},
    message_in, messages, participants, pointers, unwritable,
};
use crate::model::{ConversationId, MessageId, StoredMessage, Timestamp, UserId};

/// Where the row of `meta` says how far an import has come.
const PROGRESS_KEY: &str = "chat_import_progress";

/// Somebody who takes part in a conversation taken over.
#[derive(Clone, Debug)]
pub struct ImportedParticipant {
    pub participant: NewParticipant,
    pub joined_at: Timestamp,
    /// Out of their sight.
    pub hidden_at: Option<Timestamp>,
}

/// A conversation with the id it has elsewhere.
#[derive(Clone, Debug)]
pub struct ImportedConversation {
    pub id: ConversationId,
    pub created_by: Option<UserId>,
    pub participants: Vec<ImportedParticipant>,
    pub property_id: Option<Value>,
    pub property_title: Option<String>,
    pub metadata: Map<String, Value>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// A message with the id it has elsewhere, sealed already.
#[derive(Clone, Debug)]
pub struct ImportedMessage {
    pub id: MessageId,
    pub conversation: ConversationId,
    pub sender: UserId,
    /// Empty when it is deleted.
    pub sealed: String,
    pub reply_to: Option<MessageId>,
    pub created_at: Timestamp,
    pub edited_at: Option<Timestamp>,
    pub deleted_at: Option<Timestamp>,
    /// When everybody but its sender had read it and all before; `None` when they have not.
    pub read_at: Option<Timestamp>,
}

/// What one batch of an import did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    pub added: u64,
    /// They were here, as they are there.
    pub known: u64,
    /// Ids that something else has here: left as it is.
    pub conflicts: Vec<i64>,
    /// Messages whose conversation is not here.
    pub orphans: Vec<MessageId>,
}

/// How much of the chat there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ChatCounts {
    pub conversations: u64,
    pub participants: u64,
    pub messages: u64,
    /// Of the messages.
    pub deleted: u64,
}

impl Store {
    /// Takes over conversations, in one commit; `progress` is kept with them, for who goes on after a crash.
    pub async fn import_conversations(&self, batch: Vec<ImportedConversation>, progress: Option<String>) -> Result<Imported, StoreError> {
        let rows = batch.iter().map(|conversation| 1 + conversation.participants.len()).sum();
        self.writer
            .write(Urgency::Background, rows, move |tx| {
                let mut done = Imported::default();
                for conversation in &batch {
                    import_conversation(tx, conversation, &mut done)?;
                }
                keep_progress(tx, progress.as_deref())?;
                Ok(done)
            })
            .await
    }

    /// Takes over messages, in one commit, the oldest first; `progress` is kept with them, for who goes on after a crash. Each becomes an
    /// event of its conversation, counts as unread unless it is read, and makes no notice.
    pub async fn import_messages(&self, batch: Vec<ImportedMessage>, progress: Option<String>) -> Result<Imported, StoreError> {
        self.writer
            .write(Urgency::Background, batch.len() * 3, move |tx| {
                let mut done = Imported::default();
                for message in &batch {
                    import_message(tx, message, &mut done)?;
                }
                keep_progress(tx, progress.as_deref())?;
                Ok(done)
            })
            .await
    }

    /// How far an import has come, in its own words.
    pub async fn chat_import_progress(&self) -> Result<Option<String>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT value FROM meta WHERE key = ?1";
            Ok(connection.prepare_cached(sql)?.query_row([PROGRESS_KEY], |row| row.get(0)).optional()?)
        })
        .await
    }

    /// Forgets how far an import has come: it is done, or to begin anew.
    pub async fn end_chat_import(&self) -> Result<(), StoreError> {
        self.writer
            .write(Urgency::Normal, 1, |tx| {
                tx.connection.prepare_cached("DELETE FROM meta WHERE key = ?1")?.execute([PROGRESS_KEY])?;
                Ok(())
            })
            .await
    }

    /// Counts the chat. Reads all of it: for an import's own check and for people, not for a timer.
    pub async fn chat_counts(&self) -> Result<ChatCounts, StoreError> {
        self.read(|connection| {
            let sql = "SELECT (SELECT count(*) FROM conversations), (SELECT count(*) FROM participants), count(*), count(deleted_at)
                       FROM messages";
            Ok(connection.query_row(sql, (), |row| {
                Ok(ChatCounts { conversations: row.get(0)?, participants: row.get(1)?, messages: row.get(2)?, deleted: row.get(3)? })
            })?)
        })
        .await
    }
}

fn keep_progress(tx: &Tx<'_>, progress: Option<&str>) -> rusqlite::Result<()> {
    let Some(progress) = progress else { return Ok(()) };
    tx.connection
        .prepare_cached("INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value")?
        .execute((PROGRESS_KEY, progress))?;
    Ok(())
}

fn import_conversation(tx: &Tx<'_>, new: &ImportedConversation, done: &mut Imported) -> rusqlite::Result<()> {
    let property_id = new.property_id.as_ref().map(serde_json::to_string).transpose().map_err(unwritable)?;
    let known: Option<bool> = tx
        .connection
        .prepare_cached("SELECT created_at = ?2 AND property_id IS ?3 FROM conversations WHERE id = ?1")?
        .query_row(params![new.id.0, new.created_at.as_millis(), property_id], |row| row.get(0))
        .optional()?;
    match known {
        Some(true) => {
            done.known += 1;
            return Ok(());
        }
        Some(false) => {
            done.conflicts.push(new.id.0);
            return Ok(());
        }
        None => done.added += 1,
    }
    tx.connection
        .prepare_cached(
            "INSERT INTO conversations (id, direct, created_by, property_id, property_title, metadata, created_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            new.id.0,
            direct(new.participants.iter().map(|imported| &imported.participant.user_id), new.property_id.as_ref())?,
            new.created_by.as_ref().map(UserId::as_str),
            property_id,
            new.property_title,
            serde_json::to_string(&new.metadata).map_err(unwritable)?,
            new.created_at.as_millis(),
            new.updated_at.as_millis(),
        ])?;
    for imported in &new.participants {
        participants::insert(tx, new.id, &imported.participant, 0, imported.joined_at)?;
        if let Some(hidden_at) = imported.hidden_at {
            tx.connection.prepare_cached("UPDATE participants SET hidden_at = ?3 WHERE conversation = ?1 AND user_id = ?2")?.execute((
                new.id.0,
                imported.participant.user_id.as_str(),
                hidden_at.as_millis(),
            ))?;
        }
    }
    Ok(())
}

fn import_message(tx: &Tx<'_>, new: &ImportedMessage, done: &mut Imported) -> rusqlite::Result<()> {
    if let Some(known) = message_in(tx.connection, new.id)? {
        let is_same = known.conversation == new.conversation && known.sender == new.sender && known.created_at == new.created_at;
        if is_same {
            done.known += 1;
        } else {
            done.conflicts.push(new.id.0);
        }
        return Ok(());
    }
    let counted: Option<(i64, i64)> = tx
        .connection
        .prepare_cached(
            "UPDATE conversations SET event = event + 1, last_message = max(coalesce(last_message, 0), ?2),
                updated_at = max(updated_at, ?3) WHERE id = ?1 RETURNING event, updated_at",
        )?
        .query_row((new.conversation.0, new.id.0, new.created_at.as_millis()), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((event, activity)) = counted else {
        done.orphans.push(new.id);
        return Ok(());
    };
    let message = StoredMessage {
        id: new.id,
        conversation: new.conversation,
        event,
        sender: new.sender.clone(),
        client_id: None,
        sealed: new.sealed.clone(),
        reply_to: new.reply_to,
        created_at: new.created_at,
        edited_at: new.edited_at,
        deleted_at: new.deleted_at,
    };
    messages::insert(tx, &message)?;
    done.added += 1;
    let others: Vec<UserId> = tx
        .connection
        .prepare_cached(
            "UPDATE participants SET activity = ?3,
                unread = unread + (?5 AND left_at IS NULL AND user_id <> ?2 AND max(read_to, unread_from) < ?4)
             WHERE conversation = ?1 RETURNING user_id",
        )?
        .query_map(params![new.conversation.0, new.sender.as_str(), activity, new.id.0, new.deleted_at.is_none()], |row| {
            super::user(row, 0)
        })?
        .collect::<rusqlite::Result<_>>()?;
    if let Some(read_at) = new.read_at {
        for user in others.iter().filter(|user| **user != new.sender) {
            pointers::move_pointer(tx, new.conversation, user, new.id, read_at)?;
        }
    }
    Ok(())
}
