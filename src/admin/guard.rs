//! Who may use the admin listener. A web page must not be able to drive it, not even on loopback (DNS rebinding, cross-site requests).
//!
//! What a form can send without being asked first is refused where bodies are read ([`crate::socket::Document`], and
//! [`crate::socket::json_only`] where there is none), so that a method that is not there is told as that.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    config::{AdminConfig, Scope},
    intake::problem_details::ProblemDetails,
};

/// Names a loopback listener is called by.
const LOOPBACK_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// The rules, made from the configuration once.
#[derive(Debug)]
pub struct Guard {
    hosts: Vec<String>,
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    name: Arc<str>,
    sha256: Vec<u8>,
    scopes: Vec<Scope>,
}

/// Who is asking: the name of an API key, or `loopback`. For the log of what operators do.
#[derive(Clone, Debug)]
pub struct Caller(pub Arc<str>);

impl Guard {
    pub fn new(config: &AdminConfig) -> Self {
        let mut hosts: Vec<String> = LOOPBACK_HOSTS.iter().map(ToString::to_string).chain(config.hosts.iter().cloned()).collect();
        hosts.push(match config.listen.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        });
        let keys = config
            .api_keys
            .iter()
            .map(|key| Key { name: key.name.as_str().into(), sha256: bytes_of_hex(&key.sha256), scopes: key.scopes.clone() })
            .collect();
        Self { hosts, keys }
    }

    fn check(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<Caller, ProblemDetails> {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_ascii_lowercase();
        let name = without_port(&host);
        // Probes call health by whatever address they know; it tells nothing worth stealing.
        let is_health = matches!(path, "/livez" | "/readyz");
        if !is_health && !self.hosts.iter().any(|allowed| allowed == name) {
            let detail = format!("this listener is not called `{}`; hint: add the name to admin.hosts", crate::model::cut(name, 80));
            return Err(ProblemDetails::new(StatusCode::MISDIRECTED_REQUEST, "host_not_allowed", detail));
        }
        if let Some(origin) = headers.get(header::ORIGIN)
            && !is_own_origin(origin.to_str().unwrap_or_default(), &host)
        {
            return Err(ProblemDetails::new(StatusCode::FORBIDDEN, "origin_not_allowed", "pages of other sites may not use this listener"));
        }
        match needed_scope(method, path) {
            Some(scope) if !self.keys.is_empty() => self.authorize(headers, scope),
            _ => Ok(Caller("loopback".into())),
        }
    }

    fn authorize(&self, headers: &HeaderMap, scope: Scope) -> Result<Caller, ProblemDetails> {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let Some(given) = given else {
            return Err(ProblemDetails::new(StatusCode::UNAUTHORIZED, "key_missing", "send an API key: `Authorization: Bearer KEY`"));
        };
        let hash = Sha256::digest(given.trim());
        // Every key is compared, so that time tells nothing about which one was near.
        let key = self.keys.iter().fold(None, |found, key| if bool::from(key.sha256.ct_eq(&hash)) { Some(key) } else { found });
        match key {
            None => Err(ProblemDetails::new(StatusCode::UNAUTHORIZED, "key_unknown", "this API key is not in admin.api_keys")),
            Some(key) if !key.scopes.contains(&scope) => {
                let scope = format!("{scope:?}").to_lowercase();
                let detail = format!("the API key `{}` has no scope `{scope}`", key.name);
                Err(ProblemDetails::new(StatusCode::FORBIDDEN, "scope_missing", detail))
            }
            Some(key) => Ok(Caller(key.name.clone())),
        }
    }
}

/// The middleware around everything on the admin listener.
pub async fn guard(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    match guard.check(request.method(), request.uri().path(), request.headers()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
        }
        Err(refused) => return refused.into_response(),
    }
    next.run(request).await
}

/// What a request needs; nothing for pages that tell nothing by themselves and for health.
fn needed_scope(method: &Method, path: &str) -> Option<Scope> {
    const OPEN: [&str; 13] = [
        "/",
        "/console.css",
        "/console.js",
        "/page.js",
        "/templates",
        "/templates.css",
        "/templates.js",
        "/docs",
        "/docs.css",
        "/openapi.json",
        "/livez",
        "/readyz",
        "/favicon.ico",
    ];
    if OPEN.contains(&path) {
        return None;
    }
    let writes_contact = path.starts_with("/v1/users/") && matches!(*method, Method::PUT | Method::PATCH);
    Some(match *method {
        Method::GET | Method::HEAD => Scope::Read,
        Method::POST if is_preview(path) => Scope::Read,
        Method::POST if matches!(path, "/v1/jobs" | "/v1/conversations") => Scope::Enqueue,
        _ if writes_contact => Scope::Enqueue,
        _ => Scope::Operate,
    })
}

