//! What has been revoked, in memory: looked at for every token. The store has it for good.

use std::{
    collections::HashMap,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::Identity;
use crate::model::{Revocation, Revoked, Timestamp, UserId};

/// The revocations in force. Asking never waits for more than a change of the map.
#[derive(Debug)]
pub struct Revocations {
    retention: Duration,
    /// False only while there are none, so that tokens then cost nothing more.
    any: AtomicBool,
    revoked: RwLock<Maps>,
}

#[derive(Debug, Default)]
struct Maps {
    users: HashMap<UserId, Revocation>,
    tokens: HashMap<String, Revocation>,
}

impl Revocations {
    /// Each is in force for `retention`: no token lives longer.
    pub fn new(retention: Duration, revocations: impl IntoIterator<Item = Revocation>) -> Self {
        let this = Self { retention, any: AtomicBool::new(false), revoked: RwLock::default() };
        revocations.into_iter().for_each(|revocation| this.add(revocation));
        this
    }

    /// From here on its tokens are refused. Sockets that they have opened are for [`super::super::Hub::close_where`], afterwards.
    pub fn add(&self, revocation: Revocation) {
        let mut revoked = self.revoked.write().unwrap_or_else(PoisonError::into_inner);
        // Of two about the same the later one covers more, whichever comes here first.
        let place = match &revocation.what {
            Revoked::UserId(user) => revoked.users.entry(user.clone()).or_insert_with(|| revocation.clone()),
            Revoked::Jti(jti) => revoked.tokens.entry(jti.clone()).or_insert_with(|| revocation.clone()),
        };
        if revocation.revoked_at >= place.revoked_at {
            *place = revocation;
        }
        self.any.store(true, Ordering::Release);
    }

    /// Its tokens are good again, unless they have been revoked anew meanwhile.
    pub fn remove(&self, revocation: &Revocation) {
        let is_it = |kept: &Revocation| kept.id == revocation.id;
        let mut revoked = self.revoked.write().unwrap_or_else(PoisonError::into_inner);
        match &revocation.what {
            Revoked::UserId(user) if revoked.users.get(user).is_some_and(is_it) => drop(revoked.users.remove(user)),
            Revoked::Jti(jti) if revoked.tokens.get(jti).is_some_and(is_it) => drop(revoked.tokens.remove(jti)),
            _ => {}
        }
        self.any.store(!revoked.is_empty(), Ordering::Release);
    }

    /// Whether the token behind `identity` has been revoked.
    pub fn cover(&self, identity: &Identity, now: Timestamp) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let revoked = self.revoked.read().unwrap_or_else(PoisonError::into_inner);
        let of_user = revoked.users.get(&identity.user_id);
        let of_token = identity.jti.as_ref().and_then(|jti| revoked.tokens.get(jti));
        of_user.into_iter().chain(of_token).any(|revocation| self.is_in_force(revocation, now) && identity.is_covered_by(revocation))
    }

    /// Lets go of those past their retention.
    pub fn forget_old(&self, now: Timestamp) {
        let mut revoked = self.revoked.write().unwrap_or_else(PoisonError::into_inner);
        revoked.users.retain(|_, revocation| self.is_in_force(revocation, now));
        revoked.tokens.retain(|_, revocation| self.is_in_force(revocation, now));
        self.any.store(!revoked.is_empty(), Ordering::Release);
    }

    fn is_in_force(&self, revocation: &Revocation, now: Timestamp) -> bool {
        now < revocation.revoked_at.saturating_add(self.retention)
    }
}

impl Maps {
    fn is_empty(&self) -> bool {
        self.users.is_empty() && self.tokens.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millis(second * 1000)
    }

    fn revocation(what: Revoked, second: i64) -> Revocation {
        Revocation { id: 1, what, reason: None, revoked_by: "loopback".to_owned(), revoked_at: at(second) }
    }

    fn identity(issued_at: Option<i64>, jti: Option<&str>) -> Identity {
        Identity {
            user_id: "42".parse().unwrap(),
            expires_at: Timestamp::FAR_FUTURE,
            issued_at: issued_at.map(at),
            jti: jti.map(str::to_owned),
            topics: [].into(),
        }
    }

    #[test]
    fn what_is_revoked_is_covered_until_it_is_taken_back_or_old() {
        let user = Revoked::UserId("42".parse().unwrap());
        let token = Revoked::Jti("a".to_owned());
        let revocations = Revocations::new(Duration::from_secs(100), [revocation(user.clone(), 10)]);
        let covers = |issued_at, jti, now| revocations.cover(&identity(issued_at, jti), at(now));
        assert!(covers(Some(10), None, 20) && covers(None, None, 20));
        assert!(!covers(Some(11), None, 20));
        // A later one about the same covers more; an earlier one that comes late changes nothing.
        revocations.add(revocation(user.clone(), 15));
        revocations.add(revocation(user.clone(), 5));
        assert!(covers(Some(15), None, 20) && !covers(Some(16), None, 20));
        assert!(!covers(Some(15), None, 115), "it is old");
        revocations.add(revocation(token.clone(), 20));
        assert!(covers(Some(99), Some("a"), 100) && !covers(Some(99), Some("b"), 100));
        revocations.remove(&revocation(token, 20));
        assert!(!covers(Some(99), Some("a"), 100));
        assert!(covers(Some(15), None, 100));
        revocations.forget_old(at(115));
        assert!(!revocations.any.load(Ordering::Relaxed));
        revocations.add(revocation(user.clone(), 115));
        assert!(covers(Some(15), None, 120));
        revocations.remove(&Revocation { id: 2, ..revocation(user.clone(), 115) });
        assert!(covers(Some(15), None, 120), "revoked anew meanwhile");
        revocations.remove(&revocation(user, 115));
        assert!(!covers(Some(15), None, 120));
    }
}
