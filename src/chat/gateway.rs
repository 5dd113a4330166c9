//! `/ws/chat/<conversation>/`: who may open it, and where its client was.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, Request, State},
    http::Uri,
    response::Response,
    routing::any,
};

use super::{
    protocol::{Conversation, Since},
    service::Chat,
};
use crate::{
    event::{Event, emit},
    model::{ConversationId, Timestamp},
    socket::{Home, query_value},
};

const NOT_YOURS: &str = "no such conversation of yours";

pub(super) fn router() -> Router<Arc<Chat>> {
    Router::new().route("/ws/chat/{id}", any(connect)).route("/ws/chat/{id}/", any(connect))
}

async fn connect(State(chat): State<Arc<Chat>>, id: Path<String>, request: Request) -> Response {
    let (mut parts, _body) = request.into_parts();
    let since = match since(&parts.uri) {
        Ok(since) => since,
        Err(problem) => return chat.gate.refuse_position(&mut parts, &problem),
    };
    let now = Timestamp::now();
    let caller = match chat.gate.answer(&mut parts, since.is_some(), now).await {
        Ok(caller) => caller,
        Err(refusal) => return refusal,
    };
    let Ok(id) = id.parse::<ConversationId>() else { return chat.gate.turn_away(caller, NOT_YOURS) };
    let user = caller.identity.user_id.clone();
    let members = match chat.members.get(&chat.store, id).await {
        Ok(members) => members,
        Err(error) => {
            emit(&Event::StoreFailed { doing: "reading who takes part in a conversation", error: &error.to_string() });
            return chat.gate.put_off();
        }
    };
    if members.present(&user).is_none() {
        return chat.gate.turn_away(caller, NOT_YOURS);
    }
    let admission = match chat.gate.let_in(caller, Home::Conversation(id), now) {
        Ok(admission) => admission,
        Err(refusal) => return refusal,
    };
    // Who was let go of in between was not here to be found.
    if !matches!(chat.members.get(&chat.store, id).await, Ok(members) if members.present(&user).is_some()) {
        return chat.gate.put_off();
    }
    let (identity, v1, subscriber) = (admission.identity.clone(), admission.v1, admission.subscriber());
    let protocol = Conversation::new(chat.clone(), id, identity, v1, subscriber, since);
    admission.start(protocol, |_, _| String::new())
}

fn since(uri: &Uri) -> Result<Option<Since>, String> {
    let Some(since) = query_value(uri, "since") else { return Ok(None) };
    let event =
        since.parse::<u32>().map_err(|_| format!("since: {since:?} is no event number; hint: the `seq` of the last frame you have"))?;
    Ok(Some(Since { event: event.into(), epoch: query_value(uri, "epoch") }))
}
