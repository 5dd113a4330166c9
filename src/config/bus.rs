//! `[bus]`: the link between several daemons.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use bytesize::ByteSize;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{check::Found, units};

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
/// Servers one URL may name.
const HOSTS_LIMIT: usize = 100;
/// Longest `bus.prefix`: it is part of every channel's name.
const PREFIX_LIMIT: usize = 64;
/// What a user's name may hold unescaped when a URL is printed.
const IN_USER: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');
const HINT: &str = "hint: write it like \"memory:\", \"redis://tarishi@redis.internal:6379\", rediss:// for TLS, \
                    \"redis+sentinel://sentinel-1,sentinel-2/NAME\" or \"redis+cluster://node-1,node-2\"";

/// The link between processes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct BusConfig {
    #[schemars(with = "String")]
    pub url: BusUrl,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Name of a file in systemd's `$CREDENTIALS_DIRECTORY`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_credential: Option<String>,
    /// The servers' password, wherever it came from; filled in by [`super::load`].
    #[serde(skip)]
    pub password: Option<SecretString>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentinel_password_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentinel_password_credential: Option<String>,
    /// The sentinels' own; filled in by [`super::load`].
    #[serde(skip)]
    pub sentinel_password: Option<SecretString>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key_file: Option<PathBuf>,
    /// Begins the name of every channel and key.
    pub prefix: String,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub connect_timeout: Duration,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub call_timeout: Duration,
    /// Bytes of frames kept while the server does not take them.
    #[serde(with = "units::size")]
    #[schemars(with = "String")]
    pub queue_limit: ByteSize,
    /// Streams remembered beyond that, to be told that there is something to read.
    pub hints_limit: usize,
}

/// Which link there is.
#[derive(Clone, PartialEq, Eq)]
pub enum BusUrl {
    /// None: one process.
    Memory,
    Redis(RedisUrl),
}

/// Where Redis is. It may hold a password, and prints without.
#[derive(Clone)]
pub struct RedisUrl {
    pub servers: RedisServers,
    pub tls: bool,
    /// At least one. Without brackets around an IPv6 address.
    pub hosts: Vec<(String, u16)>,
    pub user: Option<String>,
    pub(super) password: Option<SecretString>,
    pub database: u16,
}

/// What the hosts of the URL are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisServers {
    /// The server itself.
    One,
    /// Sentinels that know which server is the master of this name.
    Sentinel(String),
    /// Nodes of a cluster.
    Cluster,
}

impl PartialEq for RedisUrl {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for RedisUrl {}

impl FromStr for BusUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(rest) = text.strip_prefix("memory:") {
            return if rest.is_empty() {
                Ok(Self::Memory)
            } else {
                Err("nothing may follow `memory:`; hint: write \"memory:\"".to_owned())
            };
        }
        RedisUrl::parse(text).map(Self::Redis)
    }
}

impl RedisUrl {
    // No word of the URL goes into an error: it may hold a password.
    fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or((text, ""));
        let tls = scheme.starts_with("rediss");
        let kind = match scheme {
            "redis" | "rediss" => RedisServers::One,
            "redis+sentinel" | "rediss+sentinel" => RedisServers::Sentinel(String::new()),
            "redis+cluster" | "rediss+cluster" => RedisServers::Cluster,
            _ => return Err(format!("does not begin with memory:, redis:// or rediss://; {HINT}")),
        };
        if rest.contains(['?', '#']) {
            return Err("takes no settings after `?` or `#`; hint: timeouts, files and limits are keys beside it".to_owned());
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user_info, hosts) = authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
        let (user, password) = match user_info.map(|info| info.split_once(':').map_or((info, None), |(user, word)| (user, Some(word)))) {
            None => (None, None),
            Some((user, word)) => (Some(decoded(user)?).filter(|user| !user.is_empty()), word.map(decoded).transpose()?.map(Into::into)),
        };
        let port = if matches!(kind, RedisServers::Sentinel(_)) { SENTINEL_PORT } else { REDIS_PORT };
        let hosts = hosts.split(',').map(|host| parse_host(host, port)).collect::<Option<Vec<_>>>();
        let hosts =
            hosts.filter(|hosts| hosts.len() <= HOSTS_LIMIT).ok_or_else(|| format!("not hosts, each with or without a port; {HINT}"))?;
        let mut path = path.trim_end_matches('/').split('/').filter(|part| !part.is_empty());
        let servers = match kind {
            RedisServers::One if hosts.len() > 1 => {
                return Err(format!("several hosts need redis+sentinel:// or redis+cluster://; {HINT}"));
            }
            RedisServers::Sentinel(_) => match path.next() {
                Some(name) => RedisServers::Sentinel(decoded(name)?),
                None => return Err(format!("does not say which master the sentinels watch; {HINT}")),
            },
            other => other,
        };
        let database = match path.next() {
            None => 0,
            Some(_) if servers == RedisServers::Cluster => return Err(format!("a cluster has only one database; {HINT}")),
            Some(number) => number.parse().map_err(|_| format!("the database is not a number; {HINT}"))?,
        };
        if path.next().is_some() {
            return Err(format!("too many parts after the hosts; {HINT}"));
        }
        Ok(Self { servers, tls, hosts, user, password, database })
    }
}

