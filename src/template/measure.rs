//! What a message takes on its channel: segments of an SMS, bytes of a push notification, bytes of a mail's HTML.

use serde::Serialize;

use super::Limits;
use crate::model::{
    Body,
    segments::{self, Encoding},
};

/// What one message takes, beside what it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "channel", rename_all = "snake_case")]
pub enum Measure {
    Sms {
        segments: usize,
        encoding: Encoding,
        /// Septets, or UTF-16 units.
        units: usize,
        /// How many fit into each of so many segments.
        units_per_segment: usize,
        /// `templates.sms_segments_limit`.
        limit: usize,
    },
    Push {
        /// As FCM counts: names and values of title, body and data.
        bytes: usize,
        /// `templates.push_size_limit`.
        limit: usize,
    },
    Email {
        html_bytes: usize,
        text_bytes: usize,
        /// Whether mail programs show the beginning only (`templates.email_clip_warning`).
        clips: bool,
    },
    Live,
}

impl Measure {
    pub(super) fn of(body: &Body, limits: &Limits) -> Self {
        match body {
            Body::Sms(sms) => {
                let counted = segments::count(&sms.text);
                let (segments, encoding, units) = (counted.count, counted.encoding, counted.units);
                let units_per_segment = segments::room(encoding, segments);
                Self::Sms { segments, encoding, units, units_per_segment, limit: limits.sms_segments }
            }
            Body::Push(push) => Self::Push { bytes: push.size(), limit: limits.push_bytes },
            Body::Email(email) => {
                let html_bytes = email.html.as_ref().map_or(0, String::len);
                let text_bytes = email.text.as_ref().map_or(0, String::len);
                Self::Email { html_bytes, text_bytes, clips: html_bytes > limits.email_clip_bytes }
            }
            Body::Live(_) => Self::Live,
        }
    }

    /// Why it may not be sent, and what to do.
    pub(super) fn excess(self) -> Option<(String, &'static str)> {
        match self {
            Self::Sms { segments, limit, .. } if segments > limit => Some((
                format!("takes {segments} segments; templates.sms_segments_limit is {limit}"),
                "shorten it, or cut what comes from the data: {{ text[:100] }}",
            )),
            Self::Push { bytes, limit } if bytes > limit => {
                Some((format!("takes {bytes} bytes; templates.push_size_limit is {limit}"), "shorten it: what opens can load the rest"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Email, Push, PushTarget, Sms};

    const LIMITS: Limits = Limits { fuel: 1, output: 1, sms_segments: 2, push_bytes: 20, email_clip_bytes: 10 };

    #[track_caller]
    fn check(body: &Body, expected: &str, excess: Option<&str>) {
        let measure = Measure::of(body, &LIMITS);
        assert_eq!(serde_json::to_string(&measure).expect("a tree"), expected);
        assert_eq!(measure.excess().map(|(problem, _)| problem).as_deref(), excess);
    }

    #[test]
    fn each_channel_has_its_measure() {
        let sms = |text: String| Body::Sms(Sms { to: "+255712345678".parse().expect("valid"), text });
        check(
            &sms("a".repeat(306)),
            r#"{"channel":"sms","segments":2,"encoding":"gsm7","units":306,"units_per_segment":153,"limit":2}"#,
            None,
        );
        check(
            &sms("ш".repeat(135)),
            r#"{"channel":"sms","segments":3,"encoding":"ucs2","units":135,"units_per_segment":67,"limit":2}"#,
            Some("takes 3 segments; templates.sms_segments_limit is 2"),
        );
        let push = |body: &str| {
            let (title, body) = ("abc".to_owned(), body.to_owned());
            Body::Push(Push { target: PushTarget::Topic("t".to_owned()), title, body, data: [].into(), platform: serde_json::Map::new() })
        };
        check(&push("12345678"), r#"{"channel":"push","bytes":20,"limit":20}"#, None);
        let over = Some("takes 21 bytes; templates.push_size_limit is 20");
        check(&push("123456789"), r#"{"channel":"push","bytes":21,"limit":20}"#, over);
        let mail = |html: &str| {
            let (to, subject) = ("asha@example.com".parse().expect("valid"), "s".to_owned());
            Body::Email(Email { to, subject, html: Some(html.to_owned()), text: None, unsubscribe_url: None })
        };
        check(&mail("0123456789"), r#"{"channel":"email","html_bytes":10,"text_bytes":0,"clips":false}"#, None);
        check(&mail("0123456789a"), r#"{"channel":"email","html_bytes":11,"text_bytes":0,"clips":true}"#, None);
    }
}
