//! Their rows made ours. Every value may have come as JSON or as PostgreSQL's text.

use chrono::{DateTime, NaiveDateTime};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{
    ImportError, Kind,
    text::{self, Form, Unreadable},
};
use crate::{
    chat::seal::{ChatKeys, KeysRefused},
    model::{ChatBody, ChatRole, ConversationId, MessageId, Notification, Severity, Timestamp, UserId},
    store::{ImportedConversation, ImportedMessage, ImportedNotification, ImportedParticipant, NewParticipant, Staging},
};

/// The replaced system's keys: from key lists, and from a Django `SECRET_KEY` for what it sealed when no key was set. `None` without any.
///
/// # Errors
/// One of them is no Fernet key.
pub fn old_keys(mut keys: Vec<SecretString>, secret_key: Option<&SecretString>) -> Result<Option<ChatKeys>, KeysRefused> {
    keys.extend(secret_key.map(derived));
    if keys.is_empty() { Ok(None) } else { ChatKeys::new(&keys).map(Some) }
}

/// `base64.urlsafe_b64encode(sha256(SECRET_KEY.encode()).digest())`.
fn derived(secret_key: &SecretString) -> SecretString {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE};
    URL_SAFE.encode(Sha256::digest(secret_key.expose_secret().as_bytes())).into()
}

/// Why a row is not taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    Unreadable(Unreadable),
    /// It makes no sense here.
    Row(String),
}

impl Refused {
    pub fn told(&self) -> &str {
        match self {
            Self::Unreadable(why) => why.as_str(),
            Self::Row(why) => why,
        }
    }
}

fn refused(why: impl Into<String>) -> Refused {
    Refused::Row(why.into())
}

/// As text, whatever it is.
pub(super) fn text(row: &Map<String, Value>, name: &str) -> Option<String> {
    match row.get(name)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

pub(super) fn whole(row: &Map<String, Value>, name: &str) -> Result<Option<i64>, Refused> {
    let Some(text) = text(row, name).filter(|text| !text.is_empty()) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| refused(format!("its `{name}` is no whole number")))
}

fn truth(row: &Map<String, Value>, name: &str) -> Option<bool> {
    let text = text(row, name)?;
    Some(matches!(text.to_ascii_lowercase().as_str(), "true" | "t" | "1" | "yes"))
}

fn moment(row: &Map<String, Value>, name: &str) -> Result<Option<Timestamp>, Refused> {
    let Some(text) = text(row, name).filter(|text| !text.is_empty()) else { return Ok(None) };
    parse_moment(&text).map(Some).ok_or_else(|| refused(format!("its `{name}` is no moment")))
}

/// RFC 3339 of JSON, and PostgreSQL's ISO style. Without a time zone it is UTC.
fn parse_moment(text: &str) -> Option<Timestamp> {
    let with_zone = DateTime::parse_from_rfc3339(text).or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z"));
    let millis = with_zone.map(|moment| moment.timestamp_millis()).ok().or_else(|| {
        let naive = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"];
        naive.iter().find_map(|form| Some(NaiveDateTime::parse_from_str(text, form).ok()?.and_utc().timestamp_millis()))
    });
    millis.map(Timestamp::from_millis)
}

fn user(row: &Map<String, Value>, name: &str) -> Result<Option<UserId>, Refused> {
    let Some(text) = text(row, name) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| refused(format!("its `{name}` is no user id")))
}

/// A number that came as text is one again.
fn id_value(row: &Map<String, Value>, name: &str) -> Option<Value> {
    let text = text(row, name).filter(|text| !text.is_empty())?;
    let number = text.parse::<i64>().ok().filter(|number| number.to_string() == text);
    Some(number.map_or(Value::String(text), Value::from))
}

fn created_at(row: &Map<String, Value>) -> Result<Timestamp, Refused> {
    moment(row, "created_at")?.ok_or_else(|| refused("it does not say when it was made"))
}

/// A conversation of two.
pub(super) fn conversation(
    id: i64,
    row: &Map<String, Value>,
    staging: &Staging,
) -> Result<Result<ImportedConversation, Refused>, ImportError> {
    let (mut people, mut names) = (Vec::new(), Vec::new());
    for (column, role) in [("user", ChatRole::User), ("agent", ChatRole::Agent)] {
        match user(row, column) {
            Ok(Some(user)) if people.iter().all(|(known, _)| *known != user) => {
                names.push(staging.name(Kind::User.as_number(), user.as_str())?);
                people.push((user, role));
            }
            Ok(_) => {}
            Err(why) => return Ok(Err(why)),
        }
    }
    let property_id = id_value(row, "property");
    let title = match (text(row, "property_title"), text(row, "property")) {
        (Some(title), _) => Some(title),
        (None, Some(property)) => staging.name(Kind::Property.as_number(), &property)?,
        (None, None) => None,
    };
    let made = || {
        if people.is_empty() {
            return Err(refused("nobody takes part in it"));
        }
        let created_at = created_at(row)?;
        let updated_at = moment(row, "updated_at")?.unwrap_or(created_at);
        let hidden_at = (truth(row, "is_active") == Some(false)).then_some(updated_at);
        let participants = people.iter().zip(names).map(|((user_id, role), name)| {
            let participant = NewParticipant { user_id: user_id.clone(), name, role: Some(*role) };
            ImportedParticipant { participant, joined_at: created_at, hidden_at }
        });
        Ok(ImportedConversation {
            id: ConversationId(id),
            created_by: people.first().map(|(user, _)| user.clone()),
            participants: participants.collect(),
            property_id,
            property_title: title,
            metadata: Map::new(),
            created_at,
            updated_at,
        })
    };
    Ok(made())
}

