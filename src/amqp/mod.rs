//! The broker: connecting to it, what is declared on it, and keeping a session with it alive.
//!
//! It knows AMQP and nothing of jobs or deliveries. Every call has a time limit: on a connection that the broker has blocked, calls never
//! return. Any failure ends the whole session, which [`Link::keep`] builds again.

mod connection;
mod error;
mod link;
mod listen;
mod publish;
mod rejected;
mod topology;

pub use self::{
    connection::{Broker, Purpose},
    error::{AmqpError, Mismatch},
    link::{Link, LinkStatus, waits},
    listen::{Listener, Pattern},
    publish::{JobMessage, JobPublisher},
    rejected::{DeadLetter, Place, REASONS, Rejected, RejectedQueue, ToldProblem},
    topology::{declare_events, declare_jobs},
};

/// The exchange that producers publish to, and the queue it fills.
pub const JOBS: &str = "tarishi.jobs";
/// The queue for what no job could be made of.
pub const REJECTED: &str = "tarishi.rejected";
/// The exchange that tells what became of deliveries.
pub const EVENTS: &str = "tarishi.events";

/// Headers of a rejected message.
pub mod header {
    pub const REASON: &str = "tarishi-reason";
    pub const PROBLEM: &str = "tarishi-problem";
    pub const PATH: &str = "tarishi-path";
    pub const HINT: &str = "tarishi-hint";
    pub const PROBLEMS: &str = "tarishi-problems";
    pub const REJECTED_AT: &str = "tarishi-rejected-at";
    pub const EXCHANGE: &str = "tarishi-exchange";
    pub const ROUTING_KEY: &str = "tarishi-routing-key";
    /// What all of them begin with.
    pub const PREFIX: &str = "tarishi-";
    /// How often the broker has delivered a message before, without an answer.
    pub const DELIVERY_COUNT: &str = "x-delivery-count";
}

/// For a message that must outlive the broker's restart.
pub const PERSISTENT: u8 = 2;
