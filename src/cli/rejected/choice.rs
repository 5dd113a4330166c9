//! Which of the rejected messages are meant, and how they are numbered. Pure.
//!
//! A quorum queue gives back what was read in no particular order, so a place in it is nothing to go by: a number is a rank by time.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use super::super::failure::{Exit, Failure};
use crate::{amqp::Rejected, model::Timestamp};

/// What an id begins with that could be taken for a number.
const ID_PREFIX: &str = "id=";

/// What messages are ordered by. Two that have the same are alike in all that matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    rejected_at: Timestamp,
    fingerprint: u64,
}

impl Key {
    /// One that does not say when it was rejected comes first.
    pub fn of(message: &Rejected) -> Self {
        let mut hasher = DefaultHasher::new();
        (&message.body, message.message_id(), message.reason(), message.routing_key()).hash(&mut hasher);
        Self { rejected_at: message.rejected_at().unwrap_or_default(), fingerprint: hasher.finish() }
    }
}

/// The keys of everything that is there.
#[derive(Debug, Default)]
pub struct Keys(Vec<Key>);

/// The same in order.
#[derive(Debug)]
pub struct OrderedKeys(Vec<Key>);

impl Keys {
    pub fn add(&mut self, key: Key) {
        self.0.push(key);
    }

    pub fn in_order(mut self) -> OrderedKeys {
        self.0.sort_unstable();
        OrderedKeys(self.0)
    }
}

impl OrderedKeys {
    /// Counted from 1; of several alike the first.
    pub fn number_of(&self, key: Key) -> u32 {
        // A queue's length is a 32-bit number to AMQP.
        u32::try_from(self.0.partition_point(|other| *other < key) + 1).unwrap_or(u32::MAX)
    }

    /// The numbers of these, which are in order, each its own.
    pub fn numbers_of(&self, keys: impl Iterator<Item = Key>) -> Vec<u32> {
        let mut numbers: Vec<u32> = Vec::new();
        for key in keys {
            let least = numbers.last().map_or(0, |last| last + 1);
            numbers.push(self.number_of(key).max(least));
        }
        numbers
    }
}

/// A choice, and what of it has been found.
#[derive(Debug, Default)]
pub struct Choice {
    numbers: BTreeSet<u32>,
    /// What the numbers stand for, and how many of each.
    keys: BTreeMap<Key, u32>,
    /// With whether it was found.
    ids: BTreeMap<String, bool>,
    reason: Option<String>,
    before: Option<Timestamp>,
    all: bool,
    missing: Vec<u32>,
}

impl Choice {
    /// # Errors
    /// Nothing is chosen.
    pub fn new(which: &[String], reason: Option<&str>, before: Option<Timestamp>, all: bool) -> Result<Self, Failure> {
        let mut choice = Self { reason: reason.map(str::to_owned), before, all, ..Self::default() };
        for one in which {
            if let Some(id) = one.strip_prefix(ID_PREFIX) {
                choice.ids.insert(id.to_owned(), false);
            } else if one.bytes().all(|byte| byte.is_ascii_digit()) {
                let number = one.parse().ok().filter(|number| *number > 0);
                let hint = "numbers are those of `tarishi rejected list`, from 1; write id=… for an id that is a number";
                choice.numbers.insert(number.ok_or_else(|| Failure::usage(format!("there is no message number {one}"), hint))?);
            } else {
                choice.ids.insert(one.clone(), false);
            }
        }
        if which.is_empty() && reason.is_none() && before.is_none() && !all {
            let hint = "name ids or numbers from `tarishi rejected list`, or --reason REASON, or --all; purge also takes --older-than TIME";
            return Err(Failure::usage("nothing is chosen", hint));
        }
        Ok(choice)
    }

    pub const fn is_all(&self) -> bool {
        self.all
    }

    pub fn has_numbers(&self) -> bool {
        !self.numbers.is_empty()
    }

    /// The number, where one is all that was asked for.
    pub fn number(&self) -> Option<u32> {
        self.numbers.first().copied()
    }

    /// From now on the numbers stand for these messages, whatever comes and goes.
    pub fn resolve_numbers(&mut self, keys: &OrderedKeys) {
        for number in &self.numbers {
            match keys.0.get(*number as usize - 1) {
                Some(key) => *self.keys.entry(*key).or_default() += 1,
                None => self.missing.push(*number),
            }
        }
    }

    /// Nothing that is still to come can be meant. Ids may come again, so this is for numbers alone.
    pub fn is_exhausted(&self) -> bool {
        !self.all && self.ids.is_empty() && self.reason.is_none() && self.before.is_none() && self.keys.is_empty()
    }

