//! What a template says to somebody made up, with data of whoever asks: for people who write templates.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value, json};

use super::{RenderError, Templates};
use crate::model::{
    Address, Body, Channel, Delivery, DeliveryId, DeliveryKey, Envelope, Locale, Priority, Problem, TemplateName, TimeZone, Timestamp,
};

/// What previews are made with: user 42 of the documentation, and what is given here.
#[derive(Clone, Debug)]
pub struct Preview {
    pub data: Map<String, Value>,
    pub locale: Option<Locale>,
    pub timezone: Option<TimeZone>,
}

impl Templates {
    /// What `name` says on `channel`.
    ///
    /// # Errors
    /// Why it cannot be said, with its place from the templates folder on.
    pub fn preview(&self, name: &TemplateName, channel: Channel, preview: &Preview, now: Timestamp) -> Result<Body, Problem> {
        self.render(&delivery(name, channel, preview, now), now).map_err(|error| match error {
            RenderError::Failed(fault) => fault.into_problem(),
            other => Problem::new(name.as_str(), other.to_string(), "see `tarishi template list` for what there is"),
        })
    }

    /// `body` as previews show it: with its channel and its measure.
    pub fn shown(&self, body: &Body) -> Value {
        let mut value = match body {
            Body::Email(mail) => json!(mail),
            Body::Sms(sms) => json!(sms),
            Body::Push(push) => json!(push),
            Body::Live(notification) => json!(notification),
        };
        value["channel"] = json!(body.channel());
        value["measure"] = json!(self.measure(body));
        value
    }
}

fn delivery(name: &TemplateName, channel: Channel, preview: &Preview, now: Timestamp) -> Delivery {
    let job = Envelope {
        id: "preview".parse().expect("a job id"),
        template: Some(name.clone()),
        content: None,
        data: preview.data.clone(),
        collapse_key: None,
        metadata: BTreeMap::new(),
        traceparent: None,
    };
    let address = match channel {
        Channel::Email => Address::Email("asha@example.com".parse().expect("an email address")),
        Channel::Sms => Address::Phone("+255712345678".parse().expect("a phone number")),
        Channel::Push => Address::PushToken("preview".parse().expect("a push token")),
        Channel::Live => Address::Inbox,
    };
    Delivery {
        key: DeliveryKey { job: 0, ordinal: 0 },
        id: DeliveryId::new(DeliveryId::job_key(&job.id), 0),
        job: Arc::new(job),
        channel,
        priority: Priority::Normal,
        user_id: Some("42".parse().expect("a user id")),
        address,
        locale: preview.locale.clone(),
        timezone: preview.timezone,
        attempts: 0,
        pinned: None,
        due_at: now,
        expires_at: Timestamp::FAR_FUTURE,
    }
}
