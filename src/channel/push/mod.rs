//! Composing push messages in the terms of FCM HTTP v1. What carries them is [`fcm`]'s business.

pub mod access_token;
pub mod fcm;

use std::{collections::BTreeSet, time::Duration};

use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::model::{Message, Push, PushTarget, Timestamp};

/// Bytes of a message, and of one to a topic ("About FCM messages").
const PAYLOAD_LIMIT: usize = 4096;
const TOPIC_PAYLOAD_LIMIT: usize = 2048;
/// Longest time FCM keeps a message, in seconds (`AndroidConfig.ttl`).
const TTL_LIMIT: u64 = 2_419_200;
/// Topics one condition may have.
const CONDITION_TOPICS_LIMIT: usize = 5;
const TOPIC_NAME_LIMIT: usize = 900;
/// Bytes of a collapse id that Apple takes ("Sending notification requests to APNs").
const COLLAPSE_ID_LIMIT: usize = 64;
/// Bytes of a request that most stay below.
const BODY_CAPACITY: usize = 768;
/// An installation id is this long, and no registration token is.
const INSTALLATION_ID_LENGTH: usize = 22;

/// The body of `POST /v1/projects/{project}/messages:send` for one delivery.
///
/// A repeat of the same delivery replaces itself on the device: by the job's collapse key, else by the delivery id, as Android's and the
/// browsers' tag and as Apple's collapse id. Android's `collapseKey` is set for the job's own alone: a device that is off keeps messages of
/// four different ones and loses the rest. What the template says of these things stands.
///
/// # Errors
/// In words: what FCM would refuse.
pub fn compose(message: &Message, push: &Push, validate_only: bool, now: Timestamp) -> Result<Vec<u8>, String> {
    let collapse = message.collapse_key.as_deref().map_or_else(|| message.delivery_id.to_string(), collapse_id);
    let left = message.expires_at.since(now).as_secs().min(TTL_LIMIT);
    let (ttl, seconds) = (format!("{left}s"), left.to_string());
    let expires_at = (now.saturating_add(Duration::from_secs(left)).as_millis() / 1000).to_string();
    let android = object(Some(&push.platform), "android")?;
    let apns = object(Some(&push.platform), "apns")?;
    let webpush = object(Some(&push.platform), "webpush")?;
    check(push, android)?;
    let tag = |given| Block { given, ..Block::of([Some(Text::new("tag", &collapse)), None]) };
    let android_notification = tag(object(android, "notification")?);
    let webpush_notification = tag(object(webpush, "notification")?);
    let apns_headers = Block {
        given: object(apns, "headers")?,
        ..Block::of([Some(Text::new("apns-collapse-id", &collapse)), Some(Text::new("apns-expiration", &expires_at))])
    };
    let webpush_headers =
        Block { given: object(webpush, "headers")?, ..Block::of([Some(Text { other_name: "ttl", ..Text::new("TTL", &seconds) }), None]) };
    let collapse_key = message.collapse_key.as_ref().map(|_| Text { other_name: "collapse_key", ..Text::new("collapseKey", &collapse) });
    let composed = Composed {
        push,
        target: target(&push.target)?,
        android: Block {
            given: android,
            nested: [Some(("notification", &android_notification)), None],
            ..Block::of([collapse_key, Some(Text::new("ttl", &ttl))])
        },
        apns: Block { given: apns, nested: [Some(("headers", &apns_headers)), None], ..Block::default() },
        webpush: Block {
            given: webpush,
            nested: [Some(("headers", &webpush_headers)), Some(("notification", &webpush_notification))],
            ..Block::default()
        },
    };
    let mut body = Vec::with_capacity(BODY_CAPACITY);
    let request = Request { validate_only, message: composed };
    serde_json::to_writer(&mut body, &request).map_err(|error| error.to_string())?;
    Ok(body)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    validate_only: bool,
    message: Composed<'a>,
}

/// A message as FCM takes it, borrowed from what it is made of.
struct Composed<'a> {
    push: &'a Push,
    target: (&'static str, &'a str),
    android: Block<'a>,
    apns: Block<'a>,
    webpush: Block<'a>,
}

