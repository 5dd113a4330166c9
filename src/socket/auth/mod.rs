//! Who a caller is: access tokens (JSON Web Tokens), tickets in their place, and what has been revoked.
//!
//! Knows tokens and where requests carry them. What an identity may then do is for others.

mod authenticator;
mod bearer;
mod claims;
mod jwks;
mod revocations;
mod ticket;
mod verifier;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::{
    authenticator::{AuthSettings, Authenticator, require_user},
    revocations::Revocations,
    verifier::{BadKey, JwtKeySettings, JwtSettings, JwtVerifier, sign_development_token},
};
use crate::model::{Revocation, Timestamp, UserId};

/// Whom a good token names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub user_id: UserId,
    /// From this moment on the token is refused: its `exp` plus the leeway.
    pub expires_at: Timestamp,
    /// Its `iat`.
    pub issued_at: Option<Timestamp>,
    pub jti: Option<String>,
    /// The topics its holder may follow: exact names, and beginnings that end in `*`.
    pub topics: Arc<[String]>,
}

impl Identity {
    /// Whether the token lets its holder follow this topic.
    pub fn permits_topic(&self, topic: &str) -> bool {
        self.topics.iter().any(|permitted| match permitted.strip_suffix('*') {
            Some(beginning) => topic.starts_with(beginning),
            None => permitted == topic,
        })
    }

    /// A user known by nothing but the id.
    pub fn of(user_id: UserId, expires_at: Timestamp) -> Self {
        Self { user_id, expires_at, issued_at: None, jti: None, topics: Arc::default() }
    }

    /// Whether `revocation` is about this token.
    pub fn is_covered_by(&self, revocation: &Revocation) -> bool {
        revocation.covers(&self.user_id, self.jti.as_deref(), self.issued_at)
    }
}

/// Why a token, or a ticket, is refused. Holds and shows nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AuthError {
    #[error("no token")]
    Missing,
    #[error("not a token")]
    Malformed,
    #[error("token signed by an unknown key")]
    UnknownKey,
    #[error("token signed with another algorithm than its key is for")]
    WrongAlgorithm,
    #[error("token signature is wrong")]
    BadSignature,
    #[error("token does not expire")]
    NoExpiry,
    #[error("token expired")]
    Expired,
    #[error("token not valid yet")]
    NotYetValid,
    #[error("not an access token")]
    WrongType,
    #[error("token is for another audience")]
    WrongAudience,
    #[error("token is from another issuer")]
    WrongIssuer,
    #[error("token names no user")]
    NoUser,
    #[error("token revoked")]
    Revoked,
    #[error("not a ticket")]
    BadTicket,
    #[error("ticket expired")]
    TicketExpired,
    #[error("ticket used before")]
    TicketUsed,
    #[error("too many tickets at once; try again soon")]
    TooManyTickets,
    #[error("whether this ticket was used cannot be told now; try again soon, or with a token")]
    TicketUnknown,
    #[error("this origin is not allowed")]
    ForeignOrigin,
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Bus, Hub, HubLimits},
        *,
    };

    /// For one process, with room for next to nothing.
    pub(super) fn bus() -> Bus {
        Bus::memory(Hub::new(HubLimits {
            connections: 1,
            connections_per_user: 1,
            topics_per_connection: 1,
            send_queue_limit: 1024,
            send_queue_frames: 1,
        }))
    }

    #[track_caller]
    fn check(topics: &[&str], topic: &str, expected: bool) {
        let identity = Identity {
            user_id: "42".parse().unwrap(),
            expires_at: Timestamp::FAR_FUTURE,
            issued_at: None,
            jti: None,
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
        };
        assert_eq!(identity.permits_topic(topic), expected, "{topics:?} {topic}");
    }

    #[test]
    fn topics_are_permitted_by_name_or_by_how_they_begin() {
        check(&[], "city.dar", false);
        check(&["city.dar"], "city.dar", true);
        check(&["city.dar"], "city.dar.es", false);
        check(&["city.*"], "city.dar", true);
        check(&["city.*"], "city", false);
        check(&["other", "*"], "anything", true);
        check(&["c*y"], "city", false);
    }
}