/// A message, sealed anew; and how its text was stored there, `None` for a deleted one.
pub(super) fn message(
    id: i64,
    row: &Map<String, Value>,
    old: Option<&ChatKeys>,
    keys: &ChatKeys,
) -> Result<(ImportedMessage, Option<Form>), Refused> {
    let conversation = whole(row, "conversation")?.ok_or_else(|| refused("it is in no conversation"))?;
    let sender = user(row, "sender")?.ok_or_else(|| refused("nobody sent it"))?;
    let created_at = created_at(row)?;
    let deleted_at = match (truth(row, "is_deleted"), moment(row, "deleted_at")?) {
        (Some(true), at) => Some(at.unwrap_or(created_at)),
        (Some(false), _) => None,
        (None, at) => at,
    };
    let (id, conversation) = (MessageId(id), ConversationId(conversation));
    let (sealed, form) = if deleted_at.is_some() {
        (String::new(), None)
    } else {
        let stored = text(row, "text").unwrap_or_default();
        let (text, form) = text::read(&stored, old).map_err(|(why, _)| Refused::Unreadable(why))?;
        (keys.seal(conversation, id, &ChatBody { text, attachments: Vec::new() }), Some(form))
    };
    let read_at = match (truth(row, "is_read"), moment(row, "read_at")?) {
        (Some(false), _) => None,
        (Some(true), at) => Some(at.unwrap_or(created_at)),
        (None, at) => at,
    };
    let reply_to = whole(row, "reply_to")?.map(MessageId);
    let edited_at = moment(row, "edited_at")?;
    Ok((ImportedMessage { id, conversation, sender, sealed, reply_to, created_at, edited_at, deleted_at, read_at }, form))
}

