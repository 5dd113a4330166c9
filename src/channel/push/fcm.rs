//! Push through Firebase Cloud Messaging, HTTP v1: `POST /v1/projects/{project}/messages:send`, as Google's discovery document describes
//! it. One message a request, many requests over one HTTP/2 connection.

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::{
    Client, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::json;

use super::access_token::{AccessToken, AccessTokens, ServiceAccount};
use crate::{
    channel::{
        ProbeFailure, Provider,
        http::{self, Answer, config},
    },
    config::FcmConfig,
    model::{Body, Code, Message, Outcome, PermanentKind, PushTarget, Timestamp},
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
/// A device has a rate of its own, and so has a topic. So many of them refused within this time, and it is the project's that is used up.
const QUOTA_TARGETS: usize = 3;
const QUOTA_WINDOW: Duration = Duration::from_secs(1);
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The detail that holds FCM's own code.
const FCM_ERROR: &str = "type.googleapis.com/google.firebase.fcm.v1.FcmError";
/// A topic that nobody has to follow: what is only checked goes nowhere.
const PROBE_TOPIC: &str = "tarishi-probe";

/// FCM's HTTP v1 API.
pub struct Fcm {
    url: Url,
    tokens: AccessTokens,
    validate_only: bool,
    connections: Vec<Connection>,
    quota: Quota,
}

/// A client of its own has a connection of its own, from its first request on.
struct Connection {
    client: Client,
    in_flight: AtomicUsize,
}

/// One request's place on a connection; free again when dropped.
struct Place<'a>(&'a Connection);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Which targets were answered 429 of late: a few hashes, and no tokens.
#[derive(Default)]
struct Quota {
    hasher: RandomState,
    refused: Mutex<VecDeque<(Instant, u64)>>,
}

impl Quota {
    /// Takes down one more; says whether it looks like the whole project's quota.
    fn is_projects(&self, target: &PushTarget, now: Instant) -> bool {
        let hash = match target {
            PushTarget::Token(token) => self.hasher.hash_one(token.as_str()),
            PushTarget::Topic(text) | PushTarget::Condition(text) => self.hasher.hash_one(text),
        };
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.retain(|(at, other)| now.saturating_duration_since(*at) < QUOTA_WINDOW && *other != hash);
        if refused.len() == QUOTA_TARGETS {
            refused.pop_front();
        }
        refused.push_back((now, hash));
        refused.len() == QUOTA_TARGETS
    }
}

impl Fcm {
    /// `call_timeout` is what one attempt may take.
    ///
    /// # Errors
    /// In words: what of the configuration cannot be used.
    pub fn new(fcm: &FcmConfig, call_timeout: Duration) -> Result<Self, String> {
        let account = ServiceAccount::parse(fcm.service_account.expose_secret())
            .map_err(|problem| format!("provider.fcm.service_account_file: {problem}"))?;
        let base_url = fcm.base_url.trim_end_matches('/');
        let project = percent_encoding::utf8_percent_encode(&account.project_id, percent_encoding::NON_ALPHANUMERIC).to_string();
        let url = Url::parse(&format!("{base_url}/v1/projects/{}/messages:send", project.replace("%2D", "-")))
            .map_err(|error| format!("provider.fcm.base_url: makes no URL: {error}"))?;
        let connection = || {
            let builder = http::builder(base_url).connect_timeout(http::connect_timeout(call_timeout));
            // Without TLS nothing agrees on HTTP/2; what listens there has to know it.
            let builder = if url.scheme() == "http" { builder.http2_prior_knowledge() } else { builder };
            let client = builder.build().map_err(|error| format!("no HTTP client can be made: {}", http::innermost(&error)))?;
            Ok(Connection { client, in_flight: AtomicUsize::new(0) })
        };
        Ok(Self {
            tokens: AccessTokens::new(account, call_timeout)?,
            validate_only: fcm.validate_only,
            connections: (0..CONNECTIONS).map(|_| connection()).collect::<Result<_, String>>()?,
            quota: Quota::default(),
            url,
        })
    }

    /// The first connection with a free stream, so that few stay open; when all are full, the least busy.
    fn place(&self) -> Place<'_> {
        let free = |connection: &&Connection| connection.in_flight.load(Ordering::Relaxed) < STREAMS;
        let least = || self.connections.iter().min_by_key(|connection| connection.in_flight.load(Ordering::Relaxed));
        let connection = self.connections.iter().find(free).or_else(least).expect("there are connections");
        connection.in_flight.fetch_add(1, Ordering::Relaxed);
        Place(connection)
    }

    async fn post_once(&self, body: Bytes, token: &AccessToken) -> Result<Answer, Outcome> {
        let place = self.place();
        let request = place.0.client.post(self.url.clone());
        http::exchange(request.header(AUTHORIZATION, token.authorization.clone()).header(CONTENT_TYPE, JSON).body(body)).await
    }

    /// One request. A refused access token is exchanged once: it may have been withdrawn before its time.
    async fn post(&self, body: Bytes) -> Result<Answer, Outcome> {
        let token = self.tokens.get().await?;
        let answer = self.post_once(body.clone(), &token).await?;
        if answer.status.as_u16() != 401 || Refusal::of(&answer).is_third_party() {
            return Ok(answer);
        }
        // Seldom; on the heap, so that it does not make every send's future large.
        Box::pin(async {
            let token = self.tokens.renew(Some(&token), Instant::now()).await?;
            self.post_once(body, &token).await
        })
        .await
    }
}

