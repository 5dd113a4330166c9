//! The messages of a conversation: reading, sending, changing them, and how far they are read.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::Uri,
    response::IntoResponse as _,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Answer, Envelope, NotDone, conversation_id, created, done, invalid, link, message_id, passed_over};
use crate::{
    chat::{Chat, ChatError, Draft},
    model::{Attachment, ConversationId, MessageId, StoredMessage, UserId},
    socket::{BareDocument, Document, Identity},
    store::{MESSAGES_PAGE_LIMIT, MessageCursor},
};

/// Messages in a page of the envelope.
const PAGE: usize = 50;

#[derive(Deserialize)]
pub(super) struct Listing {
    /// The newest of those before this message, or the oldest of those after it.
    before: Option<MessageId>,
    after: Option<MessageId>,
    page: Option<usize>,
    cursor: Option<String>,
    #[serde(alias = "page_size")]
    limit: Option<usize>,
}

/// The oldest first: a bare array of the newest ones, of those before or of those after; with `page` or `cursor` the envelope, whose `next` leads
/// to older ones.
pub(super) async fn list(
    State(chat): State<Arc<Chat>>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
    uri: Uri,
    listing: Result<Query<Listing>, QueryRejection>,
) -> Answer {
    let Query(Listing { before, after, page, cursor, limit }) = listing?;
    let (id, user) = (conversation_id(&id)?, identity.user_id);
    chat.members_for(id, &user).await?;
    let is_enveloped = page.is_some() || cursor.is_some();
    let size = limit.unwrap_or(if is_enveloped { PAGE } else { MESSAGES_PAGE_LIMIT }).clamp(1, MESSAGES_PAGE_LIMIT);
    let count = if is_enveloped { chat.store.message_count(id, user.clone()).await? } else { 0 };
    let by_page = page.filter(|_| cursor.is_none());
    let from = match (before, after, by_page, cursor.filter(|cursor| !cursor.is_empty())) {
        (Some(before), None, None, None) => MessageCursor::Before(before),
        (None, Some(after), None, None) => MessageCursor::After(after),
        (None, None, Some(page), _) => MessageCursor::Past(passed_over(page, size, count)?),
        (None, None, None, Some(cursor)) => {
            MessageCursor::Before(cursor.parse().map_err(|_| invalid("`cursor` is not one of this list; hint: follow `next`."))?)
        }
        (None, None, None, None) => MessageCursor::Latest,
        _ => return Err(invalid("Only one of `before`, `after`, `page` and `cursor` can be given.")),
    };
    let found = chat.store.messages(id, Some(user), from, size).await?;
    let results = chat.messages_shown(id, &found.messages).await?;
    if !is_enveloped {
        return Ok(Json(results).into_response());
    }
    let next = found.messages.first().filter(|_| found.has_more).map(|oldest| match by_page {
        Some(page) => link(&uri, "page", &(page.max(1) + 1).to_string()),
        None => link(&uri, "cursor", &oldest.id.to_string()),
    });
    let previous = by_page.filter(|page| *page > 1).map(|page| link(&uri, "page", &(page - 1).to_string()));
    Ok(Json(Envelope { count, next, previous, results }).into_response())
}

/// A message to send, under either generation's name for its text.
#[derive(Deserialize, JsonSchema)]
pub(in crate::chat) struct SendRequest {
    content: Option<String>,
    text: Option<String>,
    /// A repeat of it finds the first message.
    client_id: Option<String>,
    reply_to: Option<MessageId>,
    #[serde(default)]
    attachments: Vec<Attachment>,
}

pub(super) async fn send(
    State(chat): State<Arc<Chat>>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
    Document(request): Document<SendRequest>,
) -> Answer {
    let SendRequest { content, text, client_id, reply_to, attachments } = request;
    let draft = Draft { text: content.or(text).unwrap_or_default(), attachments, client_id, reply_to };
    let posted = chat.send(&identity.user_id, conversation_id(&id)?, draft).await?;
    Ok(created(!posted.repeated, posted.view))
}

/// Up to where a conversation is read.
#[derive(Default, Deserialize, JsonSchema)]
pub(in crate::chat) struct Marking {
    /// The newest, when it is left out.
    message_id: Option<MessageId>,
}