/// What the template says, then what it does not say itself.
#[derive(Default)]
struct Block<'a> {
    given: Option<&'a Map<String, Value>>,
    texts: [Option<Text<'a>>; 2],
    /// Blocks within it; the template's own is part of each.
    nested: [Option<(&'static str, &'a Block<'a>)>; 2],
}

/// The service takes camelCase and `snake_case` alike: the template's own word counts in both.
struct Text<'a> {
    name: &'static str,
    other_name: &'static str,
    value: &'a str,
}

impl<'a> Text<'a> {
    fn new(name: &'static str, value: &'a str) -> Self {
        Self { name, other_name: name, value }
    }
}

impl<'a> Block<'a> {
    fn of(texts: [Option<Text<'a>>; 2]) -> Self {
        Self { texts, ..Self::default() }
    }
}

impl Serialize for Block<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let is_nested = |name: &str| self.nested.iter().flatten().any(|(nested, _)| *nested == name);
        for (name, value) in self.given.into_iter().flatten().filter(|(name, _)| !is_nested(name)) {
            map.serialize_entry(name, value)?;
        }
        let is_given =
            |text: &&Text<'_>| self.given.is_some_and(|given| [text.name, text.other_name].iter().any(|name| given.contains_key(*name)));
        for text in self.texts.iter().flatten().filter(|text| !is_given(text)) {
            map.serialize_entry(text.name, text.value)?;
        }
        for (name, block) in self.nested.iter().flatten() {
            map.serialize_entry(name, block)?;
        }
        map.end()
    }
}

impl Serialize for Composed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Notification<'a> {
            title: &'a str,
            body: &'a str,
        }
        /// Said below.
        const OURS: [&str; 9] = ["token", "fid", "topic", "condition", "notification", "data", "android", "apns", "webpush"];
        let Push { title, body, data, platform, .. } = self.push;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(self.target.0, self.target.1)?;
        map.serialize_entry("notification", &Notification { title, body })?;
        if !data.is_empty() {
            map.serialize_entry("data", data)?;
        }
        for (name, value) in platform.iter().filter(|(name, _)| !OURS.contains(&name.as_str())) {
            map.serialize_entry(name, value)?;
        }
        map.serialize_entry("android", &self.android)?;
        map.serialize_entry("apns", &self.apns)?;
        map.serialize_entry("webpush", &self.webpush)?;
        map.end()
    }
}

/// A block within what the template gives, when it gives it.
fn object<'a>(parent: Option<&'a Map<String, Value>>, name: &str) -> Result<Option<&'a Map<String, Value>>, String> {
    let value = parent.and_then(|parent| parent.get(name));
    value.map(|value| value.as_object().ok_or_else(|| format!("`{name}` is not an object"))).transpose()
}

/// The member that names whom it goes to, and what it holds.
fn target(target: &PushTarget) -> Result<(&'static str, &str), String> {
    match target {
        PushTarget::Token(token) if is_installation_id(token.as_str()) => Ok(("fid", token.as_str())),
        PushTarget::Token(token) => Ok(("token", token.as_str())),
        PushTarget::Topic(topic) if is_topic(topic) => Ok(("topic", topic)),
        PushTarget::Topic(_) => Err("not a topic's name: letters, digits and -_.~%, without /topics/ before them".to_owned()),
        PushTarget::Condition(condition) => check_condition(condition).map(|()| ("condition", condition.as_str())),
    }
}

