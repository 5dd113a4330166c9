//! SMS through Twilio: `POST /2010-04-01/Accounts/{AccountSid}/Messages.json`, as its `OpenAPI` document describes it.
//!
//! Numbers that may not be written to are refused here, before any request: [`Guards`]. A message that is taken is accepted there, not
//! delivered: what becomes of it comes back to the `StatusCallback`, which names the delivery.

use std::{num::NonZeroU32, time::Duration};

use async_trait::async_trait;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock as _};
use reqwest::{
    Client, Url,
    header::{AUTHORIZATION, HeaderMap},
};
use secrecy::ExposeSecret;
use serde::Deserialize;

use super::segments;
use crate::{
    channel::{
        ProbeFailure, Provider,
        http::{self, Answer, config},
    },
    config::{TwilioConfig, is_loopback},
    model::{Body, Code, Message, Outcome, PermanentKind, PhoneNumber, Sms, Timestamp},
};

/// Its name in the configuration.
pub const NAME: &str = "twilio";
/// Where status callbacks come in, below the public listener's base URL.
pub const CALLBACK_PATH: &str = "/webhooks/twilio";
/// The query parameter of a callback that names the delivery.
pub const CALLBACK_DELIVERY: &str = "delivery";
/// Characters of one message (Messages, `Body`).
const BODY_LIMIT: usize = 1600;
/// Seconds a message may wait at Twilio (Messages, `ValidityPeriod`); less than the least is not advised.
const VALIDITY: (u64, u64) = (5, 36_000);
/// Wait that a full queue of the sender's takes at least: it holds ten hours of messages.
const QUEUE_FULL_WAIT: Duration = Duration::from_mins(10);
/// Destination prefixes remembered before those that are quiet are forgotten.
const PREFIXES_LIMIT: usize = 10_000;

/// Twilio's messaging API.
pub struct Twilio {
    client: Client,
    messages_url: String,
    account_url: String,
    from: Option<String>,
    messaging_service_sid: Option<String>,
    callback_url: Option<String>,
    max_segments: usize,
    guards: Guards,
}

impl Twilio {
    /// `public_url` is where Twilio reaches us.
    ///
    /// # Errors
    /// In words: what of the configuration cannot be used.
    pub fn new(twilio: &TwilioConfig, public_url: &str) -> Result<Self, String> {
        let account = twilio.account_sid.as_deref().unwrap_or_default();
        let (user, password) = match (&twilio.api_key, &twilio.secret, &twilio.token) {
            (Some(key), Some(secret), _) => (key.as_str(), secret),
            (_, _, Some(token)) => (account, token),
            _ => return Err("provider.twilio: has neither an API key with its secret nor an auth token".to_owned()),
        };
        let credentials = base64(&format!("{user}:{}", password.expose_secret().trim()));
        let authorization =
            http::secret_header(&format!("Basic {credentials}")).map_err(|problem| format!("provider.twilio: {problem}"))?;
        let client = http::builder(&twilio.base_url).default_headers(HeaderMap::from_iter([(AUTHORIZATION, authorization)])).build();
        let base = twilio.base_url.trim_end_matches('/');
        Ok(Self {
            client: client.map_err(|error| format!("no HTTP client can be made: {error}"))?,
            messages_url: format!("{base}/2010-04-01/Accounts/{account}/Messages.json"),
            account_url: format!("{base}/2010-04-01/Accounts/{account}.json"),
            from: twilio.from.clone(),
            messaging_service_sid: twilio.messaging_service_sid.clone(),
            callback_url: twilio.token.as_ref().and_then(|_| callback_url(public_url, &twilio.base_url)),
            max_segments: twilio.max_segments,
            guards: Guards::new(twilio)?,
        })
    }

    /// The form's fields for one message.
    ///
    /// # Errors
    /// The outcome of a message that must not be sent, or would be refused for what it is.
    pub fn compose(&self, message: &Message, sms: &Sms, now: Timestamp) -> Result<Vec<(&'static str, String)>, Outcome> {
        let characters = sms.text.chars().count();
        if sms.text.trim().is_empty() || characters > BODY_LIMIT {
            let detail = format!("a text has 1 to {BODY_LIMIT} characters; this one has {characters}");
            return Err(Outcome::Permanent { kind: PermanentKind::Payload, code: Code::PAYLOAD_REFUSED, detail });
        }
        let segments = segments::count(&sms.text);
        if segments.count > self.max_segments {
            let detail = format!("{} segments; provider.twilio.max_segments is {}", segments.count, self.max_segments);
            return Err(Outcome::Permanent { kind: PermanentKind::Payload, code: Code::TOO_LARGE, detail });
        }
        if self.from.as_deref() == Some(sms.to.as_str()) {
            let detail = "the recipient is the sender".to_owned();
            return Err(Outcome::Permanent { kind: PermanentKind::Payload, code: Code::PAYLOAD_REFUSED, detail });
        }
        let left = message.expires_at.since(now).as_secs().clamp(VALIDITY.0, VALIDITY.1);
        let mut form = vec![("To", sms.to.to_string()), ("Body", sms.text.clone()), ("ValidityPeriod", left.to_string())];
        form.extend(self.from.clone().map(|from| ("From", from)));
        form.extend(self.messaging_service_sid.clone().map(|sid| ("MessagingServiceSid", sid)));
        form.extend(self.callback_url.as_ref().map(|url| ("StatusCallback", format!("{url}?{CALLBACK_DELIVERY}={}", message.delivery_id))));
        Ok(form)
    }
}

