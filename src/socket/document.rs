//! The JSON document that a request brings: read up to a limit, with everything that is wrong with it told at once.
//!
//! A refusal says its status, its code and its problems; in which form that is answered is for the listener.

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{FromRequest, Request, rejection::QueryRejection},
    http::{
        HeaderMap, StatusCode,
        header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::model::{Problem, cut, decode_all};

/// What a body may have where no route says otherwise.
const DEFAULT_LIMIT: BodyLimit = BodyLimit::new(2 << 20);
/// Longest header shown in a refusal, in bytes.
const SHOWN_LIMIT: usize = 40;

/// The largest body that routes read, as an extension of their requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimit {
    bytes: usize,
    /// Where it can be set.
    key: Option<&'static str>,
}

impl BodyLimit {
    pub const fn new(bytes: usize) -> Self {
        Self { bytes, key: None }
    }

    /// As the configuration has it under `key`.
    pub const fn of(key: &'static str, bytes: usize) -> Self {
        Self { bytes, key: Some(key) }
    }
}

/// A request's body as a `T`.
#[derive(Debug)]
pub struct Document<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Document<T> {
    type Rejection = Unreadable;

    async fn from_request(request: Request, _: &S) -> Result<Self, Unreadable> {
        check_headers(request.headers())?;
        let body = read(request).await?;
        decode_all(parse(&body)?, "$").map(Self).map_err(Unreadable::Invalid)
    }
}

/// A request's body as a `T` whatever its type is said to be, or what `T` is by default where there is none. For clients that have never
/// said a type.
#[derive(Debug)]
pub struct BareDocument<T>(pub T);

impl<T: DeserializeOwned + Default, S: Sync> FromRequest<S> for BareDocument<T> {
    type Rejection = Unreadable;

    async fn from_request(request: Request, _: &S) -> Result<Self, Unreadable> {
        check_encoding(request.headers())?;
        let body = read(request).await?;
        if body.trim_ascii().is_empty() {
            return Ok(Self(T::default()));
        }
        decode_all(parse(&body)?, "$").map(Self).map_err(Unreadable::Invalid)
    }
}

/// Why there is no document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is not said to be JSON.
    NotJson,
    /// It is compressed, or whatever the header says.
    Encoded(String),
    TooLarge(BodyLimit),
    BrokeOff,
    Malformed(Problem),
    Invalid(Vec<Problem>),
}

impl Unreadable {
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::NotJson | Self::Encoded(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BrokeOff => StatusCode::BAD_REQUEST,
            Self::Malformed(_) | Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }

    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::Encoded(_) => "encoding_not_taken",
            Self::TooLarge(_) => "too_large",
            Self::BrokeOff => "body_unreadable",
            Self::Malformed(_) => "malformed",
            Self::Invalid(_) => "invalid",
        }
    }

    pub fn detail(&self) -> String {
        match self {
            Self::NotJson => "send JSON with `Content-Type: application/json`".to_owned(),
            Self::Encoded(encoding) => {
                format!("`Content-Encoding: {encoding}` is not taken here; hint: send the body as it is, without it")
            }
            Self::TooLarge(limit) => {
                let key = limit.key.map_or_else(String::new, |key| format!(" ({key})"));
                format!("the body is larger than {}{key}; hint: send less at once", bytesize::ByteSize(limit.bytes as u64))
            }
            Self::BrokeOff => "the body broke off".to_owned(),
            Self::Malformed(problem) => problem.to_string(),
            Self::Invalid(problems) => match problems.as_slice() {
                [only] => only.to_string(),
                _ => format!("{} problems; nothing was taken", problems.len()),
            },
        }
    }

    pub fn into_problems(self) -> Vec<Problem> {
        match self {
            Self::Malformed(problem) => vec![problem],
            Self::Invalid(problems) => problems,
            _ => Vec::new(),
        }
    }
}

impl IntoResponse for Unreadable {
    fn into_response(self) -> Response {
        let (status, mut body) = (self.status(), json!({ "error": self.detail(), "code": self.code() }));
        let problems = self.into_problems();
        if !problems.is_empty() {
            body["problems"] = json!(problems);
        }
        (status, Json(body)).into_response()
    }
}

/// The middleware around a method that writes and takes its body in another way than as a [`Document`], or none: what is not said to be
/// JSON may come from a page of another site.
pub async fn json_only(request: Request, next: Next) -> Response {
    match check_headers(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(unreadable) => unreadable.into_response(),
    }
}

/// Whether a body under these headers is JSON that can be read as it comes.
///
/// # Errors
/// It is said to be something else.
fn check_headers(headers: &HeaderMap) -> Result<(), Unreadable> {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = media_type.strip_prefix("application/").is_some_and(|kind| kind == "json" || kind.ends_with("+json"));
    if is_json { check_encoding(headers) } else { Err(Unreadable::NotJson) }
}

fn check_encoding(headers: &HeaderMap) -> Result<(), Unreadable> {
    let given = headers.get_all(CONTENT_ENCODING).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    match given.map(|encoding| encoding.trim().to_ascii_lowercase()).find(|encoding| !matches!(encoding.as_str(), "" | "identity")) {
        Some(encoding) => Err(Unreadable::Encoded(cut(&encoding, SHOWN_LIMIT))),
        None => Ok(()),
    }
}

