//! Room that accept takes before its commit, so that what it commits as leased has a place to go.

use std::sync::Arc;

use super::{
    Lane, Slot,
    attempt::Ready,
    carried::Permitted,
    live::{Draft, StoredDraft},
};
use crate::{
    model::{Delivery, Priority, Timestamp},
    store::LiveStored,
};

/// Places in one lane for one job's deliveries. What is not used is given back when this is dropped.
pub struct Reservation {
    lane: Arc<Lane>,
    priority: Priority,
    slots: Vec<Slot>,
    room: usize,
}

/// Deliveries on their way into memory that a later one with a free slot does not overtake.
const CROWD: usize = 64;

/// The preferred provider: the only one that first attempts go to directly.
pub(super) const PREFERRED: Permitted = Permitted { provider: 0, is_probe: false };

impl Lane {
    /// Takes up to `wanted` places for deliveries that are due now. Free slots first, up to `at_once`: for those, the first attempt may be
    /// recorded in accept's own commit. No slots when older deliveries are in memory, or many on their way into it, nothing when they still
    /// wait in the store: they come first.
    pub fn reserve(self: &Arc<Self>, priority: Priority, wanted: usize, at_once: usize, now: Timestamp) -> Reservation {
        let mut reservation = Reservation { lane: self.clone(), priority, slots: Vec::new(), room: 0 };
        if wanted == 0 || self.stop.is_cancelled() || self.is_due(priority, now) {
            return reservation;
        }
        let mut state = self.state();
        if state.queue.is_empty() && state.queue.reserved() < CROWD && state.unwritten == 0 && !state.claiming {
            let slots = self.permitted_directly(wanted.min(at_once).min(state.free_slots), now);
            state.free_slots -= slots;
            reservation.slots.extend((0..slots).map(|_| Slot(self.clone())));
        }
        reservation.room = state.queue.reserve(priority, wanted - reservation.slots.len());
        reservation
    }
}

impl Reservation {
    /// Deliveries whose first attempt may be recorded in accept's commit.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Further deliveries that may be committed as leased.
    pub fn room(&self) -> usize {
        self.room
    }

    /// Takes room instead of one of the slots; false when there is none.
    pub fn leave_a_slot(&mut self) -> bool {
        self.slots.pop();
        let granted = self.lane.state().queue.reserve(self.priority, 1);
        self.room += granted;
        granted == 1
    }

    /// The provider of those first attempts.
    pub fn provider(&self) -> &'static str {
        self.lane.provider_name(PREFERRED.provider)
    }

    /// Starts an attempt that accept's commit recorded.
    pub fn start(&mut self, delivery: Delivery, started_at: Timestamp) {
        if let Some(slot) = self.slots.pop() {
            let ready = Ready { delivery, permitted: PREFERRED, slot };
            self.lane.clone().attempt(ready, started_at);
        }
    }

    /// Takes along the slot of a live notification that accept's commit stored for the job in this row.
    pub fn stored(&mut self, draft: Draft, job: i64, stored: LiveStored) -> Option<StoredDraft> {
        self.slots.pop().map(|slot| StoredDraft::new(draft, job, stored, slot))
    }

    /// Hands over a delivery that was committed as leased.
    pub fn enqueue(&mut self, delivery: Delivery) {
        if self.room > 0 {
            self.room -= 1;
            self.lane.push_reserved(delivery);
        }
    }

    /// Deliveries were committed without a lease: the lane claims them when due.
    pub fn wake_at(&self, due: Timestamp) {
        self.lane.wake_at(self.priority, due);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        for _ in &self.slots {
            self.lane.forgo(PREFERRED, Timestamp::now());
        }
        if self.room > 0 {
            self.lane.state().queue.release(self.priority, self.room);
        }
    }
}
