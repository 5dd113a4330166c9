//! The chat: conversations, who takes part in them, and their messages as they are kept.
//!
//! What a message says is sealed before it gets here; a [`ChatBody`] is what is inside.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Timestamp, UserId};

macro_rules! row_id {
    ($(#[$doc:meta])+ $name:ident, $hint:literal) => {
        $(#[$doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let is_canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
                text.parse().ok().filter(|_| is_canonical).map(Self).ok_or_else(|| $hint.to_owned())
            }
        }
    };
}

row_id! {
    /// A conversation's number, from 1.
    ConversationId, "not a conversation id; hint: a whole number from 1, such as 7"
}

row_id! {
    /// A message's number, from 1, over all conversations. Within one conversation, a later message has a larger one.
    MessageId, "not a message id; hint: a whole number from 1, such as 123"
}

/// People talking with each other about something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Conversation {
    pub id: ConversationId,
    /// Chosen by the backend that made it, which makes making it idempotent.
    pub key: Option<String>,
    pub created_by: Option<UserId>,
    /// What it is about, as the replaced system names it: a number or a text.
    pub property_id: Option<Value>,
    pub property_title: Option<String>,
    pub metadata: Map<String, Value>,
    /// Number of the newest event; 0 before the first.
    pub event: i64,
    pub last_message: Option<MessageId>,
    pub created_at: Timestamp,
    /// Of its last message, or of its making.
    pub updated_at: Timestamp,
}

/// Which of the two places of the replaced system somebody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChatRole {
    User,
    Agent,
}

impl ChatRole {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Agent => "agent",
        }
    }
}

impl FromStr for ChatRole {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::User, Self::Agent].into_iter().find(|role| role.as_str() == text).ok_or_else(|| "not a role; hint: user or agent".to_owned())
    }
}

/// Somebody's part in a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Participant {
    pub user_id: UserId,
    pub name: Option<String>,
    pub role: Option<ChatRole>,
    pub joined_at: Timestamp,
    /// Set for who is no longer part of it.
    pub left_at: Option<Timestamp>,
    /// Set while they have put it out of their sight; the next message brings it back.
    pub hidden_at: Option<Timestamp>,
    /// No notices for them.
    pub muted: bool,
    /// They have read up to here.
    pub read_to: Option<MessageId>,
    pub read_at: Option<Timestamp>,
    /// Messages of others that they can see and have not read.
    pub unread: i64,
}

impl Participant {
    /// Whether they are part of it now.
    pub const fn is_present(&self) -> bool {
        self.left_at.is_none()
    }
}

/// A message as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredMessage {
    pub id: MessageId,
    pub conversation: ConversationId,
    /// The event it came with.
    pub event: i64,
    pub sender: UserId,
    /// Chosen by the sender's client, which makes sending it idempotent.
    pub client_id: Option<String>,
    /// What it says, sealed; empty once it is deleted.
    pub sealed: String,
    pub reply_to: Option<MessageId>,
    pub created_at: Timestamp,
    pub edited_at: Option<Timestamp>,
    pub deleted_at: Option<Timestamp>,
}

/// What an event of a conversation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChatEventKind {
    Sent,
    Edited,
    /// For everyone.
    Deleted,
}

impl ChatEventKind {
    /// As it is stored.
    pub const fn as_number(self) -> i64 {
        self as i64
    }

    pub fn from_number(number: i64) -> Option<Self> {
        [Self::Sent, Self::Edited, Self::Deleted].into_iter().find(|kind| kind.as_number() == number)
    }
}

/// One event of a conversation. Events are numbered from 1 without gaps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConversationEvent {
    pub event: i64,
    pub kind: ChatEventKind,
    /// As it is now, whatever it was then.
    pub message: StoredMessage,
}

/// A file that a message refers to; the file itself is elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    pub url: String,
    pub content_type: String,
    /// In bytes.
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What a message says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatBody {
    pub text: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<i64>) {
        assert_eq!(text.parse().ok(), expected.map(MessageId), "{text}");
    }

    #[test]
    fn ids_are_canonical_numbers_from_one() {
        check("123", Some(123));
        check("9223372036854775807", Some(i64::MAX));
        for bad in ["", "0", "-1", "+1", "01", "1.0", "9223372036854775808", " 1", "a"] {
            check(bad, None);
        }
        assert_eq!(serde_json::to_value(ConversationId(7)).unwrap(), 7);
    }

    #[test]
    fn kinds_round_trip() {
        for kind in [ChatEventKind::Sent, ChatEventKind::Edited, ChatEventKind::Deleted] {
            assert_eq!(ChatEventKind::from_number(kind.as_number()), Some(kind));
        }
        assert_eq!(ChatEventKind::from_number(3), None);
        assert_eq!("agent".parse(), Ok(ChatRole::Agent));
    }
}
