//! One request to notify people: what a producer sends (DESIGN.md section 4).

use std::{borrow::Cow, collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{
    Channel, ConversationId, EmailAddress, Locale, MessageId, PhoneNumber, Priority, PushToken, TimeZone, Timestamp, Topic, UserId,
    address::parsed_text,
};

/// Longest job id, collapse key and template name taken, in bytes.
const NAME_LIMIT: usize = 255;

/// One request: a template or content, data, one or many recipients, the channels to use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Version of this format.
    #[serde(default)]
    pub v: Version,
    /// Chosen by the producer, and what makes the job idempotent: the same id and body is answered as before and sends nothing twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<JobId>,
    /// Name of the template to render. Either this or `content`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateName>,
    /// Literal content, for a job without a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// Who to tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<Recipient>,
    /// A live stream to publish to, instead of `to`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<Topic>,
    /// An FCM topic to push to, by name, without `/topics/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-zA-Z0-9_.~%-]{1,900}$"))]
    pub push_topic: Option<String>,
    /// An FCM condition over topics to push to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push_condition: Option<String>,
    /// Channels to use; all that the template has parts for when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<Channel>,
    /// What the template is rendered with.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub data: Map<String, Value>,
    /// How soon its deliveries are taken when a lane is busy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Not before this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_at: Option<Timestamp>,
    /// No attempt after this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// A newer delivery with the same key, user and channel takes the place of an older one still queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub collapse_key: Option<String>,
    /// The producer's own words about the job, kept with it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// A user and the addresses the job brings for them. What is missing is completed from the user's contact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipient {
    pub user_id: UserId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<EmailAddress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<PhoneNumber>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub push_tokens: Vec<PushToken>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<Locale>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<TimeZone>,
}

impl Recipient {
    /// Reads what an earlier version may have written: the email address need not be one we would take today.
    ///
    /// # Errors
    /// It is no recipient.
    pub fn from_stored(mut document: Value) -> serde_json::Result<Self> {
        let email = EmailAddress::take_stored(&mut document);
        Ok(Self { email, ..serde_json::from_value(document)? })
    }
}

/// Literal content, used as it is on every channel; never a template.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// Mail subject and notification title.
    #[schemars(length(min = 1, max = 255))]
    pub title: String,
    /// Plain text.
    #[schemars(length(min = 1))]
    pub body: String,
    /// HTML for email; made from `body` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
    /// Where a tap leads; appended to the text of mails and SMS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(default)]
    pub severity: Severity,
}

/// How a live notification is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    #[default]
    Info,
    Warning,
    Error,
    Success,
}

/// What a job's deliveries share: the job without its recipients. This is what is stored and what rendering reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    pub id: JobId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub data: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collapse_key: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// The producer's trace, as it came (W3C Trace Context).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// A template's folder name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TemplateName(Arc<str>);

impl FromStr for TemplateName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = (1..=NAME_LIMIT).contains(&text.len())
            && !text.starts_with(['_', '-'])
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-'));
        if valid {
            Ok(Self(text.into()))
        } else {
            Err("not a template name; hint: lower-case letters, digits, _ and -, such as new_message".to_owned())
        }
    }
}

parsed_text!(TemplateName, { "type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,254}$" });

/// A job's id, chosen by its producer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(Arc<str>);

impl JobId {
    /// The job that tells somebody of the messages they have not read, from `first` on: the same, whoever makes it and however often.
    pub fn of_notice(conversation: ConversationId, user: &UserId, first: MessageId) -> Self {
        let plain = format!("chat-{conversation}-{user}-{first}");
        if plain.len() <= NAME_LIMIT {
            return Self(plain.into());
        }
        Self(format!("chat-{conversation}-{:x}-{first}", Sha256::digest(user.as_str())).into())
    }
}

impl FromStr for JobId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = (1..=NAME_LIMIT).contains(&text.len()) && text == text.trim() && !text.chars().any(char::is_control);
        if valid {
            Ok(Self(text.into()))
        } else {
            Err("not a job id; hint: 1 to 255 bytes without control characters or outer spaces, such as order-8841-shipped".to_owned())
        }
    }
}

parsed_text!(JobId, { "type": "string", "minLength": 1, "maxLength": 255 });

/// The format's version; 1 is the only one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version;

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(1)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            1 => Ok(Self),
            other => Err(de::Error::custom(format!("version {other} is not known here; hint: write 1"))),
        }
    }
}

impl JsonSchema for Version {
    fn schema_name() -> Cow<'static, str> {
        "Version".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "const": 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_has_one_job() {
        let id = |user: &str| JobId::of_notice(ConversationId(7), &user.parse().unwrap(), MessageId(123));
        assert_eq!(id("42").as_str(), "chat-7-42-123");
        let (long, other) = ("a".repeat(255), format!("b{}", "a".repeat(254)));
        assert_eq!(id(&long).as_str().len(), "chat-7--123".len() + 64);
        assert_ne!(id(&long), id(&other));
    }
}
