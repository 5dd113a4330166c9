//! What goes out over a conversation's sockets. Each frame is encoded once, however many it goes to.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{error::ChatError, view::MessageView};
use crate::{
    model::{ChatEventKind, ConversationId, MessageId, Place, Stream, Timestamp, UserId},
    socket::{Audience, Frame, Identity},
};

#[derive(Serialize)]
struct MessageFrame<'a> {
    r#type: &'static str,
    message: &'a MessageView,
    seq: i64,
    epoch: &'a str,
}

/// A message, or what became of one: `message`, `message_edited` or `message_deleted`, in its place.
pub(super) fn event(kind: ChatEventKind, message: &MessageView, event: i64, epoch: &Arc<str>) -> Frame {
    let r#type = match kind {
        ChatEventKind::Sent => "message",
        ChatEventKind::Edited => "message_edited",
        ChatEventKind::Deleted => "message_deleted",
    };
    let frame = MessageFrame { r#type, message, seq: event, epoch };
    let text = serde_json::to_string(&frame).unwrap_or_default();
    let place = Place { stream: Stream::Conversation(message.conversation), seq: event };
    match kind {
        ChatEventKind::Sent => Frame::item(text, place, None),
        ChatEventKind::Edited | ChatEventKind::Deleted => Frame::v1_item(text, place),
    }
}

/// The message that a repeat found: for its sender's own connection, and in no place.
pub(super) fn repeated(message: &MessageView, event: i64, epoch: &Arc<str>) -> Frame {
    let frame = MessageFrame { r#type: "message", message, seq: event, epoch };
    Frame::new(serde_json::to_string(&frame).unwrap_or_default())
}

pub(super) fn typing(user: &UserId, name: &str, is_typing: bool) -> Frame {
    let frame = json!({ "type": "typing", "user_id": user.to_wire(), "username": name, "is_typing": is_typing });
    Frame::new(frame.to_string()).to(Audience::Except(user.clone()))
}

/// `user` has read `message` and all before it.
pub(super) fn read_receipt(user: &UserId, message: MessageId, read_at: Timestamp) -> Frame {
    Frame::new(json!({ "type": "read_receipt", "message_id": message, "user_id": user.to_wire(), "read_at": read_at }).to_string())
}

pub(super) fn user_status(user: &UserId, is_online: bool) -> Frame {
    let frame = json!({ "type": "user_status", "user_id": user.to_wire(), "is_online": is_online });
    Frame::new(frame.to_string()).to(Audience::Except(user.clone()))
}

/// A notice to all in a conversation, from the system.
pub(super) fn notification(message: &str, severity: crate::model::Severity) -> Frame {
    Frame::new(json!({ "type": "notification", "message": message, "severity": severity }).to_string())
}

/// The reader does not see this message any more, on any of their devices.
pub(super) fn hidden(user: &UserId, message: MessageId) -> Frame {
    Frame::v1(json!({ "type": "message_hidden", "message_id": message }).to_string()).to(Audience::Only(user.clone()))
}

/// Messages of others that `user` has not read in this conversation.
pub(super) fn unread(user: &UserId, count: i64) -> Frame {
    Frame::v1(json!({ "type": "unread", "count": count }).to_string()).to(Audience::Only(user.clone()))
}

pub(super) fn error(error: &ChatError, client_id: Option<&str>) -> Frame {
    let mut frame = json!({ "type": "error", "message": error.to_string(), "code": error.code() });
    if let Some(client_id) = client_id {
        frame["client_id"] = client_id.into();
    }
    Frame::new(frame.to_string())
}

/// What the first frame tells beside who the client is.
pub(super) struct Hello<'a> {
    pub identity: &'a Identity,
    pub conversation: ConversationId,
    pub event: i64,
    pub epoch: &'a Arc<str>,
    pub unread: i64,
    pub participants: Vec<Value>,
    pub ping_interval: Duration,
}

pub(super) fn hello(hello: &Hello<'_>) -> Frame {
    v1(&json!({
        "type": "hello",
        "user_id": hello.identity.user_id.to_wire(),
        "session": Uuid::now_v7(),
        "conversation": hello.conversation,
        "seq": hello.event,
        "epoch": **hello.epoch,
        "unread": hello.unread,
        "participants": hello.participants,
        "ping_interval_ms": millis(hello.ping_interval),
        "token_expires_at": hello.identity.expires_at,
    }))
}

pub(super) fn recovered(from: i64, to: i64, epoch: &Arc<str>) -> Frame {
    v1(&json!({ "type": "recovered", "recovered": true, "from": from, "to": to, "epoch": **epoch }))
}

/// What the client missed cannot be told here: it loads the messages anew.
pub(super) fn not_recovered(event: i64, epoch: &Arc<str>) -> Frame {
    v1(&json!({ "type": "recovered", "recovered": false, "seq": event, "epoch": **epoch }))
}

pub(super) fn renewed(until: Timestamp) -> Frame {
    v1(&json!({ "type": "token", "expires_at": until }))
}

pub(super) fn ping(seq: i64) -> Frame {
    v1(&json!({ "type": "ping", "seq": seq }))
}

pub(super) fn restarting(retry_after: Duration) -> Frame {
    v1(&json!({ "type": "restarting", "retry_after_ms": millis(retry_after) }))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn v1(frame: &Value) -> Frame {
    Frame::v1(frame.to_string())
}
