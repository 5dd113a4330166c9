//! Google's OAuth token endpoint: signed assertions in, access tokens out (RFC 7523), and which of those are good.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    exchange::{self, Checked, Received, Refused, Reply, Taken},
    server::Clouds,
};
use crate::model::Timestamp;

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// What Google's own libraries write as the audience, whatever the `token_uri`.
const GOOGLE_AUDIENCE: &str = "https://oauth2.googleapis.com/token";
const SCOPES: [&str; 2] = ["https://www.googleapis.com/auth/firebase.messaging", "https://www.googleapis.com/auth/cloud-platform"];
/// An assertion may be good for an hour, and clocks differ.
const ASSERTION_LIMIT: i64 = 3600 + 300;
/// Google gives an hour, less the second it took.
const LIFETIME: Duration = Duration::from_secs(3599);
/// Access tokens good at once; the oldest goes first.
const TOKENS_LIMIT: usize = 1_000;

/// Access tokens that were given out.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<VecDeque<(String, Instant)>>);

impl Tokens {
    fn issue(&self) -> String {
        let token = format!("ya29.mock-{}", Uuid::now_v7().simple());
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() == TOKENS_LIMIT {
            tokens.pop_front();
        }
        tokens.push_back((token.clone(), Instant::now() + LIFETIME));
        token
    }

    pub fn are_good(&self, token: &str) -> bool {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The newest is the one in use.
        tokens.iter().rev().any(|(known, until)| known == token && *until > Instant::now())
    }

    /// From now on this one is not good.
    pub fn revoke(&self, token: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| known != token);
    }
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    scope: String,
    iat: i64,
    exp: i64,
}

/// `POST /token`.
pub(super) fn exchange_assertion(received: &Received, clouds: &Clouds) -> Checked {
    let form = received.form();
    let field = |wanted: &str| form.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let claims = match (field("grant_type"), field("assertion")) {
        (Some(GRANT_TYPE), Some(assertion)) => claims(assertion, clouds),
        (Some(GRANT_TYPE), None) => Err(("invalid_request", "Missing required parameter: assertion".to_owned())),
        (given, _) => Err(("unsupported_grant_type", format!("Invalid grant_type: {}", given.unwrap_or_default()))),
    };
    let to = claims.as_ref().map(|claims| claims.iss.clone()).ok();
    let outcome = match claims {
        Ok(_) => {
            let body = json!({ "access_token": clouds.tokens.issue(), "expires_in": LIFETIME.as_secs(), "token_type": "Bearer" });
            Ok(Taken { reply: exchange::json(200, &body), is_counted: true, subject: None })
        }
        Err((kind, description)) => Err(Refused { reply: error(400, kind, &description), reason: format!("{kind}: {description}") }),
    };
    // The assertion is a credential, and is not kept.
    let body = json!({ "grant_type": field("grant_type") });
    Checked { to: to.into_iter().collect(), delivery_id: None, body, outcome }
}

/// An error as OAuth endpoints write it (RFC 6749, section 5.2).
pub(super) fn error(status: u16, error: &str, description: &str) -> Reply {
    exchange::json(status, &json!({ "error": error, "error_description": description }))
}

/// The answer to a signature that it does not know.
pub(super) fn bad_credentials() -> Reply {
    error(400, "invalid_grant", "Invalid JWT Signature.")
}

/// What an assertion claims, once all of it is as it should be.
fn claims(assertion: &str, clouds: &Clouds) -> Result<Claims, (&'static str, String)> {
    let invalid = |why: &str| ("invalid_grant", why.to_owned());
    let header = decode_header(assertion).map_err(|_| invalid("Invalid JWT: failed to decode."))?;
    if header.kid.is_none_or(|kid| kid != clouds.keys.private_key_id) {
        return Err(invalid("Invalid JWT Signature."));
    }
    // Times are looked at below: Google tells them apart.
    let mut validation = Validation::new(Algorithm::RS256);
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    // Signed, but not the claims that are wanted, is told apart from badly signed.
    let claims: Value = decode(assertion, &clouds.keys.service_account, &validation).map_err(|_| invalid("Invalid JWT Signature."))?.claims;
    let claims: Claims = serde_json::from_value(claims).map_err(|error| invalid(&format!("Invalid JWT: {error}")))?;
    let now = Timestamp::now().as_millis() / 1000;
    if claims.iss != clouds.keys.client_email {
        return Err(("invalid_grant", "Invalid grant: account not found".to_owned()));
    }
    if claims.aud != GOOGLE_AUDIENCE && claims.aud != clouds.token_uri {
        return Err(invalid("Invalid JWT: Failed audience check."));
    }
    if claims.exp <= now || claims.iat > now + 300 || claims.exp - claims.iat > ASSERTION_LIMIT {
        let why = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.";
        return Err(invalid(why));
    }
    if !claims.scope.split(' ').any(|scope| SCOPES.contains(&scope)) {
        return Err(("invalid_scope", "Invalid OAuth scope or ID token audience provided.".to_owned()));
    }
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_good_until_they_are_revoked_or_too_many() {
        let tokens = Tokens::default();
        let (first, second) = (tokens.issue(), tokens.issue());
        assert!(tokens.are_good(&first) && tokens.are_good(&second) && !tokens.are_good("ya29.other"));
        tokens.revoke(&second);
        assert!(tokens.are_good(&first) && !tokens.are_good(&second));
        for _ in 0..TOKENS_LIMIT {
            tokens.issue();
        }
        assert!(!tokens.are_good(&first));
    }
}
