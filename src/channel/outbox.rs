//! The provider that captures instead of sending: for development, tests and a first look.
//!
//! It keeps the last messages exactly as they would have been sent, and can be told to fail, so that retries can be seen.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::Write,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    ProbeFailure, Provider,
    email::{self, sender::Senders},
    push,
};
use crate::model::{Body, Channel, Code, DeliveryId, Message, Outcome, PermanentKind, PushTarget, Timestamp, UserId};

/// Its name in the configuration.
pub const NAME: &str = "outbox";

/// One message as it would have been sent.
#[derive(Clone, Debug, Serialize, schemars::JsonSchema)]
#[schemars(rename = "CapturedMessage")]
pub struct Captured {
    /// Counts up from 1 for as long as the process runs.
    pub id: u64,
    pub captured_at: Timestamp,
    pub channel: Channel,
    pub delivery_id: DeliveryId,
    pub job_id: String,
    pub user_id: Option<UserId>,
    pub to: String,
    pub subject: Option<String>,
    pub text: String,
    #[serde(skip)]
    pub html: Option<String>,
    pub has_html: bool,
    pub headers: Vec<(String, String)>,
    /// The whole of it: MIME, form fields or JSON.
    pub raw: String,
}

/// How the outbox behaves.
#[derive(Clone, Debug)]
pub struct OutboxSettings {
    /// Messages kept, newest first to stay.
    pub keep: usize,
    /// Share of attempts made to fail, 0 to 1.
    pub chaos: f64,
    pub senders: Senders,
    pub sms_from: String,
}

/// The capturing provider. One for all channels it stands in for.
pub struct Outbox {
    settings: OutboxSettings,
    record: Option<Arc<Mutex<File>>>,
    captured: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    last_id: u64,
    messages: VecDeque<Arc<Captured>>,
}

impl Outbox {
    /// # Errors
    /// `record`, the file that gets a line per captured message, cannot be opened.
    pub fn new(settings: OutboxSettings, record: Option<&Path>) -> std::io::Result<Self> {
        let record = match record {
            None => None,
            Some(path) => Some(Arc::new(Mutex::new(OpenOptions::new().create(true).append(true).open(path)?))),
        };
        Ok(Self { settings, record, captured: Mutex::default() })
    }

    /// The messages that pass `filter`, newest first.
    pub fn list(&self, limit: usize, filter: impl Fn(&Captured) -> bool) -> Vec<Arc<Captured>> {
        let kept = self.captured.lock().unwrap_or_else(PoisonError::into_inner);
        kept.messages.iter().rev().filter(|message| filter(message)).take(limit).cloned().collect()
    }

    pub fn get(&self, id: u64) -> Option<Arc<Captured>> {
        let kept = self.captured.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = kept.messages.front()?.id;
        kept.messages.get(usize::try_from(id.checked_sub(oldest)?).ok()?).cloned()
    }

    async fn capture(&self, message: &Message, composed: Composed) -> Result<u64, std::io::Error> {
        if let Some(record) = &self.record {
            let record = record.clone();
            let line =
                format!("{}\n", json!({ "delivery_id": message.delivery_id, "channel": message.body.channel(), "job_id": message.job_id }));
            // The line is there before anybody is told: what it lists is what a provider would have accepted.
            tokio::task::spawn_blocking(move || record.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes()))
                .await
                .map_err(std::io::Error::other)??;
        }
        let mut kept = self.captured.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last_id += 1;
        let id = kept.last_id;
        kept.messages.push_back(Arc::new(Captured {
            id,
            captured_at: Timestamp::now(),
            channel: message.body.channel(),
            delivery_id: message.delivery_id,
            job_id: message.job_id.to_string(),
            user_id: message.user_id.clone(),
            to: composed.to,
            subject: composed.subject,
            text: composed.text,
            has_html: composed.html.is_some(),
            html: composed.html,
            headers: composed.headers,
            raw: composed.raw,
        }));
        if kept.messages.len() > self.settings.keep {
            kept.messages.pop_front();
        }
        Ok(id)
    }

    fn compose(&self, message: &Message) -> Result<Composed, String> {
        match &message.body {
            Body::Email(mail) => {
                let composed = email::compose(message, mail, &self.settings.senders)?;
                let raw = String::from_utf8_lossy(&email::formatted(&composed)?).into_owned();
                Ok(Composed {
                    to: mail.to.to_string(),
                    subject: Some(mail.subject.clone()),
                    text: mail.text.clone().unwrap_or_default(),
                    html: mail.html.clone(),
                    headers: headers(&raw),
                    raw,
                })
            }
            Body::Sms(sms) => {
                let fields = json!({ "To": sms.to, "From": self.settings.sms_from, "Body": sms.text });
                Ok(Composed::plain(sms.to.to_string(), sms.text.clone(), &fields))
            }
            Body::Push(notification) => {
                let request = push::compose(message, notification, false, Timestamp::now())?;
                let request = serde_json::from_slice(&request).map_err(|error| error.to_string())?;
                let to = match &notification.target {
                    PushTarget::Token(token) => token.to_string(),
                    PushTarget::Topic(topic) => format!("topic {topic}"),
                    PushTarget::Condition(condition) => format!("condition {condition}"),
                };
                let mut composed = Composed::plain(to, notification.body.clone(), &request);
                composed.subject = Some(notification.title.clone());
                Ok(composed)
            }
            Body::Live(_) => Err("the live channel is carried by sockets".to_owned()),
        }
    }
}

