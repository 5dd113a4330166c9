//! Where a request carries its token: query, header, subprotocol, or a cookie whose name is configured.

use axum::http::{
    HeaderMap,
    header::{AUTHORIZATION, COOKIE},
    request::Parts,
};
use secrecy::SecretString;

use super::super::upgrade;

/// A token as a request brought it.
pub(super) struct Bearer {
    pub token: SecretString,
    /// Sent by a browser on its own, whichever page asked for it.
    pub is_cookie: bool,
}

/// `?token=`, else `Authorization: Bearer`, else `Sec-WebSocket-Protocol: bearer, <token>`, else the cookie with this name.
pub(super) fn token_from(parts: &Parts, cookie: Option<&str>) -> Option<Bearer> {
    let in_query = || upgrade::query_value(&parts.uri, "token");
    let in_header = || {
        let (scheme, token) = parts.headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
    };
    let in_protocols = || {
        let mut offered = upgrade::offered_protocols(&parts.headers);
        offered.find(|protocol| *protocol == upgrade::SUBPROTOCOL_BEARER)?;
        offered.next().map(str::to_owned)
    };
    if let Some(token) = in_query().or_else(in_header).or_else(in_protocols) {
        return Some(Bearer { token: token.into(), is_cookie: false });
    }
    let token = cookie_value(&parts.headers, cookie?)?;
    Some(Bearer { token: token.into(), is_cookie: true })
}

/// The ticket a request brings: `?ticket=`.
pub(super) fn ticket_from(parts: &Parts) -> Option<SecretString> {
    upgrade::query_value(&parts.uri, "ticket").map(SecretString::from)
}

/// The first cookie with this name (RFC 6265, section 4.2.1). An empty one is none: that is how backends take them away.
fn cookie_value(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(found, _)| *found == name)?;
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    (!value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use secrecy::ExposeSecret as _;

    use super::*;

    #[track_caller]
    fn check(uri: &str, headers: &[(&str, &str)], expected: Option<&str>) {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let found = token_from(&parts, Some("access"));
        assert_eq!(found.as_ref().map(|bearer| bearer.token.expose_secret()), expected, "{uri} {headers:?}");
        assert_eq!(found.is_some_and(|bearer| bearer.is_cookie), expected == Some("c.o.o"), "{uri} {headers:?}");
    }

    #[test]
    fn tokens_come_from_the_query_the_header_or_the_subprotocol() {
        check("/ws", &[], None);
        check("/ws?token=a.b.c&v=1", &[("authorization", "Bearer x.y.z")], Some("a.b.c"));
        check("/ws?v=1&token=a%2Eb.c", &[], Some("a.b.c"));
        check("/ws", &[("authorization", "bearer x.y.z")], Some("x.y.z"));
        check("/ws", &[("authorization", "Basic x")], None);
        check("/ws", &[("sec-websocket-protocol", "tarishi.v1, bearer, x.y.z")], Some("x.y.z"));
        check("/ws", &[("sec-websocket-protocol", "bearer"), ("sec-websocket-protocol", "x.y.z")], Some("x.y.z"));
        check("/ws", &[("sec-websocket-protocol", "tarishi.v1")], None);
    }

    #[test]
    fn a_cookie_is_the_last_place_to_look() {
        check("/ws", &[("cookie", "access=c.o.o")], Some("c.o.o"));
        check("/ws", &[("cookie", "a=b; access=c.o.o; access=x.y.z")], Some("c.o.o"));
        check("/ws", &[("cookie", "a=b"), ("cookie", "access=\"c.o.o\"")], Some("c.o.o"));
        check("/ws", &[("cookie", "access=")], None);
        check("/ws", &[("cookie", "no-access=c.o.o; accesses=c.o.o")], None);
        check("/ws?token=a.b.c", &[("cookie", "access=c.o.o")], Some("a.b.c"));
        check("/ws", &[("cookie", "access=c.o.o"), ("authorization", "Bearer x.y.z")], Some("x.y.z"));
        let (parts, ()) = Request::builder().uri("/").header("cookie", "access=c.o.o").body(()).unwrap().into_parts();
        assert!(token_from(&parts, None).is_none(), "nobody named a cookie");
    }
}
