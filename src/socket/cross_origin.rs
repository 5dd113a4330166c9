//! What lets web pages elsewhere read the answers of the public routes (CORS, as the Fetch Standard has it): those that may open sockets.

use axum::{
    body::Body,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, Method, StatusCode,
        header::{
            ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
            ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
        },
    },
    middleware::Next,
    response::Response,
};

use super::upgrade::OriginPolicy;

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE");
const HEADERS: HeaderValue = HeaderValue::from_static("authorization, content-type");
/// Seconds a browser may keep the answer to its question; none keeps it longer than two hours.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// Middleware around routes that pages use. Pages that may not are answered as if there were no such rule: their browser keeps the answer
/// from them.
pub async fn cross_origin(State(origins): State<OriginPolicy>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(ORIGIN).filter(|_| origins.allows(request.headers())).cloned();
    let asks_first = request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match &origin {
        Some(_) if asks_first => permission(),
        _ => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.append(VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin {
        allow(headers, origin);
    }
    response
}

fn permission() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    response
}

fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
}

#[cfg(test)]
mod tests {
    use axum::{Router, http, middleware, routing::post};
    use tower::ServiceExt as _;

    use super::*;

    async fn answer(method: &str, headers: &[(&str, &str)]) -> (u16, Option<String>) {
        let origins = OriginPolicy::new(&["https://app.example.com".to_owned()], None);
        let app = Router::new().route("/", post(async || "done")).layer(middleware::from_fn_with_state(origins, cross_origin));
        let mut request = http::Request::builder().method(method).uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.headers()[VARY], "origin");
        let allowed = response.headers().get(ACCESS_CONTROL_ALLOW_ORIGIN).map(|origin| origin.to_str().unwrap().to_owned());
        (response.status().as_u16(), allowed)
    }

    #[tokio::test]
    async fn allowed_pages_may_ask_and_read() {
        let origin = ("origin", "https://app.example.com");
        let asks = ("access-control-request-method", "POST");
        let allowed = Some("https://app.example.com".to_owned());
        assert_eq!(answer("OPTIONS", &[origin, asks]).await, (204, allowed.clone()));
        assert_eq!(answer("POST", &[origin]).await, (200, allowed));
        assert_eq!(answer("POST", &[]).await, (200, None));
        let foreign = ("origin", "https://evil.example");
        assert_eq!(answer("OPTIONS", &[foreign, asks]).await, (405, None));
        assert_eq!(answer("POST", &[foreign]).await, (200, None));
    }
}
