//! Twilio's Messages: who may ask, which messages are good, and what it answers.
//!
//! Rules are those of the published specification and of the error dictionary (twilio.com/docs/api/errors).

use chrono::Utc;
use reqwest::Url;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    callback::{Sms, Subject},
    exchange::{self, Checked, Received, Refused, Reply, Taken},
    server::Clouds,
    spec::BrokenKind,
};
use crate::model::mask;

/// The query parameter of `StatusCallback` in which `tarishi` names its delivery.
const DELIVERY_PARAMETER: &str = "delivery";
/// Digits of a phone number after `+` (E.164).
const DIGITS: std::ops::RangeInclusive<usize> = 2..=15;

/// `POST /2010-04-01/Accounts/{sid}/Messages.json`.
pub(super) fn send(account: &str, received: &Received, clouds: &Clouds) -> Checked {
    if let Some(refused) = unauthorized(account, received, clouds) {
        return refused;
    }
    if !received.is_of_type("application/x-www-form-urlencoded") {
        return Checked::refused(error(415, 20415, "Unsupported Media Type"), "not application/x-www-form-urlencoded");
    }
    let pairs = received.form();
    let form = clouds.specs.twilio_form(&pairs);
    let to: Vec<String> = form.get("To").and_then(Value::as_str).map(str::to_owned).into_iter().collect();
    let delivery_id = callback_url(&form)
        .and_then(|url| url.query_pairs().find(|(name, _)| name == DELIVERY_PARAMETER).map(|(_, value)| value.into_owned()));
    let form = Value::Object(form);
    let outcome = match check(&form, clouds) {
        Ok(()) => Ok(taken(account, &form)),
        Err((code, message)) => {
            let shown = to.iter().filter(|to| !to.is_empty()).fold(message.clone(), |shown, to| shown.replace(to.as_str(), &mask(to)));
            Err(Refused { reason: format!("{code}: {shown}"), reply: error(400, code, &message) })
        }
    };
    Checked { to, delivery_id, body: json!(pairs), outcome }
}

/// `GET /2010-04-01/Accounts/{sid}/Messages.json`. None is kept to be listed.
pub(super) fn messages(account: &str, received: &Received, clouds: &Clouds) -> Checked {
    unauthorized(account, received, clouds).unwrap_or_else(|| {
        let uri = format!("/2010-04-01/Accounts/{account}/Messages.json?{}", received.query);
        let body = json!({ "messages": [], "page": 0, "page_size": 50, "start": 0, "end": 0, "uri": uri, "next_page_uri": null });
        Checked::probe(exchange::json(200, &body))
    })
}

/// `GET /2010-04-01/Accounts/{sid}.json`. A standard API key is not let see it, as at Twilio: only the account's own token is.
pub(super) fn account(account: &str, received: &Received, clouds: &Clouds) -> Checked {
    if received.basic().is_some_and(|(user, _)| user == clouds.credentials.twilio_api_key) {
        return Checked::refused(bad_credentials(), "a standard API key, which is not let see the account");
    }
    unauthorized(account, received, clouds).unwrap_or_else(|| {
        let body = json!({
            "sid": account,
            "friendly_name": "A mock, which sends nothing",
            "status": "active",
            "type": "Full",
            "uri": format!("/2010-04-01/Accounts/{account}.json"),
        });
        Checked::probe(exchange::json(200, &body))
    })
}

/// An error as Twilio writes it.
pub(super) fn error(status: u16, code: u32, message: &str) -> Reply {
    let more_info = format!("https://www.twilio.com/docs/errors/{code}");
    exchange::json(status, &json!({ "code": code, "message": message, "more_info": more_info, "status": status }))
}

/// The answer to credentials that it does not know.
pub(super) fn bad_credentials() -> Reply {
    let reply = error(401, 20003, "Authenticate");
    exchange::with_header(reply, "www-authenticate", "Basic realm=\"Twilio API\"")
}

