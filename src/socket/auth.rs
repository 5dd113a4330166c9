//! Who a caller is: the access tokens of the backend (JSON Web Tokens as djangorestframework-simplejwt makes them).
//!
//! Knows tokens and where requests carry them. What an identity may then do is for others; revocation is not here.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{
        HeaderValue, StatusCode,
        header::{AUTHORIZATION, WWW_AUTHENTICATE},
        request::Parts,
    },
    middleware::Next,
    response::Response,
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode, errors::ErrorKind};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize as _;
use serde_json::{Map, Value, json};
use thiserror::Error;
use uuid::Uuid;

use super::{error_response, upgrade};
use crate::model::{Timestamp, UserId};

/// Longest token looked at, in bytes; simplejwt's are under 400.
const TOKEN_LIMIT: usize = 8 * 1024;
/// The value of `token_type` that is let in; simplejwt's other ones (`refresh`, `sliding`) are not for us.
const ACCESS_TOKEN: &str = "access";

#[derive(Debug)]
pub struct JwtSettings {
    /// Chosen by `kid`. Several with the same one, or several without, are tried in order, so that a key can be replaced.
    pub keys: Vec<JwtKeySettings>,
    /// How far our clock and the issuer's may be apart.
    pub leeway: Duration,
    /// The claim that holds the user's id.
    pub user_claim: String,
    /// Checked, and then required, only when set.
    pub audience: Option<String>,
    /// Checked, and then required, only when set.
    pub issuer: Option<String>,
}

/// An HS256 key.
#[derive(Debug)]
pub struct JwtKeySettings {
    pub kid: Option<String>,
    pub secret: SecretString,
}

/// Whom a good token names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user_id: UserId,
    /// From this moment on the token is refused: its `exp` plus the leeway.
    pub expires_at: Timestamp,
    pub jti: Option<String>,
}

/// Why a token is refused. Holds and shows nothing of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AuthError {
    #[error("no token")]
    Missing,
    #[error("not a token")]
    Malformed,
    #[error("token signed by an unknown key")]
    UnknownKey,
    #[error("token signature is wrong")]
    BadSignature,
    #[error("token does not expire")]
    NoExpiry,
    #[error("token expired")]
    Expired,
    #[error("token not valid yet")]
    NotYetValid,
    #[error("not an access token")]
    WrongType,
    #[error("token is for another audience")]
    WrongAudience,
    #[error("token is from another issuer")]
    WrongIssuer,
    #[error("token names no user")]
    NoUser,
}

/// Checks tokens against the configured keys.
#[derive(Debug)]
pub struct JwtVerifier {
    keys: Vec<Key>,
    validation: Validation,
    leeway: Duration,
    user_claim: String,
}

#[derive(Debug)]
struct Key {
    kid: Option<String>,
    key: DecodingKey,
}

