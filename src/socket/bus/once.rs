//! Keys that work once, within one process.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Keys remembered. Beyond it none works until some are over.
const LIMIT: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct UsedKeys {
    until: Mutex<HashMap<String, Instant>>,
}

impl UsedKeys {
    /// Whether this is the key's first use within `ttl`; `None` when no more can be remembered.
    pub fn use_once(&self, key: &str, ttl: Duration, now: Instant) -> Option<bool> {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.get(key).is_some_and(|until| *until > now) {
            return Some(false);
        }
        if until.len() >= LIMIT {
            until.retain(|_, until| *until > now);
        }
        if until.len() >= LIMIT {
            return None;
        }
        until.insert(key.to_owned(), now + ttl);
        Some(true)
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
    }
}
