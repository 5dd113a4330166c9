//! Push through Firebase Cloud Messaging, HTTP v1: `POST /v1/projects/{project}/messages:send`, as Google's discovery document describes
//! it. One message a request, many requests over one HTTP/2 connection.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use reqwest::{
    Client,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::access_token::{AccessTokens, ServiceAccount};
use crate::{
    channel::{
        ProbeFailure, Provider,
        http::{self, Answer, config},
    },
    config::FcmConfig,
    model::{Body, Code, Message, Outcome, PermanentKind, Timestamp},
};

/// Its name in the configuration.
pub const NAME: &str = "fcm";
/// Requests under way on one connection before the next is opened; Google's servers let as many streams through.
const STREAMS: usize = 100;
/// Connections at most.
const CONNECTIONS: usize = 8;
/// Shortest wait before a message is sent again, and after a 429 that does not say how long.
const RETRY_FLOOR: Duration = Duration::from_secs(10);
const QUOTA_FLOOR: Duration = Duration::from_mins(1);
/// The detail that holds FCM's own code.
const FCM_ERROR: &str = "type.googleapis.com/google.firebase.fcm.v1.FcmError";
/// A topic that nobody has to follow: what is only checked goes nowhere.
const PROBE_TOPIC: &str = "tarishi-probe";

/// FCM's HTTP v1 API.
pub struct Fcm {
    base_url: String,
    url: String,
    tokens: AccessTokens,
    validate_only: bool,
    connections: [Connection; CONNECTIONS],
}

/// A client of its own has a connection of its own.
#[derive(Default)]
struct Connection {
    client: OnceLock<Result<Client, String>>,
    in_flight: AtomicUsize,
}

/// One request's place on a connection; free again when dropped.
struct Place<'a> {
    client: Client,
    in_flight: &'a AtomicUsize,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Fcm {
    /// # Errors
    /// In words: what of the configuration cannot be used.
    pub fn new(fcm: &FcmConfig) -> Result<Self, String> {
        let account = ServiceAccount::parse(fcm.service_account.expose_secret())
            .map_err(|problem| format!("provider.fcm.service_account_file: {problem}"))?;
        let base_url = fcm.base_url.trim_end_matches('/').to_owned();
        let project = percent_encoding::utf8_percent_encode(&account.project_id, percent_encoding::NON_ALPHANUMERIC).to_string();
        Ok(Self {
            url: format!("{base_url}/v1/projects/{}/messages:send", project.replace("%2D", "-")),
            base_url,
            tokens: AccessTokens::new(account)?,
            validate_only: fcm.validate_only,
            connections: Default::default(),
        })
    }

    /// The first connection with a free stream, so that few stay open; when all are full, the least busy.
    fn place(&self) -> Result<Place<'_>, Outcome> {
        let free = |connection: &&Connection| connection.in_flight.load(Ordering::Relaxed) < STREAMS;
        let least = || self.connections.iter().min_by_key(|connection| connection.in_flight.load(Ordering::Relaxed));
        let connection = self.connections.iter().find(free).or_else(least).unwrap_or(&self.connections[0]);
        let client = connection.client.get_or_init(|| {
            let builder = http::builder(&self.base_url);
            // Without TLS nothing agrees on HTTP/2; what listens there has to know it.
            let builder = if self.base_url.starts_with("http://") { builder.http2_prior_knowledge() } else { builder };
            builder.build().map_err(|error| format!("no HTTP client can be made: {error}"))
        });
        let client = client.clone().map_err(|problem| config(Code::CONFIG_REFUSED, problem))?;
        connection.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Place { client, in_flight: &connection.in_flight })
    }

    /// One request. A refused access token is exchanged once: it may have been withdrawn before its time.
    async fn post(&self, body: &Value) -> Result<Answer, Outcome> {
        let body = bytes::Bytes::from(body.to_string());
        let mut token = self.tokens.get().await?;
        for is_last in [false, true] {
            let place = self.place()?;
            let request = place.client.post(&self.url).header(AUTHORIZATION, &token.authorization).header(CONTENT_TYPE, "application/json");
            let answer = http::exchange(request.body(body.clone())).await?;
            if is_last || answer.status.as_u16() != 401 || Refusal::of(&answer).is_third_party() {
                return Ok(answer);
            }
            drop(place);
            token = self.tokens.renew(Some(&token)).await?;
        }
        unreachable!("the second answer is the last")
    }
}

