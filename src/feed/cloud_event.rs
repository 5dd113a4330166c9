//! An event as `CloudEvents` 1.0 writes it in JSON (structured mode). Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    model::{Channel, DeliveryId, Status, Timestamp},
    store::{EventKind, PendingEvent},
};

pub const CONTENT_TYPE: &str = "application/cloudevents+json";
const SPEC_VERSION: &str = "1.0";
const SOURCE: &str = "tarishi";

/// An event ready to be published.
pub struct Told {
    /// The same each time it is published.
    pub id: String,
    /// The `CloudEvents` type.
    pub kind: String,
    pub routing_key: String,
    pub body: Vec<u8>,
}

#[derive(Serialize)]
struct CloudEvent<'a, T> {
    specversion: &'static str,
    id: &'a str,
    source: &'static str,
    #[serde(rename = "type")]
    kind: &'a str,
    subject: String,
    time: Timestamp,
    datacontenttype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    data: T,
}

#[derive(Serialize)]
struct DeliveryData<'a> {
    job_id: &'a str,
    delivery_id: DeliveryId,
    channel: Channel,
    status: Status,
    user_id: Option<&'a str>,
    template: Option<&'a str>,
    attempts: u32,
    provider: Option<&'a str>,
    provider_id: Option<&'a str>,
    code: Option<&'a str>,
    metadata: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct JobData<'a> {
    job_id: &'a str,
    template: Option<&'a str>,
    deliveries: u32,
    statuses: &'a BTreeMap<Status, u32>,
    metadata: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct AddressData<'a> {
    channel: Channel,
    address: &'a str,
    user_id: Option<&'a str>,
    code: Option<&'a str>,
    provider: Option<&'a str>,
    job_id: &'a str,
    delivery_id: DeliveryId,
}

/// `epoch` names the store's history: with it, a sequence number is unique.
pub fn of(epoch: &str, event: &PendingEvent) -> Told {
    let (job_id, template, metadata) = (event.job_id.as_str(), event.template.as_deref(), &event.metadata);
    match &event.what {
        EventKind::Delivery { id, channel, status, user_id, code, attempts, provider, provider_id } => {
            let data = DeliveryData {
                job_id,
                delivery_id: *id,
                channel: *channel,
                status: *status,
                user_id: user_id.as_deref(),
                template,
                attempts: *attempts,
                provider: provider.as_deref(),
                provider_id: provider_id.as_deref(),
                code: code.as_deref(),
                metadata,
            };
            told(epoch, event, format!("tarishi.delivery.{status}"), format!("delivery.{channel}.{status}"), id.to_string(), data)
        }
        EventKind::JobFinished { deliveries, statuses } => {
            let data = JobData { job_id, template, deliveries: *deliveries, statuses, metadata };
            told(epoch, event, "tarishi.job.finished".to_owned(), "job.finished".to_owned(), job_id.to_owned(), data)
        }
        EventKind::AddressGone { id, channel, address, user_id, code, provider } => {
            let (user_id, code, provider) = (user_id.as_deref(), code.as_deref(), provider.as_deref());
            let data = AddressData { channel: *channel, address, user_id, code, provider, job_id, delivery_id: *id };
            told(epoch, event, "tarishi.address.gone".to_owned(), "address.gone".to_owned(), id.to_string(), data)
        }
    }
}

fn told<T: Serialize>(epoch: &str, event: &PendingEvent, kind: String, routing_key: String, subject: String, data: T) -> Told {
    let id = format!("{epoch}-{}", event.seq);
    let cloud_event = CloudEvent {
        specversion: SPEC_VERSION,
        id: &id,
        source: SOURCE,
        kind: &kind,
        subject,
        time: event.at,
        datacontenttype: "application/json",
        traceparent: event.traceparent.as_deref(),
        data,
    };
    // Our own types with string keys: they are always JSON.
    let body = serde_json::to_vec(&cloud_event).unwrap_or_default();
    Told { id, kind, routing_key, body }
}
