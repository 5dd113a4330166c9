//! One attempt from the gate to the recorded outcome.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt as _;

use super::{Carrier, Lane, STORE_RETRY, Slot, breaker::Change};
use crate::{
    channel::live,
    event::{self, Event, emit},
    model::{Body, Code, Delivery, InboxItem, Message, Notification, Outcome, PermanentKind, Status, Timestamp, UserId, Verdict, cut},
    retry::{self, Attempted},
    store::{Begin, Gate, Interrupted, LiveItem, LiveStored, Record, Recorded, StoreError},
    template::RenderError,
};

/// Bytes of an outcome's detail that are kept.
const DETAIL_LIMIT: usize = 500;

/// A delivery that has a slot and a provider.
pub(super) struct Ready {
    pub delivery: Delivery,
    pub provider: usize,
    pub is_probe: bool,
    pub slot: Slot,
}

/// An attempt that has its outcome.
struct Ended {
    delivery: Delivery,
    number: u32,
    provider: &'static str,
    started_at: Timestamp,
    outcome: Outcome,
}

impl Lane {
    /// Records that these attempts begin, in one commit, and makes them.
    pub(super) fn begin(self: Arc<Self>, batch: Vec<Ready>) {
        let lane = self.clone();
        self.tracker.spawn(async move {
            if let Carrier::Sockets(_) = lane.carrier {
                for ready in batch {
                    let live = lane.clone();
                    lane.tracker.spawn(async move { live.send_live(ready).await });
                }
            } else {
                lane.open_gates(batch).await;
            }
        });
    }

    /// Makes an attempt that is recorded already.
    pub(super) fn attempt(self: Arc<Self>, ready: Ready, started_at: Timestamp) {
        let lane = self.clone();
        self.tracker.spawn(async move {
            fail::fail_point!("attempt-recorded");
            let outcome = match lane.templates.render(&ready.delivery) {
                Ok(body) => lane.call(ready.provider, &message(&ready.delivery, body)).await,
                Err(error) => unrendered(&error),
            };
            lane.learn(ready.provider, ready.is_probe, &outcome);
            let provider = lane.provider_name(ready.provider);
            let number = ready.delivery.attempts + 1;
            let ended = Ended { delivery: ready.delivery, number, provider, started_at, outcome };
            lane.conclude(ended, Some(ready.slot)).await;
        });
    }

    /// Resolves an attempt that an earlier run left without an outcome.
    pub async fn resolve_interrupted(&self, interrupted: Interrupted) {
        let provider = match &self.carrier {
            Carrier::Providers(carried) => carried.iter().map(|carried| carried.provider.name()).find(|name| *name == interrupted.provider),
            Carrier::Sockets(_) => None,
        };
        let outcome = Outcome::Unknown { code: Code::INTERRUPTED, detail: "the process ended during this attempt".to_owned() };
        let number = interrupted.delivery.attempts;
        let provider = provider.unwrap_or("removed");
        let ended = Ended { delivery: interrupted.delivery, number, provider, started_at: interrupted.started_at, outcome };
        self.conclude(ended, None).await;
    }

    async fn open_gates(self: Arc<Self>, batch: Vec<Ready>) {
        let Some(gates) = self.gates(&batch).await else { return };
        for (ready, gate) in batch.into_iter().zip(gates) {
            if let Gate::Open { started_at } = gate {
                self.clone().attempt(ready, started_at);
            } else {
                self.forgo(ready.provider, ready.is_probe, Timestamp::now());
                self.not_opened(&ready.delivery, gate);
            }
        }
    }

    /// Asks until the store can be written; `None` when the lane stops first: nothing is recorded, and the leases are given back.
    async fn gates(&self, batch: &[Ready]) -> Option<Vec<Gate>> {
        loop {
            let begins = batch.iter().map(|ready| self.begin_of(&ready.delivery, ready.provider)).collect();
            match self.store.begin(begins, self.lease(Timestamp::now())).await {
                Ok(gates) => return Some(gates),
                Err(error) => emit(&Event::StoreFailed { doing: "recording attempts; trying again", error: &error.to_string() }),
            }
            if self.paused_by_store().await {
                return None;
            }
        }
    }

    fn begin_of(&self, delivery: &Delivery, provider: usize) -> Begin {
        Begin { key: delivery.key, channel: self.channel, attempts: delivery.attempts, provider: self.provider_name(provider) }
    }

