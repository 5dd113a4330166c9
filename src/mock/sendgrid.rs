//! SendGrid's Mail Send: who may ask, which mails are good, and what it answers.
//!
//! Rules are those of the published specification and of the API reference (twilio.com/docs/sendgrid/api-reference/mail-send).

use std::collections::HashSet;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    callback::{Mail, Subject},
    exchange::{self, Checked, Received, Refused, Reply, Taken},
    server::Clouds,
    spec::{Broken, BrokenKind},
};
use crate::model::Timestamp;

/// The custom argument in which `tarishi` names its delivery.
const DELIVERY_ARGUMENT: &str = "tarishi_delivery";
/// `to`, `cc` and `bcc` over all personalizations.
const RECIPIENTS_LIMIT: usize = 1_000;
/// Bytes of `custom_args`, names included.
const CUSTOM_ARGS_LIMIT: usize = 10_000;
/// Seconds that `send_at` may lie ahead.
const SEND_AT_LIMIT: i64 = 72 * 3600;
const FORBIDDEN_HEADERS: [&str; 12] = [
    "x-sg-id",
    "x-sg-eid",
    "received",
    "dkim-signature",
    "content-type",
    "content-transfer-encoding",
    "to",
    "from",
    "subject",
    "reply-to",
    "cc",
    "bcc",
];

/// `POST /v3/mail/send`.
pub(super) fn send(received: &Received, clouds: &Clouds) -> Checked {
    if let Some(refused) = unauthorized(received, clouds) {
        return refused;
    }
    if !received.is_of_type("application/json") {
        return Checked::refused(error(415, None, "Content-Type should be application/json."), "not application/json");
    }
    let Ok(body) = serde_json::from_slice::<Value>(&received.body) else {
        return Checked::refused(error(400, None, "Bad Request"), "not JSON");
    };
    let good = clouds.specs.sendgrid.check(&body).map_err(in_their_words).and_then(|()| check(&body, Timestamp::now().as_millis() / 1000));
    let to = members(&body, "personalizations").flat_map(|one| members(one, "to")).filter_map(|one| text(one, "email"));
    let to: Vec<String> = to.map(str::to_owned).collect();
    let outcome = match good {
        Ok(()) => Ok(taken(&body)),
        Err(broken) => {
            let field = Some(broken.field.as_str()).filter(|field| !field.is_empty());
            Err(Refused { reply: error(400, field, &broken.message), reason: format!("{}: {}", broken.field, broken.message) })
        }
    };
    Checked { to, delivery_id: delivery_id(&body), body, outcome }
}

/// `GET /v3/scopes`.
pub(super) fn scopes(received: &Received, clouds: &Clouds) -> Checked {
    unauthorized(received, clouds).unwrap_or_else(|| {
        Checked::probe(exchange::json(200, &json!({ "scopes": ["mail.send", "sender_verification_eligible", "2fa_required"] })))
    })
}

/// An error as SendGrid writes it.
pub(super) fn error(status: u16, field: Option<&str>, message: &str) -> Reply {
    exchange::json(status, &json!({ "errors": [{ "message": message, "field": field, "help": null }] }))
}

/// The answer to a key that it does not know.
pub(super) fn bad_credentials() -> Reply {
    error(401, None, "The provided authorization grant is invalid, expired, or revoked")
}

fn unauthorized(received: &Received, clouds: &Clouds) -> Option<Checked> {
    match received.bearer() {
        Some(key) if key == clouds.credentials.sendgrid_api_key => None,
        Some(_) => Some(Checked::refused(bad_credentials(), "not the API key")),
        None => Some(Checked::refused(error(401, None, "Permission denied, wrong credentials"), "no API key")),
    }
}

fn taken(body: &Value) -> Taken {
    // Validated only, and nothing comes of it.
    if body.pointer("/mail_settings/sandbox_mode/enable") == Some(&Value::Bool(true)) {
        return Taken::without_effect(exchange::empty(200));
    }
    let message_id = URL_SAFE_NO_PAD.encode(Uuid::now_v7().as_bytes());
    let reply = exchange::with_header(exchange::empty(202), "x-message-id", &message_id);
    let arguments = |of: &Value| of["custom_args"].as_object().cloned().unwrap_or_default();
    let common = arguments(body);
    let mails = members(body, "personalizations").flat_map(|personalization| {
        let mut custom_args: Map<String, Value> = common.clone();
        custom_args.extend(arguments(personalization));
        let recipients = ["to", "cc", "bcc"].into_iter().flat_map(move |kind| members(personalization, kind));
        let message_id = &message_id;
        recipients.filter_map(|recipient| text(recipient, "email")).map(move |email| Mail {
            email: email.to_owned(),
            message_id: message_id.clone(),
            custom_args: custom_args.clone(),
        })
    });
    Taken { reply, is_counted: true, subject: Some(Subject::Mails(mails.collect())) }
}

