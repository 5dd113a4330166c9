//! The lane of one channel: its queue, pace, breakers and worker loop. It renders, sends, has the outcome judged, and records it.
//!
//! It knows nothing of what a provider speaks, and decides nothing about retries: [`crate::retry`] does.

mod attempt;
mod breaker;
mod carried;
mod live;
mod pace;
mod queue;
mod reservation;

use std::{
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter, clock::Clock as _};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{attempt::Ready, carried::Permitted, queue::Queue};
pub use self::{
    breaker::{Breaker, BreakerState},
    carried::{Carried, Carrier, ProviderStatus},
    live::{Draft, StoredDraft, Turn},
    pace::{Pace, PaceSettings, PaceStatus},
    reservation::Reservation,
};
use crate::{
    channel::email::unsubscribe::UnsubscribeLinks,
    config::ChannelConfig,
    event::{Event, emit},
    model::{Channel, Code, Delivery, Priority, Status, Timestamp},
    store::{Lease, Store, StoreError},
    template::Shelf,
};

/// Deliveries claimed from the store in one go, per priority.
const CLAIM_LIMIT: usize = 512;
/// Attempts that begin in one commit.
const BATCH_LIMIT: usize = 256;
/// The longest a lane sleeps while something is due later: bounds what a stepped clock can do.
const SLEEP_LIMIT: Duration = Duration::from_mins(1);
/// How long to wait before asking a store again that could not be written.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// One channel's lane.
pub struct Lane {
    channel: Channel,
    config: ChannelConfig,
    lease: Duration,
    carrier: Carrier,
    store: Store,
    templates: Arc<Shelf>,
    links: Arc<UnsubscribeLinks>,
    pace: Option<DefaultDirectRateLimiter>,
    state: Mutex<State>,
    /// By priority, when the earliest unleased delivery in the store is due.
    next_due: [AtomicI64; Priority::ALL.len()],
    ended: AtomicU64,
    wake: Notify,
    tracker: TaskTracker,
    /// No new attempts.
    stop: CancellationToken,
    /// Calls still open end as unknown.
    abort: CancellationToken,
    /// Of the live lane.
    turns: live::Turns,
}

struct State {
    queue: Queue,
    free_slots: usize,
    /// Batches taken that are not with the writer yet. Of the live lane: whatever comes later waits for them.
    unwritten: usize,
    claiming: bool,
    renewed_at: Timestamp,
}

/// What a lane is doing, for operators.
#[derive(Clone, Debug, serde::Serialize)]
pub struct LaneStatus {
    pub channel: Channel,
    /// Waiting in this process.
    pub in_memory: usize,
    pub in_flight: usize,
    pub concurrency: usize,
    /// Deliveries that ended since the start.
    pub ended_total: u64,
    /// When the earliest delivery that waits in the store is due.
    pub next_due_at: Option<Timestamp>,
    pub providers: Vec<ProviderStatus>,
}

impl Lane {
    pub fn new(
        channel: Channel,
        config: ChannelConfig,
        lease: Duration,
        carrier: Carrier,
        store: Store,
        templates: Arc<Shelf>,
        links: Arc<UnsubscribeLinks>,
    ) -> Arc<Self> {
        let pace = config.rate.and_then(NonZeroU32::new).map(|rate| RateLimiter::direct(Quota::per_second(rate)));
        let (queue, free_slots) = (Queue::new(config.queue), config.concurrency);
        let state = State { queue, free_slots, unwritten: 0, claiming: false, renewed_at: Timestamp::now() };
        Arc::new(Self {
            channel,
            config,
            lease,
            carrier,
            store,
            templates,
            links,
            pace,
            state: Mutex::new(state),
            // Whatever an earlier run left is due for all we know.
            next_due: Default::default(),
            ended: AtomicU64::new(0),
            wake: Notify::new(),
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            abort: CancellationToken::new(),
            turns: live::Turns::default(),
        })
    }

