//! A client of the broker, for tests: what a careful producer or consumer does, and every wait with an end.

use std::{collections::BTreeMap, future::Future};

use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ExchangeKind,
    message::Delivery,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
    },
    tcp::{OwnedIdentity, OwnedTLSConfig},
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;

use super::{Certificates, process::PATIENCE};

/// What became of a message, as the broker says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Fate {
    /// The broker has it.
    Taken,
    /// No queue wanted it; why.
    Returned(String),
    /// A queue refused it.
    Refused,
}

/// A message as it came.
#[derive(Clone, Debug)]
pub struct Message {
    pub exchange: String,
    pub routing_key: String,
    pub redelivered: bool,
    pub properties: BasicProperties,
    /// Numbers and texts as JSON has them; the rest as text.
    pub headers: BTreeMap<String, Value>,
    pub body: Vec<u8>,
}

/// A connection with one channel in confirm mode.
pub struct Rabbit {
    connection: Connection,
    channel: Channel,
}

/// A queue being consumed.
pub struct Subscription {
    consumer: Consumer,
    // The consumer lives as long as its channel.
    _channel: Channel,
}

/// Properties of a message that survives a restart of the broker.
pub fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into())
}

impl Fate {
    #[track_caller]
    pub fn taken(self) {
        assert_eq!(self, Self::Taken);
    }
}

impl Message {
    fn of(delivery: Delivery) -> Self {
        let headers = delivery.properties.headers().iter().flat_map(FieldTable::inner);
        Self {
            exchange: delivery.exchange.to_string(),
            routing_key: delivery.routing_key.to_string(),
            redelivered: delivery.redelivered,
            headers: headers.map(|(name, value)| (name.to_string(), json_of(value))).collect(),
            properties: delivery.properties,
            body: delivery.data,
        }
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Rabbit {
    pub async fn connect(url: &str) -> Self {
        Self::try_connect(url).await.unwrap()
    }

    pub async fn try_connect(url: &str) -> lapin::Result<Self> {
        Self::open(url, OwnedTLSConfig::default()).await
    }

    /// Over TLS, with a certificate of its own when `as_client`.
    pub async fn try_connect_with_tls(url: &str, certificates: &Certificates, as_client: bool) -> lapin::Result<Self> {
        let read = |path| std::fs::read(path).unwrap();
        let identity = as_client.then(|| OwnedIdentity::PKCS8 { pem: read(&certificates.client), key: read(&certificates.client_key) });
        let cert_chain = Some(String::from_utf8(read(&certificates.ca)).unwrap());
        Self::open(url, OwnedTLSConfig { identity, cert_chain }).await
    }

    async fn open(url: &str, tls: OwnedTLSConfig) -> lapin::Result<Self> {
        let properties = ConnectionProperties::default().with_connection_name("a test".into());
        let runtime = lapin::runtime::default_runtime()?;
        let connection = in_time("connect", Connection::connect_with_config(url, properties, tls, runtime)).await?;
        let channel = in_time("open a channel", connection.create_channel()).await?;
        in_time("confirm.select", channel.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(Self { connection, channel })
    }

    /// Publishes one message, `mandatory`, and waits for word of it.
    pub async fn publish(&self, exchange: &str, routing_key: &str, properties: BasicProperties, body: &[u8]) -> Fate {
        self.try_publish(exchange, routing_key, properties, body).await.unwrap()
    }

    /// The same; an error when the connection breaks, and nothing is known.
    pub async fn try_publish(&self, exchange: &str, routing_key: &str, properties: BasicProperties, body: &[u8]) -> lapin::Result<Fate> {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirmed = async { self.channel.basic_publish(exchange.into(), routing_key.into(), options, body, properties).await?.await };
        Ok(match in_time("publish", confirmed).await? {
            Confirmation::Ack(None) => Fate::Taken,
            Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => Fate::Returned(returned.reply_text.to_string()),
            Confirmation::Nack(None) => Fate::Refused,
            Confirmation::NotRequested => panic!("the channel is not in confirm mode"),
        })
    }

    /// Publishes all of these without waiting in between; every one of them must be taken.
    pub async fn publish_many(&self, exchange: &str, routing_key: &str, messages: impl IntoIterator<Item = (BasicProperties, Vec<u8>)>) {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let mut confirms = Vec::new();
        for (properties, body) in messages {
            let published = self.channel.basic_publish(exchange.into(), routing_key.into(), options, &body, properties);
            confirms.push(in_time("publish", published).await.unwrap());
        }
        for confirm in confirms {
            assert_eq!(in_time("confirm", confirm).await.unwrap(), Confirmation::Ack(None));
        }
    }

    /// Takes the first message of a queue, when there is one.
    pub async fn get(&self, queue: &str) -> Option<Message> {
        let got = in_time("get", self.channel.basic_get(queue.into(), BasicGetOptions { no_ack: true })).await.unwrap();
        got.map(|message| Message::of(message.delivery))
    }

    /// Takes all that is ready in a queue.
    pub async fn drain(&self, queue: &str) -> Vec<Message> {
        let mut all = Vec::new();
        while let Some(message) = self.get(queue).await {
            all.push(message);
        }
        all
    }

    /// Declares a durable quorum queue with further arguments.
    pub async fn declare(&self, queue: &str, arguments: &[(&str, AMQPValue)]) {
        let mut table = FieldTable::default();
        for (name, value) in [("x-queue-type", text("quorum"))].iter().chain(arguments) {
            table.insert((*name).into(), value.clone());
        }
        in_time("declare", self.channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), table)).await.unwrap();
    }

    /// Declares a durable topic exchange.
    pub async fn declare_exchange(&self, exchange: &str) {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let declared = self.channel.exchange_declare(exchange.into(), ExchangeKind::Topic, options, FieldTable::default());
        in_time("declare", declared).await.unwrap();
    }

    pub async fn bind(&self, queue: &str, exchange: &str, pattern: &str) {
        let bound =
            self.channel.queue_bind(queue.into(), exchange.into(), pattern.into(), QueueBindOptions::default(), FieldTable::default());
        in_time("bind", bound).await.unwrap();
    }

    /// A queue of this connection's own, bound to a topic exchange: what is published there from now on.
    pub async fn listen(&self, exchange: &str, pattern: &str) -> Subscription {
        self.declare_exchange(exchange).await;
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let queue = in_time("declare", self.channel.queue_declare("".into(), options, FieldTable::default())).await.unwrap();
        let queue = queue.name().to_string();
        self.bind(&queue, exchange, pattern).await;
        self.consume(&queue).await
    }

    /// Consumes a queue, one message at a time.
    pub async fn consume(&self, queue: &str) -> Subscription {
        let channel = in_time("open a channel", self.connection.create_channel()).await.unwrap();
        in_time("qos", channel.basic_qos(1, BasicQosOptions::default())).await.unwrap();
        let asked = channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default());
        let consumer = in_time("consume", asked).await.unwrap();
        Subscription { consumer, _channel: channel }
    }

