//! Email through `SendGrid`: `POST /v3/mail/send`, one mail to one recipient, as its OpenAPI document describes it.
//!
//! A mail that is taken is queued there, not delivered: what becomes of it comes back through the event webhook, which finds the delivery
//! by the custom argument [`DELIVERY_ARGUMENT`](super::DELIVERY_ARGUMENT).

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use lettre::message::Mailbox;
use reqwest::{
    Client,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use super::{DELIVERY_ARGUMENT, sender::Senders};
use crate::{
    channel::{
        ProbeFailure, Provider,
        http::{self, Answer, config},
    },
    config::SendGridConfig,
    model::{Body, Code, Email, Message, Outcome, PermanentKind, TemplateName, Timestamp},
};

/// Its name in the configuration.
pub const NAME: &str = "sendgrid";
/// Bytes of one mail (v3 mail send, "Limitations").
const MAIL_LIMIT: usize = 30_000_000;
/// The scope that sending takes.
const SCOPE: &str = "mail.send";
/// Members of a request that are the same for every mail, beside `from`.
const CONFIGURED: [&str; 3] = ["reply_to", "categories", "mail_settings"];
/// Longest wait that a rate header is believed.
const RESET_LIMIT: Duration = Duration::from_mins(10);

/// `SendGrid`'s v3 API.
pub struct SendGrid {
    client: Client,
    url: String,
    scopes_url: String,
    senders: Senders,
    categories: Vec<String>,
    sandbox: bool,
    /// Milliseconds; from the rate headers of the last answer.
    paused_until: AtomicI64,
}

impl SendGrid {
    /// # Errors
    /// In words: what of the configuration cannot be used.
    pub fn new(config: &SendGridConfig) -> Result<Self, String> {
        let key = http::secret_header(&format!("Bearer {}", config.key.expose_secret().trim()))
            .map_err(|problem| format!("provider.sendgrid.api_key: {problem}"))?;
        let headers = [
            (AUTHORIZATION, key),
            (ACCEPT, HeaderValue::from_static("application/json")),
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        ];
        let client = http::builder(&config.base_url).default_headers(HeaderMap::from_iter(headers)).build();
        let base = config.base_url.trim_end_matches('/');
        Ok(Self {
            client: client.map_err(|error| format!("no HTTP client can be made: {error}"))?,
            url: format!("{base}/v3/mail/send"),
            scopes_url: format!("{base}/v3/scopes"),
            senders: Senders::new(config.from.as_deref().unwrap_or_default(), &config.from_by_tenant, config.reply_to.as_deref())
                .map_err(|problem| format!("provider.sendgrid.{problem}"))?,
            categories: config.categories.clone(),
            sandbox: config.sandbox,
            paused_until: AtomicI64::new(0),
        })
    }

    /// The request's body for one mail.
    ///
    /// # Errors
    /// The outcome of a mail that would be refused for what it is.
    pub fn compose(&self, message: &Message, mail: &Email) -> Result<Vec<u8>, Outcome> {
        super::check(mail).map_err(|detail| payload(Code::PAYLOAD_REFUSED, detail))?;
        let from = self.senders.for_tenant(message.tenant.as_deref());
        let text = |r#type, value| Content { r#type, value };
        // Plain text first: the order is that of preference, and it is asked for.
        let content: Vec<Content<'_>> = [("text/plain", &mail.text), ("text/html", &mail.html)]
            .into_iter()
            .filter_map(|(kind, value)| value.as_deref().filter(|value| !value.is_empty()).map(|value| text(kind, value)))
            .collect();
        if content.is_empty() {
            return Err(payload(Code::PAYLOAD_REFUSED, "a mail needs text or HTML"));
        }
        let mut categories: Vec<&str> = message.template.iter().map(TemplateName::as_str).collect();
        categories.extend(
            self.categories.iter().map(String::as_str).filter(|name| message.template.as_ref().is_none_or(|own| own.as_str() != *name)),
        );
        let body = Request {
            personalizations: [Personalization { to: [Address { email: mail.to.as_str(), name: None }] }],
            from: Address::of(from),
            reply_to: self.senders.reply_to().map(Address::of),
            subject: &mail.subject,
            content,
            categories,
            headers: headers(message, mail, from),
            custom_args: [(DELIVERY_ARGUMENT, message.delivery_id.to_string())].into(),
            mail_settings: self.sandbox.then_some(MailSettings { sandbox_mode: Enabled { enable: true } }),
        };
        let body = serde_json::to_vec(&body).map_err(|error| payload(Code::PAYLOAD_REFUSED, error.to_string()))?;
        if body.len() >= MAIL_LIMIT {
            return Err(payload(Code::TOO_LARGE, format!("the mail has {} bytes; SendGrid takes less than {MAIL_LIMIT}", body.len())));
        }
        Ok(body)
    }

    fn classify(&self, answer: &Answer, now: Timestamp) -> Outcome {
        let reset = rate_reset(answer, now);
        if let Some(until) = reset {
            self.paused_until.store(until.as_millis(), Ordering::Relaxed);
        }
        classify(answer, self.sandbox, reset, now)
    }
}

#[async_trait]
impl Provider for SendGrid {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn send(&self, message: &Message) -> Outcome {
        let Body::Email(mail) = &message.body else { return payload(Code::PAYLOAD_REFUSED, "not an email") };
        let body = match self.compose(message, mail) {
            Ok(body) => body,
            Err(outcome) => return outcome,
        };
        let answered = http::exchange(self.client.post(&self.url).body(body)).await;
        match answered {
            Ok(answer) => self.senders.judged(message.tenant.as_deref(), self.classify(&answer, Timestamp::now())),
            Err(outcome) => outcome,
        }
    }

    fn paused_until(&self) -> Option<Timestamp> {
        Some(Timestamp::from_millis(self.paused_until.load(Ordering::Relaxed)))
    }

    async fn probe(&self) -> Result<(), ProbeFailure> {
        #[derive(Deserialize)]
        struct Scopes {
            scopes: Vec<String>,
        }
        let answer = http::exchange(self.client.get(&self.scopes_url)).await.map_err(|outcome| ProbeFailure::of(&outcome))?;
        match (answer.status.as_u16(), answer.json::<Scopes>()) {
            (200, Some(Scopes { scopes })) if scopes.iter().any(|scope| scope == SCOPE) => Ok(()),
            (200, Some(_)) => {
                Err(ProbeFailure::new("the API key may not send mails", "give it \"Mail Send\" access in SendGrid's console"))
            }
            _ => Err(ProbeFailure::of(&classify(&answer, false, None, Timestamp::now()))),
        }
    }
}

fn payload(code: Code, detail: impl Into<String>) -> Outcome {
    Outcome::Permanent { kind: PermanentKind::Payload, code, detail: detail.into() }
}

/// Header fields beyond those made from the request itself. None of them is among those that may not be set.
fn headers(message: &Message, mail: &Email, from: &Mailbox) -> BTreeMap<&'static str, String> {
    let mut headers = BTreeMap::from([
        ("Auto-Submitted", "auto-generated".to_owned()),
        ("Message-ID", format!("<{}@{}>", message.delivery_id, from.email.domain())),
    ]);
    if let Some(url) = &mail.unsubscribe_url {
        headers.insert("List-Unsubscribe", format!("<{url}>"));
        headers.insert("List-Unsubscribe-Post", "List-Unsubscribe=One-Click".to_owned());
    }
    headers
}

