//! Who is online, and who has a conversation open: counted by connection, and told to whoever wants to know. Whose last connection ends is
//! there for a grace time more, so that a reconnect is no news.
//!
//! Here is what this process knows by itself; what the others know comes in by way of the bus.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, broadcast},
    time::{Instant, sleep_until},
};

use crate::model::{ConversationId, UserId};

/// Changes kept for a reader that is behind; then it is told that it missed some.
const CHANGES: usize = 4096;
/// Users whose change waits to be told to the other processes. Beyond it the others find out when they next ask.
const UNSHARED_LIMIT: usize = 1_000_000;

/// Somebody who is somewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Present {
    /// With whatever socket.
    Online(UserId),
    /// With a socket of this conversation.
    In(ConversationId, UserId),
}

/// Stands before what is not the id of a user, in which there can be none.
const IN: char = '\u{1}';

impl fmt::Display for Present {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Online(user) => user.fmt(f),
            Self::In(conversation, user) => write!(f, "{IN}{conversation} {user}"),
        }
    }
}

impl From<Present> for String {
    fn from(present: Present) -> Self {
        present.to_string()
    }
}

impl FromStr for Present {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(rest) = text.strip_prefix(IN) else { return text.parse().map(Self::Online) };
        let (conversation, user) = rest.split_once(' ').ok_or("no conversation and user")?;
        Ok(Self::In(conversation.parse()?, user.parse()?))
    }
}

impl TryFrom<String> for Present {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// What is known of somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[schemars(rename = "Presence")]
pub struct Seen {
    pub online: bool,
    pub connections: usize,
}

/// A user came or went. May be told again of somebody who is known to be so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PresenceChange {
    Online(Present),
    Offline(Present),
    /// Some changes were not told: ask again.
    Missed,
}

/// A user of whom the other processes are to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unshared {
    pub user: Present,
    /// `None` when the user is gone from here.
    pub connections: Option<usize>,
    /// The user came or went.
    pub has_turned: bool,
}

/// Reads changes as they happen.
#[derive(Debug)]
pub struct PresenceChanges(broadcast::Receiver<PresenceChange>);

impl PresenceChanges {
    /// The next; `None` when the process ends.
    pub async fn next(&mut self) -> Option<PresenceChange> {
        match self.0.recv().await {
            Ok(change) => Some(change),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(PresenceChange::Missed),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Who is connected to this process, or was a moment ago. Clones are the same.
#[derive(Clone)]
pub struct Presence {
    shared: Arc<Shared>,
}

struct Shared {
    grace: Duration,
    state: Mutex<State>,
    /// There is a grace time to wait for, or something to share.
    leaving: Notify,
    unshared: Notify,
    changes: broadcast::Sender<PresenceChange>,
}

#[derive(Default)]
struct State {
    users: HashMap<Present, Here>,
    /// In the order of their deadlines, as the grace time is the same for all.
    leaving: VecDeque<(Instant, Present)>,
    /// Where others are told: who changed, and whether the user came or went and not only a count changed.
    unshared: Option<IndexMap<Present, bool>>,
    /// The others can be reached now, and decide with us who is gone.
    is_linked: bool,
}

#[derive(Clone, Copy, Debug)]
struct Here {
    connections: usize,
    /// When the user is gone, unless there is a connection again.
    gone_at: Option<Instant>,
}

impl std::fmt::Debug for Presence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Presence").field("users", &self.lock().users.len()).finish_non_exhaustive()
    }
}

impl Presence {
    /// `is_shared`: there are other processes to be told.
    pub(super) fn new(grace: Duration, is_shared: bool) -> Self {
        let state = Mutex::new(State { unshared: is_shared.then(IndexMap::new), ..State::default() });
        let (leaving, unshared, changes) = (Notify::new(), Notify::new(), broadcast::Sender::new(CHANGES));
        Self { shared: Arc::new(Shared { grace, state, leaving, unshared, changes }) }
    }

    /// What this process knows.
    pub fn here(&self, user: &Present) -> Seen {
        self.lock().users.get(user).map_or_else(Seen::default, |here| Seen { online: true, connections: here.connections })
    }

