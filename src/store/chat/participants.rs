//! Who takes part: coming, leaving, and what each of them has set for themselves.

use rusqlite::{OptionalExtension, params};

use super::{
    super::{Store, StoreError, tx::Tx, writer::Urgency},
    conversations::{NewParticipant, direct},
    json, notify, participant_in, participants_in,
};
use crate::model::{ConversationId, Participant, Timestamp, UserId};

/// What changes about somebody's part in a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParticipantChange {
    /// Out of sight until the next message; nothing of it is told them any more.
    Hide,
    Unhide,
    /// No notices, and what is queued of them is cancelled.
    Mute,
    Unmute,
    Leave,
    /// Leaves by another's will, and cannot come back by their own.
    Remove,
    /// What was said meanwhile can be read, but is not unread.
    Rejoin,
    Rename(Option<String>),
}

/// Why nobody was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddRefused {
    /// There is no such conversation.
    NotFound,
    /// It would have too many participants.
    Full,
}

impl Store {
    /// Everybody who takes or took part.
    pub async fn participants(&self, conversation: ConversationId) -> Result<Vec<Participant>, StoreError> {
        self.read(move |connection| Ok(participants_in(connection, conversation)?)).await
    }

    /// Somebody's part in a conversation, present or past.
    pub async fn participant(&self, conversation: ConversationId, user: UserId) -> Result<Option<Participant>, StoreError> {
        self.read(move |connection| Ok(participant_in(connection, conversation, &user)?)).await
    }

    /// Changes somebody's part; what it is by then, or `None` when they have none. Who has left can only rejoin, and who was removed has to
    /// be added again.
    ///
    /// `on_commit` is called with the same answer, in the order of the commits, on the writer's thread: it must only take note.
    pub async fn set_participant<N>(
        &self,
        conversation: ConversationId,
        user: UserId,
        change: ParticipantChange,
        on_commit: N,
    ) -> Result<Option<Participant>, StoreError>
    where
        N: FnOnce(&Option<Participant>) + Send + 'static,
    {
        let run = move |tx: &mut Tx<'_>| set(tx, conversation, &user, &change);
        self.writer.enqueue_noted(Urgency::Normal, 2, run, on_commit).await?.committed().await
    }

    /// Adds participants, up to `limit` in all; those who have left come back. Gives those who were not part of it before. Who is part of
    /// it already gets the new name and role.
    ///
    /// `on_commit` is called with the same answer, in the order of the commits, on the writer's thread: it must only take note.
    pub async fn add_participants<N>(
        &self,
        conversation: ConversationId,
        new: Vec<NewParticipant>,
        limit: usize,
        on_commit: N,
    ) -> Result<Result<Vec<Participant>, AddRefused>, StoreError>
    where
        N: FnOnce(&Result<Vec<Participant>, AddRefused>) + Send + 'static,
    {
        let rows = 1 + new.len();
        let run = move |tx: &mut Tx<'_>| add(tx, conversation, &new, limit);
        self.writer.enqueue_noted(Urgency::Normal, rows, run, on_commit).await?.committed().await
    }
}

/// Inserts a participant to whom messages up to `unread_from` are none of the unread; leaves alone who is there.
pub(super) fn insert(
    tx: &Tx<'_>,
    conversation: ConversationId,
    new: &NewParticipant,
    unread_from: i64,
    joined_at: Timestamp,
) -> rusqlite::Result<bool> {
    let inserted = tx
        .connection
        .prepare_cached(
            "INSERT INTO participants (conversation, user_id, name, role, joined_at, unread_from, activity)
             SELECT id, ?2, ?3, ?4, ?5, ?6, updated_at FROM conversations WHERE id = ?1 ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            conversation.0,
            new.user_id.as_str(),
            new.name,
            new.role.map(crate::model::ChatRole::as_str),
            joined_at.as_millis(),
            unread_from
        ])?;
    Ok(inserted == 1)
}

pub(super) fn unhide(tx: &Tx<'_>, conversation: ConversationId, user: &UserId) -> rusqlite::Result<()> {
    execute(tx, "UPDATE participants SET hidden_at = NULL WHERE conversation = ?1 AND user_id = ?2", conversation, user)
}

/// Somebody who has left is part of it again by their own will; false for who was removed.
pub(super) fn come_back(tx: &Tx<'_>, conversation: ConversationId, user: &UserId) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM participants WHERE conversation = ?1 AND user_id = ?2 AND removed = 1";
    if tx.connection.prepare_cached(sql)?.exists((conversation.0, user.as_str()))? {
        return Ok(false);
    }
    rejoin(tx, conversation, user)?;
    Ok(true)
}