/// When more may be sent, if the account's requests are used up. The headers are often absent.
fn rate_reset(answer: &Answer, now: Timestamp) -> Option<Timestamp> {
    let number = |name| answer.header(name)?.trim().parse::<i64>().ok();
    if answer.status.as_u16() != 429 && number("x-ratelimit-remaining") != Some(0) {
        return None;
    }
    let reset = Timestamp::from_millis(number("x-ratelimit-reset")?.saturating_mul(1000));
    (reset > now).then(|| reset.min(now.saturating_add(RESET_LIMIT)))
}

/// What an answer means. Nobody looks inside it again.
fn classify(answer: &Answer, sandbox: bool, reset: Option<Timestamp>, now: Timestamp) -> Outcome {
    let errors = answer.json::<Errors>().unwrap_or_default();
    let words = errors.words();
    let detail = || answer.detail(&words);
    let says = |part: &str| words.to_ascii_lowercase().contains(part);
    match answer.status.as_u16() {
        202 => Outcome::Sent { provider_id: answer.header("x-message-id").map(str::to_owned) },
        // What sandbox mode answers; elsewhere it is nobody's answer to this request.
        200 if sandbox => Outcome::Sent { provider_id: None },
        400 if errors.is_about("from") => config(Code::SENDER_REFUSED, detail()),
        // What stands in the configuration, and in every mail.
        400 if CONFIGURED.into_iter().any(|field| errors.is_about(field)) => config(Code::CONFIG_REFUSED, detail()),
        400 if errors.is_about_recipient() => {
            Outcome::Permanent { kind: PermanentKind::Address, code: Code::ADDRESS_REFUSED, detail: detail() }
        }
        // Said of the account as well as of a bad key.
        401 if says("credits") => config(Code::QUOTA_EXCEEDED, detail()),
        403 if says("from") || says("sender identity") => config(Code::SENDER_REFUSED, detail()),
        429 => {
            let wait = answer.retry_after(now).or_else(|| reset.map(|reset| reset.since(now)));
            Outcome::Transient { code: Code::RATE_LIMITED, detail: detail(), retry_after: wait }
        }
        _ => answer.by_status(&words, now),
    }
}

