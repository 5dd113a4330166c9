//! Who is not written to any more, and the one form in which addresses are compared.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    Channel, Code, EmailAddress,
    address::{PhoneNumber, PushToken, parsed_text},
};

/// Longest name of a list, in bytes.
const LIST_NAME_LIMIT: usize = 40;

/// Why an address is on the suppression list. Of two entries that last as long, the later one in this order stays: what a person has
/// said weighs more than what a machine has found, and only an operator undoes what an operator did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SuppressionReason {
    /// Mail to it came back.
    Bounced,
    /// The app was removed from the device.
    Unregistered,
    /// The person does not want mail of this kind.
    Unsubscribed,
    /// The person told the carrier to stop (a `STOP` by SMS).
    OptedOut,
    /// The person called it spam.
    Complained,
    /// An operator put it there.
    Manual,
}

impl SuppressionReason {
    pub const ALL: [Self; 6] = [Self::Bounced, Self::Unregistered, Self::Unsubscribed, Self::OptedOut, Self::Complained, Self::Manual];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bounced => "bounced",
            Self::Unregistered => "unregistered",
            Self::Unsubscribed => "unsubscribed",
            Self::OptedOut => "opted_out",
            Self::Complained => "complained",
            Self::Manual => "manual",
        }
    }

    /// Why an address is dead to us that a provider has refused with this code; `None` when the code says nothing about the address.
    pub fn of(code: Code) -> Option<Self> {
        match code {
            Code::OPTED_OUT => Some(Self::OptedOut),
            Code::UNREGISTERED => Some(Self::Unregistered),
            Code::ADDRESS_REFUSED | Code::ADDRESS_UNKNOWN => Some(Self::Bounced),
            _ => None,
        }
    }
}

impl fmt::Display for SuppressionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for SuppressionReason {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|reason| reason.as_str() == text);
        found.ok_or_else(|| format!("no such reason; hint: one of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

/// The name of a kind of mail that people can refuse by itself, as a template's `unsubscribe` gives it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListName(Arc<str>);

impl ListName {
    pub fn as_shared(&self) -> &Arc<str> {
        &self.0
    }
}

impl FromStr for ListName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_good = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        if (1..=LIST_NAME_LIMIT).contains(&text.len()) && text.bytes().all(is_good) {
            Ok(Self(text.into()))
        } else {
            Err(format!("not the name of a list; hint: 1 to {LIST_NAME_LIMIT} lower-case letters, digits, _ and -, such as messages"))
        }
    }
}

parsed_text!(ListName, { "type": "string", "pattern": "^[a-z0-9_-]{1,40}$" });

/// An entry of the suppression list, as it is found again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, schemars::JsonSchema)]
pub struct SuppressionKey {
    pub channel: Channel,
    /// In the form of [`canonical_address`].
    pub address: String,
    /// The kind of mail it is about; absent: everything.
    pub list: Option<ListName>,
}

impl SuppressionKey {
    /// # Errors
    /// The address is none of this channel's, with a hint.
    pub fn new(channel: Channel, address: &str, list: Option<ListName>) -> Result<Self, String> {
        Ok(Self { channel, address: canonical_address(channel, address)?, list })
    }
}

/// The form in which an address is on the suppression list, and looked for: an email in lower case with its domain in A-labels (UTS 46),
/// a phone number in E.164, a push token as it is.
///
/// # Errors
/// It is none of this channel's, with a hint. `live` has no addresses.
pub fn canonical_address(channel: Channel, address: &str) -> Result<String, String> {
    match channel {
        Channel::Email => {
            let parsed: EmailAddress = address.parse()?;
            let (local, domain) = parsed.as_str().rsplit_once('@').unwrap_or((parsed.as_str(), ""));
            // What UTS 46 does not take is no domain name, but an address literal such as [192.0.2.1].
            let domain = idna::domain_to_ascii(domain).unwrap_or_else(|_| domain.to_ascii_lowercase());
            Ok(format!("{}@{domain}", local.to_lowercase()))
        }
        Channel::Sms => address.parse::<PhoneNumber>().map(|phone| phone.to_string()),
        Channel::Push => address.parse::<PushToken>().map(|token| token.to_string()),
        Channel::Live => Err("live has no addresses: whoever has an inbox has a user id; hint: email, sms or push".to_owned()),
    }
}

/// The channel an address looks to be of, where nobody says.
pub fn channel_of_address(address: &str) -> Channel {
    if address.contains('@') {
        Channel::Email
    } else if address.starts_with('+') {
        Channel::Sms
    } else {
        Channel::Push
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(address: &str, expected: Result<&str, &str>) {
        let found = canonical_address(channel_of_address(address), address);
        match expected {
            Ok(expected) => assert_eq!(found.as_deref(), Ok(expected)),
            Err(part) => assert!(found.as_ref().is_err_and(|reason| reason.contains(part) && reason.contains("hint: ")), "{found:?}"),
        }
    }

    #[test]
    fn addresses_are_compared_in_one_form() {
        check("Asha.Mushi@Example.COM", Ok("asha.mushi@example.com"));
        check("asha@Bücher.example", Ok("asha@xn--bcher-kva.example"));
        check("asha@xn--BCHER-kva.example", Ok("asha@xn--bcher-kva.example"));
        check("asha@faß.example", Ok("asha@xn--fa-hia.example"));
        check("asha@ＥＸＡＭＰＬＥ.com", Ok("asha@example.com"));
        check("+255712345678", Ok("+255712345678"));
        check("+255 712", Err("E.164"));
        check("Device:TOKEN", Ok("Device:TOKEN"));
        check("two words", Err("push token"));
        check("asha@", Err("email"));
        assert!(canonical_address(Channel::Live, "42").is_err());
    }

    #[test]
    fn lists_have_plain_names() {
        for good in ["messages", "weekly-digest", "a_1"] {
            assert!(good.parse::<ListName>().is_ok(), "{good}");
        }
        for bad in ["", "Messages", "a b", "é", &"x".repeat(41)] {
            assert!(bad.parse::<ListName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn reasons_read_back() {
        for reason in SuppressionReason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(reason));
            assert_eq!(serde_json::to_value(reason).ok(), Some(reason.as_str().into()));
        }
        assert!("tired".parse::<SuppressionReason>().is_err());
    }
}
