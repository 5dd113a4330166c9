//! One struct per section. What each key means to an operator, and its default, stands in `config/default.toml`; no field has a default
//! here except those that may be absent, so that there is one place to look.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    address::{ClientAddressHeader, ListenAddress, TrustedProxy, file_mode, listen_list},
    units,
};
use crate::model::{Channel, Locale, TimeZone, TopicPattern};

/// The listener of the outer trust zone: users with a JWT, providers with a signature.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct PublicConfig {
    #[serde(with = "listen_list")]
    #[schemars(with = "listen_list::Written")]
    pub listen: Vec<ListenAddress>,
    /// Of the Unix sockets among them.
    #[serde(with = "file_mode")]
    #[schemars(with = "String")]
    pub socket_mode: u32,
    /// Whether every connection begins with the PROXY protocol's header, and must.
    pub proxy_protocol: bool,
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<TrustedProxy>,
    pub client_address_header: ClientAddressHeader,
    /// As browsers and providers see it; without a trailing `/` once loaded.
    pub base_url: String,
    /// Serialized as browsers send them (RFC 6454, section 6.2), so that comparing is enough.
    pub allowed_origins: Vec<String>,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub header_timeout: Duration,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub body_timeout: Duration,
    pub max_connections: usize,
    /// An IPv6 address counts as its /64.
    pub max_connections_per_address: usize,
    pub max_connections_per_user: usize,
    /// Bytes that may wait for one socket.
    #[serde(with = "units::size")]
    #[schemars(with = "String")]
    pub send_queue_limit: ByteSize,
    pub tls: TlsConfig,
}

/// What the public listener proves its name with; both or neither.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct TlsConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

/// Every connection of a user: sockets, whatever they speak, and server-sent events.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct SocketConfig {
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub ping_interval: Duration,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub pong_timeout: Duration,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub close_timeout: Duration,
    /// Of one message from a client.
    #[serde(with = "units::size")]
    #[schemars(with = "String")]
    pub message_limit: ByteSize,
    /// Messages from one connection, in the long run.
    pub messages_per_second: NonZeroU32,
    /// Messages from one connection at once.
    pub messages_burst: NonZeroU32,
    /// Frames that may wait for one connection.
    pub send_queue_frames: usize,
    /// From a user's last connection until others are told that the user is gone.
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub presence_grace: Duration,
}

/// The live notifications.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct LiveConfig {
    /// Items told again after a reconnect, at most.
    pub replay_limit: u32,
    pub topics_per_connection: usize,
    /// Topics anybody may follow.
    pub public_topics: Vec<TopicPattern>,
}

/// The listener of the inner trust zone: backend services and operators.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct AdminConfig {
    #[serde(with = "units::listen")]
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// Host names allowed besides the loopback ones and the listen address; lower case once loaded.
    pub hosts: Vec<String>,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub header_timeout: Duration,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub body_timeout: Duration,
    #[serde(default)]
    pub api_keys: Vec<ApiKey>,
}

/// A key for the admin listener. Only its hash is kept: reading the configuration does not let anyone in.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct ApiKey {
    pub name: String,
    /// SHA-256 of the key in hexadecimal; lower case once loaded.
    pub sha256: String,
    pub scopes: Vec<Scope>,
}

/// What the holder of an API key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    Enqueue,
    Read,
    Operate,
}

/// Where accepted work is kept.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct StoreConfig {
    pub url: String,
    pub readers: usize,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub lease: Duration,
    /// Rows per commit.
    pub group_commit_limit: usize,
    /// Of finished jobs.
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub retention: Duration,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub inbox_retention: Duration,
    /// Items per inbox and topic.
    pub inbox_limit: u32,
}

impl StoreConfig {
    /// The database file that `url` names: what follows `sqlite:`, or `sqlite://` as other tools write it.
    pub fn sqlite_path(&self) -> PathBuf {
        let path = self.url.strip_prefix("sqlite:").unwrap_or(&self.url);
        PathBuf::from(path.strip_prefix("//").unwrap_or(path))
    }
}

