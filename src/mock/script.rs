//! The script: which requests are answered otherwise than they deserve, and how.
//!
//! Reading and choosing only; what an answer looks like on the wire is [`super::answer`]'s.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, IntoDeserializer as _, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::Value;

use super::callback::CallbackName;
use crate::model::{Problem, decode_all};

/// Rules are tried one after the other for every request.
const RULES_LIMIT: usize = 1_000;

/// Whom the mock plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    Sendgrid,
    Twilio,
    Fcm,
    /// Google's OAuth endpoint, where FCM's access tokens come from.
    Token,
}

impl Provider {
    pub const ALL: [Self; 4] = [Self::Sendgrid, Self::Twilio, Self::Fcm, Self::Token];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sendgrid => "sendgrid",
            Self::Twilio => "twilio",
            Self::Fcm => "fcm",
            Self::Token => "token",
        }
    }
}

/// One rule. The first that fits a request, and is not used up, answers it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub provider: Provider,
    /// The recipient: exactly this email address, phone number, push token or, for `token`, service account. With `*` at its end, all that
    /// begin like it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// For questions about the credentials instead of messages: `GET /v3/scopes`, `GET …/Accounts/{sid}.json`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub probe: bool,
    /// After so many requests the rule is used up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// It takes this share of the requests that fit, by chance; the others go on to the next rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    #[serde(default)]
    pub answer: Answer,
    /// Time from the request to the answer.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "humantime_serde")]
    pub delay: Option<Duration>,
    /// What becomes of the message afterwards, when it is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhooks: Option<Vec<CallbackName>>,
    /// Time before each callback.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "humantime_serde")]
    pub webhook_delay: Option<Duration>,
}

/// How a request is answered: by name, or by status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Named(Fault),
    Status(StatusAnswer),
}

impl Default for Answer {
    fn default() -> Self {
        Self::Named(Fault::Ok)
    }
}

/// An answer with this status, in the provider's own form unless it says otherwise. A 2xx accepts the message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusAnswer {
    #[serde(deserialize_with = "status")]
    pub status: u16,
    /// As it goes into `Retry-After`: seconds, an HTTP date, or nonsense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<String>,
    /// SendGrid's way of saying the same: `X-RateLimit-Reset`, so many seconds from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit_reset: Option<u32>,
    /// Twilio's number (20429), or FCM's word (`QUOTA_EXCEEDED`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<ErrorCode>,
    /// The whole body, instead of one in the provider's form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// A page such as load balancers make.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub html: bool,
}

/// A number or a word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ErrorCode {
    Number(u32),
    Word(String),
}

/// The answers that have names. `docs/mock.md` says what each is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    Ok,
    ResetBefore,
    ResetAfter,
    ErrorAfter,
    Hang,
    Drip,
    Cut,
    Huge,
    Html,
    Nonsense,
    Empty,
    Redirect,
    Unregistered,
    SenderMismatch,
    ThirdPartyAuth,
    Quota,
    Unauthenticated,
    Unavailable,
    OptedOut,
    InvalidTo,
    QueueFull,
    Auth,
    Credits,
}

impl Fault {
    /// Whose answer it is, when it is not everybody's.
    const fn provider(self) -> Option<Provider> {
        match self {
            Self::Unregistered | Self::SenderMismatch | Self::ThirdPartyAuth => Some(Provider::Fcm),
            Self::OptedOut | Self::InvalidTo | Self::QueueFull => Some(Provider::Twilio),
            Self::Credits => Some(Provider::Sendgrid),
            _ => None,
        }
    }
}

impl Answer {
    /// As it is written in what is kept: `reset_after`, `status_429`. Nothing when it is no fault.
    pub fn name(&self) -> Option<String> {
        match self {
            Self::Named(Fault::Ok) => None,
            Self::Named(fault) => serde_json::to_value(fault).ok()?.as_str().map(str::to_owned),
            Self::Status(answer) => Some(format!("status_{}", answer.status)),
        }
    }
}

/// Rules that have been checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Script(Vec<Rule>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rule: Vec<Rule>,
}

