//! The rules of the two listeners: who may reach them, and under which names.

use std::{
    net::{IpAddr, SocketAddr},
    os::unix::ffi::OsStrExt as _,
};

use reqwest::Url;

use super::{AdminConfig, ApiKey, ListenAddress, PublicConfig, SocketConfig, check::Found};

/// Hexadecimal digits of a SHA-256.
const SHA256_DIGITS: usize = 64;
/// Bytes in the path of a Unix socket (`sun_path` in unix(7), less the zero that ends it).
const SOCKET_PATH_LIMIT: usize = 107;

impl Found {
    pub(super) fn public(&mut self, public: &PublicConfig) {
        self.listen(&public.listen);
        if public.proxy_protocol && public.trusted_proxies.is_empty() {
            let hint = "list the proxies in `public.trusted_proxies`, such as [\"10.0.0.0/8\"]";
            self.refuse("public.proxy_protocol", "nobody is trusted to say whom they speak for", hint);
        }
        if public.tls.certificate_file.is_some() != public.tls.key_file.is_some() {
            self.refuse("public.tls", "a certificate and its key go together", "set both `certificate_file` and `key_file`, or neither");
        }
        self.url("public.base_url", &public.base_url);
        for (index, given) in public.allowed_origins.iter().enumerate() {
            if let Err(hint) = origin(given) {
                self.refuse(format!("public.allowed_origins[{index}]"), "not an origin as browsers send it", hint);
            }
        }
        self.duration("public.header_timeout", public.header_timeout);
        self.duration("public.body_timeout", public.body_timeout);
        self.count("public.max_connections", public.max_connections);
        self.count("public.max_connections_per_address", public.max_connections_per_address);
        self.count("public.max_connections_per_user", public.max_connections_per_user);
        self.size("public.send_queue_limit", public.send_queue_limit);
    }

    pub(super) fn socket(&mut self, socket: &SocketConfig) {
        self.duration("socket.ping_interval", socket.ping_interval);
        self.duration("socket.pong_timeout", socket.pong_timeout);
        self.duration("socket.close_timeout", socket.close_timeout);
        self.size("socket.message_limit", socket.message_limit);
        self.count("socket.send_queue_frames", socket.send_queue_frames);
        self.duration_or_zero("socket.presence_grace", socket.presence_grace);
    }

    fn listen(&mut self, addresses: &[ListenAddress]) {
        let path = |index: usize| if addresses.len() == 1 { "public.listen".to_owned() } else { format!("public.listen[{index}]") };
        if addresses.is_empty() {
            self.refuse("public.listen", "empty", "write at least one address, such as \"127.0.0.1:8000\"");
        }
        for (index, address) in addresses.iter().enumerate() {
            let collides = addresses[..index].iter().any(|earlier| match (earlier, address) {
                (ListenAddress::Tcp(one), ListenAddress::Tcp(other)) => overlap(*one, *other),
                (one, other) => one == other,
            });
            if collides {
                self.refuse(path(index), "covered by an earlier one", "remove one of them; \"[::]:8000\" takes IPv4 as well");
            }
            if let ListenAddress::Unix(file) = address
                && file.as_os_str().as_bytes().len() > SOCKET_PATH_LIMIT
            {
                self.refuse(path(index), "too long for a Unix socket", format!("at most {SOCKET_PATH_LIMIT} bytes of path"));
            }
        }
    }

    pub(super) fn admin(&mut self, admin: &AdminConfig, public: &PublicConfig) {
        if public.listen.iter().filter_map(ListenAddress::tcp).any(|public| overlap(admin.listen, public)) {
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
        refused("public.listen = ['127.0.0.2:8000', '0.0.0.0:8001']", "admin.listen: the same address and port as `public.listen`");
    }

    #[test]
    fn the_public_listener_has_one_address_or_several() {
        check("public.listen = ['127.0.0.1:8000', '[::1]:8000', 'unix:/run/tarishi/public.sock']", &[]);
        check("public.listen = 'unix:public.sock'\npublic.socket_mode = '600'", &[]);
        refused("public.listen = []", "public.listen: empty");
        refused("public.listen = 8000", "public.listen: invalid type: integer `8000` (hint: expected an address in quotes, or a list");
        refused("public.listen = ['127.0.0.1:8000', 'localhost:1']", "public.listen[1]: not an IP address and port");
        refused("public.listen = ['[::]:8000', '127.0.0.1:8000']", "public.listen[1]: covered by an earlier one");
        refused("public.listen = ['unix:a', 'unix:a']", "public.listen[1]: covered by an earlier one");
        refused(&format!("public.listen = 'unix:/{}'", "x".repeat(107)), "public.listen: too long for a Unix socket");
        refused("public.socket_mode = 'rw-rw----'", "public.socket_mode: not the permissions of a file (hint: write it like \"0660\")");
        refused("public.socket_mode = '1777'", "public.socket_mode: not the permissions of a file");
        refused("public.socket_mode = '+66'", "public.socket_mode: not the permissions of a file");
    }

    #[test]
    fn proxies_are_trusted_by_name() {
        check("public.trusted_proxies = ['10.0.0.7', 'fd00::/8', 'unix']\npublic.proxy_protocol = true", &[]);
        refused("public.proxy_protocol = true", "public.proxy_protocol: nobody is trusted");
        refused("public.trusted_proxies = ['10.0.0.7', 'proxy']", "public.trusted_proxies[1]: not an address, network or `unix`");
        check("public.client_address_header = 'Forwarded'", &[]);
        refused("public.client_address_header = 'X-Real-IP'", "public.client_address_header: not a known value: `X-Real-IP`");
        refused("public.tls.key_file = 'key.pem'", "public.tls: a certificate and its key go together");
    }
}
