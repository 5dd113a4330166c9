//! What the notifications socket says beside notifications, and what it answers.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use uuid::Uuid;

use crate::{model::UserId, socket::Frame};

const PONG: Utf8Bytes = Utf8Bytes::from_static(r#"{"type":"pong"}"#);
const BAD_JSON: Utf8Bytes = Utf8Bytes::from_static(r#"{"type":"error","message":"Invalid JSON: send one object per frame."}"#);

/// The first frame, for clients that asked for more than the replaced system's frames.
pub(super) fn hello_frame(user_id: &UserId, ping_interval: Duration) -> Frame {
    let hello = json!({
        "type": "hello",
        "user_id": user_id.to_wire(),
        "session": Uuid::now_v7(),
        "ping_interval_ms": u64::try_from(ping_interval.as_millis()).unwrap_or(u64::MAX),
    });
    Frame::new(hello.to_string())
}

/// What to say to a frame from the client. Types unknown here are for other versions, and ignored.
pub(super) fn answer(text: &str) -> Option<Frame> {
    let Ok(Value::Object(frame)) = serde_json::from_str(text) else { return Some(Frame::new(BAD_JSON)) };
    match frame.get("type").and_then(Value::as_str) {
        Some("ping") => Some(Frame::new(PONG)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&Utf8Bytes>) {
        assert_eq!(answer(text).map(|frame| frame.text).as_ref(), expected, "{text}");
    }

    #[test]
    fn inbound_frames_are_answered_or_ignored() {
        check(r#"{"type":"ping"}"#, Some(&PONG));
        check(r#"{"type":"dance"}"#, None);
        check(r#"{"type":7}"#, None);
        check("{}", None);
        check("{", Some(&BAD_JSON));
        check("", Some(&BAD_JSON));
        check(r#"["ping"]"#, Some(&BAD_JSON));
    }
}
