//! The live lane's own way: an item in its stream, then the frame to the bus, in the order of the commits. What accept stores in its own
//! commit takes its turn with what the lane stores later.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tokio::sync::{Mutex, oneshot};

use super::{
    Lane, Slot,
    attempt::{Ready, unrendered},
    carried::Carrier,
    reservation::PREFERRED,
};
use crate::{
    channel::live,
    event::{Event, emit},
    model::{Address, Body, Delivery, InboxItem, Notification, Place, Stream, Timestamp},
    socket::Bus,
    store::{Committing, Gate, LiveItem, LiveStored, Placement, StoreError},
    template::RenderError,
};

/// Lets commits publish in the order in which they went to the writer: a place in a stream is told after the one before it, so that
/// nobody who follows it meets a gap that is none.
#[derive(Default)]
pub(super) struct Turns(Mutex<Option<oneshot::Receiver<()>>>);

/// A commit's turn to publish. It has to be waited for whatever became of the commit: dropped, it is the next one's.
pub struct Turn {
    before: Option<oneshot::Receiver<()>>,
    _over: oneshot::Sender<()>,
}

impl Turn {
    /// Resolves when those before have published what they had.
    async fn come(&mut self) {
        if let Some(before) = self.before.take() {
            // An error is how a turn ends.
            let _ = before.await;
        }
    }
}

/// A live notification that accept is about to store.
pub struct Draft {
    delivery: Delivery,
    stream: Stream,
    notification: Notification,
}

/// A live notification that accept has stored, to be shown.
pub struct StoredDraft {
    draft: Draft,
    stored: LiveStored,
    _slot: Slot,
}

impl StoredDraft {
    pub(super) fn new(mut draft: Draft, job: i64, stored: LiveStored, slot: Slot) -> Self {
        draft.delivery.key.job = job;
        Self { draft, stored, _slot: slot }
    }
}

/// A batch that was taken and is not with the writer yet: what comes later waits. Over when dropped.
pub(super) struct Unwritten(Arc<Lane>);

impl Unwritten {
    /// Of a batch that was just taken, which has been counted.
    pub(super) fn taken(lane: &Arc<Lane>) -> Self {
        Self(lane.clone())
    }

    /// Of a batch that has to go to the writer again.
    fn again(lane: &Arc<Lane>) -> Self {
        lane.state().unwritten += 1;
        Self(lane.clone())
    }
}

impl Drop for Unwritten {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.unwritten -= 1;
        let wanted = !state.queue.is_empty();
        drop(state);
        if wanted {
            self.0.wake.notify_one();
        }
    }
}

/// A batch rendered, ready for the writer.
struct Rendered {
    deliveries: Vec<Ready>,
    notifications: Vec<Notification>,
    items: Arc<Vec<LiveItem>>,
}

impl Lane {
    /// Hands over to the writer by `enqueue`, and gives the turn to publish that goes with that place in its queue.
    ///
    /// # Errors
    /// The writer's.
    pub async fn in_turn<T>(
        &self,
        enqueue: impl Future<Output = Result<Committing<T>, StoreError>>,
    ) -> Result<(Committing<T>, Turn), StoreError> {
        let (over, next) = oneshot::channel();
        // Held across the hand-over, so that turns are in the order of the writer's queue.
        let mut last = self.turns.0.lock().await;
        let committing = enqueue.await?;
        Ok((committing, Turn { before: last.replace(next), _over: over }))
    }

    /// What a delivery puts into its stream, and where accept is to place it so that it does. `None` where it cannot be rendered: the lane
    /// makes an attempt of it that fails, as on any other channel.
    pub fn draft(&self, delivery: Delivery, now: Timestamp) -> Option<(Draft, Placement)> {
        // Who sends a job is not to be refused for a bug in the engine: the lane meets it.
        let rendered = catch_unwind(AssertUnwindSafe(|| self.templates.current().render(&delivery, now)));
        let Ok(Ok(Body::Live(notification))) = rendered else { return None };
        let (provider, stream) = (self.provider_name(PREFERRED.provider), stream_of(&delivery)?);
        let placement = Placement::Stored { provider, stream: stream.clone(), notification: as_stored(&notification) };
        Some((Draft { delivery, stream, notification }, placement))
    }