impl Script {
    /// Reads a TOML file of `[[rule]]` tables; `name` is the file's, for problems.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn from_toml(text: &str, name: &str) -> Result<Self, Vec<Problem>> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or(text);
            let (line, column) = (before.matches('\n').count() + 1, before.rsplit('\n').next().unwrap_or_default().chars().count() + 1);
            let problem = format!("not TOML: {}", error.message().replace('\n', "; "));
            vec![Problem::new(format!("{name}:{line}:{column}"), problem, "see https://toml.io")]
        })?;
        let document = serde_json::to_value(table).map_err(|error| vec![Problem::new(name, error.to_string(), "")])?;
        let file: File = decode_all(document, "")?;
        Self::checked(file.rule, "rule")
    }

    /// Reads a JSON array of rules.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn from_json(document: Value) -> Result<Self, Vec<Problem>> {
        Self::checked(decode_all(document, "$")?, "$")
    }

    pub fn rules(&self) -> &[Rule] {
        &self.0
    }

    /// What types cannot say of rules.
    fn checked(rules: Vec<Rule>, root: &str) -> Result<Self, Vec<Problem>> {
        let mut problems: Vec<Problem> = rules.iter().enumerate().flat_map(|(at, rule)| problems(rule, &format!("{root}[{at}]"))).collect();
        if rules.len() > RULES_LIMIT {
            problems.push(Problem::new(
                root,
                format!("{} rules", rules.len()),
                format!("at most {RULES_LIMIT}; `to` takes a prefix, as in \"+2557*\""),
            ));
        }
        if problems.is_empty() { Ok(Self(rules)) } else { Err(problems) }
    }
}

fn problems(rule: &Rule, place: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut tell = |key: &str, problem: String, hint: String| problems.push(Problem::new(format!("{place}.{key}"), problem, hint));
    let own = rule.provider;
    if let (Answer::Named(fault), Some(name)) = (&rule.answer, rule.answer.name())
        && let Some(theirs) = fault.provider()
        && theirs != own
    {
        tell("answer", format!("`{name}` is no answer of {}", own.as_str()), format!("it is one of {}", theirs.as_str()));
    }
    if rule.share.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
        tell("share", "not a share".to_owned(), "write a number from 0 to 1, such as 0.1".to_owned());
    }
    if rule.times == Some(0) {
        tell("times", "a rule for no request".to_owned(), "write 1 or more, or leave it out for all".to_owned());
    }
    if rule.to.as_deref().is_some_and(|to| to.trim_end_matches('*').contains('*')) {
        tell("to", "`*` in the middle".to_owned(), "it stands for the rest, at the end: \"+2557*\"".to_owned());
    }
    if rule.probe && (rule.to.is_some() || matches!(own, Provider::Fcm | Provider::Token)) {
        tell("probe", "such a request does not exist".to_owned(), "sendgrid and twilio have them, and they name no recipient".to_owned());
    }
    for (at, name) in rule.webhooks.iter().flatten().enumerate() {
        if let Err((problem, hint)) = name.check(own) {
            tell(&format!("webhooks[{at}]"), problem, hint);
        }
    }
    problems
}

/// A script at work: rules are used up.
#[derive(Debug, Default)]
pub(super) struct Playing(RwLock<Arc<Vec<(Rule, AtomicU64)>>>);

impl Playing {
    pub fn replace(&self, script: Script) {
        let rules = script.0.into_iter().map(|rule| (rule, AtomicU64::new(0))).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    /// The rules as they were given.
    pub fn script(&self) -> Script {
        Script(self.current().iter().map(|(rule, _)| rule.clone()).collect())
    }

    /// The rule for a request to these recipients, which is one of its times.
    pub fn next(&self, provider: Provider, is_probe: bool, to: &[String]) -> Option<Rule> {
        let rules = self.current();
        let taken = rules.iter().find(|(rule, used)| {
            rule.provider == provider
                && rule.probe == is_probe
                && rule.to.as_deref().is_none_or(|pattern| to.iter().any(|one| fits(pattern, one)))
                && rule.share.is_none_or(|share| fastrand::f64() < share)
                && used.fetch_update(Relaxed, Relaxed, |used| rule.times.is_none_or(|times| used < times).then_some(used + 1)).is_ok()
        });
        taken.map(|(rule, _)| rule.clone())
    }

    fn current(&self) -> Arc<Vec<(Rule, AtomicU64)>> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn fits(pattern: &str, to: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => to.starts_with(prefix),
        None => to == pattern,
    }
}

fn status<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let status = u16::deserialize(deserializer)?;
    if (200..=599).contains(&status) { Ok(status) } else { Err(de::Error::custom("not a status of an answer; hint: write 200 to 599")) }
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Named(fault) => fault.serialize(serializer),
            Self::Status(answer) => answer.serialize(serializer),
        }
    }
}

/// By hand, because an untagged enum would not say which member is wrong.
impl<'de> Deserialize<'de> for Answer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Answer;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a name such as \"reset_after\", or a table such as { status = 429 }")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Answer, E> {
                Fault::deserialize(name.into_deserializer()).map(Answer::Named)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Answer, A::Error> {
                StatusAnswer::deserialize(MapAccessDeserializer::new(map)).map(Answer::Status)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(word) => Ok(Self::Word(word)),
            Value::Number(number) if number.as_u64().is_some_and(|number| u32::try_from(number).is_ok()) => {
                Ok(Self::Number(u32::try_from(number.as_u64().unwrap_or_default()).unwrap_or_default()))
            }
            _ => Err(de::Error::custom("not an error code; hint: write a number such as 20429, or a word such as \"QUOTA_EXCEEDED\"")),
        }
    }
}