/// How far it is read now.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Read")]
pub(in crate::chat) struct Marked {
    /// `null` where there is nothing to read.
    message_id: Option<MessageId>,
    unread_count: i64,
}

pub(super) async fn mark_conversation(
    State(chat): State<Arc<Chat>>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
    BareDocument(marking): BareDocument<Marking>,
) -> Answer {
    let id = conversation_id(&id)?;
    chat.members_for(id, &identity.user_id).await?;
    let message = match marking.message_id {
        Some(message) => {
            let found = chat.store.message(message, None).await?;
            Some(found.filter(|found| found.conversation == id).ok_or(ChatError::NotFound("Message"))?.id)
        }
        None => chat.store.chat_head(id).await?.and_then(|head| head.last_message),
    };
    read(&chat, &identity.user_id, id, message).await
}

pub(super) async fn mark(State(chat): State<Arc<Chat>>, Extension(identity): Extension<Identity>, Path(id): Path<String>) -> Answer {
    let message = theirs(&chat, &identity.user_id, message_id(&id)?).await?;
    read(&chat, &identity.user_id, message.conversation, Some(message.id)).await
}

async fn read(chat: &Chat, user: &UserId, conversation: ConversationId, message: Option<MessageId>) -> Answer {
    if let Some(message) = message {
        chat.read(user, conversation, message).await?;
    }
    let own = chat.store.participant(conversation, user.clone()).await?.ok_or(ChatError::NotFound("Conversation"))?;
    Ok(Json(Marked { message_id: own.read_to, unread_count: own.unread }).into_response())
}

/// A message of a conversation in which `user` takes part, hidden or not.
async fn theirs(chat: &Chat, user: &UserId, id: MessageId) -> Result<StoredMessage, NotDone> {
    let message = chat.store.message(id, None).await?.ok_or(ChatError::NotFound("Message"))?;
    chat.members_for(message.conversation, user).await.map_err(|error| match error {
        ChatError::NotFound(_) => ChatError::NotFound("Message"),
        other => other,
    })?;
    Ok(message)
}

pub(super) async fn show(State(chat): State<Arc<Chat>>, Extension(identity): Extension<Identity>, Path(id): Path<String>) -> Answer {
    let conversation = theirs(&chat, &identity.user_id, message_id(&id)?).await?.conversation;
    let message = chat.message(conversation, message_id(&id)?, &identity.user_id).await?;
    let shown = chat.messages_shown(conversation, &[message]).await?;
    Ok(Json(shown.into_iter().next()).into_response())
}

/// A message's new text. What else a whole message sent back holds is passed over.
#[derive(Deserialize, JsonSchema)]
pub(in crate::chat) struct Editing {
    content: Option<String>,
    text: Option<String>,
}

pub(super) async fn edit(
    State(chat): State<Arc<Chat>>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
    Document(editing): Document<Editing>,
) -> Answer {
    let Editing { content, text } = editing;
    let text = content.or(text).ok_or_else(|| invalid("`text` is missing; hint: {\"text\": \"…\"}"))?;
    let message = theirs(&chat, &identity.user_id, message_id(&id)?).await?;
    Ok(Json(chat.edit(&identity.user_id, message.conversation, message.id, text).await?).into_response())
}

#[derive(Deserialize)]
pub(super) struct Removing {
    /// Whom it is taken from: `everyone`, or `me`.
    r#for: Option<String>,
}

pub(super) async fn remove(
    State(chat): State<Arc<Chat>>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
    removing: Result<Query<Removing>, QueryRejection>,
) -> Answer {
    let Query(Removing { r#for }) = removing?;
    let user = identity.user_id;
    let message = theirs(&chat, &user, message_id(&id)?).await?;
    match r#for.as_deref() {
        Some("me") => chat.hide_message(&user, message.conversation, message.id).await?,
        None | Some("everyone") => match chat.delete(Some(&user), message.conversation, message.id).await {
            // Asked again, because the answer was lost: it is gone.
            Ok(()) | Err(ChatError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        },
        Some(_) => return Err(invalid("`for` is neither `me` nor `everyone`.")),
    }
    Ok(done())
}
