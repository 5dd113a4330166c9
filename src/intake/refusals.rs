//! Every error of a listener in one form, whoever made it: a handler, the framework, or nobody because a handler panicked.
//!
//! Problem details (RFC 9457), but below [`LEGACY`], where clients of the replaced system read `error`. Pages for people stay pages.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    body::Body,
    extract::{MatchedPath, Request},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::Response,
};
use futures_util::FutureExt as _;
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::{
    event::{Event, emit},
    socket::BodyTimedOut,
};

/// Below it errors keep the form that clients of the replaced system read.
const LEGACY: &str = "/api/v1/communications/";
/// Its 503 is what was asked for.
const NO_ERROR: &str = "/readyz";
/// Bytes of an error that are read to be told again.
const READ_LIMIT: usize = 64 << 10;

/// The middleware around every route of a listener.
pub async fn uniform(request: Request, next: Next) -> Response {
    let uri = request.uri().clone();
    let path = uri.path();
    if percent_decode_str(path).decode_utf8().is_err() {
        return told(path, Response::default(), StatusCode::BAD_REQUEST, &json!({ "error": NOT_UTF8, "code": "invalid" }));
    }
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut timed_out = None;
    let request = request.map(|body| if body.is_end_stream() { body } else { watched(body, timed_out.insert(Arc::default())) });
    in_form(path, route.as_ref().map_or("", MatchedPath::as_str), next.run(request), timed_out).await
}

/// The same around the `answer` to a request without a body whose whole path is known.
pub async fn answered(path: &'static str, answer: impl Future<Output = Response>) -> Response {
    in_form(path, path, answer, None).await
}

async fn in_form(path: &str, route: &str, answer: impl Future<Output = Response>, timed_out: Option<Arc<AtomicBool>>) -> Response {
    // What a handler left half done is its own: nothing of it is used here.
    let Ok(mut response) = AssertUnwindSafe(answer).catch_unwind().await else {
        emit(&Event::HandlerPanicked { route });
        return told(path, Response::default(), StatusCode::INTERNAL_SERVER_ERROR, &json!({ "error": PANICKED, "code": "panicked" }));
    };
    let is_late = timed_out.is_some_and(|timed_out| timed_out.load(Ordering::Relaxed)) && response.status().is_client_error();
    if is_late {
        *response.status_mut() = StatusCode::REQUEST_TIMEOUT;
    }
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error || path == NO_ERROR || is_in_form(response.headers().get(header::CONTENT_TYPE)) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let said = if is_late { json!({}) } else { said(&axum::body::to_bytes(body, READ_LIMIT).await.unwrap_or_default()) };
    told(path, Response::from_parts(parts, Body::empty()), status, &said)
}

/// The body, noting that it did not come in time.
fn watched(body: Body, timed_out: &Arc<AtomicBool>) -> Body {
    let noted = timed_out.clone();
    Body::new(body.map_err(move |error| {
        noted.fetch_or(BodyTimedOut::find(&error).is_some(), Ordering::Relaxed);
        error
    }))
}

const NOT_UTF8: &str = "path: is not UTF-8; hint: percent-encode each character's UTF-8 bytes, as in %C3%A9 for é";
const PANICKED: &str = "a bug in the daemon; its log says where. What was asked for may be done or not";

fn is_in_form(content_type: Option<&HeaderValue>) -> bool {
    let media_type = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
    matches!(media_type.split(';').next().unwrap_or_default(), "text/html" | "application/problem+json")
}

/// What an error says so far: its members, or its text.
fn said(body: &[u8]) -> Value {
    match serde_json::from_slice(body) {
        Ok(Value::Object(members)) => Value::Object(members),
        _ => match String::from_utf8_lossy(body).trim() {
            "" => json!({}),
            text => json!({ "error": text }),
        },
    }
}

/// The answer with the headers of `response`, which may say when to come again or how to sign in.
fn told(path: &str, mut response: Response, status: StatusCode, said: &Value) -> Response {
    let (code, meaning) = meaning(status);
    let title = status.canonical_reason().unwrap_or("Error");
    let detail = said["error"].as_str().filter(|error| *error != title).unwrap_or(meaning);
    let code = said["code"].as_str().unwrap_or(code);
    let (media_type, mut body) = if path.starts_with(LEGACY) {
        ("application/json", json!({ "error": detail, "code": code }))
    } else {
        ("application/problem+json", json!({ "title": title, "status": status.as_u16(), "detail": detail, "code": code }))
    };
    if said["problems"].is_array() {
        body["problems"] = said["problems"].clone();
    }
    *response.status_mut() = status;
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    *response.body_mut() = Body::from(body.to_string());
    response
}

