//! The queue of what no job could be made of: reading it without taking anything away, taking away what was chosen, and what a message
//! there says about itself.
//!
//! One reading is bounded by what was there when it began. What is read stays with the reader until it closes or goes away: a crash in
//! between gives everything back to the queue.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Connection,
    message::BasicGetMessage,
    options::{BasicAckOptions, BasicGetOptions, BasicNackOptions},
    types::{AMQPValue, DeliveryTag, FieldTable, ShortString},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    AmqpError, Broker, JobMessage, PERSISTENT, Purpose, REJECTED, connection::CLOSED_NORMALLY, header, publish::JOB_ROUTING_KEY, topology,
};
use crate::model::Timestamp;

/// Messages that may be on their way at once, each on a channel of its own: on one channel the broker takes them one after the other.
const CHANNELS: usize = 32;
/// Bytes of bodies that may be on their way at once, going by the largest so far.
const BYTES_AT_ONCE: usize = 64 << 20;
/// Acknowledgements on a channel that the broker has not shown to have acted on. RabbitMQ holds back what comes after 32 that are under
/// way, and forgets what it holds when the channel closes [measured on 3.10].
const UNSETTLED_LIMIT: u32 = 16;
/// How long a given back message may take to show up in the queue again; after that somebody else has it.
const RETURN_LIMIT: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// What the broker writes about a message that it dead-lettered itself.
const DEATHS: &str = "x-death";
/// Headers of the broker's own. One that is copied can make it drop the message.
const BROKER_PREFIX: &str = "x-";

/// Every reason there is: ours, those of the broker, and that none is told.
pub const REASONS: [&str; 13] = [
    "malformed",
    "invalid",
    "too_large",
    "missing_id",
    "id_conflict",
    "killed_worker",
    "unsupported_content_type",
    "unsupported_content_encoding",
    "expired",
    "delivery_limit",
    "maxlen",
    "rejected",
    UNKNOWN,
];
const UNKNOWN: &str = "unknown";

/// One reading of the queue. In no order: a quorum queue gives back out of order what was read and not taken.
pub struct RejectedQueue {
    broker: Broker,
    connection: Connection,
    channels: Vec<ReadingChannel>,
    /// Those with nothing on its way.
    idle: Vec<usize>,
    on_their_way: FuturesUnordered<BoxFuture<'static, Answer>>,
    waiting: u32,
    asked_for: u32,
    read: u32,
    removed: u32,
    /// Bytes of the largest body so far.
    largest: usize,
}

/// Of this channel.
type Answer = (usize, Result<Option<BasicGetMessage>, AmqpError>);

struct ReadingChannel {
    channel: Channel,
    /// Messages acknowledged since the broker last showed that it has acted on all before.
    unsettled: u32,
}

/// Where a message that was read waits for what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    channel: usize,
    tag: DeliveryTag,
}

impl RejectedQueue {
    /// # Errors
    /// Among others, [`AmqpError::Absent`].
    pub async fn open(broker: &Broker) -> Result<Self, AmqpError> {
        let (connection, _) = broker.connect(Purpose::Command).await?;
        let waiting = topology::count_ready(broker, &connection, REJECTED).await?;
        let on_their_way = FuturesUnordered::new();
        let (channels, idle) = (Vec::new(), Vec::new());
        Ok(Self {
            broker: broker.clone(),
            connection,
            channels,
            idle,
            on_their_way,
            waiting,
            asked_for: 0,
            read: 0,
            removed: 0,
            largest: 0,
        })
    }

    /// Messages there were at the beginning.
    pub const fn waiting(&self) -> u32 {
        self.waiting
    }

    /// Messages read so far.
    pub const fn read(&self) -> u32 {
        self.read
    }

    /// Messages taken away so far.
    pub const fn removed(&self) -> u32 {
        self.removed
    }

