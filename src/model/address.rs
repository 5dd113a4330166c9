//! Who and where: parsed on the way in, so that nothing downstream doubts them.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{EmailAddress, Topic};

/// Longest user id taken, in bytes.
const USER_ID_LIMIT: usize = 255;
/// Longest push token taken, in bytes; FCM's are under 300.
const PUSH_TOKEN_LIMIT: usize = 4096;
/// Integers up to here are exact in every JSON reader (RFC 8259, section 6).
const EXACT_INTEGER_LIMIT: u64 = 1 << 53;

macro_rules! parsed_text {
    ($name:ident, $schema:tt) => {
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        parsed_text!(read $name, $schema);
    };
    (read $name:ident, $schema:tt) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}
pub(super) use parsed_text;

/// A phone number in E.164 form: `+`, then 2 to 15 digits, the first not zero. Nothing else, so that no provider's channel prefix
/// (`whatsapp:`) slips through.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PhoneNumber(Arc<str>);

impl FromStr for PhoneNumber {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix('+').unwrap_or_default().as_bytes();
        let valid = (2..=15).contains(&digits.len()) && digits[0] != b'0' && digits.iter().all(u8::is_ascii_digit);
        if valid { Ok(Self(text.into())) } else { Err("not an E.164 phone number; hint: write it like +255712345678".to_owned()) }
    }
}

parsed_text!(PhoneNumber, { "type": "string", "pattern": "^\\+[1-9][0-9]{1,14}$" });

/// A device's push token (FCM registration token or installation id), opaque to us.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PushToken(Arc<str>);

impl FromStr for PushToken {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = (1..=PUSH_TOKEN_LIMIT).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if valid {
            Ok(Self(text.into()))
        } else {
            Err("not a push token; hint: the token as the device's messaging SDK gave it".to_owned())
        }
    }
}

parsed_text!(PushToken, { "type": "string", "minLength": 1, "maxLength": 4096, "pattern": "^[!-~]+$" });

/// A BCP 47 language tag in canonical form, such as `sw` or `sw-TZ`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Locale(Arc<str>);

impl Locale {
    /// This tag, then each shorter one: `sw-TZ`, `sw`.
    pub fn fallbacks(&self) -> impl Iterator<Item = &str> {
        std::iter::successors(Some(self.as_str()), |tag| tag.rsplit_once('-').map(|(shorter, _)| shorter))
    }
}

impl FromStr for Locale {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        icu_locale_core::Locale::try_from_str(text)
            .map(|locale| Self(locale.to_string().into()))
            .map_err(|_| "not a BCP 47 language tag; hint: write it like sw or sw-TZ".to_owned())
    }
}

parsed_text!(Locale, { "type": "string", "pattern": "^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$" });

/// A time zone of the IANA database, such as `Africa/Dar_es_Salaam`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimeZone(chrono_tz::Tz);

impl TimeZone {
    pub fn as_tz(self) -> chrono_tz::Tz {
        self.0
    }

    pub fn as_str(self) -> &'static str {
        self.0.name()
    }
}

impl FromStr for TimeZone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| "not an IANA time zone; hint: write it like Africa/Dar_es_Salaam".to_owned())
    }
}

impl Serialize for TimeZone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

parsed_text!(read TimeZone, { "type": "string", "pattern": "^[A-Za-z0-9_+/-]+$" });

/// The backend's id of a user: a string or an integer outside, a string inside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(Arc<str>);

impl UserId {
    /// The id as a JSON number when it is a canonical decimal up to 2^53, as the replaced system's clients expect, else as a string.
    pub fn to_wire(&self) -> serde_json::Value {
        match self.0.parse::<u64>() {
            Ok(number) if number <= EXACT_INTEGER_LIMIT && number.to_string() == *self.0 => number.into(),
            _ => self.0.as_ref().into(),
        }
    }
}

impl FromStr for UserId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = (1..=USER_ID_LIMIT).contains(&text.len()) && text == text.trim() && !text.chars().any(char::is_control);
        if valid {
            Ok(Self(text.into()))
        } else {
            Err("not a user id; hint: 1 to 255 bytes without control characters or outer spaces, such as \"42\"".to_owned())
        }
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl UserId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Serialize for UserId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for UserId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = UserId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a user id, a string or an integer")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<UserId, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<UserId, E> {
                Ok(UserId(number.to_string().into()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<UserId, E> {
                Ok(UserId(number.to_string().into()))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for UserId {
    fn schema_name() -> Cow<'static, str> {
        "UserId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"], "minLength": 1, "maxLength": 255 })
    }
}

/// Where one delivery goes. For `live` the user is the address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    Email(EmailAddress),
    Phone(PhoneNumber),
    PushToken(PushToken),
    /// An FCM topic, by name.
    PushTopic(Arc<str>),
    /// An FCM condition over topics.
    PushCondition(Arc<str>),
    /// Every socket of the delivery's user, and the inbox.
    Inbox,
    /// Every socket that follows it.
    Topic(Topic),
}

