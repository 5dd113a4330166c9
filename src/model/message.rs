//! A delivery rendered: what a provider is handed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Channel, DeliveryId, EmailAddress, JobId, PhoneNumber, PushToken, Severity, TemplateName, Timestamp, UserId};

/// One rendered delivery, ready for one attempt.
#[derive(Clone, Debug)]
pub struct Message {
    pub delivery_id: DeliveryId,
    pub job_id: JobId,
    /// Absent for a push topic or condition.
    pub user_id: Option<UserId>,
    /// Absent for a job that brings its content with it.
    pub template: Option<TemplateName>,
    /// On whose behalf, from the job's `metadata.tenant`.
    pub tenant: Option<String>,
    pub collapse_key: Option<String>,
    /// Worth nothing after this moment.
    pub expires_at: Timestamp,
    pub body: Body,
}

/// The content of a message, by channel.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    Email(Email),
    Sms(Sms),
    Push(Push),
    Live(Notification),
}

impl Body {
    pub const fn channel(&self) -> Channel {
        match self {
            Self::Email(_) => Channel::Email,
            Self::Sms(_) => Channel::Sms,
            Self::Push(_) => Channel::Push,
            Self::Live(_) => Channel::Live,
        }
    }
}

/// A mail. At least one of `html` and `text` is there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Email {
    pub to: EmailAddress,
    pub subject: String,
    pub html: Option<String>,
    pub text: Option<String>,
    /// Where one click ends mails of this kind (RFC 8058); absent for mails that cannot be refused.
    pub unsubscribe_url: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sms {
    pub to: PhoneNumber,
    pub text: String,
}

/// A push notification in the terms of FCM HTTP v1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Push {
    pub target: PushTarget,
    pub title: String,
    pub body: String,
    /// String values only: FCM refuses others.
    pub data: BTreeMap<String, String>,
    /// `android`, `apns` and `webpush` blocks as the template gives them.
    pub platform: Map<String, Value>,
}

impl Push {
    /// Bytes that count towards FCM's limit: notification and data, names and values ("About FCM messages").
    pub fn size(&self) -> usize {
        let texts = [("title", &self.title), ("body", &self.body)];
        texts.iter().map(|(name, text)| name.len() + text.len()).sum::<usize>()
            + self.data.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PushTarget {
    Token(PushToken),
    Topic(String),
    Condition(String),
}

/// A live notification: what the inbox keeps and the socket shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notification {
    /// What it is about (`message`, `booking`); the template's name unless it says otherwise.
    pub kind: String,
    pub title: String,
    pub message: String,
    pub severity: Severity,
    pub related_object_id: Option<Value>,
    pub related_object_type: Option<String>,
    pub data: Map<String, Value>,
}