struct Composed {
    to: String,
    subject: Option<String>,
    text: String,
    html: Option<String>,
    headers: Vec<(String, String)>,
    raw: String,
}

impl Composed {
    fn plain(to: String, text: String, raw: &Value) -> Self {
        Self { to, subject: None, text, html: None, headers: Vec::new(), raw: format!("{raw:#}") }
    }
}

/// The header fields of a composed mail, unfolded.
fn headers(raw: &str) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in raw.split("\r\n").take_while(|line| !line.is_empty()) {
        match (line.strip_prefix([' ', '\t']), line.split_once(": "), fields.last_mut()) {
            (Some(folded), _, Some((_, value))) => {
                value.push(' ');
                value.push_str(folded.trim_start());
            }
            (None, Some((name, value)), _) => fields.push((name.to_owned(), value.to_owned())),
            _ => {}
        }
    }
    fields
}

/// A way to fail that some provider somewhere has shown.
enum Trouble {
    Refuses,
    AcceptsAndIsSilent,
    LosesIt,
    DislikesTheAddress,
}

fn trouble() -> Trouble {
    match fastrand::u8(0..100) {
        0..70 => Trouble::Refuses,
        70..80 => Trouble::AcceptsAndIsSilent,
        80..90 => Trouble::LosesIt,
        _ => Trouble::DislikesTheAddress,
    }
}

#[async_trait]
impl Provider for Outbox {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn send(&self, message: &Message) -> Outcome {
        let composed = match self.compose(message) {
            Ok(composed) => composed,
            Err(detail) => return Outcome::Permanent { kind: PermanentKind::Payload, code: Code::UNSENDABLE, detail },
        };
        let trouble = (self.settings.chaos > 0.0 && fastrand::f64() < self.settings.chaos).then(trouble);
        let detail = || "asked for with --chaos".to_owned();
        match trouble {
            Some(Trouble::Refuses) => return Outcome::Transient { code: Code::CHAOS, detail: detail(), retry_after: None },
            Some(Trouble::LosesIt) => return Outcome::Unknown { code: Code::CHAOS, detail: detail() },
            Some(Trouble::DislikesTheAddress) => {
                return Outcome::Permanent { kind: PermanentKind::Address, code: Code::CHAOS, detail: detail() };
            }
            Some(Trouble::AcceptsAndIsSilent) | None => {}
        }
        let captured = self.capture(message, composed).await;
        fail::fail_point!("provider-accepted");
        match (captured, trouble) {
            (Ok(_), Some(_)) => Outcome::Unknown { code: Code::CHAOS, detail: detail() },
            (Ok(id), None) => Outcome::Sent { provider_id: Some(id.to_string()) },
            (Err(error), _) => Outcome::Transient {
                code: Code::CAPTURE_FAILED,
                detail: format!("provider.outbox.record_file: {error}"),
                retry_after: None,
            },
        }
    }

    async fn probe(&self) -> Result<(), ProbeFailure> {
        Ok(())
    }
}
