//! The live channel: the frame to the bus. The item is committed before it comes here.
//!
//! One notification frame serves both generations of clients: the older read `message` and `severity`, the newer the whole object.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    model::{InboxItem, Severity, Stream, Timestamp, Topic},
    socket::{Bus, Frame},
};

/// Shows a committed item to whoever follows its stream, and the user's own sockets how much is unread now.
pub fn publish(bus: &Bus, item: &InboxItem, unread: i64) {
    let stream = &item.place.stream;
    if !bus.is_followed(stream) {
        return;
    }
    bus.publish(stream, &Arc::new(notification_frame(item)));
    if let Stream::User(_) = stream {
        bus.publish(stream, &Arc::new(unread_frame(unread)));
    }
}

/// How much is unread, for those who know the frame.
pub fn unread_frame(unread: i64) -> Frame {
    Frame::v1(json!({ "type": "unread", "count": unread }).to_string())
}

#[derive(Serialize)]
struct NotificationFrame<'a> {
    r#type: &'static str,
    id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a Topic>,
    kind: &'a str,
    title: &'a str,
    message: &'a str,
    severity: Severity,
    is_read: bool,
    created_at: Timestamp,
    related_object_id: &'a Option<Value>,
    related_object_type: &'a Option<String>,
    data: &'a Map<String, Value>,
    seq: i64,
    epoch: &'a str,
}

/// The frame that shows an item. Made once, however many sockets it goes to.
#[expect(clippy::missing_panics_doc, reason = "string keys and JSON values are always JSON")]
pub fn notification_frame(item: &InboxItem) -> Frame {
    let notification = &item.notification;
    let (user, topic) = match &item.place.stream {
        Stream::User(user) => (Some(user.to_wire()), None),
        Stream::Topic(topic) => (None, Some(topic)),
        Stream::Conversation(_) => (None, None),
    };
    let frame = NotificationFrame {
        r#type: "notification",
        id: item.id,
        user,
        topic,
        kind: &notification.kind,
        title: &notification.title,
        message: &notification.message,
        severity: notification.severity,
        is_read: item.read_at.is_some(),
        created_at: item.created_at,
        related_object_id: &notification.related_object_id,
        related_object_type: &notification.related_object_type,
        data: &notification.data,
        seq: item.place.seq,
        epoch: &item.epoch,
    };
    let text = serde_json::to_string(&frame).expect("string keys and JSON values are JSON");
    Frame::item(text, item.place.clone(), Some(item.delivery))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DeliveryKey, Notification, Place};

    #[test]
    fn the_notification_frame_serves_both_generations() {
        let mut item = InboxItem {
            id: 123,
            place: Place { stream: Stream::User("42".parse().unwrap()), seq: 9 },
            epoch: "e1".into(),
            created_at: "2026-01-15T10:30:00Z".parse().unwrap(),
            seen_at: None,
            read_at: None,
            archived_at: None,
            notification: Notification {
                kind: "booking".to_owned(),
                title: "Booked".to_owned(),
                message: "Ghorofa \"A\" imewekwa".to_owned(),
                severity: Severity::Success,
                related_object_id: Some(json!(5)),
                related_object_type: Some("property".to_owned()),
                data: Map::from_iter([("price".to_owned(), json!(10))]),
            },
            delivery: DeliveryKey { job: 7, ordinal: 0 },
        };
        // Golden: deployed clients read it.
        assert_eq!(
            notification_frame(&item).text.as_str(),
            concat!(
                r#"{"type":"notification","id":123,"user":42,"kind":"booking","title":"Booked","message":"Ghorofa \"A\" imewekwa","#,
                r#""severity":"success","is_read":false,"created_at":"2026-01-15T10:30:00Z","related_object_id":5,"#,
                r#""related_object_type":"property","data":{"price":10},"seq":9,"epoch":"e1"}"#,
            )
        );
        item.place.stream = Stream::User("a-b".parse().unwrap());
        item.notification.related_object_id = None;
        let text = notification_frame(&item).text;
        assert!(text.contains(r#""user":"a-b""#) && text.contains(r#""related_object_id":null"#), "{text}");
        item.place.stream = Stream::Topic("city.dar".parse().unwrap());
        let text = notification_frame(&item).text;
        assert!(text.contains(r#""topic":"city.dar","#) && !text.contains(r#""user""#), "{text}");
    }
}
