//! `[provider.…]`: the accounts messages go out through. What each key means to an operator stands in `config/default.toml`.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr, time::Duration};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::Url;
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{secret, units};

/// One section per provider that has settings. Those of providers no channel names are read and not asked for.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct ProviderConfig {
    pub outbox: OutboxConfig,
    pub sendgrid: SendGridConfig,
    pub smtp: SmtpConfig,
    pub twilio: TwilioConfig,
    pub fcm: FcmConfig,
}

/// The provider that captures instead of sending.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct OutboxConfig {
    /// Messages kept in memory.
    pub keep: usize,
    /// Gets one JSON line per captured message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_file: Option<PathBuf>,
    /// Share of attempts made to fail, 0 to 1.
    pub chaos: f64,
    /// A mailbox (RFC 5322, section 3.4); checked.
    pub from: String,
    pub sms_from: String,
}

/// Email through `SendGrid`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct SendGridConfig {
    /// As written here; [`Self::secrets`] holds what is used.
    #[serde(default, serialize_with = "secret::masked", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub api_key: Option<SecretString>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_credential: Option<String>,
    pub base_url: String,
    /// A mailbox (RFC 5322, section 3.4); checked, and there when the provider is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The sender of jobs whose `metadata.tenant` this is.
    #[serde(default)]
    pub from_by_tenant: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// Labels every mail gets beside its template's name.
    pub categories: Vec<String>,
    /// Mails are checked there and not sent.
    pub sandbox: bool,
    /// Base64 of a DER `SubjectPublicKeyInfo`, as the console shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_public_key: Option<String>,
    /// Attempts per second over all channels; absent is unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// Filled in by [`super::load`].
    #[serde(skip)]
    pub key: SecretString,
}

/// Email through a mail server.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct SmtpConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub url: Option<SmtpUrl>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_credential: Option<String>,
    pub tls: SmtpTls,
    /// PEM; absent: those the system trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The name we give in EHLO; absent: the machine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hello_name: Option<String>,
    /// Connections kept open for the next mail.
    pub idle_connections: usize,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub idle_timeout: Duration,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub connect_timeout: Duration,
    /// A mailbox (RFC 5322, section 3.4); checked, and there when the provider is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The sender of jobs whose `metadata.tenant` this is.
    #[serde(default)]
    pub from_by_tenant: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// The password from one of these places, or the URL's own; filled in by [`super::load`].
    #[serde(skip)]
    pub password: Option<SecretString>,
}

/// Whether the way to the mail server is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SmtpTls {
    /// From the first byte for `smtps:`, by STARTTLS for `smtp:`; without it nothing is sent.
    Required,
    /// Not at all. On loopback only.
    None,
}

/// SMS through Twilio.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct TwilioConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_sid: Option<String>,
    /// `SK…`; absent: the account's own token is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
    #[serde(default, serialize_with = "secret::masked", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub api_secret: Option<SecretString>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_secret_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_secret_credential: Option<String>,
    #[serde(default, serialize_with = "secret::masked", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub auth_token: Option<SecretString>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_token_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_token_credential: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messaging_service_sid: Option<String>,
    pub base_url: String,
    /// What a number has to begin with, such as `+255`.
    pub allowed_prefixes: Vec<String>,
    pub velocity: VelocityConfig,
    /// What one text may take.
    pub max_segments: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// Filled in by [`super::load`].
    #[serde(skip)]
    pub secret: Option<SecretString>,
    /// Filled in by [`super::load`].
    #[serde(skip)]
    pub token: Option<SecretString>,
}

/// How many messages numbers that begin alike may get.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct VelocityConfig {
    /// Messages per window.
    pub limit: u32,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub window: Duration,
    /// Digits that make numbers alike, country code included.
    pub digits: usize,
}

/// Push through Firebase Cloud Messaging.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct FcmConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_credential: Option<String>,
    pub base_url: String,
    /// Messages are checked there and not sent.
    pub validate_only: bool,
    pub rate: u32,
    /// How long the rate takes to grow from a tenth to all of it.
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub ramp: Duration,
    /// The service account's JSON; filled in by [`super::load`].
    #[serde(skip)]
    pub service_account: SecretString,
}

