//! The JSON Schema of a job, for producers. Made from [`Job`], with the rules across members that [`super::decode`] holds and a schema
//! can say. What it cannot say (sizes in bytes, `expires_at` after `send_at`) is left to the daemon.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::model::Job;

/// No control characters, no outer spaces.
const NAME_PATTERN: &str = r"^[^\s\u0000-\u001f\u007f-\u009f]([^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f])?$";
const ONE_LINE_PATTERN: &str = r"^[^\u0000-\u001f\u007f-\u009f]*\S[^\u0000-\u001f\u007f-\u009f]*$";

/// The schema, in draft 2020-12.
pub fn job_schema() -> Value {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Job>().to_value();
    schema["title"] = "Tarishi job".into();
    for (place, more) in [
        ("", across_members()),
        ("/properties/push_condition", json!({ "minLength": 1, "maxLength": 1024 })),
        ("/properties/collapse_key", json!({ "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$" })),
        ("/properties/metadata", json!({ "maxProperties": 50, "propertyNames": { "maxLength": 500 } })),
        ("/properties/metadata/additionalProperties", json!({ "maxLength": 500 })),
        ("/$defs/JobId", json!({ "pattern": NAME_PATTERN })),
        ("/$defs/UserId", json!({ "pattern": NAME_PATTERN })),
        ("/$defs/Content/properties/title", json!({ "pattern": ONE_LINE_PATTERN })),
        ("/$defs/Content/properties/body", json!({ "pattern": r"\S" })),
        ("/$defs/Content/properties/url", json!({ "pattern": "^https?://" })),
    ] {
        add(&mut schema, place, more);
    }
    schema
}

/// Either `template` or `content`; somebody to tell; and `push` among the channels when FCM's topics are used. A member that is null
/// counts as absent.
fn across_members() -> Value {
    let given = |name: &str, kind: &str| json!({ "required": [name], "properties": { name: { "type": kind } } });
    let topic = given("topic", "string");
    let push_topic = given("push_topic", "string");
    let push_condition = given("push_condition", "string");
    let to_push = json!({ "anyOf": [push_topic, push_condition] });
    let channels_with = |channel: &str| json!({ "anyOf": [{ "maxItems": 0 }, { "contains": { "const": channel } }] });
    let channels_of = |channels: &[&str]| json!({ "items": { "enum": channels } });
    json!({
        "oneOf": [given("template", "string"), given("content", "object")],
        "anyOf": [{ "required": ["to"], "properties": { "to": { "minItems": 1 } } }, topic, push_topic, push_condition],
        "allOf": [
            { "if": to_push, "then": { "properties": { "channels": channels_with("push") } } },
            {
                "if": topic,
                "then": {
                    "properties": { "to": { "maxItems": 0 }, "channels": channels_with("live") },
                    "if": to_push,
                    "then": { "properties": { "channels": channels_of(&["live", "push"]) } },
                    "else": { "properties": { "channels": channels_of(&["live"]) } },
                },
            },
        ],
    })
}

fn add(schema: &mut Value, place: &str, more: Value) {
    let (Some(Value::Object(node)), Value::Object(more)) = (schema.pointer_mut(place), more) else { return };
    node.extend(more);
}

#[cfg(test)]
mod tests {
    use super::{
        super::decode::{MissingId, decode_body},
        *,
    };
    use crate::config;

    /// The schema and the daemon say the same of `job`.
    #[track_caller]
    fn check(job: &Value, good: bool) {
        let schema = job_schema();
        let validator = jsonschema::draft202012::options().should_validate_formats(true).build(&schema).unwrap();
        let limits = config::load(&config::Sources::default()).unwrap().intake;
        let decoded = decode_body(job.to_string().as_bytes(), &limits, MissingId::Make);
        assert_eq!(decoded.is_ok(), good, "decode_body, on {job}: {:?}", decoded.err());
        let errors: Vec<String> = validator.iter_errors(job).map(|error| error.to_string()).collect();
        assert_eq!(errors.is_empty(), good, "the schema, on {job}: {errors:?}");
    }

    fn job(changes: &Value) -> Value {
        let mut job = json!({ "template": "generic", "to": [{ "user_id": "42" }] });
        for (name, value) in changes.as_object().unwrap().clone() {
            job[name] = value;
        }
        job
    }

    fn recipient(members: &Value) -> Value {
        let mut recipient = json!({ "user_id": "42" });
        recipient.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        job(&json!({ "to": [recipient] }))
    }

    fn content(members: &Value) -> Value {
        job(&json!({ "template": null, "content": members }))
    }

    #[test]
    fn says_where_it_comes_from_and_is_a_schema() {
        let schema = job_schema();
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert_eq!(schema["title"], "Tarishi job");
        for place in ["/properties/metadata/additionalProperties", "/$defs/JobId", "/$defs/Content/properties/url"] {
            assert!(schema.pointer(place).is_some_and(Value::is_object), "{place} is gone");
        }
        jsonschema::meta::validate(&schema).unwrap();
    }