    fn not_opened(&self, delivery: &Delivery, gate: Gate) {
        if gate == Gate::Expired {
            self.count_ended();
            let code = Some(Code::EXPIRED);
            emit(&Event::DeliveryEnded { delivery, attempt: delivery.attempts, status: Status::Expired, code, detail: None });
        } else {
            emit(&Event::DeliveryLost { delivery });
        }
    }

    /// One call, bounded in time. A panic or a time-out leaves it open whether the message was taken.
    async fn call(&self, provider: usize, message: &Message) -> Outcome {
        let Carrier::Providers(carried) = &self.carrier else {
            return Outcome::Transient { code: Code::PROVIDER_UNAVAILABLE, detail: String::new(), retry_after: None };
        };
        let send = AssertUnwindSafe(carried[provider].provider.send(message)).catch_unwind();
        tokio::select! {
            answered = tokio::time::timeout(self.config.call_timeout, send) => match answered {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Outcome::Unknown { code: Code::PROVIDER_PANICKED, detail: "a bug in the provider; please report it".to_owned() },
                Err(_) => Outcome::Unknown { code: Code::TIMEOUT, detail: format!("no answer within {:?}", self.config.call_timeout) },
            },
            () = self.abort.cancelled() => {
                Outcome::Unknown { code: Code::INTERRUPTED, detail: "still under way when the daemon had to stop".to_owned() }
            }
        }
    }

    fn learn(&self, provider: usize, is_probe: bool, outcome: &Outcome) {
        let Carrier::Providers(carried) = &self.carrier else { return };
        let carried = &carried[provider];
        let change = carried.breaker().record(outcome, Timestamp::now());
        let name = carried.provider.name();
        match &change {
            Change::None => {}
            Change::Opened { reason } => emit(&Event::BreakerOpened { provider: name, channel: self.channel, reason }),
            Change::Closed => emit(&Event::BreakerClosed { provider: name, channel: self.channel }),
        }
        if is_probe || change != Change::None {
            self.wake.notify_one();
        }
    }

    /// Judges, records, and frees the slot once the outcome is with the writer. An outcome is never given up on.
    async fn conclude(&self, ended: Ended, slot: Option<Slot>) {
        let finished_at = Timestamp::now();
        let attempted = Attempted { number: ended.number, expires_at: ended.delivery.expires_at };
        let verdict = retry::judge(&self.config.retry, self.config.on_unknown, attempted, &ended.outcome, finished_at, fastrand::f64());
        let record = self.record_of(&ended, verdict, finished_at);
        let mut slot = slot;
        loop {
            let committed = match self.store.record(record.clone()).await {
                Ok(committing) => {
                    drop(slot.take());
                    committing.committed().await
                }
                Err(error) => Err(error),
            };
            match committed {
                Ok(recorded) => return self.report(&ended, verdict, recorded, finished_at),
                Err(StoreError::Refused(reason)) => {
                    // Asking again changes nothing. The attempt stays without an outcome, and the next start resolves it as unknown.
                    return emit(&Event::StoreFailed { doing: "recording an outcome; it is left open", error: &reason });
                }
                Err(error) => emit(&Event::StoreFailed { doing: "recording an outcome; trying again", error: &error.to_string() }),
            }
            tokio::select! {
                () = tokio::time::sleep(STORE_RETRY) => {}
                // Past the deadline the next start finds the attempt without an outcome, which is the truth.
                () = self.abort.cancelled() => return,
            }
        }
    }

    fn record_of(&self, ended: &Ended, verdict: Verdict, finished_at: Timestamp) -> Record {
        let (status, status_code, due_at) = match verdict {
            Verdict::Done => (Status::Sent, None, finished_at),
            Verdict::RetryAt(due) => (Status::Queued, ended.outcome.code(), due),
            Verdict::Dead { status, code } => (status, Some(code), finished_at),
        };
        let provider_id = match &ended.outcome {
            Outcome::Sent { provider_id } => provider_id.clone(),
            _ => None,
        };
        Record {
            key: ended.delivery.key,
            channel: self.channel,
            number: ended.number,
            provider: ended.provider,
            started_at: ended.started_at,
            finished_at,
            outcome: ended.outcome.as_str(),
            code: ended.outcome.code(),
            status_code,
            detail: ended.outcome.detail().filter(|detail| !detail.is_empty()).map(|detail| cut(detail, DETAIL_LIMIT)),
            provider_id,
            address_gone: matches!(ended.outcome, Outcome::Permanent { kind: PermanentKind::Address, .. }),
            status,
            due_at,
        }
    }