fn decoded(text: &str) -> Result<String, String> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| format!("escapes that are not UTF-8; {HINT}"))?;
    Ok(text.into_owned())
}

/// `host`, `host:port`, `[::1]` or `[::1]:port`.
fn parse_host(text: &str, default_port: u16) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let is_name = !host.is_empty() && (text.starts_with('[') || host.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)));
    let port = port.map_or(Some(default_port), |port| port.parse().ok().filter(|port| *port != 0))?;
    is_name.then(|| (host.to_owned(), port))
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.servers {
            RedisServers::One => "",
            RedisServers::Sentinel(_) => "+sentinel",
            RedisServers::Cluster => "+cluster",
        };
        write!(f, "redis{}{kind}://", if self.tls { "s" } else { "" })?;
        if let Some(user) = &self.user {
            write!(f, "{}", utf8_percent_encode(user, IN_USER))?;
        }
        if self.password.is_some() {
            f.write_str(":***")?;
        }
        if self.user.is_some() || self.password.is_some() {
            f.write_str("@")?;
        }
        for (index, (host, port)) in self.hosts.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if host.contains(':') { write!(f, "{comma}[{host}]:{port}")? } else { write!(f, "{comma}{host}:{port}")? }
        }
        if let RedisServers::Sentinel(name) = &self.servers {
            write!(f, "/{}", utf8_percent_encode(name, IN_USER))?;
        }
        if self.database == 0 { Ok(()) } else { write!(f, "/{}", self.database) }
    }
}

