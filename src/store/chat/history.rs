//! Messages as their readers see them: by id in both directions, and by event for who was away.

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    super::{Store, StoreError},
    MESSAGE_COLUMNS, read_message, unreadable,
};
use crate::model::{ChatEventKind, ConversationEvent, ConversationId, MessageId, StoredMessage, UserId};

/// Messages or events one page holds at most.
pub const MESSAGES_PAGE_LIMIT: usize = 200;

/// Where a conversation stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChatHead {
    /// Of the newest event; 0 before the first.
    pub event: i64,
    /// Events up to here are gone.
    pub floor: i64,
    pub last_message: Option<MessageId>,
}

/// Events of one conversation in ascending order.
#[derive(Clone, Debug)]
pub struct ChatReplay {
    pub events: Vec<ConversationEvent>,
    /// Everything up to this event is in `events`, or not for the viewer.
    pub through: i64,
    pub head: ChatHead,
}

/// Which messages of a conversation to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MessageCursor {
    /// The newest.
    #[default]
    Latest,
    /// The newest of what is left when so many of the newest are passed over.
    Past(usize),
    /// The newest of those before this one.
    Before(MessageId),
    /// The oldest of those after this one.
    After(MessageId),
}

#[derive(Clone, Debug)]
pub struct MessagePage {
    /// The oldest first, whichever way they were read.
    pub messages: Vec<StoredMessage>,
    /// Whether there is more in the direction read.
    pub has_more: bool,
}

impl Store {
    /// Where a conversation stands; `None` when there is no such conversation.
    pub async fn chat_head(&self, conversation: ConversationId) -> Result<Option<ChatHead>, StoreError> {
        self.read(move |connection| Ok(head(connection, conversation)?)).await
    }

    /// What follows the event `after`, up to `limit` events looked at, without what `viewer` has hidden; `None` when there is no such
    /// conversation. Each event shows its message as it is now.
    pub async fn chat_since(
        &self,
        conversation: ConversationId,
        after: i64,
        limit: usize,
        viewer: Option<UserId>,
    ) -> Result<Option<ChatReplay>, StoreError> {
        self.read(move |connection| {
            // One snapshot: an event that comes meanwhile is neither in the events nor counted as covered.
            let snapshot = connection.unchecked_transaction()?;
            let Some(head) = head(&snapshot, conversation)? else { return Ok(None) };
            let limit = limit.clamp(1, MESSAGES_PAGE_LIMIT);
            let looked_at = events_since(&snapshot, conversation, after, limit, viewer.as_ref())?;
            let through = match looked_at.last() {
                Some((last, _)) if looked_at.len() >= limit => last.event,
                _ => head.event.max(after),
            };
            let events = looked_at.into_iter().filter(|(_, is_hidden)| !is_hidden).map(|(event, _)| event).collect();
            Ok(Some(ChatReplay { events, through, head }))
        })
        .await
    }

    /// A page of a conversation's messages, deleted ones with their place, without those `viewer` has hidden.
    pub async fn messages(
        &self,
        conversation: ConversationId,
        viewer: Option<UserId>,
        cursor: MessageCursor,
        limit: usize,
    ) -> Result<MessagePage, StoreError> {
        self.read(move |connection| {
            let limit = limit.clamp(1, MESSAGES_PAGE_LIMIT);
            let (bound, order, is_backwards) = match cursor {
                MessageCursor::Latest | MessageCursor::Past(_) => ("id <= ?2", "DESC", true),
                MessageCursor::Before(_) => ("id < ?2", "DESC", true),
                MessageCursor::After(_) => ("id > ?2", "ASC", false),
            };
            let (from, skip) = match cursor {
                MessageCursor::Latest => (i64::MAX, 0),
                MessageCursor::Past(skip) => (i64::MAX, skip),
                MessageCursor::Before(id) | MessageCursor::After(id) => (id.0, 0),
            };
            let sql = format!(
                "SELECT {MESSAGE_COLUMNS} FROM messages WHERE conversation = ?1 AND {bound}
                 AND NOT EXISTS (SELECT 1 FROM hidden_messages WHERE user_id = ?3 AND message = messages.id)
                 ORDER BY id {order} LIMIT ?4 OFFSET ?5"
            );
            let mut messages: Vec<StoredMessage> = connection
                .prepare_cached(&sql)?
                .query_map(params![conversation.0, from, viewer.as_ref().map(UserId::as_str), limit + 1, skip], read_message)?
                .collect::<rusqlite::Result<_>>()?;
            let has_more = messages.len() > limit;
            messages.truncate(limit);
            if is_backwards {
                messages.reverse();
            }
            Ok(MessagePage { messages, has_more })
        })
        .await
    }

    /// How many messages of a conversation `viewer` has in sight.
    pub async fn message_count(&self, conversation: ConversationId, viewer: UserId) -> Result<u64, StoreError> {
        self.read(move |connection| {
            let sql = "SELECT count(*) FROM messages WHERE conversation = ?1
                       AND NOT EXISTS (SELECT 1 FROM hidden_messages WHERE user_id = ?2 AND message = messages.id)";
            Ok(connection.prepare_cached(sql)?.query_row((conversation.0, viewer.as_str()), |row| row.get(0))?)
        })
        .await
    }

    /// One message, unless `viewer` has hidden it. Whether they may see its conversation is for the caller to know.
    pub async fn message(&self, id: MessageId, viewer: Option<UserId>) -> Result<Option<StoredMessage>, StoreError> {
        self.read(move |connection| {
            let sql = format!(
                "SELECT {MESSAGE_COLUMNS} FROM messages WHERE id = ?1
                 AND NOT EXISTS (SELECT 1 FROM hidden_messages WHERE user_id = ?2 AND message = messages.id)"
            );
            let viewer = viewer.as_ref().map(UserId::as_str);
            Ok(connection.prepare_cached(&sql)?.query_row((id.0, viewer), read_message).optional()?)
        })
        .await
    }
}

fn head(connection: &Connection, conversation: ConversationId) -> rusqlite::Result<Option<ChatHead>> {
    connection
        .prepare_cached("SELECT event, floor, last_message FROM conversations WHERE id = ?1")?
        .query_row([conversation.0], |row| {
            Ok(ChatHead { event: row.get(0)?, floor: row.get(1)?, last_message: row.get::<_, Option<i64>>(2)?.map(MessageId) })
        })
        .optional()
}

/// The next events, and whether the viewer has hidden their message.
fn events_since(
    connection: &Connection,
    conversation: ConversationId,
    after: i64,
    limit: usize,
    viewer: Option<&UserId>,
) -> rusqlite::Result<Vec<(ConversationEvent, bool)>> {
    let sql = format!(
        "SELECT {MESSAGE_COLUMNS}, number, kind, EXISTS (SELECT 1 FROM hidden_messages h WHERE h.user_id = ?4 AND h.message = of)
         FROM (SELECT event AS number, 0 AS kind, id AS of FROM messages WHERE conversation = ?1 AND event > ?2
               UNION ALL
               SELECT event, kind, message FROM message_changes WHERE conversation = ?1 AND event > ?2
               ORDER BY 1 LIMIT ?3)
         CROSS JOIN messages ON id = of ORDER BY number"
    );
    connection
        .prepare_cached(&sql)?
        .query_map(params![conversation.0, after, limit, viewer.map(UserId::as_str)], |row| {
            let kind = ChatEventKind::from_number(row.get(11)?).ok_or_else(|| unreadable(11, "no kind of event"))?;
            Ok((ConversationEvent { event: row.get(10)?, kind, message: read_message(row)? }, row.get(12)?))
        })?
        .collect()
}
