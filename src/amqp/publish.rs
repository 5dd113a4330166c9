//! Publishing to the exchange for jobs so that nothing is lost on the way: persistent, confirmed, and only where a queue takes it.

use lapin::{
    BasicProperties, Channel, Confirmation, Connection, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};

use super::{AmqpError, Broker, JOBS, PERSISTENT, Purpose, topology};

const DOING: &str = "publishing";

/// What producers use by convention; any other does as well.
pub(super) const JOB_ROUTING_KEY: &str = "job";
const JSON: &str = "application/json";

/// One message for the exchange.
#[derive(Clone, Debug, PartialEq)]
pub struct JobMessage {
    pub routing_key: ShortString,
    pub properties: BasicProperties,
    pub body: Vec<u8>,
}

impl JobMessage {
    /// One job in JSON, its id beside it. An id too long for a property stays in the body only.
    pub fn of_job(id: &str, body: String) -> Self {
        let mut properties = BasicProperties::default().with_content_type(JSON.into());
        if let Ok(id) = ShortString::try_new(id) {
            properties = properties.with_message_id(id);
        }
        Self::new(JOB_ROUTING_KEY, properties, body.into_bytes())
    }

    /// A routing key longer than AMQP's can only have been made up: it becomes the usual one.
    pub fn new(routing_key: &str, properties: BasicProperties, body: Vec<u8>) -> Self {
        let routing_key = ShortString::try_new(routing_key).unwrap_or_else(|_| JOB_ROUTING_KEY.into());
        Self { routing_key, properties: properties.with_delivery_mode(PERSISTENT), body }
    }
}

/// A connection to publish jobs on.
pub struct JobPublisher {
    broker: Broker,
    connection: Connection,
    channel: Channel,
}

impl JobPublisher {
    /// # Errors
    /// [`AmqpError::Absent`] when there is no queue for jobs: nobody would ever read them.
    pub async fn open(broker: &Broker) -> Result<Self, AmqpError> {
        let (connection, _) = broker.connect(Purpose::Command).await?;
        topology::count_ready(broker, &connection, JOBS).await?;
        let channel = broker.call("opening a channel", connection.create_channel()).await?;
        broker.call("asking for confirms", channel.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(Self { broker: broker.clone(), connection, channel })
    }

    /// Publishes all of them and waits until all are the broker's.
    ///
    /// # Errors
    /// Then any of them may be there or not: with several in flight, a return can come with the confirm of another one.
    pub async fn publish(&self, messages: &[JobMessage]) -> Result<(), AmqpError> {
        self.publish_all(messages).await.map_err(|error| match error {
            AmqpError::TimedOut { .. } if self.connection.status().blocked() => AmqpError::Blocked,
            other => other,
        })
    }

    async fn publish_all(&self, messages: &[JobMessage]) -> Result<(), AmqpError> {
        let mut confirms = Vec::with_capacity(messages.len());
        let mut stopped = None;
        for message in messages {
            match self.begin(message).await {
                Ok(confirm) => confirms.push(confirm),
                Err(error) => {
                    stopped = Some(error);
                    break;
                }
            }
        }
        // Those under way know why the channel closed; the one after them only that it did.
        for confirm in confirms {
            match self.broker.call(DOING, confirm).await? {
                Confirmation::Ack(None) => {}
                Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
                    return Err(AmqpError::Unroutable(returned.reply_text.to_string()));
                }
                Confirmation::Nack(None) | Confirmation::NotRequested => return Err(AmqpError::NotTaken),
            }
        }
        stopped.map_or(Ok(()), Err)
    }

    async fn begin(&self, message: &JobMessage) -> Result<PublisherConfirm, AmqpError> {
        let JobMessage { routing_key, properties, body } = message;
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let publish = self.channel.basic_publish(JOBS.into(), routing_key.clone(), options, body, properties.clone());
        self.broker.call(DOING, publish).await
    }

    pub async fn close(self) {
        self.broker.close(&self.connection).await;
    }
}
