//! This process's share of who is online, kept in Redis, and what the others' shares say.
//!
//! Each node has a hash of its users, and a place among the nodes with the time until which it counts as alive. One command keeps all of
//! a node's share alive; when a node is gone without a word, whoever notices first takes its share away and tells who is offline.

use std::{
    collections::HashSet,
    convert::Infallible,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::try_join_all;
use redis::cmd;
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{
    super::{
        hub::Frame,
        presence::{Presence, PresenceChange, Present, Seen, Unshared},
    },
    outgoing::{Message, Outgoing},
    server::{BusError, Connection},
    wire::{Channel, Names},
};

/// A node says so often that it is alive.
const BEAT: Duration = Duration::from_secs(5);
/// From its last word until a node counts as gone.
const NODE_TTL: Duration = Duration::from_secs(20);
/// A share outlives its node by this, so that whoever takes it away can still read it.
const SHARE_TTL: Duration = Duration::from_mins(10);
/// Users told of in one command or message.
const BATCH: usize = 500;
/// So that many changes go together.
const DEBOUNCE: Duration = Duration::from_millis(20);
const DOING: &str = "sharing who is online";

/// What nodes tell each other.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Told {
    online: Vec<Present>,
    offline: Vec<Present>,
}

pub(super) struct Share {
    node: String,
    names: Names,
    presence: Presence,
    /// The other nodes that are alive.
    others: Mutex<Vec<String>>,
}

impl Share {
    pub fn new(node: &str, names: &Names, presence: &Presence) -> Self {
        Self { node: node.to_owned(), names: names.clone(), presence: presence.clone(), others: Mutex::default() }
    }

