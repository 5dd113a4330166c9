//! Listening to the exchange for events, through a queue that lives as long as its listener.

use futures_util::StreamExt as _;
use lapin::{
    Connection, Consumer,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use super::{AmqpError, Broker, EVENTS, Purpose, topology};

/// Events on their way to a listener.
const PREFETCH: u16 = 256;
/// Events that wait for a listener that does not read; then the oldest are dropped.
const WAITING_LIMIT: i32 = 100_000;

/// Which events: the routing key of a binding to the topic exchange.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern(String);

impl Pattern {
    pub fn everything() -> Self {
        Self("#".to_owned())
    }

    /// Deliveries on this channel that take this status; absent is any.
    pub fn deliveries(channel: Option<&str>, status: Option<&str>) -> Self {
        Self(format!("delivery.{}.{}", channel.unwrap_or("*"), status.unwrap_or("*")))
    }

    pub fn gone_addresses() -> Self {
        Self("address.gone".to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A queue that exists while this does.
pub struct Listener {
    broker: Broker,
    connection: Connection,
    consumer: Consumer,
}

impl Listener {
    /// # Errors
    /// [`AmqpError::Absent`] when there is no exchange for events.
    pub async fn open(broker: &Broker, patterns: &[Pattern]) -> Result<Self, AmqpError> {
        let (connection, _) = broker.connect(Purpose::Command).await?;
        topology::check_events(broker, &connection).await?;
        let channel = broker.call("opening a channel", connection.create_channel()).await?;
        broker.call("setting the prefetch", channel.basic_qos(PREFETCH, BasicQosOptions::default())).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(WAITING_LIMIT));
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        let queue = broker.call("declaring a queue to listen on", channel.queue_declare("".into(), options, arguments)).await?;
        let queue = queue.name().as_str();
        for pattern in patterns {
            let options = QueueBindOptions::default();
            let bind = channel.queue_bind(queue.into(), EVENTS.into(), pattern.as_str().into(), options, FieldTable::default());
            broker.call("binding the queue to listen on", bind).await?;
        }
        let options = BasicConsumeOptions { exclusive: true, ..Default::default() };
        let consume = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
        let consumer = broker.call("listening", consume).await?;
        Ok(Self { broker: broker.clone(), connection, consumer })
    }

    /// The body of the next event, however long that takes.
    pub async fn next(&mut self) -> Result<Vec<u8>, AmqpError> {
        match self.consumer.next().await {
            Some(Ok(delivery)) => {
                self.broker.call("acknowledging", delivery.acker.ack(BasicAckOptions::default())).await?;
                Ok(delivery.data)
            }
            Some(Err(error)) => Err(AmqpError::from_lapin("listening", &error)),
            None => Err(AmqpError::Cancelled),
        }
    }

    pub async fn close(self) {
        self.broker.close(&self.connection).await;
    }
}
