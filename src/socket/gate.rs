//! Who gets a socket: handshake, origin, token and room, in this order, and how each refusal is told.

use std::{
    fmt::Display,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::{
    auth::{AuthError, Authenticator, Identity},
    ending::Close,
    error_response, events,
    events::Mark,
    hub::{Home, Hub, Subscriber, TooMany},
    listener::ConnectionPermit,
    sequencer::Protocol,
    session::{Registration, SessionSettings, Sessions},
    upgrade::{Handshake, OriginPolicy},
};
use crate::model::{Timestamp, cut};

/// Bytes of a close frame's reason (RFC 6455, section 5.5).
const REASON_LIMIT: usize = 123;
use axum::{
    http::{
        HeaderValue, StatusCode,
        header::{ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, ORIGIN, RETRY_AFTER, VARY},
        request::Parts,
    },
    response::Response,
};

/// Lets callers in, and starts their sessions.
#[derive(Debug)]
pub struct Gate {
    authenticator: Arc<Authenticator>,
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
    registration: Registration,
    way: Way,
    sessions: Sessions,
}

/// A caller of a WebSocket whose token is good, not let in yet.
#[derive(Debug)]
pub struct Caller {
    pub identity: Identity,
    v1: bool,
    handshake: Handshake,
}

/// What the caller gets its frames by.
#[derive(Debug)]
enum Way {
    Socket(Handshake),
    /// With the origin to name in the answer, when a web page asks from another one.
    Events(Option<ConnectionPermit>, Option<HeaderValue>),
}

/// Why a caller is not let in.
#[derive(Clone, Copy)]
enum Refused {
    Token(AuthError),
    Room(TooMany),
    /// What is asked for is not for them.
    NotTheirs(&'static str),
}

impl Refused {
    const fn status(self) -> StatusCode {
        match self {
            Self::Token(_) | Self::NotTheirs(_) => StatusCode::FORBIDDEN,
            Self::Room(TooMany::OfUser) => StatusCode::TOO_MANY_REQUESTS,
            Self::Room(TooMany::InTotal) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    const fn code(self) -> u16 {
        match self {
            Self::Token(_) => 4401,
            Self::NotTheirs(_) => 4403,
            Self::Room(_) => 4409,
        }
    }
}

impl Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Token(error) => error.fmt(f),
            Self::Room(error) => error.fmt(f),
            Self::NotTheirs(what) => what.fmt(f),
        }
    }
}

impl Gate {
    pub fn new(authenticator: Arc<Authenticator>, origins: OriginPolicy, hub: Hub, sessions: Sessions) -> Self {
        Self { authenticator, origins, hub, sessions }
    }

    pub fn session_settings(&self) -> &SessionSettings {
        self.sessions.settings()
    }

    /// Lets a WebSocket in. `asks_v1` when something else in the request implies that its client knows our frames.
    ///
    /// # Errors
    /// The response to a caller that is not let in.
    pub async fn admit(&self, parts: &mut Parts, asks_v1: bool, now: Timestamp) -> Result<Admission, Response> {
        let caller = self.answer(parts, asks_v1, now).await?;
        self.let_in(caller, Home::Inbox, now)
    }

    /// Finds out who calls for a WebSocket. Then they are to be [let in](Self::let_in), or [turned away](Self::turn_away).
    ///
    /// # Errors
    /// The response to a caller with whom nothing is to be discussed.
    pub async fn answer(&self, parts: &mut Parts, asks_v1: bool, now: Timestamp) -> Result<Caller, Response> {
        let mut handshake = Handshake::read(parts).map_err(|bad| self.refused(bad.response()))?;
        handshake.v1 |= asks_v1;
        self.check_way(parts)?;
        match self.authenticator.identify_opening(parts, now).await {
            Ok(identity) => Ok(Caller { identity, v1: handshake.v1, handshake }),
            Err(error) => Err(self.refused(self.told(Refused::Token(error), handshake))),
        }
    }

    /// Registers a caller: frames are queued from here on.
    ///
    /// # Errors
    /// The response to a caller for whom there is no room.
    #[expect(clippy::result_large_err, reason = "the response is handed on at once")]
    pub fn let_in(&self, caller: Caller, home: Home, now: Timestamp) -> Result<Admission, Response> {
        let Caller { identity, v1, handshake } = caller;
        match self.register(&identity, v1, home, now) {
            Ok(registration) => Ok(self.admission(identity, v1, registration, Way::Socket(handshake))),
            Err(refused) => Err(self.refused(self.told(refused, handshake))),
        }
    }

    /// Refuses a caller what is not theirs: `what` says so.
    pub fn turn_away(&self, caller: Caller, what: &'static str) -> Response {
        self.refused(self.told(Refused::NotTheirs(what), caller.handshake))
    }

    /// Nothing can be said of what the caller asks for now.
    pub fn put_off(&self) -> Response {
        let mut response = error_response(StatusCode::SERVICE_UNAVAILABLE, "try again later");
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        self.refused(response)
    }

    /// Refuses a socket whose client says where it was in a way that cannot be read. Only clients that know close codes say so at all.
    pub fn refuse_position(&self, parts: &mut Parts, problem: &str) -> Response {
        let handshake = match Handshake::read(parts) {
            Ok(handshake) => handshake,
            Err(bad) => return self.refused(bad.response()),
        };
        if let Err(refusal) = self.check_way(parts) {
            return refusal;
        }
        let close = Close { code: 4400, reason: cut(problem, REASON_LIMIT).into() };
        self.refused(self.sessions.start_closed(handshake, close))
    }

    /// Lets a reader of server-sent events in.
    ///
    /// # Errors
    /// The response to a caller that is not let in.
    pub async fn admit_events(&self, parts: &mut Parts, now: Timestamp) -> Result<Admission, Response> {
        if self.sessions.is_draining() && self.origins.allows(&parts.headers) {
            let mut response = events::come_back();
            readable_by(&mut response, parts.headers.get(ORIGIN).cloned());
            return Err(self.refused(response));
        }
        self.check_way(parts)?;
        let identified = self.authenticator.identify_opening(parts, now).await.map_err(Refused::Token);
        let registered = identified.and_then(|identity| self.register(&identity, true, Home::Inbox, now).map(|it| (identity, it)));
        let (identity, registration) = registered.map_err(|refused| {
            // As routes for users answer it; a socket's 403 is what older clients know.
            self.refused(match refused {
                Refused::Token(error) => error.response(),
                refused => error_response(refused.status(), &refused.to_string()),
            })
        })?;
        let way = Way::Events(parts.extensions.remove::<ConnectionPermit>(), parts.headers.get(ORIGIN).cloned());
        Ok(self.admission(identity, true, registration, way))
    }

    /// Whether this process opens sockets at all, and to this page.
    #[expect(clippy::result_large_err, reason = "the response is handed on at once")]
    fn check_way(&self, parts: &Parts) -> Result<(), Response> {
        if self.sessions.is_draining() {
            let mut response = error_response(StatusCode::SERVICE_UNAVAILABLE, "restarting; try again");
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            return Err(self.refused(response));
        }
        if !self.origins.allows(&parts.headers) {
            return Err(self.refused(error_response(StatusCode::FORBIDDEN, "this origin is not allowed")));
        }
        Ok(())
    }

    fn register(&self, identity: &Identity, v1: bool, home: Home, now: Timestamp) -> Result<Registration, Refused> {
        let registered = self.hub.register(identity.clone(), v1, home).map_err(Refused::Room)?;
        // Only now would a revocation find it.
        if self.authenticator.is_revoked(identity, now) {
            return Err(Refused::Token(AuthError::Revoked));
        }
        Ok(Registration::new(registered, identity, now))
    }

    fn admission(&self, identity: Identity, v1: bool, registration: Registration, way: Way) -> Admission {
        Admission { identity, v1, registration, way, sessions: self.sessions.clone() }
    }

    /// By status, or by close code for those who asked for it: a browser cannot see a status and would reconnect for ever.
    fn told(&self, refused: Refused, handshake: Handshake) -> Response {
        let reason = refused.to_string();
        if handshake.v1 {
            self.sessions.start_closed(handshake, Close { code: refused.code(), reason: reason.into() })
        } else {
            error_response(refused.status(), &reason)
        }
    }

    fn refused(&self, response: Response) -> Response {
        self.sessions.counters().refused.fetch_add(1, Relaxed);
        response
    }
}

impl Admission {
    /// Lets the connection follow topics.
    pub fn subscriber(&self) -> Subscriber {
        self.registration.connection.subscriber()
    }

    /// Answers the request and runs what follows. `mark` makes the ids of server-sent events.
    pub fn start<P: Protocol>(self, protocol: P, mark: Mark<P>) -> Response {
        match self.way {
            Way::Socket(handshake) => self.sessions.start(handshake, self.registration, protocol),
            Way::Events(permit, origin) => {
                let mut response = events::response(&self.sessions, self.registration, permit, protocol, mark);
                readable_by(&mut response, origin);
                response
            }
        }
    }
}

/// Lets the page that asked read the answer, when it is of another origin than ours. That it may ask is checked before.
fn readable_by(response: &mut Response, origin: Option<HeaderValue>) {
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        headers.insert(VARY, HeaderValue::from_static("Origin"));
    }
}
