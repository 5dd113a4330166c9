//! Whom somebody does not want to hear of.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, State},
    response::IntoResponse as _,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Answer, created, done, invalid};
use crate::{
    chat::{Chat, ChatError},
    model::UserId,
    socket::{Document, Identity},
    store::BlockAdded,
};

/// Somebody who is blocked.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Block")]
pub(in crate::chat) struct BlockView {
    #[schemars(with = "UserId")]
    user_id: Value,
}

#[derive(Deserialize)]
pub(super) struct Blocking {
    user_id: UserId,
}

fn view(user: &UserId) -> BlockView {
    BlockView { user_id: user.to_wire() }
}

pub(super) async fn list(State(chat): State<Arc<Chat>>, Extension(identity): Extension<Identity>) -> Answer {
    let blocked = chat.store.blocks(identity.user_id).await?;
    Ok(Json(blocked.iter().map(view).collect::<Vec<_>>()).into_response())
}

pub(super) async fn add(
    State(chat): State<Arc<Chat>>,
    Extension(identity): Extension<Identity>,
    Document(Blocking { user_id }): Document<Blocking>,
) -> Answer {
    if user_id == identity.user_id {
        return Err(invalid("You cannot block yourself."));
    }
    match chat.store.block(identity.user_id, user_id.clone()).await? {
        BlockAdded::Added => Ok(created(true, view(&user_id))),
        BlockAdded::Known => Ok(created(false, view(&user_id))),
        BlockAdded::Full => Err(ChatError::Conflict("You have blocked as many users as can be.").into()),
    }
}

pub(super) async fn remove(State(chat): State<Arc<Chat>>, Extension(identity): Extension<Identity>, Path(user): Path<String>) -> Answer {
    let user = user.parse().map_err(|_| ChatError::NotFound("Block"))?;
    if chat.store.unblock(identity.user_id, user).await? { Ok(done()) } else { Err(ChatError::NotFound("Block").into()) }
}