/// A Firebase installation id: 22 characters of base64url, the first of four that mark its version. Registration tokens are longer and
/// have a colon.
fn is_installation_id(token: &str) -> bool {
    token.len() == INSTALLATION_ID_LENGTH
        && token.starts_with(['c', 'd', 'e', 'f'])
        && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn is_topic(name: &str) -> bool {
    (1..=TOPIC_NAME_LIMIT).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~%".contains(&byte))
}

/// Holds a condition to its grammar: `'name' in topics`, joined by `&&` and `||`, with `!` and parentheses.
fn check_condition(condition: &str) -> Result<(), String> {
    let mut topics = BTreeSet::new();
    let mut rest = condition;
    let mut between = String::new();
    while let Some((before, after)) = rest.split_once('\'') {
        between.push_str(before);
        let (name, after) = after.split_once('\'').ok_or("a condition has a quote that does not end")?;
        if !is_topic(name) {
            return Err("a condition names what is no topic".to_owned());
        }
        topics.insert(name);
        rest = after.trim_start().strip_prefix("in topics").ok_or("a condition's topics stand like 'name' in topics")?;
    }
    between.push_str(rest);
    if topics.is_empty() || topics.len() > CONDITION_TOPICS_LIMIT {
        return Err(format!("a condition has 1 to {CONDITION_TOPICS_LIMIT} topics; this one has {}", topics.len()));
    }
    if between.contains(|c: char| !c.is_whitespace() && !"()!&|".contains(c)) {
        return Err("a condition has nothing but topics, &&, ||, ! and parentheses".to_owned());
    }
    Ok(())
}

/// `key` as an id that every platform takes.
fn collapse_id(key: &str) -> String {
    use std::fmt::Write as _;
    if key.len() <= COLLAPSE_ID_LIMIT {
        return key.to_owned();
    }
    Sha256::digest(key)[..16].iter().fold(String::new(), |mut hex, byte| {
        // A string takes whatever is written to it.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// What FCM refuses, as far as it has published it.
fn check(push: &Push, android: Option<&Map<String, Value>>) -> Result<(), String> {
    // There is always an `android` block: tag and time to live are in it.
    if push.platform.contains_key("androidV2") {
        return Err("`android` and `androidV2` exclude each other".to_owned());
    }
    #[expect(clippy::cast_precision_loss, reason = "small and whole")]
    let is_time = |ttl: &Value| {
        let seconds = ttl.as_str().and_then(|ttl| ttl.strip_suffix('s')?.parse::<f64>().ok());
        seconds.is_some_and(|seconds| (0.0..=TTL_LIMIT as f64).contains(&seconds))
    };
    if android.and_then(|android| android.get("ttl")).is_some_and(|ttl| !is_time(ttl)) {
        return Err(format!("`android.ttl` is not a time: write it like \"3600s\", at most \"{TTL_LIMIT}s\""));
    }
    let size = push.size();
    let limit = if matches!(push.target, PushTarget::Token(_)) { PAYLOAD_LIMIT } else { TOPIC_PAYLOAD_LIMIT };
    if size > limit {
        return Err(format!("notification and data have {size} bytes; FCM takes {limit}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::DeliveryId;

    const NOW: Timestamp = Timestamp::from_millis(1_768_473_000_000);

    fn push(target: PushTarget) -> Push {
        Push {
            target,
            title: "Habari".to_owned(),
            body: "Juma".to_owned(),
            data: [("url".to_owned(), "https://app.example.com/7".to_owned())].into(),
            platform: Map::new(),
        }
    }

    fn message(push: Push, collapse_key: Option<&str>) -> Message {
        Message {
            delivery_id: DeliveryId::new([7; 12], 1),
            job_id: "job".parse().unwrap(),
            user_id: None,
            template: None,
            tenant: None,
            collapse_key: collapse_key.map(str::to_owned),
            expires_at: NOW.saturating_add(Duration::from_mins(1)),
            body: crate::model::Body::Push(push),
        }
    }

    fn composed(push: &Push, collapse_key: Option<&str>) -> Result<Value, String> {
        let body = compose(&message(push.clone(), collapse_key), push, false, NOW)?;
        Ok(serde_json::from_slice(&body).unwrap())
    }

    fn token(text: &str) -> PushTarget {
        PushTarget::Token(text.parse().unwrap())
    }

    #[test]
    fn a_repeat_replaces_itself_and_the_template_has_the_last_word() {
        let platform =
            json!({ "android": { "priority": "HIGH", "collapseKey": "own", "ttl": "5s" }, "webpush": { "headers": { "TTL": "9" } } });
        let push = Push { platform: platform.as_object().cloned().unwrap(), ..push(token("t1")) };
        assert_eq!(
            composed(&push, Some("conversation-7")).unwrap(),
            json!({ "message": {
                "token": "t1",
                "notification": { "title": "Habari", "body": "Juma" },
                "data": { "url": "https://app.example.com/7" },
                "android": { "priority": "HIGH", "collapseKey": "own", "ttl": "5s", "notification": { "tag": "conversation-7" } },
                "apns": { "headers": { "apns-collapse-id": "conversation-7", "apns-expiration": "1768473060" } },
                "webpush": { "headers": { "TTL": "9" }, "notification": { "tag": "conversation-7" } },
            } })
        );
    }

    #[test]
    fn without_a_collapse_key_the_delivery_is_one_but_not_to_androids_store() {
        let made = composed(&push(token("t1")), None).unwrap();
        let id = DeliveryId::new([7; 12], 1).to_string();
        assert_eq!(made["message"]["apns"]["headers"]["apns-collapse-id"], id);
        assert_eq!(made["message"]["android"], json!({ "ttl": "60s", "notification": { "tag": id } }));
        let long = composed(&push(token("t1")), Some(&"k".repeat(65))).unwrap();
        assert_eq!(long["message"]["android"]["collapseKey"].as_str().unwrap().len(), 32);
    }

    #[test]
    fn the_template_may_spell_it_either_way_and_nothing_is_said_twice() {
        let platform = json!({
            "android": { "collapse_key": "own", "ttl": "5s", "notification": { "tag": "mine", "channel_id": "c" } },
            "apns": { "headers": { "apns-collapse-id": "mine", "apns-priority": "10" }, "payload": { "aps": { "badge": 1 } } },
            "webpush": { "headers": { "ttl": "9" }, "notification": { "icon": "i" }, "fcmOptions": { "link": "l" } },
            "fcmOptions": { "analyticsLabel": "a" },
        });
        let push = Push { platform: platform.as_object().cloned().unwrap(), ..push(token("t1")) };
        let body = compose(&message(push.clone(), Some("key")), &push, true, NOW).unwrap();
        let told: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            told,
            json!({ "validateOnly": true, "message": {
                "token": "t1",
                "notification": { "title": "Habari", "body": "Juma" },
                "data": { "url": "https://app.example.com/7" },
                "android": { "collapse_key": "own", "ttl": "5s", "notification": { "tag": "mine", "channel_id": "c" } },
                "apns": {
                    "headers": { "apns-collapse-id": "mine", "apns-priority": "10", "apns-expiration": "1768473060" },
                    "payload": { "aps": { "badge": 1 } },
                },
                "webpush": { "headers": { "ttl": "9" }, "notification": { "icon": "i", "tag": "key" }, "fcmOptions": { "link": "l" } },
                "fcmOptions": { "analyticsLabel": "a" },
            } })
        );
        // A doubled name would have been lost in reading it back.
        assert_eq!(body.len(), told.to_string().len());
    }

    #[test]
    fn an_installation_is_told_from_a_registration() {
        let kind = |text: &str| target(&token(text)).unwrap().0;
        assert_eq!(kind("cAbCdEfGhIjKlMnOpQrStU"), "fid");
        assert_eq!(kind("cAbCdEfGhIjKlMnOpQrStU:APA91bH"), "token");
        assert_eq!(kind("aAbCdEfGhIjKlMnOpQrStU"), "token");
    }

    #[track_caller]
    fn refused(push: &Push, expected: &str) {
        let told = composed(push, None).unwrap_err();
        assert!(told.contains(expected), "{told}");
    }

    #[test]
    fn what_fcm_refuses_is_not_sent() {
        for ttl in [json!("60"), json!("-1s"), json!("2419201s"), json!(60), json!("NaNs"), json!("")] {
            let platform = json!({ "android": { "ttl": ttl } }).as_object().cloned().unwrap();
            refused(&Push { platform, ..push(token("t")) }, "`android.ttl` is not a time");
        }
        let platform = json!({ "apns": { "headers": [] } }).as_object().cloned().unwrap();
        refused(&Push { platform, ..push(token("t")) }, "`headers` is not an object");
        for topic in ["/topics/x", "", "a b", "café"] {
            refused(&push(PushTarget::Topic(topic.to_owned())), "not a topic's name");
        }
    }

    #[test]
    fn bytes_are_counted_and_not_characters() {
        // Two names and two texts beside it.
        let rest = "title".len() + "Habari".len() + "body".len() + "Juma".len() + "key".len();
        let sized = |target: PushTarget, bytes: usize| {
            let value = format!("{}{}", "é".repeat(8), "a".repeat(bytes - rest - 16));
            composed(&Push { data: [("key".to_owned(), value)].into(), ..push(target) }, None)
        };
        assert!(sized(token("t"), 4096).is_ok());
        assert!(sized(token("t"), 4097).unwrap_err().contains("4097 bytes; FCM takes 4096"));
        assert!(sized(PushTarget::Topic("t".to_owned()), 2048).is_ok());
        assert!(sized(PushTarget::Topic("t".to_owned()), 2049).is_err());
    }

    #[test]
    fn a_condition_holds_to_its_grammar() {
        let check = |condition: &str| check_condition(condition);
        assert_eq!(check("'news' in topics && ('a' in topics || !('b' in topics))"), Ok(()));
        for bad in [
            "",
            "all",
            "'news'",
            "'news' in topics || user",
            "'' || 'all' in topics",
            "'a b' in topics",
            "'a in topics",
            "'a' in topics; DROP",
            "'1' in topics && '2' in topics && '3' in topics && '4' in topics && '5' in topics && '6' in topics",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