impl JwtVerifier {
    pub fn new(settings: &JwtSettings) -> Self {
        let keys = settings
            .keys
            .iter()
            .map(|key| Key { kid: key.kid.clone(), key: DecodingKey::from_secret(key.secret.expose_secret().as_bytes()) });
        let mut validation = Validation::new(Algorithm::HS256);
        // The library reads the clock by itself; `check_claims` takes `now` and knows fractions of a second.
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        validation.validate_aud = settings.audience.is_some();
        if let Some(audience) = &settings.audience {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".to_owned());
        }
        if let Some(issuer) = &settings.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".to_owned());
        }
        Self { keys: keys.collect(), validation, leeway: settings.leeway, user_claim: settings.user_claim.clone() }
    }

    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Identity, AuthError> {
        if token.len() > TOKEN_LIMIT {
            return Err(AuthError::Malformed);
        }
        // Of the header only `kid` is used. An `alg` of "none" is unknown to the library, and any other than HS256 fails below; keys
        // that the token itself brings or points to (`jwk`, `jku`, `x5u`) are never looked at.
        let header = decode_header(token).map_err(|_| AuthError::Malformed)?;
        if header.crit.is_some() {
            // Extensions that must be understood (RFC 7515, section 4.1.11); we understand none.
            return Err(AuthError::Malformed);
        }
        let mut refusal = AuthError::UnknownKey;
        for key in self.keys_for(header.kid.as_deref()) {
            match decode::<Map<String, Value>>(token, &key.key, &self.validation) {
                Ok(decoded) => return self.check_claims(&decoded.claims, now),
                Err(error) => refusal = refusal_for(error.kind()),
            }
            if refusal != AuthError::BadSignature {
                break;
            }
        }
        Err(refusal)
    }

    fn keys_for(&self, kid: Option<&str>) -> impl Iterator<Item = &Key> {
        let only = kid.is_none() && self.keys.len() == 1;
        self.keys.iter().filter(move |key| only || key.kid.as_deref() == kid)
    }

    /// The claims of a token whose signature, audience and issuer are right.
    fn check_claims(&self, claims: &Map<String, Value>, now: Timestamp) -> Result<Identity, AuthError> {
        let expires_at = claims.get("exp").and_then(moment).ok_or(AuthError::NoExpiry)?.saturating_add(self.leeway);
        if now >= expires_at {
            return Err(AuthError::Expired);
        }
        if let Some(not_before) = claims.get("nbf") {
            let not_before = moment(not_before).ok_or(AuthError::Malformed)?;
            if now.saturating_add(self.leeway) < not_before {
                return Err(AuthError::NotYetValid);
            }
        }
        if claims.get("token_type").is_some_and(|kind| kind != ACCESS_TOKEN) {
            return Err(AuthError::WrongType);
        }
        let user = claims.get(&self.user_claim).ok_or(AuthError::NoUser)?;
        let user_id = UserId::deserialize(user).map_err(|_| AuthError::NoUser)?;
        let jti = claims.get("jti").and_then(Value::as_str).map(str::to_owned);
        Ok(Identity { user_id, expires_at, jti })
    }
}

fn refusal_for(error: &ErrorKind) -> AuthError {
    match error {
        ErrorKind::InvalidSignature => AuthError::BadSignature,
        ErrorKind::InvalidAudience => AuthError::WrongAudience,
        ErrorKind::InvalidIssuer => AuthError::WrongIssuer,
        ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => AuthError::WrongAudience,
        ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => AuthError::WrongIssuer,
        _ => AuthError::Malformed,
    }
}

/// A `NumericDate`: seconds since the epoch, whole or not (RFC 7519, section 2).
fn moment(value: &Value) -> Option<Timestamp> {
    if let Some(seconds) = value.as_i64() {
        return Some(Timestamp::from_millis(seconds.saturating_mul(1000)));
    }
    let since_epoch = Duration::try_from_secs_f64(value.as_f64()?).ok()?;
    Some(Timestamp::default().saturating_add(since_epoch))
}

/// A token as simplejwt would make it, for trying things out.
#[expect(clippy::missing_panics_doc, reason = "an HMAC key of any length signs any JSON")]
pub fn sign_development_token(secret: &SecretString, kid: Option<&str>, user: &UserId, lifetime: Duration, now: Timestamp) -> String {
    let seconds = |moment: Timestamp| moment.as_millis().div_euclid(1000);
    let claims = json!({
        "token_type": ACCESS_TOKEN,
        "exp": seconds(now.saturating_add(lifetime)),
        "iat": seconds(now),
        "jti": Uuid::now_v7().simple(),
        "user_id": user,
    });
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::HS256) };
    encode(&header, &claims, &EncodingKey::from_secret(secret.expose_secret().as_bytes())).expect("an HMAC key signs any JSON")
}

