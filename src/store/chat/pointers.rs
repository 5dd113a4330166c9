//! How far everybody has read.

use rusqlite::{OptionalExtension, params};

use super::{
    super::{Store, StoreError, tx::Tx, writer::Urgency},
    notify,
};
use crate::model::{ConversationId, JobId, MessageId, Timestamp, UserId};

/// A read pointer that moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    pub read_to: MessageId,
    pub read_at: Timestamp,
    /// What is left.
    pub unread: i64,
    /// The notice that what is left of was cancelled with it.
    pub cancelled_job: Option<JobId>,
}

impl Store {
    /// Notes that `user` has read up to `message`, and withdraws the notice that told of it. `None` when nothing changes by it: the pointer
    /// is there or further, the message is not in this conversation, or they are no part of it.
    ///
    /// `on_commit` is called with the same answer, in the order of the commits, on the writer's thread: it must only take note.
    pub async fn read_to<N>(
        &self,
        conversation: ConversationId,
        user: UserId,
        message: MessageId,
        on_commit: N,
    ) -> Result<Option<Read>, StoreError>
    where
        N: FnOnce(&Option<Read>) + Send + 'static,
    {
        let run = move |tx: &mut Tx<'_>| advance(tx, conversation, &user, message);
        self.writer.enqueue_noted(Urgency::Normal, 2, run, on_commit).await?.committed().await
    }
}

fn advance(tx: &mut Tx<'_>, conversation: ConversationId, user: &UserId, message: MessageId) -> rusqlite::Result<Option<Read>> {
    let exists =
        tx.connection.prepare_cached("SELECT 1 FROM messages WHERE id = ?1 AND conversation = ?2")?.exists((message.0, conversation.0))?;
    if !exists {
        return Ok(None);
    }
    let Some(unread) = move_pointer(tx, conversation, user, message, tx.now)? else { return Ok(None) };
    let cancelled_job =
        if unread == 0 { notify::withdraw(tx, conversation, user)? } else { notify::withdraw_up_to(tx, conversation, user, message)? };
    Ok(Some(Read { read_to: message, read_at: tx.now, unread, cancelled_job }))
}

/// Moves a pointer forward to a message that exists; what is unread then, or `None` when it was there or further.
pub(super) fn move_pointer(
    tx: &Tx<'_>,
    conversation: ConversationId,
    user: &UserId,
    message: MessageId,
    at: Timestamp,
) -> rusqlite::Result<Option<i64>> {
    let found: Option<(i64, i64, i64, i64)> = tx
        .connection
        .prepare_cached(
            "SELECT read_to, unread_from, unread, coalesce(last_message, 0) FROM participants JOIN conversations ON id = conversation
             WHERE conversation = ?1 AND user_id = ?2 AND left_at IS NULL",
        )?
        .query_row((conversation.0, user.as_str()), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    let Some((read_to, unread_from, unread, last_message)) = found.filter(|(read_to, ..)| *read_to < message.0) else {
        return Ok(None);
    };
    // What is read is counted rather than what is left: however much waits, each message is looked at once.
    let read = if unread == 0 || message.0 >= last_message {
        unread
    } else {
        tx.connection
            .prepare_cached(
                "SELECT count(*) FROM messages WHERE conversation = ?1 AND id > ?3 AND id <= ?4 AND sender <> ?2 AND deleted_at IS NULL
                 AND NOT EXISTS (SELECT 1 FROM hidden_messages WHERE user_id = ?2 AND message = messages.id)",
            )?
            .query_row(params![conversation.0, user.as_str(), read_to.max(unread_from), message.0], |row| row.get::<_, i64>(0))?
    };
    tx.connection
        .prepare_cached("UPDATE participants SET read_to = ?3, read_at = ?4, unread = ?5 WHERE conversation = ?1 AND user_id = ?2")?
        .execute(params![conversation.0, user.as_str(), message.0, at.as_millis(), unread - read])?;
    Ok(Some(unread - read))
}
