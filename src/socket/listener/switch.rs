//! What a connection does once HTTP is done with it: whoever answers 101 leaves it here, and the connection's own task goes on with it.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;

use super::super::wire::Wire;

/// What follows, over the connection's bytes; the first of them may have come with the request.
pub(in crate::socket) type Session = Box<dyn FnOnce(Wire, Vec<u8>) -> BoxFuture<'static, ()> + Send>;

/// An extension of every request that asks for another protocol.
#[derive(Clone, Default)]
pub(in crate::socket) struct Switch(Arc<Mutex<Option<Session>>>);

impl Switch {
    /// The answer that is about to be given switches protocols, and this follows it.
    pub(in crate::socket) fn to(&self, session: Session) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
    }

    pub(super) fn take(&self) -> Option<Session> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl std::fmt::Debug for Switch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Switch").finish_non_exhaustive()
    }
}
