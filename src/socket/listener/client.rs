//! Whose request it is, when proxies stand in between: what `X-Forwarded-For` or `Forwarded` say, and how much of it to believe.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, header::FORWARDED};

use crate::config::{ClientAddressHeader, TrustedProxy};

const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// Who is at the other end of a connection, or of the proxy's that the PROXY protocol told about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Address(IpAddr),
    Unix,
}

impl Peer {
    pub(super) const fn address(self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(address),
            Self::Unix => None,
        }
    }
}

/// Whose word counts, and how they say it.
#[derive(Clone, Debug)]
pub struct ProxyTrust {
    pub proxies: Vec<TrustedProxy>,
    /// Every connection begins with the PROXY protocol's header.
    pub proxy_protocol: bool,
    pub header: ClientAddressHeader,
}

impl ProxyTrust {
    /// Nobody is believed: for listeners that no proxy stands before.
    pub const fn nobody() -> Self {
        Self { proxies: Vec::new(), proxy_protocol: false, header: ClientAddressHeader::XForwardedFor }
    }

    pub(super) fn trusts(&self, peer: Peer) -> bool {
        self.proxies.iter().any(|proxy| match (proxy, peer) {
            (TrustedProxy::Network(network), Peer::Address(address)) => network.contains(&address.to_canonical()),
            (TrustedProxy::Unix, Peer::Unix) => true,
            _ => false,
        })
    }

    /// The client of a request that `peer` brought: the right-most address that no trusted proxy has, as far as they say; else what is
    /// nearest to it.
    pub(super) fn client(&self, peer: Peer, headers: &HeaderMap) -> Peer {
        if !self.trusts(peer) {
            return peer;
        }
        let mut nearest = peer;
        for address in self.forwarded_for(headers).into_iter().rev() {
            // What is further left was told by somebody we know nothing of.
            let Some(address) = address else { break };
            nearest = Peer::Address(address);
            if !self.trusts(nearest) {
                break;
            }
        }
        nearest
    }

    /// Who each proxy says it speaks for, the last one last; `None` where it does not say.
    fn forwarded_for(&self, headers: &HeaderMap) -> Vec<Option<IpAddr>> {
        let (name, element): (_, fn(&str) -> Option<IpAddr>) = match self.header {
            ClientAddressHeader::XForwardedFor => (X_FORWARDED_FOR, node),
            ClientAddressHeader::Forwarded => (FORWARDED.as_str(), forwarded_element),
        };
        let mut found = Vec::new();
        for line in headers.get_all(name) {
            match line.to_str() {
                Ok(line) => found.extend(split(line, ',').map(element)),
                Err(_) => found.push(None),
            }
        }
        found
    }
}

/// The `for` of one element of `Forwarded` (RFC 7239, section 4).
fn forwarded_element(element: &str) -> Option<IpAddr> {
    let value = split(element, ';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value.trim())
    })?;
    let unquoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    node(unquoted.unwrap_or(value))
}

/// Parts of `text` between separators that stand in no quotes.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(move |c| {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            _ => return c == separator && !is_quoted,
        }
        false
    })
}

/// An address with or without a port, IPv6 with or without brackets: everybody writes it differently.
fn node(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn trust(header: ClientAddressHeader) -> ProxyTrust {
        let proxies = ["10.0.0.0/8", "fd00::/8", "unix"].map(|proxy| proxy.parse().unwrap()).to_vec();
        ProxyTrust { proxies, proxy_protocol: false, header }
    }

    fn peer(text: &str) -> Peer {
        if text == "unix" { Peer::Unix } else { Peer::Address(text.parse().unwrap()) }
    }

    #[track_caller]
    fn check(header: ClientAddressHeader, from: &str, lines: &[(&'static str, &str)], expected: &str) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        assert_eq!(trust(header).client(peer(from), &headers), peer(expected), "{from}: {lines:?}");
    }

    #[test]
    fn the_client_is_the_right_most_address_that_is_no_trusted_proxy() {
        let check = |from: &str, values: &[&str], expected: &str| {
            let lines: Vec<_> = values.iter().map(|value| ("x-forwarded-for", *value)).collect();
            check(ClientAddressHeader::XForwardedFor, from, &lines, expected);
        };
        check(PROXY, &["192.0.2.1"], "192.0.2.1");
        check(PROXY, &[" 192.0.2.1 "], "192.0.2.1");
        check("unix", &["192.0.2.1"], "192.0.2.1");
        check("::ffff:10.0.0.1", &["192.0.2.1"], "192.0.2.1");
        // Whoever is not trusted says nothing.
        check("192.0.2.9", &["192.0.2.1"], "192.0.2.9");
        // What the client itself wrote stands further left.
        check(PROXY, &["198.51.100.1, 192.0.2.1"], "192.0.2.1");
        check(PROXY, &["192.0.2.1, 10.0.0.2, 10.0.0.3"], "192.0.2.1");
        check(PROXY, &["192.0.2.1", "10.0.0.2"], "192.0.2.1");
        check(PROXY, &["10.0.0.2", "192.0.2.1"], "192.0.2.1");
        // A proxy asking for itself.
        check(PROXY, &[], PROXY);
        check("unix", &[], "unix");
        check(PROXY, &["10.0.0.3, 10.0.0.2"], "10.0.0.3");
        // What cannot be read hides what is left of it.
        check(PROXY, &["192.0.2.1, unknown"], PROXY);
        check(PROXY, &["192.0.2.1, unknown, 10.0.0.2"], "10.0.0.2");
        check(PROXY, &[""], PROXY);
        check(PROXY, &["192.0.2.1,"], PROXY);
        // However it is written.
        check(PROXY, &["192.0.2.1:4711"], "192.0.2.1");
        check(PROXY, &["2001:db8::1"], "2001:db8::1");
        check(PROXY, &["[2001:db8::1]"], "2001:db8::1");
        check(PROXY, &["[2001:db8::1]:4711"], "2001:db8::1");
        check(PROXY, &["::ffff:192.0.2.1"], "192.0.2.1");
        check(PROXY, &["fd00::7, 192.0.2.1"], "192.0.2.1");
        check(PROXY, &["192.0.2.1, fd00::7"], "192.0.2.1");
    }

    #[test]
    fn forwarded_says_the_same_in_its_own_way() {
        let check = |value: &str, expected: &str| check(ClientAddressHeader::Forwarded, PROXY, &[("forwarded", value)], expected);
        check("for=192.0.2.1", "192.0.2.1");
        check("proto=https; For=\"192.0.2.1\" ;by=10.0.0.1", "192.0.2.1");
        check("for=\"[2001:db8::1]:4711\"", "2001:db8::1");
        check("for=198.51.100.1, for=192.0.2.1", "192.0.2.1");
        check("for=192.0.2.1, for=10.0.0.2;host=\"a,b;for=198.51.100.1\"", "192.0.2.1");
        check(r#"host="\",for=198.51.100.1";for=192.0.2.1"#, "192.0.2.1");
        check("for=192.0.2.1, for=_hidden", PROXY);
        check("for=192.0.2.1, for=unknown, for=10.0.0.2", "10.0.0.2");
        check("for=192.0.2.1, proto=https", PROXY);
        check("192.0.2.1", PROXY);
    }

    #[test]
    fn only_the_header_that_the_proxy_sets_is_looked_at() {
        let both = [("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=192.0.2.2")];
        check(ClientAddressHeader::XForwardedFor, PROXY, &both, "192.0.2.1");
        check(ClientAddressHeader::Forwarded, PROXY, &both, "192.0.2.2");
    }
}
