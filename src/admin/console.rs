//! The pages an operator and a writer of templates look at, and their files.

use std::sync::Arc;

use axum::{
    Router,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::AdminState;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
/// The page of templates shows mails in a frame without an address, which inherits this. Their styles stand in the mail itself, and their
/// pictures lie elsewhere; the page's own scripts write neither.
const TEMPLATES_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src data: https: http:; \
                                connect-src 'self'; frame-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

pub(super) fn router() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/", get(async || file(HTML, include_str!("console/console.html"))))
        .route("/templates", get(templates))
        .route("/console.css", get(async || file(CSS, include_str!("console/console.css"))))
        .route("/templates.css", get(async || file(CSS, include_str!("console/templates.css"))))
        .route("/page.js", get(async || file(JAVASCRIPT, include_str!("console/page.js"))))
        .route("/console.js", get(async || file(JAVASCRIPT, include_str!("console/console.js"))))
        .route("/templates.js", get(async || file(JAVASCRIPT, include_str!("console/templates.js"))))
}

async fn templates() -> Response {
    let mut response = file(HTML, include_str!("console/templates.html"));
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(TEMPLATES_POLICY));
    response
}

fn file(content_type: &'static str, content: &'static str) -> Response {
    ([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-cache")], content).into_response()
}
