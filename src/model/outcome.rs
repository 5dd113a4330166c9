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
    /// It could not be sent as it is, and nothing was asked of the provider.
    UNSENDABLE = "unsendable",
    CONFIG_REFUSED = "config_refused",
    CAPTURE_FAILED = "capture_failed",
    /// No connection came about, or it ended before the request had left.
    CONNECTION_FAILED = "connection_failed",
    /// The connection ended after the request may have left.
    CONNECTION_LOST = "connection_lost",
    /// An answer that the provider's published interface does not have.
    UNEXPECTED_ANSWER = "unexpected_answer",
    /// Our credentials are not good there, or may not do this.
    AUTHENTICATION_FAILED = "authentication_failed",
    /// The credentials of one platform behind the provider are not good (Apple's, a browser's); the other platforms go on.
    PLATFORM_REFUSED = "platform_credentials_refused",
    /// The account's credits or quota are used up.
    QUOTA_EXCEEDED = "quota_exceeded",
    /// The sender's address or number is not ours to use there.
    SENDER_REFUSED = "sender_refused",
    TOO_LARGE = "too_large",
    /// Refused for what it says: spam, policy, a carrier's filter.
    CONTENT_REFUSED = "content_refused",
    /// There is nobody at this address.
    ADDRESS_UNKNOWN = "address_unknown",
    /// The person asked not to be written to.
    OPTED_OUT = "opted_out",
    /// The app was removed from the device.
    UNREGISTERED = "unregistered",
    /// The push token belongs to another project.
    SENDER_MISMATCH = "sender_mismatch",
    MAILBOX_FULL = "mailbox_full",
    /// The receiving server wants to see us again later.
    GREYLISTED = "greylisted",
    /// An address that takes characters the mail server cannot carry (RFC 6531).
    ADDRESS_UNSUPPORTED = "address_unsupported",
    /// The phone number does not begin as `allowed_prefixes` says it may.
    DESTINATION_NOT_ALLOWED = "destination_not_allowed",
    /// The account may not write to this country.
    REGION_NOT_ENABLED = "region_not_enabled",
    /// Too many messages to numbers that begin alike.
    VELOCITY_LIMITED = "velocity_limited",
    CARRIER_QUEUE_FULL = "carrier_queue_full",
    /// Too many messages to this one device or topic; the others may go on.
    RECIPIENT_RATE_LIMITED = "recipient_rate_limited",
    HANDSET_UNREACHABLE = "handset_unreachable",
    /// Told after `sent`: it came back.
    BOUNCED = "bounced",
    /// Told after `sent`: the provider took it, and did not pass it on.
    DROPPED = "dropped",
    /// Told after `sent`, by somebody who calls it spam.
    COMPLAINED = "complained",
    UNSUBSCRIBED = "unsubscribed",
    /// Not sent: the address is on the suppression list.
    SUPPRESSED = "suppressed",
    /// Told after `sent`: not delivered, for a reason of the carrier's that says nothing about the address.
    UNDELIVERED = "undelivered",
}

impl Code {
    pub const fn as_str(self) -> &'static str {
        self.0
    }

    /// Whether it says something about this one recipient and nothing about the provider: then it does not help to try the next one.
    pub fn is_about_recipient(self) -> bool {
        [Self::MAILBOX_FULL, Self::GREYLISTED, Self::VELOCITY_LIMITED, Self::HANDSET_UNREACHABLE, Self::RECIPIENT_RATE_LIMITED]
            .contains(&self)
    }

    /// Whether it was decided here, before anything was asked of the provider: then it says nothing about the provider at all.
    pub fn is_local(self) -> bool {
        [Self::RENDER_FAILED, Self::TEMPLATE_MISSING, Self::UNSENDABLE, Self::DESTINATION_NOT_ALLOWED, Self::VELOCITY_LIMITED]
            .contains(&self)
    }

    /// Whether the provider asks for fewer: it works, and the pace sees to the rest.
    pub fn asks_for_fewer(self) -> bool {
        [Self::RATE_LIMITED, Self::CARRIER_QUEUE_FULL].contains(&self)
    }

    /// Whether it says something about this one message, its recipient or its sender, and nothing about the provider.
    pub fn is_about_message(self) -> bool {
        self.is_about_recipient() || self == Self::SENDER_REFUSED
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
    /// Try the next provider at once.
    NextProvider,
    /// Over, with this status and code.
    Dead { status: Status, code: Code },
}
