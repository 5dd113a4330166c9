//! The rules of the two listeners: who may reach them, and under which names.

use std::net::{IpAddr, SocketAddr};

use reqwest::Url;

use super::{AdminConfig, ApiKey, PublicConfig, check::Found};

/// Hexadecimal digits of a SHA-256.
const SHA256_DIGITS: usize = 64;

impl Found {
    pub(super) fn public(&mut self, public: &PublicConfig) {
        self.url("public.base_url", &public.base_url);
        for (index, given) in public.allowed_origins.iter().enumerate() {
            if let Err(hint) = origin(given) {
                self.refuse(format!("public.allowed_origins[{index}]"), "not an origin as browsers send it", hint);
            }
        }
        self.duration("public.header_timeout", public.header_timeout);
        self.duration("public.body_timeout", public.body_timeout);
        self.count("public.max_connections", public.max_connections);
        self.count("public.max_connections_per_user", public.max_connections_per_user);
        self.size("public.send_queue_limit", public.send_queue_limit);
    }

    pub(super) fn admin(&mut self, admin: &AdminConfig, public: &PublicConfig) {
        if overlap(admin.listen, public.listen) {
            self.refuse(
                "admin.listen",
                "the same address and port as `public.listen`",
                "give it a port of its own, such as 127.0.0.1:8001",
            );
        }
        if !admin.listen.ip().to_canonical().is_loopback() && admin.api_keys.is_empty() {
            self.refuse(
                "admin.listen",
                "reachable from other machines, and there are no keys to protect it",
                "add an [[admin.api_keys]], or listen on 127.0.0.1",
            );
        }
        for (index, host) in admin.hosts.iter().enumerate() {
            if !is_host(host) {
                self.refuse(
                    format!("admin.hosts[{index}]"),
                    "not a host name",
                    "write the name alone, without scheme or port: \"tarishi.internal\"",
                );
            }
        }
        self.duration("admin.header_timeout", admin.header_timeout);
        self.duration("admin.body_timeout", admin.body_timeout);
        for (index, key) in admin.api_keys.iter().enumerate() {
            self.api_key(index, key);
        }
        self.unique(admin.api_keys.iter().map(|key| Some(key.name.as_str())), |index| format!("admin.api_keys[{index}].name"));
        self.unique(admin.api_keys.iter().map(|key| Some(key.sha256.as_str())), |index| format!("admin.api_keys[{index}].sha256"));
    }

    fn api_key(&mut self, index: usize, key: &ApiKey) {
        let path = |member: &str| format!("admin.api_keys[{index}].{member}");
        self.text(&path("name"), &key.name);
        if key.sha256.len() != SHA256_DIGITS || !key.sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            self.refuse(path("sha256"), "not 64 hexadecimal digits", "write the output of `printf %s KEY | sha256sum`");
        }
        if key.scopes.is_empty() {
            self.refuse(path("scopes"), "empty: the key could do nothing", "list some of \"enqueue\", \"read\", \"operate\"");
        }
    }
}

/// Whether one of two listeners would take the other's connections.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |all: IpAddr, ip: IpAddr| all == ip || (all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4()));
    one.port() != 0 && one.port() == other.port() && (covers(one.ip(), other.ip()) || covers(other.ip(), one.ip()))
}

/// Whether `host` is a host as in a URL, in its one form, and nothing more: no scheme, no port.
fn is_host(host: &str) -> bool {
    Url::parse(&format!("http://{host}/")).is_ok_and(|url| url.host_str() == Some(host))
}

/// Whether `text` is what browsers send in `Origin` (RFC 6454, section 6.2); else the hint. Web views of apps have schemes of their own
/// (`capacitor://localhost`).
fn origin(text: &str) -> Result<(), String> {
    let example = || "write it like \"https://app.example.com\", or \"http://localhost:3000\"".to_owned();
    let url = Url::parse(text).map_err(|_| example())?;
    let Some(host) = url.host_str() else { return Err(example()) };
    let sent = match url.port() {
        Some(port) => format!("{}://{host}:{port}", url.scheme()),
        None => format!("{}://{host}", url.scheme()),
    };
    if text == sent { Ok(()) } else { Err(format!("write \"{sent}\"")) }
}

