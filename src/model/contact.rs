//! What the daemon itself knows of a user.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    #[schemars(skip)]
    pub registered_at: Option<Timestamp>,
}
