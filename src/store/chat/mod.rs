//! Conversations, their messages, and who has read what of them.
//!
//! Knows nothing of what a message says: it keeps what it is given, sealed. Every change is one commit of the one writer, so that within a
//! conversation ids and event numbers commit in order. Nothing here is purged by age, and nothing here counts for the deliveries' audit.

mod blocks;
mod conversations;
mod history;
mod import;
mod messages;
mod notify;
mod participants;
mod pointers;
mod reseal;
mod rotation;

use rusqlite::{Connection, OptionalExtension, Row, types::Type};
use serde::de::DeserializeOwned;

pub use self::{
    blocks::{BLOCKS_LIMIT, BlockAdded},
    conversations::{
        CONVERSATIONS_PAGE_LIMIT, ConversationCursor, ConversationFilter, ConversationPage, ConversationView, Created, KeyConflict,
        NewConversation, NewParticipant,
    },
    history::{ChatHead, ChatReplay, MESSAGES_PAGE_LIMIT, MessageCursor, MessagePage},
    import::{ChatCounts, Imported, ImportedConversation, ImportedMessage, ImportedParticipant},
    messages::{ChangeRefused, Deleted, MessageHidden, NewMessage, SendRefused, Sent, Unread},
    notify::NotifyDue,
    participants::{AddRefused, ParticipantChange},
    pointers::Read,
    reseal::{Reseal, SealedMessage},
};
use crate::model::{ChatRole, Conversation, ConversationId, MessageId, Participant, StoredMessage, Timestamp, UserId};

const CONVERSATION_COLUMNS: &str =
    "id, key, created_by, property_id, property_title, metadata, event, last_message, created_at, updated_at";
const PARTICIPANT_COLUMNS: &str = "user_id, name, role, joined_at, left_at, hidden_at, muted, read_to, read_at, unread";
const MESSAGE_COLUMNS: &str = "id, conversation, event, sender, client_id, sealed, reply_to, created_at, edited_at, deleted_at";

fn unreadable(column: usize, reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, reason.into())
}

fn unwritable(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(error.into())
}

fn user(row: &Row<'_>, column: usize) -> rusqlite::Result<UserId> {
    row.get::<_, String>(column)?.parse().map_err(|reason: String| unreadable(column, reason))
}

fn json<T: DeserializeOwned>(column: usize, text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(|error| unreadable(column, error))
}

fn moment(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    row.get(column).map(Timestamp::from_millis)
}

fn moment_if_any(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_millis))
}

/// Columns as [`CONVERSATION_COLUMNS`].
fn read_conversation(row: &Row<'_>) -> rusqlite::Result<Conversation> {
    let created_by: Option<String> = row.get(2)?;
    let property_id: Option<String> = row.get(3)?;
    Ok(Conversation {
        id: ConversationId(row.get(0)?),
        key: row.get(1)?,
        created_by: created_by.map(|user| user.parse()).transpose().map_err(|reason: String| unreadable(2, reason))?,
        property_id: property_id.map(|text| json(3, &text)).transpose()?,
        property_title: row.get(4)?,
        metadata: json(5, &row.get::<_, String>(5)?)?,
        event: row.get(6)?,
        last_message: row.get::<_, Option<i64>>(7)?.map(MessageId),
        created_at: moment(row, 8)?,
        updated_at: moment(row, 9)?,
    })
}

/// Columns as [`PARTICIPANT_COLUMNS`].
fn read_participant(row: &Row<'_>) -> rusqlite::Result<Participant> {
    let role: Option<String> = row.get(2)?;
    let role = role.map(|role| role.parse::<ChatRole>()).transpose().map_err(|reason| unreadable(2, reason))?;
    let read_to: i64 = row.get(7)?;
    Ok(Participant {
        user_id: user(row, 0)?,
        name: row.get(1)?,
        role,
        joined_at: moment(row, 3)?,
        left_at: moment_if_any(row, 4)?,
        hidden_at: moment_if_any(row, 5)?,
        muted: row.get(6)?,
        read_to: (read_to > 0).then_some(MessageId(read_to)),
        read_at: moment_if_any(row, 8)?,
        unread: row.get(9)?,
    })
}

/// Columns as [`MESSAGE_COLUMNS`], from the first.
fn read_message(row: &Row<'_>) -> rusqlite::Result<StoredMessage> {
    Ok(StoredMessage {
        id: MessageId(row.get(0)?),
        conversation: ConversationId(row.get(1)?),
        event: row.get(2)?,
        sender: user(row, 3)?,
        client_id: row.get(4)?,
        sealed: row.get(5)?,
        reply_to: row.get::<_, Option<i64>>(6)?.map(MessageId),
        created_at: moment(row, 7)?,
        edited_at: moment_if_any(row, 8)?,
        deleted_at: moment_if_any(row, 9)?,
    })
}

/// Everybody who takes or took part, in a fixed order.
fn participants_in(connection: &Connection, conversation: ConversationId) -> rusqlite::Result<Vec<Participant>> {
    let sql = format!("SELECT {PARTICIPANT_COLUMNS} FROM participants WHERE conversation = ?1 ORDER BY user_id");
    connection.prepare_cached(&sql)?.query_map([conversation.0], read_participant)?.collect()
}

fn participant_in(connection: &Connection, conversation: ConversationId, user: &UserId) -> rusqlite::Result<Option<Participant>> {
    let sql = format!("SELECT {PARTICIPANT_COLUMNS} FROM participants WHERE conversation = ?1 AND user_id = ?2");
    connection.prepare_cached(&sql)?.query_row((conversation.0, user.as_str()), read_participant).optional()
}

/// Whether somebody is part of a conversation now.
fn is_present(connection: &Connection, conversation: ConversationId, user: &UserId) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM participants WHERE conversation = ?1 AND user_id = ?2 AND left_at IS NULL")?
        .exists((conversation.0, user.as_str()))
}

/// A message, in whatever conversation it is.
fn message_in(connection: &Connection, message: MessageId) -> rusqlite::Result<Option<StoredMessage>> {
    let sql = format!("SELECT {MESSAGE_COLUMNS} FROM messages WHERE id = ?1");
    connection.prepare_cached(&sql)?.query_row([message.0], read_message).optional()
}

/// The newest message that the viewer has not hidden; of all, without a viewer.
fn last_message_in(
    connection: &Connection,
    conversation: ConversationId,
    viewer: Option<&UserId>,
) -> rusqlite::Result<Option<StoredMessage>> {
    let sql = format!(
        "SELECT {MESSAGE_COLUMNS} FROM messages WHERE conversation = ?1
         AND NOT EXISTS (SELECT 1 FROM hidden_messages WHERE user_id = ?2 AND message = messages.id) ORDER BY id DESC LIMIT 1"
    );
    connection.prepare_cached(&sql)?.query_row((conversation.0, viewer.map(UserId::as_str)), read_message).optional()
}
