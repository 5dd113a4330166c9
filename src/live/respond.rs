//! Answers of the public routes, in the shape existing clients read (`error`), with ours beside it (`code`).

use axum::{
    Json,
    extract::rejection::QueryRejection,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{model::Problem, socket::query_problem, store::StoreError};

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

pub(super) fn bad_query(rejected: &QueryRejection) -> Response {
    bad_request(&query_problem(rejected))
}

/// The number of a notification, from a path.
#[expect(clippy::result_large_err, reason = "the response is handed on at once")]
pub(super) fn item_id(text: &str) -> Result<i64, Response> {
    text.parse().map_err(|_| bad_request(&Problem::new("id", "not the number of a notification", "take an `id` of the list")))
}

fn bad_request(problem: &Problem) -> Response {
    let body = json!({ "error": problem.to_string(), "code": "invalid", "problems": [problem] });
    (StatusCode::BAD_REQUEST, Json(body)).into_response()
}
