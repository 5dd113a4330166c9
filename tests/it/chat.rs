//! The chat end to end: what sockets say and are told, what is found again after whatever happened, and notices for who is away.

mod admin;
mod client;
mod nodes;
mod notices;
mod openapi;
mod recovery;
mod rest;
mod sockets;

pub use self::client::Conversing;

/// Where these tests have the daemon crash.
pub const CRASH_POINTS: [&str; 2] = ["chat-before-commit", "notice-accepted"];