#[async_trait]
impl Provider for Fcm {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn send(&self, message: &Message) -> Outcome {
        let refused = |detail| Outcome::Permanent { kind: PermanentKind::Payload, code: Code::PAYLOAD_REFUSED, detail };
        let Body::Push(push) = &message.body else { return refused("not a push message".to_owned()) };
        let mut body = match super::compose(message, push, Timestamp::now()) {
            Ok(body) => body,
            Err(problem) => return refused(problem),
        };
        if self.validate_only {
            body["validateOnly"] = true.into();
        }
        let answered = self.post(&body).await;
        match answered {
            Ok(answer) => classify(&answer, Timestamp::now()),
            Err(outcome) => with_floor(outcome),
        }
    }

    async fn probe(&self) -> Result<(), ProbeFailure> {
        let message = json!({ "topic": PROBE_TOPIC, "notification": { "title": "Tarishi" } });
        let answer = self.post(&json!({ "validateOnly": true, "message": message })).await.map_err(|outcome| ProbeFailure::of(&outcome))?;
        match classify(&answer, Timestamp::now()) {
            Outcome::Sent { .. } => Ok(()),
            outcome => Err(ProbeFailure::of(&outcome)),
        }
    }
}

/// Google's error, as far as the answer is one.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    error: RefusalBody,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RefusalBody {
    message: String,
    details: Vec<Value>,
}

impl Refusal {
    fn of(answer: &Answer) -> Self {
        answer.json().unwrap_or_default()
    }

    fn code(&self) -> Option<&str> {
        self.error.details.iter().find(|detail| detail["@type"] == FCM_ERROR)?["errorCode"].as_str()
    }

    /// Apple's or the browsers' credentials, not ours: another access token does not help.
    fn is_third_party(&self) -> bool {
        matches!(self.code(), Some("THIRD_PARTY_AUTH_ERROR" | "APNS_AUTH_ERROR"))
    }
}

/// What an answer means. Only `UNREGISTERED` condemns a token: a wrong project would refuse every one of them.
fn classify(answer: &Answer, now: Timestamp) -> Outcome {
    #[derive(Deserialize)]
    struct Sent {
        name: String,
    }
    let refusal = Refusal::of(answer);
    let detail = || answer.detail(&refusal.error.message);
    let permanent = |kind, code| Outcome::Permanent { kind, code, detail: detail() };
    match (answer.status.as_u16(), refusal.code()) {
        (200, _) => match answer.json::<Sent>() {
            Some(Sent { name }) => Outcome::Sent { provider_id: Some(name) },
            None if answer.is_whole => Outcome::Unknown { code: Code::UNEXPECTED_ANSWER, detail: answer.detail("no message in it") },
            // It was taken; only its name got lost.
            None => Outcome::Sent { provider_id: None },
        },
        (401, Some("THIRD_PARTY_AUTH_ERROR" | "APNS_AUTH_ERROR")) => {
            config(Code::AUTHENTICATION_FAILED, format!("{}; mend the APNs or web push key in the Firebase console", detail()))
        }
        (403, Some("SENDER_ID_MISMATCH")) => permanent(PermanentKind::Payload, Code::SENDER_MISMATCH),
        (404, Some("UNREGISTERED")) => permanent(PermanentKind::Address, Code::UNREGISTERED),
        (429, _) => {
            let wait = answer.retry_after(now).unwrap_or(QUOTA_FLOOR).max(RETRY_FLOOR);
            Outcome::Transient { code: Code::RATE_LIMITED, detail: detail(), retry_after: Some(wait) }
        }
        _ => with_floor(answer.by_status(&refusal.error.message, now)),
    }
}

