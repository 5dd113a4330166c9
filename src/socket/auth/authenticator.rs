//! The one door: who a request is from, by whatever it brings, and which rule each way of bringing it has.

use std::{fmt, sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header::WWW_AUTHENTICATE, request::Parts},
    middleware::Next,
    response::Response,
};
use secrecy::{ExposeSecret as _, SecretString};

use super::{
    super::{bus::Bus, error_response, upgrade::OriginPolicy},
    AuthError, Identity, JwtVerifier, Revocations, bearer,
    ticket::Tickets,
};
use crate::model::Timestamp;

/// How tokens and tickets may come.
#[derive(Debug)]
pub struct AuthSettings {
    /// Name of a cookie that may carry the token.
    pub cookie: Option<String>,
    /// The pages that may use the cookie.
    pub origins: OriginPolicy,
    pub ticket_lifetime: Duration,
    /// 32 bytes in Base64 (RFC 4648, section 5). One of another form makes no tickets and takes none.
    pub ticket_key: SecretString,
}

/// Says who a request is from.
pub struct Authenticator {
    verifier: JwtVerifier,
    cookie: Option<String>,
    origins: OriginPolicy,
    tickets: Option<Tickets>,
}

impl Authenticator {
    /// `bus` remembers which tickets were used.
    pub fn new(verifier: JwtVerifier, settings: AuthSettings, bus: Bus) -> Self {
        let tickets = Tickets::new(&settings.ticket_key, settings.ticket_lifetime, bus);
        Self { verifier, cookie: settings.cookie, origins: settings.origins, tickets }
    }

    /// Whoever brings a token: in the query, a header, a subprotocol, or the cookie. For requests that act on behalf of a user.
    pub fn identify(&self, parts: &Parts, now: Timestamp) -> Result<Identity, AuthError> {
        let bearer = bearer::token_from(parts, self.cookie.as_deref()).ok_or(AuthError::Missing)?;
        // A browser sends cookies whichever page makes the request (cross-site request forgery, WebSocket hijacking).
        if bearer.is_cookie && !self.origins.allows_ambient(&parts.headers) {
            return Err(AuthError::ForeignOrigin);
        }
        self.verify(bearer.token.expose_secret(), now)
    }

    /// Whoever brings a ticket, which is used up by it, or else a token. For what stays open: sockets, server-sent events.
    pub async fn identify_opening(&self, parts: &Parts, now: Timestamp) -> Result<Identity, AuthError> {
        let Some(ticket) = bearer::ticket_from(parts) else { return self.identify(parts, now) };
        let identity = self.tickets.as_ref().ok_or(AuthError::BadTicket)?.take(ticket.expose_secret(), now).await?;
        if self.is_revoked(&identity, now) { Err(AuthError::Revoked) } else { Ok(identity) }
    }

    /// Whom a token names that came in some other way, as in a frame.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Identity, AuthError> {
        self.verifier.verify(token, now)
    }

    /// Whether it has been revoked by now. To be asked again once a place in the hub is taken: who was let in just before a revocation
    /// and registered just after it would be overlooked by it.
    pub fn is_revoked(&self, identity: &Identity, now: Timestamp) -> bool {
        self.revocations().cover(identity, now)
    }

    pub fn revocations(&self) -> &Revocations {
        self.verifier.revocations()
    }

    /// What fetches keys.
    pub fn verifier(&self) -> &JwtVerifier {
        &self.verifier
    }

    /// A ticket for whoever has shown a token, and how long it is good. `None` when none can be made.
    pub fn make_ticket(&self, identity: Identity, now: Timestamp) -> Option<(String, Duration)> {
        let tickets = self.tickets.as_ref()?;
        Some((tickets.make(identity, now), tickets.lifetime()))
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("cookie", &self.cookie).finish_non_exhaustive()
    }
}