/// The token a request brings: `?token=`, else `Authorization: Bearer`, else `Sec-WebSocket-Protocol: bearer, <token>`.
pub fn token_from(parts: &Parts) -> Option<SecretString> {
    let in_query = || upgrade::query_value(&parts.uri, "token");
    let in_header = || {
        let (scheme, token) = parts.headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
    };
    let in_protocols = || {
        let mut offered = upgrade::offered_protocols(&parts.headers);
        offered.find(|protocol| *protocol == upgrade::SUBPROTOCOL_BEARER)?;
        offered.next().map(str::to_owned)
    };
    in_query().or_else(in_header).or_else(in_protocols).map(SecretString::from)
}

/// Middleware of routes for a signed-in user: puts the [`Identity`] into the request's extensions, or answers 401.
pub async fn require_user(State(verifier): State<Arc<JwtVerifier>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let token = token_from(&parts).ok_or(AuthError::Missing);
    match token.and_then(|token| verifier.verify(token.expose_secret(), Timestamp::now())) {
        Ok(identity) => {
            parts.extensions.insert(identity);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(error) => {
            let mut response = error_response(StatusCode::UNAUTHORIZED, &error.to_string());
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{Extension, Router, body::Body, http, middleware, routing::get};
    use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    const OLD: &str = "an old secret of more than thirty-two bytes";
    const NEW: &str = "a new secret of more than thirty-two bytes!";
    /// Thursday, 15 January 2026, 10:30 UTC.
    const NOW: i64 = 1_768_473_000;

    fn verifier(keys: &[(Option<&str>, &str)], audience: Option<&str>, issuer: Option<&str>) -> JwtVerifier {
        JwtVerifier::new(&JwtSettings {
            keys: keys.iter().map(|(kid, secret)| JwtKeySettings { kid: kid.map(str::to_owned), secret: (*secret).into() }).collect(),
            leeway: Duration::from_secs(5),
            user_claim: "user_id".to_owned(),
            audience: audience.map(str::to_owned),
            issuer: issuer.map(str::to_owned),
        })
    }

    fn plain() -> JwtVerifier {
        verifier(&[(None, OLD)], None, None)
    }

    fn token(header: &Value, claims: &Value, secret: &str) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &EncodingKey::from_secret(secret.as_bytes()), Algorithm::HS256).unwrap();
        format!("{message}.{signature}")
    }

    fn claims(changes: &Value) -> Value {
        let mut claims = json!({"token_type": "access", "exp": NOW + 60, "iat": NOW, "jti": "abc", "user_id": "42"});
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        claims
    }

    #[track_caller]
    fn check(verifier: &JwtVerifier, token: &str, expected: Result<&str, AuthError>) {
        let outcome = verifier.verify(token, Timestamp::from_millis(NOW * 1000));
        assert_eq!(outcome.as_ref().map(|identity| identity.user_id.as_str()).map_err(|error| *error), expected);
    }

    #[track_caller]
    fn check_claims(changes: &Value, expected: Result<&str, AuthError>) {
        check(&plain(), &token(&json!({"alg": "HS256", "typ": "JWT"}), &claims(changes), OLD), expected);
    }

    #[track_caller]
    fn check_header(header: &Value, secret: &str, expected: Result<&str, AuthError>) {
        check(&plain(), &token(header, &claims(&json!({})), secret), expected);
    }

    #[test]
    fn claims_are_checked() {
        check_claims(&json!({}), Ok("42"));
        check_claims(&json!({"user_id": 42}), Ok("42"));
        check_claims(&json!({"user_id": "a-b-c"}), Ok("a-b-c"));
        check_claims(&json!({"user_id": 4.5}), Err(AuthError::NoUser));
        check_claims(&json!({"user_id": ""}), Err(AuthError::NoUser));
        check_claims(&json!({"user_id": null}), Err(AuthError::NoUser));
        check_claims(&json!({"exp": NOW - 4}), Ok("42"));
        check_claims(&json!({"exp": NOW - 5}), Err(AuthError::Expired));
        check_claims(&json!({"exp": 0}), Err(AuthError::Expired));
        check_claims(&json!({"exp": -1}), Err(AuthError::Expired));
        check_claims(&json!({"exp": 1_768_472_995.5}), Ok("42"));
        check_claims(&json!({"exp": i64::MAX}), Ok("42"));
        check_claims(&json!({"exp": 1e300}), Err(AuthError::NoExpiry));
        check_claims(&json!({"exp": null}), Err(AuthError::NoExpiry));
        check_claims(&json!({"exp": "tomorrow"}), Err(AuthError::NoExpiry));
        check_claims(&json!({"nbf": NOW + 5}), Ok("42"));
        check_claims(&json!({"nbf": NOW + 6}), Err(AuthError::NotYetValid));
        check_claims(&json!({"nbf": "soon"}), Err(AuthError::Malformed));
        check_claims(&json!({"token_type": "refresh"}), Err(AuthError::WrongType));
        check_claims(&json!({"token_type": 1}), Err(AuthError::WrongType));
        check_claims(&json!({"token_type": null}), Ok("42"));
        check_claims(&json!({"aud": "elsewhere", "iss": "someone"}), Ok("42"));
    }

    #[test]
    fn the_header_chooses_nothing_but_the_key() {
        check_header(&json!({"alg": "HS256"}), OLD, Ok("42"));
        check_header(&json!({"alg": "HS256"}), NEW, Err(AuthError::BadSignature));
        check_header(&json!({"alg": "HS512"}), OLD, Err(AuthError::Malformed));
        check_header(&json!({"alg": "RS256"}), OLD, Err(AuthError::Malformed));
        check_header(&json!({"alg": "none"}), OLD, Err(AuthError::Malformed));
        check_header(&json!({"alg": "HS256", "kid": "unknown"}), OLD, Err(AuthError::UnknownKey));
        check_header(&json!({"alg": "HS256", "crit": ["exp"]}), OLD, Err(AuthError::Malformed));
        let jwk = json!({"kty": "oct", "k": BASE64_URL_SAFE_NO_PAD.encode(NEW)});
        check_header(&json!({"alg": "HS256", "jku": "https://evil.example", "jwk": jwk}), NEW, Err(AuthError::BadSignature));
        check_header(&json!({"alg": "HS256", "x5u": "https://evil.example"}), OLD, Ok("42"));
    }

    #[test]
    fn unsigned_and_broken_tokens_are_refused() {
        let good = token(&json!({"alg": "HS256"}), &claims(&json!({})), OLD);
        let (message, _signature) = good.rsplit_once('.').unwrap();
        check(&plain(), &format!("{message}."), Err(AuthError::BadSignature));
        check(&plain(), message, Err(AuthError::Malformed));
        check(&plain(), "", Err(AuthError::Malformed));
        check(&plain(), &".".repeat(TOKEN_LIMIT + 1), Err(AuthError::Malformed));
        let unsigned = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        check(&plain(), &format!("{unsigned}.{}.", good.split('.').nth(1).unwrap()), Err(AuthError::Malformed));
    }

    #[test]
    fn keys_are_chosen_by_kid() {
        let keys = verifier(&[(Some("old"), OLD), (Some("new"), NEW)], None, None);
        let signed = |kid: Option<&str>, secret| token(&json!({"alg": "HS256", "kid": kid}), &claims(&json!({})), secret);
        check(&keys, &signed(Some("old"), OLD), Ok("42"));
        check(&keys, &signed(Some("new"), NEW), Ok("42"));
        check(&keys, &signed(Some("new"), OLD), Err(AuthError::BadSignature));
        check(&keys, &signed(None, OLD), Err(AuthError::UnknownKey));
        let with_default = verifier(&[(None, OLD), (Some("new"), NEW)], None, None);
        check(&with_default, &signed(None, OLD), Ok("42"));
        check(&with_default, &signed(None, NEW), Err(AuthError::BadSignature));
        let only = verifier(&[(Some("new"), NEW)], None, None);
        check(&only, &signed(None, NEW), Ok("42"));
        let replaced = verifier(&[(None, NEW), (None, OLD)], None, None);
        check(&replaced, &signed(None, OLD), Ok("42"));
        check(&verifier(&[], None, None), &signed(None, OLD), Err(AuthError::UnknownKey));
    }

    #[test]
    fn audience_and_issuer_are_checked_when_configured() {
        let strict = verifier(&[(None, OLD)], Some("tarishi"), Some("backend"));
        let signed = |changes: &Value| token(&json!({"alg": "HS256"}), &claims(changes), OLD);
        check(&strict, &signed(&json!({"aud": "tarishi", "iss": "backend"})), Ok("42"));
        check(&strict, &signed(&json!({"aud": ["other", "tarishi"], "iss": "backend"})), Ok("42"));
        check(&strict, &signed(&json!({"aud": "other", "iss": "backend"})), Err(AuthError::WrongAudience));
        check(&strict, &signed(&json!({"aud": "tarishi", "iss": "other"})), Err(AuthError::WrongIssuer));
        check(&strict, &signed(&json!({"aud": "tarishi"})), Err(AuthError::WrongIssuer));
        check(&strict, &signed(&json!({"iss": "backend"})), Err(AuthError::WrongAudience));
    }

    #[test]
    fn a_development_token_is_good_until_it_expires() {
        let now = Timestamp::from_millis(NOW * 1000);
        let user: UserId = "42".parse().unwrap();
        let token = sign_development_token(&NEW.into(), Some("new"), &user, Duration::from_mins(1), now);
        let keys = verifier(&[(Some("old"), OLD), (Some("new"), NEW)], None, None);
        let identity = keys.verify(&token, now).unwrap();
        assert_eq!(identity.user_id, user);
        assert_eq!(identity.expires_at, now.saturating_add(Duration::from_secs(65)));
        assert!(identity.jti.is_some());
        assert_eq!(keys.verify(&token, identity.expires_at), Err(AuthError::Expired));
    }

    #[track_caller]
    fn check_source(uri: &str, headers: &[(&str, &str)], expected: Option<&str>) {
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        assert_eq!(token_from(&parts).as_ref().map(SecretString::expose_secret), expected, "{uri} {headers:?}");
    }

    #[test]
    fn tokens_come_from_the_query_the_header_or_the_subprotocol() {
        check_source("/ws", &[], None);
        check_source("/ws?token=a.b.c&v=1", &[("authorization", "Bearer x.y.z")], Some("a.b.c"));
        check_source("/ws?v=1&token=a%2Eb.c", &[], Some("a.b.c"));
        check_source("/ws", &[("authorization", "bearer x.y.z")], Some("x.y.z"));
        check_source("/ws", &[("authorization", "Basic x")], None);
        check_source("/ws", &[("sec-websocket-protocol", "tarishi.v1, bearer, x.y.z")], Some("x.y.z"));
        check_source("/ws", &[("sec-websocket-protocol", "bearer"), ("sec-websocket-protocol", "x.y.z")], Some("x.y.z"));
        check_source("/ws", &[("sec-websocket-protocol", "tarishi.v1")], None);
    }

    #[tokio::test]
    async fn routes_for_users_know_the_user_or_answer_401() {
        let app = Router::new()
            .route("/me", get(|Extension(identity): Extension<Identity>| async move { identity.user_id.to_string() }))
            .layer(middleware::from_fn_with_state(Arc::new(plain()), require_user));
        let token = sign_development_token(&OLD.into(), None, &"42".parse().unwrap(), Duration::from_mins(1), Timestamp::now());
        for (authorization, status, body) in [
            (format!("Bearer {token}"), StatusCode::OK, "42"),
            ("Bearer nonsense".to_owned(), StatusCode::UNAUTHORIZED, r#"{"error":"not a token"}"#),
            (String::new(), StatusCode::UNAUTHORIZED, r#"{"error":"no token"}"#),
        ] {
            let request = http::Request::get("/me").header(AUTHORIZATION, authorization).body(Body::empty()).unwrap();
            let response = app.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), status);
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), body);
        }
    }
}
