//! `/api/v1/communications/`: conversations, their messages and blocks over HTTP, as clients of the replaced system know them, with what is
//! new beside it.

mod blocks;
mod conversations;
mod messages;

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::rejection::QueryRejection,
    http::{HeaderValue, StatusCode, Uri, header::RETRY_AFTER},
    response::{IntoResponse, Response},
    routing::{MethodRouter, delete, get, post},
};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

pub(super) use self::{
    blocks::BlockView,
    conversations::{StartRequest, UnreadCount},
    messages::{Editing, Marked, Marking, SendRequest},
};
use super::{error::ChatError, service::Chat};
use crate::{
    model::{ConversationId, MessageId, Problem},
    socket::{BodyLimit, query_problem},
    store::StoreError,
};

pub(super) const ROOT: &str = "/api/v1/communications";
/// Bytes of a body here: the longest text, with as many attachments as may be.
const BODY_LIMIT: BodyLimit = BodyLimit::new(512 << 10);
/// Seconds after which whoever was put off may try again.
const RETRY_SECONDS: u64 = 1;

pub(super) fn router() -> Router<Arc<Chat>> {
    let paths: [(&str, MethodRouter<Arc<Chat>>); 16] = [
        ("conversations", get(conversations::list).post(conversations::start)),
        ("conversations/start_conversation", post(conversations::start)),
        ("conversations/unread_count", get(conversations::unread_count)),
        ("conversations/{id}", get(conversations::show).delete(conversations::leave)),
        ("conversations/{id}/hide", post(conversations::hide)),
        ("conversations/{id}/unhide", post(conversations::unhide)),
        ("conversations/{id}/mute", post(conversations::mute)),
        ("conversations/{id}/unmute", post(conversations::unmute)),
        ("conversations/{id}/rejoin", post(conversations::rejoin)),
        ("conversations/{id}/messages", get(messages::list)),
        ("conversations/{id}/send_message", post(messages::send)),
        ("conversations/{id}/mark_read", post(messages::mark_conversation)),
        ("messages/{id}", get(messages::show).patch(messages::edit).put(messages::edit).delete(messages::remove)),
        ("messages/{id}/mark_read", post(messages::mark)),
        ("blocks", get(blocks::list).post(blocks::add)),
        ("blocks/{user}", delete(blocks::remove)),
    ];
    let mut router = Router::new();
    for (path, methods) in paths {
        router = router.route(&format!("{ROOT}/{path}"), methods.clone()).route(&format!("{ROOT}/{path}/"), methods);
    }
    router.layer(Extension(BODY_LIMIT))
}

/// What a request was answered, when it was not done.
#[derive(Debug)]
enum NotDone {
    Chat(ChatError),
    Query(Problem),
}

type Answer = Result<Response, NotDone>;

impl From<ChatError> for NotDone {
    fn from(error: ChatError) -> Self {
        Self::Chat(error)
    }
}

impl From<StoreError> for NotDone {
    fn from(error: StoreError) -> Self {
        Self::Chat(error.into())
    }
}

impl From<QueryRejection> for NotDone {
    fn from(rejected: QueryRejection) -> Self {
        Self::Query(query_problem(&rejected))
    }
}

impl IntoResponse for NotDone {
    fn into_response(self) -> Response {
        match self {
            Self::Chat(error) => {
                let mut response = refusal(error.status(), error.code(), &error.to_string());
                let retry_after = match &error {
                    ChatError::TooMany(wait) => Some(wait.as_secs().max(RETRY_SECONDS)),
                    ChatError::HookUnavailable | ChatError::Store(_) => Some(RETRY_SECONDS),
                    _ => None,
                };
                if let Some(seconds) = retry_after {
                    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
                }
                response
            }
            Self::Query(problem) => {
                let body = json!({ "error": problem.to_string(), "code": "invalid", "problems": [problem] });
                (StatusCode::BAD_REQUEST, Json(body)).into_response()
            }
        }
    }
}

/// Every error, in the shape existing clients read, with a word for programs.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub(super) struct ErrorView<'a> {
    error: &'a str,
    code: &'a str,
}

fn refusal(status: StatusCode, code: &str, error: &str) -> Response {
    (status, Json(ErrorView { error, code })).into_response()
}

fn invalid(what: impl Into<String>) -> NotDone {
    NotDone::Chat(ChatError::Invalid(what.into()))
}

fn conversation_id(text: &str) -> Result<ConversationId, ChatError> {
    text.parse().map_err(|_| ChatError::NotFound("Conversation"))
}

fn message_id(text: &str) -> Result<MessageId, ChatError> {
    text.parse().map_err(|_| ChatError::NotFound("Message"))
}

/// A list in the shape of the replaced system's pages.
#[derive(Serialize)]
struct Envelope<T> {
    count: u64,
    next: Option<String>,
    previous: Option<String>,
    results: Vec<T>,
}

/// The number of things before a page, from 1; which does not exist when there is nothing on it, unless it is the first.
fn passed_over(page: usize, size: usize, count: u64) -> Result<usize, ChatError> {
    let skip = page.max(1).saturating_sub(1).saturating_mul(size);
    if skip > 0 && u64::try_from(skip).is_ok_and(|skip| skip >= count) { Err(ChatError::NotFound("Page")) } else { Ok(skip) }
}

/// The same request with another place in the list. The token stays out of it.
fn link(uri: &Uri, name: &str, value: &str) -> String {
    let kept = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
        .filter(|(name, _)| !matches!(&**name, "page" | "cursor" | "token"));
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(kept).append_pair(name, value);
    format!("{}?{}", uri.path(), query.finish())
}

/// An answer in which something is or is not new.
fn created<T: Serialize>(is_new: bool, body: T) -> Response {
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    (status, Json(body)).into_response()
}

fn done() -> Response {
    StatusCode::NO_CONTENT.into_response()
}