/// Middleware of routes for a signed-in user: puts the [`Identity`] into the request's extensions, or answers 401, and 403 to pages that
/// may not use the cookie.
pub async fn require_user(State(authenticator): State<Arc<Authenticator>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    match authenticator.identify(&parts, Timestamp::now()) {
        Ok(identity) => {
            parts.extensions.insert(identity);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(error) => error.response(),
    }
}

impl AuthError {
    /// What a request over HTTP is answered.
    pub(in crate::socket) fn response(self) -> Response {
        if self == Self::ForeignOrigin {
            return error_response(StatusCode::FORBIDDEN, &self.to_string());
        }
        let mut response = error_response(StatusCode::UNAUTHORIZED, &self.to_string());
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        response
    }
}

#[cfg(test)]
mod tests {
    use axum::{
        Extension, Router,
        body::Body,
        http::{self, header::AUTHORIZATION},
        middleware,
        routing::any,
    };
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::{super::tests::bus, *};
    use crate::{
        model::{Revocation, Revoked},
        socket::{JwtKeySettings, JwtSettings, sign_development_token},
    };

    const SECRET: &str = "a secret of more than thirty-two bytes!";
    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn authenticator(cookie: Option<&str>) -> Authenticator {
        let revocations = Arc::new(Revocations::new(Duration::from_hours(1), []));
        let settings = JwtSettings::of(vec![JwtKeySettings::hs256(None, &SECRET.into())]);
        Authenticator::new(
            JwtVerifier::new(&settings, revocations).unwrap(),
            AuthSettings {
                cookie: cookie.map(str::to_owned),
                origins: OriginPolicy::new(&["https://app.example.com".to_owned()], None),
                ticket_lifetime: Duration::from_secs(30),
                ticket_key: KEY.into(),
            },
            bus(),
        )
    }

    fn token() -> String {
        sign_development_token(&SECRET.into(), None, &"42".parse().unwrap(), Duration::from_mins(1), Timestamp::now())
    }

    fn parts(uri: &str) -> Parts {
        http::Request::get(uri).body(()).unwrap().into_parts().0
    }

    async fn answer(cookie: Option<&str>, method: &str, headers: &[(&str, &str)]) -> (StatusCode, String) {
        let app = Router::new()
            .route("/me", any(|Extension(identity): Extension<Identity>| async move { identity.user_id.to_string() }))
            .layer(middleware::from_fn_with_state(Arc::new(authenticator(cookie)), require_user));
        let mut request = http::Request::builder().method(method).uri("/me");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status();
        (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn routes_for_users_know_the_user_or_answer_401() {
        for (authorization, status, body) in [
            (format!("Bearer {}", token()), StatusCode::OK, "42"),
            ("Bearer nonsense".to_owned(), StatusCode::UNAUTHORIZED, r#"{"error":"not a token"}"#),
            (String::new(), StatusCode::UNAUTHORIZED, r#"{"error":"no token"}"#),
        ] {
            let told = answer(None, "GET", &[(AUTHORIZATION.as_str(), &authorization)]).await;
            assert_eq!(told, (status, body.to_owned()));
        }
    }

    #[tokio::test]
    async fn pages_elsewhere_cannot_use_the_cookie() {
        let cookie = format!("access={}", token());
        let authorization = format!("Bearer {}", token());
        let cookie = ("cookie", cookie.as_str());
        let refused = (StatusCode::FORBIDDEN, r#"{"error":"this origin is not allowed"}"#.to_owned());
        let good = (StatusCode::OK, "42".to_owned());
        for method in ["GET", "POST", "DELETE"] {
            assert_eq!(answer(Some("access"), method, &[cookie]).await, good);
            assert_eq!(answer(Some("access"), method, &[cookie, ("origin", "https://app.example.com")]).await, good);
            for foreign in [("origin", "https://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")] {
                assert_eq!(answer(Some("access"), method, &[cookie, foreign]).await, refused, "{method} {foreign:?}");
                // A page that has the token itself has been given it.
                assert_eq!(answer(Some("access"), method, &[cookie, foreign, ("authorization", &authorization)]).await, good);
            }
        }
        let missing = (StatusCode::UNAUTHORIZED, r#"{"error":"no token"}"#.to_owned());
        assert_eq!(answer(None, "GET", &[cookie]).await, missing);
    }

    #[tokio::test]
    async fn a_ticket_opens_once_and_only_what_stays_open() {
        let authenticator = authenticator(None);
        let now = Timestamp::now();
        let identity = authenticator.identify(&parts(&format!("/?token={}", token())), now).unwrap();
        let (ticket, lifetime) = authenticator.make_ticket(identity.clone(), now).unwrap();
        assert_eq!(lifetime, Duration::from_secs(30));
        let parts = parts(&format!("/?ticket={ticket}"));
        assert_eq!(authenticator.identify(&parts, now), Err(AuthError::Missing));
        assert_eq!(authenticator.identify_opening(&parts, now).await, Ok(identity));
        assert_eq!(authenticator.identify_opening(&parts, now).await, Err(AuthError::TicketUsed));
    }

    #[tokio::test]
    async fn what_is_revoked_opens_nothing_by_token_or_ticket() {
        let authenticator = authenticator(None);
        let now = Timestamp::now();
        let by_token = parts(&format!("/?token={}", token()));
        let identity = authenticator.identify_opening(&by_token, now).await.unwrap();
        let (ticket, _) = authenticator.make_ticket(identity.clone(), now).unwrap();
        let what = Revoked::Jti(identity.jti.clone().unwrap());
        let revocation = Revocation { id: 1, what, reason: None, revoked_by: "loopback".to_owned(), revoked_at: now };
        authenticator.revocations().add(revocation.clone());
        assert!(authenticator.is_revoked(&identity, now));
        assert_eq!(authenticator.identify(&by_token, now), Err(AuthError::Revoked));
        assert_eq!(authenticator.identify_opening(&parts(&format!("/?ticket={ticket}")), now).await, Err(AuthError::Revoked));
        authenticator.revocations().remove(&revocation);
        assert!(authenticator.identify(&by_token, now).is_ok());
    }
}