async fn read(request: Request) -> Result<Bytes, Unreadable> {
    let limit = request.extensions().get().copied().unwrap_or(DEFAULT_LIMIT);
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|announced| announced > limit.bytes as u64) {
        return Err(Unreadable::TooLarge(limit));
    }
    read_body(request.into_body(), limit).await
}

async fn read_body(body: Body, limit: BodyLimit) -> Result<Bytes, Unreadable> {
    axum::body::to_bytes(body, limit.bytes).await.map_err(|error| {
        let source = std::error::Error::source(&error);
        let is_too_long = source.is_some_and(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>);
        if is_too_long { Unreadable::TooLarge(limit) } else { Unreadable::BrokeOff }
    })
}

fn parse(body: &[u8]) -> Result<Value, Unreadable> {
    serde_json::from_slice(body).map_err(|error| Unreadable::Malformed(Problem::not_json(&error)))
}

/// What is wrong with a query string, by the name of the parameter.
pub fn query_problem(rejected: &QueryRejection) -> Problem {
    let text = rejected.body_text();
    let told = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
    Problem::of_parameter(told)
}

#[cfg(test)]
mod tests {
    use axum::{
        Extension, Router,
        extract::Query,
        http::{self, Uri},
        routing::post,
    };
    use serde::Deserialize;
    use tower::ServiceExt as _;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        number: Option<i64>,
        flag: Option<bool>,
    }

    async fn answer(path: &str, headers: &[(&str, &str)], body: &'static str) -> (u16, Value) {
        let app = Router::new()
            .route("/strict", post(async |Document(asked): Document<Asked>| format!("{:?} {:?}", asked.number, asked.flag)))
            .route("/bare", post(async |BareDocument(asked): BareDocument<Asked>| format!("{:?} {:?}", asked.number, asked.flag)))
            .layer(Extension(BodyLimit::of("intake.job_limit", 20)));
        let mut request = http::Request::builder().method("POST").uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = app.oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let text = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        (status, serde_json::from_slice(&text).unwrap_or_else(|_| String::from_utf8_lossy(&text).into()))
    }

    #[tokio::test]
    async fn every_reason_is_told_with_what_to_do() {
        let json = ("content-type", "application/json");
        let told = |code: &str, error: &str| json!({ "code": code, "error": error });
        assert_eq!(answer("/strict", &[json], r#"{"number": 7}"#).await, (200, json!("Some(7) None")));
        let type_is_missing = told("not_json", "send JSON with `Content-Type: application/json`");
        for form in [&[] as &[_], &[("content-type", "text/plain")], &[("content-type", "multipart/form-data; boundary=application/json")]]
        {
            assert_eq!(answer("/strict", form, "{}").await, (415, type_is_missing.clone()), "{form:?}");
        }
        for good in ["application/JSON; charset=utf-8", "application/merge-patch+json"] {
            assert_eq!(answer("/strict", &[("content-type", good)], "{}").await.0, 200, "{good}");
        }
        let gzip = "`Content-Encoding: gzip` is not taken here; hint: send the body as it is, without it";
        assert_eq!(answer("/strict", &[json, ("content-encoding", "gzip")], "{}").await, (415, told("encoding_not_taken", gzip)));
        assert_eq!(answer("/bare", &[("content-encoding", "GZIP")], "{}").await, (415, told("encoding_not_taken", gzip)));
        assert_eq!(answer("/bare", &[("content-encoding", "identity")], "{}").await.0, 200);
        let large = told("too_large", "the body is larger than 20 B (intake.job_limit); hint: send less at once");
        assert_eq!(answer("/strict", &[json], "{\"number\":           7}").await, (413, large.clone()));
        assert_eq!(answer("/bare", &[("content-length", "21")], "").await, (413, large));
        let problem = json!({ "path": "$", "problem": "not JSON: expected value", "hint": "look at line 1, column 11" });
        let error = "$: not JSON: expected value (hint: look at line 1, column 11)";
        let malformed = json!({ "code": "malformed", "error": error, "problems": [problem] });
        assert_eq!(answer("/strict", &[json], r#"{"number":}"#).await, (422, malformed.clone()));
        assert_eq!(answer("/bare", &[], r#"{"number":}"#).await, (422, malformed));
        let (status, told) = answer("/strict", &[json], r#"{"flag":1,"numbr":1}"#).await;
        assert_eq!((status, &told["code"]), (422, &json!("invalid")));
        assert_eq!((&told["problems"][0]["path"], &told["problems"][1]["hint"]), (&json!("$.flag"), &json!("did you mean `number`?")));
        assert_eq!(answer("/bare", &[], " ").await, (200, json!("None None")));
    }

    #[track_caller]
    fn check_query(query: &str, expected: &str) {
        let uri: Uri = format!("/x?{query}").parse().unwrap();
        let rejected = Query::<Asked>::try_from_uri(&uri).err().unwrap();
        assert_eq!(query_problem(&rejected).to_string(), expected, "{query}");
    }

    #[test]
    fn a_parameter_is_told_by_its_name() {
        check_query("number=x", "number: not a whole number (hint: digits alone, such as 20)");
        check_query("number=", "number: empty (hint: leave it out, or give it a number)");
        check_query("flag=yes", "flag: neither `true` nor `false` (hint: write one of them)");
        check_query("numbr=1", "numbr: unknown parameter `numbr` (hint: did you mean `number`?)");
        check_query("number=1&number=2", "number: given twice (hint: give it once)");
    }
}
