//! What a part's output has to be before a provider may see it. Whatever is wrong is told without the output's own text.

use std::{borrow::Cow, collections::BTreeMap};

use serde_json::{Map, Value};

use super::error::{Fault, nearest_hint};
use crate::model::{
    Notification, Push, PushTarget, Severity, is_broken, is_invisible,
    segments::{self, Encoding},
};

/// Longest subject, in bytes: a header line's limit (RFC 5322, section 2.1.1).
const SUBJECT_LIMIT: usize = 998;
/// Longest SMS, in characters: what Twilio takes in one request (error 21617).
const SMS_LIMIT: usize = 1600;
/// Keys that FCM keeps for itself in `data` ("HTTP v1", Message), and the prefixes of more.
const FCM_RESERVED: [&str; 2] = ["from", "message_type"];
const FCM_RESERVED_PREFIXES: [&str; 2] = ["gcm", "google"];
/// What a push template may give for one platform alone.
const PLATFORMS: [&str; 3] = ["android", "apns", "webpush"];
const SEVERITIES: [(&str, Severity); 4] =
    [("info", Severity::Info), ("warning", Severity::Warning), ("error", Severity::Error), ("success", Severity::Success)];

/// A mail's subject: one line.
pub(super) fn subject(file: &str, text: &str) -> Result<String, Fault> {
    let subject = not_empty(file, text)?;
    if subject.chars().any(is_broken) {
        return Err(Fault::new(file, "has a line break or another control character", "a subject is one line"));
    }
    if subject.len() > SUBJECT_LIMIT {
        return Err(Fault::new(file, format!("is longer than {SUBJECT_LIMIT} bytes"), "shorten it"));
    }
    Ok(subject)
}

/// An SMS's text. A character that nobody sees would make all of it UCS-2, at more than twice the price: where it is all that stands
/// against the GSM alphabet, it is left out.
pub(super) fn sms(file: &str, text: &str) -> Result<String, Fault> {
    let is_seen = |c: char| c == '\n' || !is_invisible(c);
    let mut text = Cow::Borrowed(text);
    if !text.chars().all(is_seen) {
        let seen: String = text.chars().filter(|c| is_seen(*c)).collect();
        if segments::count(&seen).encoding == Encoding::Gsm7 {
            text = seen.into();
        }
    }
    let text = not_empty(file, &text)?;
    if text.chars().count() > SMS_LIMIT {
        return Err(Fault::new(file, format!("is longer than {SMS_LIMIT} characters"), "shorten it"));
    }
    Ok(text)
}

/// `text` without outer white space, which must leave something.
pub(super) fn not_empty(file: &str, text: &str) -> Result<String, Fault> {
    match text.trim() {
        "" => Err(Fault::new(file, "is empty", "")),
        text => Ok(text.to_owned()),
    }
}

/// Reads what `push.json` rendered to.
pub(super) fn push(file: &str, json: &str, mentions: impl Fn(&str) -> bool, target: PushTarget) -> Result<Push, Fault> {
    let mut members = Members::read(file, json, mentions)?;
    let (title, body) = (members.text("title")?, members.text("body")?);
    let data = members.object("data")?.unwrap_or_default();
    let data = data.into_iter().map(|(key, value)| {
        let fault = |problem, hint| Fault::new(file, format!("{} {problem}", members.named(&format!("data.{key}"), &key)), hint);
        if FCM_RESERVED.contains(&key.as_str()) || FCM_RESERVED_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
            return Err(fault("has a name that FCM keeps for itself", "give it another name"));
        }
        match value {
            Value::String(value) => Ok((key, value)),
            _ => Err(fault("is not a string", "write {{ name | string }}: FCM takes nothing else")),
        }
    });
    let data = data.collect::<Result<BTreeMap<_, _>, _>>()?;
    let mut platform = Map::new();
    for name in PLATFORMS {
        if let Some(block) = members.object(name)? {
            platform.insert(name.to_owned(), Value::Object(block));
        }
    }
    members.end(&["title", "body", "data", "android", "apns", "webpush"])?;
    Ok(Push { target, title, body, data, platform })
}

