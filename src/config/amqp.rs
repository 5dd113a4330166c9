//! `[amqp]`: where the broker is, who we are there, and what goes back to it.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use lapin::uri::{AMQPAuthority, AMQPScheme, AMQPUri};
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::units;
use crate::model::Status;

/// The broker. Absent `url`: there is none.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct AmqpConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub url: Option<BrokerUrl>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Name of a file in systemd's `$CREDENTIALS_DIRECTORY`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_credential: Option<String>,
    /// The password from one of these places; filled in by [`super::load`]. The URL's own otherwise.
    #[serde(skip)]
    pub password: Option<SecretString>,
    /// Further brokers of the cluster, as `host` or `host:port`.
    pub hosts: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key_file: Option<PathBuf>,
    /// Messages.
    pub prefetch: u16,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub heartbeat: Duration,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub connect_timeout: Duration,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub call_timeout: Duration,
    pub events: EventsConfig,
}

/// What became of each delivery, told to whoever listens.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct EventsConfig {
    pub enabled: bool,
    pub statuses: Vec<Status>,
    /// Events kept while the broker does not take them.
    pub limit: u64,
    pub when_full: WhenFull,
}

/// What happens when no more events fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// No more jobs are taken until the broker takes events again.
    Stop,
    DropOldest,
}

/// An AMQP URL. It may hold a password, and prints without.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl(AMQPUri);

impl BrokerUrl {
    /// What the client library wants. The password is in it.
    pub fn uri(&self) -> &AMQPUri {
        &self.0
    }

    pub fn is_tls(&self) -> bool {
        self.0.scheme == AMQPScheme::AMQPS
    }

    /// The port of its scheme, where none is written.
    pub fn default_port(&self) -> u16 {
        self.0.scheme.default_port()
    }
}

impl FromStr for BrokerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const HINT: &str = "hint: write it like \"amqp://tarishi@rabbit.internal:5672/vhost\", or amqps:// for TLS";
        if !text.starts_with("amqp://") && !text.starts_with("amqps://") {
            return Err(format!("does not begin with amqp:// or amqps://; {HINT}"));
        }
        if text.contains('?') {
            return Err("takes no settings after `?`; hint: `heartbeat`, `connect_timeout` and `prefetch` are keys beside it".to_owned());
        }
        // Its own words could quote the password.
        let mut uri: AMQPUri = text.parse().map_err(|_| format!("not an AMQP URL; {HINT}"))?;
        if uri.authority.host.is_empty() {
            return Err(format!("names no host; {HINT}"));
        }
        if uri.vhost.is_empty() {
            "/".clone_into(&mut uri.vhost);
        }
        Ok(Self(uri))
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AMQPAuthority { userinfo, host, port } = &self.0.authority;
        let vhost = self.0.vhost.replace('%', "%25").replace('/', "%2F");
        write!(f, "{}://{}:***@{host}:{port}/{vhost}", self.0.scheme, userinfo.username)
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for BrokerUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BrokerUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        let shown = text.parse::<BrokerUrl>().map(|url| url.to_string());
        match (shown, expected) {
            (Ok(shown), Ok(expected)) => assert_eq!(shown, expected),
            (Err(shown), Err(part)) => assert!(shown.contains(part) && !shown.contains("secret"), "{shown}"),
            (shown, expected) => panic!("{text}: {shown:?}, not {expected:?}"),
        }
    }

    #[test]
    fn urls_print_without_their_password() {
        check("amqp://tarishi:secret@rabbit:5673/shop", Ok("amqp://tarishi:***@rabbit:5673/shop"));
        check("amqps://rabbit", Ok("amqps://guest:***@rabbit:5671/%2F"));
        check("amqp://tarishi@rabbit/", Ok("amqp://tarishi:***@rabbit:5672/%2F"));
        check("amqp://rabbit/a%2Fb", Ok("amqp://guest:***@rabbit:5672/a%2Fb"));
        check("http://a:secret@rabbit", Err("does not begin with amqp://"));
        check("amqp://a:secret@rabbit:99999", Err("not an AMQP URL"));
        check("amqp://a:secret@rabbit?heartbeat=5", Err("takes no settings"));
    }
}