fn unauthorized(account: &str, received: &Received, clouds: &Clouds) -> Option<Checked> {
    let known = &clouds.credentials;
    let is_known = received.basic().is_some_and(|(user, password)| {
        (user == known.twilio_api_key && password == known.twilio_api_secret)
            || (user == known.twilio_account_sid && password == known.twilio_auth_token)
    });
    if !is_known {
        return Some(Checked::refused(bad_credentials(), "not the API key and its secret, nor the account and its token"));
    }
    if account != known.twilio_account_sid {
        let message = format!("The requested resource /2010-04-01/Accounts/{account} was not found");
        return Some(Checked::refused(error(404, 20404, &message), "another account"));
    }
    None
}

/// What is wrong with a message, as one of Twilio's codes with its words.
fn check(form: &Value, clouds: &Clouds) -> Result<(), (u32, String)> {
    let text = |name: &str| form.get(name).and_then(Value::as_str);
    if let Some(body) = text("Body")
        && body.trim().is_empty()
        && form.get("MediaUrl").is_none()
        && form.get("ContentSid").is_none()
    {
        return Err((21602, "Message body is required.".to_owned()));
    }
    match text("To") {
        None | Some("") => return Err((21604, "A 'To' phone number is required.".to_owned())),
        Some(to) if !is_phone_number(to) => return Err(invalid_to(to)),
        Some(to) if text("From") == Some(to) => return Err((21266, "'To' and 'From' number cannot be the same".to_owned())),
        Some(_) => {}
    }
    if ["From", "MessagingServiceSid"].iter().all(|name| form.get(*name).is_none()) {
        return Err((21603, "A 'From' phone number is required.".to_owned()));
    }
    if text("From").is_some_and(|from| !is_sender(from)) {
        return Err((21212, "The 'From' number is not a valid phone number, short code, or alphanumeric sender ID.".to_owned()));
    }
    if ["Body", "MediaUrl", "ContentSid"].iter().all(|name| form.get(*name).is_none()) {
        return Err((21602, "Message body is required.".to_owned()));
    }
    if form.get("StatusCallback").is_some() && form.as_object().and_then(callback_url).is_none() {
        return Err((21609, "The 'StatusCallback' URL is not a valid URL.".to_owned()));
    }
    let is_scheduled = form.get("SendAt").is_some() || form.get("ScheduleType").is_some();
    let may_be_scheduled =
        form.get("MessagingServiceSid").is_some() && form.get("SendAt").is_some() && text("ScheduleType") == Some("fixed");
    if is_scheduled && !may_be_scheduled {
        let message = "Scheduling takes MessagingServiceSid, SendAt and ScheduleType=fixed together.";
        return Err((35118, message.to_owned()));
    }
    clouds.specs.twilio.check(form).map_err(|broken| match (broken.field.as_str(), broken.kind) {
        ("Body", BrokenKind::TooLong) => (21617, "The concatenated message body exceeds the 1600 character limit".to_owned()),
        ("MessagingServiceSid", _) => (21701, "The Messaging Service does not exist".to_owned()),
        (field, _) => (20001, format!("Invalid parameter: {field}: {}", broken.message)),
    })
}

