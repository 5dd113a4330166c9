//! Who types: told to the others at most once an interval, and taken back by itself when there is no new sign of it. Never stored.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::frames;
use crate::{
    model::{ConversationId, Stream, UserId},
    socket::Bus,
};

/// People whose typing is followed at once; who types beyond that is not told of.
const TYPISTS_LIMIT: usize = 100_000;

type Key = (ConversationId, UserId);

/// What the others have been told of somebody, and what they should know.
#[derive(Debug)]
struct Typist {
    name: Arc<str>,
    told: bool,
    is_typing: bool,
    /// When the others were told last.
    told_at: Instant,
    /// Without a new sign, somebody types no more.
    expires_at: Instant,
}

impl Typist {
    /// When there is something to do though nothing new is heard.
    fn due(&self, interval: Duration) -> Instant {
        if self.told == self.is_typing && self.is_typing { self.expires_at } else { self.told_at + interval }
    }
}

#[derive(Debug, Default)]
struct State {
    typists: HashMap<Key, Typist>,
    due: BTreeSet<(Instant, Key)>,
}

/// Follows who types in this process.
#[derive(Debug)]
pub(super) struct Typing {
    interval: Duration,
    expiry: Duration,
    state: Mutex<State>,
    sooner: Notify,
}

impl Typing {
    pub fn new(interval: Duration, expiry: Duration) -> Self {
        Self { interval, expiry, state: Mutex::default(), sooner: Notify::new() }
    }

    /// Somebody says whether they type. `Some` when the others are to be told so now.
    pub fn heard(&self, conversation: ConversationId, user: &UserId, name: &str, is_typing: bool, now: Instant) -> Option<bool> {
        let mut state = self.lock();
        let State { typists, due } = &mut *state;
        let key = (conversation, user.clone());
        let Some(typist) = typists.get_mut(&key) else {
            if !is_typing || typists.len() >= TYPISTS_LIMIT {
                return None;
            }
            let typist = Typist { name: name.into(), told: true, is_typing, told_at: now, expires_at: now + self.expiry };
            self.plan(due, typist.due(self.interval), key.clone());
            typists.insert(key, typist);
            return Some(true);
        };
        due.remove(&(typist.due(self.interval), key.clone()));
        typist.is_typing = is_typing;
        if is_typing {
            typist.expires_at = now + self.expiry;
        }
        let tell = (typist.told_at + self.interval <= now && (is_typing || typist.told)).then_some(is_typing);
        if tell.is_some() {
            (typist.told, typist.told_at) = (is_typing, now);
        }
        self.plan(due, typist.due(self.interval), key);
        tell
    }

    /// What is to be told though nothing new was heard.
    fn pass(&self, now: Instant) -> Vec<(Key, Arc<str>, bool)> {
        let mut state = self.lock();
        let State { typists, due } = &mut *state;
        let mut tell = Vec::new();
        while due.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = due.pop_first() else { break };
            let Some(typist) = typists.get_mut(&key) else { continue };
            typist.is_typing &= typist.expires_at > now;
            if typist.told != typist.is_typing {
                (typist.told, typist.told_at) = (typist.is_typing, now);
                tell.push((key.clone(), typist.name.clone(), typist.told));
                due.insert((typist.due(self.interval), key));
            } else if typist.told {
                due.insert((typist.due(self.interval), key));
            } else {
                typists.remove(&key);
            }
        }
        tell
    }

    /// Tells what is due, until the end of the process.
    pub async fn run(&self, bus: &Bus) {
        loop {
            let next = self.lock().due.first().map(|(at, _)| *at);
            let waited = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = waited => {}
                () = self.sooner.notified() => continue,
            }
            for ((conversation, user), name, is_typing) in self.pass(Instant::now()) {
                bus.publish(&Stream::Conversation(conversation), &Arc::new(frames::typing(&user, &name, is_typing)));
            }
        }
    }

    fn plan(&self, due: &mut BTreeSet<(Instant, Key)>, at: Instant, key: Key) {
        let is_first = due.first().is_none_or(|(first, _)| at < *first);
        due.insert((at, key));
        if is_first {
            self.sooner.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the others hear of one who says these things at these milliseconds, and until when.
    #[track_caller]
    fn check(said: &[(u64, bool)], until: u64, expected: &[(u64, bool)]) {
        let typing = Typing::new(Duration::from_secs(1), Duration::from_secs(5));
        let start = Instant::now();
        let user: UserId = "1".parse().unwrap();
        let (mut told, mut said) = (Vec::new(), said.iter().peekable());
        for millis in 0..=until {
            let now = start + Duration::from_millis(millis);
            if let Some((_, is_typing)) = said.next_if(|(at, _)| *at == millis) {
                told.extend(typing.heard(ConversationId(7), &user, "Asha", *is_typing, now).map(|it| (millis, it)));
            }
            told.extend(typing.pass(now).into_iter().map(|(_, _, it)| (millis, it)));
        }
        assert_eq!(told, expected);
        if until > 20_000 {
            assert!(typing.lock().typists.is_empty() && typing.lock().due.is_empty());
        }
    }

    #[test]
    fn others_hear_once_a_second_and_of_the_end() {
        check(&[(0, true)], 30_000, &[(0, true), (5000, false)]);
        check(&[(0, true), (300, true), (600, true)], 4000, &[(0, true)]);
        check(&[(0, true), (1000, true), (2500, true)], 30_000, &[(0, true), (1000, true), (2500, true), (7500, false)]);
        check(&[(0, true), (400, false)], 30_000, &[(0, true), (1000, false)]);
        check(&[(0, true), (400, false), (600, true)], 3000, &[(0, true)]);
        check(&[(0, true), (2000, false), (2100, true)], 3000, &[(0, true), (2000, false), (3000, true)]);
        check(&[(0, false), (10, false)], 30_000, &[]);
        check(&[(0, true), (1500, false), (3000, false)], 30_000, &[(0, true), (1500, false)]);
    }
}
