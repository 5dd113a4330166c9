//! A change of keys, a step at a time: every message that the first key does not open is sealed with it anew.
//!
//! It goes on where it was interrupted, by a position in the store; without that it would only look again at what is done already. It
//! takes turns with everything else that is written, and what is edited meanwhile keeps its own, newer text.

use serde::{Deserialize, Serialize};

use super::seal::{ChatKeys, Resealed};
use crate::store::{Reseal, SealedMessage, Store, StoreError};

/// Messages one step looks at.
const STEP: usize = 500;

/// What one step did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RotationStep {
    /// Everything up to here is done.
    pub position: i64,
    /// The largest id there is.
    pub last: i64,
    pub done: bool,
    pub resealed: u64,
    /// Sealed with the first key before.
    pub already: u64,
    /// Not opened by any key, and left as they are.
    pub tampered: Vec<i64>,
}

/// Looks at the next messages.
///
/// # Errors
/// The store cannot be read or written.
pub async fn step(store: &Store, keys: &ChatKeys) -> Result<RotationStep, StoreError> {
    let name = keys.name().to_owned();
    let after = store.chat_rotation(name.clone()).await?;
    let last = store.last_message_id().await?;
    let page = store.sealed_page(after, STEP).await?;
    let is_done = page.len() < STEP;
    let position = page.last().map_or(after, |message| message.id);
    let judged = tokio::task::spawn_blocking({
        let keys = keys.clone();
        move || judge(&keys, page)
    });
    let (mut step, batch) = judged.await.map_err(|panicked| StoreError::Read(panicked.to_string()))?;
    if !batch.is_empty() {
        step.resealed = store.reseal(batch).await?;
    }
    store.keep_chat_rotation(name, (!is_done).then_some(position)).await?;
    // Past the end of what there was, nothing is left but what is sealed with the first key.
    let position = if is_done { last.max(position) } else { position };
    Ok(RotationStep { position: position.0, last: last.0.max(position.0), done: is_done, ..step })
}

fn judge(keys: &ChatKeys, page: Vec<SealedMessage>) -> (RotationStep, Vec<Reseal>) {
    let (mut step, mut batch) = (RotationStep::default(), Vec::new());
    for SealedMessage { id, conversation, sealed } in page {
        match keys.reseal(conversation, id, &sealed) {
            Ok(Resealed::Already) => step.already += 1,
            Ok(Resealed::Anew(new)) => batch.push(Reseal { id, old: sealed, new }),
            Err(_) => step.tampered.push(id.0),
        }
    }
    (step, batch)
}

impl RotationStep {
    /// This step, and `next` after it.
    pub fn followed_by(self, next: Self) -> Self {
        Self {
            resealed: self.resealed + next.resealed,
            already: self.already + next.already,
            tampered: self.tampered.into_iter().chain(next.tampered).collect(),
            ..next
        }
    }

    /// Whether every message is sealed with the first key now.
    pub fn is_clean(&self) -> bool {
        self.done && self.tampered.is_empty()
    }
}
