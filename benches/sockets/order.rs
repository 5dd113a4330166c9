//! What the parent tells its client processes and what they answer: one line of JSON each.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Make the requests of more sockets. Answered by `Ready`.
    Prepare(Connect),
    /// Open what was prepared. Answered by `Connected`, after so many seconds at the latest.
    Connect { seconds: u64 },
    /// Count and time the messages of a run from now on. Answered by `Ready`.
    Expect(Expect),
    /// Answered by `Counted` once so many were received, or after so many milliseconds.
    Await { received: u64, millis: u64 },
    /// End the run. Answered by `Received`.
    Collect,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connect {
    pub address: SocketAddr,
    /// The second and third byte of the loopback addresses to come from.
    pub source: [u8; 2],
    /// Users `first`, `first + every`, …
    pub first: u64,
    pub every: u64,
    pub count: u64,
    /// The request's target, with `{user}` and `{token}` to be filled in.
    pub target: String,
    /// What tokens are signed with.
    pub secret: String,
    pub in_flight: usize,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Expect {
    pub run: u64,
    pub messages: u64,
    /// Sockets in all processes. Message `n` goes to user `n` modulo this, or to all of them.
    pub users: u64,
    pub to_all: bool,
}

impl Expect {
    /// Places in the run's table: one for each delivery.
    pub const fn places(&self) -> u64 {
        if self.to_all { self.messages * self.users } else { self.messages }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    Ready,
    Connected { opened: u64, seconds: f64, failed: u64, failure: Option<String> },
    Counted { received: u64 },
    Received(Received),
}

/// What came of a run's messages.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Received {
    /// Each counted once.
    pub deliveries: u64,
    pub doubled: u64,
    /// At a socket they were not for.
    pub strayed: u64,
    /// Places where a user's `seq` did not go on by one.
    pub sequence_faults: u64,
    /// Sockets that ended, and what the first was told.
    pub ended: u64,
    pub ending: Option<String>,
    /// Microseconds from sending to the last byte.
    pub latencies: Vec<u32>,
    /// When messages go to all: for each how many sockets it reached, and the microseconds to the last of them.
    pub messages: Vec<(u64, u32)>,
}