/// Reads what `live.json` rendered to; `kind` is what it is about when it does not say.
pub(super) fn live(file: &str, json: &str, mentions: impl Fn(&str) -> bool, kind: &str) -> Result<Notification, Fault> {
    let mut members = Members::read(file, json, mentions)?;
    let notification = Notification {
        kind: members.optional_text("kind")?.unwrap_or_else(|| kind.to_owned()),
        title: members.text("title")?,
        message: members.text("message")?,
        severity: match members.optional_text("severity")? {
            None => Severity::default(),
            Some(word) => {
                let severity = SEVERITIES.into_iter().find(|(name, _)| *name == word).map(|(_, severity)| severity);
                severity.ok_or_else(|| Fault::new(file, "`severity` is none of ours", "one of info, warning, error, success"))?
            }
        },
        related_object_id: match members.take("related_object_id") {
            id @ (None | Some(Value::String(_) | Value::Number(_))) => id,
            Some(_) => return Err(Fault::new(file, "`related_object_id` is neither a string nor a number", "")),
        },
        related_object_type: members.optional_text("related_object_type")?,
        data: members.object("data")?.unwrap_or_default(),
    };
    members.end(&["kind", "title", "message", "severity", "related_object_id", "related_object_type", "data"])?;
    Ok(notification)
}

/// The members of a rendered JSON object, taken out one by one; `null` counts as absent.
struct Members<'a, Mentions> {
    file: &'a str,
    left: Map<String, Value>,
    /// Whether the template itself has a word, so that it may be told.
    mentions: Mentions,
}

impl<'a, Mentions: Fn(&str) -> bool> Members<'a, Mentions> {
    fn read(file: &'a str, json: &str, mentions: Mentions) -> Result<Self, Fault> {
        const HINT: &str = "write {{ name }} without quotes around it: in .json it comes out as a JSON value";
        match serde_json::from_str(json) {
            Ok(Value::Object(members)) => Ok(Self { file, left: members, mentions }),
            Ok(_) => Err(Fault::new(file, "does not render to a JSON object", "")),
            // A syntax error's text has a place in the output and no part of it.
            Err(error) => Err(Fault::new(file, format!("does not render to JSON: {error} of the output"), HINT)),
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name).filter(|value| !value.is_null())
    }

    fn text(&mut self, name: &str) -> Result<String, Fault> {
        match self.optional_text(name)? {
            Some(text) if text.trim().is_empty() => Err(Fault::new(self.file, format!("`{name}` is empty"), "")),
            Some(text) => Ok(text),
            None => Err(Fault::new(self.file, format!("`{name}` is missing"), format!("add \"{name}\": \"…\""))),
        }
    }

