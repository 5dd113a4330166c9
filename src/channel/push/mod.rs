//! Composing push messages in the terms of FCM HTTP v1. What carries them is a provider's business.

use serde_json::{Map, Value, json};

use crate::model::{DeliveryId, Push, PushTarget};

/// The body of `POST /v1/projects/{project}/messages:send` for one delivery.
///
/// Without a collapse key of the job's own the delivery id is one, so that a repeat of the same delivery replaces itself on the device.
pub fn compose(push: &Push, delivery: DeliveryId, collapse_key: Option<&str>) -> Value {
    let collapse = collapse_key.map_or_else(|| delivery.to_string(), str::to_owned);
    let mut message = Map::new();
    let (kind, target) = match &push.target {
        PushTarget::Token(token) => ("token", token.as_str()),
        PushTarget::Topic(topic) => ("topic", topic.as_str()),
        PushTarget::Condition(condition) => ("condition", condition.as_str()),
    };
    message.insert(kind.to_owned(), target.into());
    message.insert("notification".to_owned(), json!({ "title": push.title, "body": push.body }));
    if !push.data.is_empty() {
        message.insert("data".to_owned(), json!(push.data));
    }
    for (block, value) in &push.platform {
        message.insert(block.clone(), value.clone());
    }
    let android = message.entry("android").or_insert_with(|| json!({}));
    if let Some(android) = android.as_object_mut() {
        android.entry("collapseKey").or_insert_with(|| collapse.clone().into());
    }
    let apns = message.entry("apns").or_insert_with(|| json!({}));
    if let Some(headers) = apns.as_object_mut().and_then(|apns| apns.entry("headers").or_insert_with(|| json!({})).as_object_mut()) {
        headers.entry("apns-collapse-id").or_insert_with(|| collapse.into());
    }
    json!({ "message": message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_replaces_itself_and_the_template_has_the_last_word() {
        let push = Push {
            target: PushTarget::Token("t1".parse().unwrap()),
            title: "Habari".to_owned(),
            body: "Juma".to_owned(),
            data: [("url".to_owned(), "https://app.example.com/7".to_owned())].into(),
            platform: json!({ "android": { "priority": "HIGH", "collapseKey": "own" } }).as_object().cloned().unwrap(),
        };
        let id = DeliveryId::new([7; 12], 1);
        assert_eq!(
            compose(&push, id, Some("conversation-7")),
            json!({ "message": {
                "token": "t1",
                "notification": { "title": "Habari", "body": "Juma" },
                "data": { "url": "https://app.example.com/7" },
                "android": { "priority": "HIGH", "collapseKey": "own" },
                "apns": { "headers": { "apns-collapse-id": "conversation-7" } },
            } })
        );
        assert_eq!(compose(&push, id, None)["message"]["apns"]["headers"]["apns-collapse-id"], id.to_string());
    }
}