    /// The next message, of as many as there were at the beginning.
    pub async fn next(&mut self) -> Result<Option<Rejected>, AmqpError> {
        loop {
            self.ask().await?;
            let Some((channel, answer)) = self.on_their_way.next().await else { return Ok(None) };
            self.idle.push(channel);
            self.channels[channel].unsettled = 0;
            let Some(message) = answer? else {
                // Somebody else is faster: there are no more to ask for.
                self.asked_for = self.waiting;
                continue;
            };
            let delivery = message.delivery;
            self.read += 1;
            self.largest = self.largest.max(delivery.data.len());
            let place = Place { channel, tag: delivery.delivery_tag };
            return Ok(Some(Rejected { place, properties: delivery.properties, body: delivery.data }));
        }
    }

    /// Asks for as many as may be on their way at once. For each the broker writes to its log, but only once for all that come together.
    async fn ask(&mut self) -> Result<(), AmqpError> {
        let limit = (BYTES_AT_ONCE / self.largest.max(1)).clamp(1, CHANNELS);
        while self.asked_for < self.waiting && self.on_their_way.len() < limit {
            let channel = if let Some(channel) = self.idle.pop() {
                channel
            } else {
                let channel = self.broker.call("opening a channel", self.connection.create_channel()).await?;
                self.channels.push(ReadingChannel { channel, unsettled: 0 });
                self.channels.len() - 1
            };
            let (broker, on) = (self.broker.clone(), self.channels[channel].channel.clone());
            let get = async move { broker.call("reading the queue", on.basic_get(REJECTED.into(), BasicGetOptions::default())).await };
            self.on_their_way.push(Box::pin(async move { (channel, get.await) }));
            self.asked_for += 1;
        }
        Ok(())
    }

    /// Takes a message away for good, once the queue is closed without an error.
    pub async fn remove(&mut self, place: Place) -> Result<(), AmqpError> {
        const DOING: &str = "removing a message";
        let ReadingChannel { channel, unsettled } = &mut self.channels[place.channel];
        self.broker.call(DOING, channel.basic_ack(place.tag, BasicAckOptions::default())).await?;
        self.removed += 1;
        *unsettled += 1;
        if *unsettled >= UNSETTLED_LIMIT {
            // Asking for a message is answered after what was said before has been acted on. One that comes is given back with the rest.
            self.broker.call(DOING, channel.basic_get(REJECTED.into(), BasicGetOptions::default())).await?;
            *unsettled = 0;
        }
        Ok(())
    }

    /// Gives back everything that was not taken away, and waits until it is there again: whoever reads next finds it.
    pub async fn close(mut self) -> Result<(), AmqpError> {
        const ALL: DeliveryTag = 0;
        // What is on its way has to come before it can be given back.
        self.asked_for = self.waiting;
        while self.next().await?.is_some() {}
        for ReadingChannel { channel, .. } in &self.channels {
            let options = BasicNackOptions { multiple: true, requeue: true };
            self.broker.call("giving back what stays", channel.basic_nack(ALL, options)).await?;
            // Its answer says that everything before has been read.
            self.broker.call("closing a channel", channel.close(CLOSED_NORMALLY, "done".into())).await?;
        }
        let until = Instant::now() + RETURN_LIMIT;
        while topology::count_ready(&self.broker, &self.connection, REJECTED).await? < self.waiting - self.removed && Instant::now() < until
        {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.broker.close(&self.connection).await;
        Ok(())
    }
}

/// A rejected message.
#[derive(Clone, Debug)]
pub struct Rejected {
    pub place: Place,
    pub properties: BasicProperties,
    pub body: Vec<u8>,
}

/// One thing wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ToldProblem {
    pub path: String,
    pub problem: String,
    pub hint: String,
}

/// What the broker wrote when it dead-lettered a message, most recent first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetter {
    pub reason: String,
    pub queue: String,
    pub exchange: String,
    pub routing_key: String,
    pub at: Option<Timestamp>,
}

impl Rejected {
    #[cfg(test)]
    pub fn of_bytes(body: &[u8], properties: BasicProperties) -> Self {
        Self { place: Place { channel: 0, tag: 0 }, properties, body: body.to_vec() }
    }

    /// A word of [`REASONS`], or one of a newer version.
    pub fn reason(&self) -> String {
        let told = self.text(header::REASON).or_else(|| Some(self.dead_letter()?.reason));
        told.filter(|reason| !reason.is_empty()).unwrap_or_else(|| UNKNOWN.to_owned())
    }

