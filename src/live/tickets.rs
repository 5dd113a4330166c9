//! `POST /v1/tickets` on the public listener: what opens one socket in place of a token.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header::CACHE_CONTROL},
    middleware,
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::json;

use crate::{
    model::Timestamp,
    socket::{Authenticator, Identity, OriginPolicy, cross_origin, require_user},
};

/// Nothing is expected in a body here.
const BODY_LIMIT: usize = 1 << 10;

/// `origins` are the pages that may ask for one.
pub fn router(authenticator: Arc<Authenticator>, origins: OriginPolicy) -> Router {
    Router::new()
        .route("/v1/tickets", post(make))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(authenticator.clone(), require_user))
        .layer(middleware::from_fn_with_state(origins, cross_origin))
        .with_state(authenticator)
}

async fn make(State(authenticator): State<Arc<Authenticator>>, Extension(identity): Extension<Identity>) -> Response {
    let Some((ticket, lifetime)) = authenticator.make_ticket(identity, Timestamp::now()) else {
        let body = Json(json!({ "error": "Tickets are not available; use the token.", "code": "unavailable" }));
        return (StatusCode::SERVICE_UNAVAILABLE, body).into_response();
    };
    let body = Json(json!({ "ticket": ticket, "expires_in": lifetime.as_secs() }));
    (StatusCode::CREATED, [(CACHE_CONTROL, "no-store")], body).into_response()
}
