//! Writing messages, changing them, taking them away: each with all that follows from it, in one commit.

use std::{collections::HashSet, time::Duration};

use rusqlite::{OptionalExtension, params};

use super::{
    super::{Store, StoreError, tx::Tx, writer::Urgency},
    MESSAGE_COLUMNS, is_present, message_in, notify, read_message,
};
use crate::model::{ChatEventKind, ConversationEvent, ConversationId, MessageId, StoredMessage, Timestamp, UserId};

/// A message about to be stored.
#[derive(Clone, Debug)]
pub struct NewMessage {
    pub conversation: ConversationId,
    pub sender: UserId,
    /// A repeat of it by the same sender in the same conversation finds the first message.
    pub client_id: Option<String>,
    pub reply_to: Option<MessageId>,
    /// Who has the conversation open: they need no notice.
    pub present: Vec<UserId>,
    /// How long everybody else has to read it before they are given notice; `None` gives none.
    pub notify_after: Option<Duration>,
}

/// How many messages somebody has not read in one conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    pub user_id: UserId,
    pub unread: i64,
}

/// A message that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub message: StoredMessage,
    /// It was stored before; nothing changed.
    pub repeated: bool,
    /// Of everybody but the sender, by now.
    pub unread: Vec<Unread>,
    /// When the first notice of it is due, if it made any.
    pub notify_at: Option<Timestamp>,
}

/// Why a message was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendRefused {
    /// There is no such conversation, or the sender is no part of it (any more).
    NotParticipant,
    /// What it replies to is not in this conversation.
    UnknownReply,
    /// The other one has blocked the sender.
    Blocked,
    /// The sender has blocked the other one.
    Blocking,
}

/// Why a message was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeRefused {
    /// There is no such conversation, or whoever asks is no part of it (any more).
    NotParticipant,
    /// It is not in this conversation.
    NotFound,
    /// Somebody else wrote it.
    NotSender,
    /// It is gone already.
    Deleted,
}

/// A message that is gone for everyone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    pub event: ConversationEvent,
    /// Of those for whom that made a difference, by now.
    pub unread: Vec<Unread>,
}

/// A message that one user does not see any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageHidden {
    /// It was hidden before.
    pub repeated: bool,
    /// Theirs in the conversation, by now.
    pub unread: i64,
}

impl Store {
    /// Stores a message: the message, its event number, everybody's unread counts, the conversation's place in their lists, and the
    /// notices for those who are away, in one commit.
    ///
    /// `seal` is called in the writing transaction, once the id is known; twice when that is rolled back and done again. `on_commit` is
    /// called with the same answer, in the order of the commits, on the writer's thread: it must only take note.
    pub async fn send_message<S, N>(&self, new: NewMessage, mut seal: S, on_commit: N) -> Result<Result<Sent, SendRefused>, StoreError>
    where
        S: FnMut(MessageId) -> String + Send + 'static,
        N: FnOnce(&Result<Sent, SendRefused>) + Send + 'static,
    {
        let run = move |tx: &mut Tx<'_>| {
            let sent = send(tx, &new, &mut seal)?;
            fail::fail_point!("chat-before-commit");
            Ok(sent)
        };
        self.writer.enqueue_noted(Urgency::Normal, 4, run, on_commit).await?.committed().await
    }

    /// Puts another content into a message of one's own. `on_commit` as in [`Self::send_message`].
    pub async fn edit_message<N>(
        &self,
        conversation: ConversationId,
        message: MessageId,
        by: UserId,
        sealed: String,
        on_commit: N,
    ) -> Result<Result<ConversationEvent, ChangeRefused>, StoreError>
    where
        N: FnOnce(&Result<ConversationEvent, ChangeRefused>) + Send + 'static,
    {
        let run = move |tx: &mut Tx<'_>| edit(tx, conversation, message, &by, &sealed);
        self.writer.enqueue_noted(Urgency::Normal, 3, run, on_commit).await?.committed().await
    }

    /// Empties a message for everyone; its place stays. `by` is its sender, or nobody when an operator does it. `on_commit` as in
    /// [`Self::send_message`].
    pub async fn delete_message<N>(
        &self,
        conversation: ConversationId,
        message: MessageId,
        by: Option<UserId>,
        on_commit: N,
    ) -> Result<Result<Deleted, ChangeRefused>, StoreError>
    where
        N: FnOnce(&Result<Deleted, ChangeRefused>) + Send + 'static,
    {
        let run = move |tx: &mut Tx<'_>| delete(tx, conversation, message, by.as_ref());
        self.writer.enqueue_noted(Urgency::Normal, 4, run, on_commit).await?.committed().await
    }

    /// Takes a message out of one user's sight. It is no event: nobody else hears of it.
    pub async fn hide_message(
        &self,
        conversation: ConversationId,
        message: MessageId,
        user: UserId,
    ) -> Result<Result<MessageHidden, ChangeRefused>, StoreError> {
        self.writer.write(Urgency::Normal, 2, move |tx| hide(tx, conversation, message, &user)).await
    }
}