impl fmt::Display for BusUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory:"),
            Self::Redis(url) => url.fmt(f),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for BusUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for BusUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BusUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Found {
    pub(super) fn bus(&mut self, bus: &BusConfig) {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':');
        if !(1..=PREFIX_LIMIT).contains(&bus.prefix.len()) || !bus.prefix.chars().all(is_plain) {
            self.refuse("bus.prefix", "not a prefix", format!("1 to {PREFIX_LIMIT} letters, digits and . _ - :, such as \"tarishi\""));
        }
        self.duration("bus.connect_timeout", bus.connect_timeout);
        self.duration("bus.call_timeout", bus.call_timeout);
        self.size("bus.queue_limit", bus.queue_limit);
        self.count("bus.hints_limit", bus.hints_limit);
        if bus.client_certificate_file.is_some() != bus.client_key_file.is_some() {
            let hint = "set both `client_certificate_file` and `client_key_file`, or neither";
            self.refuse("bus", "a client certificate and its key go together", hint);
        }
        let url = match &bus.url {
            BusUrl::Memory => None,
            BusUrl::Redis(url) => Some(url),
        };
        let tls_keys = [("ca_file", &bus.ca_file), ("client_certificate_file", &bus.client_certificate_file)];
        for (key, _) in tls_keys.into_iter().filter(|(_, file)| file.is_some() && url.is_some_and(|url| !url.tls)) {
            self.refuse(format!("bus.{key}"), "has no meaning without TLS", "write the URL with rediss://");
        }
        let has_sentinels = url.is_some_and(|url| matches!(url.servers, RedisServers::Sentinel(_)));
        if (bus.sentinel_password_file.is_some() || bus.sentinel_password_credential.is_some()) && url.is_some() && !has_sentinels {
            self.refuse("bus.sentinel_password_file", "there are no sentinels", "write the URL with redis+sentinel://, or leave it out");
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::config::{
        load,
        tests::{check_line, refused, sources},
    };

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        match (text.parse::<BusUrl>().map(|url| url.to_string()), expected) {
            (Ok(shown), Ok(expected)) => assert_eq!(shown, expected),
            (Err(shown), Err(part)) => assert!(shown.contains(part) && shown.contains("hint: ") && !shown.contains("secret"), "{shown}"),
            (shown, expected) => panic!("{text}: {shown:?}, not {expected:?}"),
        }
    }

    #[test]
    fn urls_are_read_and_print_without_their_password() {
        check("memory:", Ok("memory:"));
        check("redis://redis.internal", Ok("redis://redis.internal:6379"));
        check("rediss://:secret@[::1]:6380/3", Ok("rediss://:***@[::1]:6380/3"));
        check("redis://a%40b:secret@r/", Ok("redis://a%40b:***@r:6379"));
        check("redis+sentinel://s1,s2:5000/main/2", Ok("redis+sentinel://s1:26379,s2:5000/main/2"));
        check("rediss+cluster://u:secret@n1,n2:7001", Ok("rediss+cluster://u:***@n1:6379,n2:7001"));
        check("memory:x", Err("nothing may follow"));
        check("nats://u:secret@host", Err("does not begin with"));
        check("redis:host", Err("does not begin with memory:, redis:// or rediss://"));
        check("redis://u:secret@", Err("not hosts"));
        check("redis://u:secret@a b", Err("not hosts"));
        check("redis://u:secret@host:0", Err("not hosts"));
        check("redis://u:secret@[::1", Err("not hosts"));
        check("redis://u:secret@a,b", Err("several hosts"));
        check("redis://host/zero", Err("not a number"));
        check("redis://host/0/1", Err("too many parts"));
        check("redis://u:secret@host?protocol=2", Err("takes no settings"));
        check("redis+sentinel://u:secret@s1", Err("which master"));
        check("redis+cluster://n1/1", Err("only one database"));
        check("redis://u:secret%ff@host", Err("not UTF-8"));
    }

    #[test]
    fn passwords_come_from_the_url_or_beside_it() {
        let of = |line: &str| load(&sources(line, &[])).unwrap().bus;
        let bus = of("bus.url = 'redis://:p%2Fw@host'");
        assert_eq!(bus.password.as_ref().unwrap().expose_secret(), "p/w");
        assert!(!format!("{bus:?}").contains("p/w") && !toml::to_string(&bus).unwrap().contains("p%2Fw"));
        assert!(of("bus.url = 'redis://host'").password.is_none());
        refused("bus.url = 'redis://host'\nbus.password_file = '/nowhere'", "bus.password_file: /nowhere cannot be read");
        refused("bus.url = 'redis://host'\nbus.password_file = 'a'\nbus.password_credential = 'b'", "bus: has more than one `password`");
    }

    #[test]
    fn keys_fit_the_url() {
        check_line("bus.url = 'rediss://host'\nbus.ca_file = '/etc/ca.pem'", &[]);
        refused("bus.url = 'redis://host'\nbus.ca_file = '/etc/ca.pem'", "bus.ca_file: has no meaning without TLS");
        refused("bus.url = 'rediss://host'\nbus.client_key_file = 'k'", "bus: a client certificate and its key go together");
        refused("bus.url = 'redis://host'\nbus.sentinel_password_file = '/x'", "bus.sentinel_password_file: there are no sentinels");
        refused("bus.prefix = 'a b'", "bus.prefix: not a prefix");
        refused("bus.hints_limit = 0", "bus.hints_limit: out of bounds");
        refused("bus.url = 7", "bus.url: ");
    }
}
