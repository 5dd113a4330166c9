//! `SendGrid`'s signed event webhook: an array of events, each about one mail to one person.
//!
//! The signature (ECDSA on P-256 with SHA-256) is over the timestamp's bytes and the body's as they came; an event that is repeated has
//! the same `sg_event_id`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aws_lc_rs::signature::ParsedPublicKey;
use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Refused, WebhookState, body, media_type, only};
use crate::{
    channel::email::DELIVERY_ARGUMENT,
    config,
    event::{Event, emit},
    model::{Channel, Code, DeliveryId, ListName, SuppressionReason, TemplateName, Timestamp},
    store::{Callback, Report, StoreError},
};

pub(super) const NAME: &str = "sendgrid";
pub(super) const PATH: &str = "/webhooks/sendgrid";
/// What whoever is refused for their signature is told.
pub(super) const CHECK: &str = "not signed as it has to be; hint: turn on the Signed Event Webhook, compare its public key with \
                                provider.sendgrid.webhook_public_key here, and let nothing on the way change the body";

const SIGNATURE: HeaderName = HeaderName::from_static("x-twilio-email-event-webhook-signature");
const TIMESTAMP: HeaderName = HeaderName::from_static("x-twilio-email-event-webhook-timestamp");
const BODY_LIMIT: usize = 4 << 20;
/// `SendGrid` repeats what was not taken for 24 hours; what is older has been recorded by somebody.
const OLDEST: Duration = Duration::from_hours(25);
/// How far its clock may be ahead of ours.
const CLOCK_SKEW: Duration = Duration::from_mins(5);
/// Bytes that are checked and read on the runtime's own threads.
const INLINE_LIMIT: usize = 256 << 10;
/// Callbacks applied in one commit.
const STEP: usize = 500;
/// Longest key that is kept as it is, in bytes; `sg_event_id` has at most 100.
const KEY_LIMIT: usize = 128;
/// Longest id or address that is looked at, in bytes.
const TEXT_LIMIT: usize = 1024;

/// Checks signatures with the account's verification key.
#[derive(Clone)]
pub(super) struct Verifier(Arc<ParsedPublicKey>);

impl Verifier {
    /// `key` is Base64 of a DER `SubjectPublicKeyInfo`, as the console shows it. None when it is no key on P-256.
    pub fn new(key: &str) -> Option<Self> {
        config::webhook_key(key).map(|key| Self(Arc::new(key)))
    }

    /// Whether `signature` (Base64 of ASN.1) is over this timestamp and body.
    fn is_good(&self, timestamp: &str, body: &[u8], signature: &str) -> bool {
        let Ok(signature) = BASE64_STANDARD.decode(signature) else { return false };
        let signed = [timestamp.as_bytes(), body].concat();
        self.0.verify_sig(&signed, &signature).is_ok()
    }

    /// The events in a body that is signed. Nothing of it is read before.
    fn events(&self, timestamp: &str, body: &[u8], signature: &str) -> Result<Vec<Value>, Refused> {
        if !self.is_good(timestamp, body, signature) {
            return Err(Refused::Signature("the signature is not over this body"));
        }
        serde_json::from_slice(body).map_err(|_| Refused::Malformed("not a JSON array of events"))
    }
}

pub(super) async fn receive(State(state): State<Arc<WebhookState>>, headers: HeaderMap, body: Body) -> Response {
    match take(&state, &headers, body).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refused) => state.refuse(NAME, refused),
    }
}

async fn take(state: &WebhookState, headers: &HeaderMap, body: Body) -> Result<(), Refused> {
    let verifier = state.sendgrid.as_ref().ok_or(Refused::NoKey)?;
    let (signature, timestamp) = (only(headers, &SIGNATURE)?, only(headers, &TIMESTAMP)?);
    let now = Timestamp::now();
    check_timestamp(timestamp, now)?;
    if media_type(headers) != "application/json" {
        return Err(Refused::ContentType);
    }
    let body = body::read(body, BODY_LIMIT, &state.sendgrid_room).await?;
    let (timestamp, signature) = (timestamp.to_owned(), signature.to_owned());
    let is_long = body.len() > INLINE_LIMIT;
    let verifier = verifier.clone();
    let read = move || verifier.events(&timestamp, &body, &signature);
    let events = if is_long { tokio::task::spawn_blocking(read).await.map_err(|_| Refused::Store)? } else { read() }?;
    let (mut callbacks, mut about_groups) = (Vec::new(), Vec::new());
    for event in &events {
        let kind = kind(event);
        emit(&Event::CallbackReceived { provider: NAME, kind });
        if kind.starts_with("group_") {
            about_groups.push(callbacks.len());
        }
        callbacks.extend(callback(event, kind, now));
    }
    name_lists(state, &mut callbacks, &about_groups).await?;
    let mut callbacks = callbacks.into_iter().peekable();
    while callbacks.peek().is_some() {
        state.apply(NAME, callbacks.by_ref().take(STEP).collect()).await?;
    }
    Ok(())
}

