//! Making conversations, finding them, listing them.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Map, Value};

use super::{
    super::{Store, StoreError, tx::Tx, writer::Urgency},
    CONVERSATION_COLUMNS, last_message_in, participant_in, participants, participants_in, read_conversation, unwritable,
};
use crate::model::{ChatRole, Conversation, ConversationId, Participant, StoredMessage, Timestamp, UserId};

/// Conversations one page holds at most.
pub const CONVERSATIONS_PAGE_LIMIT: usize = 200;

/// Somebody about to take part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewParticipant {
    pub user_id: UserId,
    pub name: Option<String>,
    pub role: Option<ChatRole>,
}

/// A conversation about to be made.
#[derive(Clone, Debug)]
pub struct NewConversation {
    /// Makes making it idempotent.
    pub key: Option<String>,
    /// Of the request, to tell a repeat from another conversation under the same key.
    pub body_hash: [u8; 32],
    pub created_by: Option<UserId>,
    /// Who is named twice takes part once.
    pub participants: Vec<NewParticipant>,
    pub property_id: Option<Value>,
    pub property_title: Option<String>,
    pub metadata: Map<String, Value>,
}

/// A conversation that is there now.
#[derive(Clone, Debug, PartialEq)]
pub struct Created {
    pub conversation: ConversationView,
    /// It was there before.
    pub repeated: bool,
}

/// The key names a conversation that another request made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyConflict(pub ConversationId);

/// A conversation with everybody in it, as one of them sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct ConversationView {
    pub conversation: Conversation,
    /// Those who have left too: what they said keeps their name.
    pub participants: Vec<Participant>,
    /// The newest that the viewer has not hidden.
    pub last_message: Option<StoredMessage>,
}

impl ConversationView {
    pub fn participant(&self, user: &UserId) -> Option<&Participant> {
        self.participants.iter().find(|participant| participant.user_id == *user)
    }
}

/// Where a page of conversations ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConversationCursor {
    pub activity: Timestamp,
    pub id: ConversationId,
}

/// Which of a user's conversations to list, the most active first.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConversationFilter {
    /// Those they have hidden, instead of those they have not.
    pub hidden: bool,
    /// Where an earlier page ended.
    pub before: Option<ConversationCursor>,
    /// So many of them are passed over first.
    pub skip: usize,
    pub limit: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ConversationPage {
    pub conversations: Vec<ConversationView>,
    /// Present when there is more.
    pub next: Option<ConversationCursor>,
}

impl Store {
    /// Makes a conversation; a repeat of its key with the same body finds it as it is by now.
    pub async fn create_conversation(&self, new: NewConversation) -> Result<Result<Created, KeyConflict>, StoreError> {
        self.writer.write(Urgency::Normal, 2 + new.participants.len(), move |tx| create(tx, &new)).await
    }

    /// Finds the conversation of the same two people about the same subject, and brings it back for who starts it
    /// ([`NewConversation::created_by`]); makes it when there is none, or the other one has left it. With more than two people, and with a
    /// key, it is [`Self::create_conversation`].
    pub async fn start_conversation(&self, new: NewConversation) -> Result<Result<Created, KeyConflict>, StoreError> {
        self.writer
            .write(Urgency::Normal, 2 + new.participants.len(), move |tx| match find_direct(tx, &new)? {
                Some(found) => Ok(Ok(found)),
                None => create(tx, &new),
            })
            .await
    }

    /// A conversation as `viewer` sees it; without one, as it is.
    pub async fn conversation(&self, id: ConversationId, viewer: Option<UserId>) -> Result<Option<ConversationView>, StoreError> {
        self.read(move |connection| {
            let snapshot = connection.unchecked_transaction()?;
            Ok(view_in(&snapshot, id, viewer.as_ref())?)
        })
        .await
    }

    /// A page of a user's conversations. One whose activity moves meanwhile is not seen twice, but may be missed: it is at the top then.
    pub async fn conversations(&self, user: UserId, filter: ConversationFilter) -> Result<ConversationPage, StoreError> {
        self.read(move |connection| {
            let snapshot = connection.unchecked_transaction()?;
            Ok(list(&snapshot, &user, filter)?)
        })
        .await
    }

    /// How many conversations a user has, of those hidden or of those not.
    pub async fn conversation_count(&self, user: UserId, hidden: bool) -> Result<u64, StoreError> {
        self.read(move |connection| {
            let sql = "SELECT count(*) FROM participants WHERE user_id = ?1 AND left_at IS NULL AND (hidden_at IS NOT NULL) = ?2";
            Ok(connection.prepare_cached(sql)?.query_row((user.as_str(), hidden), |row| row.get(0))?)
        })
        .await
    }

    /// Unread messages over all conversations that a user has in sight.
    pub async fn total_unread(&self, user: UserId) -> Result<i64, StoreError> {
        self.read(move |connection| {
            let sql = "SELECT coalesce(sum(unread), 0) FROM participants
                       WHERE user_id = ?1 AND unread > 0 AND left_at IS NULL AND hidden_at IS NULL";
            Ok(connection.prepare_cached(sql)?.query_row([user.as_str()], |row| row.get(0))?)
        })
        .await
    }
}