    /// Changes from now on.
    pub fn changes(&self) -> PresenceChanges {
        PresenceChanges(self.shared.changes.subscribe())
    }

    /// `user` has so many connections here from now on. Only takes note.
    pub(super) fn note(&self, user: &Present, connections: usize) {
        self.note_at(user, connections, Instant::now());
    }

    fn note_at(&self, user: &Present, connections: usize, now: Instant) {
        let mut state = self.lock();
        let gone_at = (connections == 0).then(|| now + self.shared.grace);
        let known = state.users.insert(user.clone(), Here { connections, gone_at });
        if let Some(gone_at) = gone_at {
            state.leaving.push_back((gone_at, user.clone()));
            if state.leaving.len() == 1 {
                self.shared.leaving.notify_one();
            }
        }
        if known.is_none() {
            self.tell(PresenceChange::Online(user.clone()));
        }
        self.unshare(&mut state, user, known.is_none());
    }

    /// Waits for grace times to end. Never ends.
    pub(super) async fn run(&self) {
        loop {
            let next = self.lock().leaving.front().map(|(gone_at, _)| *gone_at);
            match next {
                Some(gone_at) => sleep_until(gone_at).await,
                None => self.shared.leaving.notified().await,
            }
            self.end_grace(Instant::now());
        }
    }

    fn end_grace(&self, now: Instant) {
        let mut state = self.lock();
        while let Some((gone_at, user)) = state.leaving.pop_front_if(|(gone_at, _)| *gone_at <= now) {
            // Came back, and perhaps went again since.
            if state.users.get(&user).is_some_and(|here| here.gone_at == Some(gone_at)) {
                state.users.remove(&user);
                if !state.is_linked {
                    self.tell(PresenceChange::Offline(user.clone()));
                }
                self.unshare(&mut state, &user, true);
            }
        }
    }

    pub(super) fn tell(&self, change: PresenceChange) {
        // Nobody listens, perhaps.
        let _ = self.shared.changes.send(change);
    }

    fn unshare(&self, state: &mut State, user: &Present, has_turned: bool) {
        let Some(unshared) = &mut state.unshared else { return };
        if unshared.len() < UNSHARED_LIMIT || unshared.contains_key(user) {
            *unshared.entry(user.clone()).or_default() |= has_turned;
            self.shared.unshared.notify_one();
        }
    }

    /// Whether the others can be reached.
    pub(super) fn link(&self, is_linked: bool) {
        self.lock().is_linked = is_linked;
    }

    /// Resolves when there may be something to share.
    pub(super) async fn unshared(&self) {
        self.shared.unshared.notified().await;
    }

    /// Up to `limit` users of whom the others are to be told, as they are now.
    pub(super) fn take_unshared(&self, limit: usize) -> Vec<Unshared> {
        let mut state = self.lock();
        let State { users, unshared, .. } = &mut *state;
        let Some(unshared) = unshared else { return Vec::new() };
        let count = unshared.len().min(limit);
        let connections = |user: &Present| users.get(user).map(|here| here.connections);
        unshared.drain(..count).map(|(user, has_turned)| Unshared { connections: connections(&user), user, has_turned }).collect()
    }

    /// Has the others told again; `has_turned` when they may think that the user is gone.
    pub(super) fn share_again(&self, user: &Present, has_turned: bool) {
        let mut state = self.lock();
        self.unshare(&mut state, user, has_turned);
    }

