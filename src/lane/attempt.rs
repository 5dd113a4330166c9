//! One attempt from the gate to the recorded outcome.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt as _;

use super::{Carrier, Lane, STORE_RETRY, Slot, carried::Permitted, live::Unwritten};
use crate::{
    event::{self, Event, emit},
    model::{Body, Channel, Code, Delivery, Message, Outcome, PermanentKind, Status, Timestamp, Verdict, cut},
    retry::{self, Attempted},
    store::{Begin, Gate, Interrupted, Record, Recorded, StoreError},
    template::{RenderError, Templates},
};

/// Bytes of an outcome's detail that are kept.
const DETAIL_LIMIT: usize = 500;

/// The member of a job's metadata that says on whose behalf it is.
const TENANT: &str = "tenant";

/// A delivery that has a slot and a provider.
pub(super) struct Ready {
    pub delivery: Delivery,
    pub permitted: Permitted,
    pub slot: Slot,
}

/// An attempt that has its outcome.
struct Ended<'a> {
    delivery: &'a Delivery,
    number: u32,
    provider: &'static str,
    started_at: Timestamp,
    outcome: Outcome,
}

impl Lane {
    /// Records that these attempts begin, in one commit, and makes them.
    pub(super) fn begin(self: Arc<Self>, batch: Vec<Ready>) {
        let lane = self.clone();
        match self.carrier {
            Carrier::Sockets(_) => {
                let unwritten = Unwritten::taken(&self);
                self.tracker.spawn(async move { lane.send_live(batch, unwritten).await });
            }
            Carrier::Providers(_) => {
                self.tracker.spawn(async move { lane.open_gates(batch).await });
            }
        }
    }

    /// Makes an attempt that is recorded already.
    pub(super) fn attempt(self: Arc<Self>, ready: Ready, started_at: Timestamp) {
        let lane = self.clone();
        self.tracker.spawn(async move {
            fail::fail_point!("attempt-recorded");
            lane.carry(ready, started_at).await;
        });
    }

    /// The attempt, and those of the next providers that make up for it.
    async fn carry(&self, ready: Ready, started_at: Timestamp) {
        let Ready { mut delivery, mut permitted, slot } = ready;
        let mut started_at = started_at;
        let message = self.message(&delivery);
        loop {
            let outcome = match &message {
                Ok(message) => self.call(permitted.provider, message).await,
                Err(error) => unrendered(error),
            };
            self.learn(permitted, &outcome);
            let (number, provider) = (delivery.attempts + 1, self.provider_name(permitted.provider));
            let ended = Ended { delivery: &delivery, number, provider, started_at, outcome };
            let next = self.next(&ended, permitted.provider);
            let Some(next) = next else { return self.conclude(ended, Some(slot)).await };
            match self.fail_over(&ended, next).await {
                Some(at) => started_at = at,
                None => return self.forgo(next, Timestamp::now()),
            }
            permitted = next;
            delivery.attempts = number;
        }
    }

    /// The provider that makes up for this outcome at once, where one may and can.
    fn next(&self, ended: &Ended<'_>, provider: usize) -> Option<Permitted> {
        let now = Timestamp::now();
        let verdict = self.judge(ended, ended.number, ended.delivery.pinned.is_none(), now);
        let next = if verdict == Verdict::NextProvider { self.permitted_after(provider, now) } else { None };
        if next.is_some() {
            self.hold(provider, &ended.outcome, now);
        }
        next
    }

    /// How many attempts are used up. Exact where it matters: when it may be all of them.
    async fn counted(&self, ended: &Ended<'_>) -> u32 {
        if ended.number < self.config.retry.attempts {
            return ended.number;
        }
        match self.store.uncounted_attempts(ended.delivery.key).await {
            Ok(uncounted) => ended.number.saturating_sub(uncounted),
            Err(error) => {
                emit(&Event::StoreFailed { doing: "counting a delivery's attempts; it gets another", error: &error.to_string() });
                0
            }
        }
    }

