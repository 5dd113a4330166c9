//! Keys that work once, within one process.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Keys remembered. Beyond it none works until some are over.
const LIMIT: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct UsedKeys(Mutex<Used>);

#[derive(Debug, Default)]
struct Used {
    keys: HashSet<Arc<str>>,
    /// The same keys, by when each is over; the first to be so on top.
    ends: BinaryHeap<Reverse<(Instant, Arc<str>)>>,
}

impl UsedKeys {
    /// Whether this is the key's first use within `ttl`; `None` when no more can be remembered.
    pub fn use_once(&self, key: &str, ttl: Duration, now: Instant) -> Option<bool> {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        used.forget_until(now);
        if used.keys.contains(key) {
            return Some(false);
        }
        if used.keys.len() >= LIMIT {
            return None;
        }
        let key: Arc<str> = key.into();
        used.ends.push(Reverse((now + ttl, key.clone())));
        used.keys.insert(key);
        Some(true)
    }
}

impl Used {
    fn forget_until(&mut self, now: Instant) {
        while let Some(Reverse((end, _))) = self.ends.peek()
            && *end <= now
        {
            if let Some(Reverse((_, key))) = self.ends.pop() {
                self.keys.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_works_once_until_it_is_forgotten() {
        let (keys, now, ttl) = (UsedKeys::default(), Instant::now(), Duration::from_secs(30));
        assert_eq!(keys.use_once("a", ttl, now), Some(true));
        assert_eq!(keys.use_once("a", ttl, now + ttl / 2), Some(false));
        assert_eq!(keys.use_once("b", ttl, now), Some(true));
        assert_eq!(keys.use_once("a", ttl, now + ttl), Some(true));
        assert_eq!(keys.use_once("a", ttl, now + ttl), Some(false));
    }

    #[test]
    fn a_key_is_forgotten_when_its_own_time_is_over() {
        let (keys, now) = (UsedKeys::default(), Instant::now());
        let seconds = Duration::from_secs;
        assert_eq!(keys.use_once("long", seconds(30), now), Some(true));
        assert_eq!(keys.use_once("short", seconds(10), now), Some(true));
        assert_eq!(keys.use_once("short", seconds(10), now + seconds(10)), Some(true));
        assert_eq!(keys.use_once("long", seconds(30), now + seconds(29)), Some(false));
        assert_eq!(keys.use_once("long", seconds(30), now + seconds(30)), Some(true));
    }

    #[test]
    fn what_cannot_be_remembered_does_not_work() {
        let (keys, now, ttl) = (UsedKeys::default(), Instant::now(), Duration::from_secs(30));
        for number in 0..LIMIT {
            assert_eq!(keys.use_once(&number.to_string(), ttl, now), Some(true));
        }
        assert_eq!(keys.use_once("one more", ttl, now), None);
        assert_eq!(keys.use_once("7", ttl, now), Some(false));
        assert_eq!(keys.use_once("one more", ttl, now + ttl), Some(true));
        assert_eq!(keys.use_once("7", ttl, now + ttl), Some(true));
    }
}