    /// The same of everybody here.
    pub(super) fn share_all(&self, has_turned: bool) {
        let mut state = self.lock();
        let users: Vec<Present> = state.users.keys().cloned().collect();
        for user in users {
            self.unshare(&mut state, &user, has_turned);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, so a poisoned one is still whole.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn user(id: &str) -> Present {
        Present::Online(id.parse().unwrap())
    }

    fn online(id: &str) -> PresenceChange {
        PresenceChange::Online(user(id))
    }

    fn offline(id: &str) -> PresenceChange {
        PresenceChange::Offline(user(id))
    }

    fn unshared(id: &str, connections: Option<usize>, has_turned: bool) -> Unshared {
        Unshared { user: user(id), connections, has_turned }
    }

    /// What has been told since.
    fn told(changes: &mut PresenceChanges) -> Vec<PresenceChange> {
        std::iter::from_fn(|| changes.0.try_recv().ok()).collect()
    }

    #[test]
    fn a_user_is_gone_after_the_grace_time() {
        let (presence, now) = (Presence::new(GRACE, false), Instant::now());
        let mut changes = presence.changes();
        presence.note_at(&user("1"), 1, now);
        presence.note_at(&user("1"), 2, now);
        assert_eq!(presence.here(&user("1")), Seen { online: true, connections: 2 });
        presence.note_at(&user("1"), 1, now);
        presence.note_at(&user("1"), 0, now);
        presence.end_grace(now + GRACE / 2);
        assert_eq!(presence.here(&user("1")), Seen { online: true, connections: 0 });
        assert_eq!(told(&mut changes), [online("1")]);
        presence.end_grace(now + GRACE);
        assert_eq!(presence.here(&user("1")), Seen::default());
        assert_eq!(told(&mut changes), [offline("1")]);
    }

    #[test]
    fn a_reconnect_in_time_is_no_news() {
        let (presence, now) = (Presence::new(GRACE, false), Instant::now());
        let mut changes = presence.changes();
        for (connections, at) in [(1, now), (0, now), (1, now + GRACE / 2), (0, now + GRACE / 2)] {
            presence.note_at(&user("1"), connections, at);
        }
        presence.end_grace(now + GRACE);
        assert_eq!(told(&mut changes), [online("1")], "the grace time is a new one");
        presence.end_grace(now + GRACE * 2);
        assert_eq!(told(&mut changes), [offline("1")]);
    }

    #[test]
    fn while_others_can_be_asked_they_decide_with_us() {
        let (presence, now) = (Presence::new(GRACE, true), Instant::now());
        let mut changes = presence.changes();
        presence.link(true);
        presence.note_at(&user("1"), 1, now);
        presence.note_at(&user("1"), 2, now);
        assert_eq!(presence.take_unshared(10), [unshared("1", Some(2), true)]);
        presence.note_at(&user("1"), 1, now);
        assert_eq!(presence.take_unshared(10), [unshared("1", Some(1), false)]);
        presence.note_at(&user("1"), 0, now);
        presence.end_grace(now + GRACE);
        assert_eq!(presence.take_unshared(10), [unshared("1", None, true)]);
        assert_eq!(told(&mut changes), [online("1")], "nobody has said that 1 is gone");
        presence.note_at(&user("2"), 1, now);
        presence.take_unshared(10);
        presence.share_all(true);
        assert_eq!(presence.take_unshared(10), [unshared("2", Some(1), true)]);
    }

    #[tokio::test]
    async fn who_reads_too_slowly_is_told() {
        let presence = Presence::new(GRACE, false);
        let mut changes = presence.changes();
        for number in 0..=CHANGES {
            presence.note(&user(&number.to_string()), 1);
        }
        assert_eq!(changes.next().await, Some(PresenceChange::Missed));
    }

    #[tokio::test]
    async fn one_timer_waits_for_all() {
        let presence = Presence::new(Duration::from_millis(5), false);
        let (running, mut changes) = (presence.clone(), presence.changes());
        let running = tokio::spawn(async move { running.run().await });
        for id in ["1", "2"] {
            presence.note(&user(id), 1);
            presence.note(&user(id), 0);
        }
        for expected in [online("1"), online("2"), offline("1"), offline("2")] {
            assert_eq!(changes.next().await, Some(expected));
        }
        running.abort();
    }

    #[test]
    fn somebody_has_one_form() {
        // Golden: nodes of different versions run side by side during an upgrade.
        let asha: UserId = "a 7:b".parse().unwrap();
        for (present, text) in [(Present::Online(asha.clone()), "a 7:b"), (Present::In(ConversationId(7), asha), "\u{1}7 a 7:b")] {
            assert_eq!((present.to_string().as_str(), text.parse().as_ref()), (text, Ok(&present)));
        }
        for strange in ["", "\u{1}", "\u{1}7", "\u{1}x 1", "\u{1}7 "] {
            assert!(strange.parse::<Present>().is_err(), "{strange:?}");
        }
    }
}
