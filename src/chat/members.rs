//! Who takes part in which conversation, remembered: asked before every upgrade and for every frame.
//!
//! What is remembered is dropped when it changes, before anybody hears of the change; here by the change itself, in other processes by the bus.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use indexmap::IndexMap;

use crate::{
    model::{ConversationId, Participant, UserId},
    store::{Store, StoreError},
};

/// Conversations remembered; beyond that an old one goes.
const REMEMBERED: usize = 10_000;

/// Everybody who takes part in a conversation, or did.
#[derive(Clone, Debug, Default)]
pub struct Members {
    participants: Vec<Participant>,
}

impl Members {
    pub const fn of(participants: Vec<Participant>) -> Self {
        Self { participants }
    }

    /// `user`, if they take part now.
    pub fn present(&self, user: &UserId) -> Option<&Participant> {
        self.all_present().find(|participant| participant.user_id == *user)
    }

    /// Those who have left too.
    pub fn all(&self) -> &[Participant] {
        &self.participants
    }

    pub fn all_present(&self) -> impl Iterator<Item = &Participant> {
        self.participants.iter().filter(|participant| participant.is_present())
    }

    /// The name of who takes part or did; their id where they have none.
    pub fn name(&self, user: &UserId) -> String {
        name_among(&self.participants, user)
    }
}

/// The name of one of these; their id where they have none.
pub(super) fn name_among(participants: &[Participant], user: &UserId) -> String {
    let known = participants.iter().find(|participant| participant.user_id == *user);
    known.and_then(|participant| participant.name.clone()).unwrap_or_else(|| user.to_string())
}

/// Remembers [`Members`].
#[derive(Debug, Default)]
pub struct MemberCache {
    remembered: Mutex<IndexMap<ConversationId, Arc<Members>>>,
    /// Changes so far: what was read before one may be old after it.
    changes: AtomicU64,
}

impl MemberCache {
    /// Nobody, when there is no such conversation.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn get(&self, store: &Store, conversation: ConversationId) -> Result<Arc<Members>, StoreError> {
        if let Some(members) = self.lock().get(&conversation) {
            return Ok(members.clone());
        }
        let changes = self.changes.load(SeqCst);
        let members = Arc::new(Members { participants: store.participants(conversation).await? });
        let mut remembered = self.lock();
        if self.changes.load(SeqCst) == changes && !members.participants.is_empty() {
            if remembered.len() >= REMEMBERED {
                remembered.swap_remove_index(0);
            }
            remembered.insert(conversation, members.clone());
        }
        Ok(members)
    }

    /// They are others now, or have other names.
    pub fn forget(&self, conversation: ConversationId) {
        let mut remembered = self.lock();
        self.changes.fetch_add(1, SeqCst);
        remembered.swap_remove(&conversation);
    }

    /// Nothing is known to be as it was.
    pub fn forget_all(&self) {
        let mut remembered = self.lock();
        self.changes.fetch_add(1, SeqCst);
        remembered.clear();
    }

    fn lock(&self) -> MutexGuard<'_, IndexMap<ConversationId, Arc<Members>>> {
        // Nothing panics while it holds the lock.
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