fn delivery_id(body: &Value) -> Option<String> {
    let places = ["/custom_args", "/personalizations/0/custom_args"];
    let found = places.iter().find_map(|place| body.pointer(place)?.get(DELIVERY_ARGUMENT)?.as_str());
    found.map(str::to_owned)
}

/// The validator's findings, as SendGrid would put the commonest of them.
fn in_their_words(broken: Broken) -> Broken {
    let member = broken.field.rsplit('.').next().unwrap_or_default();
    let message = match broken.kind {
        BrokenKind::Missing if member == "from" => {
            "The from object must be provided for every email send. It is an object that requires the email parameter, but may also contain a name parameter.".to_owned()
        }
        BrokenKind::Missing => format!("The {member} parameter is required."),
        BrokenKind::Unknown => format!("Additional property {member} is not allowed"),
        BrokenKind::Other if member == "email" => "Does not contain a valid address.".to_owned(),
        BrokenKind::TooLong | BrokenKind::Other => broken.message,
    };
    Broken { message, ..broken }
}

/// What the schema cannot say.
fn check(body: &Value, now: i64) -> Result<(), Broken> {
    let personalizations = || members(body, "personalizations").enumerate();
    let mut total = 0;
    for (at, personalization) in personalizations() {
        total += check_recipients(personalization, &format!("personalizations.{at}"))?;
    }
    if total > RECIPIENTS_LIMIT {
        return Err(Broken::new(
            "personalizations",
            format!("The total number of recipients must be {RECIPIENTS_LIMIT} or less, and is {total}."),
        ));
    }
    let has_template = body.get("template_id").is_some();
    if !has_template {
        if body.get("subject").is_none()
            && let Some((at, _)) = personalizations().find(|(_, personalization)| personalization.get("subject").is_none())
        {
            let message = "The subject is required. You can get around this requirement if you use a template with a subject defined or if every personalization has a subject defined.";
            return Err(Broken::new(format!("personalizations.{at}.subject"), message));
        }
        if members(body, "content").next().is_none() {
            let message = "Unless a valid template_id is provided, the content parameter is required. There must be at least one defined content block.";
            return Err(Broken::new("content", message));
        }
    }
    check_content(body)?;
    let of_each = personalizations().map(|(at, personalization)| (format!("personalizations.{at}."), personalization));
    for (place, part) in std::iter::once((String::new(), body)).chain(of_each) {
        check_part(part, &place, now)?;
    }
    if body.get("reply_to").is_some() && body.get("reply_to_list").is_some() {
        return Err(Broken::new("reply_to_list", "reply_to and reply_to_list cannot be used together."));
    }
    check_bypass(body)
}

/// One personalization's recipients: how many, none of them twice.
fn check_recipients(personalization: &Value, place: &str) -> Result<usize, Broken> {
    let mut seen = HashSet::new();
    for kind in ["to", "cc", "bcc"] {
        for (at, recipient) in members(personalization, kind).enumerate() {
            let place = format!("{place}.{kind}.{at}");
            if text(recipient, "name").is_some_and(|name| name.contains([';', ',', '\r', '\n'])) {
                return Err(Broken::new(format!("{place}.name"), "The name cannot contain ; or , or line breaks."));
            }
            if !seen.insert(text(recipient, "email").unwrap_or_default().to_lowercase()) {
                let message = "Each email address in the personalization block should be unique between to, cc, and bcc.";
                return Err(Broken::new(place, message));
            }
        }
    }
    Ok(seen.len())
}

fn check_content(body: &Value) -> Result<(), Broken> {
    let types: Vec<&str> = members(body, "content").filter_map(|part| text(part, "type")).collect();
    let place = |wanted: &str| types.iter().position(|kind| *kind == wanted);
    let in_order = match (place("text/plain"), place("text/html")) {
        (Some(plain), html) => plain == 0 && html.is_none_or(|html| html == 1),
        (None, html) => html.is_none_or(|html| html == 0),
    };
    if !in_order {
        let message = "If present, text/plain and text/html may only be provided once, text/plain first, followed by text/html, followed by any other content.";
        return Err(Broken::new("content", message));
    }
    let bad = types.iter().position(|kind| kind.contains([';', ',', '\r', '\n']));
    bad.map_or(Ok(()), |at| Err(Broken::new(format!("content.{at}.type"), "The content type cannot contain ';', ',' or line breaks.")))
}

