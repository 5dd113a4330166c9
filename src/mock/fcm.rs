//! FCM's `messages:send`: who may ask, which messages are good, and what it answers.
//!
//! Rules are those of the discovery document and of the FCM documentation (firebase.google.com/docs/cloud-messaging).

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    exchange::{self, Checked, Received, Refused, Reply, Taken},
    server::Clouds,
    spec::Broken,
};

/// Bytes of keys and values in `data` and `notification`.
const PAYLOAD_LIMIT: usize = 4_096;
const TOPIC_PAYLOAD_LIMIT: usize = 2_048;
/// 28 days, in seconds.
const TTL_LIMIT: f64 = 2_419_200.0;
/// Bytes of a collapse id (Apple's documentation of `apns-collapse-id`).
const COLLAPSE_ID_LIMIT: usize = 64;
const TOPIC_NAME_LIMIT: usize = 900;
const TARGETS: [&str; 4] = ["token", "fid", "topic", "condition"];
const FCM_ERROR: &str = "type.googleapis.com/google.firebase.fcm.v1.FcmError";
/// Members whose own members are the sender's, not FCM's.
const FREE_FORM: [&str; 3] = ["data", "headers", "payload"];

/// `POST /v1/projects/{project}/messages:send`.
pub(super) fn send(project: &str, received: &Received, clouds: &Clouds) -> Checked {
    if !received.bearer().is_some_and(|token| clouds.tokens.are_good(token)) {
        return Checked::refused(bad_credentials(), "no access token of the mock, or one that is not good any more");
    }
    if project != clouds.credentials.fcm_project {
        let message = format!("Permission denied on resource project {project}.");
        return Checked::refused(error(403, "PERMISSION_DENIED", &message, None), "another project");
    }
    if !received.is_of_type("application/json") {
        let reply = error(400, "INVALID_ARGUMENT", "Invalid JSON payload received. Unexpected token.", None);
        return Checked::refused(reply, "not application/json");
    }
    let Ok(mut body) = serde_json::from_slice::<Value>(&received.body) else {
        let reply = error(400, "INVALID_ARGUMENT", "Invalid JSON payload received. Unexpected token.", None);
        return Checked::refused(reply, "not JSON");
    };
    in_camel_case(&mut body);
    let good = clouds.specs.fcm.check(&body).and_then(|()| check(&body["message"]));
    let message = &body["message"];
    let to = TARGETS.into_iter().find_map(|target| message[target].as_str()).map(str::to_owned);
    let delivery_id = message.pointer("/apns/headers/apns-collapse-id").and_then(Value::as_str).map(str::to_owned);
    let outcome = match good {
        Ok(()) => Ok(taken(project, &body)),
        Err(broken) => Err(Refused { reason: format!("{}: {}", broken.field, broken.message), reply: invalid_argument(&broken) }),
    };
    Checked { to: to.into_iter().collect(), delivery_id, body, outcome }
}

/// An error as Google's APIs write it; `code` is FCM's own, in the details.
pub(super) fn error(http: u16, status: &str, message: &str, code: Option<&str>) -> Reply {
    let mut error = json!({ "code": http, "message": message, "status": status });
    if let Some(code) = code {
        error["details"] = json!([{ "@type": FCM_ERROR, "errorCode": code }]);
    }
    exchange::json(http, &json!({ "error": error }))
}

/// The answer to an access token that is not good (any more).
pub(super) fn bad_credentials() -> Reply {
    let message = "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential.";
    error(401, "UNAUTHENTICATED", message, None)
}

/// With the field that is wrong, as FCM names it.
fn invalid_argument(broken: &Broken) -> Reply {
    let body = json!({ "error": {
        "code": 400,
        "message": broken.message,
        "status": "INVALID_ARGUMENT",
        "details": [
            { "@type": FCM_ERROR, "errorCode": "INVALID_ARGUMENT" },
            { "@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{ "field": broken.field, "description": broken.message }] },
        ],
    } });
    exchange::json(400, &body)
}

fn taken(project: &str, body: &Value) -> Taken {
    let named = |id: &str| exchange::json(200, &json!({ "name": format!("projects/{project}/messages/{id}") }));
    if body["validateOnly"] == true {
        return Taken::without_effect(named("fake_message_id"));
    }
    Taken { reply: named(&format!("0:{}", Uuid::now_v7().simple())), is_counted: true, subject: None }
}

/// FCM takes its names in `snake_case` too, which is how proto3 reads JSON.
fn in_camel_case(value: &mut Value) {
    match value {
        Value::Object(members) => {
            if members.keys().any(|name| name.contains('_')) {
                *members = std::mem::take(members).into_iter().map(|(name, value)| (camel_case(&name), value)).collect::<Map<_, _>>();
            }
            members.iter_mut().filter(|(name, _)| !FREE_FORM.contains(&name.as_str())).for_each(|(_, value)| in_camel_case(value));
        }
        Value::Array(elements) => elements.iter_mut().for_each(in_camel_case),
        _ => {}
    }
}

fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let mut letters = word.chars();
        let capital = letters.next().map(|letter| letter.to_ascii_uppercase());
        name.chars().chain(capital).chain(letters).collect()
    })
}

