//! The live lane's own way: an item in its stream, then the frame to the bus, in the order of the commits.

use std::sync::Arc;

use tokio::sync::{Mutex, oneshot};

use super::{
    Lane,
    attempt::{Ready, unrendered},
    carried::Carrier,
};
use crate::{
    channel::live,
    event::{Event, emit},
    model::{Address, Body, Delivery, InboxItem, Notification, Place, Stream, Timestamp},
    socket::Bus,
    store::{Gate, LiveItem, LiveStored, StoreError},
    template::RenderError,
};

/// Lets batches publish in the order in which they went to the writer: a place in a stream is told after the one before it, so that
/// nobody who follows it meets a gap that is none.
#[derive(Default)]
pub(super) struct Turns(Mutex<Option<oneshot::Receiver<()>>>);

/// A batch rendered, ready for the writer.
struct Rendered {
    deliveries: Vec<Ready>,
    notifications: Vec<Notification>,
    items: Arc<Vec<LiveItem>>,
}

impl Lane {
    /// Stores a batch in one commit and shows it.
    pub(super) async fn send_live(self: Arc<Self>, batch: Vec<Ready>) {
        let Carrier::Sockets(bus) = &self.carrier else { return };
        let Some(rendered) = self.render_live(batch) else { return };
        loop {
            match self.store_live(&rendered).await {
                Ok((stored, mine)) => {
                    self.show(bus, rendered, stored);
                    // Nobody waits for the last one's turn.
                    let _ = mine.send(());
                    return;
                }
                Err(error) => emit(&Event::StoreFailed { doing: "writing to inboxes; trying again", error: &error.to_string() }),
            }
            if self.paused_by_store().await {
                return;
            }
        }
    }

    /// Resolves after the commit, when it is this batch's turn to publish; the next one's comes with the sender.
    async fn store_live(&self, rendered: &Rendered) -> Result<(Vec<Result<LiveStored, Gate>>, oneshot::Sender<()>), StoreError> {
        let (mine, next) = oneshot::channel();
        // Held across the hand-over, so that turns are in the order of the writer's queue.
        let mut turn = self.turns.0.lock().await;
        let committing = self.store.send_live(rendered.items.clone(), self.lease(Timestamp::now())).await?;
        let before = turn.replace(next);
        drop(turn);
        let stored = committing.committed().await;
        if let Some(before) = before {
            // An error says that the batch before failed: it has nothing to publish before us.
            let _ = before.await;
        }
        stored.map(|stored| (stored, mine))
    }

    /// What cannot be rendered is an attempt that failed, like on any other channel.
    fn render_live(self: &Arc<Self>, batch: Vec<Ready>) -> Option<Rendered> {
        let (mut deliveries, mut notifications, mut items) = (Vec::new(), Vec::new(), Vec::new());
        let (templates, now) = (self.templates.current(), Timestamp::now());
        for ready in batch {
            let delivery = &ready.delivery;
            match templates.render(delivery, now) {
                Ok(Body::Live(notification)) => {
                    let Some(stream) = stream_of(delivery) else { continue };
                    items.push(LiveItem {
                        begin: self.begin_of(delivery, ready.permitted.provider),
                        stream,
                        notification: serde_json::to_string(&notification).unwrap_or_default().into(),
                        collapse_key: delivery.job.collapse_key.clone(),
                    });
                    notifications.push(notification);
                    deliveries.push(ready);
                }
                Ok(_) => {}
                Err(error) => {
                    let lane = self.clone();
                    self.tracker.spawn(async move { lane.fail_live(ready, &error).await });
                }
            }
        }
        (!items.is_empty()).then(|| Rendered { deliveries, notifications, items: Arc::new(items) })
    }

    fn show(&self, bus: &Bus, rendered: Rendered, stored: Vec<Result<LiveStored, Gate>>) {
        let Rendered { deliveries, notifications, items } = rendered;
        for (((ready, notification), item), stored) in deliveries.iter().zip(notifications).zip(&*items).zip(stored) {
            let delivery = &ready.delivery;
            let stored = match stored {
                Ok(stored) => stored,
                Err(gate) => {
                    self.not_opened(delivery, gate);
                    continue;
                }
            };
            let shown = InboxItem {
                id: stored.id,
                place: Place { stream: item.stream.clone(), seq: stored.seq },
                epoch: self.store.epoch().clone(),
                created_at: stored.created_at,
                seen_at: None,
                read_at: None,
                archived_at: None,
                notification,
                delivery: delivery.key,
            };
            live::publish(bus, &shown, stored.unread);
            self.count_ended();
            let (attempt, provider) = (delivery.attempts + 1, self.provider_name(ready.permitted.provider));
            emit(&Event::DeliverySent { delivery, provider, attempt, started_at: stored.created_at, finished_at: Timestamp::now() });
        }
    }

    async fn fail_live(&self, ready: Ready, error: &RenderError) {
        let batch = [ready];
        let gates = self.gates(&batch).await;
        let [ready] = batch;
        match gates.as_deref() {
            Some([Gate::Open { started_at }]) => self.conclude_unsent(ready, *started_at, unrendered(error)).await,
            Some([gate]) => self.not_opened(&ready.delivery, *gate),
            _ => {}
        }
    }
}

fn stream_of(delivery: &Delivery) -> Option<Stream> {
    match &delivery.address {
        Address::Topic(topic) => Some(Stream::Topic(topic.clone())),
        _ => delivery.user_id.clone().map(Stream::User),
    }
}
