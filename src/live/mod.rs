//! What the live notifications socket says, and where it is found.
//!
//! Frames only: who is let in, queues and closing are `socket`'s, and a notification is in the inbox before it comes here.

mod notifications;
pub mod push_tokens;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    response::Response,
    routing::any,
};

use crate::{model::Timestamp, socket::Gate};

#[derive(Clone, Debug)]
pub struct LiveState {
    pub gate: Arc<Gate>,
}

/// `/ws/notifications`, with and without the trailing slash.
pub fn router(state: LiveState) -> Router {
    Router::new().route("/ws/notifications", any(connect)).route("/ws/notifications/", any(connect)).with_state(state)
}

async fn connect(State(state): State<LiveState>, request: Request) -> Response {
    let (mut parts, _body) = request.into_parts();
    match state.gate.admit(&mut parts, Timestamp::now()) {
        Ok(admission) => {
            let ping_interval = state.gate.session_settings().ping_interval;
            let hello = admission.v1.then(|| notifications::hello_frame(&admission.identity.user_id, ping_interval));
            admission.start(hello, notifications::answer)
        }
        Err(refusal) => refusal,
    }
}

#[cfg(test)]
mod tests;
