//! Twilio's status callbacks: what became of one SMS, as form fields.
//!
//! The signature (HMAC-SHA1 with the account's token) is over the URL as Twilio called it and every field. It carries no timestamp: what is
//! repeated is recognised by the message and its status. Which way a request is checked follows from its content type alone, and each
//! way binds all of the body: a sender cannot choose one that leaves something out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aws_lc_rs::hmac;
use axum::{
    body::Body,
    extract::{RawQuery, State},
    http::{HeaderMap, HeaderName, StatusCode},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{Refused, WebhookState, body, media_type, only};
use crate::{
    event::{Event, emit},
    model::{Channel, Code, DeliveryId, SuppressionReason, Timestamp},
    store::{Callback, Report},
};

pub(super) const NAME: &str = "twilio";
pub(super) const PATH: &str = "/webhooks/twilio";
/// What whoever is refused for their signature is told.
pub(super) const CHECK: &str = "not signed as it has to be; hint: compare provider.twilio.auth_token here with the account's, and \
                                public.base_url with the address that Twilio calls";

const SIGNATURE: HeaderName = HeaderName::from_static("x-twilio-signature");
/// A status callback has a dozen short fields.
const BODY_LIMIT: usize = 64 << 10;
/// The query parameter with the delivery's id, which we put into the URL that Twilio is given.
const DELIVERY: &str = "delivery";
/// The query parameter with the hash of a JSON body.
const BODY_HASH: &str = "bodySHA256";
/// Longest id that is looked at, in bytes; Twilio's have 34.
const ID_LIMIT: usize = 64;

type Fields = BTreeMap<String, BTreeSet<String>>;

/// Checks signatures with the account's token.
pub(super) struct Verifier {
    /// The URL Twilio calls, up to its query.
    url: String,
    key: hmac::Key,
}

impl Verifier {
    pub fn new(base_url: &str, token: &SecretString) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, token.expose_secret().as_bytes());
        Self { url: format!("{base_url}{PATH}"), key }
    }

    /// The URL with this query, exactly as it was received.
    fn url(&self, query: Option<&str>) -> String {
        query.map_or_else(|| self.url.clone(), |query| format!("{}?{query}", self.url))
    }

    /// Whether `signature` is over this URL and these fields. Whether the port is written out is a matter of taste, so both are tried.
    fn is_good(&self, url: &str, fields: &Fields, signature: &str) -> bool {
        let Ok(signature) = BASE64_STANDARD.decode(signature) else { return false };
        let fields: String = fields.iter().flat_map(|(name, values)| values.iter().flat_map(move |value| [name.as_str(), value])).collect();
        let tries = [with_port(url), without_port(url)];
        tries.into_iter().fold(false, |good, url| good | hmac::verify(&self.key, format!("{url}{fields}").as_bytes(), &signature).is_ok())
    }
}

/// Where in `url` the port is with its colon, empty at the end of the host when there is none.
fn port_in(url: &str) -> std::ops::Range<usize> {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    let host = url[start..end].rfind('@').map_or(start, |at| start + at + 1);
    // The colons of an IPv6 address are within brackets.
    let name = url[host..end].rfind(']').map_or(host, |at| host + at);
    url[name..end].find(':').map_or(end..end, |at| name + at..end)
}

/// With the port it has, else with the scheme's own.
fn with_port(url: &str) -> String {
    let port = port_in(url);
    let standard = if url.starts_with("https://") { ":443" } else { ":80" };
    if port.is_empty() { format!("{}{standard}{}", &url[..port.start], &url[port.start..]) } else { url.to_owned() }
}

fn without_port(url: &str) -> String {
    let port = port_in(url);
    format!("{}{}", &url[..port.start], &url[port.end..])
}

/// What is signed beside the URL: all fields of a form. A JSON body is bound by its hash, which is in the URL.
fn signed_fields(media_type: &str, query: Option<&str>, body: &[u8]) -> Result<Fields, Refused> {
    let hash = query.and_then(|query| one_parameter(query, BODY_HASH));
    match (media_type, hash) {
        ("application/x-www-form-urlencoded", None) => Ok(form(body)),
        ("application/json", Some(hash)) => {
            let found = format!("{:x}", Sha256::digest(body));
            let is_same = bool::from(found.as_bytes().ct_eq(hash.to_ascii_lowercase().as_bytes()));
            if is_same { Ok(Fields::new()) } else { Err(Refused::Signature("the body is not the one whose hash is in the URL")) }
        }
        ("application/x-www-form-urlencoded", Some(_)) => Err(Refused::Signature("a form is not signed by a hash in the URL")),
        ("application/json", None) => Err(Refused::Signature("the URL has no hash of the JSON body")),
        _ => Err(Refused::ContentType),
    }
}

fn form(body: &[u8]) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in form_urlencoded::parse(body) {
        fields.entry(name.into_owned()).or_default().insert(value.into_owned());
    }
    fields
}

/// The members of a JSON object that are text or a number.
fn members(body: &[u8]) -> Result<Fields, Refused> {
    let document: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(body).map_err(|_| Refused::Malformed("not a JSON object"))?;
    let text = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    Ok(document.into_iter().filter_map(|(name, value)| Some((name, BTreeSet::from([text(value)?])))).collect())
}

