//! `/v1/inbox` and `/v1/topics`: the inbox and the topics over HTTP, for a user's own clients.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Live, respond};
use crate::{
    model::{InboxItem, Severity, Timestamp, Topic},
    socket::{BodyLimit, Document, Identity, Unreadable},
    store::{CHANGE_LIMIT, Chosen, InboxFilter, InboxPage, ItemChange},
};

/// Items in a page unless asked otherwise.
const PAGE: usize = 50;
/// Bytes of a body here: the ids of a change.
const BODY_LIMIT: BodyLimit = BodyLimit::new(64 << 10);

pub(super) fn router() -> Router<Arc<Live>> {
    Router::new()
        .route("/v1/inbox", get(list))
        .route("/v1/inbox/items/{id}", get(show).delete(remove))
        .route("/v1/inbox/{change}", post(change))
        .route("/v1/topics/{topic}/items", get(topic_items))
        .layer(Extension(BODY_LIMIT))
}

/// An item as these routes show it.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "InboxItem")]
pub(super) struct ItemView<'a> {
    id: i64,
    seq: i64,
    kind: &'a str,
    title: &'a str,
    message: &'a str,
    severity: Severity,
    related_object_id: &'a Option<Value>,
    related_object_type: &'a Option<String>,
    data: &'a Map<String, Value>,
    created_at: Timestamp,
    #[serde(flatten)]
    state: Option<ItemState>,
}

/// When the user did so.
#[derive(Serialize, schemars::JsonSchema)]
struct ItemState {
    #[serde(rename = "seen_at")]
    seen: Option<Timestamp>,
    #[serde(rename = "read_at")]
    read: Option<Timestamp>,
    #[serde(rename = "archived_at")]
    archived: Option<Timestamp>,
}

