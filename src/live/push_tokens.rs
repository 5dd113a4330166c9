//! A user's own devices: `POST|DELETE /api/v1/communications/push_tokens/` on the public listener.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::State,
    http::StatusCode,
    middleware,
    response::{IntoResponse, Response},
    routing::post,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    model::{Problem, PushToken, decode_all},
    socket::{Authenticator, BareDocument, BodyLimit, Identity, OriginPolicy, cross_origin, require_user},
    store::{Store, StoreError},
};

/// Bytes of a body here: one token and a word.
const BODY_LIMIT: BodyLimit = BodyLimit::new(8 << 10);
/// What an app may call its platform.
const PLATFORMS: [&str; 3] = ["android", "ios", "web"];

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Registration {
    token: PushToken,
    #[serde(default)]
    platform: Option<String>,
}

/// `origins` are the pages that may use it.
pub fn router(store: Store, authenticator: Arc<Authenticator>, origins: OriginPolicy) -> Router {
    let methods = || post(register).delete(forget);
    Router::new()
        .route("/api/v1/communications/push_tokens/", methods())
        .route("/api/v1/communications/push_tokens", methods())
        .layer(Extension(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(authenticator, require_user))
        .layer(middleware::from_fn_with_state(origins, cross_origin))
        .with_state(store)
}

async fn register(
    State(store): State<Store>,
    Extension(identity): Extension<Identity>,
    BareDocument(document): BareDocument<Value>,
) -> Response {
    let registration = match read(document) {
        Ok(registration) => registration,
        Err(problems) => return bad_request(&problems),
    };
    let platform = registration.platform.clone();
    match store.register_push_token(identity.user_id, registration.token.clone(), registration.platform).await {
        Ok(()) => (StatusCode::CREATED, Json(json!({ "token": registration.token, "platform": platform }))).into_response(),
        Err(error) => unavailable(&error),
    }
}

async fn forget(
    State(store): State<Store>,
    Extension(identity): Extension<Identity>,
    BareDocument(document): BareDocument<Value>,
) -> Response {
    let registration = match read(document) {
        Ok(registration) => registration,
        Err(problems) => return bad_request(&problems),
    };
    match store.forget_push_token(identity.user_id, registration.token).await {
        Ok(true) => StatusCode::NO_CONTENT.into_response(),
        Ok(false) => {
            (StatusCode::NOT_FOUND, Json(json!({ "error": "This device is not registered for you.", "code": "not_found" }))).into_response()
        }
        Err(error) => unavailable(&error),
    }
}

fn read(document: Value) -> Result<Registration, Vec<Problem>> {
    let registration: Registration = decode_all(document, "$")?;
    match &registration.platform {
        Some(platform) if !PLATFORMS.contains(&platform.as_str()) => {
            Err(vec![Problem::new("$.platform", "not a platform", format!("one of {}", PLATFORMS.join(", ")))])
        }
        _ => Ok(registration),
    }
}

/// In the shape existing clients read, with ours beside it.
fn bad_request(problems: &[Problem]) -> Response {
    let error = problems.first().map(ToString::to_string).unwrap_or_default();
    (StatusCode::BAD_REQUEST, Json(json!({ "error": error, "code": "invalid", "problems": problems }))).into_response()
}

fn unavailable(error: &StoreError) -> Response {
    let body = Json(json!({ "error": error.to_string(), "code": "unavailable" }));
    (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "1")], body).into_response()
}
