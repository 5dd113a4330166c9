//! Sockets: the accept loop, authentication, the upgrade, sessions, and the hub that knows who is connected to this process.
//!
//! What the frames mean is not decided here: `live` and `chat` build them and answer what comes in. Nothing here logs but the bus, and that
//! key sets cannot be had; what happened is counted in [`ListenerCounters`], [`SessionCounters`] and [`BusCounters`].

mod auth;
mod body;
mod bus;
mod cross_origin;
mod deadlines;
mod document;
mod ending;
mod events;
mod followed;
mod gate;
mod hub;
mod listener;
mod metered;
mod presence;
mod sequencer;
mod session;
mod upgrade;
mod wire;

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

pub use auth::{
    AuthError, AuthSettings, Authenticator, BadKey, Identity, JwtKeySettings, JwtSettings, JwtVerifier, Revocations, require_user,
    sign_development_token,
};
pub use body::BodyTimedOut;
pub use bus::{Bus, BusCounters, BusError, BusStatus, Control, ControlReceiver};
pub use cross_origin::cross_origin;
pub use document::{BareDocument, BodyLimit, Document, Unreadable, json_only, query_problem};
pub use ending::Ending;
pub use events::Mark;
pub use gate::{Admission, Caller, Gate};
pub use hub::{
    Audience, ConnectionHandle, Frame, FrameReceiver, Home, Hub, HubLimits, Interest, OnInterest, Subscriber, TooMany, TooManyTopics,
};
pub use listener::{App, BindError, Endpoint, ListenerCounters, ListenerSettings, PeerAddr, ProxyTrust, Tls, TlsFile, TlsProblem, serve};
pub use presence::{Presence, PresenceChange, PresenceChanges, Present, Seen};
pub use sequencer::{Protocol, Reaction, Step, Work};
pub use session::{SessionCounters, SessionSettings, Sessions};
pub use upgrade::{OriginPolicy, query_value, query_values};

/// The error body of the public routes: `{"error":"…"}`.
fn error_response(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "error": error }))).into_response()
}
