//! Answers of the public routes, in the shape existing clients read (`error`), with ours beside it (`code`).

use axum::{
    Json,
    extract::rejection::{JsonRejection, QueryRejection},
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::store::StoreError;

pub(super) fn error(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({ "error": message, "code": code }))).into_response()
}

pub(super) fn not_found() -> Response {
    error(StatusCode::NOT_FOUND, "not_found", "No such notification of yours.")
}

pub(super) fn unavailable(problem: &StoreError) -> Response {
    let mut response = error(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &problem.to_string());
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

pub(super) fn bad_body(rejected: &JsonRejection) -> Response {
    error(rejected.status(), "invalid", &rejected.body_text())
}

pub(super) fn bad_query(rejected: &QueryRejection) -> Response {
    error(StatusCode::BAD_REQUEST, "invalid", &rejected.body_text())
}
