//! `/api/v1/communications/notifications/`: the inbox as clients of the replaced system read it.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Live, respond};
use crate::{
    model::{InboxItem, Severity, Stream, Timestamp},
    socket::{BodyLimit, Document, Identity},
    store::{Chosen, INBOX_LIST_LIMIT, InboxFilter, ItemChange},
};

/// Items in a page of the envelope, as the replaced system had it.
const PAGE: usize = 20;
const BODY_LIMIT: BodyLimit = BodyLimit::new(8 << 10);
const ROOT: &str = "/api/v1/communications/notifications";

pub(super) fn router() -> Router<Arc<Live>> {
    let mut router = Router::new();
    for end in ["", "/"] {
        router = router
            .route(&format!("{ROOT}{end}"), get(list))
            .route(&format!("{ROOT}/{{id}}{end}"), get(show).put(update).patch(update).delete(remove));
    }
    router.layer(Extension(BODY_LIMIT))
}

/// As the replaced system's serializer named it.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "Notification")]
pub(super) struct NotificationView<'a> {
    id: i64,
    user: Value,
    title: &'a str,
    message: &'a str,
    r#type: &'a str,
    severity: Severity,
    is_read: bool,
    created_at: Timestamp,
    related_object_id: &'a Option<Value>,
    related_object_type: &'a Option<String>,
    data: &'a Map<String, Value>,
}

impl<'a> NotificationView<'a> {
    fn of(item: &'a InboxItem) -> Self {
        let notification = &item.notification;
        Self {
            id: item.id,
            user: match &item.place.stream {
                Stream::User(user) => user.to_wire(),
                Stream::Topic(_) | Stream::Conversation(_) => Value::Null,
            },
            title: &notification.title,
            message: &notification.message,
            r#type: &notification.kind,
            severity: notification.severity,
            is_read: item.read_at.is_some(),
            created_at: item.created_at,
            related_object_id: &notification.related_object_id,
            related_object_type: &notification.related_object_type,
            data: &notification.data,
        }
    }
}

#[derive(Deserialize)]
struct Listing {
    page: Option<usize>,
    cursor: Option<i64>,
    page_size: Option<usize>,
}

/// A bare array, newest first; with `page` or `cursor` in the query the envelope that some clients read.
async fn list(
    State(live): State<Arc<Live>>,
    Extension(identity): Extension<Identity>,
    uri: Uri,
    listing: Result<Query<Listing>, QueryRejection>,
) -> Response {
    let listing = match listing {
        Ok(Query(listing)) => listing,
        Err(rejected) => return respond::bad_query(&rejected),
    };
    let size = listing.page_size.unwrap_or(PAGE).clamp(1, INBOX_LIST_LIMIT);
    let filter = InboxFilter { limit: INBOX_LIST_LIMIT, ..InboxFilter::default() };
    let items = match live.store.inbox(identity.user_id, filter).await {
        Ok(page) => page.items,
        Err(error) => return respond::unavailable(&error),
    };
    let views = |items: &[InboxItem]| items.iter().map(|item| json!(NotificationView::of(item))).collect::<Vec<_>>();
    let (page, start) = match (listing.page, listing.cursor) {
        (None, None) => return Json(views(&items)).into_response(),
        (page, None) => (page, page.unwrap_or(1).max(1).saturating_sub(1).saturating_mul(size)),
        (page, Some(cursor)) => (page, items.iter().position(|item| item.place.seq < cursor).unwrap_or(items.len())),
    };
    if start > 0 && start >= items.len() && listing.cursor.is_none() {
        return respond::error(StatusCode::NOT_FOUND, "not_found", "Invalid page.");
    }
    let end = start.saturating_add(size).min(items.len());
    let link = |name: &str, value: String| format!("{}?{name}={value}", uri.path());
    let next = (end < items.len()).then(|| match page {
        Some(page) if listing.cursor.is_none() => link("page", (page + 1).to_string()),
        _ => link("cursor", items[end - 1].place.seq.to_string()),
    });
    let previous = page.filter(|page| *page > 1 && listing.cursor.is_none()).map(|page| link("page", (page - 1).to_string()));
    Json(json!({ "count": items.len(), "next": next, "previous": previous, "results": views(&items[start..end]) })).into_response()
}

async fn show(State(live): State<Arc<Live>>, Extension(identity): Extension<Identity>, Path(id): Path<String>) -> Response {
    let id = match respond::item_id(&id) {
        Ok(id) => id,
        Err(refusal) => return refusal,
    };
    match live.store.inbox_item(identity.user_id, id).await {
        Ok(Some(item)) => Json(NotificationView::of(&item)).into_response(),
        Ok(None) => respond::not_found(),
        Err(error) => respond::unavailable(&error),
    }
}

/// What of a whole notification sent back may differ.
#[derive(Deserialize, schemars::JsonSchema)]
#[schemars(rename = "NotificationUpdate")]
pub(super) struct Update {
    is_read: Option<bool>,
}

async fn update(
    state: State<Arc<Live>>,
    identity: Extension<Identity>,
    path: Path<String>,
    Document(update): Document<Update>,
) -> Response {
    let id = match respond::item_id(&path) {
        Ok(id) => id,
        Err(refusal) => return refusal,
    };
    let Some(is_read) = update.is_read else {
        return respond::error(StatusCode::BAD_REQUEST, "invalid", "`is_read` is missing; hint: {\"is_read\": true}");
    };
    let change = if is_read { ItemChange::Read } else { ItemChange::Unread };
    match state.change(&identity, Chosen::Ids(vec![id]), change).await {
        Ok(changed) if changed.found == 0 => respond::not_found(),
        Ok(_) => show(state, identity, path).await,
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
