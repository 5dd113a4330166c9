//! A request as it came, and what its provider makes of it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Response, StatusCode, Version,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use serde_json::Value;

use super::callback::Subject;

/// A request, read whole.
#[derive(Debug)]
pub(super) struct Received {
    /// Of the connection, counting up from 1.
    pub connection: u64,
    pub version: Version,
    pub method: Method,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A whole answer.
pub(super) type Reply = Response<Bytes>;

/// What a provider makes of a request, were it not for the script.
pub(super) struct Checked {
    /// Recipients: addresses, tokens.
    pub to: Vec<String>,
    pub delivery_id: Option<String>,
    /// The body as it is kept.
    pub body: Value,
    pub outcome: Result<Taken, Refused>,
}

pub(super) struct Taken {
    pub reply: Reply,
    /// Whether something is sent (or a token given out), and not only looked at.
    pub is_counted: bool,
    /// Whose further course there is to tell.
    pub subject: Option<Subject>,
}

pub(super) struct Refused {
    pub reply: Reply,
    /// For whoever looks why.
    pub reason: String,
}

impl Taken {
    /// A good request of which nothing comes.
    pub fn without_effect(reply: Reply) -> Self {
        Self { reply, is_counted: false, subject: None }
    }
}

impl Checked {
    /// A good question about the credentials.
    pub fn probe(reply: Reply) -> Self {
        Self { to: Vec::new(), delivery_id: None, body: Value::Null, outcome: Ok(Taken::without_effect(reply)) }
    }

    /// Refused before anything of it is known.
    pub fn refused(reply: Reply, reason: impl Into<String>) -> Self {
        Self { to: Vec::new(), delivery_id: None, body: Value::Null, outcome: Err(Refused { reply, reason: reason.into() }) }
    }
}

impl Received {
    /// The token of `Authorization: Bearer`.
    pub fn bearer(&self) -> Option<&str> {
        self.headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
    }

    /// User and password of `Authorization: Basic`.
    pub fn basic(&self) -> Option<(String, String)> {
        let encoded = self.headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
        let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
        decoded.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
    }

    /// Whether the body is said to be of this media type.
    pub fn is_of_type(&self, media_type: &str) -> bool {
        let given = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        given.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(media_type)
    }

    /// The pairs of a form.
    pub fn form(&self) -> Vec<(String, String)> {
        form_urlencoded::parse(&self.body).into_owned().collect()
    }
}

pub(super) fn json(status: u16, body: &Value) -> Reply {
    of_type("application/json; charset=utf-8", status, body.to_string())
}

pub(super) fn html(status: u16, body: impl Into<Bytes>) -> Reply {
    of_type("text/html; charset=utf-8", status, body)
}

pub(super) fn of_type(media_type: &'static str, status: u16, body: impl Into<Bytes>) -> Reply {
    let mut reply = empty(status);
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    *reply.body_mut() = body.into();
    reply
}

pub(super) fn empty(status: u16) -> Reply {
    let mut reply = Reply::default();
    *reply.status_mut() = StatusCode::from_u16(status).expect("a script's statuses are 200 to 599, and ours are known");
    reply
}

/// With one more header. A value that is none is left out: a script may hold anything.
pub(super) fn with_header(mut reply: Reply, name: &'static str, value: &str) -> Reply {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(name, value);
    }
    reply
}
