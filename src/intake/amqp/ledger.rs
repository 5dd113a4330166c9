//! Which messages are dealt with, and what to tell the broker about it: as few acknowledgements as the order allows. Pure.

use std::collections::VecDeque;

/// The messages of one consumer that are not acknowledged yet, by delivery tag. Tags count up from 1 on every channel.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The tag of the first of `entries`.
    first: u64,
    entries: VecDeque<Entry>,
    /// Bytes of the messages that are not acknowledged.
    bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    state: State,
    bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Done,
    /// Acknowledged by itself, before those ahead of it.
    Told,
}

/// One acknowledgement to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    pub tag: u64,
    /// Together with everything before it.
    pub multiple: bool,
}

impl Ledger {
    /// A message arrived. Tags come in order.
    pub fn arrived(&mut self, tag: u64, bytes: usize) {
        if self.entries.is_empty() {
            self.first = tag;
        }
        self.entries.push_back(Entry { state: State::Open, bytes });
        self.bytes += bytes;
    }

    /// A message is dealt with.
    pub fn done(&mut self, tag: u64) {
        let place = usize::try_from(tag.wrapping_sub(self.first)).ok();
        if let Some(entry) = place.and_then(|place| self.entries.get_mut(place)) {
            entry.state = State::Done;
        }
    }

    /// What to acknowledge now: everything up to the first open one at once, then those behind it one by one.
    pub fn acks(&mut self) -> Vec<Ack> {
        let mut acks = Vec::new();
        let mut last = None;
        while let Some(entry) = self.entries.front().filter(|entry| entry.state != State::Open) {
            self.bytes -= if entry.state == State::Done { entry.bytes } else { 0 };
            last = Some(entry.state).filter(|state| *state == State::Done).map(|_| self.first).or(last);
            self.entries.pop_front();
            self.first += 1;
        }
        acks.extend(last.map(|tag| Ack { tag, multiple: true }));
        for (tag, entry) in (self.first..).zip(&mut self.entries).filter(|(_, entry)| entry.state == State::Done) {
            entry.state = State::Told;
            self.bytes -= entry.bytes;
            acks.push(Ack { tag, multiple: false });
        }
        acks
    }

    /// Messages neither acknowledged nor waiting to be.
    pub fn open(&self) -> usize {
        self.entries.iter().filter(|entry| entry.state == State::Open).count()
    }

    /// Bytes of bodies not acknowledged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(arrived: u64, done: &[u64], expected: &[(u64, bool)]) {
        let mut ledger = Ledger::default();
        (1..=arrived).for_each(|tag| ledger.arrived(tag, 10));
        for tag in done {
            ledger.done(*tag);
        }
        let acks: Vec<(u64, bool)> = ledger.acks().iter().map(|ack| (ack.tag, ack.multiple)).collect();
        assert_eq!(acks, expected);
        assert_eq!(ledger.acks(), []);
        let open = usize::try_from(arrived).unwrap() - done.len();
        assert_eq!((ledger.open(), ledger.bytes()), (open, open * 10));
    }

    #[test]
    fn what_is_done_in_order_is_told_at_once() {
        check(3, &[], &[]);
        check(3, &[1, 2, 3], &[(3, true)]);
        check(5, &[2, 1], &[(2, true)]);
        check(5, &[1, 3, 5], &[(1, true), (3, false), (5, false)]);
    }

    proptest! {
        /// The broker's view: whatever the order, each message is acknowledged exactly once, and only when it is done.
        #[test]
        fn each_is_told_once(order in Just((1_u64..=40).collect::<Vec<_>>()).prop_shuffle(), every in 1_usize..5) {
            let mut ledger = Ledger::default();
            (1..=40).for_each(|tag| ledger.arrived(tag, 1));
            let (mut unacknowledged, mut done): (BTreeSet<u64>, BTreeSet<u64>) = ((1..=40).collect(), BTreeSet::new());
            for (place, tag) in order.into_iter().enumerate() {
                ledger.done(tag);
                done.insert(tag);
                if place % every != 0 && done.len() < 40 {
                    continue;
                }
                for ack in ledger.acks() {
                    let told: Vec<u64> = unacknowledged.iter().copied().filter(|tag| *tag == ack.tag || ack.multiple && *tag < ack.tag).collect();
                    prop_assert!(told.contains(&ack.tag), "{ack:?} is not known to the broker");
                    prop_assert!(told.iter().all(|tag| done.contains(tag)), "{ack:?} takes others with it");
                    for tag in told {
                        unacknowledged.remove(&tag);
                    }
                }
                prop_assert_eq!(ledger.bytes(), unacknowledged.len());
            }
            prop_assert!(unacknowledged.is_empty() && ledger.entries.is_empty());
        }
    }
}
