//! What the daemon itself knows of a user.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{EmailAddress, Locale, PhoneNumber, PushToken, TimeZone, Timestamp};

/// A user's addresses and preferences. Completes a recipient that brings only a user id.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Contact {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<EmailAddress>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phone: Option<PhoneNumber>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locale: Option<Locale>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timezone: Option<TimeZone>,
    pub push_tokens: Vec<PushTokenEntry>,
}

impl Contact {
    /// Reads what an earlier version may have written: an email address need not be one we would take today.
    ///
    /// # Errors
    /// It is no contact.
    pub fn from_stored(document: &str) -> serde_json::Result<Self> {
        serde_json::from_str(document).or_else(|_| {
            let mut document: Value = serde_json::from_str(document)?;
            let email = EmailAddress::take_stored(&mut document);
            Ok(Self { email, ..serde_json::from_value(document)? })
        })
    }
}

/// One device of a user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PushTokenEntry {
    pub token: PushToken,
    /// `android`, `ios` or `web`, as the app said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// When it was last registered; set by the daemon.
    #[serde(default, skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub registered_at: Option<Timestamp>,
}
