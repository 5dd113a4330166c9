//! The one page an operator watches, and its two files.

use std::sync::Arc;

use axum::{
    Router,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};

use super::AdminState;

pub(super) fn router() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/", get(async || file("text/html; charset=utf-8", include_str!("console/console.html"))))
        .route("/console.css", get(async || file("text/css; charset=utf-8", include_str!("console/console.css"))))
        .route("/console.js", get(async || file("text/javascript; charset=utf-8", include_str!("console/console.js"))))
}

fn file(content_type: &'static str, content: &'static str) -> Response {
    ([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-cache")], content).into_response()
}