#[async_trait]
impl Provider for Twilio {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn send(&self, message: &Message) -> Outcome {
        let Body::Sms(sms) = &message.body else {
            return Outcome::Permanent { kind: PermanentKind::Payload, code: Code::PAYLOAD_REFUSED, detail: "not an SMS".to_owned() };
        };
        let form = match self.guards.check(&sms.to).and_then(|()| self.compose(message, sms, Timestamp::now())) {
            Ok(form) => form,
            Err(outcome) => return outcome,
        };
        let answered = http::exchange(self.client.post(&self.messages_url).form(&form)).await;
        match answered {
            Ok(answer) => classify(&answer, Timestamp::now()),
            Err(outcome) => outcome,
        }
    }

    async fn probe(&self) -> Result<(), ProbeFailure> {
        #[derive(Deserialize)]
        struct Account {
            status: String,
        }
        let answer = http::exchange(self.client.get(&self.account_url)).await.map_err(|outcome| ProbeFailure::of(&outcome))?;
        match (answer.status.as_u16(), answer.json::<Account>()) {
            (200, Some(Account { status })) if status == "active" => Ok(()),
            (200, Some(Account { status })) => {
                Err(ProbeFailure::new(format!("the account is {}", http::without_addresses(&status)), "see Twilio's console for why"))
            }
            _ => Err(ProbeFailure::of(&classify(&answer, Timestamp::now()))),
        }
    }
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// Where status callbacks go: Twilio takes a URL with a host name it can reach. From this machine to itself any will do.
fn callback_url(public_url: &str, base_url: &str) -> Option<String> {
    let host = Url::parse(public_url).ok()?.host_str()?.to_owned();
    let reachable = !is_loopback(public_url) && !host.contains('_');
    (reachable || is_loopback(base_url)).then(|| format!("{}{CALLBACK_PATH}", public_url.trim_end_matches('/')))
}

/// Keeps anybody from having premium numbers called up through us: a list of prefixes, and a limit on how fast numbers that begin alike
/// are written to. Whatever is not let through is not sent.
struct Guards {
    allowed: Vec<String>,
    velocity: DefaultKeyedRateLimiter<String>,
    digits: usize,
}

impl Guards {
    fn new(twilio: &TwilioConfig) -> Result<Self, String> {
        let limit = NonZeroU32::new(twilio.velocity.limit).ok_or("provider.twilio.velocity.limit is 0")?;
        let quota = Quota::with_period(twilio.velocity.window / limit.get()).ok_or("provider.twilio.velocity.window is too short")?;
        let velocity = RateLimiter::keyed(quota.allow_burst(limit));
        Ok(Self { allowed: twilio.allowed_prefixes.clone(), velocity, digits: twilio.velocity.digits })
    }

    fn check(&self, to: &PhoneNumber) -> Result<(), Outcome> {
        if !self.allowed.iter().any(|prefix| to.as_str().starts_with(prefix.as_str())) {
            let detail = "provider.twilio.allowed_prefixes has no beginning of this number".to_owned();
            return Err(Outcome::Permanent { kind: PermanentKind::Payload, code: Code::DESTINATION_NOT_ALLOWED, detail });
        }
        if self.velocity.len() > PREFIXES_LIMIT {
            self.velocity.retain_recent();
        }
        // `+`, then the digits.
        let prefix = to.as_str().chars().take(1 + self.digits).collect::<String>();
        self.velocity.check_key(&prefix).map_err(|not_until| {
            let wait = not_until.wait_time_from(governor::clock::DefaultClock::default().now());
            let detail = "too many messages to numbers that begin like this one (provider.twilio.velocity)".to_owned();
            Outcome::Transient { code: Code::VELOCITY_LIMITED, detail, retry_after: Some(wait) }
        })
    }
}

#[derive(Deserialize)]
struct Created {
    sid: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refused {
    code: Option<u32>,
    message: Option<String>,
}

/// What an answer means: by its status first, and by Twilio's code where that says more. Codes are split into new ones without notice, so
/// that one not listed means what its status does.
fn classify(answer: &Answer, now: Timestamp) -> Outcome {
    use PermanentKind::{Address, Config, Payload};
    if answer.status.as_u16() == 201 {
        return match answer.json::<Created>() {
            Some(Created { sid }) => Outcome::Sent { provider_id: Some(sid) },
            None if answer.is_whole => Outcome::Unknown { code: Code::UNEXPECTED_ANSWER, detail: answer.detail("not a message") },
            // It was created; only its name got lost.
            None => Outcome::Sent { provider_id: None },
        };
    }
    let Refused { code, message } = answer.json().unwrap_or_default();
    let words = [code.map(|code| format!("error {code}")), message].into_iter().flatten().collect::<Vec<_>>().join(": ");
    if !answer.status.is_client_error() {
        return answer.by_status(&words, now);
    }
    let permanent = |kind, code| Outcome::Permanent { kind, code, detail: answer.detail(&words) };
    match code {
        Some(20_003) => config(Code::AUTHENTICATION_FAILED, answer.detail(&words)),
        Some(21_211 | 21_614 | 21_635) => permanent(Address, Code::ADDRESS_REFUSED),
        Some(21_212 | 21_603 | 21_606 | 21_608) => permanent(Config, Code::SENDER_REFUSED),
        // One destination that the account may not write to, or this sender cannot reach: the others go on.
        Some(21_408) => permanent(Payload, Code::DESTINATION_NOT_ALLOWED),
        Some(21_612) => permanent(Payload, Code::SENDER_REFUSED),
        Some(21_610) => permanent(Address, Code::OPTED_OUT),
        Some(21_611) => Outcome::Transient {
            code: Code::CARRIER_QUEUE_FULL,
            detail: answer.detail(&words),
            retry_after: Some(answer.retry_after(now).unwrap_or_default().max(QUEUE_FULL_WAIT)),
        },
        Some(21_617 | 21_658) => permanent(Payload, Code::TOO_LARGE),
        Some(20_429 | 30_022 | 63_017) => {
            Outcome::Transient { code: Code::RATE_LIMITED, detail: answer.detail(&words), retry_after: answer.retry_after(now) }
        }
        _ => answer.by_status(&words, now),
    }
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_768_473_000_000);

