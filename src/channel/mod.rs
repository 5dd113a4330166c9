//! One attempt through one provider: the channel reports what happened and returns.
//!
//! Providers do not retry, log, count attempts or touch the store; the lane around them does.

pub mod email;
pub mod http;
pub mod live;
pub mod outbox;
pub mod push;
pub mod sms;

use std::time::Duration;

use async_trait::async_trait;

use crate::model::{Message, Outcome, PermanentKind, Timestamp};

/// What keeps a provider from working, as far as can be told without sending.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize)]
#[error("{problem}")]
pub struct ProbeFailure {
    pub problem: String,
    /// What to do about it.
    pub hint: String,
}

impl ProbeFailure {
    /// What an exchange that should have succeeded came to instead.
    pub fn of(outcome: &Outcome) -> Self {
        let problem = outcome.detail().filter(|detail| !detail.is_empty()).unwrap_or("an answer that means nothing").to_owned();
        let hint = match outcome {
            Outcome::Permanent { kind: PermanentKind::Config, .. } => {
                "check the credentials, and what they may do, in the provider's console"
            }
            Outcome::Transient { .. } | Outcome::Unknown { .. } => "check base_url and the network from here, then try again",
            Outcome::Permanent { .. } | Outcome::Sent { .. } => "please report it: the provider's interface may have changed",
        };
        Self::new(problem, hint)
    }

    pub fn new(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { problem: problem.into(), hint: hint.into() }
    }
}

/// Who carries a channel.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// The name it has in the configuration, in logs and in metrics.
    fn name(&self) -> &'static str;

    /// One attempt. Say what happened and return. The lane bounds the time it may take.
    async fn send(&self, message: &Message) -> Outcome;

    /// Until when the provider has asked to be left alone, beside what outcomes say; a moment that is over means nothing.
    fn paused_until(&self) -> Option<Timestamp> {
        None
    }

    /// The shortest wait between two attempts at one message, where the provider publishes one, whatever the first came to.
    fn retry_floor(&self) -> Duration {
        Duration::ZERO
    }

    /// How many requests of the account's the provider last counted at once, where it says so.
    fn concurrent_requests(&self) -> Option<u32> {
        None
    }

    /// Are our credentials good? Asks without sending anything to anybody.
    ///
    /// # Errors
    /// Why not, or that nobody answered.
    async fn probe(&self) -> Result<(), ProbeFailure>;
}
