//! What the outbox captured.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{Path, Query, State},
    http::{HeaderValue, header},
    response::{Html, IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{AdminState, query::Parameters};
use crate::{
    intake::problem_details::ProblemDetails,
    model::{Channel, Problem, UserId},
};

/// Messages on a page when nothing else is asked for, and the most there can be.
const LIST_DEFAULT: usize = 50;
const LIST_LIMIT: usize = 500;

pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    Query(given): Query<BTreeMap<String, String>>,
) -> Result<Json<Value>, ProblemDetails> {
    let mut parameters = Parameters::new(given);
    let channel = parameters.take::<Channel>("channel");
    let user = parameters.take::<UserId>("user");
    let limit = parameters.take_limit(LIST_DEFAULT, LIST_LIMIT);
    parameters.finish()?;
    let messages = state.outbox.list(limit, |message| {
        channel.is_none_or(|channel| message.channel == channel) && user.as_ref().is_none_or(|user| message.user_id.as_ref() == Some(user))
    });
    let messages: Vec<Value> = messages.iter().filter_map(|message| serde_json::to_value(&**message).ok()).collect();
    Ok(Json(json!({ "messages": messages })))
}

/// A captured mail's HTML, for a sandboxed frame: it may style itself and do nothing else.
pub(super) async fn html(State(state): State<Arc<AdminState>>, Path(id): Path<String>) -> Result<Response, ProblemDetails> {
    let id = id
        .parse()
        .map_err(|_| ProblemDetails::invalid(vec![Problem::new("id", "not the number of a message", "take an `id` of GET /v1/outbox")]))?;
    let message = state.outbox.get(id).ok_or_else(|| ProblemDetails::not_found("this message is no longer kept"))?;
    let html = message.html.clone().ok_or_else(|| ProblemDetails::not_found("this message has no HTML"))?;
    let mut response = Html(html).into_response();
    let policy = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'";
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    Ok(response)
}