    /// Keeps our share up to date for as long as the connection lasts.
    pub async fn keep(&self, connection: &Connection, outgoing: &Outgoing) -> Result<Infallible, BusError> {
        self.begin(connection).await?;
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = beat.tick() => self.beat(connection, outgoing).await?,
                () = self.presence.unshared() => {
                    sleep(DEBOUNCE).await;
                    self.tell_changes(connection, outgoing).await?;
                }
            }
        }
    }

    /// What is there of ours may be old.
    async fn begin(&self, connection: &Connection) -> Result<(), BusError> {
        connection.ask::<()>(DOING, cmd("DEL").arg(self.names.node(&self.node))).await?;
        self.presence.share_all(false);
        Ok(())
    }

    /// We are alive; and who else is.
    async fn beat(&self, connection: &Connection, outgoing: &Outgoing) -> Result<(), BusError> {
        // By the server's clock, so that ours may differ.
        let (seconds, _): (u64, u64) = connection.ask(DOING, &cmd("TIME")).await?;
        let until = seconds + NODE_TTL.as_secs();
        let is_new: u8 = connection.ask(DOING, cmd("ZADD").arg(self.names.nodes()).arg(until).arg(&self.node)).await?;
        let kept: u8 = connection.ask(DOING, cmd("PEXPIRE").arg(self.names.node(&self.node)).arg(millis(SHARE_TTL))).await?;
        if is_new == 1 || kept == 0 {
            // Somebody took our share away, or it is the first beat: others may think that our users are gone.
            self.presence.share_all(is_new == 1);
        }
        let nodes: Vec<(String, u64)> =
            connection.ask(DOING, cmd("ZRANGE").arg(self.names.nodes()).arg(0).arg(-1).arg("WITHSCORES")).await?;
        let (alive, gone): (Vec<_>, Vec<_>) =
            nodes.into_iter().filter(|(node, _)| *node != self.node).partition(|(_, until)| *until >= seconds);
        *self.others.lock().unwrap_or_else(PoisonError::into_inner) = alive.into_iter().map(|(node, _)| node).collect();
        for (node, _) in gone {
            self.bury(connection, outgoing, &node).await?;
        }
        Ok(())
    }

    /// Takes away the share of a node that is gone. One of those who notice does.
    async fn bury(&self, connection: &Connection, outgoing: &Outgoing, node: &str) -> Result<(), BusError> {
        let is_ours: u8 = connection.ask(DOING, cmd("ZREM").arg(self.names.nodes()).arg(node)).await?;
        if is_ours == 0 {
            return Ok(());
        }
        let users: Vec<String> = connection.ask(DOING, cmd("HKEYS").arg(self.names.node(node))).await?;
        connection.ask::<()>(DOING, cmd("DEL").arg(self.names.node(node))).await?;
        let users: Vec<Present> = users.iter().filter_map(|user| user.parse().ok()).collect();
        for users in users.chunks(BATCH) {
            let elsewhere = self.elsewhere(connection, users).await?;
            let offline = users.iter().filter(|user| !elsewhere.contains(*user) && !self.presence.here(user).online).cloned().collect();
            self.announce(outgoing, Told { offline, ..Told::default() });
        }
        Ok(())
    }

    async fn tell_changes(&self, connection: &Connection, outgoing: &Outgoing) -> Result<(), BusError> {
        loop {
            let changed = self.presence.take_unshared(BATCH);
            if changed.is_empty() {
                return Ok(());
            }
            if let Err(error) = self.tell(connection, outgoing, &changed).await {
                for Unshared { user, has_turned, .. } in &changed {
                    self.presence.share_again(user, *has_turned);
                }
                return Err(error);
            }
        }
    }

    async fn tell(&self, connection: &Connection, outgoing: &Outgoing, changed: &[Unshared]) -> Result<(), BusError> {
        let key = self.names.node(&self.node);
        let (mut set, mut removed) = (cmd("HSET").arg(&key).take(), cmd("HDEL").arg(&key).take());
        for Unshared { user, connections, .. } in changed {
            match connections {
                Some(connections) => set.arg(user.to_string()).arg(*connections),
                None => removed.arg(user.to_string()),
            };
        }
        if changed.iter().any(|changed| changed.connections.is_some()) {
            connection.ask::<()>(DOING, &set).await?;
            // It may be the first of them.
            connection.ask::<()>(DOING, cmd("PEXPIRE").arg(&key).arg(millis(SHARE_TTL))).await?;
        }
        if changed.iter().any(|changed| changed.connections.is_none()) {
            connection.ask::<()>(DOING, &removed).await?;
        }
        let turned: Vec<Present> = changed.iter().filter(|changed| changed.has_turned).map(|changed| changed.user.clone()).collect();
        let elsewhere = if turned.is_empty() { HashSet::new() } else { self.elsewhere(connection, &turned).await? };
        let mut told = Told::default();
        for Unshared { user, connections, has_turned } in changed.iter().cloned() {
            match (has_turned, connections.is_some(), elsewhere.contains(&user)) {
                (false, _, _) | (_, true, true) => {}
                (true, true, false) => told.online.push(user),
                // We may have said that the user is gone while we could ask nobody.
                (true, false, true) => self.presence.tell(PresenceChange::Online(user)),
                (true, false, false) => told.offline.push(user),
            }
        }
        self.announce(outgoing, told);
        Ok(())
    }

    /// Tells the others, and of who is gone also ourselves.
    fn announce(&self, outgoing: &Outgoing, told: Told) {
        if told == Told::default() {
            return;
        }
        // Ids are strings.
        let text = serde_json::to_string(&told).unwrap_or_default();
        outgoing.push(Message::new(&self.node, Channel::Presence, &Frame::new(text)));
        told.offline.into_iter().for_each(|user| self.presence.tell(PresenceChange::Offline(user)));
    }

    /// What another node tells.
    pub fn hear(&self, text: &str) {
        let Ok(told) = serde_json::from_str::<Told>(text) else { return };
        told.online.into_iter().for_each(|user| self.presence.tell(PresenceChange::Online(user)));
        for user in told.offline {
            if self.presence.here(&user).online {
                // They asked before we told.
                self.presence.share_again(&user, true);
            } else {
                self.presence.tell(PresenceChange::Offline(user));
            }
        }
    }

    /// Those of `users` that are online on another node.
    async fn elsewhere(&self, connection: &Connection, users: &[Present]) -> Result<HashSet<Present>, BusError> {
        let counts = try_join_all(self.others().iter().map(|node| async {
            let mut command = cmd("HMGET").arg(self.names.node(node)).take();
            for user in users {
                command.arg(user.to_string());
            }
            connection.ask::<Vec<Option<u32>>>(DOING, &command).await
        }))
        .await?;
        let online = counts.iter().flat_map(|counts| users.iter().zip(counts)).filter(|(_, count)| count.is_some());
        Ok(online.map(|(user, _)| user.clone()).collect())
    }

    /// What the other nodes know of one user.
    pub async fn seen_elsewhere(&self, connection: &Connection, user: &Present) -> Result<Seen, BusError> {
        let counts = try_join_all(self.others().iter().map(|node| async {
            connection.ask::<Option<usize>>(DOING, cmd("HGET").arg(self.names.node(node)).arg(user.to_string())).await
        }))
        .await?;
        let counts: Vec<usize> = counts.into_iter().flatten().collect();
        Ok(Seen { online: !counts.is_empty(), connections: counts.into_iter().sum() })
    }

    fn others(&self) -> Vec<String> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says that we are gone once `grace` is over: by then our users are connected elsewhere, or whoever notices tells that they are not.
    pub async fn leave(&self, connection: &Connection, grace: Duration) -> Result<(), BusError> {
        let (seconds, _): (u64, u64) = connection.ask(DOING, &cmd("TIME")).await?;
        connection.ask(DOING, cmd("ZADD").arg(self.names.nodes()).arg(seconds + grace.as_secs()).arg(&self.node)).await
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