    fn judge(&self, ended: &Ended<'_>, counted: u32, has_next: bool, now: Timestamp) -> Verdict {
        let floor = self.retry_floor(ended.provider);
        let attempted = Attempted { number: ended.number, counted, expires_at: ended.delivery.expires_at, has_next, floor };
        retry::judge(&self.config.retry, self.config.on_unknown, attempted, &ended.outcome, now, fastrand::f64())
    }

    /// Records the outcome and the next provider's attempt in one commit; says when that one began, `None` when it must not.
    async fn fail_over(&self, ended: &Ended<'_>, next: Permitted) -> Option<Timestamp> {
        let finished_at = Timestamp::now();
        let record = self.record_of(ended, Verdict::NextProvider, finished_at);
        let begin = Begin { attempts: ended.number, ..self.begin_of(ended.delivery, next.provider) };
        loop {
            let committed = match self.store.fail_over(record.clone(), begin.clone(), self.lease(Timestamp::now())).await {
                Ok(committing) => committing.committed().await,
                Err(error) => Err(error),
            };
            match committed {
                Ok((recorded, gate)) => {
                    if recorded == Recorded::Now(Status::Queued) {
                        let Ended { delivery, provider, number, outcome, .. } = ended;
                        let next = self.provider_name(next.provider);
                        emit(&Event::DeliveryFailedOver { delivery, provider, next, attempt: *number, outcome });
                    } else {
                        self.report(ended, Verdict::NextProvider, recorded, finished_at);
                    }
                    return match gate? {
                        Gate::Open { started_at } => Some(started_at),
                        gate => {
                            self.not_opened(ended.delivery, gate);
                            None
                        }
                    };
                }
                Err(StoreError::Refused(reason)) => {
                    emit(&Event::StoreFailed { doing: "recording an outcome; it is left open", error: &reason });
                    return None;
                }
                Err(error) => emit(&Event::StoreFailed { doing: "recording an outcome; trying again", error: &error.to_string() }),
            }
            tokio::select! {
                () = tokio::time::sleep(STORE_RETRY) => {}
                () = self.abort.cancelled() => return None,
            }
        }
    }

    /// Resolves an attempt that an earlier run left without an outcome.
    pub async fn resolve_interrupted(&self, interrupted: Interrupted) {
        let provider = self.carrier.place(&interrupted.provider).map_or("removed", |place| self.provider_name(place));
        let outcome = Outcome::Unknown { code: Code::INTERRUPTED, detail: "the process ended during this attempt".to_owned() };
        let Interrupted { delivery, started_at, .. } = &interrupted;
        let ended = Ended { delivery, number: delivery.attempts, provider, started_at: *started_at, outcome };
        self.conclude(ended, None).await;
    }

    async fn open_gates(self: Arc<Self>, batch: Vec<Ready>) {
        let Some(gates) = self.gates(&batch).await else { return };
        for (ready, gate) in batch.into_iter().zip(gates) {
            if let Gate::Open { started_at } = gate {
                self.clone().attempt(ready, started_at);
            } else {
                self.forgo(ready.permitted, Timestamp::now());
                self.not_opened(&ready.delivery, gate);
            }
        }
    }

    /// Asks until the store can be written; `None` when the lane stops first: nothing is recorded, and the leases are given back.
    pub(super) async fn gates(&self, batch: &[Ready]) -> Option<Vec<Gate>> {
        loop {
            let begins = batch.iter().map(|ready| self.begin_of(&ready.delivery, ready.permitted.provider)).collect();
            match self.store.begin(begins, self.lease(Timestamp::now())).await {
                Ok(gates) => return Some(gates),
                Err(error) => emit(&Event::StoreFailed { doing: "recording attempts; trying again", error: &error.to_string() }),
            }
            if self.paused_by_store().await {
                return None;
            }
        }
    }

    pub(super) fn begin_of(&self, delivery: &Delivery, provider: usize) -> Begin {
        Begin {
            key: delivery.key,
            channel: self.channel,
            attempts: delivery.attempts,
            provider: self.provider_name(provider),
            list: self.list_of(&self.templates.current(), delivery),
        }
    }