    fn optional_text(&mut self, name: &str) -> Result<Option<String>, Fault> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Fault::new(self.file, format!("`{name}` is not a string"), "")),
        }
    }

    fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>, Fault> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => Err(Fault::new(self.file, format!("`{name}` is not an object"), "")),
        }
    }

    /// Everything known is taken out: what is left is unknown.
    fn end(self, known: &[&str]) -> Result<(), Fault> {
        let Some((name, _)) = self.left.iter().find(|(name, _)| !known.contains(&name.as_str())) else { return Ok(()) };
        let hint = nearest_hint(name, known);
        Err(Fault::new(self.file, format!("{} is no member known here", self.named(name, name)), hint))
    }

    /// `path` when its last member `name` stands in the template; a name made from data is not told.
    fn named(&self, path: &str, name: &str) -> String {
        if (self.mentions)(name) { format!("`{path}`") } else { "a member whose name comes from the data".to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told<T>(result: Result<T, Fault>) -> String {
        result.err().map(|fault| fault.into_problem().to_string()).unwrap_or_default()
    }

    #[track_caller]
    fn check_push(json: &str, expected: &str) {
        let target = PushTarget::Topic("t".to_owned());
        assert_eq!(told(push("t/push.json", json, |name| name != "Asha", target)), expected, "{json}");
    }

    #[track_caller]
    fn check_live(json: &str, expected: &str) {
        assert_eq!(told(live("t/live.json", json, |_| true, "t")), expected, "{json}");
    }

    #[test]
    fn a_push_has_fcms_shape() {
        check_push(r#"{"title": "a", "body": "b", "data": {"url": "c"}, "apns": {}, "android": null}"#, "");
        check_push(r#"{"title": "a"}"#, "t/push.json: `body` is missing (hint: add \"body\": \"…\")");
        check_push(r#"{"title": "a", "body": " "}"#, "t/push.json: `body` is empty");
        check_push(r#"{"title": 1, "body": "b"}"#, "t/push.json: `title` is not a string");
        check_push(
            r#"{"title": "a", "body": "b", "data": {"n": 1}}"#,
            "t/push.json: `data.n` is not a string (hint: write {{ name | string }}: FCM takes nothing else)",
        );
        check_push(r#"{"title": "a", "body": "b", "apns": []}"#, "t/push.json: `apns` is not an object");
        check_push(
            r#"{"title": "a", "body": "b", "titel": "c"}"#,
            "t/push.json: `titel` is no member known here (hint: did you mean `title`?)",
        );
        for reserved in ["from", "message_type", "gcm.x", "google.x", "gcm"] {
            check_push(
                &format!(r#"{{"title": "a", "body": "b", "data": {{"{reserved}": "1"}}}}"#),
                &format!("t/push.json: `data.{reserved}` has a name that FCM keeps for itself (hint: give it another name)"),
            );
        }
    }

    #[test]
    fn nothing_of_the_data_is_told() {
        check_push(
            r#"{"title": "a", "body": "b", "data": {"Asha": 1}}"#,
            "t/push.json: a member whose name comes from the data is not a string (hint: write {{ name | string }}: FCM takes nothing else)",
        );
        check_push(
            r#"{"title": "Asha" "x"}"#,
            "t/push.json: does not render to JSON: expected `,` or `}` at line 1 column 18 of the output \
             (hint: write {{ name }} without quotes around it: in .json it comes out as a JSON value)",
        );
        check_live(
            r#"{"title": "a", "message": "b", "severity": "Asha"}"#,
            "t/live.json: `severity` is none of ours (hint: one of info, warning, error, success)",
        );
    }

    #[test]
    fn a_live_notification_has_the_inboxs_shape() {
        check_live(r#"{"title": "a", "message": "b"}"#, "");
        check_live(r#"{"title": "a", "message": "b", "related_object_id": 7, "severity": "error", "data": {"n": [1]}}"#, "");
        check_live("[]", "t/live.json: does not render to a JSON object");
        check_live(
            r#"{"title": "a", "message": "b", "related_object_id": []}"#,
            "t/live.json: `related_object_id` is neither a string nor a number",
        );
        check_live(
            r#"{"title": "a", "message": "b", "body": "c"}"#,
            "t/live.json: `body` is no member known here \
             (hint: known here: kind, title, message, severity, related_object_id, related_object_type, data)",
        );
    }

    #[test]
    fn a_subject_is_one_line() {
        assert_eq!(subject("s", " Habari \n"), Ok("Habari".to_owned()));
        assert_eq!(told(subject("s", " \n")), "s: is empty");
        for bad in ["a\r\nBcc: x@y.z", "a\nb", "a\0b", "a\u{7f}b", "a\u{85}b", "a\u{2028}b", "a\u{2029}b", "a\u{202e}b"] {
            assert_eq!(told(subject("s", bad)), "s: has a line break or another control character (hint: a subject is one line)");
        }
        assert_eq!(told(subject("s", &"a".repeat(999))), "s: is longer than 998 bytes (hint: shorten it)");
    }

    #[test]
    fn what_nobody_sees_does_not_make_an_sms_dearer() {
        assert_eq!(sms("s", "Habari\u{200d} Juma\u{fe0f}\nkaribu").as_deref(), Ok("Habari Juma\nkaribu"));
        assert_eq!(sms("s", "Habari 👩\u{200d}👧").as_deref(), Ok("Habari 👩\u{200d}👧"));
    }

    #[test]
    fn an_sms_fits_in_one_request() {
        assert_eq!(sms("s", &"é".repeat(1600)).map(|text| text.chars().count()), Ok(1600));
        assert_eq!(told(sms("s", &"é".repeat(1601))), "s: is longer than 1600 characters (hint: shorten it)");
        assert_eq!(told(sms("s", "\n")), "s: is empty");
        assert_eq!(told(sms("s", "\u{200d}")), "s: is empty");
    }
}
