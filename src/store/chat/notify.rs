//! Notices for who is away: one for each streak of unread messages, made into a job when it is due.
//!
//! The row goes with what it is about: read, deleted or hidden messages, a conversation muted, hidden or left.

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    super::{Store, StoreError, cancel::cancel_in, tx::Tx, writer::Urgency},
    ConversationView, MESSAGE_COLUMNS, conversations, read_message, user,
};
use crate::model::{ConversationId, JobId, MessageId, StoredMessage, Timestamp, UserId};

/// A notice whose time has come, with what it tells.
#[derive(Clone, Debug)]
pub struct NotifyDue {
    pub user_id: UserId,
    /// The first of the streak; names the notice.
    pub first_message: MessageId,
    pub due_at: Timestamp,
    /// The job it is made into.
    pub job_id: JobId,
    /// As that user sees it.
    pub view: ConversationView,
    /// Unread messages by now.
    pub unread: i64,
    /// The newest unread message. `None` means that there is nothing to tell any more.
    pub latest: Option<StoredMessage>,
}

impl Store {
    /// Notices that are due and have no job yet, the longest due first.
    pub async fn notify_due(&self, now: Timestamp, limit: usize) -> Result<Vec<NotifyDue>, StoreError> {
        self.read(move |connection| {
            let snapshot = connection.unchecked_transaction()?;
            Ok(due(&snapshot, now, limit)?)
        })
        .await
    }

    /// When the next notice is due; `None` when none waits.
    pub async fn next_notify(&self) -> Result<Option<Timestamp>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT min(due_at) FROM notify WHERE job_id IS NULL";
            let due_at: Option<i64> = connection.prepare_cached(sql)?.query_row((), |row| row.get(0))?;
            Ok(due_at.map(Timestamp::from_millis))
        })
        .await
    }

    /// Notes that a notice was made into its job, [`NotifyDue::job_id`]. False when there was nothing to tell any more: then what is still
    /// queued of the job is cancelled, in the same commit. A job that was there already, whatever it says, is the same notice made before a
    /// crash.
    pub async fn notify_made(&self, conversation: ConversationId, user: UserId, first_message: MessageId) -> Result<bool, StoreError> {
        self.writer
            .write(Urgency::Normal, 2, move |tx| {
                let job_id = JobId::of_notice(conversation, &user, first_message);
                let noted = tx
                    .connection
                    .prepare_cached("UPDATE notify SET job_id = ?4 WHERE conversation = ?1 AND user_id = ?2 AND first_message = ?3")?
                    .execute((conversation.0, user.as_str(), first_message.0, job_id.as_str()))?;
                if noted == 0 {
                    cancel_in(tx, &job_id)?;
                }
                Ok(noted == 1)
            })
            .await
    }

    /// Drops a notice that has no job and is not to get one; false when it is gone already.
    pub async fn notify_drop(&self, conversation: ConversationId, user: UserId, first_message: MessageId) -> Result<bool, StoreError> {
        self.writer
            .write(Urgency::Normal, 1, move |tx| {
                let sql = "DELETE FROM notify WHERE conversation = ?1 AND user_id = ?2 AND first_message = ?3 AND job_id IS NULL";
                let gone = tx.connection.prepare_cached(sql)?.execute((conversation.0, user.as_str(), first_message.0))?;
                Ok(gone == 1)
            })
            .await
    }
}

/// Opens a notice, unless one is open or the user has blocked the sender. A later message of the streak does not move its time.
pub(super) fn open(tx: &Tx<'_>, message: &StoredMessage, user: &UserId, due_at: Timestamp) -> rusqlite::Result<bool> {
    let opened = tx
        .connection
        .prepare_cached(
            "INSERT INTO notify (conversation, user_id, first_message, due_at) SELECT ?1, ?2, ?3, ?4
             WHERE NOT EXISTS (SELECT 1 FROM chat_blocks WHERE user_id = ?2 AND blocked = ?5) ON CONFLICT DO NOTHING",
        )?
        .execute(params![message.conversation.0, user.as_str(), message.id.0, due_at.as_millis(), message.sender.as_str()])?;
    Ok(opened == 1)
}

/// Takes back a user's notice of a conversation; the job that was cancelled with it.
pub(super) fn withdraw(tx: &mut Tx<'_>, conversation: ConversationId, user: &UserId) -> rusqlite::Result<Option<JobId>> {
    withdraw_up_to(tx, conversation, user, MessageId(i64::MAX))
}

/// Takes back a user's notice if `message` is in or after what it tells of.
pub(super) fn withdraw_up_to(
    tx: &mut Tx<'_>,
    conversation: ConversationId,
    user: &UserId,
    message: MessageId,
) -> rusqlite::Result<Option<JobId>> {
    let first_message: Option<i64> = tx
        .connection
        .prepare_cached("DELETE FROM notify WHERE conversation = ?1 AND user_id = ?2 AND first_message <= ?3 RETURNING first_message")?
        .query_row((conversation.0, user.as_str(), message.0), |row| row.get(0))
        .optional()?;
    let Some(first_message) = first_message else { return Ok(None) };
    // Looked for even when it is not noted: it may have been made just before a crash.
    let job_id = JobId::of_notice(conversation, user, MessageId(first_message));
    Ok(cancel_in(tx, &job_id)?.then_some(job_id))
}

fn due(connection: &Connection, now: Timestamp, limit: usize) -> rusqlite::Result<Vec<NotifyDue>> {
    let mut statement = connection.prepare_cached(
        "SELECT conversation, user_id, first_message, due_at FROM notify WHERE job_id IS NULL AND due_at <= ?1 ORDER BY due_at LIMIT ?2",
    )?;
    let rows = statement
        .query_map(params![now.as_millis(), limit], |row| {
            Ok((ConversationId(row.get(0)?), user(row, 1)?, MessageId(row.get(2)?), Timestamp::from_millis(row.get(3)?)))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let mut notices = Vec::with_capacity(rows.len());
    for (conversation, user_id, first_message, due_at) in rows {
        let Some(view) = conversations::view_in(connection, conversation, Some(&user_id))? else { continue };
        let unread = view.participant(&user_id).filter(|participant| !participant.muted).map_or(0, |participant| participant.unread);
        let latest = if unread > 0 { latest_unread(connection, conversation, &user_id)? } else { None };
        let job_id = JobId::of_notice(conversation, &user_id, first_message);
        notices.push(NotifyDue { user_id, first_message, due_at, job_id, view, unread, latest });
    }
    Ok(notices)
}

fn latest_unread(connection: &Connection, conversation: ConversationId, user: &UserId) -> rusqlite::Result<Option<StoredMessage>> {
    let sql = format!(
        "SELECT {MESSAGE_COLUMNS} FROM messages WHERE conversation = ?1 AND sender <> ?2 AND deleted_at IS NULL
         AND id > (SELECT max(read_to, unread_from) FROM participants WHERE conversation = ?1 AND user_id = ?2)
         AND NOT EXISTS (SELECT 1 FROM hidden_messages WHERE user_id = ?2 AND message = messages.id) ORDER BY id DESC LIMIT 1"
    );
    connection.prepare_cached(&sql)?.query_row((conversation.0, user.as_str()), read_message).optional()
}