/// A word for programs and one for people, where an error brings none.
fn meaning(status: StatusCode) -> (&'static str, &'static str) {
    match status {
        StatusCode::BAD_REQUEST => ("bad_request", "the request cannot be read"),
        StatusCode::UNAUTHORIZED => ("unauthenticated", "nobody is signed in; hint: send `Authorization: Bearer TOKEN`"),
        StatusCode::FORBIDDEN => ("forbidden", "this is not allowed"),
        StatusCode::NOT_FOUND => ("not_found", "there is nothing here; hint: /openapi.json lists what is"),
        StatusCode::METHOD_NOT_ALLOWED => {
            ("method_not_allowed", "this method is not known here; hint: the header `Allow` lists those that are")
        }
        StatusCode::CONFLICT => ("conflict", "it does not go with what is there"),
        StatusCode::REQUEST_TIMEOUT => ("body_timed_out", "the body was not complete in time"),
        StatusCode::PAYLOAD_TOO_LARGE => ("too_large", "the body is larger than anything taken here"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => ("unsupported_media_type", "not the content type that is taken here"),
        StatusCode::UNPROCESSABLE_ENTITY => ("invalid", "the request cannot be used as it is"),
        StatusCode::UPGRADE_REQUIRED => ("upgrade_required", "this is a WebSocket; hint: open it with a WebSocket client"),
        StatusCode::TOO_MANY_REQUESTS => ("busy", "too many requests; try again later"),
        StatusCode::SERVICE_UNAVAILABLE => ("unavailable", "not at the moment; try again later"),
        _ if status.is_server_error() => ("internal", "something went wrong here"),
        _ => ("refused", "the request was refused"),
    }
}

#[cfg(test)]
mod tests {
    use axum::{
        Json, Router, http, middleware,
        response::IntoResponse as _,
        routing::{get, post},
    };
    use tower::ServiceExt as _;

    use super::*;

    async fn broken() -> &'static str {
        panic!("as handlers do")
    }

    fn app() -> Router {
        let legacy = |path: &str| format!("{LEGACY}{path}");
        Router::new()
            .route("/panics", get(broken))
            .route("/text", get(async || (StatusCode::FORBIDDEN, [("retry-after", "7")], "no")))
            .route("/json", get(async || (StatusCode::CONFLICT, Json(json!({ "error": "taken", "code": "conflict", "problems": [] })))))
            .route("/page", get(async || (StatusCode::GONE, axum::response::Html("<p>gone"))))
            .route("/readyz", get(async || (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "ready": false })))))
            .route("/good", get(async || "good"))
            .route("/read", post(async |body: axum::body::Bytes| body))
            .route(&legacy("panics"), get(broken))
            .route(&legacy("json"), get(async || (StatusCode::CONFLICT, Json(json!({ "error": "taken" })))))
            .layer(middleware::from_fn(uniform))
    }

    async fn ask(method: &str, path: &str, body: Body) -> (http::response::Parts, String) {
        let request = http::Request::builder().method(method).uri(path).body(body).unwrap();
        let (parts, body) = app().oneshot(request).await.unwrap().into_parts();
        (parts, String::from_utf8(axum::body::to_bytes(body, READ_LIMIT).await.unwrap().to_vec()).unwrap())
    }

    async fn check(path: &str, status: u16, code: &str, detail: &str) {
        let (parts, text) = ask("GET", path, Body::empty()).await;
        let body: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parts.headers["content-type"], "application/problem+json", "{path}");
        assert_eq!((parts.status.as_u16(), &body["status"]), (status, &json!(status)), "{path}");
        assert_eq!((body["code"].as_str(), body["detail"].as_str()), (Some(code), Some(detail)), "{path}");
        assert!(body["title"].is_string(), "{text}");
    }

    #[tokio::test]
    async fn every_error_has_the_same_form() {
        check("/panics", 500, "panicked", PANICKED).await;
        check("/text", 403, "forbidden", "no").await;
        check("/json", 409, "conflict", "taken").await;
        check("/elsewhere", 404, "not_found", meaning(StatusCode::NOT_FOUND).1).await;
        check("/%ff", 400, "invalid", NOT_UTF8).await;
        check("/%zz", 404, "not_found", meaning(StatusCode::NOT_FOUND).1).await;
        check("/read", 405, "method_not_allowed", meaning(StatusCode::METHOD_NOT_ALLOWED).1).await;
        assert_eq!(ask("GET", "/text", Body::empty()).await.0.headers["retry-after"], "7");
        assert_eq!(ask("GET", "/read", Body::empty()).await.0.headers["allow"], "POST");
    }

    #[tokio::test]
    async fn what_takes_no_layer_has_the_same_form() {
        let panicked = answered("/ws", async { panic!("as a test") }).await;
        assert_eq!((panicked.status(), &panicked.headers()["content-type"]), (StatusCode::INTERNAL_SERVER_ERROR, &problem_details()));
        let refused = answered("/ws", async { (StatusCode::FORBIDDEN, Json(json!({ "error": "no" }))).into_response() }).await;
        assert_eq!((refused.status(), &refused.headers()["content-type"]), (StatusCode::FORBIDDEN, &problem_details()));
        assert_eq!(
            answered("/ws", async { StatusCode::SWITCHING_PROTOCOLS.into_response() }).await.status(),
            StatusCode::SWITCHING_PROTOCOLS
        );
    }

    fn problem_details() -> HeaderValue {
        HeaderValue::from_static("application/problem+json")
    }

    #[tokio::test]
    async fn pages_and_answers_stay_as_they_are() {
        assert_eq!(ask("GET", "/page", Body::empty()).await.1, "<p>gone");
        assert_eq!(ask("GET", "/readyz", Body::empty()).await.1, r#"{"ready":false}"#);
        assert_eq!(ask("GET", "/good", Body::empty()).await.1, "good");
    }

    #[tokio::test]
    async fn older_clients_read_what_they_always_did() {
        let (parts, body) = ask("GET", "/api/v1/communications/panics", Body::empty()).await;
        assert_eq!((parts.status.as_u16(), &parts.headers["content-type"]), (500, &HeaderValue::from_static("application/json")));
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), json!({ "error": PANICKED, "code": "panicked" }));
        let (_, body) = ask("GET", "/api/v1/communications/json", Body::empty()).await;
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), json!({ "error": "taken", "code": "conflict" }));
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_told_as_such() {
        let late = BodyTimedOut(std::time::Duration::from_secs(3));
        let body = Body::from_stream(futures_util::stream::iter([Err::<axum::body::Bytes, _>(late)]));
        let (parts, text) = ask("POST", "/read", body).await;
        assert_eq!(parts.status, StatusCode::REQUEST_TIMEOUT);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["code"], "body_timed_out");
    }
}