/// What the message and each personalization have in common.
fn check_part(part: &Value, place: &str, now: i64) -> Result<(), Broken> {
    for (name, value) in part["headers"].as_object().into_iter().flatten() {
        let field = || format!("{place}headers.{name}");
        if FORBIDDEN_HEADERS.contains(&name.trim().to_ascii_lowercase().as_str()) {
            return Err(Broken::new(field(), format!("The header {name} is reserved and cannot be set.")));
        }
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
        if !is_name || value.as_str().is_none_or(|value| value.contains(['\r', '\n', '\0'])) {
            return Err(Broken::new(field(), "Headers must be strings without line breaks."));
        }
    }
    if text(part, "subject").is_some_and(|subject| subject.contains(['\r', '\n'])) {
        return Err(Broken::new(format!("{place}subject"), "The subject cannot contain line breaks."));
    }
    let arguments = part["custom_args"].as_object().into_iter().flatten();
    let bytes: usize = arguments.map(|(name, value)| name.len() + value.as_str().map_or_else(|| value.to_string().len(), str::len)).sum();
    if bytes >= CUSTOM_ARGS_LIMIT {
        return Err(Broken::new(format!("{place}custom_args"), format!("The custom_args must be under {CUSTOM_ARGS_LIMIT} bytes.")));
    }
    if part["send_at"].as_i64().is_some_and(|send_at| send_at > now + SEND_AT_LIMIT) {
        return Err(Broken::new(format!("{place}send_at"), "Scheduling more than 72 hours in advance is forbidden."));
    }
    Ok(())
}

fn check_bypass(body: &Value) -> Result<(), Broken> {
    let is_on = |name: &str| body.pointer(&format!("/mail_settings/{name}/enable")) == Some(&Value::Bool(true));
    let others = ["bypass_spam_management", "bypass_bounce_management", "bypass_unsubscribe_management"];
    if is_on("bypass_list_management") && others.into_iter().any(is_on) {
        return Err(Broken::new("mail_settings.bypass_list_management", "It cannot be combined with any other bypass filter."));
    }
    Ok(())
}

fn members<'a>(of: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    of.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(of: &'a Value, name: &str) -> Option<&'a str> {
    of.get(name)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn mail() -> Value {
        json!({
            "personalizations": [{ "to": [{ "email": "asha@example.com", "name": "Asha" }] }],
            "from": { "email": "us@example.com" },
            "subject": "Habari",
            "content": [{ "type": "text/plain", "value": "x" }, { "type": "text/html", "value": "<p>x" }],
        })
    }

    #[track_caller]
    fn check_rule(pointer: &str, value: Value, expected: Option<&str>) {
        let mut mail = mail();
        let (parent, member) = pointer.rsplit_once('/').unwrap();
        let parent = mail.pointer_mut(parent).unwrap();
        match (parent, member.parse::<usize>()) {
            (Value::Array(elements), Ok(at)) => elements[at] = value,
            (parent, _) => parent[member] = value,
        }
        assert_eq!(check(&mail, NOW).err().map(|broken| broken.field).as_deref(), expected, "{pointer}");
    }

    #[test]
    fn rules_beyond_the_schema() {
        let many: Vec<Value> = (0..1001).map(|at| json!({ "email": format!("{at}@example.com") })).collect();
        check_rule("/subject", json!("x"), None);
        check_rule("/subject", json!("x\r\nBcc: y"), Some("subject"));
        check_rule("/personalizations/0/to", json!(many[..1000]), None);
        check_rule("/personalizations/0/to", json!(many), Some("personalizations"));
        check_rule("/personalizations/0/to/0/name", json!("a, b"), Some("personalizations.0.to.0.name"));
        check_rule("/personalizations/0/cc", json!([{ "email": "ASHA@example.com" }]), Some("personalizations.0.cc.0"));
        check_rule("/content", json!([{ "type": "text/html", "value": "x" }, { "type": "text/plain", "value": "x" }]), Some("content"));
        check_rule("/content", json!([{ "type": "text/html", "value": "x" }]), None);
        check_rule("/content", json!([]), Some("content"));
        check_rule("/headers", json!({ "List-Unsubscribe": "<https://x.example>" }), None);
        check_rule("/headers", json!({ "reply-TO": "x" }), Some("headers.reply-TO"));
        check_rule("/headers", json!({ "X-A": "x\r\nBcc: y" }), Some("headers.X-A"));
        check_rule("/headers", json!({ "X A": "x" }), Some("headers.X A"));
        check_rule("/personalizations/0/headers", json!({ "To": "x" }), Some("personalizations.0.headers.To"));
        check_rule("/custom_args", json!({ "a": "x".repeat(9998) }), None);
        check_rule("/custom_args", json!({ "a": "x".repeat(9999) }), Some("custom_args"));
        check_rule("/send_at", json!(NOW + 72 * 3600), None);
        check_rule("/send_at", json!(NOW + 72 * 3600 + 1), Some("send_at"));
        check_rule("/mail_settings", json!({ "bypass_list_management": { "enable": true } }), None);
        let mut both = mail();
        both["reply_to"] = json!({ "email": "a@example.com" });
        both["reply_to_list"] = json!([{ "email": "a@example.com" }]);
        assert_eq!(check(&both, NOW).unwrap_err().field, "reply_to_list");
        let mut without = mail();
        without.as_object_mut().unwrap().remove("subject");
        assert_eq!(check(&without, NOW).unwrap_err().field, "personalizations.0.subject");
        without["template_id"] = json!("d-1");
        assert_eq!(check(&without, NOW), Ok(()));
    }
}
