//! What no job could be made of goes to the rejected queue: the original bytes, with the reason beside them.
//!
//! Published with a confirm and `mandatory`, with one message in flight per channel: with several, the client library can attach a
//! return to the wrong one. On a connection of its own: a broker that blocks publishers must not keep us from acknowledging.

use std::sync::Arc;

use backon::BackoffBuilder as _;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    message::Delivery,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::sync::{Mutex, Semaphore};

use super::message::Poison;
use crate::{
    amqp::{self, AmqpError, Broker, Link, PERSISTENT, Purpose, header},
    event::{Event, emit},
    model::{Timestamp, cut},
};

/// Messages being rejected at once.
const CHANNELS: usize = 4;
/// Problems told in one header.
const PROBLEMS_LIMIT: usize = 20;
/// Bytes of one of our headers.
const TEXT_LIMIT: usize = 1024;
const PROBLEMS_TEXT_LIMIT: usize = 16 << 10;
/// Bytes of the producer's headers that are kept. All headers of a message share one frame, of 128 KiB where nobody chose otherwise.
const HEADERS_LIMIT: usize = 64 << 10;

/// Publishes to the rejected queue. Clones share it.
#[derive(Clone)]
pub struct Rejecter(Arc<Inner>);

struct Inner {
    broker: Broker,
    link: Link,
    places: Semaphore,
    session: Mutex<Session>,
}

/// The connection, once there was something to reject, and its idle channels.
#[derive(Default)]
struct Session {
    connection: Option<Connection>,
    host: String,
    idle: Vec<Channel>,
}

impl Rejecter {
    pub fn new(broker: Broker) -> Self {
        let (link, places) = (Link::new("rejected"), Semaphore::new(CHANNELS));
        Self(Arc::new(Inner { broker, link, places, session: Mutex::default() }))
    }

    /// Puts `message` on the rejected queue, however long that takes.
    pub async fn reject(&self, message: &Delivery, poison: &Poison) {
        let Ok(_place) = self.0.places.acquire().await else { return };
        let properties = properties(message, poison, Timestamp::now());
        let mut waits = amqp::waits().build();
        while let Err(error) = self.0.publish(&message.data, properties.clone()).await {
            self.0.link.lost(&error);
            tokio::time::sleep(waits.next().unwrap_or_default()).await;
        }
        let message_id = message.properties.message_id().as_ref().map(lapin::types::ShortString::as_str);
        emit(&Event::JobRejected { reason: poison.reason, message_id, problems: poison.problems.len() });
    }

    /// Ends the connection.
    pub async fn close(&self) {
        let session = std::mem::take(&mut *self.0.session.lock().await);
        if let Some(connection) = session.connection {
            // Whatever comes of it, the process is about to end.
            let _ = self.0.broker.call("closing", connection.close(200, "done".into())).await;
        }
    }
}

impl Inner {
    async fn publish(&self, body: &[u8], properties: BasicProperties) -> Result<(), AmqpError> {
        let channel = self.channel().await?;
        match self.publish_on(&channel, body, properties).await {
            Ok(()) => {
                let mut session = self.session.lock().await;
                // Not before: a broker that blocks publishers lets everybody connect.
                self.link.connected(&session.host);
                session.idle.push(channel);
                Ok(())
            }
            Err(error) => {
                // All of it: what is half dead is not worth telling from what is whole.
                *self.session.lock().await = Session::default();
                Err(error)
            }
        }
    }

    async fn publish_on(&self, channel: &Channel, body: &[u8], properties: BasicProperties) -> Result<(), AmqpError> {
        const DOING: &str = "publishing to tarishi.rejected";
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let publish = channel.basic_publish("".into(), amqp::REJECTED.into(), options, body, properties);
        let confirm = self.broker.call(DOING, publish).await?;
        match self.broker.call(DOING, confirm).await? {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) => {
                // Somebody deleted it.
                amqp::declare_jobs(&self.broker, channel).await?;
                Err(AmqpError::Unroutable(amqp::REJECTED.to_owned()))
            }
            Confirmation::Nack(_) | Confirmation::NotRequested => Err(AmqpError::NotTaken),
        }
    }

    async fn channel(&self) -> Result<Channel, AmqpError> {
        // Held while connecting: the others want the same connection.
        let mut session = self.session.lock().await;
        if let Some(channel) = session.idle.pop() {
            return Ok(channel);
        }
        if session.connection.is_none() {
            let (connection, host) = self.broker.connect(Purpose::Reject).await?;
            (session.connection, session.host) = (Some(connection), host);
        }
        let Some(connection) = &session.connection else { return Err(AmqpError::NotTaken) };
        let opened = async {
            let channel = self.broker.call("opening a channel", connection.create_channel()).await?;
            self.broker.call("asking for confirms", channel.confirm_select(ConfirmSelectOptions::default())).await?;
            Ok(channel)
        };
        let opened = opened.await;
        if opened.is_err() {
            *session = Session::default();
        }
        opened
    }
}