    #[track_caller]
    fn check(status: u16, body: &str, expected: &str) {
        let status = StatusCode::from_u16(status).unwrap();
        let answer = Answer { status, headers: HeaderMap::new(), body: body.as_bytes().to_vec(), is_whole: true };
        let told = match classify(&answer, NOW) {
            Outcome::Sent { provider_id } => format!("sent {}", provider_id.unwrap_or_default()),
            Outcome::Permanent { kind, code, .. } => format!("{kind:?} {code}"),
            other => format!("{} {}", other.as_str(), other.code().unwrap()),
        };
        assert_eq!(told, expected, "{status} {body}");
    }

    fn error(code: u32) -> String {
        format!(r#"{{"code":{code},"message":"said so","more_info":"https://www.twilio.com/docs/errors/{code}","status":400}}"#)
    }

    #[test]
    fn every_published_answer_has_one_meaning() {
        check(201, r#"{"sid":"SM1","status":"queued","num_segments":"1"}"#, "sent SM1");
        check(201, "<html>", "unknown unexpected_answer");
        check(200, r#"{"sid":"SM1"}"#, "unknown unexpected_answer");
        for (code, expected) in [
            (21_211, "Address address_refused"),
            (21_212, "Config sender_refused"),
            (21_408, "Payload destination_not_allowed"),
            (21_602, "Payload payload_refused"),
            (21_603, "Config sender_refused"),
            (21_606, "Config sender_refused"),
            (21_608, "Config sender_refused"),
            (21_610, "Address opted_out"),
            (21_611, "transient carrier_queue_full"),
            (21_612, "Payload sender_refused"),
            (21_614, "Address address_refused"),
            (21_617, "Payload too_large"),
            (21_635, "Address address_refused"),
            (21_658, "Payload too_large"),
            (99_999, "Payload payload_refused"),
        ] {
            check(400, &error(code), expected);
        }
        check(401, &error(20_003), "Config authentication_failed");
        check(403, &error(20_003), "Config authentication_failed");
        check(401, "", "Config authentication_failed");
        check(404, &error(20_404), "Config config_refused");
        check(429, &error(20_429), "transient rate_limited");
        check(429, "", "transient rate_limited");
        check(429, &error(63_017), "transient rate_limited");
        check(500, "<html>", "unknown provider_unavailable");
        check(503, r#"{"message":"no code"}"#, "transient provider_unavailable");
        check(400, r#"{"message":"no code","status":400}"#, "Payload payload_refused");
        check(302, "", "Config config_refused");
    }

    #[test]
    fn a_cut_answer_still_says_that_it_was_created() {
        let status = StatusCode::CREATED;
        let answer = Answer { status, headers: HeaderMap::new(), body: b"{\"sid\":\"SM".to_vec(), is_whole: false };
        assert_eq!(classify(&answer, NOW), Outcome::Sent { provider_id: None });
    }

    #[test]
    fn callbacks_are_asked_for_where_they_can_arrive() {
        let url = |public: &str, base: &str| callback_url(public, base);
        let cloud = "https://api.twilio.com";
        assert_eq!(url("https://n.example", cloud).as_deref(), Some("https://n.example/webhooks/twilio"));
        assert_eq!(url("https://n.example/base/", cloud).as_deref(), Some("https://n.example/base/webhooks/twilio"));
        assert_eq!(url("https://my_host.example", cloud), None);
        assert_eq!(url("http://127.0.0.1:8000", cloud), None);
        assert_eq!(url("http://127.0.0.1:8000", "http://127.0.0.1:8090").as_deref(), Some("http://127.0.0.1:8000/webhooks/twilio"));
    }
}
