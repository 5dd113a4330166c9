//! The opening handshake of RFC 6455, and which web pages may make it.
//!
//! Reads headers and builds responses; who the caller is and whether there is room for them is `gate`'s.

use std::{borrow::Cow, collections::HashSet, iter};

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version,
        header::{CONNECTION, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE},
        request::Parts,
    },
    response::Response,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use memchr::{memchr, memchr2};
use percent_encoding::percent_decode_str;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{error_response, listener::Switch, wire::Wire};

/// The subprotocol of clients that know frames of other types than the replaced system's, and close codes.
const SUBPROTOCOL_V1: &str = "tarishi.v1";
/// The subprotocol after which a client offers its token, since browsers can set no other header on a WebSocket.
pub(super) const SUBPROTOCOL_BEARER: &str = "bearer";
/// Bytes in the nonce of `Sec-WebSocket-Key` (RFC 6455, section 4.1).
const KEY_NONCE_BYTES: usize = 16;

/// A good upgrade request, not answered yet.
#[derive(Debug)]
pub(super) struct Handshake {
    accept: String,
    subprotocol: Option<&'static str>,
    /// Asked for `tarishi.v1`, as subprotocol or as `?v=1`.
    pub v1: bool,
    switch: Switch,
}

/// Why a request is no upgrade to a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHandshake {
    /// An ordinary request to a socket's address.
    NotAnUpgrade,
    /// Another version of the protocol than 13.
    WrongVersion,
    /// Not what RFC 6455 says an upgrade looks like.
    Malformed(&'static str),
}

impl Handshake {
    pub(super) fn read(parts: &mut Parts) -> Result<Self, BadHandshake> {
        let key = check(parts)?;
        let accept = derive_accept_key(key.as_bytes());
        let offers = |protocol: &str| offered_protocols(&parts.headers).any(|offered| offered == protocol);
        let subprotocol = [SUBPROTOCOL_V1, SUBPROTOCOL_BEARER].into_iter().find(|protocol| offers(protocol));
        let v1 = subprotocol == Some(SUBPROTOCOL_V1) || query_value(&parts.uri, "v").is_some_and(|version| version == "1");
        // Absent where another accept loop than ours serves, which could not go on with what follows.
        let switch = parts.extensions.remove::<Switch>().ok_or(BadHandshake::NotAnUpgrade)?;
        Ok(Self { accept, subprotocol, v1, switch })
    }

    /// The response that switches protocols, to what `session` then says over the socket.
    pub(super) fn response<F>(self, session: impl FnOnce(Wire, Vec<u8>) -> F + Send + 'static) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.switch.to(Box::new(|wire, read| Box::pin(session(wire, read))));
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&self.accept).expect("base64 is fit for a header"));
        if let Some(subprotocol) = self.subprotocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
        }
        response
    }
}

impl BadHandshake {
    pub(super) fn response(self) -> Response {
        let (status, error) = match self {
            Self::NotAnUpgrade => (StatusCode::UPGRADE_REQUIRED, "this address speaks WebSocket only"),
            Self::WrongVersion => (StatusCode::UPGRADE_REQUIRED, "only version 13 of the WebSocket protocol is spoken here"),
            Self::Malformed(error) => (StatusCode::BAD_REQUEST, error),
        };
        let mut response = error_response(status, error);
        if status == StatusCode::UPGRADE_REQUIRED {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
            response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
            response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        response
    }
}

/// What RFC 6455, section 4.2.1 asks of the request; gives the key.
fn check(parts: &Parts) -> Result<&str, BadHandshake> {
    if parts.method != Method::GET || parts.version != Version::HTTP_11 {
        return Err(BadHandshake::Malformed("an upgrade is a GET over HTTP/1.1"));
    }
    if !is_asked_for(&parts.headers) {
        return Err(BadHandshake::NotAnUpgrade);
    }
    if !lists(&parts.headers, &CONNECTION, "upgrade") {
        return Err(BadHandshake::Malformed("the Connection header must list upgrade"));
    }
    if parts.headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(BadHandshake::WrongVersion);
    }
    let key = parts.headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
    key.filter(|key| BASE64_STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == KEY_NONCE_BYTES))
        .ok_or(BadHandshake::Malformed("the Sec-WebSocket-Key header must be 16 bytes in base64"))
}

/// Whether a request asks for a WebSocket, be it in the proper way or not.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    lists(headers, &UPGRADE, "websocket")
}

fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    values.into_iter().any(|value| value.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
}

/// The members of a header that is a comma-separated list, over all its lines.
fn listed<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',').map(str::trim))
}

/// The subprotocols that the client offers, in its order.
pub(super) fn offered_protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    listed(headers, &SEC_WEBSOCKET_PROTOCOL)
}

/// The first value of `name` in the query.
pub fn query_value(uri: &Uri, name: &str) -> Option<String> {
    query_values(uri, name).next()
}

/// Every value of `name`, which needs no encoding, in the query.
pub fn query_values<'q>(uri: &'q Uri, name: &'q str) -> impl Iterator<Item = String> + use<'q> {
    let mut rest = uri.query();
    let pairs = iter::from_fn(move || {
        let here = rest?;
        let end = memchr(b'&', here.as_bytes());
        rest = end.map(|end| &here[end + 1..]);
        Some(&here[..end.unwrap_or(here.len())])
    });
    pairs.filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name || decoded(key) == name).then(|| decoded(value).into_owned())
    })
}