    /// Whether this message is meant.
    pub fn takes(&mut self, message: &Rejected, key: Key, ids: impl FnOnce() -> Vec<String>) -> bool {
        if self.all {
            return true;
        }
        if self.reason.is_some() || self.before.is_some() {
            let reason_fits = self.reason.as_ref().is_none_or(|reason| *reason == message.reason());
            let is_old = || self.before.is_none_or(|before| message.rejected_at().is_some_and(|at| at < before));
            return reason_fits && is_old();
        }
        let by_number = match self.keys.get_mut(&key) {
            Some(wanted) => {
                *wanted -= 1;
                if *wanted == 0 {
                    self.keys.remove(&key);
                }
                true
            }
            None => false,
        };
        let mut by_id = false;
        if !self.ids.is_empty() {
            for id in ids() {
                if let Some(found) = self.ids.get_mut(&id) {
                    (*found, by_id) = (true, true);
                }
            }
        }
        by_number || by_id
    }

    /// # Errors
    /// Some of those named were not there.
    pub fn check_all_found(&self) -> Result<(), Failure> {
        let numbers = self.missing.iter().map(|number| format!("number {number}"));
        // Gone since they were numbered.
        let gone = self.keys.values().sum::<u32>();
        let gone = (gone > 0).then(|| format!("{gone} of the numbers"));
        let ids = self.ids.iter().filter(|(_, found)| !**found).map(|(id, _)| id.clone());
        let missing: Vec<String> = numbers.chain(gone).chain(ids).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let hint = "see `tarishi rejected list`; what somebody else is reading at the moment is not there, either";
        Err(Failure::new(Exit::Failed, format!("not among the rejected messages: {}", missing.join(", ")), hint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &str) -> Rejected {
        Rejected::of_bytes(body.as_bytes(), lapin::BasicProperties::default())
    }

    fn choice(which: &[&str]) -> Choice {
        Choice::new(&which.iter().map(ToString::to_string).collect::<Vec<_>>(), None, None, false).unwrap()
    }

    fn key(at: i64, fingerprint: u64) -> Key {
        Key { rejected_at: Timestamp::from_millis(at), fingerprint }
    }

    fn keys(all: &[Key]) -> OrderedKeys {
        Keys(all.to_vec()).in_order()
    }

    #[test]
    fn numbers_are_ranks_by_time() {
        let keys = keys(&[key(3, 1), key(1, 9), key(2, 5), key(2, 4), key(2, 5)]);
        assert_eq!(keys.number_of(key(1, 9)), 1);
        assert_eq!(keys.numbers_of([key(2, 4), key(2, 5), key(2, 5), key(3, 1)].into_iter()), [2, 3, 4, 5]);
    }

    #[test]
    fn a_number_stands_for_one_message() {
        let (one, other) = (message("one"), message("other"));
        let mut choice = choice(&["1", "7"]);
        let all = keys(&[Key::of(&one), Key::of(&one)]);
        choice.resolve_numbers(&all);
        assert!(!choice.takes(&other, Key::of(&other), Vec::new));
        assert!(choice.takes(&one, Key::of(&one), Vec::new) && choice.is_exhausted());
        assert!(!choice.takes(&one, Key::of(&one), Vec::new), "the one that is alike stays");
        let told = format!("{:?}", choice.check_all_found().unwrap_err());
        assert!(told.contains("messages: number 7\""), "{told}");
    }

    #[test]
    fn ids_may_be_digits_and_come_again() {
        let message = message("");
        let ids = |id: &str| vec![id.to_owned()];
        let mut by_id = choice(&["id=2", "order-7"]);
        assert!(by_id.takes(&message, key(0, 0), || ids("2")) && by_id.takes(&message, key(0, 0), || ids("2")));
        assert!(!by_id.takes(&message, key(0, 0), || ids("3")) && !by_id.is_exhausted());
        let told = format!("{:?}", by_id.check_all_found().unwrap_err());
        assert!(told.contains("messages: order-7\""), "{told}");
    }

    #[test]
    fn nothing_is_no_choice() {
        for which in [vec![], vec!["0".to_owned()], vec!["99999999999".to_owned()]] {
            assert_eq!(Choice::new(&which, None, None, false).unwrap_err().exit, Exit::Usage);
        }
    }

    #[test]
    fn a_message_without_a_time_is_of_no_age() {
        let message = message("");
        let mut old = Choice::new(&[], None, Some(Timestamp::FAR_FUTURE), false).unwrap();
        assert!(!old.takes(&message, key(0, 0), Vec::new));
        let mut unknown = Choice::new(&[], Some("unknown"), None, false).unwrap();
        assert!(unknown.takes(&message, key(0, 0), Vec::new));
    }
}