/// A notification, as an inbox keeps it.
pub(super) fn notification(id: i64, row: &Map<String, Value>) -> Result<ImportedNotification, Refused> {
    let user = user(row, "user")?.ok_or_else(|| refused("it is nobody's"))?;
    let created_at = created_at(row)?;
    let kind = text(row, "type").filter(|kind| !kind.is_empty()).unwrap_or_else(|| "notification".to_owned());
    let severity = serde_json::from_value::<Severity>(Value::String(kind.to_ascii_lowercase())).unwrap_or_default();
    let data = match row.get("data") {
        Some(Value::Object(data)) => data.clone(),
        Some(Value::String(text)) => serde_json::from_str(text).unwrap_or_default(),
        _ => Map::new(),
    };
    let notification = Notification {
        kind,
        title: text(row, "title").unwrap_or_default(),
        message: text(row, "message").unwrap_or_default(),
        severity,
        related_object_id: id_value(row, "related_object_id"),
        related_object_type: text(row, "related_object_type").filter(|text| !text.is_empty()),
        data,
    };
    let notification = serde_json::to_string(&notification).map_err(|error| refused(error.to_string()))?;
    let read_at = (truth(row, "is_read") == Some(true)).then_some(moment(row, "read_at")?.unwrap_or(created_at));
    Ok(ImportedNotification { id, user, notification, created_at, read_at })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check_moment(text: &str, expected: Option<&str>) {
        assert_eq!(parse_moment(text).map(|moment| moment.to_string()).as_deref(), expected, "{text}");
    }

    #[test]
    fn moments_are_read_as_both_write_them() {
        check_moment("2024-01-15T10:30:00.123Z", Some("2024-01-15T10:30:00.123Z"));
        check_moment("2024-01-15T13:30:00+03:00", Some("2024-01-15T10:30:00Z"));
        check_moment("2024-01-15 10:30:00.123456+00", Some("2024-01-15T10:30:00.123Z"));
        check_moment("2024-01-15 13:30:00+03", Some("2024-01-15T10:30:00Z"));
        check_moment("2024-01-15 16:00:00+05:30", Some("2024-01-15T10:30:00Z"));
        check_moment("2024-01-15T10:30:00", Some("2024-01-15T10:30:00Z"));
        check_moment("2024-01-15 10:30:00.5", Some("2024-01-15T10:30:00.500Z"));
        check_moment("yesterday", None);
    }

    fn row(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    /// The same as JSON and as text of COPY.
    fn both() -> [Map<String, Value>; 2] {
        let json = json!({ "conversation": 7, "sender": 42, "text": "Habari", "is_read": true, "read_at": null, "reply_to": 122,
            "is_deleted": false, "created_at": "2024-01-15T10:30:00Z" });
        let text = json!({ "conversation": "7", "sender": "42", "text": "Habari", "is_read": "t", "read_at": null, "reply_to": "122",
            "is_deleted": "f", "created_at": "2024-01-15 10:30:00+00" });
        [row(json), row(text)]
    }

    #[test]
    fn messages_are_sealed_anew() {
        let keys = ChatKeys::new(&[ChatKeys::new_key()]).unwrap();
        for mut row in both() {
            let (made, form) = message(123, &row, None, &keys).unwrap();
            assert_eq!(keys.open(made.conversation, made.id, &made.sealed).unwrap().text, "Habari");
            assert_eq!((made.conversation, made.sender.as_str(), made.reply_to), (ConversationId(7), "42", Some(MessageId(122))));
            assert_eq!((made.read_at, made.deleted_at, form), (Some(made.created_at), None, Some(Form::Plain)));
            row.insert("is_deleted".to_owned(), "true".into());
            let (gone, form) = message(123, &row, None, &keys).unwrap();
            assert_eq!((gone.sealed.as_str(), gone.deleted_at, form), ("", Some(gone.created_at), None));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let keys = ChatKeys::new(&[ChatKeys::new_key()]).unwrap();
        for (column, value, told) in [
            ("sender", Value::Null, "nobody sent it"),
            ("conversation", Value::Null, "it is in no conversation"),
            ("conversation", json!("abc"), "its `conversation` is no whole number"),
            ("created_at", json!("soon"), "its `created_at` is no moment"),
        ] {
            let [mut row, _] = both();
            row.insert(column.to_owned(), value);
            assert_eq!(message(123, &row, None, &keys).unwrap_err().told(), told);
        }
    }

    #[test]
    fn a_closed_conversation_is_out_of_sight() {
        let staging = Staging::new().unwrap();
        staging.put_name(Kind::User.as_number(), "42", "asha").unwrap();
        staging.put_name(Kind::Property.as_number(), "15", "Flat in Mikocheni").unwrap();
        let of = |row: Value| conversation(7, &self::row(row), &staging).unwrap();
        let made = of(json!({ "user": 42, "agent": "7", "property": "15", "is_active": "f", "created_at": "2024-01-15T10:30:00Z",
            "updated_at": "2024-01-16T10:30:00Z" }))
        .unwrap();
        assert_eq!((made.property_id, made.property_title.as_deref()), (Some(json!(15)), Some("Flat in Mikocheni")));
        let [asha, agent] = &made.participants[..] else { panic!("{:?}", made.participants) };
        assert_eq!((asha.participant.name.as_deref(), asha.participant.role), (Some("asha"), Some(ChatRole::User)));
        assert_eq!((agent.participant.name.as_deref(), agent.hidden_at), (None, Some(made.updated_at)));
        let alone = of(json!({ "user": 42, "agent": 42, "created_at": "2024-01-15T10:30:00Z" })).unwrap();
        assert_eq!((alone.participants.len(), alone.participants[0].hidden_at), (1, None));
        assert_eq!(of(json!({ "created_at": "2024-01-15T10:30:00Z" })).unwrap_err().told(), "nobody takes part in it");
    }

    #[test]
    fn notifications_keep_their_kind() {
        let made = |kind: &str| {
            let row =
                row(json!({ "user": 42, "title": "Karibu", "message": "m", "type": kind, "is_read": false, "related_object_id": "12",
                "data": "{\"a\": 1}", "created_at": "2024-01-15T10:30:00Z" }));
            let made = notification(5, &row).unwrap();
            (serde_json::from_str::<Notification>(&made.notification).unwrap(), made.read_at)
        };
        let (warning, read_at) = made("warning");
        assert_eq!((warning.severity, warning.kind.as_str(), read_at), (Severity::Warning, "warning", None));
        assert_eq!((warning.related_object_id, &warning.data["a"]), (Some(json!(12)), &json!(1)));
        assert_eq!((made("booking").0.severity, made("").0.kind.as_str()), (Severity::Info, "notification"));
    }

    /// Computed by Python: `base64.urlsafe_b64encode(hashlib.sha256(b"django-insecure-key").digest())`.
    #[test]
    fn the_key_of_a_secret_key_is_pythons() {
        assert_eq!(derived(&"django-insecure-key".into()).expose_secret(), "BxPczFziH5LmuXi4kGZOmDmV72L0v4xunvz_u1F2FKM=");
    }
}