    /// Waits for the next message of a queue and takes it.
    pub async fn next(&self, queue: &str) -> Message {
        self.consume(queue).await.next().await.unwrap()
    }

    pub fn is_connected(&self) -> bool {
        self.connection.status().connected()
    }
}

impl Subscription {
    /// Waits for the next message and takes it; `None` once the broker has cancelled this consumer or closed its channel.
    pub async fn next(&mut self) -> Option<Message> {
        let delivery = in_time("a message", self.consumer.next()).await?.ok()?;
        in_time("ack", delivery.ack(BasicAckOptions::default())).await.unwrap();
        Some(Message::of(delivery))
    }

    /// Waits until `wanted` has found what it looks for in the messages that come.
    pub async fn find<T>(&mut self, mut wanted: impl FnMut(&Message) -> Option<T>) -> T {
        loop {
            let message = self.next().await.expect("the consumer goes on");
            if let Some(found) = wanted(&message) {
                return found;
            }
        }
    }
}

/// A header or argument that is text.
pub fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn json_of(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(value) => (*value).into(),
        AMQPValue::ShortShortInt(value) => (*value).into(),
        AMQPValue::ShortShortUInt(value) => (*value).into(),
        AMQPValue::ShortInt(value) => (*value).into(),
        AMQPValue::ShortUInt(value) => (*value).into(),
        AMQPValue::LongInt(value) => (*value).into(),
        AMQPValue::LongUInt(value) => (*value).into(),
        AMQPValue::LongLongInt(value) => (*value).into(),
        AMQPValue::Timestamp(value) => (*value).into(),
        AMQPValue::LongString(value) => String::from_utf8_lossy(value.as_bytes()).into(),
        AMQPValue::ShortString(value) => value.as_str().into(),
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(json_of).collect(),
        AMQPValue::FieldTable(table) => {
            let members = table.inner().iter().map(|(name, value)| (name.to_string(), json_of(value)));
            Value::Object(members.collect())
        }
        AMQPValue::Void => Value::Null,
        other => format!("{other:?}").into(),
    }
}

#[track_caller]
fn in_time<T>(what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let called_at = std::panic::Location::caller();
    async move {
        let waited = tokio::time::timeout(PATIENCE, future).await;
        waited.unwrap_or_else(|_| panic!("{what}: nothing within {PATIENCE:?}, at {called_at}"))
    }
}
