//! What became of deliveries, told to whoever listens: pending events go from the store to the exchange `tarishi.events`.
//!
//! An event leaves the store when the broker has confirmed it, so it is published at least once, with the same id each time. It is not
//! `mandatory`: when nobody listens, the broker drops it, and that is right.

mod cloud_event;

use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, Event as ConnectionEvent,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use tokio_util::sync::CancellationToken;

use crate::{
    amqp::{self, AmqpError, Broker, Link, LinkStatus, PERSISTENT, Purpose},
    event::{Event, emit},
    store::{PendingEvent, Store, StoreError},
};

/// Events published before their confirms are waited for.
const BATCH: usize = 512;
/// How long to wait before asking a store again that failed.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// Publishes pending events.
pub struct EventFeed {
    broker: Broker,
    link: Link,
    store: Store,
    stop: CancellationToken,
}

impl EventFeed {
    pub fn new(broker: Broker, store: Store, stop: CancellationToken) -> Self {
        Self { broker, link: Link::new("events"), store, stop }
    }

    pub fn status(&self) -> LinkStatus {
        self.link.status()
    }

    /// Publishes until the daemon stops. What is pending then is published by the next run.
    pub async fn run(&self) {
        let mut sessions = self.link.sessions();
        while !self.stop.is_cancelled() {
            let ended = self.session().await;
            sessions.ended(ended, &self.stop).await;
        }
    }

    async fn session(&self) -> Result<(), AmqpError> {
        let (connection, host) = self.broker.connect(Purpose::Publish).await?;
        let channel = self.broker.call("opening a channel", connection.create_channel()).await?;
        amqp::declare_events(&self.broker, &channel).await?;
        self.broker.call("asking for confirms", channel.confirm_select(ConfirmSelectOptions::default())).await?;
        let ended = self.publish_pending(&connection, &channel, &host).await;
        if ended.is_ok() {
            // Whatever comes of it, the process is about to end.
            let _ = self.broker.call("closing", connection.close(200, "done".into())).await;
        }
        ended
    }

    async fn publish_pending(&self, connection: &Connection, channel: &Channel, host: &str) -> Result<(), AmqpError> {
        let mut written = self.store.events_written();
        let mut broken = std::pin::pin!(connection.events_listener());
        let mut published = 0;
        while !self.stop.is_cancelled() {
            written.mark_unchanged();
            let page = match self.store.pending_events(published, BATCH).await {
                Ok(page) => page,
                Err(error) => {
                    self.pause("reading events to publish; trying again", &error).await;
                    continue;
                }
            };
            if let Some(last) = page.last_seq {
                self.publish(channel, &page.events).await?;
                published = last;
                fail::fail_point!("events-confirmed");
                if let Err(error) = self.store.remove_events(published).await {
                    // The next removal takes these too.
                    self.pause("removing published events; trying again later", &error).await;
                }
            }
            // Not before something was confirmed: a broker that blocks publishers lets everybody connect.
            self.link.connected(host);
            if page.last_seq.is_some() {
                continue;
            }
            tokio::select! {
                _ = written.changed() => {}
                Some(event) = broken.next() => {
                    if let ConnectionEvent::Error(error) = event {
                        return Err(AmqpError::from_lapin("waiting", &error));
                    }
                }
                () = self.stop.cancelled() => {}
            }
        }
        Ok(())
    }

    /// Publishes all and waits until the broker has confirmed each.
    async fn publish(&self, channel: &Channel, events: &[PendingEvent]) -> Result<(), AmqpError> {
        const DOING: &str = "publishing events";
        let mut confirms = Vec::with_capacity(events.len());
        for event in events {
            let told = cloud_event::of(self.store.epoch(), event);
            let properties = BasicProperties::default()
                .with_content_type(cloud_event::CONTENT_TYPE.into())
                .with_message_id(told.id.as_str().into())
                .with_type(told.kind.as_str().into())
                .with_timestamp(u64::try_from(event.at.as_millis() / 1000).unwrap_or(0))
                .with_app_id("tarishi".into())
                .with_delivery_mode(PERSISTENT);
            let (exchange, key) = (amqp::EVENTS.into(), told.routing_key.as_str().into());
            let publish = channel.basic_publish(exchange, key, BasicPublishOptions::default(), &told.body, properties);
            confirms.push(self.broker.call(DOING, publish).await?);
        }
        for confirm in confirms {
            match self.broker.call(DOING, confirm).await? {
                Confirmation::Ack(_) => {}
                Confirmation::Nack(_) | Confirmation::NotRequested => return Err(AmqpError::NotTaken),
            }
        }
        Ok(())
    }

    async fn pause(&self, doing: &'static str, error: &StoreError) {
        emit(&Event::StoreFailed { doing, error: &error.to_string() });
        tokio::select! {
            () = tokio::time::sleep(STORE_RETRY) => {}
            () = self.stop.cancelled() => {}
        }
    }
}
