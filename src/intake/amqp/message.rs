//! A message to jobs: what it is encoded in, what its properties say, and the document inside. Every reason to reject one. Pure.

use std::{borrow::Cow, io::Read as _};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use flate2::read::MultiGzDecoder;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;

use crate::{
    accept::NotAccepted,
    amqp::header,
    config::IntakeConfig,
    intake::decode::{Decoded, DecodedBody, MissingId, Refused, decode_document, parse},
    model::{JobId, Priority, Problem, Timestamp, trace_parent},
};

/// A `CloudEvent` beside the job (binary mode) has these before its attributes' names. The first is the AMQP binding's; the second is for
/// clients whose headers take no colon.
const CLOUD_EVENT_PREFIXES: [&str; 2] = ["cloudEvents:", "cloudEvents_"];

/// Why a message is rejected, and everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poison {
    /// A short word, fit for a metric label.
    pub reason: &'static str,
    pub problems: Vec<Problem>,
}

impl Poison {
    pub fn new(reason: &'static str, path: &str, problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { reason, problems: vec![Problem::new(path, problem, hint)] }
    }
}

/// The jobs in a message that arrived at `now`.
pub fn read(body: &[u8], properties: &BasicProperties, limits: &IntakeConfig, now: Timestamp) -> Result<Vec<Decoded>, Poison> {
    let form = form(properties)?;
    let body = decompressed(body, properties, limits)?;
    let headers = properties.headers().as_ref();
    let mut decoded = match form {
        Form::Job => {
            let id = match property_id(properties)? {
                Some(id) => Some(id),
                None => cloud_event(headers, "id").map(|id| parse_id(&id, "headers.cloudEvents:id")).transpose()?,
            };
            let document = parse(&body, limits).map_err(poison)?;
            decode_document(document, "$", body.len(), limits, missing_id(id.as_ref())).map_err(poison)?
        }
        Form::CloudEvent => structured(&body, properties, limits)?,
    };
    let traceparent = text(headers, "traceparent").or_else(|| cloud_event(headers, "traceparent"));
    complete(&mut decoded, properties, traceparent.as_deref(), now);
    Ok(decoded.jobs)
}

/// What stands in the body.
enum Form {
    Job,
    /// In structured mode: the job is its `data`.
    CloudEvent,
}

fn form(properties: &BasicProperties) -> Result<Form, Poison> {
    let Some(content_type) = properties.content_type() else { return Ok(Form::Job) };
    let refused = |problem: String| {
        let hint = "send application/json, or application/cloudevents+json with the job as `data`; in UTF-8";
        Poison::new("unsupported_content_type", "content_type", problem, hint)
    };
    let mut parts = content_type.as_str().split(';').map(str::trim);
    let form = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
        "" | "application/json" => Form::Job,
        "application/cloudevents+json" => Form::CloudEvent,
        other => return Err(refused(format!("`{}` is not taken", crate::model::cut(other, 80)))),
    };
    let is_utf8 = |charset: &str| matches!(charset.trim_matches('"').to_ascii_lowercase().as_str(), "utf-8" | "utf8" | "us-ascii");
    match parts.find_map(|part| part.split_once('=').filter(|(name, _)| name.eq_ignore_ascii_case("charset"))) {
        Some((_, charset)) if !is_utf8(charset) => Err(refused(format!("charset `{}` is not taken", crate::model::cut(charset, 80)))),
        _ => Ok(form),
    }
}

/// The body as the producer meant it, no larger than a request may be.
fn decompressed<'b>(body: &'b [u8], properties: &BasicProperties, limits: &IntakeConfig) -> Result<Cow<'b, [u8]>, Poison> {
    let limit = limits.request_limit.as_u64();
    let too_large = || {
        let hint = format!("at most {} (intake.request_limit); send it in parts", limits.request_limit);
        Poison::new("too_large", "$", "the message is too large", hint)
    };
    let encoding = properties.content_encoding().as_ref().map(|encoding| encoding.as_str().trim().to_ascii_lowercase());
    let body = match encoding.as_deref() {
        // Kombu and Celery put the charset here.
        None | Some("" | "identity" | "utf-8") => Cow::Borrowed(body),
        Some("gzip" | "x-gzip") => {
            let mut plain = Vec::new();
            let read = MultiGzDecoder::new(body).take(limit.saturating_add(1)).read_to_end(&mut plain);
            read.map_err(|error| {
                Poison::new("malformed", "$", format!("not gzip: {error}"), "compress the body, or leave out content_encoding")
            })?;
            Cow::Owned(plain)
        }
        Some(other) => {
            let problem = format!("`{}` is not taken", crate::model::cut(other, 80));
            return Err(Poison::new("unsupported_content_encoding", "content_encoding", problem, "send gzip, or no content_encoding"));
        }
    };
    if body.len() as u64 > limit { Err(too_large()) } else { Ok(body) }
}