/// The value of a query parameter that is there once.
fn one_parameter(query: &str, name: &str) -> Option<String> {
    let mut values = form_urlencoded::parse(query.as_bytes()).filter(|(given, _)| given == name).map(|(_, value)| value.into_owned());
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

pub(super) async fn receive(State(state): State<Arc<WebhookState>>, RawQuery(query): RawQuery, headers: HeaderMap, body: Body) -> Response {
    match take(&state, query.as_deref(), &headers, body).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refused) => state.refuse(NAME, refused),
    }
}

async fn take(state: &WebhookState, query: Option<&str>, headers: &HeaderMap, body: Body) -> Result<(), Refused> {
    let verifier = state.twilio.as_ref().ok_or(Refused::NoKey)?;
    let signature = only(headers, &SIGNATURE)?;
    let media_type = media_type(headers);
    if !matches!(media_type.as_str(), "application/x-www-form-urlencoded" | "application/json") {
        return Err(Refused::ContentType);
    }
    let body = body::read(body, BODY_LIMIT, &state.twilio_room).await?;
    let signed = signed_fields(&media_type, query, &body)?;
    if !verifier.is_good(&verifier.url(query), &signed, signature) {
        return Err(Refused::Signature("the signature is not over this request; is public.base_url what Twilio calls?"));
    }
    let fields = if media_type == "application/json" { members(&body)? } else { signed };
    let delivery = query.and_then(|query| one_parameter(query, DELIVERY)).and_then(|id| id.parse().ok());
    let status = field(&fields, "MessageStatus").or_else(|| field(&fields, "SmsStatus")).unwrap_or_default();
    emit(&Event::CallbackReceived { provider: NAME, kind: kind(status) });
    let Some(callback) = callback(&fields, status, delivery, Timestamp::now())? else { return Ok(()) };
    let asks_for_fewer = matches!(callback.report, Report::Failed { code, .. } if code.asks_for_fewer());
    let applied = state.apply(NAME, vec![callback]).await?;
    if asks_for_fewer && applied.repeated == 0 {
        state.slow_down_twilio(Timestamp::now());
    }
    Ok(())
}

fn field<'f>(fields: &'f Fields, name: &str) -> Option<&'f str> {
    fields.get(name)?.first().map(String::as_str)
}

/// Statuses we know by name; others are counted and passed over.
const KINDS: [&str; 13] = [
    "accepted",
    "scheduled",
    "queued",
    "sending",
    "sent",
    "delivered",
    "undelivered",
    "failed",
    "read",
    "canceled",
    "partially_delivered",
    "receiving",
    "received",
];

fn kind(status: &str) -> &'static str {
    KINDS.into_iter().find(|kind| *kind == status).unwrap_or("unknown")
}

/// What a callback means to us; none when it means nothing.
fn callback(fields: &Fields, status: &str, delivery: Option<DeliveryId>, now: Timestamp) -> Result<Option<Callback>, Refused> {
    let report = match status {
        // Each of them says that Twilio has it: a resend that waits is not needed.
        "accepted" | "queued" | "sending" | "sent" => Report::Taken,
        "delivered" | "read" => Report::Delivered,
        "undelivered" | "failed" => failed(field(fields, "ErrorCode").unwrap_or_default()),
        _ => return Ok(None),
    };
    let Some(sid) = field(fields, "MessageSid").filter(|sid| (1..=ID_LIMIT).contains(&sid.len())) else {
        return Err(Refused::Malformed("no MessageSid"));
    };
    Ok(Some(Callback {
        provider: NAME,
        channel: Channel::Sms,
        key: format!("{sid} {status}"),
        delivery,
        provider_id: Some(sid.to_owned()),
        address: field(fields, "To").map(str::to_owned),
        at: now,
        report,
    }))
}