/// The limits of what producers may hand us.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct IntakeConfig {
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub idempotency_retention: Duration,
    #[serde(with = "units::size")]
    #[schemars(with = "String")]
    pub job_limit: ByteSize,
    #[serde(with = "units::size")]
    #[schemars(with = "String")]
    pub request_limit: ByteSize,
    /// Recipients in one job.
    pub recipients_limit: usize,
    /// Jobs in one request.
    pub array_limit: usize,
    #[serde(with = "units::size")]
    #[schemars(with = "String")]
    pub data_limit: ByteSize,
    pub nesting_limit: usize,
    /// Bytes of jobs being accepted at once; beyond it 429.
    #[serde(with = "units::size")]
    #[schemars(with = "String")]
    pub in_flight_limit: ByteSize,
}

/// One section per channel.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct ChannelsConfig {
    pub email: ChannelConfig,
    pub sms: ChannelConfig,
    pub push: ChannelConfig,
    pub live: ChannelConfig,
}

impl ChannelsConfig {
    pub fn get(&self, channel: Channel) -> &ChannelConfig {
        match channel {
            Channel::Email => &self.email,
            Channel::Sms => &self.sms,
            Channel::Push => &self.push,
            Channel::Live => &self.live,
        }
    }
}

/// One channel's lane: who carries it, how many at once, how often, how long.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct ChannelConfig {
    /// In order of preference.
    pub providers: Vec<String>,
    pub concurrency: usize,
    /// Deliveries kept in memory, per priority.
    pub queue: usize,
    /// Attempts per second; absent is unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub expires: Duration,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub call_timeout: Duration,
    pub on_unknown: OnUnknown,
    pub retry: RetryConfig,
}

/// When to try again.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct RetryConfig {
    /// Waits between attempts, at least one; the last repeats.
    #[serde(with = "units::durations")]
    #[schemars(with = "Vec<String>")]
    pub steps: Vec<Duration>,
    /// Attempts in all.
    pub attempts: u32,
}

/// What to do about an attempt whose outcome nobody knows: send twice perhaps, or perhaps not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    Resend,
    Fail,
}

/// When to leave a failing provider alone.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct BreakerConfig {
    /// Above 0, up to 1.
    pub failure_ratio: f64,
    pub minimum_calls: u32,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub window: Duration,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub open: Duration,
}

/// How long addresses stay on the suppression list that are there for a reason that passes. Complaints and wishes do not.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct SuppressionsConfig {
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub bounced: Duration,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub unregistered: Duration,
}

/// Where templates are, and what rendering one may cost.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct TemplatesConfig {
    pub path: PathBuf,
    /// The front end; without a trailing `/` once loaded.
    pub link_base_url: String,
    /// The language of the parts for everyone.
    pub default_locale: Locale,
    /// Where recipients are of whom nothing else is known.
    pub default_timezone: TimeZone,
    /// Instructions one rendering may execute.
    pub fuel: u64,
    #[serde(with = "units::size")]
    #[schemars(with = "String")]
    pub output_limit: ByteSize,
    /// Segments one SMS may have.
    pub sms_segments_limit: usize,
    /// Title, body and data of one push notification.
    #[serde(with = "units::size")]
    #[schemars(with = "String")]
    pub push_size_limit: ByteSize,
    /// HTML of one mail beyond which lint and preview warn.
    #[serde(with = "units::size")]
    #[schemars(with = "String")]
    pub email_clip_warning: ByteSize,
}

/// What is logged, and how.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct LogConfig {
    pub format: LogFormat,
    /// Directives of tracing-subscriber's `EnvFilter`; checked.
    pub level: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Pretty on a terminal, JSON elsewhere.
    Auto,
    Pretty,
    Json,
}

/// How long a stop may take.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct ShutdownConfig {
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub drain: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_path(url: &str, expected: &str) {
        let mut store = crate::config::tests::defaults().store;
        url.clone_into(&mut store.url);
        assert_eq!(store.sqlite_path(), PathBuf::from(expected));
    }

    #[test]
    fn the_store_url_names_a_file() {
        check_path("sqlite:var/tarishi.db", "var/tarishi.db");
        check_path("sqlite:/var/lib/tarishi.db", "/var/lib/tarishi.db");
        check_path("sqlite:///var/lib/tarishi.db", "/var/lib/tarishi.db");
    }
}