fn check_timestamp(timestamp: &str, now: Timestamp) -> Result<(), Refused> {
    let seconds: i64 = timestamp.parse().map_err(|_| Refused::Signature("the timestamp is no number"))?;
    let at = Timestamp::from_millis(seconds.saturating_mul(1000));
    if at < now.saturating_sub(OLDEST) {
        Err(Refused::Signature("the timestamp is too old: somebody may be repeating what was sent before"))
    } else if at > now.saturating_add(CLOCK_SKEW) {
        Err(Refused::Signature("the timestamp is ahead of our clock"))
    } else {
        Ok(())
    }
}

/// Events we know by name. Others are counted and passed over: new ones appear without notice.
const KINDS: [&str; 12] = [
    "processed",
    "deferred",
    "delivered",
    "bounce",
    "dropped",
    "open",
    "click",
    "spamreport",
    "unsubscribe",
    "group_unsubscribe",
    "group_resubscribe",
    "account_status_change",
];

fn kind(event: &Value) -> &'static str {
    let named = event["event"].as_str().unwrap_or_default();
    KINDS.into_iter().find(|kind| *kind == named).unwrap_or("unknown")
}

/// What an event means to us; none when it means nothing.
fn callback(event: &Value, kind: &str, now: Timestamp) -> Option<Callback> {
    let text = |member: &str| event[member].as_str().filter(|text| text.len() <= TEXT_LIMIT);
    let report = match kind {
        // Taken by whoever we thought might not have: a resend that waits is not needed.
        "processed" | "deferred" => Report::Taken,
        "delivered" => Report::Delivered,
        "bounce" if text("type") == Some("blocked") => Report::Failed { code: Code::CONTENT_REFUSED, suppress: None, is_bounce: true },
        "bounce" => Report::Failed { code: Code::BOUNCED, suppress: Some(SuppressionReason::Bounced), is_bounce: true },
        "dropped" => {
            let suppress = text("reason").and_then(suppression_of_drop);
            Report::Failed { code: Code::DROPPED, suppress, is_bounce: false }
        }
        "open" => Report::Opened,
        "click" => Report::Clicked,
        "spamreport" => Report::Complained,
        "unsubscribe" | "group_unsubscribe" => Report::Unsubscribed { list: None },
        "group_resubscribe" => Report::Resubscribed { list: None },
        _ => return None,
    };
    let at = event["timestamp"].as_i64().map(|seconds| Timestamp::from_millis(seconds.saturating_mul(1000)));
    Some(Callback {
        provider: NAME,
        channel: Channel::Email,
        key: key(event),
        delivery: text(DELIVERY_ARGUMENT).and_then(|id| id.parse().ok()),
        provider_id: text("sg_message_id").map(str::to_owned),
        address: text("email").map(str::to_owned),
        // Its clock is not ours, and nothing has happened in the future.
        at: at.filter(|at| *at > Timestamp::default() && *at <= now).unwrap_or(now),
        report,
    })
}

/// Why `SendGrid` did not even try, in its own words: it has lists as well. Other reasons say nothing about the address.
fn suppression_of_drop(reason: &str) -> Option<SuppressionReason> {
    match reason {
        "Bounced Address" | "Invalid" => Some(SuppressionReason::Bounced),
        "Unsubscribed Address" => Some(SuppressionReason::Unsubscribed),
        "Spam Reporting Address" => Some(SuppressionReason::Complained),
        _ => None,
    }
}

/// What tells an event from others. Without an id of its own, all of it.
fn key(event: &Value) -> String {
    match event["sg_event_id"].as_str() {
        Some(id) if (1..=KEY_LIMIT).contains(&id.len()) => id.to_owned(),
        Some(long) if !long.is_empty() => format!("sha256:{:x}", Sha256::digest(long)),
        _ => format!("sha256:{:x}", Sha256::digest(event.to_string())),
    }
}

