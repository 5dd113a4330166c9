//! The live notifications: what sockets and server-sent events say, and the inbox and topics over HTTP.
//!
//! A notification is in its stream before it comes here; who is let in, queues and closing are `socket`'s.

mod command;
mod frames;
mod inbox;
mod legacy;
mod openapi;
mod position;
mod protocol;
pub mod push_tokens;
mod respond;
pub mod tickets;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri, request::Parts},
    middleware,
    response::Response,
    routing::{any, get},
};

use self::protocol::Notifications;
pub use self::{openapi::operations, position::Position};
use crate::{
    channel::live::unread_frame,
    model::{Stream, Timestamp, Topic, TopicPattern, UserId},
    socket::{Admission, Authenticator, Bus, Gate, Identity, OriginPolicy, cross_origin, query_value, query_values, require_user},
    store::{Changed, Chosen, ItemChange, Store, StoreError},
};

/// How the notifications protocol behaves.
#[derive(Clone, Debug)]
pub struct LiveSettings {
    pub ping_interval: Duration,
    /// Items told again after a reconnect, at most; beyond it the client is told to load the list.
    pub replay_limit: u32,
    /// Topics anybody may follow.
    pub public_topics: Vec<TopicPattern>,
}

/// What every connection of this kind shares.
#[derive(Debug)]
pub struct Live {
    pub store: Store,
    pub bus: Bus,
    pub gate: Gate,
    pub authenticator: Arc<Authenticator>,
    pub settings: LiveSettings,
}

impl Live {
    /// Whether `identity` may follow `topic`.
    fn may_follow(&self, identity: &Identity, topic: &Topic) -> bool {
        *topic == Topic::everyone()
            || self.settings.public_topics.iter().any(|public| public.allows(topic))
            || identity.permits_topic(topic.as_str())
    }

    /// Changes items of a user, and tells all of the user's devices.
    async fn change(&self, identity: &Identity, chosen: Chosen, change: ItemChange) -> Result<Changed, StoreError> {
        let changed = self.store.change_items(identity.user_id.clone(), chosen, change).await?;
        self.tell_changed(&identity.user_id, change, &changed);
        Ok(changed)
    }

    /// Tells the user's devices what changed.
    fn tell_changed(&self, user: &UserId, change: ItemChange, changed: &Changed) {
        let stream = Stream::User(user.clone());
        if changed.ids.is_empty() || !self.bus.is_followed(&stream) {
            return;
        }
        self.bus.publish(&stream, &Arc::new(frames::changed(change, changed)));
        self.bus.publish(&stream, &Arc::new(unread_frame(changed.unread)));
    }
}

/// Where the notifications socket is, for who answers there past the router.
pub const SOCKET_PATHS: [&str; 2] = ["/ws/notifications", "/ws/notifications/"];

/// `/ws/notifications/`, `/sse/notifications`, and the inbox and topics over HTTP. `origins` are the pages that may use the latter.
pub fn router(live: Arc<Live>, origins: OriginPolicy) -> Router {
    let of_users = Router::new()
        .merge(inbox::router())
        .merge(legacy::router())
        .layer(middleware::from_fn_with_state(live.authenticator.clone(), require_user))
        .layer(middleware::from_fn_with_state(origins, cross_origin));
    Router::new()
        .route("/ws/notifications", any(connect))
        .route("/ws/notifications/", any(connect))
        .route("/sse/notifications", get(events))
        .route("/sse/notifications/", get(events))
        .merge(of_users)
        .with_state(live)
}

async fn connect(State(live): State<Arc<Live>>, request: Request) -> Response {
    open_socket(live, request.into_parts().0).await
}

/// Answers who asks for the notifications socket.
pub async fn open_socket(live: Arc<Live>, mut parts: Parts) -> Response {
    let position = match position(&parts.uri) {
        Ok(position) => position,
        Err(problem) => return live.gate.refuse_position(&mut parts, &problem),
    };
    match live.gate.admit(&mut parts, position.is_given(), Timestamp::now()).await {
        Ok(admission) => start(&live, admission, position),
        Err(refusal) => refusal,
    }
}

async fn events(State(live): State<Arc<Live>>, request: Request) -> Response {
    let (mut parts, _body) = request.into_parts();
    let position = match position(&parts.uri) {
        // The browser's own word is the newer one.
        Ok(asked) => last_event(&parts.headers, &parts.uri).map_or_else(|| asked.clone(), |last| last.with_topics_of(asked.clone())),
        Err(problem) => return respond::error(StatusCode::BAD_REQUEST, "invalid", &problem),
    };
    match live.gate.admit_events(&mut parts, Timestamp::now()).await {
        Ok(admission) => start(&live, admission, position),
        Err(refusal) => refusal,
    }
}

fn start(live: &Arc<Live>, admission: Admission, position: Position) -> Response {
    let (identity, v1, subscriber) = (admission.identity.clone(), admission.v1, admission.subscriber());
    let protocol = Notifications::new(live.clone(), identity, v1, subscriber, position);
    admission.start(protocol, Notifications::mark)
}

fn position(uri: &Uri) -> Result<Position, String> {
    let (since, epoch) = (query_value(uri, "since"), query_value(uri, "epoch"));
    Position::from_query(since.as_deref(), epoch.as_deref(), query_values(uri, "topic"))
}

fn last_event(headers: &HeaderMap, uri: &Uri) -> Option<Position> {
    let in_header = headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    // For readers that cannot set headers.
    in_header.or_else(|| query_value(uri, "last_event_id")).and_then(|id| Position::from_event_id(&id))
}

#[cfg(test)]
mod tests;