impl Address {
    /// The stored form. [`Self::from_stored`] reads it back for the same channel.
    pub fn as_stored(&self) -> Cow<'_, str> {
        match self {
            Self::Email(email) => email.as_str().into(),
            Self::Phone(phone) => phone.as_str().into(),
            Self::PushToken(token) => token.as_str().into(),
            Self::PushTopic(topic) => format!("topic {topic}").into(),
            Self::PushCondition(condition) => format!("condition {condition}").into(),
            Self::Inbox => "".into(),
            Self::Topic(topic) => topic.as_str().into(),
        }
    }

    /// Reads what [`Self::as_stored`] wrote, in this version or an earlier one. A push token has no space, so a topic cannot be taken for one.
    pub fn from_stored(channel: super::Channel, text: &str) -> Result<Self, String> {
        match channel {
            super::Channel::Email => EmailAddress::from_stored(text).map(Self::Email),
            super::Channel::Sms => text.parse().map(Self::Phone),
            super::Channel::Live if text.is_empty() => Ok(Self::Inbox),
            super::Channel::Live => text.parse().map(Self::Topic),
            super::Channel::Push => match text.split_once(' ') {
                Some(("topic", topic)) => Ok(Self::PushTopic(topic.into())),
                Some(("condition", condition)) => Ok(Self::PushCondition(condition.into())),
                _ => text.parse().map(Self::PushToken),
            },
        }
    }

    /// Fit for logs and answers.
    pub fn masked(&self) -> String {
        match self {
            Self::Email(_) | Self::Phone(_) | Self::PushToken(_) => super::mask(&self.as_stored()),
            Self::PushTopic(_) | Self::PushCondition(_) => self.as_stored().into_owned(),
            Self::Inbox => "inbox".to_owned(),
            Self::Topic(topic) => format!("topic {topic}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<T: FromStr + fmt::Display>(input: &str, expected: Option<&str>) {
        let parsed = input.parse::<T>().ok().map(|value| value.to_string());
        assert_eq!(parsed.as_deref(), expected, "{input:?}");
    }

    #[test]
    fn phone_numbers_are_strict_e164() {
        check::<PhoneNumber>("+255712345678", Some("+255712345678"));
        for bad in [
            "255712345678",
            "00255712345678",
            "+0712345678",
            "+255 712 345 678",
            "+2557123456789012",
            "+",
            "+1",
            "whatsapp:+255712345678",
            "+٢٥٥٧١٢٣",
        ] {
            check::<PhoneNumber>(bad, None);
        }
    }

    #[test]
    fn locales_are_canonical_and_fall_back() {
        check::<Locale>("sw", Some("sw"));
        check::<Locale>("SW-tz", Some("sw-TZ"));
        check::<Locale>("swahili please", None);
        let locale: Locale = "sw-Latn-TZ".parse().expect("valid");
        assert_eq!(locale.fallbacks().collect::<Vec<_>>(), ["sw-Latn-TZ", "sw-Latn", "sw"]);
    }

    #[test]
    fn time_zones_are_iana() {
        assert_eq!("Africa/Dar_es_Salaam".parse::<TimeZone>().map(TimeZone::as_str), Ok("Africa/Dar_es_Salaam"));
        assert!("Dar es Salaam".parse::<TimeZone>().is_err());
    }

    #[test]
    fn user_ids_are_numbers_on_the_wire_only_when_exact() {
        for (text, wire) in [
            ("42", "42"),
            ("042", "\"042\""),
            ("9007199254740992", "9007199254740992"),
            ("9007199254740993", "\"9007199254740993\""),
            ("asha", "\"asha\""),
            ("+5", "\"+5\""),
        ] {
            assert_eq!(text.parse::<UserId>().expect("valid").to_wire().to_string(), wire);
        }
        assert_eq!(serde_json::from_str::<UserId>("42").expect("valid").as_str(), "42");
        assert!(serde_json::from_str::<UserId>("4.2").is_err());
        assert!(serde_json::from_str::<UserId>("\"\"").is_err());
    }

    #[test]
    fn stored_addresses_round_trip() {
        for (channel, address) in [
            (super::super::Channel::Push, Address::PushTopic("city.dar".into())),
            (super::super::Channel::Push, Address::PushCondition("'a' in topics".into())),
            (super::super::Channel::Push, Address::PushToken("abc:def".parse().expect("valid"))),
            (super::super::Channel::Live, Address::Inbox),
            (super::super::Channel::Email, Address::Email(EmailAddress::from_stored("asha@[127.0.0.1]").expect("stored"))),
        ] {
            assert_eq!(Address::from_stored(channel, &address.as_stored()), Ok(address.clone()));
        }
    }
}
