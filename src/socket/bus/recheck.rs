//! Looks into the store for what no message told: at once after anything may have been missed, and slowly all the time.
//!
//! Whoever is behind is given a hint and reads. A stream whose last item has been shown here already is left alone.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use indexmap::IndexSet;
use tokio::{sync::Notify, time::sleep};

use super::{
    super::hub::{Frame, Hub},
    BusCounters,
};
use crate::{
    event::{Event, emit},
    model::{Place, Stream},
    store::Store,
};

/// Streams looked up in one read.
const SLICE: usize = 256;

#[derive(Default)]
pub(super) struct Recheck {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    /// To be looked up at once.
    soon: IndexSet<Stream>,
    /// The last seq shown here, of streams that have been looked up since they are followed.
    shown: HashMap<Stream, i64>,
}

impl Recheck {
    /// Somebody here follows `stream`, or nobody any more.
    pub fn note(&self, stream: &Stream, is_followed: bool) {
        if is_followed {
            self.wake.notify_one();
        } else {
            let mut state = self.lock();
            state.shown.remove(stream);
            state.soon.swap_remove(stream);
        }
    }

    /// An item has been shown here.
    pub fn shown(&self, stream: &Stream, seq: i64) {
        if let Some(shown) = self.lock().shown.get_mut(stream) {
            *shown = seq.max(*shown);
        }
    }

    /// Has these looked up at once.
    pub fn soon(&self, streams: impl IntoIterator<Item = Stream>) {
        self.lock().soon.extend(streams);
        self.wake.notify_one();
    }

    /// Looks up every followed stream within `interval`, a slice at a time, and those that must be at once in between. Never ends.
    pub async fn run(&self, hub: &Hub, store: &Store, counters: &BusCounters, interval: Duration) {
        let mut failed = false;
        loop {
            let followed = hub.followed();
            if followed.is_empty() {
                self.wake.notified().await;
            }
            let slices = followed.len().div_ceil(SLICE);
            for slice in followed.chunks(SLICE) {
                self.urgent_for(interval / u32::try_from(slices).unwrap_or(u32::MAX), hub, store, counters, &mut failed).await;
                self.look_up(slice.to_vec(), hub, store, counters, &mut failed).await;
            }
        }
    }

    /// Waits, and looks up meanwhile what must be at once.
    async fn urgent_for(&self, pause: Duration, hub: &Hub, store: &Store, counters: &BusCounters, failed: &mut bool) {
        let pause = sleep(pause);
        tokio::pin!(pause);
        loop {
            let urgent: Vec<Stream> = {
                let mut state = self.lock();
                let count = state.soon.len().min(SLICE);
                state.soon.drain(..count).collect()
            };
            if !urgent.is_empty() {
                self.look_up(urgent, hub, store, counters, failed).await;
                continue;
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = &mut pause => return,
            }
        }
    }

    async fn look_up(&self, streams: Vec<Stream>, hub: &Hub, store: &Store, counters: &BusCounters, failed: &mut bool) {
        let heads = match store.stream_heads(streams).await {
            Ok(heads) => heads,
            Err(error) => {
                if !std::mem::replace(failed, true) {
                    emit(&Event::StoreFailed { doing: "looking for what the bus did not tell; trying again", error: &error.to_string() });
                }
                return;
            }
        };
        *failed = false;
        for (stream, head) in heads {
            let seq = head.seq;
            // Between the two locks somebody may cease to follow it: the hint then goes to nobody, and the entry is of no use until then.
            if hub.is_followed(&stream) && self.is_behind(&stream, seq) {
                counters.healed.fetch_add(1, Relaxed);
                hub.publish(&stream, &Arc::new(Frame::hint(Place { stream: stream.clone(), seq })));
            }
        }
    }

    /// Whether the stream has come further than was shown here.
    fn is_behind(&self, stream: &Stream, seq: i64) -> bool {
        match self.lock().shown.entry(stream.clone()) {
            Entry::Occupied(mut shown) => {
                let is_behind = seq > *shown.get();
                *shown.get_mut() = seq.max(*shown.get());
                is_behind
            }
            // What was shown before is not known: to whoever has it all, a hint says nothing.
            Entry::Vacant(unknown) => {
                unknown.insert(seq);
                seq > 0
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, so a poisoned one is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_not_shown_is_behind() {
        let (recheck, stream) = (Recheck::default(), Stream::User("42".parse().unwrap()));
        recheck.shown(&stream, 5);
        assert!(recheck.is_behind(&stream, 7), "nothing is known of it yet");
        assert!(!recheck.is_behind(&stream, 7));
        recheck.shown(&stream, 8);
        recheck.shown(&stream, 6);
        assert!(!recheck.is_behind(&stream, 8));
        assert!(recheck.is_behind(&stream, 9));
        recheck.note(&stream, false);
        assert!(recheck.is_behind(&stream, 9), "whoever follows it next may have seen nothing");
        let empty = Stream::User("43".parse().unwrap());
        assert!(!recheck.is_behind(&empty, 0));
    }
}
