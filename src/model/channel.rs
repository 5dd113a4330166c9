//! The closed sets: channels, priorities and statuses.

use std::{fmt, ops, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! closed_set {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $number:literal $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        #[repr(u8)]
        pub enum $name { $($(#[$variant_doc])* $variant = $number),+ }

        impl $name {
            pub const ALL: [Self; [$($text),+].len()] = [$(Self::$variant),+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The number it is stored as; part of the stored format, never renumbered.
            pub const fn as_number(self) -> i64 {
                self as i64
            }

            pub const fn from_number(number: i64) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(format!("no such {}; hint: one of {}", stringify!($name).to_lowercase(), [$($text),+].join(", "))),
                }
            }
        }
    };
}

closed_set! {
    /// A way to reach a person. Each has a lane of its own.
    Channel { Email = 0 "email", Sms = 1 "sms", Push = 2 "push", Live = 3 "live" }
}

closed_set! {
    /// How soon a delivery is taken when its lane is busy: by weight 16 : 4 : 1.
    Priority { High = 0 "high", Normal = 1 "normal", Low = 2 "low" }
}

closed_set! {
    /// Where a delivery is.
    Status {
        /// Waiting for its (next) attempt.
        Queued = 0 "queued",
        /// An attempt is recorded and its outcome is not.
        Sending = 1 "sending",
        /// The provider took it.
        Sent = 2 "sent",
        /// The provider confirmed it.
        Delivered = 3 "delivered",
        Failed = 4 "failed",
        Expired = 5 "expired",
        Cancelled = 6 "cancelled",
        Suppressed = 7 "suppressed",
    }
}

impl Priority {
    /// Its share of a busy lane's attempts.
    pub const fn weight(self) -> u32 {
        match self {
            Self::High => 16,
            Self::Normal => 4,
            Self::Low => 1,
        }
    }
}

impl Status {
    /// Neither queued nor sending: nothing more will happen by itself.
    pub const fn is_ended(self) -> bool {
        !matches!(self, Self::Queued | Self::Sending)
    }

    /// Whether a delivery may go from here to `next` (DESIGN.md, "Moves").
    pub const fn may_become(self, next: Self) -> bool {
        use Status::{Cancelled, Delivered, Expired, Failed, Queued, Sending, Sent, Suppressed};
        match self {
            Queued => matches!(next, Sending | Expired | Cancelled | Suppressed | Failed),
            Sending => matches!(next, Queued | Sent | Failed | Cancelled | Expired),
            Sent => matches!(next, Delivered | Failed),
            Failed => matches!(next, Sent | Delivered),
            Delivered => matches!(next, Failed),
            Expired | Cancelled | Suppressed => false,
        }
    }
}

/// One value for each channel, indexed by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PerChannel<T>([T; 4]);

impl<T> PerChannel<T> {
    pub fn from_fn(make: impl FnMut(Channel) -> T) -> Self {
        Self(Channel::ALL.map(make))
    }

    pub fn iter(&self) -> impl Iterator<Item = (Channel, &T)> {
        Channel::ALL.into_iter().zip(&self.0)
    }
}

impl<T> ops::Index<Channel> for PerChannel<T> {
    type Output = T;

    fn index(&self, channel: Channel) -> &T {
        &self.0[channel as usize]
    }
}

impl<T> ops::IndexMut<Channel> for PerChannel<T> {
    fn index_mut(&mut self, channel: Channel) -> &mut T {
        &mut self.0[channel as usize]
    }
}

/// A set of channels, in the channels' own order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelSet(u8);

impl ChannelSet {
    pub const fn contains(self, channel: Channel) -> bool {
        self.0 & (1 << channel as u8) != 0
    }

    pub const fn insert(&mut self, channel: Channel) {
        self.0 |= 1 << channel as u8;
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = Channel> {
        Channel::ALL.into_iter().filter(move |channel| self.contains(*channel))
    }
}

impl FromIterator<Channel> for ChannelSet {
    fn from_iter<I: IntoIterator<Item = Channel>>(channels: I) -> Self {
        let mut set = Self::default();
        for channel in channels {
            set.insert(channel);
        }
        set
    }
}

/// A set of statuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatusSet(u8);

impl StatusSet {
    pub const fn contains(self, status: Status) -> bool {
        self.0 & (1 << status as u8) != 0
    }
}

impl FromIterator<Status> for StatusSet {
    fn from_iter<I: IntoIterator<Item = Status>>(statuses: I) -> Self {
        Self(statuses.into_iter().fold(0, |set, status| set | 1 << status as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_statuses_never_go_back_to_waiting() {
        for from in Status::ALL {
            for to in Status::ALL {
                if from.is_ended() {
                    assert!(to.is_ended() || !from.may_become(to), "{from} must not become {to}");
                }
            }
            assert!(!from.may_become(from), "{from} to itself is no move");
        }
    }

    #[test]
    fn stored_numbers_and_names_round_trip() {
        for status in Status::ALL {
            assert_eq!(Status::from_number(status.as_number()), Some(status));
            assert_eq!(status.as_str().parse(), Ok(status));
        }
        assert_eq!(Status::from_number(99), None);
        assert!("fax".parse::<Channel>().is_err());
    }
}