fn with_floor(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Transient { code, detail, retry_after } => {
            Outcome::Transient { code, detail, retry_after: Some(retry_after.unwrap_or_default().max(RETRY_FLOOR)) }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use reqwest::{
        StatusCode,
        header::{HeaderMap, HeaderValue, RETRY_AFTER},
    };

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_768_473_000_000);

    fn answer(status: u16, body: &str) -> Answer {
        let status = StatusCode::from_u16(status).unwrap();
        Answer { status, headers: HeaderMap::new(), body: body.as_bytes().to_vec(), is_whole: true }
    }

    #[track_caller]
    fn check(status: u16, body: &str, expected: &str) {
        let told = match classify(&answer(status, body), NOW) {
            Outcome::Sent { provider_id } => format!("sent {}", provider_id.unwrap_or_default()),
            Outcome::Permanent { kind, code, .. } => format!("{kind:?} {code}"),
            Outcome::Transient { code, retry_after, .. } => format!("transient {code} {:?}", retry_after.unwrap_or_default()),
            Outcome::Unknown { code, .. } => format!("unknown {code}"),
        };
        assert_eq!(told, expected, "{status} {body}");
    }

    fn error(status: &str, code: &str) -> String {
        let details =
            format!(r#"[{{"@type":"type.googleapis.com/google.rpc.BadRequest"}},{{"@type":"{FCM_ERROR}","errorCode":"{code}"}}]"#);
        format!(r#"{{"error":{{"code":400,"message":"said so","status":"{status}","details":{details}}}}}"#)
    }

    #[test]
    fn every_published_answer_has_one_meaning() {
        check(200, r#"{"name":"projects/p/messages/1"}"#, "sent projects/p/messages/1");
        check(200, "<html>", "unknown unexpected_answer");
        check(400, &error("INVALID_ARGUMENT", "INVALID_ARGUMENT"), "Payload payload_refused");
        check(400, r#"{"error":{"code":400,"message":"m","status":"INVALID_ARGUMENT"}}"#, "Payload payload_refused");
        check(401, r#"{"error":{"code":401,"message":"m","status":"UNAUTHENTICATED"}}"#, "Config authentication_failed");
        check(401, &error("UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"), "Config authentication_failed");
        check(403, &error("PERMISSION_DENIED", "SENDER_ID_MISMATCH"), "Payload sender_mismatch");
        check(403, r#"{"error":{"code":403,"message":"m","status":"PERMISSION_DENIED"}}"#, "Config authentication_failed");
        check(404, &error("NOT_FOUND", "UNREGISTERED"), "Address unregistered");
        check(404, r#"{"error":{"code":404,"message":"m","status":"NOT_FOUND"}}"#, "Config config_refused");
        check(404, "<html>", "Config config_refused");
        check(429, &error("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), "transient rate_limited 60s");
        check(500, &error("INTERNAL", "INTERNAL"), "unknown provider_unavailable");
        check(502, "<html>", "unknown provider_unavailable");
        check(503, &error("UNAVAILABLE", "UNAVAILABLE"), "transient provider_unavailable 10s");
    }

    #[test]
    fn waits_have_floors_and_the_services_wish_counts_above_them() {
        let wait = |status: u16, text: &'static str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            match classify(&Answer { headers, ..answer(status, "") }, NOW) {
                Outcome::Transient { retry_after, .. } => retry_after.unwrap().as_secs(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(wait(429, "5"), 10);
        assert_eq!(wait(429, "90"), 90);
        assert_eq!(wait(503, "1"), 10);
        assert_eq!(wait(503, "25"), 25);
    }

    #[test]
    fn third_party_credentials_are_told_from_our_own() {
        let is_third_party = |body: &str| Refusal::of(&answer(401, body)).is_third_party();
        assert!(is_third_party(&error("UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR")));
        assert!(is_third_party(&error("UNAUTHENTICATED", "APNS_AUTH_ERROR")));
        assert!(!is_third_party(r#"{"error":{"code":401,"status":"UNAUTHENTICATED"}}"#));
    }
}
