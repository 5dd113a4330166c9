//! What providers call back with: names, contents and signatures. Sending them is [`super::webhook`]'s.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{keys::twilio_signature, script::Provider};
use crate::model::nearest_hint;

/// Events of SendGrid's webhook.
const SENDGRID_EVENTS: [&str; 12] = [
    "processed",
    "dropped",
    "delivered",
    "deferred",
    "bounce",
    "blocked",
    "open",
    "click",
    "spamreport",
    "unsubscribe",
    "group_unsubscribe",
    "group_resubscribe",
];
/// Statuses of Twilio's messages that come after acceptance.
const TWILIO_STATUSES: [&str; 9] = ["accepted", "scheduled", "queued", "sending", "sent", "delivered", "undelivered", "failed", "read"];
/// What becomes of most messages.
const SENDGRID_USUAL: [&str; 2] = ["processed", "delivered"];
const TWILIO_USUAL: [&str; 2] = ["sent", "delivered"];

/// `delivered`, or with what goes with it: `undelivered:30005` (Twilio's `ErrorCode`), `dropped:Bounced Address` (SendGrid's `reason`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CallbackName(String);

impl CallbackName {
    /// What becomes of a message when the script says nothing.
    pub(super) fn usual(provider: Provider) -> Vec<Self> {
        let names: &[&str] = match provider {
            Provider::Sendgrid => &SENDGRID_USUAL,
            Provider::Twilio => &TWILIO_USUAL,
            Provider::Fcm | Provider::Token => &[],
        };
        names.iter().map(|name| Self((*name).to_owned())).collect()
    }

    /// Is it one of this provider's? If not, why and what to write.
    pub(super) fn check(&self, provider: Provider) -> Result<(), (String, String)> {
        let (name, detail) = self.parts();
        let known: &[&str] = match provider {
            Provider::Sendgrid => &SENDGRID_EVENTS,
            Provider::Twilio => &TWILIO_STATUSES,
            Provider::Fcm | Provider::Token => {
                return Err((format!("{} calls nobody back", provider.as_str()), "leave it out".to_owned()));
            }
        };
        if !known.contains(&name) {
            return Err((format!("not a known value: `{name}`"), nearest_hint(name, known)));
        }
        if provider == Provider::Twilio && detail.is_some_and(|code| code.parse::<u32>().is_err()) {
            return Err(("what follows `:` is no error code".to_owned(), "write it like \"undelivered:30005\"".to_owned()));
        }
        Ok(())
    }

    fn parts(&self) -> (&str, Option<&str>) {
        match self.0.split_once(':') {
            Some((name, detail)) => (name, Some(detail)),
            None => (&self.0, None),
        }
    }
}

/// Whom to tell what becomes of an accepted message.
#[derive(Clone, Debug)]
pub(super) enum Subject {
    Mails(Vec<Mail>),
    Sms(Sms),
}

/// One recipient of a mail.
#[derive(Clone, Debug)]
pub(super) struct Mail {
    pub email: String,
    pub message_id: String,
    pub custom_args: Map<String, Value>,
}

#[derive(Clone, Debug)]
pub(super) struct Sms {
    pub callback_url: String,
    pub account_sid: String,
    pub sid: String,
    pub from: String,
    pub to: String,
}

