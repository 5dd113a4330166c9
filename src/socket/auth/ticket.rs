//! Tickets: what opens one socket in place of a token, for those who will not put tokens into URLs.
//!
//! A ticket is sealed (Fernet) and carries whom its token named, so that nothing is kept of those not used. Which ones have been used the
//! bus remembers for as long as they live: for all processes where it can, and else for this one.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    super::bus::{Bus, BusError},
    AuthError, Identity,
};
use crate::model::Timestamp;

/// The form of what is sealed.
const VERSION: u8 = 1;
/// Longest ticket looked at, in bytes: what a token of 8 KiB may name, sealed and in Base64.
const TICKET_LIMIT: usize = 16 * 1024;

/// Makes tickets and reads them back, each once.
pub(super) struct Tickets {
    seal: fernet::Fernet,
    lifetime: Duration,
    /// This process.
    maker: Uuid,
    bus: Bus,
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
    pub fn new(key: &SecretString, lifetime: Duration, bus: Bus) -> Option<Self> {
        Some(Self { seal: fernet::Fernet::new(key.expose_secret())?, lifetime, maker: Uuid::now_v7(), bus })
    }

    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    pub fn make(&self, identity: Identity, now: Timestamp) -> String {
        let sealed = Sealed { v: VERSION, id: Uuid::now_v7(), maker: self.maker, made_at: now.as_millis(), identity };
        self.seal.encrypt(&serde_json::to_vec(&sealed).expect("an identity is JSON")).trim_end_matches('=').to_owned()
    }

    /// Whom the ticket names. The second time it is refused, wherever the first was.
    pub async fn take(&self, ticket: &str, now: Timestamp) -> Result<Identity, AuthError> {
        let Sealed { id, maker, made_at, identity, .. } = self.open(ticket)?;
        let until = Timestamp::from_millis(made_at).saturating_add(self.lifetime);
        // Of another process's tickets, an earlier one of our own included, nobody knows which were used unless that is shared.
        if now >= until || (maker != self.maker && !self.bus.is_shared()) {
            return Err(AuthError::TicketExpired);
        }
        match self.bus.use_once(&format!("ticket:{id}"), until.since(now)).await {
            Ok(true) if now < identity.expires_at => Ok(identity),
            Ok(true) => Err(AuthError::Expired),
            Ok(false) => Err(AuthError::TicketUsed),
            Err(BusError::Full) => Err(AuthError::TooManyTickets),
            Err(_) => Err(AuthError::TicketUnknown),
        }
    }

    fn open(&self, ticket: &str) -> Result<Sealed, AuthError> {
        if ticket.len() > TICKET_LIMIT {
            return Err(AuthError::BadTicket);
        }
        let bare = ticket.trim_end_matches('=');
        let padding = "=".repeat((4 - bare.len() % 4) % 4);
        let opened = self.seal.decrypt(&format!("{bare}{padding}")).map_err(|_| AuthError::BadTicket)?;
        let sealed: Sealed = serde_json::from_slice(&opened).map_err(|_| AuthError::BadTicket)?;
        if sealed.v == VERSION { Ok(sealed) } else { Err(AuthError::BadTicket) }
    }
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tickets").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::bus, *};

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const OTHER_KEY: &str = "Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";
    const LIFETIME: Duration = Duration::from_secs(30);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millis(second * 1000)
    }

    fn tickets(key: &str) -> Tickets {
        Tickets::new(&key.into(), LIFETIME, bus()).unwrap()
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

    #[tokio::test]
    async fn a_ticket_names_whom_its_token_named_once() {
        let tickets = tickets(KEY);
        let ticket = tickets.make(identity(), at(100));
        assert!(ticket.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')), "{ticket}");
        assert_eq!(tickets.take(&ticket, at(101)).await, Ok(identity()));
        assert_eq!(tickets.take(&ticket, at(101)).await, Err(AuthError::TicketUsed));
        assert_eq!(tickets.take(&format!("{ticket}=="), at(101)).await, Err(AuthError::TicketUsed));
    }

    #[tokio::test]
    async fn tickets_expire_and_so_do_their_tokens() {
        let tickets = tickets(KEY);
        let ticket = |made_at| tickets.make(identity(), at(made_at));
        assert!(tickets.take(&ticket(100), at(129)).await.is_ok());
        assert_eq!(tickets.take(&ticket(100), at(130)).await, Err(AuthError::TicketExpired));
        assert_eq!(tickets.take(&ticket(140), at(150)).await, Err(AuthError::Expired));
        let earlier = self::tickets(KEY).make(identity(), at(100));
        assert_eq!(tickets.take(&earlier, at(101)).await, Err(AuthError::TicketExpired), "another process may have seen it used");
    }

    #[tokio::test]
    async fn forged_tickets_are_refused() {
        let mine = tickets(KEY);
        assert_eq!(mine.take(&tickets(OTHER_KEY).make(identity(), at(100)), at(101)).await, Err(AuthError::BadTicket));
        let mut tampered = mine.make(identity(), at(100)).into_bytes();
        tampered[40] ^= 1;
        let tampered = String::from_utf8_lossy(&tampered).into_owned();
        for bad in ["", "nonsense", "a.b.c", &tampered, &"A".repeat(TICKET_LIMIT + 1)] {
            assert_eq!(mine.take(bad, at(101)).await, Err(AuthError::BadTicket), "{bad}");
        }
        // Sealed with our key, and something else.
        let other = mine.seal.encrypt(br#"{"v":1,"address":"asha@example.com","list":"messages"}"#);
        assert_eq!(mine.take(&other, at(101)).await, Err(AuthError::BadTicket));
        assert!(Tickets::new(&"short".into(), LIFETIME, bus()).is_none());
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let tickets = tickets(KEY);
        while let Ok(is_first) = tickets.bus.use_once(&Uuid::now_v7().to_string(), LIFETIME).await {
            assert!(is_first);
        }
        assert_eq!(tickets.take(&tickets.make(identity(), at(100)), at(101)).await, Err(AuthError::TooManyTickets));
    }
}