    pub fn rejected_at(&self) -> Option<Timestamp> {
        match self.text(header::REJECTED_AT) {
            Some(text) => text.parse().ok(),
            None => self.dead_letter()?.at,
        }
    }

    /// All that is wrong with it, as far as it was told.
    pub fn problems(&self) -> Vec<ToldProblem> {
        let all: Option<Vec<ToldProblem>> = self.text(header::PROBLEMS).and_then(|text| serde_json::from_str(&text).ok());
        if let Some(all) = all.filter(|all| !all.is_empty()) {
            return all;
        }
        let text = |name| self.text(name).unwrap_or_default();
        if let Some(problem) = self.text(header::PROBLEM) {
            return vec![ToldProblem { path: text(header::PATH), problem, hint: text(header::HINT) }];
        }
        self.dead_letter().map(|dead| vec![dead.problem()]).unwrap_or_default()
    }

    /// The exchange that it was published to.
    pub fn exchange(&self) -> Option<String> {
        self.text(header::EXCHANGE).or_else(|| Some(self.dead_letter()?.exchange))
    }

    pub fn routing_key(&self) -> Option<String> {
        self.text(header::ROUTING_KEY).or_else(|| Some(self.dead_letter()?.routing_key))
    }

    /// It once more as it was published: without what was written on it since, and without what nobody may publish for another.
    pub fn into_original(self) -> JobMessage {
        let headers = self.properties.headers().iter().flat_map(FieldTable::inner);
        let kept: BTreeMap<ShortString, AMQPValue> =
            headers.filter(|(name, _)| is_kept(name.as_str())).map(|(name, value)| (name.clone(), value.clone())).collect();
        let mut properties = lasting(&self.properties);
        if !kept.is_empty() {
            properties = properties.with_headers(FieldTable::from(kept));
        }
        match self.routing_key() {
            Some(routing_key) => JobMessage::new(&routing_key, properties, self.body),
            None => JobMessage::new(JOB_ROUTING_KEY, properties, self.body),
        }
    }

    /// Its headers, as JSON.
    pub fn headers(&self) -> Map<String, Value> {
        self.properties.headers().as_ref().map(object).unwrap_or_default()
    }