fn create(tx: &Tx<'_>, new: &NewConversation) -> rusqlite::Result<Result<Created, KeyConflict>> {
    if let Some(key) = &new.key {
        let known: Option<(i64, Option<[u8; 32]>)> = tx
            .connection
            .prepare_cached("SELECT id, body_hash FROM conversations WHERE key = ?1")?
            .query_row([key], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        if let Some((id, body_hash)) = known {
            let id = ConversationId(id);
            if body_hash != Some(new.body_hash) {
                return Ok(Err(KeyConflict(id)));
            }
            return Ok(Ok(Created { conversation: view_of_known(tx.connection, id, None)?, repeated: true }));
        }
    }
    let now = tx.now.as_millis();
    let property_id = new.property_id.as_ref().map(serde_json::to_string).transpose().map_err(unwritable)?;
    tx.connection
        .prepare_cached(
            "INSERT INTO conversations (key, body_hash, direct, created_by, property_id, property_title, metadata, created_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8)",
        )?
        .execute(params![
            new.key,
            new.key.as_ref().map(|_| new.body_hash),
            direct(new.participants.iter().map(|participant| &participant.user_id), new.property_id.as_ref())?,
            new.created_by.as_ref().map(UserId::as_str),
            property_id,
            new.property_title,
            serde_json::to_string(&new.metadata).map_err(unwritable)?,
            now,
        ])?;
    let id = ConversationId(tx.connection.last_insert_rowid());
    for participant in &new.participants {
        participants::insert(tx, id, participant, 0, tx.now)?;
    }
    Ok(Ok(Created { conversation: view_of_known(tx.connection, id, None)?, repeated: false }))
}

/// Two people and their subject under one name, whoever of them is named first; `None` for any other number of people. A subject that is a
/// number is another than the same in text.
pub(super) fn direct<'u>(users: impl Iterator<Item = &'u UserId>, property_id: Option<&Value>) -> rusqlite::Result<Option<String>> {
    let mut users: Vec<&str> = users.map(UserId::as_str).collect();
    users.sort_unstable();
    users.dedup();
    let [one, other] = users[..] else { return Ok(None) };
    serde_json::to_string(&(one, other, property_id)).map(Some).map_err(unwritable)
}

fn find_direct(tx: &Tx<'_>, new: &NewConversation) -> rusqlite::Result<Option<Created>> {
    let named = direct(new.participants.iter().map(|participant| &participant.user_id), new.property_id.as_ref())?;
    let (None, Some(direct), Some(starter)) = (&new.key, named, &new.created_by) else { return Ok(None) };
    let found: Option<i64> = tx
        .connection
        .prepare_cached(
            "SELECT id FROM conversations WHERE direct = ?1 AND NOT EXISTS
                (SELECT 1 FROM participants WHERE conversation = id AND user_id <> ?2 AND left_at IS NOT NULL)
             ORDER BY updated_at DESC, id DESC LIMIT 1",
        )?
        .query_row((direct, starter.as_str()), |row| row.get(0))
        .optional()?;
    let Some(id) = found.map(ConversationId) else { return Ok(None) };
    let Some(participant) = participant_in(tx.connection, id, starter)? else { return Ok(None) };
    if participant.is_present() {
        participants::unhide(tx, id, starter)?;
    } else if !participants::come_back(tx, id, starter)? {
        return Ok(None);
    }
    Ok(Some(Created { conversation: view_of_known(tx.connection, id, Some(starter))?, repeated: true }))
}

/// A conversation that was found or made in the same transaction.
fn view_of_known(connection: &Connection, id: ConversationId, viewer: Option<&UserId>) -> rusqlite::Result<ConversationView> {
    view_in(connection, id, viewer)?.ok_or(rusqlite::Error::QueryReturnedNoRows)
}

pub(super) fn view_in(connection: &Connection, id: ConversationId, viewer: Option<&UserId>) -> rusqlite::Result<Option<ConversationView>> {
    let sql = format!("SELECT {CONVERSATION_COLUMNS} FROM conversations WHERE id = ?1");
    let Some(conversation) = connection.prepare_cached(&sql)?.query_row([id.0], read_conversation).optional()? else {
        return Ok(None);
    };
    let participants = participants_in(connection, id)?;
    let last_message = last_message_in(connection, id, viewer)?;
    Ok(Some(ConversationView { conversation, participants, last_message }))
}

fn list(connection: &Connection, user: &UserId, filter: ConversationFilter) -> rusqlite::Result<ConversationPage> {
    let limit = filter.limit.clamp(1, CONVERSATIONS_PAGE_LIMIT);
    let before = filter.before.unwrap_or(ConversationCursor { activity: Timestamp::FAR_FUTURE, id: ConversationId(i64::MAX) });
    let hidden = if filter.hidden { "hidden_at IS NOT NULL" } else { "hidden_at IS NULL" };
    let sql = format!(
        "SELECT activity, conversation FROM participants
         WHERE user_id = ?1 AND left_at IS NULL AND {hidden} AND (activity, conversation) < (?2, ?3)
         ORDER BY activity DESC, conversation DESC LIMIT ?4 OFFSET ?5"
    );
    let mut places: Vec<ConversationCursor> = connection
        .prepare_cached(&sql)?
        .query_map(params![user.as_str(), before.activity.as_millis(), before.id.0, limit + 1, filter.skip], |row| {
            Ok(ConversationCursor { activity: Timestamp::from_millis(row.get(0)?), id: ConversationId(row.get(1)?) })
        })?
        .collect::<rusqlite::Result<_>>()?;
    let has_more = places.len() > limit;
    places.truncate(limit);
    let next = if has_more { places.last().copied() } else { None };
    let views = places.iter().map(|place| view_in(connection, place.id, Some(user)));
    Ok(ConversationPage { conversations: views.filter_map(Result::transpose).collect::<rusqlite::Result<_>>()?, next })
}