fn send(tx: &mut Tx<'_>, new: &NewMessage, seal: &mut impl FnMut(MessageId) -> String) -> rusqlite::Result<Result<Sent, SendRefused>> {
    if !is_present(tx.connection, new.conversation, &new.sender)? {
        return Ok(Err(SendRefused::NotParticipant));
    }
    if let Some(message) = find_repeated(tx, new)? {
        return Ok(Ok(Sent { message, repeated: true, unread: Vec::new(), notify_at: None }));
    }
    if let Some(refused) = blocked(tx, new)? {
        return Ok(Err(refused));
    }
    if let Some(reply_to) = new.reply_to
        && message_in(tx.connection, reply_to)?.is_none_or(|message| message.conversation != new.conversation)
    {
        return Ok(Err(SendRefused::UnknownReply));
    }
    let id = next_id(tx)?;
    let (event, activity): (i64, i64) = tx
        .connection
        .prepare_cached(
            "UPDATE conversations SET event = event + 1, last_message = ?2, updated_at = max(updated_at, ?3) WHERE id = ?1
             RETURNING event, updated_at",
        )?
        .query_row((new.conversation.0, id.0, tx.now.as_millis()), |row| Ok((row.get(0)?, row.get(1)?)))?;
    let message = StoredMessage {
        id,
        conversation: new.conversation,
        event,
        sender: new.sender.clone(),
        client_id: new.client_id.clone(),
        sealed: seal(id),
        reply_to: new.reply_to,
        created_at: tx.now,
        edited_at: None,
        deleted_at: None,
    };
    insert(tx, &message)?;
    let (unread, notify_at) = count_for_others(tx, new, &message, activity)?;
    Ok(Ok(Sent { message, repeated: false, unread, notify_at }))
}

fn find_repeated(tx: &Tx<'_>, new: &NewMessage) -> rusqlite::Result<Option<StoredMessage>> {
    let Some(client_id) = &new.client_id else { return Ok(None) };
    let sql = format!("SELECT {MESSAGE_COLUMNS} FROM messages WHERE conversation = ?1 AND sender = ?2 AND client_id = ?3");
    tx.connection.prepare_cached(&sql)?.query_row((new.conversation.0, new.sender.as_str(), client_id), read_message).optional()
}

/// Whether one of two people has blocked the other. A larger conversation goes on all the same.
fn blocked(tx: &Tx<'_>, new: &NewMessage) -> rusqlite::Result<Option<SendRefused>> {
    let found: Option<(bool, bool)> = tx
        .connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM chat_blocks b WHERE b.user_id = p.user_id AND b.blocked = ?2),
                    EXISTS (SELECT 1 FROM chat_blocks b WHERE b.user_id = ?2 AND b.blocked = p.user_id)
             FROM conversations c JOIN participants p ON p.conversation = c.id
             WHERE c.id = ?1 AND c.direct IS NOT NULL AND p.user_id <> ?2",
        )?
        .query_row((new.conversation.0, new.sender.as_str()), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(match found {
        Some((true, _)) => Some(SendRefused::Blocked),
        Some((false, true)) => Some(SendRefused::Blocking),
        Some((false, false)) | None => None,
    })
}