/// Leaving a group means not wanting this kind of mail: the list of the delivery's template, or everything when it has none.
async fn name_lists(state: &WebhookState, callbacks: &mut [Callback], about_groups: &[usize]) -> Result<(), Refused> {
    let wanted: Vec<DeliveryId> = about_groups.iter().filter_map(|place| callbacks[*place].delivery).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let templates: HashMap<DeliveryId, String> = state.store.delivery_templates(wanted).await.map_err(|error: StoreError| {
        emit(&Event::StoreFailed { doing: "looking for templates; the provider will call again", error: &error.to_string() });
        Refused::Store
    })?;
    for place in about_groups {
        let callback = &mut callbacks[*place];
        let (Report::Unsubscribed { list } | Report::Resubscribed { list }) = &mut callback.report else { continue };
        let template = callback.delivery.and_then(|id| templates.get(&id)).and_then(|name| name.parse::<TemplateName>().ok());
        *list = template.and_then(|name| state.templates.current().unsubscribe_list(&name)).and_then(|name| name.parse::<ListName>().ok());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn signatures_are_judged_as_by_the_official_clients() {
        let vectors: Value = serde_json::from_str(include_str!("../../tests/fixtures/providers/signature-vectors.json")).unwrap();
        let vectors = vectors["sendgrid_event_webhook"]["vectors"].as_array().unwrap();
        assert_eq!(vectors.len(), 7);
        for vector in vectors {
            let text = |member: &str| vector[member].as_str().unwrap();
            let verifier = Verifier::new(text("public_key")).unwrap();
            let found = verifier.is_good(text("timestamp"), text("payload").as_bytes(), text("signature"));
            assert_eq!(found, vector["valid"], "{}", vector["name"]);
        }
    }

    #[test]
    fn timestamps_are_neither_old_nor_ahead() {
        let now: Timestamp = "2026-01-15T10:30:00Z".parse().unwrap();
        let check = |seconds: i64, expected: bool| {
            let given = (now.as_millis() / 1000 + seconds).to_string();
            assert_eq!(check_timestamp(&given, now).is_ok(), expected, "{seconds} s");
        };
        check(0, true);
        check(-24 * 3600, true);
        check(-25 * 3600 - 1, false);
        check(299, true);
        check(301, false);
        for bad in ["", "now", "-", "1768473000.5", "99999999999999999999"] {
            assert!(check_timestamp(bad, now).is_err(), "{bad}");
        }
    }

    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "the cases read better")]
    fn check(event: &Value, expected: Option<Report>) {
        let found = callback(event, kind(event), Timestamp::now());
        assert_eq!(found.map(|callback| callback.report), expected, "{event}");
    }

    #[test]
    fn events_are_classified() {
        use SuppressionReason::{Bounced, Complained, Unsubscribed};
        let failed = |code, suppress, is_bounce| Some(Report::Failed { code, suppress, is_bounce });
        check(&json!({ "event": "processed" }), Some(Report::Taken));
        check(&json!({ "event": "deferred" }), Some(Report::Taken));
        check(&json!({ "event": "delivered" }), Some(Report::Delivered));
        check(&json!({ "event": "bounce", "type": "bounce" }), failed(Code::BOUNCED, Some(Bounced), true));
        check(&json!({ "event": "bounce" }), failed(Code::BOUNCED, Some(Bounced), true));
        check(&json!({ "event": "bounce", "type": "blocked" }), failed(Code::CONTENT_REFUSED, None, true));
        check(&json!({ "event": "dropped", "reason": "Bounced Address" }), failed(Code::DROPPED, Some(Bounced), false));
        check(&json!({ "event": "dropped", "reason": "Invalid" }), failed(Code::DROPPED, Some(Bounced), false));
        check(&json!({ "event": "dropped", "reason": "Unsubscribed Address" }), failed(Code::DROPPED, Some(Unsubscribed), false));
        check(&json!({ "event": "dropped", "reason": "Spam Reporting Address" }), failed(Code::DROPPED, Some(Complained), false));
        check(&json!({ "event": "dropped", "reason": "Invalid SMTPAPI header" }), failed(Code::DROPPED, None, false));
        check(&json!({ "event": "open" }), Some(Report::Opened));
        check(&json!({ "event": "click" }), Some(Report::Clicked));
        check(&json!({ "event": "spamreport" }), Some(Report::Complained));
        check(&json!({ "event": "unsubscribe" }), Some(Report::Unsubscribed { list: None }));
        check(&json!({ "event": "group_unsubscribe" }), Some(Report::Unsubscribed { list: None }));
        check(&json!({ "event": "group_resubscribe" }), Some(Report::Resubscribed { list: None }));
        for nothing in [json!({ "event": "invented" }), json!({}), json!(7), json!(null), json!({ "event": 7 }), json!([])] {
            check(&nothing, None);
            assert_eq!(kind(&nothing), "unknown");
        }
    }

    #[test]
    fn an_event_is_known_by_its_id() {
        assert_eq!(key(&json!({ "sg_event_id": "abc" })), "abc");
        assert_ne!(key(&json!({ "sg_event_id": "x".repeat(500) })), key(&json!({ "sg_event_id": "y".repeat(500) })));
        assert_ne!(key(&json!({ "event": "open", "timestamp": 1 })), key(&json!({ "event": "open", "timestamp": 2 })));
        assert!(key(&json!({ "sg_event_id": "" })).starts_with("sha256:"));
    }

    #[test]
    fn moments_of_the_future_are_now() {
        let now: Timestamp = "2026-01-15T10:30:00Z".parse().unwrap();
        let at = |timestamp: Value| callback(&json!({ "event": "open", "timestamp": timestamp }), "open", now).unwrap().at;
        assert_eq!(at(json!(1_768_472_999)), "2026-01-15T10:29:59Z".parse().unwrap());
        for odd in [json!(9_999_999_999_i64), json!(-5), json!("soon"), json!(null), json!(i64::MAX)] {
            assert_eq!(at(odd), now);
        }
    }
}
