//! `/v1/conversations`, `/v1/messages`, `/v1/chat`: what a backend and operators do with the chat.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Extension, Json, Router,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    middleware,
    routing::{delete, get, patch, post},
};
use serde::Serialize;

use super::{AdminState, Caller, query::Parameters};
use crate::{
    chat::{
        Chat, ConversationMaking, ConversationRecord, NotMade, ParticipantsChange, SystemNotice,
        rotate::{self, RotationStep},
    },
    event::{Event, emit},
    intake::problem_details::ProblemDetails,
    model::{ConversationId, MessageId, Problem, Timestamp, UserId},
    socket::{BodyLimit, Document, json_only},
    store::{CONVERSATIONS_PAGE_LIMIT, ConversationCursor, ConversationFilter},
};

/// Conversations on a page when nothing else is asked for.
const PAGE_DEFAULT: usize = 50;
/// Bytes of a body here: as many participants as may be, with their names.
const BODY_LIMIT: BodyLimit = BodyLimit::new(512 << 10);

pub(super) fn router() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/v1/conversations", get(list).post(make))
        .route("/v1/conversations/{id}", get(show))
        .route("/v1/conversations/{id}/participants", patch(change_participants))
        .route("/v1/conversations/{id}/notify", post(notify))
        .route("/v1/messages/{id}", delete(take_down))
        .route("/v1/chat/rotate-keys", post(rotate_keys).route_layer(middleware::from_fn(json_only)))
        .layer(Extension(BODY_LIMIT))
}

fn chat(state: &AdminState) -> Result<&Arc<Chat>, ProblemDetails> {
    state.chat.as_ref().ok_or_else(|| {
        let detail = "there is no chat here; hint: set `chat.encryption_keys_file`";
        ProblemDetails::new(StatusCode::CONFLICT, "chat_off", detail)
    })
}

/// Makes a conversation; 200 when the same key has made the same before.
async fn make(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Document(making): Document<ConversationMaking>,
) -> Result<(StatusCode, Json<ConversationRecord>), ProblemDetails> {
    let chat = chat(&state)?;
    let beside = headers.get("idempotency-key").map(|key| String::from_utf8_lossy(key.as_bytes()).into_owned());
    let making = making.with_key(beside).map_err(|problem| ProblemDetails::invalid(vec![problem]))?;
    let (made, repeated) = chat.make(making).await?;
    if repeated {
        return Ok((StatusCode::OK, Json(made)));
    }
    emit(&Event::ChatOperated { by: &caller.0, what: "conversation made", conversation: made.id().0, message: None });
    Ok((StatusCode::CREATED, Json(made)))
}

#[derive(Serialize)]
struct ListAnswer {
    conversations: Vec<ConversationRecord>,
    next_cursor: Option<String>,
}

/// Somebody's, the most active first.
async fn list(
    State(state): State<Arc<AdminState>>,
    Query(given): Query<BTreeMap<String, String>>,
) -> Result<Json<ListAnswer>, ProblemDetails> {
    let chat = chat(&state)?;
    let mut parameters = Parameters::new(given);
    let user = parameters.take::<UserId>("user_id");
    let hidden = parameters.take::<Flag>("hidden").is_some_and(|flag| flag.0);
    let before = parameters.take::<Cursor>("cursor").map(|cursor| cursor.0);
    let limit = parameters.take_limit(PAGE_DEFAULT, CONVERSATIONS_PAGE_LIMIT);
    parameters.finish()?;
    let Some(user) = user else {
        return Err(ProblemDetails::invalid(vec![Problem::new("user_id", "`user_id` is missing", "add ?user_id=42")]));
    };
    let page = chat.records(user, ConversationFilter { hidden, before, limit, ..ConversationFilter::default() }).await?;
    Ok(Json(ListAnswer {
        next_cursor: page.next.map(|next| format!("{}-{}", next.activity.as_millis(), next.id)),
        conversations: page.conversations.into_iter().map(Into::into).collect(),
    }))
}