/// The original's properties with the reason beside them.
fn properties(message: &Delivery, poison: &Poison, now: Timestamp) -> BasicProperties {
    let original = &message.properties;
    let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT).with_headers(headers(message, poison, now));
    // `expiration` would take it from the queue unseen; `user_id` the broker checks against our own name.
    if let Some(value) = original.content_type() {
        properties = properties.with_content_type(value.clone());
    }
    if let Some(value) = original.content_encoding() {
        properties = properties.with_content_encoding(value.clone());
    }
    if let Some(value) = original.priority() {
        properties = properties.with_priority(*value);
    }
    if let Some(value) = original.correlation_id() {
        properties = properties.with_correlation_id(value.clone());
    }
    if let Some(value) = original.reply_to() {
        properties = properties.with_reply_to(value.clone());
    }
    if let Some(value) = original.message_id() {
        properties = properties.with_message_id(value.clone());
    }
    if let Some(value) = original.timestamp() {
        properties = properties.with_timestamp(*value);
    }
    if let Some(value) = original.kind() {
        properties = properties.with_type(value.clone());
    }
    if let Some(value) = original.app_id() {
        properties = properties.with_app_id(value.clone());
    }
    properties
}

fn headers(message: &Delivery, poison: &Poison, now: Timestamp) -> FieldTable {
    let mut headers = FieldTable::default();
    let original = message.properties.headers().iter().flat_map(FieldTable::inner);
    let mut bytes = 0;
    for (name, value) in original.filter(|(name, _)| is_kept(name.as_str())) {
        bytes += name.as_str().len() + size(value);
        if bytes > HEADERS_LIMIT {
            break;
        }
        headers.insert(name.clone(), value.clone());
    }
    let mut tell = |name: &str, text: &str, limit: usize| {
        headers.insert(name.into(), AMQPValue::LongString(cut(text, limit).into()));
    };
    tell(header::REASON, poison.reason, TEXT_LIMIT);
    if let Some(first) = poison.problems.first() {
        tell(header::PROBLEM, &first.problem, TEXT_LIMIT);
        tell(header::PATH, &first.path, TEXT_LIMIT);
        tell(header::HINT, &first.hint, TEXT_LIMIT);
    }
    tell(header::PROBLEMS, &all_problems(poison), usize::MAX);
    tell(header::REJECTED_AT, &now.to_string(), TEXT_LIMIT);
    tell(header::EXCHANGE, message.exchange.as_str(), TEXT_LIMIT);
    tell(header::ROUTING_KEY, message.routing_key.as_str(), TEXT_LIMIT);
    headers
}

/// As many as fit, in JSON that is whole.
fn all_problems(poison: &Poison) -> String {
    let mut shown = poison.problems.len().min(PROBLEMS_LIMIT);
    loop {
        let text = serde_json::to_string(&poison.problems[..shown]).unwrap_or_default();
        if text.len() <= PROBLEMS_TEXT_LIMIT || shown == 0 {
            return text;
        }
        shown /= 2;
    }
}

/// Headers that come along. The broker's own do not: a copied `x-death` makes it drop the message as a cycle, and CC and BCC would send
/// copies elsewhere.
fn is_kept(name: &str) -> bool {
    !name.starts_with("x-") && !name.starts_with(header::PREFIX) && !matches!(name, "CC" | "BCC")
}

/// Bytes of a header's value, about.
fn size(value: &AMQPValue) -> usize {
    const EACH: usize = 9;
    match value {
        AMQPValue::ShortString(text) => EACH + text.as_str().len(),
        AMQPValue::LongString(text) => EACH + text.len(),
        AMQPValue::ByteArray(bytes) => EACH + bytes.len(),
        AMQPValue::FieldArray(values) => EACH + values.as_slice().iter().map(size).sum::<usize>(),
        AMQPValue::FieldTable(table) => EACH + table.inner().iter().map(|(name, value)| name.as_str().len() + size(value)).sum::<usize>(),
        _ => EACH,
    }
}
