//! Addresses as operators write them: where to listen, and which proxies to believe.

use std::{
    fmt::{self, Display, Formatter},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::PublicConfig;

/// What a Unix socket's address begins with.
const UNIX_PREFIX: &str = "unix:";
/// What stands for every peer on a Unix socket.
const UNIX_PEERS: &str = "unix";

/// Where a listener takes connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    Tcp(SocketAddr),
    /// The socket's file.
    Unix(PathBuf),
}

impl ListenAddress {
    pub const fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl Display for ListenAddress {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX_PREFIX}{}", path.display()),
        }
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix(UNIX_PREFIX).filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            "not an IP address and port; hint: write it like \"127.0.0.1:8000\", \"[::]:8000\" or \"unix:/run/tarishi/public.sock\""
                .to_owned()
        })
    }
}

/// Who may say whom they speak for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TrustedProxy {
    Network(IpNet),
    /// Whoever may open our Unix sockets.
    Unix,
}

impl Display for TrustedProxy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) if network.prefix_len() == network.max_prefix_len() => network.addr().fmt(f),
            Self::Network(network) => network.fmt(f),
            Self::Unix => f.write_str(UNIX_PEERS),
        }
    }
}

impl FromStr for TrustedProxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == UNIX_PEERS {
            return Ok(Self::Unix);
        }
        let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        network.map(Self::Network).ok_or_else(|| {
            "not an address, network or `unix`; hint: write it like \"10.0.0.7\", \"10.0.0.0/8\", \"fd00::/8\" or \"unix\"".to_owned()
        })
    }
}

macro_rules! written_as_text {
    ($($type:ty),+) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )+};
}

written_as_text!(ListenAddress, TrustedProxy);

/// One address, or a list of them.
pub(super) mod listen_list {
    use serde::{
        Deserialize, Deserializer, Serialize, Serializer,
        de::{self, SeqAccess, value::SeqAccessDeserializer},
    };

    use super::ListenAddress;

    /// How it looks in a configuration.
    #[derive(schemars::JsonSchema)]
    #[schemars(untagged)]
    #[expect(dead_code, reason = "only its schema is used")]
    pub enum Written {
        One(String),
        Several(Vec<String>),
    }

    pub fn serialize<S: Serializer>(addresses: &[ListenAddress], serializer: S) -> Result<S::Ok, S::Error> {
        match addresses {
            [one] => one.serialize(serializer),
            several => several.serialize(serializer),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ListenAddress>, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Vec<ListenAddress>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an address in quotes, or a list of them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                text.parse().map(|one| vec![one]).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(elements))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// The permissions of a file, as `chmod` takes them.
pub(super) mod file_mode {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    const HIGHEST: u32 = 0o777;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's `with` calls it with a reference")]
    pub fn serialize<S: Serializer>(mode: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{mode:04o}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        u32::from_str_radix(&text, 8)
            .ok()
            .filter(|mode| digits && *mode <= HIGHEST)
            .ok_or_else(|| D::Error::custom("not the permissions of a file; hint: write it like \"0660\""))
    }
}

/// Which header of a trusted proxy's requests names the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClientAddressHeader {
    #[serde(rename = "X-Forwarded-For")]
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

/// An address to connect to for one listened on: all addresses of this machine include its own.
pub fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

impl PublicConfig {
    /// What WebSocket URLs begin with, for a person at this machine: the first address of those listened on. Where that is not to be
    /// connected to as it is (a Unix socket, or a certificate for another name), as `base_url` has it.
    pub fn socket_base(&self, listened: &[ListenAddress]) -> String {
        match listened.iter().find_map(ListenAddress::tcp) {
            Some(address) if self.tls.certificate_file.is_none() => format!("ws://{}", reachable(address)),
            _ => self.base_url.replacen("http", "ws", 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::defaults;

    #[track_caller]
    fn check_listen(text: &str, is_good: bool) {
        let parsed = text.parse::<ListenAddress>();
        assert_eq!(parsed.as_ref().map(ToString::to_string).ok().as_deref(), is_good.then_some(text), "{parsed:?}");
    }

    #[test]
    fn listen_addresses_are_numbers_or_files() {
        check_listen("127.0.0.1:8000", true);
        check_listen("[::]:8000", true);
        check_listen("unix:/run/tarishi/public.sock", true);
        check_listen("unix:var/public.sock", true);
        check_listen("unix:", false);
        check_listen("unix", false);
        check_listen("/run/tarishi/public.sock", false);
        check_listen("localhost:8000", false);
        check_listen("8000", false);
        check_listen("::1:8000", false);
    }

    #[track_caller]
    fn check_proxy(text: &str, written: Option<&str>) {
        assert_eq!(text.parse::<TrustedProxy>().ok().map(|proxy| proxy.to_string()).as_deref(), written, "{text}");
    }

    #[test]
    fn proxies_are_addresses_networks_or_unix() {
        check_proxy("10.0.0.7", Some("10.0.0.7"));
        check_proxy("10.0.0.7/32", Some("10.0.0.7"));
        check_proxy("10.0.0.0/8", Some("10.0.0.0/8"));
        check_proxy("fd00::/8", Some("fd00::/8"));
        check_proxy("::1", Some("::1"));
        check_proxy("unix", Some("unix"));
        check_proxy("10.0.0.0/33", None);
        check_proxy("proxy.internal", None);
        check_proxy("*", None);
        check_proxy("", None);
    }

    #[test]
    fn an_address_for_everyone_is_reached_on_this_machine() {
        for (listen, expected) in [("0.0.0.0:8001", "127.0.0.1:8001"), ("[::]:8001", "[::1]:8001"), ("10.0.0.7:1", "10.0.0.7:1")] {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), expected);
        }
    }

    #[test]
    fn sockets_are_reached_where_a_person_would_reach_them() {
        let mut public = defaults().public;
        public.base_url = "https://notify.example.com".to_owned();
        let unix: ListenAddress = "unix:/run/public.sock".parse().unwrap();
        let everywhere: ListenAddress = "0.0.0.0:8000".parse().unwrap();
        assert_eq!(public.socket_base(&[unix.clone(), everywhere.clone()]), "ws://127.0.0.1:8000");
        assert_eq!(public.socket_base(&[unix]), "wss://notify.example.com");
        public.tls.certificate_file = Some("cert.pem".into());
        assert_eq!(public.socket_base(&[everywhere]), "wss://notify.example.com");
    }
}
