//! What goes over sockets is numbered in: a user's own stream, a topic's that many users follow, or a conversation's.

use std::{
    borrow::Cow,
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
    sync::{Arc, LazyLock},
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{ConversationId, UserId, address::parsed_text};

/// Longest name of a topic, in bytes.
const TOPIC_LIMIT: usize = 200;
/// The topic that everyone follows.
const EVERYONE: &str = "*";

/// A live stream many users may follow, such as `city.dar`; `*` is everyone's.
#[derive(Clone, Debug, Eq, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

impl Topic {
    /// The topic that every socket follows without asking.
    pub fn everyone() -> Self {
        static ONE: LazyLock<Topic> = LazyLock::new(|| Topic(EVERYONE.into()));
        ONE.clone()
    }
}

impl PartialEq for Topic {
    /// Asked for every socket that a frame goes to, and mostly of one and the same.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Hash for Topic {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl FromStr for Topic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == EVERYONE {
            Ok(Self::everyone())
        } else if is_name(text) {
            Ok(Self(text.into()))
        } else {
            Err("not a topic; hint: up to 200 letters, digits and . _ - :, such as city.dar, or * for everyone".to_owned())
        }
    }
}

parsed_text!(Topic, { "type": "string", "pattern": "^(\\*|[A-Za-z0-9._:-]{1,200})$" });

fn is_name(text: &str) -> bool {
    (1..=TOPIC_LIMIT).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b':'))
}

/// Topics somebody may follow: one by name, or all that begin so (`city.*`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicPattern(Arc<str>);

impl TopicPattern {
    pub fn allows(&self, topic: &Topic) -> bool {
        match self.0.strip_suffix(EVERYONE) {
            Some(prefix) => topic.as_str().starts_with(prefix),
            None => *self.0 == *topic.as_str(),
        }
    }
}

impl FromStr for TopicPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == EVERYONE || is_name(text.strip_suffix(EVERYONE).unwrap_or(text)) {
            Ok(Self(text.into()))
        } else {
            Err("not a topic or prefix; hint: write it like city.dar, or city.* for all that begin so".to_owned())
        }
    }
}

parsed_text!(TopicPattern, { "type": "string", "pattern": "^([A-Za-z0-9._:-]{1,200}\\*?|\\*)$" });

/// A sequence of items numbered without gaps, from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    User(UserId),
    Topic(Topic),
    Conversation(ConversationId),
}

/// One item's place in its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub stream: Stream,
    pub seq: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, topic: &str, expected: bool) {
        let (pattern, topic): (TopicPattern, Topic) = (pattern.parse().unwrap(), topic.parse().unwrap());
        assert_eq!(pattern.allows(&topic), expected, "{pattern} {topic}");
    }

    #[test]
    fn patterns_are_names_or_prefixes() {
        check("city.dar", "city.dar", true);
        check("city.dar", "city.dare", false);
        check("city.*", "city.dar", true);
        check("city.*", "city", false);
        check("*", "anything", true);
        check("city.*", "cityx.dar", false);
    }

    #[test]
    fn names_are_strict() {
        for bad in ["", "a b", "a*", "*.a", "café", "a/b", &"a".repeat(201)] {
            assert!(bad.parse::<Topic>().is_err(), "{bad}");
        }
        for bad in ["", "**", "a*b", "a b*"] {
            assert!(bad.parse::<TopicPattern>().is_err(), "{bad}");
        }
        assert_eq!("*".parse(), Ok(Topic::everyone()));
    }
}
