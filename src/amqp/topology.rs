//! What we declare on the broker: idempotently, and never by deleting first.

use lapin::{
    Channel, Connection, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use super::{AmqpError, Broker, EVENTS, JOBS, REJECTED, connection::CLOSED_NORMALLY};

/// Deliveries after which the broker itself gives a job up to the rejected queue. A safety net far above what we decide by: every rebuilt
/// session counts as a delivery of all it held.
const JOBS_DELIVERY_LIMIT: i32 = 1000;
/// Reading the rejected queue without taking from it counts as a delivery too: it must practically never end there.
const REJECTED_DELIVERY_LIMIT: i32 = 1_000_000;

/// The exchange and the queue for jobs, and the queue for what is rejected.
pub async fn declare_jobs(broker: &Broker, channel: &Channel) -> Result<(), AmqpError> {
    declare_queue(broker, channel, REJECTED, [("x-delivery-limit", AMQPValue::LongInt(REJECTED_DELIVERY_LIMIT))]).await?;
    declare_exchange(broker, channel, JOBS).await?;
    let text = |text: &str| AMQPValue::LongString(text.into());
    let arguments = [
        ("x-delivery-limit", AMQPValue::LongInt(JOBS_DELIVERY_LIMIT)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(REJECTED)),
        // What is given up is kept until the rejected queue has it. It works only with reject-publish.
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ];
    declare_queue(broker, channel, JOBS, arguments).await?;
    let bind = channel.queue_bind(JOBS.into(), JOBS.into(), "#".into(), QueueBindOptions::default(), FieldTable::default());
    broker.call("binding the queue tarishi.jobs", bind).await
}

/// The exchange for events. Queues behind it are for those who listen.
pub async fn declare_events(broker: &Broker, channel: &Channel) -> Result<(), AmqpError> {
    declare_exchange(broker, channel, EVENTS).await
}

/// How many messages a queue has ready, without making it.
///
/// # Errors
/// Among others, [`AmqpError::Absent`].
pub async fn count_ready(broker: &Broker, connection: &Connection, queue: &str) -> Result<u32, AmqpError> {
    // On a channel of its own: the broker closes the one where it is told of a queue that it does not have.
    let channel = broker.call("opening a channel", connection.create_channel()).await?;
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let declare = channel.queue_declare(queue.into(), options, FieldTable::default());
    let count = broker.call("looking for the queue", declare).await?.message_count();
    broker.call("closing a channel", channel.close(CLOSED_NORMALLY, "done".into())).await?;
    Ok(count)
}

/// Whether the exchange for events is there, without making it.
///
/// # Errors
/// Among others, [`AmqpError::Absent`].
pub async fn check_events(broker: &Broker, connection: &Connection) -> Result<(), AmqpError> {
    let channel = broker.call("opening a channel", connection.create_channel()).await?;
    let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
    let declare = channel.exchange_declare(EVENTS.into(), ExchangeKind::Topic, options, FieldTable::default());
    broker.call("looking for the exchange", declare).await?;
    broker.call("closing a channel", channel.close(CLOSED_NORMALLY, "done".into())).await
}

async fn declare_exchange(broker: &Broker, channel: &Channel, name: &str) -> Result<(), AmqpError> {
    let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let declare = channel.exchange_declare(name.into(), ExchangeKind::Topic, options, FieldTable::default());
    broker.call("declaring an exchange", declare).await
}

async fn declare_queue<const N: usize>(
    broker: &Broker,
    channel: &Channel,
    name: &str,
    arguments: [(&str, AMQPValue); N],
) -> Result<(), AmqpError> {
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    for (argument, value) in arguments {
        table.insert(argument.into(), value);
    }
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    broker.call("declaring a queue", channel.queue_declare(name.into(), options, table)).await.map(drop)
}