async fn show(State(state): State<Arc<AdminState>>, Path(id): Path<String>) -> Result<Json<ConversationRecord>, ProblemDetails> {
    Ok(Json(chat(&state)?.record(conversation_id(&id)?).await?))
}

async fn change_participants(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Document(change): Document<ParticipantsChange>,
) -> Result<Json<ConversationRecord>, ProblemDetails> {
    let (chat, id) = (chat(&state)?, conversation_id(&id)?);
    let changed = chat.change_participants(id, change).await?;
    emit(&Event::ChatOperated { by: &caller.0, what: "participants changed", conversation: id.0, message: None });
    Ok(Json(changed))
}

/// It is shown to who has the conversation open, and kept nowhere.
async fn notify(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Document(notice): Document<SystemNotice>,
) -> Result<StatusCode, ProblemDetails> {
    let (chat, id) = (chat(&state)?, conversation_id(&id)?);
    chat.show_notice(id, notice).await?;
    emit(&Event::ChatOperated { by: &caller.0, what: "notice shown", conversation: id.0, message: None });
    Ok(StatusCode::ACCEPTED)
}

/// For everyone, whoever wrote it.
async fn take_down(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<StatusCode, ProblemDetails> {
    let chat = chat(&state)?;
    let id: MessageId = id.parse().map_err(|told: String| bad_id(&told))?;
    let (conversation, is_news) = chat.take_down(id).await.map_err(|refused| match refused {
        NotMade::NotFound => ProblemDetails::not_found(format!("there is no message {id}")),
        refused => refused.into(),
    })?;
    if is_news {
        emit(&Event::ChatOperated { by: &caller.0, what: "message deleted", conversation: conversation.0, message: Some(id.0) });
    }
    Ok(StatusCode::NO_CONTENT)
}

/// A step is short; whoever wants all of it asks until it says that it is done. Asked at the same time by two, no message is lost: what one
/// has sealed anew, the other finds so.
async fn rotate_keys(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<RotationStep>, ProblemDetails> {
    let step = rotate::step(&state.store, chat(&state)?.keys()).await?;
    if step.done {
        emit(&Event::ChatKeysRotated { by: &caller.0 });
    }
    Ok(Json(step))
}

fn conversation_id(text: &str) -> Result<ConversationId, ProblemDetails> {
    text.parse().map_err(|told: String| bad_id(&told))
}

fn bad_id(told: &str) -> ProblemDetails {
    let (problem, hint) = told.split_once("; hint: ").unwrap_or((told, ""));
    ProblemDetails::invalid(vec![Problem::new("id", problem, hint)])
}

impl From<NotMade> for ProblemDetails {
    fn from(refused: NotMade) -> Self {
        match refused {
            NotMade::Invalid(problems) => Self::invalid(problems),
            NotMade::KeyConflict(id) => {
                let detail = format!("this key made conversation {id} in other words; hint: use a new key for another conversation");
                Self::new(StatusCode::CONFLICT, "key_conflict", detail)
            }
            NotMade::NotFound => Self::not_found("there is no such conversation"),
            NotMade::Full(limit) => {
                let detail = format!("more than {limit} would take part (chat.participants_limit)");
                Self::new(StatusCode::CONFLICT, "conversation_full", detail)
            }
            NotMade::Store(error) => error.into(),
        }
    }
}

/// `true` or `false`.
struct Flag(bool);

impl std::str::FromStr for Flag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| "neither; hint: true or false".to_owned())
    }
}

/// Where a page of conversations ended.
struct Cursor(ConversationCursor);

impl std::str::FromStr for Cursor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = text.split_once('-').and_then(|(activity, id)| {
            Some(ConversationCursor { activity: Timestamp::from_millis(activity.parse().ok()?), id: id.parse().ok()? })
        });
        read.map(Self).ok_or_else(|| "not a cursor; hint: use `next_cursor` of the page before".to_owned())
    }
}