/// Rendering for whoever asks changes nothing.
fn is_preview(path: &str) -> bool {
    path.strip_prefix("/v1/templates/").is_some_and(|rest| rest.ends_with("/preview"))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

fn is_own_origin(origin: &str, host: &str) -> bool {
    let named = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    named.is_some_and(|named| named.eq_ignore_ascii_case(host))
}

fn bytes_of_hex(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).filter_map(|index| u8::from_str_radix(hex.get(index * 2..index * 2 + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ApiKey;

    fn guard(keys: &[(&str, &[Scope])]) -> Guard {
        Guard::new(&AdminConfig {
            listen: "127.0.0.1:8001".parse().unwrap(),
            hosts: vec!["tarishi.internal".to_owned()],
            header_timeout: std::time::Duration::from_secs(1),
            body_timeout: std::time::Duration::from_secs(1),
            api_keys: keys
                .iter()
                .map(|(key, scopes)| ApiKey {
                    name: format!("name of {key}"),
                    sha256: format!("{:x}", Sha256::digest(key)),
                    scopes: scopes.to_vec(),
                })
                .collect(),
        })
    }

    #[track_caller]
    fn check(guard: &Guard, request: &str, expected: Result<&str, &str>) {
        let mut lines = request.split(" | ");
        let (method, path) = lines.next().unwrap().split_once(' ').unwrap();
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            headers.insert(header::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        }
        let found = guard.check(&method.parse().unwrap(), path, &headers);
        assert_eq!(found.as_ref().map(|caller| &*caller.0).map_err(|refused| refused.code), expected, "{request}");
    }

    #[test]
    fn a_web_page_cannot_drive_a_loopback_listener() {
        let guard = guard(&[]);
        check(&guard, "GET /v1/status | host: 127.0.0.1:8001", Ok("loopback"));
        check(&guard, "GET /v1/status | host: LOCALHOST:8001", Ok("loopback"));
        check(&guard, "GET /v1/status | host: [::1]:8001", Ok("loopback"));
        check(&guard, "GET /v1/status | host: tarishi.internal", Ok("loopback"));
        check(&guard, "GET /v1/status | host: evil.example:8001", Err("host_not_allowed"));
        check(&guard, "GET /v1/status", Err("host_not_allowed"));
        check(&guard, "GET /readyz | host: 10.0.0.7:8001", Ok("loopback"));
        check(&guard, "GET /v1/status | host: localhost:8001 | origin: http://evil.example", Err("origin_not_allowed"));
        check(&guard, "GET /v1/status | host: localhost:8001 | origin: null", Err("origin_not_allowed"));
        check(&guard, "GET /v1/status | host: localhost:8001 | origin: http://localhost:9999", Err("origin_not_allowed"));
        check(&guard, "GET /v1/status | host: localhost:8001 | origin: http://localhost:8001", Ok("loopback"));
    }

    #[test]
    fn keys_are_asked_for_once_there_are_any() {
        let guard = guard(&[("k1", &[Scope::Enqueue]), ("k2", &[Scope::Read, Scope::Operate]), ("reader", &[Scope::Read])]);
        let json = "host: localhost | content-type: application/json";
        check(&guard, "GET /livez | host: localhost", Ok("loopback"));
        check(&guard, "GET /v1/status | host: localhost", Err("key_missing"));
        check(&guard, "GET /metrics | host: localhost", Err("key_missing"));
        check(&guard, "GET /v1/status | host: localhost | authorization: Bearer k3", Err("key_unknown"));
        check(&guard, "GET /v1/status | host: localhost | authorization: Bearer k1", Err("scope_missing"));
        check(&guard, "GET /v1/status | host: localhost | authorization: Bearer k2", Ok("name of k2"));
        check(&guard, &format!("POST /v1/jobs | {json} | authorization: Bearer k1"), Ok("name of k1"));
        check(&guard, &format!("POST /v1/jobs | {json} | authorization: Bearer k2"), Err("scope_missing"));
        check(&guard, &format!("PUT /v1/users/42 | {json} | authorization: Bearer k1"), Ok("name of k1"));
        check(&guard, &format!("POST /v1/conversations | {json} | authorization: Bearer k1"), Ok("name of k1"));
        check(&guard, &format!("POST /v1/conversations/7/notify | {json} | authorization: Bearer k1"), Err("scope_missing"));
        check(&guard, &format!("PATCH /v1/conversations/7/participants | {json} | authorization: Bearer k1"), Err("scope_missing"));
        check(&guard, "DELETE /v1/messages/7 | host: localhost | authorization: Bearer k1", Err("scope_missing"));
        check(&guard, "DELETE /v1/jobs/x | host: localhost | authorization: Bearer k1", Err("scope_missing"));
        check(&guard, "DELETE /v1/jobs/x | host: localhost | authorization: Bearer k2", Ok("name of k2"));
        check(&guard, "GET /v1/suppressions | host: localhost | authorization: Bearer k1", Err("scope_missing"));
        check(&guard, &format!("POST /v1/suppressions | {json} | authorization: Bearer k1"), Err("scope_missing"));
        check(&guard, &format!("POST /v1/suppressions | {json} | authorization: Bearer k2"), Ok("name of k2"));
        check(&guard, "DELETE /v1/suppressions | host: localhost | authorization: Bearer k1", Err("scope_missing"));
        check(&guard, &format!("POST /v1/templates/generic/preview | {json} | authorization: Bearer reader"), Ok("name of reader"));
        check(&guard, &format!("POST /v1/templates/generic/preview | {json} | authorization: Bearer k1"), Err("scope_missing"));
        check(&guard, &format!("POST /v1/templates/generic | {json} | authorization: Bearer reader"), Err("scope_missing"));
        check(&guard, "GET /templates | host: localhost", Ok("loopback"));
    }
}