/// E.164, and no prefix of another channel: `whatsapp:+1…` is no SMS.
fn is_phone_number(text: &str) -> bool {
    let Some(digits) = text.strip_prefix('+') else { return false };
    DIGITS.contains(&digits.len()) && !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// A number, a short code, or a name of at most 11 characters with a letter in it.
fn is_sender(text: &str) -> bool {
    let is_short_code = (3..=8).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_name = text.len() <= 11
        && text.bytes().any(|byte| byte.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" +-_&".contains(&byte));
    is_phone_number(text) || is_short_code || is_name
}

/// The number stands in it, as in Twilio's own: whoever keeps such answers has to take it out.
pub(super) fn invalid_to(to: &str) -> (u32, String) {
    (21211, format!("The 'To' number {to} is not a valid phone number."))
}

/// `StatusCallback`, when it is a URL that Twilio would call.
fn callback_url(form: &Map<String, Value>) -> Option<Url> {
    let url: Url = form.get("StatusCallback")?.as_str()?.parse().ok()?;
    let is_web = matches!(url.scheme(), "http" | "https");
    (is_web && url.host_str().is_some_and(|host| !host.contains('_'))).then_some(url)
}

/// The message as the API shows it (the specification's `api.v2010.account.message`).
fn taken(account: &str, form: &Value) -> Taken {
    let text = |name: &str| form.get(name).and_then(Value::as_str);
    let media = form.get("MediaUrl").and_then(Value::as_array).map_or(0, Vec::len);
    let sid = format!("{}{}", if media == 0 { "SM" } else { "MM" }, Uuid::now_v7().simple());
    let body = text("Body").unwrap_or_default();
    let uri = format!("/2010-04-01/Accounts/{account}/Messages/{sid}.json");
    // RFC 2822, and not the ISO 8601 of Twilio's newer APIs.
    let now = Utc::now().to_rfc2822();
    let status = match (form.get("SendAt"), form.get("MessagingServiceSid")) {
        (Some(_), _) => "scheduled",
        (None, Some(_)) => "accepted",
        (None, None) => "queued",
    };
    let message = json!({
        "account_sid": account,
        "api_version": "2010-04-01",
        "body": body,
        "date_created": now,
        "date_sent": null,
        "date_updated": now,
        "direction": "outbound-api",
        "error_code": null,
        "error_message": null,
        "from": text("From"),
        "messaging_service_sid": text("MessagingServiceSid"),
        "num_media": media.to_string(),
        "num_segments": segments(body).to_string(),
        "price": null,
        "price_unit": "USD",
        "sid": sid,
        "status": status,
        "subresource_uris": { "media": uri.replace(".json", "/Media.json") },
        "to": text("To"),
        "uri": uri,
    });
    let subject = text("StatusCallback").map(|callback_url| {
        Subject::Sms(Sms {
            callback_url: callback_url.to_owned(),
            account_sid: account.to_owned(),
            sid: sid.clone(),
            from: text("From").unwrap_or_default().to_owned(),
            to: text("To").unwrap_or_default().to_owned(),
        })
    });
    // Whoever else is there at the moment is not counted.
    let reply = exchange::with_header(exchange::json(201, &message), "twilio-concurrent-requests", "1");
    Taken { reply, is_counted: true, subject }
}

/// How many SMS a text is: 160 characters of GSM-7 (3GPP TS 23.038) or 70 units of UCS-2, and less of each when it is more than one.
fn segments(text: &str) -> usize {
    const GSM: &str = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./:;<=>?¡ÄÖÑÜ§¿äöñüà";
    const GSM_TWICE: &str = "^{}\\[~]|€\u{c}";
    let cost = |character: char| match character {
        _ if character.is_ascii_alphanumeric() || GSM.contains(character) => Some(1),
        _ if GSM_TWICE.contains(character) => Some(2),
        _ => None,
    };
    let (length, alone, each) = match text.chars().map(cost).sum::<Option<usize>>() {
        Some(septets) => (septets, 160, 153),
        None => (text.encode_utf16().count(), 70, 67),
    };
    if length <= alone { 1 } else { length.div_ceil(each) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_segments(text: &str, expected: usize) {
        assert_eq!(segments(text), expected, "{} characters", text.chars().count());
    }

    #[test]
    fn texts_are_counted_in_segments() {
        check_segments("", 1);
        check_segments(&"x".repeat(160), 1);
        check_segments(&"x".repeat(161), 2);
        check_segments(&"€".repeat(80), 1);
        check_segments(&"€".repeat(81), 2);
        check_segments(&"ш".repeat(70), 1);
        check_segments(&"ш".repeat(71), 2);
        check_segments(&"😀".repeat(36), 2);
    }

    #[test]
    fn numbers_are_of_phones_alone() {
        for (text, expected) in [
            ("+255712345678", true),
            ("whatsapp:+255712345678", false),
            (" 255712345678", false),
            ("+0255", false),
            ("+2557123456789012", false),
            ("+२५५७१", false),
        ] {
            assert_eq!(is_phone_number(text), expected, "{text}");
        }
        for (text, expected) in [("+15005550006", true), ("15060", true), ("Tarishi", true), ("a name too long", false), ("12", false)] {
            assert_eq!(is_sender(text), expected, "{text}");
        }
    }

    #[test]
    fn callbacks_go_to_real_hosts() {
        let url = |text: &str| callback_url(json!({ "StatusCallback": text }).as_object().unwrap()).is_some();
        assert!(url("http://127.0.0.1:8000/webhooks/twilio?delivery=1"));
        assert!(!url("http://my_host.example/x") && !url("ftp://example.com/") && !url("nowhere"));
    }
}