#[derive(Serialize)]
struct Request<'a> {
    personalizations: [Personalization<'a>; 1],
    from: Address<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<Address<'a>>,
    subject: &'a str,
    content: Vec<Content<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    categories: Vec<&'a str>,
    headers: BTreeMap<&'static str, String>,
    custom_args: BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mail_settings: Option<MailSettings>,
}

#[derive(Serialize)]
struct Personalization<'a> {
    to: [Address<'a>; 1],
}

#[derive(Serialize)]
struct Address<'a> {
    email: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

impl<'a> Address<'a> {
    fn of(mailbox: &'a Mailbox) -> Self {
        Self { email: mailbox.email.as_ref(), name: mailbox.name.as_deref() }
    }
}

#[derive(Serialize)]
struct Content<'a> {
    r#type: &'static str,
    value: &'a str,
}

#[derive(Serialize)]
struct MailSettings {
    sandbox_mode: Enabled,
}

#[derive(Serialize)]
struct Enabled {
    enable: bool,
}

/// What a refusal says, as far as it says anything.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Errors {
    errors: Vec<ErrorItem>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorItem {
    message: Option<String>,
    /// May be absent, `null`, or the word "null".
    field: Option<String>,
}

impl Errors {
    fn words(&self) -> String {
        self.errors.iter().filter_map(|item| item.message.as_deref()).collect::<Vec<_>>().join("; ")
    }

    fn fields(&self) -> impl Iterator<Item = &str> {
        self.errors.iter().filter_map(|item| item.field.as_deref())
    }

