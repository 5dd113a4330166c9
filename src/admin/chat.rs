//! `POST /v1/chat/rotate-keys`: one step of sealing every message with the first key.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode};

use super::{AdminState, Caller};
use crate::{
    chat::rotate::{self, RotationStep},
    event::{Event, emit},
    intake::problem_details::ProblemDetails,
};

/// A step is short; whoever wants all of it asks until it says that it is done. Asked at the same time by two, no message is lost: what one
/// has sealed anew, the other finds so.
pub(super) async fn rotate_keys(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<RotationStep>, ProblemDetails> {
    let Some(chat) = &state.chat else {
        let detail = "there is no chat here, and so nothing is sealed; hint: set `chat.encryption_keys_file`";
        return Err(ProblemDetails::new(StatusCode::CONFLICT, "chat_off", detail));
    };
    let step = rotate::step(&state.store, chat.keys()).await?;
    if step.done {
        emit(&Event::ChatKeysRotated { by: &caller.0 });
    }
    Ok(Json(step))
}