/// The id that the next message gets: it has to be known before the row is written, since it is sealed in.
fn next_id(tx: &Tx<'_>) -> rusqlite::Result<MessageId> {
    let last: Option<i64> = tx
        .connection
        .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'messages'")?
        .query_row((), |row| row.get(0))
        .optional()?;
    Ok(MessageId(last.unwrap_or(0) + 1))
}

pub(super) fn insert(tx: &Tx<'_>, message: &StoredMessage) -> rusqlite::Result<()> {
    let sql = format!("INSERT INTO messages ({MESSAGE_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)");
    tx.connection.prepare_cached(&sql)?.execute(params![
        message.id.0,
        message.conversation.0,
        message.event,
        message.sender.as_str(),
        message.client_id,
        message.sealed,
        message.reply_to.map(|id| id.0),
        message.created_at.as_millis(),
        message.edited_at.map(Timestamp::as_millis),
        message.deleted_at.map(Timestamp::as_millis),
    ])?;
    Ok(())
}

/// Brings the conversation to the top of everybody's list, counts the message for all but its sender, and makes the notices.
fn count_for_others(
    tx: &Tx<'_>,
    new: &NewMessage,
    message: &StoredMessage,
    activity: i64,
) -> rusqlite::Result<(Vec<Unread>, Option<Timestamp>)> {
    let due_at = new.notify_after.map(|after| tx.now.saturating_add(after));
    let present: HashSet<&UserId> = new.present.iter().collect();
    let mut update = tx.connection.prepare_cached(
        "UPDATE participants SET activity = ?3, hidden_at = NULL, unread = unread + (user_id <> ?2)
         WHERE conversation = ?1 AND left_at IS NULL RETURNING user_id, unread, muted",
    )?;
    let rows = update
        .query_map((new.conversation.0, new.sender.as_str(), activity), |row| Ok((super::user(row, 0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<Vec<(UserId, i64, bool)>>>()?;
    let (mut unread, mut notify_at) = (Vec::with_capacity(rows.len()), None);
    for (user_id, count, is_muted) in rows {
        if user_id == new.sender {
            continue;
        }
        if let Some(due_at) = due_at.filter(|_| !is_muted && !present.contains(&user_id))
            && notify::open(tx, message, &user_id, due_at)?
        {
            notify_at = Some(due_at);
        }
        unread.push(Unread { user_id, unread: count });
    }
    Ok((unread, notify_at))
}

/// The message, if `by` may change it.
fn changeable(
    tx: &Tx<'_>,
    conversation: ConversationId,
    message: MessageId,
    by: Option<&UserId>,
) -> rusqlite::Result<Result<StoredMessage, ChangeRefused>> {
    if let Some(by) = by
        && !is_present(tx.connection, conversation, by)?
    {
        return Ok(Err(ChangeRefused::NotParticipant));
    }
    let Some(found) = message_in(tx.connection, message)?.filter(|message| message.conversation == conversation) else {
        return Ok(Err(ChangeRefused::NotFound));
    };
    if by.is_some_and(|by| found.sender != *by) {
        return Ok(Err(ChangeRefused::NotSender));
    }
    Ok(if found.deleted_at.is_some() { Err(ChangeRefused::Deleted) } else { Ok(found) })
}

/// Writes a message's new state, and down that it changed.
fn change(tx: &Tx<'_>, kind: ChatEventKind, message: StoredMessage) -> rusqlite::Result<ConversationEvent> {
    let event: i64 = tx
        .connection
        .prepare_cached("UPDATE conversations SET event = event + 1 WHERE id = ?1 RETURNING event")?
        .query_row([message.conversation.0], |row| row.get(0))?;
    tx.connection.prepare_cached("UPDATE messages SET sealed = ?2, edited_at = ?3, deleted_at = ?4 WHERE id = ?1")?.execute(params![
        message.id.0,
        message.sealed,
        message.edited_at.map(Timestamp::as_millis),
        message.deleted_at.map(Timestamp::as_millis)
    ])?;
    tx.connection.prepare_cached("INSERT INTO message_changes (conversation, event, message, kind) VALUES (?1, ?2, ?3, ?4)")?.execute((
        message.conversation.0,
        event,
        message.id.0,
        kind.as_number(),
    ))?;
    Ok(ConversationEvent { event, kind, message })
}

fn edit(
    tx: &Tx<'_>,
    conversation: ConversationId,
    message: MessageId,
    by: &UserId,
    sealed: &str,
) -> rusqlite::Result<Result<ConversationEvent, ChangeRefused>> {
    match changeable(tx, conversation, message, Some(by))? {
        Err(refused) => Ok(Err(refused)),
        Ok(found) => {
            change(tx, ChatEventKind::Edited, StoredMessage { sealed: sealed.to_owned(), edited_at: Some(tx.now), ..found }).map(Ok)
        }
    }
}

fn delete(
    tx: &mut Tx<'_>,
    conversation: ConversationId,
    message: MessageId,
    by: Option<&UserId>,
) -> rusqlite::Result<Result<Deleted, ChangeRefused>> {
    let found = match changeable(tx, conversation, message, by)? {
        Err(refused) => return Ok(Err(refused)),
        Ok(found) => found,
    };
    let unread = uncount(tx, &found)?;
    for Unread { user_id, .. } in unread.iter().filter(|left| left.unread == 0) {
        notify::withdraw(tx, conversation, user_id)?;
    }
    let gone = StoredMessage { sealed: String::new(), deleted_at: Some(tx.now), ..found };
    Ok(Ok(Deleted { event: change(tx, ChatEventKind::Deleted, gone)?, unread }))
}

/// Takes a message off the counts of those who have it unread.
fn uncount(tx: &Tx<'_>, message: &StoredMessage) -> rusqlite::Result<Vec<Unread>> {
    tx.connection
        .prepare_cached(
            "UPDATE participants SET unread = unread - 1
             WHERE conversation = ?1 AND left_at IS NULL AND user_id <> ?3 AND max(read_to, unread_from) < ?2
             AND NOT EXISTS (SELECT 1 FROM hidden_messages h WHERE h.user_id = participants.user_id AND h.message = ?2)
             RETURNING user_id, unread",
        )?
        .query_map((message.conversation.0, message.id.0, message.sender.as_str()), |row| {
            Ok(Unread { user_id: super::user(row, 0)?, unread: row.get(1)? })
        })?
        .collect()
}

fn hide(
    tx: &mut Tx<'_>,
    conversation: ConversationId,
    message: MessageId,
    user: &UserId,
) -> rusqlite::Result<Result<MessageHidden, ChangeRefused>> {
    if !is_present(tx.connection, conversation, user)? {
        return Ok(Err(ChangeRefused::NotParticipant));
    }
    let Some(found) = message_in(tx.connection, message)?.filter(|message| message.conversation == conversation) else {
        return Ok(Err(ChangeRefused::NotFound));
    };
    let hidden = tx
        .connection
        .prepare_cached("INSERT INTO hidden_messages (user_id, message) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
        .execute((user.as_str(), message.0))?;
    let counts = hidden == 1 && found.deleted_at.is_none() && found.sender != *user;
    let unread: i64 = tx
        .connection
        .prepare_cached(
            "UPDATE participants SET unread = unread - (?4 AND max(read_to, unread_from) < ?3) WHERE conversation = ?1 AND user_id = ?2
             RETURNING unread",
        )?
        .query_row(params![conversation.0, user.as_str(), message.0, counts], |row| row.get(0))?;
    if unread == 0 {
        notify::withdraw(tx, conversation, user)?;
    }
    Ok(Ok(MessageHidden { repeated: hidden == 0, unread }))
}