    /// Takes deliveries to their attempts until the lane is stopped.
    pub async fn run(self: Arc<Self>) {
        while !self.stop.is_cancelled() {
            let now = Timestamp::now();
            self.refill(now);
            self.renew(now);
            let (batch, wait) = self.take(now);
            if !batch.is_empty() {
                self.clone().begin(batch);
                continue;
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// A delivery of this priority waits in the store, due then.
    pub fn wake_at(&self, priority: Priority, due: Timestamp) {
        let before = self.next_due[priority as usize].fetch_min(due.as_millis(), Ordering::AcqRel);
        if due.as_millis() < before {
            self.wake.notify_one();
        }
    }

    /// Stops taking deliveries. Attempts under way go on.
    pub fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
    }

    /// Resolves when no attempt is under way and every outcome is recorded. Only after [`Self::stop`].
    pub async fn idle(&self) {
        self.tracker.wait().await;
    }

    /// Ends calls still open: their outcomes are unknown. Says how many there were.
    pub fn abort(&self) -> usize {
        self.abort.cancel();
        self.tracker.len()
    }

    /// Forgets what waits in memory and gives its leases back.
    pub async fn give_back(&self) -> usize {
        self.state().queue.clear();
        match self.store.give_back(self.channel, self.store.owner()).await {
            Ok(given_back) => given_back,
            Err(error) => {
                emit(&Event::StoreFailed { doing: "giving leases back; the next start voids them", error: &error.to_string() });
                0
            }
        }
    }

    pub fn status(&self) -> LaneStatus {
        let now = Timestamp::now();
        let state = self.state();
        let (in_memory, in_flight) = (state.queue.len(), self.config.concurrency - state.free_slots);
        drop(state);
        let due = self.next_due.iter().map(|due| due.load(Ordering::Relaxed)).min().unwrap_or(i64::MAX);
        LaneStatus {
            channel: self.channel,
            in_memory,
            in_flight,
            concurrency: self.config.concurrency,
            ended_total: self.ended.load(Ordering::Relaxed),
            next_due_at: (due > 0 && due < i64::MAX).then_some(Timestamp::from_millis(due)),
            providers: self.carrier.status(now),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease(&self, now: Timestamp) -> Lease {
        // Outlives the longest call, so that nobody takes a delivery whose attempt is under way.
        self.store.lease_until(now.saturating_add(self.lease.max(self.config.call_timeout * 2)))
    }

    fn is_due(&self, priority: Priority, now: Timestamp) -> bool {
        self.next_due[priority as usize].load(Ordering::Acquire) <= now.as_millis()
    }

    /// Claims due deliveries of the priorities that run low in memory.
    fn refill(self: &Arc<Self>, now: Timestamp) {
        let mut state = self.state();
        if state.claiming || self.stop.is_cancelled() {
            return;
        }
        let mut wanted = [0; Priority::ALL.len()];
        for priority in Priority::ALL {
            if self.is_due(priority, now) && self.runs_low(&state, priority) {
                wanted[priority as usize] = state.queue.reserve(priority, CLAIM_LIMIT);
            }
        }
        if wanted.iter().all(|wanted| *wanted == 0) {
            return;
        }
        state.claiming = true;
        drop(state);
        for priority in Priority::ALL {
            if wanted[priority as usize] > 0 {
                // Whoever becomes due from here on says so again.
                self.next_due[priority as usize].store(i64::MAX, Ordering::Release);
            }
        }
        let lane = self.clone();
        self.tracker.spawn(async move { lane.claim(wanted).await });
    }

    fn runs_low(&self, state: &State, priority: Priority) -> bool {
        state.queue.room(priority) > self.config.queue / 2
    }

    async fn claim(&self, wanted: [usize; 3]) {
        let claimed = self.store.claim(self.channel, wanted, self.lease(Timestamp::now())).await;
        let mut unused = wanted;
        let failed = match claimed {
            Ok(claimed) => {
                for (id, reason) in &claimed.unreadable {
                    emit(&Event::DeliveryUnreadable { id: *id, reason });
                }
                let mut state = self.state();
                for delivery in claimed.deliveries {
                    unused[delivery.priority as usize] -= 1;
                    state.queue.push_reserved(delivery);
                }
                drop(state);
                for priority in Priority::ALL {
                    if wanted[priority as usize] > 0 {
                        self.wake_at(priority, claimed.next_due[priority as usize]);
                    }
                }
                false
            }
            Err(error) => {
                emit(&Event::StoreFailed { doing: "claiming due deliveries; trying again", error: &error.to_string() });
                true
            }
        };
        if failed {
            tokio::select! {
                () = tokio::time::sleep(STORE_RETRY) => {}
                () = self.stop.cancelled() => {}
            }
            for priority in Priority::ALL {
                self.wake_at(priority, Timestamp::now());
            }
        }
        let mut state = self.state();
        for priority in Priority::ALL {
            state.queue.release(priority, unused[priority as usize]);
        }
        state.claiming = false;
        drop(state);
        self.wake.notify_one();
    }

    /// Prolongs the leases of what waits in memory, in bulk, before half of their time is over.
    fn renew(self: &Arc<Self>, now: Timestamp) {
        let mut state = self.state();
        if state.queue.is_empty() {
            state.renewed_at = now;
            return;
        }
        if now.since(state.renewed_at) < self.lease / 2 {
            return;
        }
        state.renewed_at = now;
        drop(state);
        let lane = self.clone();
        self.tracker.spawn(async move {
            if let Err(error) = lane.store.renew_leases(lane.channel, lane.lease(now)).await {
                emit(&Event::StoreFailed { doing: "renewing leases", error: &error.to_string() });
            }
        });
    }

    /// The deliveries whose attempts may begin now, each with its slot; else how long to sleep unless woken.
    fn take(self: &Arc<Self>, now: Timestamp) -> (Vec<Ready>, Duration) {
        let (mut batch, mut aside) = (Vec::new(), Vec::new());
        let mut wait = self.until_due(now);
        let mut state = self.state();
        if !state.queue.is_empty() {
            wait = wait.min(self.lease / 2);
        }
        while batch.len() + aside.len() < BATCH_LIMIT && state.free_slots > 0 && state.unwritten == 0 && !state.queue.is_empty() {
            let permitted = match self.permitted(now) {
                Ok(permitted) => permitted,
                Err(until) => {
                    wait = wait.min(until.since(now).max(Duration::from_millis(1)));
                    break;
                }
            };
            if let Some(pace) = &self.pace
                && let Err(not_until) = pace.check()
            {
                self.forgo(permitted, now);
                wait = wait.min(not_until.wait_time_from(governor::clock::DefaultClock::default().now()));
                break;
            }
            let Some(delivery) = state.queue.pop() else {
                self.forgo(permitted, now);
                break;
            };
            match self.as_pinned(&delivery, permitted, now) {
                Ok(permitted) => {
                    state.free_slots -= 1;
                    batch.push(Ready { delivery, permitted, slot: Slot(self.clone()) });
                }
                Err(until) => aside.push((delivery, until)),
            }
        }
        if !batch.is_empty() && matches!(self.carrier, Carrier::Sockets(_)) {
            state.unwritten += 1;
        }
        drop(state);
        if !aside.is_empty() {
            let lane = self.clone();
            self.tracker.spawn(async move { lane.put_aside(aside).await });
        }
        (batch, wait)
    }

    /// The permit that fits: a delivery whose outcome is unknown goes back to where it may have been taken, and nowhere else. Else when
    /// that provider can be asked, or never when it is not configured any more.
    fn as_pinned(&self, delivery: &Delivery, permitted: Permitted, now: Timestamp) -> Result<Permitted, Option<Timestamp>> {
        let Some(name) = &delivery.pinned else { return Ok(permitted) };
        let place = self.carrier.place(name);
        if place == Some(permitted.provider) {
            return Ok(permitted);
        }
        self.forgo(permitted, now);
        self.permitted_by(place.ok_or(None)?, now).map_err(Some)
    }

    /// Back to the store with what cannot begin while others can, so that it does not stand in their way.
    async fn put_aside(&self, aside: Vec<(Delivery, Option<Timestamp>)>) {
        for (delivery, until) in aside {
            loop {
                let put = match until {
                    Some(until) => self.store.postpone(vec![delivery.key], until).await,
                    None => self.store.give_up(delivery.key, self.channel).await,
                };
                match put {
                    Ok(()) => break self.is_aside(&delivery, until),
                    // Asking again changes nothing. It stays leased, and the next start takes it up.
                    Err(StoreError::Refused(reason)) => {
                        break emit(&Event::StoreFailed {
                            doing: "putting a delivery aside; it is left until the next start",
                            error: &reason,
                        });
                    }
                    Err(error) => emit(&Event::StoreFailed { doing: "putting a delivery aside; trying again", error: &error.to_string() }),
                }
                // Nobody else has it: its lease is ours and is renewed. When the lane stops, leases are given back.
                if self.paused_by_store().await {
                    return;
                }
            }
        }
    }

    fn is_aside(&self, delivery: &Delivery, until: Option<Timestamp>) {
        if let Some(until) = until {
            return self.wake_at(delivery.priority, until);
        }
        self.ended.fetch_add(1, Ordering::Relaxed);
        let detail = Some("the provider that may have taken it is not configured any more, and no other may try");
        let (status, code) = (Status::Failed, Some(Code::UNKNOWN_OUTCOME));
        emit(&Event::DeliveryEnded { delivery, attempt: delivery.attempts, status, code, detail });
    }

    fn until_due(&self, now: Timestamp) -> Duration {
        let state = self.state();
        let due = Priority::ALL
            .into_iter()
            .filter(|priority| !state.claiming && self.runs_low(&state, *priority))
            .map(|priority| self.next_due[priority as usize].load(Ordering::Acquire))
            .min();
        Timestamp::from_millis(due.unwrap_or(i64::MAX)).since(now).min(SLEEP_LIMIT)
    }

    /// Puts a delivery into memory whose room was reserved and whose lease is committed.
    fn push_reserved(&self, delivery: Delivery) {
        self.state().queue.push_reserved(delivery);
        self.wake.notify_one();
    }
}

/// One attempt's place among the lane's concurrent ones; free again when dropped.
struct Slot(Arc<Lane>);

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.free_slots += 1;
        let wanted = !state.queue.is_empty();
        drop(state);
        if wanted {
            self.0.wake.notify_one();
        }
    }
}