impl<'a> ItemView<'a> {
    fn of(item: &'a InboxItem, has_state: bool) -> Self {
        let notification = &item.notification;
        Self {
            id: item.id,
            seq: item.place.seq,
            kind: &notification.kind,
            title: &notification.title,
            message: &notification.message,
            severity: notification.severity,
            related_object_id: &notification.related_object_id,
            related_object_type: &notification.related_object_type,
            data: &notification.data,
            created_at: item.created_at,
            state: has_state.then_some(ItemState { seen: item.seen_at, read: item.read_at, archived: item.archived_at }),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    /// Of the page before.
    cursor: Option<i64>,
    limit: Option<usize>,
    /// Only unread ones, or only read ones.
    unread: Option<bool>,
    #[serde(default)]
    archived: bool,
    // Ways to bring a token that are read elsewhere.
    #[serde(rename = "token")]
    _token: Option<String>,
}

async fn list(
    State(live): State<Arc<Live>>,
    Extension(identity): Extension<Identity>,
    listing: Result<Query<Listing>, QueryRejection>,
) -> Response {
    let listing = match listing {
        Ok(Query(listing)) => listing,
        Err(rejected) => return respond::bad_query(&rejected),
    };
    let filter = InboxFilter {
        read: listing.unread.map(|unread| !unread),
        archived: listing.archived,
        before: listing.cursor,
        limit: listing.limit.unwrap_or(PAGE),
    };
    match live.store.inbox(identity.user_id, filter).await {
        Ok(page) => page_of(&live, &page, true),
        Err(error) => respond::unavailable(&error),
    }
}

fn page_of(live: &Live, page: &InboxPage, has_state: bool) -> Response {
    let items: Vec<_> = page.items.iter().map(|item| ItemView::of(item, has_state)).collect();
    let mut body = json!({
        "items": items,
        "next_cursor": page.next_before,
        "seq": page.head.seq,
        "epoch": **live.store.epoch(),
    });
    if has_state {
        body["unread"] = page.head.unread.into();
    }
    Json(body).into_response()
}

async fn show(State(live): State<Arc<Live>>, Extension(identity): Extension<Identity>, Path(id): Path<String>) -> Response {
    let id = match respond::item_id(&id) {
        Ok(id) => id,
        Err(refusal) => return refusal,
    };
    match live.store.inbox_item(identity.user_id, id).await {
        Ok(Some(item)) => Json(ItemView::of(&item, true)).into_response(),
        Ok(None) => respond::not_found(),
        Err(error) => respond::unavailable(&error),
    }
}

async fn remove(State(live): State<Arc<Live>>, Extension(identity): Extension<Identity>, Path(id): Path<String>) -> Response {
    let id = match respond::item_id(&id) {
        Ok(id) => id,
        Err(refusal) => return refusal,
    };
    match live.change(&identity, Chosen::Ids(vec![id]), ItemChange::Delete).await {
        Ok(changed) if changed.found == 0 => respond::not_found(),
        Ok(_) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => respond::unavailable(&error),
    }
}

/// Which items a change is about: exactly one of these.
#[derive(Deserialize, schemars::JsonSchema)]
#[schemars(rename = "InboxSelection")]
#[serde(deny_unknown_fields)]
pub(super) struct Selection {
    ids: Option<Vec<i64>>,
    /// All up to this seq.
    up_to: Option<i64>,
    #[serde(default)]
    all: bool,
}

impl Selection {
    fn chosen(self) -> Result<Chosen, String> {
        let hint = "hint: {\"ids\": [1, 2]}, {\"up_to\": 17} with a seq, or {\"all\": true}";
        match (self.ids, self.up_to, self.all) {
            (Some(ids), None, false) if ids.len() > CHANGE_LIMIT => Err(format!("{} ids; at most {CHANGE_LIMIT} at once", ids.len())),
            (Some(ids), None, false) => Ok(Chosen::Ids(ids)),
            (None, Some(seq), false) => Ok(Chosen::UpTo(seq)),
            (None, None, true) => Ok(Chosen::All),
            (None, None, false) => Err(format!("which notifications? {hint}")),
            _ => Err(format!("more than one of `ids`, `up_to` and `all`; {hint}")),
        }
    }
}

async fn change(
    State(live): State<Arc<Live>>,
    Extension(identity): Extension<Identity>,
    Path(change): Path<String>,
    selection: Result<Document<Selection>, Unreadable>,
) -> Response {
    let Some(change) = ItemChange::ALL.into_iter().find(|known| known.as_str() == change) else {
        let known = ItemChange::ALL.map(ItemChange::as_str).join(", ");
        return respond::error(StatusCode::NOT_FOUND, "not_found", &format!("no such change; one of {known}"));
    };
    let chosen = match selection {
        Ok(Document(selection)) => selection.chosen(),
        Err(unreadable) => return unreadable.into_response(),
    };
    let chosen = match chosen {
        Ok(chosen) => chosen,
        Err(problem) => return respond::error(StatusCode::BAD_REQUEST, "invalid", &problem),
    };
    match live.change(&identity, chosen, change).await {
        Ok(changed) => Json(json!({ "changed": changed.ids, "unread": changed.unread })).into_response(),
        Err(error) => respond::unavailable(&error),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TopicListing {
    cursor: Option<i64>,
    limit: Option<usize>,
    #[serde(rename = "token")]
    _token: Option<String>,
}

async fn topic_items(
    State(live): State<Arc<Live>>,
    Extension(identity): Extension<Identity>,
    Path(topic): Path<String>,
    listing: Result<Query<TopicListing>, QueryRejection>,
) -> Response {
    let topic: Topic = match topic.parse() {
        Ok(topic) => topic,
        Err(problem) => return respond::error(StatusCode::BAD_REQUEST, "invalid", &problem),
    };
    let listing = match listing {
        Ok(Query(listing)) => listing,
        Err(rejected) => return respond::bad_query(&rejected),
    };
    if !live.may_follow(&identity, &topic) {
        return respond::error(StatusCode::FORBIDDEN, "forbidden", &format!("You may not follow {topic}."));
    }
    match live.store.topic_items(topic, listing.cursor, listing.limit.unwrap_or(PAGE)).await {
        Ok(page) => page_of(&live, &page, false),
        Err(error) => respond::unavailable(&error),
    }
}