impl Mail {
    /// The event as SendGrid writes it, custom arguments beside its own members.
    pub fn event(&self, name: &CallbackName, unix_seconds: i64) -> Value {
        let (name, detail) = name.parts();
        // `blocked` is a bounce of its own type.
        let event = if name == "blocked" { "bounce" } else { name };
        let mut members = self.custom_args.clone();
        let mut set = |key: &str, value: Value| members.insert(key.to_owned(), value);
        set("email", json!(self.email));
        set("event", json!(event));
        set("sg_event_id", json!(Uuid::now_v7().simple().to_string()));
        set("sg_message_id", json!(format!("{}.recvd-mock-0.0", self.message_id)));
        set("smtp-id", json!(format!("<{}@mock.invalid>", self.message_id)));
        set("timestamp", json!(unix_seconds));
        match name {
            "bounce" | "blocked" => {
                set("type", json!(name));
                set("status", json!(if name == "bounce" { "5.1.1" } else { "4.7.1" }));
                set("reason", json!(detail.unwrap_or("550 5.1.1 The email account that you tried to reach does not exist")));
            }
            "dropped" => {
                set("reason", json!(detail.unwrap_or("Bounced Address")));
            }
            "deferred" => {
                set("response", json!(detail.unwrap_or("450 4.2.1 try again later")));
                set("attempt", json!("1"));
            }
            "delivered" => {
                set("response", json!("250 OK"));
            }
            "click" => {
                set("url", json!(detail.unwrap_or("https://www.example.com/")));
            }
            "open" => {
                set("sg_machine_open", json!(false));
            }
            _ => {}
        }
        Value::Object(members)
    }
}

/// Events as one POST carries them. CRLF stands between them and at the end, and is signed with the rest.
pub(super) fn mail_body(events: &[Value]) -> String {
    let lines: Vec<String> = events.iter().map(Value::to_string).collect();
    format!("[{}]\r\n", lines.join(",\r\n"))
}

impl Sms {
    /// The form of one callback, and its signature.
    pub fn callback(&self, name: &CallbackName, auth_token: &str) -> (String, String) {
        let (status, code) = name.parts();
        let mut fields = BTreeMap::from([
            ("AccountSid", self.account_sid.as_str()),
            ("ApiVersion", "2010-04-01"),
            ("From", self.from.as_str()),
            ("MessageSid", self.sid.as_str()),
            ("MessageStatus", status),
            ("SmsSid", self.sid.as_str()),
            ("SmsStatus", status),
            ("To", self.to.as_str()),
        ]);
        if let Some(code) = code {
            fields.insert("ErrorCode", code);
        }
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(&fields).finish();
        let pairs: Vec<(&str, &str)> = fields.into_iter().collect();
        (form, twilio_signature(auth_token, &self.callback_url, &pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(provider: Provider, name: &str, expected: Option<&str>) {
        let told = CallbackName(name.to_owned()).check(provider).err().map(|(problem, hint)| format!("{problem} ({hint})"));
        assert_eq!(told.as_deref(), expected);
    }

    #[test]
    fn callbacks_are_the_providers_own() {
        check(Provider::Sendgrid, "delivered", None);
        check(Provider::Sendgrid, "dropped:Bounced Address", None);
        check(Provider::Sendgrid, "deliverd", Some("not a known value: `deliverd` (did you mean `delivered`?)"));
        check(Provider::Twilio, "undelivered:30005", None);
        check(Provider::Twilio, "undelivered:gone", Some("what follows `:` is no error code (write it like \"undelivered:30005\")"));
        check(Provider::Fcm, "delivered", Some("fcm calls nobody back (leave it out)"));
        for provider in Provider::ALL {
            assert!(CallbackName::usual(provider).iter().all(|name| name.check(provider).is_ok()));
        }
    }

    #[test]
    fn custom_arguments_do_not_hide_the_events_own_members() {
        let custom_args = json!({ "tarishi_delivery": "d1", "event": "mine" });
        let Value::Object(custom_args) = custom_args else { unreachable!() };
        let mail = Mail { email: "asha@example.com".to_owned(), message_id: "m1".to_owned(), custom_args };
        let event = mail.event(&CallbackName("blocked".to_owned()), 7);
        assert_eq!(event["tarishi_delivery"], "d1");
        assert_eq!((&event["event"], &event["type"], &event["timestamp"]), (&json!("bounce"), &json!("blocked"), &json!(7)));
        assert!(event["sg_message_id"].as_str().unwrap().starts_with("m1."));
        let body = mail_body(&[event.clone(), event]);
        assert!(body.starts_with("[{") && body.contains("},\r\n{") && body.ends_with("}]\r\n"), "{body}");
    }
}