#[async_trait]
impl Provider for Fcm {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn send(&self, message: &Message) -> Outcome {
        let refused = |detail| Outcome::Permanent { kind: PermanentKind::Payload, code: Code::UNSENDABLE, detail };
        let Body::Push(push) = &message.body else { return refused("not a push message".to_owned()) };
        let body = match super::compose(message, push, self.validate_only, Timestamp::now()) {
            Ok(body) => body,
            Err(problem) => return refused(problem),
        };
        let answered = self.post(body.into()).await;
        match answered.map(|answer| classify(&answer, &push.target, Timestamp::now())) {
            Ok(Outcome::Transient { code: Code::RATE_LIMITED, detail, retry_after })
                if !self.quota.is_projects(&push.target, Instant::now()) =>
            {
                Outcome::Transient { code: Code::RECIPIENT_RATE_LIMITED, detail, retry_after }
            }
            Ok(outcome) | Err(outcome) => outcome,
        }
    }

    fn retry_floor(&self) -> Duration {
        RETRY_FLOOR
    }

    async fn probe(&self) -> Result<(), ProbeFailure> {
        let message = json!({ "topic": PROBE_TOPIC, "notification": { "title": "Tarishi" } });
        let body = json!({ "validateOnly": true, "message": message }).to_string();
        let answer = self.post(body.into()).await.map_err(|outcome| ProbeFailure::of(&outcome))?;
        match classify(&answer, &PushTarget::Topic(PROBE_TOPIC.to_owned()), Timestamp::now()) {
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
    details: Vec<serde_json::Value>,
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
fn classify(answer: &Answer, target: &PushTarget, now: Timestamp) -> Outcome {
    #[derive(Deserialize)]
    struct Sent {
        name: String,
    }
    if answer.status.as_u16() == 200 {
        return match answer.json::<Sent>() {
            Some(Sent { name }) => Outcome::Sent { provider_id: Some(name) },
            None if answer.is_whole => Outcome::Unknown { code: Code::UNEXPECTED_ANSWER, detail: answer.detail("no message in it") },
            // It was taken; only its name got lost.
            None => Outcome::Sent { provider_id: None },
        };
    }
    let mut refusal = Refusal::of(answer);
    // An installation id is no longer than a word.
    if let PushTarget::Token(token) = target {
        refusal.error.message = refusal.error.message.replace(token.as_str(), "***");
    }
    let detail = || answer.detail(&refusal.error.message);
    let permanent = |kind, code| Outcome::Permanent { kind, code, detail: detail() };
    match (answer.status.as_u16(), refusal.code()) {
        (401, Some("THIRD_PARTY_AUTH_ERROR" | "APNS_AUTH_ERROR")) => {
            config(Code::PLATFORM_REFUSED, format!("{}; mend the APNs or web push key in the Firebase console", detail()))
        }
        (403, Some("SENDER_ID_MISMATCH")) => permanent(PermanentKind::Payload, Code::SENDER_MISMATCH),
        (404, Some("UNREGISTERED")) => permanent(PermanentKind::Address, Code::UNREGISTERED),
        (429, _) => {
            let wait = answer.retry_after(now).unwrap_or(QUOTA_FLOOR);
            Outcome::Transient { code: Code::RATE_LIMITED, detail: detail(), retry_after: Some(wait) }
        }
        _ => answer.by_status(&refusal.error.message, now),
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

    fn device() -> PushTarget {
        PushTarget::Token("cAbCdEfGhIjKlMnOpQrStU".parse().unwrap())
    }

    #[track_caller]
    fn check(status: u16, body: &str, expected: &str) {
        let told = match classify(&answer(status, body), &device(), NOW) {
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
        check(401, &error("UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"), "Config platform_credentials_refused");
        check(403, &error("PERMISSION_DENIED", "SENDER_ID_MISMATCH"), "Payload sender_mismatch");
        check(403, r#"{"error":{"code":403,"message":"m","status":"PERMISSION_DENIED"}}"#, "Config authentication_failed");
        check(404, &error("NOT_FOUND", "UNREGISTERED"), "Address unregistered");
        check(404, r#"{"error":{"code":404,"message":"m","status":"NOT_FOUND"}}"#, "Config config_refused");
        check(404, "<html>", "Config config_refused");
        check(429, &error("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), "transient rate_limited 60s");
        check(500, &error("INTERNAL", "INTERNAL"), "unknown provider_unavailable");
        check(502, "<html>", "unknown provider_unavailable");
        check(503, &error("UNAVAILABLE", "UNAVAILABLE"), "transient provider_unavailable 0ns");
    }

    #[test]
    fn the_services_wish_is_passed_on() {
        let wait = |status: u16, text: &'static str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            match classify(&Answer { headers, ..answer(status, "") }, &device(), NOW) {
                Outcome::Transient { retry_after, .. } => retry_after.unwrap().as_secs(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(wait(429, "5"), 5);
        assert_eq!(wait(429, "90"), 90);
        assert_eq!(wait(503, "25"), 25);
    }

    #[test]
    fn what_is_told_names_no_device() {
        let body = r#"{"error":{"message":"cAbCdEfGhIjKlMnOpQrStU: not a valid FCM registration token, 'cAbCdEfGhIjKlMnOpQrStU'"}}"#;
        let outcome = classify(&answer(400, body), &device(), NOW);
        assert_eq!(outcome.detail(), Some("answered 400 Bad Request: ***: not a valid FCM registration token, '***'"));
    }

    #[test]
    fn one_devices_rate_is_told_from_the_projects() {
        let (quota, now) = (Quota::default(), Instant::now());
        let token = |text: &str| PushTarget::Token(text.parse().unwrap());
        let later = |millis: u64| now + Duration::from_millis(millis);
        assert!((0..50).all(|millis| !quota.is_projects(&token("one"), later(millis))), "one device, however often");
        assert!(!quota.is_projects(&token("two"), later(100)));
        assert!(quota.is_projects(&PushTarget::Topic("three".to_owned()), later(200)));
        assert!(quota.is_projects(&token("four"), later(300)));
        assert!(!quota.is_projects(&token("five"), later(1250)), "the first ones are too long ago");
        assert!(quota.refused.lock().unwrap().len() <= QUOTA_TARGETS);
    }

    #[test]
    fn third_party_credentials_are_told_from_our_own() {
        let is_third_party = |body: &str| Refusal::of(&answer(401, body)).is_third_party();
        assert!(is_third_party(&error("UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR")));
        assert!(is_third_party(&error("UNAUTHENTICATED", "APNS_AUTH_ERROR")));
        assert!(!is_third_party(r#"{"error":{"code":401,"status":"UNAUTHENTICATED"}}"#));
    }
}