/// Whether a URL names this machine.
pub fn is_loopback(url: &str) -> bool {
    let host = Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// What `SendGrid` signs its events with: a key on P-256, in Base64 of a DER `SubjectPublicKeyInfo`, as the console shows it. None when it
/// is no such key.
pub fn webhook_key(text: &str) -> Option<ParsedPublicKey> {
    let der = BASE64_STANDARD.decode(text.trim()).ok()?;
    ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, der).ok()
}

/// Where a mail server is, and who we are there. It may hold a password, and prints without.
#[derive(Clone, PartialEq, Eq)]
pub struct SmtpUrl(Url);

impl SmtpUrl {
    /// Without brackets around an IPv6 address.
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    /// 465 for implicit TLS (RFC 8314), 587 for submission (RFC 6409).
    pub fn port(&self) -> u16 {
        self.0.port().unwrap_or(if self.is_implicit_tls() { 465 } else { 587 })
    }

    pub fn is_implicit_tls(&self) -> bool {
        self.0.scheme() == "smtps"
    }

    /// Absent: no authentication.
    pub fn user(&self) -> Option<String> {
        let user = percent_decoded(self.0.username());
        (!user.is_empty()).then_some(user)
    }

    /// The one in the URL.
    pub fn password(&self) -> Option<SecretString> {
        self.0.password().map(|password| percent_decoded(password).into())
    }
}

/// The URL parser has let only valid escapes of UTF-8 pass, or left the text as it was.
fn percent_decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

impl FromStr for SmtpUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const HINT: &str = "hint: write it like \"smtp://user@mail.example.com:587\", or smtps:// for TLS from the first byte";
        if !text.starts_with("smtp://") && !text.starts_with("smtps://") {
            return Err(format!("does not begin with smtp:// or smtps://; {HINT}"));
        }
        // The parser's own words could quote the password.
        let url = Url::parse(text).map_err(|_| format!("not a URL; {HINT}"))?;
        let is_bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        if url.host_str().is_none_or(str::is_empty) || !is_bare {
            return Err(format!("names no host, or more than one; {HINT}"));
        }
        Ok(Self(url))
    }
}

impl fmt::Display for SmtpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.0.clone();
        if url.password().is_some() && url.set_password(Some("***")).is_err() {
            return f.write_str("***");
        }
        f.write_str(url.as_str())
    }
}

impl fmt::Debug for SmtpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for SmtpUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SmtpUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn this_machine_is_told_apart() {
        for (url, expected) in
            [("http://127.0.0.1:1/x", true), ("http://[::1]:1", true), ("http://localhost", true), ("https://a.example", false)]
        {
            assert_eq!(is_loopback(url), expected, "{url}");
        }
    }

    #[test]
    fn only_keys_on_p256_are_webhook_keys() {
        let ed25519 = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";
        for bad in ["", "not base64!", "AAAA", ed25519] {
            assert!(webhook_key(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_mail_server_is_written_as_a_url() {
        let url: SmtpUrl = "smtp://asha%40example.com:p%2Fw@mail.example.com".parse().unwrap();
        assert_eq!((url.host(), url.port(), url.is_implicit_tls()), ("mail.example.com", 587, false));
        assert_eq!(url.user().as_deref(), Some("asha@example.com"));
        assert_eq!(url.password().unwrap().expose_secret(), "p/w");
        assert_eq!(url.to_string(), "smtp://asha%40example.com:***@mail.example.com");
        let url: SmtpUrl = "smtps://[::1]".parse().unwrap();
        assert_eq!((url.host(), url.port(), url.user()), ("::1", 465, None));
        for bad in ["mail.example.com", "smtp://", "http://mail", "smtp://u:secret@mail/x?y", "smtp://u:secret@ma il"] {
            let told = bad.parse::<SmtpUrl>().unwrap_err();
            assert!(told.contains("hint: ") && !told.contains("secret"), "{bad}: {told}");
        }
    }
}
