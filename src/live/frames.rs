//! The frames beside notifications, for clients that asked for more than the replaced system's.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    model::{Stream, Timestamp, Topic},
    socket::{Frame, Identity},
    store::{Changed, Head, ItemChange},
};

/// The first frame: who the client is to us, and where each stream stands.
pub(super) fn hello<'s>(
    identity: &Identity,
    heads: impl Iterator<Item = (&'s Stream, Head)>,
    epoch: &Arc<str>,
    ping_interval: Duration,
) -> Frame {
    let (mut own, mut topics) = (Head::default(), Vec::new());
    for (stream, head) in heads {
        match stream {
            Stream::User(_) => own = head,
            Stream::Topic(topic) => topics.push(json!({ "topic": topic, "seq": head.seq })),
            Stream::Conversation(_) => {}
        }
    }
    v1(&json!({
        "type": "hello",
        "user_id": identity.user_id.to_wire(),
        "session": Uuid::now_v7(),
        "seq": own.seq,
        "epoch": **epoch,
        "unread": own.unread,
        "topics": topics,
        "ping_interval_ms": millis(ping_interval),
        "token_expires_at": identity.expires_at,
    }))
}

/// All from `from` to `to` has been told or is no more. `changed` names items the client has whose state is different now.
pub(super) fn recovered(stream: &Stream, from: i64, to: i64, epoch: &Arc<str>, changed: &[i64]) -> Frame {
    let mut frame = json!({ "type": "recovered", "recovered": true, "from": from, "to": to, "epoch": **epoch });
    match stream {
        Stream::User(_) => frame["changed"] = changed.into(),
        Stream::Topic(topic) => frame["topic"] = topic.as_str().into(),
        Stream::Conversation(_) => {}
    }
    v1(&frame)
}

/// What the client missed cannot be told here: it loads the list anew.
pub(super) fn not_recovered(stream: &Stream, seq: i64, epoch: &Arc<str>) -> Frame {
    let mut frame = json!({ "type": "recovered", "recovered": false, "seq": seq, "epoch": **epoch });
    if let Stream::Topic(topic) = stream {
        frame["topic"] = topic.as_str().into();
    }
    v1(&frame)
}

pub(super) fn subscribed(topic: &Topic, seq: i64, epoch: &Arc<str>) -> Frame {
    v1(&json!({ "type": "subscribed", "topic": topic, "seq": seq, "epoch": **epoch }))
}

pub(super) fn unsubscribed(topic: &Topic) -> Frame {
    v1(&json!({ "type": "unsubscribed", "topic": topic }))
}

pub(super) fn renewed(until: Timestamp) -> Frame {
    v1(&json!({ "type": "token", "expires_at": until }))
}

/// The state of items changed, by this client or another of the user's.
pub(super) fn changed(change: ItemChange, changed: &Changed) -> Frame {
    v1(&json!({ "type": "changed", "state": change.as_str(), "ids": changed.ids }))
}

/// `seq` is how far the client has been told: one that has less has lost something on the way.
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