#[cfg(test)]
mod tests {
    use crate::config::{
        load,
        tests::{check_line as check, refused, sources},
    };

    #[test]
    fn origins_are_written_as_browsers_send_them() {
        check(
            "public.allowed_origins = ['https://app.example.com', 'http://localhost:3000', 'capacitor://localhost', 'http://[::1]:80a']",
            &[
                "public.allowed_origins[3]: not an origin as browsers send it (hint: write it like \"https://app.example.com\", or \"http://localhost:3000\")",
            ],
        );
        check("public.allowed_origins = ['http://[::1]:8080']", &[]);
        refused("public.allowed_origins = ['https://App.example.com/']", "write \"https://app.example.com\"");
        refused("public.allowed_origins = ['https://app.example.com:443']", "write \"https://app.example.com\"");
        refused("public.allowed_origins = ['https://app.example.com/chat']", "write \"https://app.example.com\"");
        refused("public.allowed_origins = ['*']", "write it like");
        refused("public.allowed_origins = ['null']", "write it like");
    }

    #[test]
    fn the_admin_listener_is_closed_or_keyed() {
        const KEYED: &str = "api_keys = [{ name = 'backend', scopes = ['enqueue'], sha256 = \
            '2C26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae' }]";
        refused("admin.listen = '0.0.0.0:8001'", "admin.listen: reachable from other machines");
        check("admin.listen = '[::1]:8001'", &[]);
        check("admin.listen = '[::ffff:127.0.0.1]:8001'", &[]);
        check(&format!("[admin]\nlisten = '0.0.0.0:8001'\n{KEYED}"), &[]);
        let config = load(&sources(&format!("admin.{KEYED}"), &[])).unwrap();
        assert!(config.admin.api_keys[0].sha256.starts_with("2c26"), "{config:?}");
        refused(
            "admin.api_keys = [{ name = 'a', sha256 = 'abc', scopes = ['read'] }]",
            "admin.api_keys[0].sha256: not 64 hexadecimal digits",
        );
        refused("admin.api_keys = [{ name = ' ', sha256 = 'abc', scopes = [] }]", "admin.api_keys[0].name: empty");
        refused("admin.api_keys = [{ name = 'a', sha256 = 'abc', scopes = [] }]", "admin.api_keys[0].scopes: empty");
        refused(
            "admin.api_keys = [{ name = 'a', sha256 = 'abc', scopes = ['write'] }]",
            "admin.api_keys[0].scopes[0]: not a known value: `write`",
        );
        refused(
            "admin.api_keys = [{ name = 'a', sha256 = '1', scopes = [] }, { name = 'a', sha256 = '2', scopes = [] }]",
            "[1].name: the same as",
        );
    }

    #[test]
    fn admin_hosts_are_names() {
        check("admin.hosts = ['tarishi.internal', 'Tarishi', '10.0.0.7', '[fd00::7]']", &[]);
        refused("admin.hosts = ['https://tarishi.internal']", "admin.hosts[0]: not a host name");
        refused("admin.hosts = ['tarishi.internal:8001']", "admin.hosts[0]: not a host name");
        refused("admin.hosts = ['tarishi.internal:80']", "admin.hosts[0]: not a host name");
        refused("admin.hosts = ['']", "admin.hosts[0]: not a host name");
    }

    #[test]
    fn listeners_do_not_collide() {
        refused("admin.listen = '127.0.0.1:8000'", "admin.listen: the same address and port as `public.listen`");
        refused("public.listen = '0.0.0.0:8001'", "admin.listen: the same address and port as `public.listen`");
        refused("public.listen = '[::]:8001'", "admin.listen: the same address and port as `public.listen`");
        check("public.listen = '127.0.0.2:8001'", &[]);
        check("public.listen = '127.0.0.1:0'\nadmin.listen = '127.0.0.1:0'", &[]);
        refused("public.listen = 'localhost:8000'", "public.listen: not an IP address and port (hint: write it like");
    }
}
