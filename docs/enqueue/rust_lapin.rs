//! Jobs for Tarishi over RabbitMQ, with lapin. Here: `cargo run --release --example rust_lapin [ID]`.

use std::{error::Error, time::Duration};

use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::timeout};

/// How long one send may take, connecting included.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Sends jobs over one connection, which is made when it is needed.
struct Tarishi {
    url: String,
    // One job in flight: with several on one channel, lapin can attach a returned message to the wrong one.
    session: Mutex<Option<(Connection, Channel)>>,
}

impl Tarishi {
    fn new(url: &str) -> Self {
        Self { url: url.to_owned(), session: Mutex::new(None) }
    }

    /// Returns once the broker has the job on disk. After an error nobody knows: send the same job, with the same id, again.
    async fn send(&self, id: &str, job: &Value) -> Result<(), Box<dyn Error>> {
        let mut session = self.session.lock().await;
        // Taken out: when this is given up halfway, the next send begins with a new connection.
        let sent = timeout(TIMEOUT, self.publish(session.take(), id, job)).await;
        *session = Some(sent.map_err(|_| format!("{id}: not confirmed within {TIMEOUT:?}"))??);
        Ok(())
    }

    async fn publish(
        &self,
        session: Option<(Connection, Channel)>,
        id: &str,
        job: &Value,
    ) -> Result<(Connection, Channel), Box<dyn Error>> {
        let (connection, channel) = match session {
            Some((connection, channel)) if channel.status().connected() => (connection, channel),
            _ => self.connect().await?,
        };
        let properties =
            BasicProperties::default().with_message_id(id.into()).with_content_type("application/json".into()).with_delivery_mode(2); // Persistent.
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirm = channel.basic_publish("tarishi.jobs".into(), "job".into(), options, job.to_string().as_bytes(), properties).await?;
        match confirm.await? {
            Confirmation::Ack(None) => Ok((connection, channel)),
            // What no queue takes is returned, and then confirmed all the same.
            Confirmation::Ack(Some(_)) => Err(format!("{id}: no queue takes it; has this broker ever had a Tarishi?").into()),
            Confirmation::Nack(_) | Confirmation::NotRequested => Err(format!("{id}: the broker did not take it").into()),
        }
    }

    async fn connect(&self) -> lapin::Result<(Connection, Channel)> {
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok((connection, channel))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let tarishi = Tarishi::new(&std::env::var("TARISHI_AMQP_URL")?);
    // An id that means something in your system makes repeats harmless. This one is for trying out.
    let id = std::env::args().nth(1).unwrap_or_else(|| format!("try-{}", uuid::Uuid::now_v7()));
    let job = json!({
        "id": id,
        "template": "new_message",
        "to": [{ "user_id": "42", "email": "asha@example.com", "locale": "sw" }],
        "data": { "sender_name": "Juma", "preview": "Bado ipo?", "conversation_id": 7, "unread_count": 1 },
    });
    tarishi.send(&id, &job).await?;
    println!("{id}");
    Ok(())
}
