//! Tickets: what opens one socket in place of a token, for those who will not put tokens into URLs.
//!
//! A ticket is sealed (Fernet) and carries whom its token named, so that nothing is kept of those not used. Which ones have been used is
//! kept here for as long as they live, for this process alone.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{AuthError, Identity};
use crate::model::Timestamp;

/// The form of what is sealed.
const VERSION: u8 = 1;
/// Longest ticket looked at, in bytes: what a token of 8 KiB may name, sealed and in Base64.
const TICKET_LIMIT: usize = 16 * 1024;
/// Tickets used within one lifetime; beyond it none is taken until the oldest have expired. About 64 bytes each.
const USED_LIMIT: usize = 100_000;

/// Makes tickets and reads them back, each once.
pub(super) struct Tickets {
    seal: fernet::Fernet,
    lifetime: Duration,
    used: UsedTickets,
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    v: u8,
    id: Uuid,
    /// The process that made it.
    maker: Uuid,
    /// Milliseconds since the Unix epoch.
    made_at: i64,
    identity: Identity,
}

impl Tickets {
    /// `key` is 32 bytes in Base64 (RFC 4648, section 5); `None` when it is not.
    pub fn new(key: &SecretString, lifetime: Duration) -> Option<Self> {
        let used = UsedTickets { maker: Uuid::now_v7(), seen: Mutex::default() };
        Some(Self { seal: fernet::Fernet::new(key.expose_secret())?, lifetime, used })
    }

    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    pub fn make(&self, identity: Identity, now: Timestamp) -> String {
        let sealed = Sealed { v: VERSION, id: Uuid::now_v7(), maker: self.used.maker, made_at: now.as_millis(), identity };
        self.seal.encrypt(&serde_json::to_vec(&sealed).expect("an identity is JSON")).trim_end_matches('=').to_owned()
    }

    /// Whom the ticket names. The second time it is refused.
    pub fn take(&self, ticket: &str, now: Timestamp) -> Result<Identity, AuthError> {
        if ticket.len() > TICKET_LIMIT {
            return Err(AuthError::BadTicket);
        }
        let bare = ticket.trim_end_matches('=');
        let padding = "=".repeat((4 - bare.len() % 4) % 4);
        let opened = self.seal.decrypt(&format!("{bare}{padding}")).map_err(|_| AuthError::BadTicket)?;
        let sealed: Sealed = serde_json::from_slice(&opened).map_err(|_| AuthError::BadTicket)?;
        if sealed.v != VERSION {
            return Err(AuthError::BadTicket);
        }
        let until = Timestamp::from_millis(sealed.made_at).saturating_add(self.lifetime);
        if now >= until {
            return Err(AuthError::TicketExpired);
        }
        self.used.use_once(sealed.maker, sealed.id, until, now)?;
        if now >= sealed.identity.expires_at {
            return Err(AuthError::Expired);
        }
        Ok(sealed.identity)
    }
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tickets").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

/// The tickets of this process that have been used, until they expire. Several daemons would have to share this: of tickets made by
/// another process, an earlier one of our own included, nobody here knows whether they were used.
#[derive(Debug)]
struct UsedTickets {
    maker: Uuid,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    ids: HashSet<Uuid>,
    /// In the order of use, which is nearly that of expiry: what waits behind another waits a lifetime at most.
    until: VecDeque<(Timestamp, Uuid)>,
}

impl UsedTickets {
    fn use_once(&self, maker: Uuid, id: Uuid, until: Timestamp, now: Timestamp) -> Result<(), AuthError> {
        if maker != self.maker {
            return Err(AuthError::TicketExpired);
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((_, id)) = seen.until.pop_front_if(|(until, _)| *until <= now) {
            seen.ids.remove(&id);
        }
        if seen.ids.contains(&id) {
            return Err(AuthError::TicketUsed);
        }
        if seen.ids.len() >= USED_LIMIT {
            return Err(AuthError::TooManyTickets);
        }
        seen.ids.insert(id);
        seen.until.push_back((until, id));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const OTHER_KEY: &str = "Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";
    const LIFETIME: Duration = Duration::from_secs(30);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millis(second * 1000)
    }

    fn tickets(key: &str) -> Tickets {
        Tickets::new(&key.into(), LIFETIME).unwrap()
    }

    fn identity() -> Identity {
        Identity {
            user_id: "42".parse().unwrap(),
            expires_at: at(150),
            issued_at: Some(at(90)),
            jti: Some("abc".to_owned()),
            topics: ["city.*".to_owned()].into(),
        }
    }

    #[test]
    fn a_ticket_names_whom_its_token_named_once() {
        let tickets = tickets(KEY);
        let ticket = tickets.make(identity(), at(100));
        assert!(ticket.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')), "{ticket}");
        assert_eq!(tickets.take(&ticket, at(101)), Ok(identity()));
        assert_eq!(tickets.take(&ticket, at(101)), Err(AuthError::TicketUsed));
        assert_eq!(tickets.take(&format!("{ticket}=="), at(101)), Err(AuthError::TicketUsed));
    }

    #[test]
    fn tickets_expire_and_so_do_their_tokens() {
        let tickets = tickets(KEY);
        let ticket = |made_at| tickets.make(identity(), at(made_at));
        assert!(tickets.take(&ticket(100), at(129)).is_ok());
        assert_eq!(tickets.take(&ticket(100), at(130)), Err(AuthError::TicketExpired));
        assert_eq!(tickets.take(&ticket(140), at(150)), Err(AuthError::Expired));
        let earlier = self::tickets(KEY).make(identity(), at(100));
        assert_eq!(tickets.take(&earlier, at(101)), Err(AuthError::TicketExpired), "another process may have seen it used");
    }

    #[test]
    fn forged_tickets_are_refused() {
        let mine = tickets(KEY);
        assert_eq!(mine.take(&tickets(OTHER_KEY).make(identity(), at(100)), at(101)), Err(AuthError::BadTicket));
        let mut tampered = mine.make(identity(), at(100)).into_bytes();
        tampered[40] ^= 1;
        let tampered = String::from_utf8_lossy(&tampered).into_owned();
        for bad in ["", "nonsense", "a.b.c", &tampered, &"A".repeat(TICKET_LIMIT + 1)] {
            assert_eq!(mine.take(bad, at(101)), Err(AuthError::BadTicket), "{bad}");
        }
        // Sealed with our key, and something else.
        let other = mine.seal.encrypt(br#"{"v":1,"address":"asha@example.com","list":"messages"}"#);
        assert_eq!(mine.take(&other, at(101)), Err(AuthError::BadTicket));
        assert!(Tickets::new(&"short".into(), LIFETIME).is_none());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let used = UsedTickets { maker: Uuid::nil(), seen: Mutex::default() };
        let use_once = |id: u128, now| used.use_once(Uuid::nil(), Uuid::from_u128(id), at(now + 30), at(now));
        for id in 0..USED_LIMIT as u128 {
            assert_eq!(use_once(id, 100), Ok(()));
        }
        assert_eq!(use_once(u128::MAX, 129), Err(AuthError::TooManyTickets));
        assert_eq!(use_once(7, 129), Err(AuthError::TicketUsed));
        assert_eq!(use_once(u128::MAX, 130), Ok(()));
        assert_eq!(used.seen.lock().unwrap().ids.len(), 1);
    }
}
