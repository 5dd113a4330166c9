//! What a client may say on the notifications socket, and how it is told that something was no good.

use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{position::Since, protocol::object};
use crate::{
    model::Topic,
    socket::{AuthError, Frame},
    store::ItemChange,
};

/// A frame from a client.
#[derive(Debug)]
pub(super) enum Command {
    Ping,
    Change {
        change: ItemChange,
        id: i64,
    },
    ReadAll,
    Subscribe {
        topic: Topic,
        since: Option<Since>,
    },
    Unsubscribe(Topic),
    Token(SecretString),
    /// Of a type known to other versions.
    Ignored,
}

/// Why a frame was not obeyed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    code: &'static str,
    message: String,
    /// What it was about.
    about: Option<(&'static str, Value)>,
}

#[derive(Deserialize)]
struct Subscription {
    topic: Topic,
    #[serde(default)]
    since: Option<u32>,
    #[serde(default)]
    epoch: Option<String>,
}

impl Command {
    pub(super) fn read(text: &str) -> Result<Self, Refused> {
        let frame = object(text).ok_or_else(Refused::bad_json)?;
        match frame.get("type").and_then(Value::as_str) {
            Some("ping") => Ok(Self::Ping),
            Some("seen") => Self::change(ItemChange::Seen, &frame),
            Some("read") => Self::change(ItemChange::Read, &frame),
            Some("archive") => Self::change(ItemChange::Archive, &frame),
            Some("read_all") => Ok(Self::ReadAll),
            Some("subscribe") => {
                let Subscription { topic, since, epoch } = subscription(frame)?;
                let since = since.map(|seq| Since { seq: seq.into(), epoch: epoch.map(Into::into) });
                Ok(Self::Subscribe { topic, since })
            }
            Some("unsubscribe") => Ok(Self::Unsubscribe(subscription(frame)?.topic)),
            Some("token") => match frame.get("token").and_then(Value::as_str) {
                Some(token) => Ok(Self::Token(token.to_owned().into())),
                None => Err(Refused::invalid("`token` is missing; hint: {\"type\":\"token\",\"token\":\"…\"}".to_owned())),
            },
            _ => Ok(Self::Ignored),
        }
    }

    fn change(change: ItemChange, frame: &Map<String, Value>) -> Result<Self, Refused> {
        match frame.get("id").and_then(Value::as_i64) {
            Some(id) => Ok(Self::Change { change, id }),
            None => Err(Refused::invalid(format!(
                "`id` is missing or no number; hint: {{\"type\":\"{}\",\"id\":123}} with a notification's id",
                change.as_str()
            ))),
        }
    }
}

fn subscription(frame: Map<String, Value>) -> Result<Subscription, Refused> {
    serde_json::from_value(Value::Object(frame))
        .map_err(|error| Refused::invalid(format!("{error}; hint: {{\"type\":\"subscribe\",\"topic\":\"city.dar\",\"since\":17}}")))
}

impl Refused {
    fn bad_json() -> Self {
        Self { code: "bad_json", message: "Invalid JSON: send one object per frame.".to_owned(), about: None }
    }

    fn invalid(message: String) -> Self {
        Self { code: "invalid", message, about: None }
    }

    pub(super) fn item(id: i64) -> Self {
        Self { code: "not_found", message: format!("No notification {id} of yours."), about: Some(("id", id.into())) }
    }

    pub(super) fn topic(topic: &Topic) -> Self {
        Self { code: "forbidden", message: format!("You may not follow {topic}."), about: Some(("topic", topic.as_str().into())) }
    }

    pub(super) fn too_many_topics(topic: &Topic) -> Self {
        let message = "Too many topics on this connection; unsubscribe from one first.".to_owned();
        Self { code: "too_many_topics", message, about: Some(("topic", topic.as_str().into())) }
    }

    pub(super) fn everyone() -> Self {
        Self { code: "forbidden", message: "Everyone follows *.".to_owned(), about: Some(("topic", "*".into())) }
    }

    pub(super) fn token(error: AuthError) -> Self {
        Self { code: "bad_token", message: format!("The new token is no good: {error}. The old one stays."), about: None }
    }

    pub(super) fn frame(self) -> Frame {
        let mut frame = json!({ "type": "error", "message": self.message, "code": self.code });
        if let Some((name, value)) = self.about {
            frame[name] = value;
        }
        Frame::new(frame.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let read = match Command::read(text) {
            Ok(command) => format!("{command:?}"),
            Err(refused) => refused.code.to_owned(),
        };
        assert!(read.starts_with(expected), "{text}: {read}");
    }

    #[test]
    fn frames_are_commands_or_told_why_not() {
        check(r#"{"type":"ping"}"#, "Ping");
        check(r#"{"type":"read","id":7}"#, "Change { change: Read, id: 7 }");
        check(r#"{"type":"seen","id":7}"#, "Change { change: Seen, id: 7 }");
        check(r#"{"type":"archive","id":"7"}"#, "invalid");
        check(r#"{"type":"read"}"#, "invalid");
        check(r#"{"type":"read_all"}"#, "ReadAll");
        check(r#"{"type":"subscribe","topic":"city.dar","since":7,"epoch":"e"}"#, "Subscribe { topic: Topic(\"city.dar\"), since: Some");
        check(r#"{"type":"subscribe","topic":"city.dar"}"#, "Subscribe { topic: Topic(\"city.dar\"), since: None");
        check(r#"{"type":"subscribe","topic":"city dar"}"#, "invalid");
        check(r#"{"type":"subscribe","topic":"city.dar","since":-1}"#, "invalid");
        check(r#"{"type":"subscribe"}"#, "invalid");
        check(r#"{"type":"unsubscribe","topic":"city.dar"}"#, "Unsubscribe");
        check(r#"{"type":"token","token":"x"}"#, "Token");
        check(r#"{"type":"token"}"#, "invalid");
        check(r#"{"type":"dance"}"#, "Ignored");
        check(r#"{"type":7}"#, "Ignored");
        check("{}", "Ignored");
        check("{", "bad_json");
        check("", "bad_json");
        check(r#"["ping"]"#, "bad_json");
    }
}
