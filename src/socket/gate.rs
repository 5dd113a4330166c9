//! Who gets a socket: handshake, origin, token and room, in this order, and how each refusal is told.

use std::{
    fmt::Display,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use axum::{
    http::{StatusCode, request::Parts},
    response::Response,
};
use secrecy::ExposeSecret as _;

use super::{
    auth::{AuthError, Identity, JwtVerifier, token_from},
    error_response,
    hub::{Frame, Hub, TooMany},
    session::{Close, Registration, SessionSettings, Sessions},
    upgrade::{Handshake, OriginPolicy},
};
use crate::model::Timestamp;

/// Lets callers in, and starts their sessions.
#[derive(Debug)]
pub struct Gate {
    verifier: Arc<JwtVerifier>,
    origins: OriginPolicy,
    hub: Hub,
    sessions: Sessions,
}

/// A caller let in and registered with the hub: frames are queued for them from now on. Dropping it gives the place up.
#[derive(Debug)]
pub struct Admission {
    pub identity: Identity,
    /// Asked for frames of other types than the replaced system's.
    pub v1: bool,
    handshake: Handshake,
    registration: Registration,
    sessions: Sessions,
}

impl Gate {
    pub fn new(verifier: Arc<JwtVerifier>, origins: OriginPolicy, hub: Hub, sessions: Sessions) -> Self {
        Self { verifier, origins, hub, sessions }
    }

    pub fn session_settings(&self) -> &SessionSettings {
        self.sessions.settings()
    }

    /// # Errors
    /// The response to a caller that is not let in.
    #[expect(clippy::result_large_err, reason = "the response is handed on at once")]
    pub fn admit(&self, parts: &mut Parts, now: Timestamp) -> Result<Admission, Response> {
        let handshake = Handshake::read(parts).map_err(|bad| self.refused(bad.response()))?;
        if !self.origins.allows(&parts.headers) {
            return Err(self.refused(error_response(StatusCode::FORBIDDEN, "this origin is not allowed")));
        }
        let token = token_from(parts).ok_or(AuthError::Missing);
        let identity = match token.and_then(|token| self.verifier.verify(token.expose_secret(), now)) {
            Ok(identity) => identity,
            Err(error) => return Err(self.refuse(handshake, StatusCode::FORBIDDEN, 4401, error)),
        };
        let registered = match self.hub.register(identity.user_id.clone()) {
            Ok(registered) => registered,
            Err(TooMany::OfUser) => return Err(self.refuse(handshake, StatusCode::TOO_MANY_REQUESTS, 4409, TooMany::OfUser)),
            Err(TooMany::InTotal) => return Err(self.refuse(handshake, StatusCode::SERVICE_UNAVAILABLE, 4409, TooMany::InTotal)),
        };
        let registration = Registration::new(registered, identity.expires_at, now);
        Ok(Admission { v1: handshake.v1, identity, handshake, registration, sessions: self.sessions.clone() })
    }

    /// By status, or by close code for those who asked for it: a browser cannot see a status and would reconnect for ever.
    fn refuse(&self, handshake: Handshake, status: StatusCode, code: u16, error: impl Display) -> Response {
        let reason = error.to_string();
        let response = if handshake.v1 {
            self.sessions.start_closed(handshake, Close { code, reason: reason.into() })
        } else {
            error_response(status, &reason)
        };
        self.refused(response)
    }

    fn refused(&self, response: Response) -> Response {
        self.sessions.counters().refused.fetch_add(1, Relaxed);
        response
    }
}

impl Admission {
    /// Answers the upgrade and runs the session behind it: `opening` first, then what the hub queues and what `answer` makes of each
    /// text that comes in.
    pub fn start<H>(self, opening: Option<Frame>, answer: H) -> Response
    where
        H: Fn(&str) -> Option<Frame> + Send + Unpin + 'static,
    {
        self.sessions.start(self.handshake, self.registration, opening, answer)
    }
}