/// What the schema cannot say.
fn check(message: &Value) -> Result<(), Broken> {
    let targets: Vec<&str> = TARGETS.into_iter().filter(|target| message.get(*target).is_some()).collect();
    let [target] = targets.as_slice() else {
        return Err(Broken::new("message", "Exactly one of token, fid, topic and condition must be specified"));
    };
    let value = message[*target].as_str().unwrap_or_default();
    let is_topic = |name: &str| {
        (1..=TOPIC_NAME_LIMIT).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~%".contains(&byte))
    };
    if value.is_empty() || value.chars().any(|character| character.is_control() || character.is_whitespace() && *target != "condition") {
        return Err(Broken::new(
            format!("message.{target}"),
            format!("The registration {target} is not a valid FCM registration {target}"),
        ));
    }
    if *target == "topic" && !is_topic(value) {
        return Err(Broken::new("message.topic", "Malformed topic name"));
    }
    if message.get("android").is_some() && message.get("androidV2").is_some() {
        return Err(Broken::new("message.androidV2", "Only one of android and android_v2 may be set"));
    }
    for place in ["/data", "/android/data"] {
        let reserved = message.pointer(place).and_then(Value::as_object).into_iter().flatten().find(|(key, _)| is_reserved(key));
        if let Some((key, _)) = reserved {
            return Err(Broken::new(format!("message{}", place.replace('/', ".")), format!("Invalid data payload key: {key}")));
        }
    }
    if let Some(ttl) = message.pointer("/android/ttl").and_then(Value::as_str)
        && !ttl.trim_end_matches('s').parse::<f64>().is_ok_and(|seconds| (0.0..=TTL_LIMIT).contains(&seconds))
    {
        return Err(Broken::new("message.android.ttl", "Invalid time to live: it must be from 0s to 2419200s"));
    }
    if message.pointer("/apns/headers/apns-collapse-id").and_then(Value::as_str).is_some_and(|id| id.len() > COLLAPSE_ID_LIMIT) {
        return Err(Broken::new("message.apns.headers", "Invalid apns-collapse-id: it must be of at most 64 bytes"));
    }
    check_size(message, *target == "topic" || *target == "condition")
}

fn check_size(message: &Value, is_topic: bool) -> Result<(), Broken> {
    let limit = if is_topic { TOPIC_PAYLOAD_LIMIT } else { PAYLOAD_LIMIT };
    let payload: usize = ["data", "notification"].iter().map(|part| bytes(&message[*part])).sum();
    let apns = message.pointer("/apns/payload").map_or(0, |payload| payload.to_string().len());
    if payload > limit {
        return Err(Broken::new("message", format!("Message too big: {payload} bytes, and {limit} are allowed")));
    }
    if apns > PAYLOAD_LIMIT {
        return Err(Broken::new("message.apns.payload", format!("APNs payload too big: {apns} bytes, and {PAYLOAD_LIMIT} are allowed")));
    }
    Ok(())
}

/// Keys and values, as FCM counts them.
fn bytes(part: &Value) -> usize {
    part.as_object().into_iter().flatten().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum()
}

fn is_reserved(key: &str) -> bool {
    matches!(key, "from" | "message_type" | "gcm") || key.starts_with("google") || key.starts_with("gcm.notification.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_rule(members: &Value, expected: Option<&str>) {
        assert_eq!(check(members).err().map(|broken| broken.field).as_deref(), expected, "{members}");
    }

    #[test]
    fn rules_beyond_the_schema() {
        let of_size = |bytes: usize| json!({ "token": "t", "data": { "k": "x".repeat(bytes - 1) } });
        check_rule(&of_size(4096), None);
        check_rule(&of_size(4097), Some("message"));
        check_rule(&json!({ "token": "t", "data": { "k": "é".repeat(2048) } }), Some("message"));
        check_rule(&json!({ "topic": "t", "data": { "k": "x".repeat(2047) } }), None);
        check_rule(&json!({ "topic": "t", "data": { "k": "x".repeat(2048) } }), Some("message"));
        check_rule(&json!({ "token": "t", "notification": { "title": "x", "body": "x".repeat(4087) } }), Some("message"));
        check_rule(&json!({ "token": "t", "apns": { "payload": { "a": "x".repeat(4096) } } }), Some("message.apns.payload"));
        check_rule(&json!({ "token": "t", "topic": "t" }), Some("message"));
        check_rule(&json!({}), Some("message"));
        check_rule(&json!({ "token": "" }), Some("message.token"));
        check_rule(&json!({ "topic": "/topics/news" }), Some("message.topic"));
        check_rule(&json!({ "condition": "'a' in topics && 'b' in topics" }), None);
        for key in ["from", "message_type", "gcm", "google.x", "googlex", "gcm.notification.x"] {
            check_rule(&json!({ "token": "t", "data": { key: "x" } }), Some("message.data"));
        }
        check_rule(&json!({ "token": "t", "data": { "from_user": "x", "gcm.x": "x" } }), None);
        for (ttl, good) in [("0s", true), ("2419200s", true), ("2419201s", false), ("-1s", false)] {
            check_rule(&json!({ "token": "t", "android": { "ttl": ttl } }), (!good).then_some("message.android.ttl"));
        }
        let collapse = |bytes: usize| json!({ "token": "t", "apns": { "headers": { "apns-collapse-id": "x".repeat(bytes) } } });
        check_rule(&collapse(64), None);
        check_rule(&collapse(65), Some("message.apns.headers"));
    }

    #[test]
    fn names_may_be_in_snake_case_and_data_is_left_alone() {
        let mut body = json!({ "validate_only": true, "message": { "data": { "user_id": "1" }, "android": { "collapse_key": "a_b" } } });
        in_camel_case(&mut body);
        assert_eq!(body, json!({ "validateOnly": true, "message": { "data": { "user_id": "1" }, "android": { "collapseKey": "a_b" } } }));
    }
}
