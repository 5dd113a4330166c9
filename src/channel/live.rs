//! The live channel: the frame to the hub. The inbox row is committed before it comes here.
//!
//! One notification frame serves both generations of clients: the older read `message` and `severity`, the newer the whole object.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    model::{InboxItem, Severity, Timestamp},
    socket::{Frame, Hub},
};

/// Shows a committed inbox item to whoever of its user is connected; says to how many sockets it was queued.
pub fn publish(hub: &Hub, item: &InboxItem) -> usize {
    if hub.is_connected(&item.user_id) { hub.publish(&item.user_id, &Arc::new(notification_frame(item))) } else { 0 }
}

#[derive(Serialize)]
struct NotificationFrame<'a> {
    r#type: &'static str,
    id: i64,
    user: Value,
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

/// The frame that shows an inbox item. Made once, however many sockets it goes to.
#[expect(clippy::missing_panics_doc, reason = "string keys and JSON values are always JSON")]
pub fn notification_frame(item: &InboxItem) -> Frame {
    let notification = &item.notification;
    let frame = NotificationFrame {
        r#type: "notification",
        id: item.id,
        user: item.user_id.to_wire(),
        kind: &notification.kind,
        title: &notification.title,
        message: &notification.message,
        severity: notification.severity,
        is_read: item.is_read,
        created_at: item.created_at,
        related_object_id: &notification.related_object_id,
        related_object_type: &notification.related_object_type,
        data: &notification.data,
        seq: item.seq,
        epoch: &item.epoch,
    };
    let text = serde_json::to_string(&frame).expect("string keys and JSON values are JSON");
    Frame { text: text.into(), delivery: Some(item.delivery) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{DeliveryKey, Notification};

    #[test]
    fn the_notification_frame_serves_both_generations() {
        let delivery = DeliveryKey { job: 7, ordinal: 0 };
        let mut item = InboxItem {
            id: 123,
            user_id: "42".parse().unwrap(),
            seq: 9,
            epoch: "e1".to_owned(),
            created_at: "2026-01-15T10:30:00Z".parse().unwrap(),
            is_read: false,
            notification: Notification {
                kind: "booking".to_owned(),
                title: "Booked".to_owned(),
                message: "Ghorofa \"A\" imewekwa".to_owned(),
                severity: Severity::Success,
                related_object_id: Some(json!(5)),
                related_object_type: Some("property".to_owned()),
                data: Map::from_iter([("price".to_owned(), json!(10))]),
            },
            delivery,
        };
        let frame = notification_frame(&item);
        assert_eq!(frame.delivery, Some(delivery));
        // Golden: deployed clients read it.
        assert_eq!(
            frame.text.as_str(),
            concat!(
                r#"{"type":"notification","id":123,"user":42,"kind":"booking","title":"Booked","message":"Ghorofa \"A\" imewekwa","#,
                r#""severity":"success","is_read":false,"created_at":"2026-01-15T10:30:00Z","related_object_id":5,"#,
                r#""related_object_type":"property","data":{"price":10},"seq":9,"epoch":"e1"}"#,
            )
        );
        item.user_id = "a-b".parse().unwrap();
        item.notification.related_object_id = None;
        let text = notification_frame(&item).text;
        assert!(text.contains(r#""user":"a-b""#) && text.contains(r#""related_object_id":null"#), "{text}");
    }
}