    #[test]
    fn the_schema_and_the_daemon_agree_on_good_jobs() {
        check(&job(&json!({})), true);
        check(
            &json!({
                "v": 1,
                "id": "order-8841-shipped",
                "template": "new_message",
                "to": [{ "user_id": 42, "email": "asha@example.com", "phone": "+255712345678", "push_tokens": ["abc:def"],
                         "locale": "sw-TZ", "timezone": "Africa/Dar_es_Salaam" }],
                "channels": ["live", "push", "email", "sms"],
                "data": { "sender_name": "Juma", "nested": { "list": [1, 2.5, null, true] } },
                "priority": "high",
                "send_at": "2026-01-15T10:30:00Z",
                "expires_at": "2026-01-16T00:00:00+03:00",
                "collapse_key": "conversation-7",
                "metadata": { "tenant": "smartdalali" },
            }),
            true,
        );
        check(&json!({ "content": { "title": "T", "body": "B" }, "push_topic": "city.dar" }), true);
        for topic in ["city.dar", "*"] {
            check(&json!({ "template": "generic", "topic": topic }), true);
            check(&json!({ "template": "generic", "topic": topic, "to": [], "channels": ["live"] }), true);
        }
        check(&json!({ "template": "generic", "topic": "a", "channels": ["live", "push"], "push_topic": "a" }), true);
        check(&json!({ "content": { "title": "T", "body": "B" }, "push_condition": "'a' in topics", "channels": ["push"] }), true);
        check(
            &content(
                &json!({ "title": "Habari ya leo", "body": "B\nB", "html": "<p>", "url": "https://x.example/7", "severity": "error" }),
            ),
            true,
        );
        check(&job(&json!({ "id": null, "content": null, "topic": null, "priority": null, "send_at": null, "collapse_key": null })), true);
        check(&recipient(&json!({ "email": null, "locale": null })), true);
        check(&job(&json!({ "id": "with inner space" })), true);
        check(&job(&json!({ "channels": [], "push_topic": "a" })), true);
    }

    #[test]
    fn the_schema_and_the_daemon_agree_on_bad_jobs() {
        for bad in [
            json!({}),
            json!([]),
            json!("job"),
            json!({ "template": "generic" }),
            json!({ "template": "generic", "to": [] }),
            json!({ "to": [{ "user_id": 1 }] }),
            job(&json!({ "content": { "title": "T", "body": "B" } })),
            job(&json!({ "v": 2 })),
            job(&json!({ "v": null })),
            job(&json!({ "id": "" })),
            job(&json!({ "id": " outer" })),
            job(&json!({ "id": "a\nb" })),
            job(&json!({ "id": 7 })),
            job(&json!({ "templte": "generic" })),
            job(&json!({ "template": "../generic" })),
            job(&json!({ "template": "_layouts" })),
            job(&json!({ "topic": "city.dar" })),
            json!({ "template": "generic", "topic": "city dar" }),
            json!({ "template": "generic", "topic": "city.dar", "channels": ["email"] }),
            json!({ "template": "generic", "topic": "city.dar", "channels": ["live", "push"] }),
            json!({ "template": "generic", "topic": "city.dar", "channels": ["push"], "push_topic": "a" }),
            job(&json!({ "push_topic": "/topics/x" })),
            job(&json!({ "push_topic": "x", "channels": ["email"] })),
            job(&json!({ "push_condition": "" })),
            job(&json!({ "channels": ["fax"] })),
            job(&json!({ "channels": "email" })),
            job(&json!({ "data": [] })),
            job(&json!({ "priority": "urgent" })),
            job(&json!({ "send_at": "tomorrow" })),
            job(&json!({ "send_at": 1_768_473_000 })),
            job(&json!({ "collapse_key": "" })),
            job(&json!({ "collapse_key": "a\tb" })),
            job(&json!({ "metadata": { "tenant": 7 } })),
            job(&json!({ "to": { "user_id": 1 } })),
            recipient(&json!({ "user_id": "" })),
            recipient(&json!({ "user_id": 4.5 })),
            recipient(&json!({ "email": "nobody" })),
            recipient(&json!({ "phone": "0712345678" })),
            recipient(&json!({ "push_tokens": ["with space"] })),
            recipient(&json!({ "push_tokens": [""] })),
            recipient(&json!({ "locale": "swahili please" })),
            recipient(&json!({ "timezone": "Dar es Salaam" })),
            recipient(&json!({ "emial": "asha@example.com" })),
            content(&json!({ "title": "T" })),
            content(&json!({ "title": "", "body": "B" })),
            content(&json!({ "title": " ", "body": "B" })),
            content(&json!({ "title": "T\r\nBcc: x@y.z", "body": "B" })),
            content(&json!({ "title": "T", "body": " \n " })),
            content(&json!({ "title": "T", "body": "B", "url": "javascript:alert(1)" })),
            content(&json!({ "title": "T", "body": "B", "severity": "loud" })),
        ] {
            check(&bad, false);
        }
    }
}
