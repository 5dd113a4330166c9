//! Sockets: the accept loop, authentication, the upgrade, sessions, and the hub that knows who is connected to this process.
//!
//! What the frames mean is not decided here: `live` and `chat` build them and answer what comes in. Nothing here logs; what happened is
//! counted in [`ListenerCounters`] and [`SessionCounters`].

mod auth;
mod body;
mod gate;
mod hub;
mod listener;
mod session;
mod upgrade;

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

pub use auth::{AuthError, Identity, JwtKeySettings, JwtSettings, JwtVerifier, require_user, sign_development_token, token_from};
pub use body::BodyTimedOut;
pub use gate::{Admission, Gate};
pub use hub::{ConnectionHandle, Frame, FrameReceiver, Hub, HubLimits, Overflowed, TooMany};
pub use listener::{ListenerCounters, ListenerSettings, PeerAddr, serve};
pub use session::{Ending, SessionCounters, SessionSettings, Sessions};
pub use upgrade::OriginPolicy;

/// The error body of the public routes: `{"error":"…"}`.
fn error_response(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "error": error }))).into_response()
}
