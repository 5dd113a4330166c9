//! Why a connection ends, and what the peer is told of it.

use tokio_tungstenite::tungstenite::{Error, Utf8Bytes, error::ProtocolError};

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The peer closed it.
    PeerClosed,
    /// The connection broke.
    Lost,
    /// Nothing came in for a whole ping, or a message was begun and not finished.
    Silent,
    /// It did not read what was queued for it.
    TooSlow,
    /// Its token expired.
    Expired,
    /// Its token was revoked.
    Revoked,
    /// It brought a new token that is no good, or somebody else's.
    Forbidden,
    /// Its user takes no part any more in what it is for.
    Excluded,
    /// It sent more messages than it may.
    TooMany,
    /// This process is shutting down.
    Restarting,
    /// The store could not be read: what was missed cannot be told here and now.
    Unavailable,
    /// It sent a message beyond the limit.
    TooLarge,
    /// It sent text that is not UTF-8.
    NotText,
    /// It broke the protocol in another way.
    Violation,
}

impl Ending {
    pub const ALL: [Self; 14] = [
        Self::PeerClosed,
        Self::Lost,
        Self::Silent,
        Self::TooSlow,
        Self::Expired,
        Self::Revoked,
        Self::Forbidden,
        Self::Excluded,
        Self::TooMany,
        Self::Restarting,
        Self::Unavailable,
        Self::TooLarge,
        Self::NotText,
        Self::Violation,
    ];

    /// A short word, fit for a label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PeerClosed => "peer_closed",
            Self::Lost => "lost",
            Self::Silent => "silent",
            Self::TooSlow => "too_slow",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Forbidden => "forbidden",
            Self::Excluded => "excluded",
            Self::TooMany => "too_many_messages",
            Self::Restarting => "restarting",
            Self::Unavailable => "unavailable",
            Self::TooLarge => "too_large",
            Self::NotText => "not_text",
            Self::Violation => "violation",
        }
    }

    /// What the peer is told (SOCKETS.md, section 2; RFC 6455, section 7.4.1; 1012 and 1013 from IANA's registry of close codes).
    pub(super) const fn close(self) -> Option<Close> {
        let (code, reason) = match self {
            Self::PeerClosed | Self::Lost => return None,
            Self::Silent => (1011, "no answer to ping"),
            Self::TooSlow => (4408, "too slow"),
            Self::Expired => (4401, "token expired"),
            Self::Revoked => (4401, "token revoked"),
            Self::Forbidden => (4403, "not a token for this user"),
            Self::Excluded => (4403, "no longer a participant"),
            Self::TooMany => (4429, "too many messages"),
            Self::Restarting => (1012, "restarting"),
            Self::Unavailable => (1013, "try again later"),
            Self::TooLarge => (1009, "message too large"),
            Self::NotText => (1007, "not UTF-8"),
            Self::Violation => (1002, "protocol violation"),
        };
        Some(Close { code, reason: Utf8Bytes::from_static(reason) })
    }

    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::Capacity(_) => Self::TooLarge,
            Error::Utf8(_) => Self::NotText,
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Lost,
            Error::Protocol(_) => Self::Violation,
            _ => Self::Lost,
        }
    }

    /// We stopped understanding the peer, so the rest of what it sends is read and thrown away.
    pub(super) const fn is_undecodable(self) -> bool {
        matches!(self, Self::TooLarge | Self::NotText | Self::Violation)
    }
}

/// A close code and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Close {
    pub code: u16,
    /// At most 123 bytes (RFC 6455, section 5.5).
    pub reason: Utf8Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_counted_each_on_its_own() {
        for (index, ending) in Ending::ALL.into_iter().enumerate() {
            assert_eq!(ending as usize, index, "{}", ending.as_str());
        }
    }
}
