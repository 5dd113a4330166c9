//! What one attempt came to, and what to do next.

use std::time::Duration;

use serde::Serialize;

use super::{Status, Timestamp};

/// Short words for what happened, fit for a metric label and stored with the attempt. A fixed list: [`Code::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Code(&'static str);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal),+ $(,)?) => {
        impl Code {
            $($(#[$doc])* pub const $name: Self = Self($text);)+
            pub const ALL: &'static [Self] = &[$(Self::$name),+];
        }
    };
}

codes! {
    /// Nobody asked for more than one: a newer delivery with the same collapse key took its place.
    COLLAPSED = "collapsed",
    CANCELLED_BY_REQUEST = "cancelled_by_request",
    EXPIRED = "expired",
    /// All attempts the policy allows were made.
    ATTEMPTS_EXHAUSTED = "attempts_exhausted",
    UNKNOWN_OUTCOME = "unknown_outcome",
    /// The process ended between recording the attempt and recording its outcome.
    INTERRUPTED = "interrupted",
    TIMEOUT = "timeout",
    RENDER_FAILED = "render_failed",
    TEMPLATE_MISSING = "template_missing",
    /// The stored row does not read back; a person should look.
    UNREADABLE = "unreadable",
    PROVIDER_PANICKED = "provider_panicked",
    RATE_LIMITED = "rate_limited",
    PROVIDER_UNAVAILABLE = "provider_unavailable",
    /// Asked for with `--chaos`.
    CHAOS = "chaos",
    ADDRESS_REFUSED = "address_refused",
    PAYLOAD_REFUSED = "payload_refused",
    CONFIG_REFUSED = "config_refused",
    CAPTURE_FAILED = "capture_failed",
}

impl Code {
    pub const fn as_str(self) -> &'static str {
        self.0
    }

    /// The code stored under this text, if it is one of ours.
    pub fn from_stored(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.0 == text)
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

/// What one attempt came to, as the channel saw it.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The provider took it.
    Sent { provider_id: Option<String> },
    /// Not taken; waiting may help. `retry_after` is the provider's own wish.
    Transient { code: Code, detail: String, retry_after: Option<Duration> },
    /// Not taken, and never will be as it is.
    Permanent { kind: PermanentKind, code: Code, detail: String },
    /// It may have been taken: the request had left, and no answer came.
    Unknown { code: Code, detail: String },
}

/// Whose fault a permanent failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermanentKind {
    /// This address is dead.
    Address,
    /// This content will never be taken.
    Payload,
    /// Our credentials, quota or set-up: pauses the provider instead of burning deliveries.
    Config,
}

impl Outcome {
    /// The word stored with the attempt and used as a metric label.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Sent { .. } => "sent",
            Self::Transient { .. } => "transient",
            Self::Permanent { .. } => "permanent",
            Self::Unknown { .. } => "unknown",
        }
    }

    pub const fn code(&self) -> Option<Code> {
        match self {
            Self::Sent { .. } => None,
            Self::Transient { code, .. } | Self::Permanent { code, .. } | Self::Unknown { code, .. } => Some(*code),
        }
    }

    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Sent { .. } => None,
            Self::Transient { detail, .. } | Self::Permanent { detail, .. } | Self::Unknown { detail, .. } => Some(detail),
        }
    }
}

/// What to do next with a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The provider took it.
    Done,
    /// Queue it again, due then.
    RetryAt(Timestamp),
    /// Over, with this status and code.
    Dead { status: Status, code: Code },
}