    /// Its properties that are set, as JSON, without the headers.
    pub fn properties(&self) -> Map<String, Value> {
        let from = &self.properties;
        let text = |value: &Option<ShortString>| value.as_ref().map(|text| Value::from(text.as_str()));
        let all = [
            ("content_type", text(from.content_type())),
            ("content_encoding", text(from.content_encoding())),
            ("delivery_mode", from.delivery_mode().map(Value::from)),
            ("priority", from.priority().map(Value::from)),
            ("correlation_id", text(from.correlation_id())),
            ("reply_to", text(from.reply_to())),
            ("expiration", text(from.expiration())),
            ("message_id", text(from.message_id())),
            ("timestamp", from.timestamp().map(|seconds| moment(seconds).to_string().into())),
            ("type", text(from.kind())),
            ("user_id", text(from.user_id())),
            ("app_id", text(from.app_id())),
            ("cluster_id", text(from.cluster_id())),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    pub fn message_id(&self) -> Option<&str> {
        self.properties.message_id().as_ref().map(ShortString::as_str)
    }

    pub fn content_type(&self) -> Option<&str> {
        self.properties.content_type().as_ref().map(ShortString::as_str)
    }

    pub fn content_encoding(&self) -> Option<&str> {
        self.properties.content_encoding().as_ref().map(ShortString::as_str)
    }

    /// A header that is text.
    pub fn text(&self, name: &str) -> Option<String> {
        self.properties.headers().as_ref().and_then(|headers| text(headers, name))
    }

    /// What the broker wrote last.
    pub fn dead_letter(&self) -> Option<DeadLetter> {
        let AMQPValue::FieldArray(deaths) = self.properties.headers().as_ref()?.inner().get(DEATHS)? else { return None };
        let AMQPValue::FieldTable(last) = deaths.as_slice().first()? else { return None };
        let told = |name| text(last, name).unwrap_or_default();
        let routing_key = match last.inner().get("routing-keys") {
            Some(AMQPValue::FieldArray(keys)) => keys.as_slice().first().and_then(as_text),
            _ => None,
        };
        let at = match last.inner().get("time") {
            Some(AMQPValue::Timestamp(seconds)) => Some(moment(*seconds)),
            _ => None,
        };
        Some(DeadLetter {
            reason: told("reason"),
            queue: told("queue"),
            exchange: told("exchange"),
            routing_key: routing_key.unwrap_or_default(),
            at,
        })
    }
}

impl DeadLetter {
    fn problem(&self) -> ToldProblem {
        let (problem, hint) = match self.reason.as_str() {
            "expired" => ("expired in the queue", "no daemon took it before its `expiration`"),
            "delivery_limit" => ("delivered too often without an answer", "the daemon's log says why its connections ended"),
            "maxlen" => ("pushed out of a full queue", "a policy limits its length"),
            _ => ("dead-lettered by the broker", ""),
        };
        let queue = if self.queue.is_empty() { String::new() } else { format!(" {}", self.queue) };
        ToldProblem { path: String::new(), problem: format!("{problem}{queue}"), hint: hint.to_owned() }
    }
}

/// What was written on it since it was published does not come along, nor what sends copies elsewhere.
fn is_kept(name: &str) -> bool {
    !name.starts_with(header::PREFIX) && !name.starts_with(BROKER_PREFIX) && !matches!(name, "CC" | "BCC")
}

/// The properties that a message keeps when it is published anew. The headers are not among them, `expiration` would run again, and
/// `user_id` would have to be the publisher's.
fn lasting(from: &BasicProperties) -> BasicProperties {
    let mut to = BasicProperties::default().with_delivery_mode(PERSISTENT);
    let text = |to: BasicProperties, value: &Option<ShortString>, set: fn(BasicProperties, ShortString) -> BasicProperties| match value {
        Some(value) => set(to, value.clone()),
        None => to,
    };
    to = text(to, from.content_type(), BasicProperties::with_content_type);
    to = text(to, from.content_encoding(), BasicProperties::with_content_encoding);
    to = text(to, from.correlation_id(), BasicProperties::with_correlation_id);
    to = text(to, from.reply_to(), BasicProperties::with_reply_to);
    to = text(to, from.message_id(), BasicProperties::with_message_id);
    to = text(to, from.kind(), BasicProperties::with_type);
    to = text(to, from.app_id(), BasicProperties::with_app_id);
    if let Some(priority) = from.priority() {
        to = to.with_priority(*priority);
    }
    if let Some(timestamp) = from.timestamp() {
        to = to.with_timestamp(*timestamp);
    }
    to
}

/// AMQP's timestamps are seconds. RabbitMQ lets through what is not, such as milliseconds: that is some day far off.
fn moment(seconds: u64) -> Timestamp {
    Timestamp::from_millis(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000))
}

fn text(table: &FieldTable, name: &str) -> Option<String> {
    table.inner().get(name).and_then(as_text)
}

fn as_text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

fn object(table: &FieldTable) -> Map<String, Value> {
    table.inner().iter().map(|(name, value)| (name.to_string(), json(value))).collect()
}

fn json(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(value) => (*value).into(),
        AMQPValue::ShortShortInt(value) => (*value).into(),
        AMQPValue::ShortShortUInt(value) => (*value).into(),
        AMQPValue::ShortInt(value) => (*value).into(),
        AMQPValue::ShortUInt(value) => (*value).into(),
        AMQPValue::LongInt(value) => (*value).into(),
        AMQPValue::LongUInt(value) => (*value).into(),
        AMQPValue::LongLongInt(value) => (*value).into(),
        AMQPValue::Float(value) => (*value).into(),
        AMQPValue::Double(value) => (*value).into(),
        AMQPValue::DecimalValue(value) => format!("{}e-{}", value.value, value.scale).into(),
        AMQPValue::ShortString(_) | AMQPValue::LongString(_) => as_text(value).into(),
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(json).collect(),
        AMQPValue::Timestamp(seconds) => moment(*seconds).to_string().into(),
        AMQPValue::FieldTable(table) => object(table).into(),
        AMQPValue::ByteArray(bytes) => String::from_utf8_lossy(bytes.as_slice()).into(),
        AMQPValue::Void => Value::Null,
    }
}
