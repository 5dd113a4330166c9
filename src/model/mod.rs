//! The data that flows: jobs, recipients, deliveries, messages, outcomes and verdicts; conversations and what is said in them.
//!
//! No I/O, no clock, no logs. Preconditions live in the types: a [`PhoneNumber`] has been parsed, an [`EmailAddress`] has too.

mod address;
mod channel;
mod chat;
mod contact;
mod delivery;
mod email_address;
mod inbox;
mod job;
mod message;
mod outcome;
mod problem;
mod revocation;
pub mod segments;
mod stream;
mod suppression;
mod text;
mod time;
pub mod trace_parent;

pub use address::{Address, Locale, PhoneNumber, PushToken, TimeZone, UserId};
pub use channel::{Channel, ChannelSet, PerChannel, Priority, Status, StatusSet};
pub use chat::{
    Attachment, ChatBody, ChatEventKind, ChatRole, Conversation, ConversationEvent, ConversationId, MessageId, Participant, StoredMessage,
};
pub use contact::{Contact, PushTokenEntry};
pub use delivery::{Delivery, DeliveryId, DeliveryKey, Skipped, SkippedReason};
pub use email_address::EmailAddress;
pub use inbox::InboxItem;
pub use job::{Content, Envelope, Job, JobId, Recipient, Severity, TemplateName, Version};
pub use message::{Body, Email, Message, Notification, Push, PushTarget, Sms};
pub use outcome::{Code, Outcome, PermanentKind, Verdict};
pub(crate) use problem::nearest_hint;
pub use problem::{Problem, decode_all};
pub use revocation::{Revocation, Revoked};
pub use stream::{Place, Stream, Topic, TopicPattern};
pub use suppression::{ListName, SuppressionKey, SuppressionReason, canonical_address, channel_of_address};
pub use text::{cut, is_broken, is_invisible, mask, plain};
pub use time::Timestamp;