fn structured(body: &[u8], properties: &BasicProperties, limits: &IntakeConfig) -> Result<DecodedBody, Poison> {
    let Value::Object(mut event) = parse(body, limits).map_err(poison)? else {
        let hint = "write {\"specversion\": \"1.0\", \"id\": …, \"source\": …, \"type\": …, \"data\": {the job}}";
        return Err(Poison::new("malformed", "$", "not a CloudEvent", hint));
    };
    let id = match (property_id(properties)?, event.get("id")) {
        (Some(id), _) => Some(id),
        (None, Some(Value::String(id))) => Some(parse_id(id, "$.id")?),
        (None, _) => None,
    };
    let traceparent = event.get("traceparent").and_then(Value::as_str).map(str::to_owned);
    let missing_id = missing_id(id.as_ref());
    let mut decoded = match (event.remove("data"), event.remove("data_base64")) {
        (Some(document), _) => decode_document(document, "$.data", body.len(), limits, missing_id),
        (None, Some(Value::String(encoded))) => {
            let bad = |error| Poison::new("malformed", "$.data_base64", format!("not base64: {error}"), "put the job into `data`");
            let inner = BASE64_STANDARD.decode(encoded).map_err(bad)?;
            decode_document(parse(&inner, limits).map_err(poison)?, "$.data_base64", inner.len(), limits, missing_id)
        }
        _ => return Err(Poison::new("malformed", "$.data", "the CloudEvent has no data", "put the job into `data`")),
    }
    .map_err(poison)?;
    for job in &mut decoded.jobs {
        job.traceparent.clone_from(&traceparent);
    }
    Ok(decoded)
}

/// What the properties say where the jobs say nothing.
fn complete(decoded: &mut DecodedBody, properties: &BasicProperties, traceparent: Option<&str>, now: Timestamp) {
    let priority = properties.priority().and_then(priority);
    let expires_at = properties.expiration().as_ref().and_then(|expiration| {
        let published = properties.timestamp().and_then(|seconds| i64::try_from(seconds).ok()?.checked_mul(1000));
        let from = published.map_or(now, Timestamp::from_millis);
        Some(from.saturating_add(std::time::Duration::from_millis(expiration.as_str().trim().parse().ok()?)))
    });
    for decoded in &mut decoded.jobs {
        decoded.job.priority = decoded.job.priority.or(priority);
        decoded.job.expires_at = decoded.job.expires_at.or(expires_at);
        let given = traceparent.map(str::to_owned).or_else(|| decoded.traceparent.take());
        decoded.traceparent = given.filter(|given| trace_parent::is_valid(given));
    }
}

/// AMQP's 0 to 255 as ours. 0 is what many clients send when nobody chose.
const fn priority(given: u8) -> Option<Priority> {
    match given {
        0 => None,
        1..=3 => Some(Priority::Low),
        4..=6 => Some(Priority::Normal),
        7.. => Some(Priority::High),
    }
}

fn missing_id(id: Option<&JobId>) -> MissingId<'_> {
    id.map_or(MissingId::Refuse, MissingId::Given)
}

fn property_id(properties: &BasicProperties) -> Result<Option<JobId>, Poison> {
    let id = properties.message_id().as_ref().map(lapin::types::ShortString::as_str);
    id.filter(|id| !id.is_empty()).map(|id| parse_id(id, "message_id")).transpose()
}

fn parse_id(id: &str, path: &str) -> Result<JobId, Poison> {
    id.parse().map_err(|reason: String| {
        let (problem, hint) = reason.split_once("; hint: ").unwrap_or((&reason, ""));
        Poison::new("invalid", path, problem, hint)
    })
}

/// A text header, whatever kind of text the client made of it.
fn text(headers: Option<&FieldTable>, name: &str) -> Option<String> {
    match headers?.inner().get(name)? {
        AMQPValue::LongString(text) => String::from_utf8(text.as_bytes().to_vec()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
        _ => None,
    }
}

/// An attribute of the `CloudEvent` that the headers carry (binary mode).
fn cloud_event(headers: Option<&FieldTable>, attribute: &str) -> Option<String> {
    CLOUD_EVENT_PREFIXES.iter().find_map(|prefix| {
        text(headers, &format!("{prefix}specversion"))?;
        text(headers, &format!("{prefix}{attribute}"))
    })
}

fn poison(refused: Refused) -> Poison {
    match refused {
        Refused::TooLarge { what, limit, key } => {
            let hint = format!("at most {} ({key})", bytesize::ByteSize(limit));
            Poison::new("too_large", "$", format!("{what} is too large"), hint)
        }
        Refused::Malformed(problem) => Poison { reason: "malformed", problems: vec![problem] },
        Refused::MissingId(problems) => Poison { reason: "missing_id", problems },
        Refused::Invalid(problems) => Poison { reason: "invalid", problems },
    }
}

/// Why jobs that were offered can never be taken; `None` when trying again later may help.
pub fn never_taken(refused: &NotAccepted) -> Option<Poison> {
    match refused {
        NotAccepted::Invalid(problems) => Some(Poison { reason: "invalid", problems: problems.clone() }),
        NotAccepted::Conflict(problems) => Some(Poison { reason: "id_conflict", problems: problems.clone() }),
        NotAccepted::Store(_) | NotAccepted::Stopping => None,
    }
}

/// How often the broker has delivered this message before, in vain.
pub fn delivery_count(properties: &BasicProperties) -> u64 {
    let headers = properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get(header::DELIVERY_COUNT)) {
        Some(AMQPValue::LongLongInt(count)) => u64::try_from(*count).unwrap_or(0),
        Some(AMQPValue::LongInt(count)) => u64::try_from(*count).unwrap_or(0),
        Some(AMQPValue::LongUInt(count)) => u64::from(*count),
        Some(AMQPValue::ShortInt(count)) => u64::try_from(*count).unwrap_or(0),
        Some(AMQPValue::ShortUInt(count)) => u64::from(*count),
        Some(AMQPValue::ShortShortInt(count)) => u64::try_from(*count).unwrap_or(0),
        Some(AMQPValue::ShortShortUInt(count)) => u64::from(*count),
        _ => 0,
    }
}
