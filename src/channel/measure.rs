//! What a message takes on its channel: segments, bytes, and whether a mailbox cuts it off.

use serde::Serialize;

use super::{
    push,
    sms::segments::{self, Encoding},
};
use crate::model::Body;

/// Gmail shows this much of a mail's HTML and hides the rest behind "View entire message" (its help pages name 102 KB).
const CLIP_LIMIT: usize = 102 * 1024;

/// What a message takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Measure {
    Email {
        html_bytes: usize,
        text_bytes: usize,
        /// Whether Gmail cuts it off.
        clips: bool,
    },
    Sms {
        segments: usize,
        encoding: Encoding,
        /// Septets, or UTF-16 units.
        units: usize,
        /// How many fit into each of so many segments.
        units_per_segment: usize,
    },
    Push {
        bytes: usize,
        limit: usize,
    },
    /// Nothing counts there.
    Live {},
}

/// Measures `body`.
pub fn measure(body: &Body) -> Measure {
    match body {
        Body::Email(mail) => {
            let html_bytes = mail.html.as_deref().map_or(0, str::len);
            Measure::Email { html_bytes, text_bytes: mail.text.as_deref().map_or(0, str::len), clips: html_bytes > CLIP_LIMIT }
        }
        Body::Sms(sms) => {
            let counted = segments::count(&sms.text);
            Measure::Sms {
                segments: counted.count,
                encoding: counted.encoding,
                units: counted.units,
                units_per_segment: segments::room(counted.encoding, counted.count),
            }
        }
        Body::Push(message) => {
            let (bytes, limit) = push::size(message);
            Measure::Push { bytes, limit }
        }
        Body::Live(_) => Measure::Live {},
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::{Email, Push, PushTarget, Sms};

    #[track_caller]
    fn check(body: &Body, expected: &Value) {
        assert_eq!(json!(measure(body)), *expected);
    }

    #[test]
    fn each_channel_counts_its_own_way() {
        let to = "+255712345678".parse().expect("valid");
        let expected = json!({ "segments": 2, "encoding": "gsm7", "units": 161, "units_per_segment": 153 });
        check(&Body::Sms(Sms { to, text: "a".repeat(161) }), &expected);
        let data = std::collections::BTreeMap::from([("url".to_owned(), "https://x.example".to_owned())]);
        let push = |target| Push {
            target,
            title: "Habari".to_owned(),
            body: "Juma".to_owned(),
            data: data.clone(),
            platform: serde_json::Map::new(),
        };
        check(&Body::Push(push(PushTarget::Topic("all".to_owned()))), &json!({ "bytes": 39, "limit": 2048 }));
        check(&Body::Push(push(PushTarget::Token("t".parse().expect("valid")))), &json!({ "bytes": 39, "limit": 4096 }));
        let mail = |html: usize| {
            let to = "asha@example.com".parse().expect("valid");
            Body::Email(Email {
                to,
                subject: "s".to_owned(),
                html: Some("a".repeat(html)),
                text: Some("b".to_owned()),
                unsubscribe_url: None,
            })
        };
        check(&mail(104_448), &json!({ "html_bytes": 104_448, "text_bytes": 1, "clips": false }));
        check(&mail(104_449), &json!({ "html_bytes": 104_449, "text_bytes": 1, "clips": true }));
    }
}
