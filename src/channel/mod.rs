//! One attempt through one provider: the channel reports what happened and returns.
//!
//! Providers do not retry, log, count attempts or touch the store; the lane around them does.

pub mod email;
pub mod live;
pub mod outbox;
pub mod push;

use async_trait::async_trait;

use crate::model::{Message, Outcome};

/// Who carries a channel.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// The name it has in the configuration, in logs and in metrics.
    fn name(&self) -> &'static str;

    /// One attempt. Say what happened and return. The lane bounds the time it may take.
    async fn send(&self, message: &Message) -> Outcome;
}