/// Twilio's error codes (<https://www.twilio.com/docs/api/errors>). They get split as time goes by, so an unknown one says no more than
/// that it was not delivered.
fn failed(error_code: &str) -> Report {
    let (code, suppress) = match error_code {
        "30001" => (Code::CARRIER_QUEUE_FULL, None),
        "30022" => (Code::RATE_LIMITED, None),
        "30003" => (Code::HANDSET_UNREACHABLE, None),
        "30005" | "30006" => (Code::ADDRESS_UNKNOWN, Some(SuppressionReason::Bounced)),
        "30007" => (Code::CONTENT_REFUSED, None),
        "21610" => (Code::OPTED_OUT, Some(SuppressionReason::OptedOut)),
        _ => (Code::UNDELIVERED, None),
    };
    Report::Failed { code, suppress, is_bounce: false }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn signatures_are_judged_as_by_the_official_clients() {
        let vectors: Value = serde_json::from_str(include_str!("../../tests/fixtures/providers/signature-vectors.json")).unwrap();
        let vectors = &vectors["twilio_x_twilio_signature"];
        let verifier = Verifier::new("", &vectors["auth_token"].as_str().unwrap().into());
        let vectors = vectors["vectors"].as_array().unwrap();
        assert_eq!(vectors.len(), 18);
        for vector in vectors {
            let url = vector["url"].as_str().unwrap();
            let query = url.split_once('?').map(|(_, query)| query);
            let fields = if let Some(body) = vector["body"].as_str() {
                signed_fields("application/json", query, body.as_bytes())
            } else {
                let mut form = form_urlencoded::Serializer::new(String::new());
                for pair in vector["params"].as_array().unwrap() {
                    form.append_pair(pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
                }
                signed_fields("application/x-www-form-urlencoded", query, form.finish().as_bytes())
            };
            let found = verifier.is_good(url, &fields.unwrap(), vector["signature"].as_str().unwrap_or_default());
            // What one of the official clients refuses may be refused.
            assert_eq!(found, vector["valid"] == true, "{}", vector["name"]);
        }
    }

    #[test]
    fn nobody_chooses_what_is_left_out() {
        const FORM: &str = "application/x-www-form-urlencoded";
        const JSON: &str = "application/json";
        let hash = format!("bodySHA256={:x}", Sha256::digest(b"{}"));
        let check = |media_type: &str, query: &str, body: &str, is_good: bool| {
            assert_eq!(signed_fields(media_type, Some(query), body.as_bytes()).is_ok(), is_good, "{media_type} {query} {body}");
        };
        check(JSON, &hash, "{}", true);
        check(JSON, &hash.to_uppercase().replace("BODYSHA256", "bodySHA256"), "{}", true);
        check(JSON, &hash, "{ }", false);
        check(JSON, "delivery=1", "{}", false);
        check(JSON, &format!("{hash}&{hash}"), "{}", false);
        check(JSON, "bodySHA256=", "{}", false);
        check(FORM, &hash, "MessageStatus=delivered", false);
        check(FORM, "delivery=1", "MessageStatus=delivered", true);
        check("text/plain", "", "", false);
        check("", "", "", false);
    }

    #[test]
    fn ports_are_found_where_they_are() {
        for (url, with, without) in [
            ("https://a.example/x?y=1:2", "https://a.example:443/x?y=1:2", "https://a.example/x?y=1:2"),
            ("http://a.example", "http://a.example:80", "http://a.example"),
            ("https://a.example:8443?x", "https://a.example:8443?x", "https://a.example?x"),
            ("https://u:p@a.example/x", "https://u:p@a.example:443/x", "https://u:p@a.example/x"),
            ("https://[::1]/x", "https://[::1]:443/x", "https://[::1]/x"),
            ("https://[::1]:8443/x", "https://[::1]:8443/x", "https://[::1]/x"),
        ] {
            assert_eq!((with_port(url).as_str(), without_port(url).as_str()), (with, without));
        }
    }

    #[test]
    fn statuses_are_classified() {
        #[track_caller]
        #[expect(clippy::needless_pass_by_value, reason = "the cases read better")]
        fn check(body: &str, expected: Option<Report>) {
            let fields = form(body.as_bytes());
            let found = callback(&fields, field(&fields, "MessageStatus").unwrap_or_default(), None, Timestamp::now());
            assert_eq!(found.unwrap().map(|callback| callback.report), expected, "{body}");
        }
        let failed = |code, suppress| Some(Report::Failed { code, suppress, is_bounce: false });
        check("MessageSid=SM1&MessageStatus=queued", Some(Report::Taken));
        check("MessageSid=SM1&MessageStatus=sent", Some(Report::Taken));
        check("MessageSid=SM1&MessageStatus=delivered", Some(Report::Delivered));
        check("MessageSid=SM1&MessageStatus=undelivered&ErrorCode=30003", failed(Code::HANDSET_UNREACHABLE, None));
        check("MessageSid=SM1&MessageStatus=undelivered&ErrorCode=30005", failed(Code::ADDRESS_UNKNOWN, Some(SuppressionReason::Bounced)));
        check("MessageSid=SM1&MessageStatus=undelivered&ErrorCode=30006", failed(Code::ADDRESS_UNKNOWN, Some(SuppressionReason::Bounced)));
        check("MessageSid=SM1&MessageStatus=undelivered&ErrorCode=30007", failed(Code::CONTENT_REFUSED, None));
        check("MessageSid=SM1&MessageStatus=undelivered&ErrorCode=30022", failed(Code::RATE_LIMITED, None));
        check("MessageSid=SM1&MessageStatus=failed&ErrorCode=30001", failed(Code::CARRIER_QUEUE_FULL, None));
        check("MessageSid=SM1&MessageStatus=failed&ErrorCode=21610", failed(Code::OPTED_OUT, Some(SuppressionReason::OptedOut)));
        check("MessageSid=SM1&MessageStatus=failed&ErrorCode=99999", failed(Code::UNDELIVERED, None));
        check("MessageSid=SM1&MessageStatus=failed", failed(Code::UNDELIVERED, None));
        check("MessageSid=SM1&MessageStatus=invented", None);
        check("MessageSid=SM1", None);
        assert_eq!(kind("invented"), "unknown");
        let nameless = form(b"MessageStatus=delivered");
        assert!(callback(&nameless, "delivered", None, Timestamp::now()).is_err());
    }
}