fn rejoin(tx: &Tx<'_>, conversation: ConversationId, user: &UserId) -> rusqlite::Result<()> {
    tx.connection
        .prepare_cached(
            "UPDATE participants SET left_at = NULL, removed = 0, hidden_at = NULL, joined_at = ?3, unread = 0,
                unread_from = coalesce((SELECT last_message FROM conversations WHERE id = ?1), 0),
                activity = (SELECT updated_at FROM conversations WHERE id = ?1)
             WHERE conversation = ?1 AND user_id = ?2 AND left_at IS NOT NULL",
        )?
        .execute((conversation.0, user.as_str(), tx.now.as_millis()))?;
    Ok(())
}

fn execute(tx: &Tx<'_>, sql: &str, conversation: ConversationId, user: &UserId) -> rusqlite::Result<()> {
    tx.connection.prepare_cached(sql)?.execute((conversation.0, user.as_str()))?;
    Ok(())
}

fn set(tx: &mut Tx<'_>, conversation: ConversationId, user: &UserId, change: &ParticipantChange) -> rusqlite::Result<Option<Participant>> {
    let Some(present) = participant_in(tx.connection, conversation, user)? else { return Ok(None) };
    if !present.is_present() && *change != ParticipantChange::Rejoin {
        return Ok(None);
    }
    let (key, now) = ((conversation.0, user.as_str()), tx.now.as_millis());
    match change {
        ParticipantChange::Hide => {
            tx.connection
                .prepare_cached("UPDATE participants SET hidden_at = coalesce(hidden_at, ?3) WHERE conversation = ?1 AND user_id = ?2")?
                .execute((key.0, key.1, now))?;
            notify::withdraw(tx, conversation, user)?;
        }
        ParticipantChange::Unhide => unhide(tx, conversation, user)?,
        ParticipantChange::Mute => {
            execute(tx, "UPDATE participants SET muted = 1 WHERE conversation = ?1 AND user_id = ?2", conversation, user)?;
            notify::withdraw(tx, conversation, user)?;
        }
        ParticipantChange::Unmute => {
            execute(tx, "UPDATE participants SET muted = 0 WHERE conversation = ?1 AND user_id = ?2", conversation, user)?;
        }
        ParticipantChange::Leave | ParticipantChange::Remove => {
            tx.connection
                .prepare_cached(
                    "UPDATE participants SET left_at = ?3, removed = ?4, hidden_at = NULL, unread = 0
                     WHERE conversation = ?1 AND user_id = ?2",
                )?
                .execute((key.0, key.1, now, *change == ParticipantChange::Remove))?;
            notify::withdraw(tx, conversation, user)?;
        }
        ParticipantChange::Rejoin => {
            if !come_back(tx, conversation, user)? {
                return Ok(None);
            }
        }
        ParticipantChange::Rename(name) => {
            tx.connection
                .prepare_cached("UPDATE participants SET name = ?3 WHERE conversation = ?1 AND user_id = ?2")?
                .execute(params![key.0, key.1, name])?;
        }
    }
    participant_in(tx.connection, conversation, user)
}

fn add(
    tx: &mut Tx<'_>,
    conversation: ConversationId,
    new: &[NewParticipant],
    limit: usize,
) -> rusqlite::Result<Result<Vec<Participant>, AddRefused>> {
    let found: Option<(i64, Option<String>)> = tx
        .connection
        .prepare_cached("SELECT coalesce(last_message, 0), property_id FROM conversations WHERE id = ?1")?
        .query_row([conversation.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((last_message, property_id)) = found else { return Ok(Err(AddRefused::NotFound)) };
    let before = participants_in(tx.connection, conversation)?;
    let is_here = |user: &UserId| before.iter().any(|participant| participant.user_id == *user && participant.is_present());
    let mut coming: Vec<&UserId> = new.iter().map(|participant| &participant.user_id).filter(|user| !is_here(user)).collect();
    coming.sort_unstable();
    coming.dedup();
    if before.iter().filter(|participant| participant.is_present()).count() + coming.len() > limit {
        return Ok(Err(AddRefused::Full));
    }
    for participant in new {
        if insert(tx, conversation, participant, last_message, tx.now)? {
            continue;
        }
        tx.connection
            .prepare_cached(
                "UPDATE participants SET name = coalesce(?3, name), role = coalesce(?4, role) WHERE conversation = ?1 AND user_id = ?2",
            )?
            .execute(params![
                conversation.0,
                participant.user_id.as_str(),
                participant.name,
                participant.role.map(crate::model::ChatRole::as_str)
            ])?;
        rejoin(tx, conversation, &participant.user_id)?;
    }
    let after = participants_in(tx.connection, conversation)?;
    let property_id: Option<serde_json::Value> = property_id.map(|text| json(1, &text)).transpose()?;
    let direct = direct(after.iter().map(|participant| &participant.user_id), property_id.as_ref())?;
    tx.connection
        .prepare_cached("UPDATE conversations SET direct = ?2 WHERE id = ?1 AND direct IS NOT ?2")?
        .execute((conversation.0, direct))?;
    Ok(Ok(after.into_iter().filter(|participant| !is_here(&participant.user_id) && participant.is_present()).collect()))
}