    fn report(&self, ended: &Ended, verdict: Verdict, recorded: Recorded, finished_at: Timestamp) {
        let Ended { delivery, number, provider, started_at, outcome } = ended;
        let (attempt, started_at) = (*number, *started_at);
        match (recorded, verdict) {
            (Recorded::Late { lifted }, _) => emit(&Event::OutcomeLate { delivery, attempt, lifted }),
            (Recorded::Now(Status::Queued), Verdict::RetryAt(next_at)) => {
                emit(&Event::DeliveryRetried { delivery, provider, attempt, outcome, next_at });
                self.wake_at(delivery.priority, next_at);
            }
            (Recorded::Now(Status::Sent), _) => {
                self.count_ended();
                emit(&Event::DeliverySent { delivery, provider, attempt, started_at, finished_at });
            }
            (Recorded::Now(status), verdict) => {
                self.count_ended();
                event::count_failed(delivery, provider, outcome);
                let code = match verdict {
                    Verdict::Dead { code, .. } => Some(code),
                    _ => outcome.code(),
                };
                emit(&Event::DeliveryEnded { delivery, attempt, status, code, detail: outcome.detail() });
            }
        }
    }

    fn count_ended(&self) {
        self.ended.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// True when the lane stops; false after a while, when the store may be asked again.
    async fn paused_by_store(&self) -> bool {
        tokio::select! {
            () = tokio::time::sleep(STORE_RETRY) => false,
            () = self.stop.cancelled() => true,
        }
    }

    /// A live delivery: attempt, inbox row and `sent` in one commit, then the frame to the hub.
    async fn send_live(self: Arc<Self>, ready: Ready) {
        let delivery = &ready.delivery;
        let notification = match self.templates.render(delivery) {
            Ok(Body::Live(notification)) => notification,
            Ok(_) => return,
            Err(error) => return self.fail_live(ready, &error).await,
        };
        let Some(user_id) = delivery.user_id.clone() else { return };
        let item = LiveItem {
            begin: self.begin_of(delivery, ready.provider),
            user_id,
            notification: serde_json::to_string(&notification).unwrap_or_default().into(),
            collapse_key: delivery.job.collapse_key.clone(),
        };
        loop {
            match self.store.send_live(item.clone(), self.lease(Timestamp::now())).await {
                Ok(Ok(stored)) => return self.publish(&ready, item.user_id, stored, notification),
                Ok(Err(gate)) => return self.not_opened(delivery, gate),
                Err(error) => emit(&Event::StoreFailed { doing: "writing to an inbox; trying again", error: &error.to_string() }),
            }
            if self.paused_by_store().await {
                return;
            }
        }
    }

    fn publish(&self, ready: &Ready, user_id: UserId, stored: LiveStored, notification: Notification) {
        self.count_ended();
        let Carrier::Sockets(hub) = &self.carrier else { return };
        let item = InboxItem {
            id: stored.id,
            user_id,
            seq: stored.seq,
            epoch: self.store.epoch().to_string(),
            created_at: stored.created_at,
            is_read: false,
            notification,
            delivery: ready.delivery.key,
        };
        live::publish(hub, &item);
        let (delivery, attempt) = (&ready.delivery, ready.delivery.attempts + 1);
        let provider = self.provider_name(ready.provider);
        emit(&Event::DeliverySent { delivery, provider, attempt, started_at: stored.created_at, finished_at: Timestamp::now() });
    }

    /// A live delivery that cannot be rendered is an attempt that failed, like on any other channel.
    async fn fail_live(&self, ready: Ready, error: &RenderError) {
        let batch = [ready];
        let gates = self.gates(&batch).await;
        let [ready] = batch;
        match gates.as_deref() {
            Some([Gate::Open { started_at }]) => {
                let number = ready.delivery.attempts + 1;
                let provider = self.provider_name(ready.provider);
                let ended = Ended { delivery: ready.delivery, number, provider, started_at: *started_at, outcome: unrendered(error) };
                self.conclude(ended, Some(ready.slot)).await;
            }
            Some([gate]) => self.not_opened(&ready.delivery, *gate),
            _ => {}
        }
    }
}

fn unrendered(error: &RenderError) -> Outcome {
    Outcome::Permanent { kind: PermanentKind::Payload, code: error.code(), detail: error.to_string() }
}

fn message(delivery: &Delivery, body: Body) -> Message {
    Message {
        delivery_id: delivery.id,
        job_id: delivery.job.id.clone(),
        user_id: delivery.user_id.clone(),
        collapse_key: delivery.job.collapse_key.clone(),
        expires_at: delivery.expires_at,
        body,
    }
}