    /// Shows what accept's commit has stored, once it is its turn. Whoever waits for accept need not wait for the sockets.
    pub fn show_in_turn(self: &Arc<Self>, shown: Vec<StoredDraft>, mut turn: Turn) {
        let lane = self.clone();
        self.tracker.spawn(async move {
            turn.come().await;
            let Carrier::Sockets(bus) = &lane.carrier else { return };
            for StoredDraft { draft: Draft { delivery, stream, notification }, stored, _slot } in shown {
                lane.show(bus, &delivery, stream, notification, stored);
            }
        });
    }

    /// Stores a batch in one commit and shows it.
    pub(super) async fn send_live(self: Arc<Self>, batch: Vec<Ready>, unwritten: Unwritten) {
        let Carrier::Sockets(bus) = &self.carrier else { return };
        let Some(rendered) = self.render_live(batch) else { return };
        let mut unwritten = unwritten;
        loop {
            match self.store_live(&rendered, unwritten).await {
                Ok((stored, _turn)) => return self.show_all(bus, rendered, stored),
                Err(StoreError::Refused(reason)) => {
                    // Asking again changes nothing. They stay leased, and the next start takes them up.
                    return emit(&Event::StoreFailed { doing: "writing to inboxes; left until the next start", error: &reason });
                }
                Err(error) => emit(&Event::StoreFailed { doing: "writing to inboxes; trying again", error: &error.to_string() }),
            }
            unwritten = Unwritten::again(&self);
            if self.paused_by_store().await {
                return;
            }
        }
    }

    /// Resolves after the commit, when it is this batch's turn to publish.
    async fn store_live(&self, rendered: &Rendered, unwritten: Unwritten) -> Result<(Vec<Result<LiveStored, Gate>>, Turn), StoreError> {
        let enqueue = self.store.send_live(rendered.items.clone(), self.lease(Timestamp::now()));
        let (committing, mut turn) = self.in_turn(enqueue).await?;
        drop(unwritten);
        let stored = committing.committed().await;
        turn.come().await;
        Ok((stored?, turn))
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
                        notification: as_stored(&notification),
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

    fn show_all(&self, bus: &Bus, rendered: Rendered, stored: Vec<Result<LiveStored, Gate>>) {
        let Rendered { deliveries, notifications, items } = rendered;
        for (((ready, notification), item), stored) in deliveries.iter().zip(notifications).zip(&*items).zip(stored) {
            let delivery = &ready.delivery;
            match stored {
                Ok(stored) => self.show(bus, delivery, item.stream.clone(), notification, stored),
                Err(gate) => self.not_opened(delivery, gate),
            }
        }
    }

    fn show(&self, bus: &Bus, delivery: &Delivery, stream: Stream, notification: Notification, stored: LiveStored) {
        let LiveStored { id, seq, created_at, unread } = stored;
        let shown = InboxItem {
            id,
            place: Place { stream, seq },
            epoch: self.store.epoch().clone(),
            created_at,
            seen_at: None,
            read_at: None,
            archived_at: None,
            notification,
            delivery: delivery.key,
        };
        live::publish(bus, &shown, unread);
        self.count_ended();
        let (attempt, provider) = (delivery.attempts + 1, self.provider_name(PREFERRED.provider));
        emit(&Event::DeliverySent { delivery, provider, attempt, started_at: created_at, finished_at: Timestamp::now() });
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

/// Our own type with string keys: it is always JSON.
fn as_stored(notification: &Notification) -> Arc<str> {
    serde_json::to_string(notification).unwrap_or_default().into()
}

fn stream_of(delivery: &Delivery) -> Option<Stream> {
    match &delivery.address {
        Address::Topic(topic) => Some(Stream::Topic(topic.clone())),
        _ => delivery.user_id.clone().map(Stream::User),
    }
}