    /// The kind of mail this is, where people may refuse it.
    fn list_of(&self, templates: &Templates, delivery: &Delivery) -> Option<Arc<str>> {
        if self.channel == Channel::Email { templates.unsubscribe_list(delivery.job.template.as_ref()?) } else { None }
    }

    /// What the provider is handed.
    fn message(&self, delivery: &Delivery) -> Result<Message, RenderError> {
        let templates = self.templates.current();
        let mut body = templates.render(delivery, Timestamp::now())?;
        if let (Body::Email(mail), Some(list)) = (&mut body, self.list_of(&templates, delivery)) {
            mail.unsubscribe_url = self.links.link(&mail.to, &list);
        }
        Ok(message(delivery, body))
    }

    pub(super) fn not_opened(&self, delivery: &Delivery, gate: Gate) {
        let (status, code) = match gate {
            Gate::Expired => (Status::Expired, Code::EXPIRED),
            Gate::Suppressed => (Status::Suppressed, Code::SUPPRESSED),
            Gate::Open { .. } | Gate::Lost => return emit(&Event::DeliveryLost { delivery }),
        };
        self.count_ended();
        emit(&Event::DeliveryEnded { delivery, attempt: delivery.attempts, status, code: Some(code), detail: None });
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

    /// Judges, records, and frees the slot once the outcome is with the writer. An outcome is never given up on.
    async fn conclude(&self, ended: Ended<'_>, slot: Option<Slot>) {
        let finished_at = Timestamp::now();
        let verdict = self.judge(&ended, self.counted(&ended).await, false, finished_at);
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

    fn record_of(&self, ended: &Ended<'_>, verdict: Verdict, finished_at: Timestamp) -> Record {
        let (status, status_code, due_at) = match verdict {
            Verdict::Done => (Status::Sent, None, finished_at),
            Verdict::RetryAt(due) => (Status::Queued, ended.outcome.code(), due),
            Verdict::NextProvider => (Status::Queued, ended.outcome.code(), finished_at),
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

    fn report(&self, ended: &Ended<'_>, verdict: Verdict, recorded: Recorded, finished_at: Timestamp) {
        let Ended { delivery, number, provider, started_at, outcome } = ended;
        let (attempt, started_at) = (*number, *started_at);
        match (recorded, verdict) {
            (Recorded::Late { lifted }, _) => emit(&Event::OutcomeLate { delivery, attempt, lifted }),
            (Recorded::Now(Status::Queued), Verdict::RetryAt(next_at)) => {
                emit(&Event::DeliveryRetried { delivery, provider, attempt, outcome, next_at });
                self.wake_at(delivery.priority, next_at);
            }
            // Delivered: the provider's callback was faster than its answer.
            (Recorded::Now(Status::Sent | Status::Delivered), _) => {
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

    pub(super) fn count_ended(&self) {
        self.ended.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// True when the lane stops; false after a while, when the store may be asked again.
    pub(super) async fn paused_by_store(&self) -> bool {
        tokio::select! {
            () = tokio::time::sleep(STORE_RETRY) => false,
            () = self.stop.cancelled() => true,
        }
    }

    /// Records an attempt that came to nothing before anybody was called.
    pub(super) async fn conclude_unsent(&self, ready: Ready, started_at: Timestamp, outcome: Outcome) {
        let number = ready.delivery.attempts + 1;
        let provider = self.provider_name(ready.permitted.provider);
        self.conclude(Ended { delivery: &ready.delivery, number, provider, started_at, outcome }, Some(ready.slot)).await;
    }
}

pub(super) fn unrendered(error: &RenderError) -> Outcome {
    Outcome::Permanent { kind: PermanentKind::Payload, code: error.code(), detail: error.to_string() }
}

fn message(delivery: &Delivery, body: Body) -> Message {
    Message {
        delivery_id: delivery.id,
        job_id: delivery.job.id.clone(),
        user_id: delivery.user_id.clone(),
        template: delivery.job.template.clone(),
        tenant: delivery.job.metadata.get(TENANT).cloned(),
        collapse_key: delivery.job.collapse_key.clone(),
        expires_at: delivery.expires_at,
        body,
    }
}
