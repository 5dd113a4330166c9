//! A message as clients see it, on sockets and over HTTP: one object under both generations' names.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{members::Members, service::Chat};
use crate::model::{Attachment, ChatBody, ConversationId, MessageId, Participant, StoredMessage, Timestamp, UserId};

/// Stands where a message cannot be shown: what is stored is not what was sealed for it.
pub(super) const UNSHOWABLE: &str = "[message cannot be shown]";

/// What a stored message says, as far as it can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    Body(ChatBody),
    /// Nothing, for it is deleted.
    Deleted,
    Tampered,
}

/// A message for clients.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Message")]
pub struct MessageView {
    pub id: MessageId,
    pub conversation: ConversationId,
    /// The same as `sender`, as older clients call it.
    #[schemars(with = "UserId")]
    pub sender_id: Value,
    #[schemars(with = "UserId")]
    pub sender: Value,
    pub sender_name: String,
    /// The same as `text`, as older clients call it.
    pub content: String,
    pub text: String,
    pub attachments: Vec<Attachment>,
    /// By everybody else who takes part.
    pub is_read: bool,
    pub read_at: Option<Timestamp>,
    pub reply_to: Option<MessageId>,
    pub is_deleted: bool,
    pub created_at: Timestamp,
    pub edited_at: Option<Timestamp>,
    pub deleted_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Present, and true, where what is stored cannot be trusted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schemars(default)]
    pub tampered: bool,
}

impl MessageView {
    /// `participants` with their read pointers as they are now; none of them has read a message that is new.
    pub fn new(message: &StoredMessage, opened: Opened, members: &Members, participants: &[Participant]) -> Self {
        let tampered = opened == Opened::Tampered;
        let ChatBody { text, attachments } = match opened {
            Opened::Body(body) => body,
            Opened::Deleted => ChatBody::default(),
            Opened::Tampered => ChatBody { text: UNSHOWABLE.to_owned(), attachments: Vec::new() },
        };
        let read_at = read_at(message, participants);
        Self {
            id: message.id,
            conversation: message.conversation,
            sender_id: message.sender.to_wire(),
            sender: message.sender.to_wire(),
            sender_name: members.name(&message.sender),
            content: text.clone(),
            text,
            attachments,
            is_read: read_at.is_some(),
            read_at,
            reply_to: message.reply_to,
            is_deleted: message.deleted_at.is_some(),
            created_at: message.created_at,
            edited_at: message.edited_at,
            deleted_at: message.deleted_at,
            client_id: message.client_id.clone(),
            tampered,
        }
    }
}

/// Messages of one conversation, with everybody's read pointers as they are in `members`.
pub(super) fn all(chat: &Chat, messages: &[StoredMessage], members: &Members) -> Vec<MessageView> {
    messages.iter().map(|message| MessageView::new(message, chat.open(message), members, members.all())).collect()
}

/// When the last of the others had read it; `None` while one of them has not, or there is nobody.
fn read_at(message: &StoredMessage, participants: &[Participant]) -> Option<Timestamp> {
    let others = participants.iter().filter(|other| other.is_present() && other.user_id != message.sender);
    let read = others.map(|other| other.read_at.filter(|_| other.read_to >= Some(message.id)));
    read.collect::<Option<Vec<_>>>()?.into_iter().max()
}