/// A key or value of a query (WHATWG URL, `application/x-www-form-urlencoded`). Few are encoded, and sockets bring long ones.
fn decoded(text: &str) -> Cow<'_, str> {
    if memchr2(b'%', b'+', text.as_bytes()).is_none() {
        return text.into();
    }
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned().into()
}

/// Which web pages may open a socket. A request without `Origin` is no browser's and passes: without it a page elsewhere could use
/// what the browser knows of the user (cross-site WebSocket hijacking).
#[derive(Clone, Debug, Default)]
pub struct OriginPolicy {
    allowed: HashSet<String>,
}

impl OriginPolicy {
    /// `allowed_origins` and the origin of `base_url`. What is no `scheme://host` cannot be an origin and allows nothing.
    pub fn new(allowed_origins: &[String], base_url: Option<&str>) -> Self {
        Self { allowed: allowed_origins.iter().map(String::as_str).chain(base_url).filter_map(origin_of).collect() }
    }

    pub(super) fn allows(&self, headers: &HeaderMap) -> bool {
        headers.get_all(ORIGIN).iter().all(|origin| origin.to_str().ok().and_then(origin_of).is_some_and(|it| self.allowed.contains(&it)))
    }

    /// The same, of a request that a browser vouches for by itself, with a cookie. Not every cross-site request carries an `Origin`.
    pub(super) fn allows_ambient(&self, headers: &HeaderMap) -> bool {
        let is_cross_site = || headers.get(FETCH_SITE).is_some_and(|site| site == "cross-site");
        self.allows(headers) && (headers.contains_key(ORIGIN) || !is_cross_site())
    }
}

/// What browsers say of where a request comes from, `Origin` or not (W3C Fetch Metadata).
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The origin of a URL as browsers write it (RFC 6454, section 6.2): lower case, without the scheme's own port.
fn origin_of(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let (scheme, host) = (uri.scheme_str()?.to_ascii_lowercase(), uri.host()?.to_ascii_lowercase());
    let own_port = match scheme.as_str() {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    match uri.port_u16().filter(|port| Some(*port) != own_port) {
        Some(port) => Some(format!("{scheme}://{host}:{port}")),
        None => Some(format!("{scheme}://{host}")),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    const GOOD: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    #[track_caller]
    fn check_request(method: &str, changed: &[(&str, &str)], expected: Result<&str, BadHandshake>) {
        let mut request = Request::builder().method(method).uri("/ws");
        for (name, value) in GOOD {
            let value = changed.iter().find(|(other, _)| *other == name).map_or(value, |(_, value)| value);
            request = request.header(name, value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        assert_eq!(check(&parts), expected, "{changed:?}");
    }

    #[test]
    fn upgrade_requests_are_checked() {
        check_request("GET", &[], Ok("dGhlIHNhbXBsZSBub25jZQ=="));
        check_request("POST", &[], Err(BadHandshake::Malformed("an upgrade is a GET over HTTP/1.1")));
        check_request("GET", &[("upgrade", "h2c")], Err(BadHandshake::NotAnUpgrade));
        check_request("GET", &[("connection", "close")], Err(BadHandshake::Malformed("the Connection header must list upgrade")));
        check_request("GET", &[("sec-websocket-version", "8")], Err(BadHandshake::WrongVersion));
        let bad_key = BadHandshake::Malformed("the Sec-WebSocket-Key header must be 16 bytes in base64");
        check_request("GET", &[("sec-websocket-key", "dGhlIHNhbXBsZQ==")], Err(bad_key));
        check_request("GET", &[("sec-websocket-key", "not base64")], Err(bad_key));
    }

    #[track_caller]
    fn check_query(query: &str, name: &str, expected: &[&str]) {
        let uri = format!("/ws?{query}").parse().unwrap();
        assert_eq!(query_values(&uri, name).collect::<Vec<_>>(), expected, "{query}");
    }

    #[test]
    fn queries_are_forms() {
        check_query("v=1&token=a.b-c_d", "token", &["a.b-c_d"]);
        check_query("topic=city.dar&v=1&topic=&topic", "topic", &["city.dar", "", ""]);
        check_query("to%70ic=a%20b+c%2Bd%26e&&topic=x=y", "topic", &["a b c+d&e", "x=y"]);
        check_query("topic=%ff%zz%", "topic", &["\u{fffd}%zz%"]);
        check_query("top=1&topics=2&Topic=3", "topic", &[]);
        check_query("", "topic", &[]);
    }

    #[track_caller]
    fn check_origin(origin: Option<&str>, expected: bool) {
        let policy = OriginPolicy::new(
            &["https://App.example.com/".to_owned(), "http://localhost:3000".to_owned(), "*".to_owned()],
            Some("https://notify.example.com/base/"),
        );
        let headers = origin.into_iter().map(|origin| (ORIGIN, origin.parse().unwrap())).collect();
        assert_eq!(policy.allows(&headers), expected, "{origin:?}");
    }

    #[test]
    fn only_listed_origins_and_none_at_all_are_allowed() {
        check_origin(None, true);
        check_origin(Some("https://app.example.com"), true);
        check_origin(Some("https://app.example.com:443"), true);
        check_origin(Some("https://notify.example.com"), true);
        check_origin(Some("http://localhost:3000"), true);
        check_origin(Some("http://localhost"), false);
        check_origin(Some("http://app.example.com"), false);
        check_origin(Some("https://app.example.com.evil.example"), false);
        check_origin(Some("https://evil.example"), false);
        check_origin(Some("null"), false);
        check_origin(Some("*"), false);
        check_origin(Some(""), false);
    }
}
