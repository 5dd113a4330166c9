//! SMS through Twilio: `POST /2010-04-01/Accounts/{AccountSid}/Messages.json`, as its `OpenAPI` document describes it.
//!
//! Numbers that may not be written to are refused here, before any request: [`Guards`]. A message that is taken is accepted there, not
//! delivered: what becomes of it comes back to the `StatusCallback`, which names the delivery.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use reqwest::{
    Client, RequestBuilder, Url,
    header::{AUTHORIZATION, HeaderMap},
};
use secrecy::ExposeSecret;
use serde::Deserialize;

use super::velocity::Velocity;
use crate::{
    channel::{
        ProbeFailure, Provider,
        http::{self, Answer, config},
    },
    config::{TwilioConfig, is_loopback},
    model::{Body, Code, Message, Outcome, PermanentKind, PhoneNumber, Sms, Timestamp, segments},
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
/// In which Twilio tells how many requests of the account's it has under way ("REST API concurrency").
const CONCURRENT_REQUESTS: &str = "twilio-concurrent-requests";
/// Stands for none told yet.
const NOT_TOLD: u32 = u32::MAX;

/// Twilio's messaging API.
pub struct Twilio {
    client: Client,
    messages_url: Url,
    account_url: Url,
    /// Whether we are there by an API key, which need not be let see the account itself.
    has_api_key: bool,
    concurrent_requests: AtomicU32,
    from: Option<String>,
    messaging_service_sid: Option<String>,
    callback_url: Option<String>,
    max_segments: usize,
    guards: Guards,
}

impl Twilio {
    /// `public_url` is where Twilio reaches us, `call_timeout` what one attempt may take.
    ///
    /// # Errors
    /// In words: what of the configuration cannot be used.
    pub fn new(twilio: &TwilioConfig, public_url: &str, call_timeout: Duration) -> Result<Self, String> {
        let account = twilio.account_sid.as_deref().unwrap_or_default();
        let (user, password) = match (&twilio.api_key, &twilio.secret, &twilio.token) {
            (Some(key), Some(secret), _) => (key.as_str(), secret),
            (_, _, Some(token)) => (account, token),
            _ => return Err("provider.twilio: has neither an API key with its secret nor an auth token".to_owned()),
        };
        let credentials = base64(&format!("{user}:{}", password.expose_secret().trim()));
        let authorization =
            http::secret_header(&format!("Basic {credentials}")).map_err(|problem| format!("provider.twilio: {problem}"))?;
        let client = http::builder(&twilio.base_url)
            .connect_timeout(http::connect_timeout(call_timeout))
            .default_headers(HeaderMap::from_iter([(AUTHORIZATION, authorization)]))
            .build();
        let base = twilio.base_url.trim_end_matches('/');
        let url = |path: &str| {
            let url = Url::parse(&format!("{base}/2010-04-01/Accounts/{account}{path}"));
            url.map_err(|error| format!("provider.twilio.base_url: makes no URL: {error}"))
        };
        Ok(Self {
            client: client.map_err(|error| format!("no HTTP client can be made: {error}"))?,
            messages_url: url("/Messages.json")?,
            account_url: url(".json")?,
            has_api_key: user != account,
            concurrent_requests: AtomicU32::new(NOT_TOLD),
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
        if sms.text.trim().is_empty() {
            return Err(unsendable("the text is empty"));
        }
        if characters > BODY_LIMIT {
            return Err(unsendable(format!("a text has at most {BODY_LIMIT} characters; this one has {characters}")));
        }
        let segments = segments::count(&sms.text);
        if segments.count > self.max_segments {
            return Err(unsendable(format!("{} segments; provider.twilio.max_segments is {}", segments.count, self.max_segments)));
        }
        if self.from.as_deref() == Some(sms.to.as_str()) {
            return Err(unsendable("the recipient is the sender"));
        }
        let left = message.expires_at.since(now).as_secs().clamp(VALIDITY.0, VALIDITY.1);
        let mut form = vec![("To", sms.to.to_string()), ("Body", sms.text.clone()), ("ValidityPeriod", left.to_string())];
        form.extend(self.from.clone().map(|from| ("From", from)));
        form.extend(self.messaging_service_sid.clone().map(|sid| ("MessagingServiceSid", sid)));
        form.extend(self.callback_url.as_ref().map(|url| ("StatusCallback", format!("{url}?{CALLBACK_DELIVERY}={}", message.delivery_id))));
        Ok(form)
    }

    async fn exchange(&self, request: RequestBuilder) -> Result<Answer, Outcome> {
        let answer = http::exchange(request).await?;
        if let Some(number) = answer.header(CONCURRENT_REQUESTS).and_then(|text| text.trim().parse().ok()) {
            self.concurrent_requests.store(number, Ordering::Relaxed);
        }
        Ok(answer)
    }
}

fn unsendable(detail: impl Into<String>) -> Outcome {
    Outcome::Permanent { kind: PermanentKind::Payload, code: Code::UNSENDABLE, detail: detail.into() }
}

#[async_trait]
impl Provider for Twilio {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn send(&self, message: &Message) -> Outcome {
        let Body::Sms(sms) = &message.body else {
            return unsendable("not an SMS");
        };
        // What cannot be sent takes nobody's place in the velocity: it is composed first.
        let form = self.compose(message, sms, Timestamp::now()).and_then(|form| self.guards.check(&sms.to, Instant::now()).map(|()| form));
        let form = match form {
            Ok(form) => form,
            Err(outcome) => return outcome,
        };
        let answered = self.exchange(self.client.post(self.messages_url.clone()).form(&form)).await;
        match answered {
            Ok(answer) => classify(&answer, Timestamp::now()),
            Err(outcome) => outcome,
        }
    }

    fn concurrent_requests(&self) -> Option<u32> {
        Some(self.concurrent_requests.load(Ordering::Relaxed)).filter(|number| *number != NOT_TOLD)
    }

    async fn probe(&self) -> Result<(), ProbeFailure> {
        #[derive(Deserialize)]
        struct Account {
            status: String,
        }
        let answer = self.exchange(self.client.get(self.account_url.clone())).await.map_err(|outcome| ProbeFailure::of(&outcome))?;
        // A standard or restricted API key is not let see the account, however good it is: ask for what it is let see.
        if answer.status.as_u16() == 401 && self.has_api_key {
            return self.probe_messages().await;
        }
        match (answer.status.as_u16(), answer.json::<Account>()) {
            (200, Some(Account { status })) if status == "active" => Ok(()),
            (200, Some(Account { status })) => {
                Err(ProbeFailure::new(format!("the account is {}", http::without_addresses(&status)), "see Twilio's console for why"))
            }
            _ => Err(ProbeFailure::of(&classify(&answer, Timestamp::now()))),
        }
    }
}

impl Twilio {
    /// Whether the credentials are let see the account's messages, of which it takes one at most.
    async fn probe_messages(&self) -> Result<(), ProbeFailure> {
        let request = self.client.get(self.messages_url.clone()).query(&[("PageSize", "1")]);
        let answer = self.exchange(request).await.map_err(|outcome| ProbeFailure::of(&outcome))?;
        if answer.status.as_u16() == 200 && answer.json::<Page>().is_some() {
            return Ok(());
        }
        let failure = ProbeFailure::of(&classify(&answer, Timestamp::now()));
        let hint = format!("{}; a restricted key needs to read and create messages", failure.hint);
        Err(ProbeFailure { hint, ..failure })
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
    velocity: Velocity,
}

impl Guards {
    fn new(twilio: &TwilioConfig) -> Result<Self, String> {
        Ok(Self { allowed: twilio.allowed_prefixes.clone(), velocity: Velocity::new(&twilio.velocity)? })
    }

    fn check(&self, to: &PhoneNumber, now: Instant) -> Result<(), Outcome> {
        if !self.allowed.iter().any(|prefix| to.as_str().starts_with(prefix.as_str())) {
            let detail = "provider.twilio.allowed_prefixes has no beginning of this number".to_owned();
            return Err(Outcome::Permanent { kind: PermanentKind::Payload, code: Code::DESTINATION_NOT_ALLOWED, detail });
        }
        self.velocity.take(to, now).map_err(|wait| {
            let detail = "too many messages to numbers that begin like this one (provider.twilio.velocity)".to_owned();
            Outcome::Transient { code: Code::VELOCITY_LIMITED, detail, retry_after: Some(wait) }
        })
    }
}

#[derive(Deserialize)]
struct Created {
    sid: String,
}

/// A page of messages; what is in them is nobody's business here.
#[derive(Deserialize)]
struct Page {
    #[serde(rename = "messages")]
    _messages: Vec<serde::de::IgnoredAny>,
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
    let words = match answer.header(CONCURRENT_REQUESTS).and_then(|text| text.trim().parse::<u32>().ok()) {
        Some(number) if answer.status.as_u16() == 429 => format!("{words} ({number} requests at once)"),
        _ => words,
    };
    let permanent = |kind, code| Outcome::Permanent { kind, code, detail: answer.detail(&words) };
    match code {
        Some(20_003) => config(Code::AUTHENTICATION_FAILED, answer.detail(&words)),
        Some(21_211 | 21_614 | 21_635) => permanent(Address, Code::ADDRESS_REFUSED),
        // The number, or the Messaging Service with its numbers, is not ours to use.
        Some(21_212 | 21_603 | 21_606 | 21_608 | 21_659 | 21_660 | 21_701 | 21_703 | 21_705) => permanent(Config, Code::SENDER_REFUSED),
        // The status callback's URL: ours, in every message.
        Some(21_609) => permanent(Config, Code::CONFIG_REFUSED),
        // One destination that the account may not write to, or this sender cannot reach: the others go on.
        Some(21_408) => permanent(Payload, Code::REGION_NOT_ENABLED),
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
            (21_408, "Payload region_not_enabled"),
            (21_602, "Payload payload_refused"),
            (21_603, "Config sender_refused"),
            (21_606, "Config sender_refused"),
            (21_608, "Config sender_refused"),
            (21_609, "Config config_refused"),
            (21_610, "Address opted_out"),
            (21_611, "transient carrier_queue_full"),
            (21_612, "Payload sender_refused"),
            (21_614, "Address address_refused"),
            (21_617, "Payload too_large"),
            (21_635, "Address address_refused"),
            (21_658, "Payload too_large"),
            (21_659, "Config sender_refused"),
            (21_660, "Config sender_refused"),
            (21_701, "Config sender_refused"),
            (21_703, "Config sender_refused"),
            (21_705, "Config sender_refused"),
            (99_999, "Payload payload_refused"),
        ] {
            check(400, &error(code), expected);
        }
        check(401, &error(20_003), "Config authentication_failed");
        check(403, &error(20_003), "Config authentication_failed");
        check(401, "", "Config authentication_failed");
        check(402, "", "Config quota_exceeded");
        check(409, "", "transient provider_unavailable");
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

    /// Twilio with `more` beside what it needs.
    fn twilio(more: &str) -> Twilio {
        crate::channel::http::tests::install_cryptography();
        let keys = format!(
            "account_sid = 'AC00000000000000000000000000000000'\nauth_token = 'token'\nfrom = '+15005550006'\n\
             allowed_prefixes = ['+255', '+1500']\n{more}"
        );
        let overrides = vec![
            ("provider.twilio".to_owned(), toml::Value::Table(keys.parse().unwrap())),
            // Secrets are fetched for those that are used.
            ("channel.sms.providers".to_owned(), vec!["twilio"].into()),
        ];
        let config = crate::config::load(&crate::config::Sources { overrides, ..crate::config::Sources::default() }).unwrap();
        Twilio::new(&config.provider.twilio, "https://n.example", Duration::from_secs(30)).unwrap()
    }

    fn sms(to: &str, text: &str) -> Sms {
        Sms { to: to.parse().unwrap(), text: text.to_owned() }
    }

    fn message(sms: &Sms, expires_in: u64) -> Message {
        Message {
            delivery_id: crate::model::DeliveryId::new([7; 12], 1),
            job_id: "job".parse().unwrap(),
            user_id: None,
            template: None,
            tenant: None,
            collapse_key: None,
            expires_at: NOW.saturating_add(Duration::from_secs(expires_in)),
            body: Body::Sms(sms.clone()),
        }
    }

    /// The form of a text with an hour to go, or the code and the words of why there is none.
    fn composed(twilio: &Twilio, sms: &Sms) -> Result<Vec<(&'static str, String)>, String> {
        twilio.compose(&message(sms, 3600), sms, NOW).map_err(|outcome| {
            assert!(matches!(outcome, Outcome::Permanent { kind: PermanentKind::Payload, .. }), "{outcome:?}");
            format!("{}: {}", outcome.code().unwrap(), outcome.detail().unwrap())
        })
    }

    #[test]
    fn a_form_has_what_twilio_asks_for() {
        let form = composed(&twilio(""), &sms("+255712345678", "Habari")).unwrap();
        let id = crate::model::DeliveryId::new([7; 12], 1);
        let expected = [
            ("To", "+255712345678".to_owned()),
            ("Body", "Habari".to_owned()),
            ("ValidityPeriod", "3600".to_owned()),
            ("From", "+15005550006".to_owned()),
            ("StatusCallback", format!("https://n.example/webhooks/twilio?delivery={id}")),
        ];
        assert_eq!(form, expected);
    }

    #[test]
    fn the_validity_period_is_what_is_left_within_twilios_bounds() {
        let (twilio, sms) = (twilio(""), sms("+255712345678", "Habari"));
        for (left, expected) in [(0, "5"), (5, "5"), (6, "6"), (36_000, "36000"), (36_001, "36000"), (1_000_000, "36000")] {
            let form = twilio.compose(&message(&sms, left), &sms, NOW).unwrap();
            assert_eq!(form.iter().find(|(name, _)| *name == "ValidityPeriod").unwrap().1, expected, "{left} s");
        }
    }

    #[track_caller]
    fn refused(twilio: &Twilio, to: &str, text: &str, expected: &str) {
        let told = composed(twilio, &sms(to, text)).unwrap_err();
        assert!(told.starts_with("unsendable: ") && told.contains(expected), "{told}");
    }

    #[test]
    fn what_twilio_would_refuse_is_not_asked_for() {
        let twilio = twilio("max_segments = 11");
        let to = "+255712345678";
        for blank in ["", " ", " \t\n", "\u{a0}\u{2003}"] {
            refused(&twilio, to, blank, "the text is empty");
        }
        assert!(composed(&twilio, &sms(to, &"a".repeat(1600))).is_ok());
        refused(&twilio, to, &"a".repeat(1601), "at most 1600 characters; this one has 1601");
        // Characters, and not bytes.
        assert!(composed(&twilio, &sms(to, &"é".repeat(1600))).is_ok());
        refused(&twilio, "+15005550006", "Habari", "the recipient is the sender");
        refused(&twilio, to, &"ш".repeat(67 * 11 + 1), "12 segments; provider.twilio.max_segments is 11");
        assert!(composed(&twilio, &sms(to, &"ш".repeat(67 * 11))).is_ok());
    }

    #[test]
    fn numbers_elsewhere_are_not_written_to() {
        let twilio = twilio("");
        let check = |to: &str| twilio.guards.check(&to.parse().unwrap(), Instant::now()).map_err(|outcome| outcome.code().unwrap());
        assert_eq!(check("+255712345678"), Ok(()));
        assert_eq!(check("+15005550001"), Ok(()));
        for elsewhere in ["+254712345678", "+25", "+15015550001", "+2557"] {
            let expected = if elsewhere == "+2557" { Ok(()) } else { Err(Code::DESTINATION_NOT_ALLOWED) };
            assert_eq!(check(elsewhere), expected, "{elsewhere}");
        }
    }

    #[tokio::test]
    async fn what_is_not_sent_takes_nobodys_place() {
        let twilio = twilio("velocity = { limit = 1, window = '1h', digits = 6 }\nbase_url = 'http://127.0.0.1:9'");
        let send = async |text: &str| {
            let sms = sms("+255712345678", text);
            twilio.send(&message(&sms, u64::from(u32::MAX))).await.code().unwrap()
        };
        assert_eq!(send("").await, Code::UNSENDABLE);
        assert_eq!(send("Habari").await, Code::CONNECTION_FAILED, "the first that could be sent");
        assert_eq!(send("Habari").await, Code::VELOCITY_LIMITED);
        let outcome = twilio.guards.check(&"+255712999999".parse().unwrap(), Instant::now()).unwrap_err();
        let Outcome::Transient { retry_after: Some(wait), .. } = outcome else { panic!("{outcome:?}") };
        assert!((3500..=3600).contains(&wait.as_secs()), "{wait:?}");
    }

    #[test]
    fn a_complaint_says_how_many_were_under_way() {
        let headers = HeaderMap::from_iter([(reqwest::header::HeaderName::from_static(CONCURRENT_REQUESTS), "118".parse().unwrap())]);
        let answer = Answer { status: StatusCode::TOO_MANY_REQUESTS, headers, body: error(20_429).into_bytes(), is_whole: true };
        let outcome = classify(&answer, NOW);
        assert!(outcome.detail().unwrap().contains("(118 requests at once)"), "{outcome:?}");
    }
}