    fn is_about(&self, field: &str) -> bool {
        self.fields().any(|found| found.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '['])))
    }

    /// All of it: an address is given up only when nothing else is wrong.
    fn is_about_recipient(&self) -> bool {
        !self.errors.is_empty()
            && self
                .errors
                .iter()
                .all(|item| item.field.as_deref().is_some_and(|field| field.starts_with("personalizations.") && field.contains(".to")))
    }
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_768_473_000_000);

    fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> Answer {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap()));
        Answer { status: StatusCode::from_u16(status).unwrap(), headers: headers.collect(), body: body.as_bytes().to_vec(), is_whole: true }
    }

    #[track_caller]
    fn check(status: u16, body: &str, expected: &str) {
        let answer = answer(status, &[("x-message-id", "m1")], body);
        let told = match classify(&answer, false, rate_reset(&answer, NOW), NOW) {
            Outcome::Sent { provider_id } => format!("sent {}", provider_id.unwrap_or_default()),
            Outcome::Permanent { kind, code, .. } => format!("{kind:?} {code}"),
            other => format!("{} {}", other.as_str(), other.code().unwrap()),
        };
        assert_eq!(told, expected, "{status} {body}");
    }

    fn error(message: &str, field: &str) -> String {
        format!(r#"{{"errors":[{{"message":"{message}","field":{field},"help":null}}],"id":"x"}}"#)
    }

    #[test]
    fn every_published_answer_has_one_meaning() {
        check(202, "", "sent m1");
        check(200, "{}", "unknown unexpected_answer");
        check(400, &error("Does not contain a valid address.", "\"personalizations.0.to.0.email\""), "Address address_refused");
        check(400, &error("The from email does not contain a valid address.", "\"from.email\""), "Config sender_refused");
        for field in ["reply_to", "reply_to.email", "categories", "categories.0", "categories[0]", "mail_settings.sandbox_mode.enable"] {
            check(400, &error("Invalid value.", &format!("\"{field}\"")), "Config config_refused");
        }
        check(400, &error("Invalid value.", "\"reply_to_list\""), "Payload payload_refused");
        check(400, &error("The subject is required.", "\"subject\""), "Payload payload_refused");
        check(400, &error("Bad Request", "null"), "Payload payload_refused");
        check(400, &error("Bad Request", "\"null\""), "Payload payload_refused");
        check(400, "", "Payload payload_refused");
        check(400, "<html>", "Payload payload_refused");
        check(401, &error("The provided authorization grant is invalid", "null"), "Config authentication_failed");
        check(401, &error("Maximum credits exceeded", "null"), "Config quota_exceeded");
        check(403, &error("The from address does not match a verified Sender Identity.", "\"from\""), "Config sender_refused");
        check(403, &error("access forbidden", "null"), "Config authentication_failed");
        check(404, "", "Config config_refused");
        check(405, "", "Config config_refused");
        check(406, "", "Config config_refused");
        check(413, "", "Payload too_large");
        check(429, "", "transient rate_limited");
        check(500, r#"{"errors":[{"message":"oops"}]}"#, "unknown provider_unavailable");
        check(502, "<html><h1>Bad Gateway</h1></html>", "unknown provider_unavailable");
        check(503, "", "transient provider_unavailable");
        check(504, "", "unknown provider_unavailable");
        check(302, "", "Config config_refused");
    }

    #[test]
    fn rate_headers_are_used_when_they_are_there() {
        let reset = (NOW.as_millis() / 1000 + 30).to_string();
        let limited = answer(429, &[("x-ratelimit-reset", &reset)], "");
        let Outcome::Transient { retry_after, .. } = classify(&limited, false, rate_reset(&limited, NOW), NOW) else { panic!() };
        assert_eq!(retry_after, Some(Duration::from_secs(30)));
        let last = answer(202, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", &reset)], "");
        assert_eq!(rate_reset(&last, NOW), Some(NOW.saturating_add(Duration::from_secs(30))));
        assert_eq!(rate_reset(&answer(202, &[("x-ratelimit-remaining", "5"), ("x-ratelimit-reset", &reset)], ""), NOW), None);
        assert_eq!(rate_reset(&answer(429, &[], ""), NOW), None);
        assert_eq!(rate_reset(&answer(429, &[("x-ratelimit-reset", "soon")], ""), NOW), None);
        assert_eq!(rate_reset(&answer(429, &[("x-ratelimit-reset", "9999999999999999")], ""), NOW).unwrap().since(NOW), RESET_LIMIT);
    }
}
