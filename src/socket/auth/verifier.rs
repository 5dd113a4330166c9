//! Whether a token is good: signed by one of our keys in the way that key is for, in time, of the right kind, not revoked.
//!
//! Checking is synchronous and takes no lock that anybody holds for long: key sets are swapped whole ([`super::jwks`]).

use std::{marker::PhantomData, sync::Arc, time::Duration};

use aws_lc_rs::hmac;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, crypto, encode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{
    Deserialize,
    de::{DeserializeSeed, IgnoredAny},
};
use serde_json::{Value, json};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    AuthError, Identity, Revocations,
    claims::{Claim, ClaimNames, Claims},
    jwks::{Key, KeySet, Material},
};
use crate::{
    config::{Algorithm, KeySource},
    model::{Timestamp, UserId},
};

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
    /// The claim that lists the topics its holder may follow.
    pub topics_claim: String,
    /// Checked, and then required, only when set.
    pub audience: Option<String>,
    /// Checked, and then required, only when set.
    pub issuer: Option<String>,
    /// How often key sets are fetched.
    pub jwks_refresh: Duration,
}

/// A key, or a set of keys.
#[derive(Debug)]
pub struct JwtKeySettings {
    pub kid: Option<String>,
    /// What it is for; of a set, what its keys may be for.
    pub algorithms: Vec<Algorithm>,
    pub source: KeySource,
}

impl JwtSettings {
    /// These keys, and what `config/default.toml` says of the rest.
    pub fn of(keys: Vec<JwtKeySettings>) -> Self {
        Self {
            keys,
            leeway: Duration::from_secs(5),
            user_claim: "user_id".to_owned(),
            topics_claim: "topics".to_owned(),
            audience: None,
            issuer: None,
            jwks_refresh: Duration::from_mins(10),
        }
    }
}

impl JwtKeySettings {
    pub fn hs256(kid: Option<&str>, secret: &SecretString) -> Self {
        Self { kid: kid.map(str::to_owned), algorithms: vec![Algorithm::HS256], source: KeySource::Secret(secret.clone()) }
    }
}

/// A key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("key {index} cannot be used: {reason}")]
pub struct BadKey {
    pub index: usize,
    pub reason: String,
}

/// Checks tokens against the configured keys.
#[derive(Debug)]
pub struct JwtVerifier {
    keys: Vec<Key>,
    sets: Vec<KeySet>,
    audience: Option<String>,
    issuer: Option<String>,
    leeway: Duration,
    claims: ClaimNames,
    revocations: Arc<Revocations>,
}

impl JwtVerifier {
    /// # Errors
    /// A public key is not one of its algorithm's.
    pub fn new(settings: &JwtSettings, revocations: Arc<Revocations>) -> Result<Self, BadKey> {
        let (mut keys, mut sets) = (Vec::new(), Vec::new());
        for (index, key) in settings.keys.iter().enumerate() {
            let bad = |reason: String| BadKey { index, reason };
            let fixed = |algorithm, material| Key { kid: key.kid.clone(), algorithm, material };
            let algorithm = *key.algorithms.first().ok_or_else(|| bad("it is for no algorithm".to_owned()))?;
            match &key.source {
                KeySource::Secret(secret) => {
                    let hash = hash(algorithm).ok_or_else(|| bad(format!("{algorithm} needs a public key")))?;
                    let secret = hmac::Key::new(hash, secret.expose_secret().as_bytes());
                    keys.push(fixed(algorithm, Material::Secret(Box::new(secret))));
                }
                KeySource::PublicKey(pem) => {
                    let read = algorithm.read_pem(pem).map_err(|error| bad(error.to_string()))?;
                    keys.push(fixed(algorithm, Material::Public(read)));
                }
                set @ (KeySource::JwksFile(_) | KeySource::JwksUrl(_)) => {
                    sets.push(KeySet::new(set, key.algorithms.clone(), settings.jwks_refresh).map_err(bad)?);
                }
            }
        }
        Ok(Self {
            keys,
            sets,
            audience: settings.audience.clone(),
            issuer: settings.issuer.clone(),
            leeway: settings.leeway,
            claims: ClaimNames::new(&settings.user_claim, &settings.topics_claim),
            revocations,
        })
    }

    /// Fetches every key set for the first time. Takes no longer than one fetch may; what cannot be had is told and tried again by
    /// [`Self::keep_keys`].
    pub async fn load_keys(&self) {
        futures_util::future::join_all(self.sets.iter().map(KeySet::load)).await;
    }

    /// Keeps the key sets fresh until `stop`.
    pub async fn keep_keys(&self, stop: CancellationToken) {
        futures_util::future::join_all(self.sets.iter().map(|set| set.keep(&stop))).await;
    }

    /// What has been revoked.
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Identity, AuthError> {
        let claims = self.verified_claims(token)?;
        let identity = self.check_claims(&claims, now)?;
        if self.revocations.cover(&identity, now) { Err(AuthError::Revoked) } else { Ok(identity) }
    }

    /// The claims of a token whose signature is one of our keys'.
    ///
    /// Taken apart here and not by the library's `decode`, which reads the header three times and the claims twice, and makes the key ready
    /// each time: of what a connect costs, this is the largest part.
    fn verified_claims(&self, token: &str) -> Result<Claims, AuthError> {
        if token.len() > TOKEN_LIMIT {
            return Err(AuthError::Malformed);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(AuthError::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(AuthError::Malformed)?;
        // Of the header only `kid` is used. An `alg` of "none" is unknown to the library, and any other than the key's own fails below;
        // keys that the token itself brings or points to (`jwk`, `jku`, `x5u`) are never looked at.
        let header: Header = read_part(header, PhantomData)?;
        if header.crit.is_some() {
            // Extensions that must be understood (RFC 7515, section 4.1.11); we understand none.
            return Err(AuthError::Malformed);
        }
        let sets: Vec<Arc<[Key]>> = self.sets.iter().map(KeySet::keys).collect();
        let keys = || self.keys.iter().chain(sets.iter().flat_map(|keys| keys.iter()));
        let kid = header.kid.as_deref();
        let is_only = kid.is_none() && keys().nth(1).is_none();
        let mut refusal = AuthError::UnknownKey;
        for key in keys().filter(|key| is_only || key.kid.as_deref() == kid) {
            refusal = if header.alg == library_name(key.algorithm) {
                match has_signed(key, message, signature) {
                    Some(true) => return read_part(claims, &self.claims),
                    Some(false) => AuthError::BadSignature,
                    None => return Err(AuthError::Malformed),
                }
            } else {
                AuthError::WrongAlgorithm
            };
        }
        if refusal == AuthError::UnknownKey {
            // A new key, perhaps, that the token's issuer has begun to use.
            self.sets.iter().for_each(KeySet::want);
        }
        Err(refusal)
    }

    /// Whom the claims name, if they do, and if now is their time.
    fn check_claims(&self, claims: &Claims, now: Timestamp) -> Result<Identity, AuthError> {
        let is_wrong = |claim, expected: &Option<String>| {
            expected.as_deref().is_some_and(|expected| !claims.get(claim).is_some_and(|value| names(value, expected)))
        };
        if is_wrong(Claim::Issuer, &self.issuer) {
            return Err(AuthError::WrongIssuer);
        }
        if is_wrong(Claim::Audience, &self.audience) {
            return Err(AuthError::WrongAudience);
        }
        let expires_at = claims.get(Claim::ExpiresAt).and_then(moment).ok_or(AuthError::NoExpiry)?.saturating_add(self.leeway);
        if now >= expires_at {
            return Err(AuthError::Expired);
        }
        if let Some(not_before) = claims.get(Claim::NotBefore) {
            let not_before = moment(not_before).ok_or(AuthError::Malformed)?;
            if now.saturating_add(self.leeway) < not_before {
                return Err(AuthError::NotYetValid);
            }
        }
        if claims.get(Claim::Kind).is_some_and(|kind| kind != ACCESS_TOKEN) {
            return Err(AuthError::WrongType);
        }
        let user = claims.get(Claim::User).ok_or(AuthError::NoUser)?;
        let user_id = UserId::deserialize(user).map_err(|_| AuthError::NoUser)?;
        Ok(Identity {
            user_id,
            expires_at,
            issued_at: claims.get(Claim::IssuedAt).and_then(moment),
            jti: claims.get(Claim::Id).and_then(Value::as_str).map(str::to_owned),
            topics: topics(claims.get(Claim::Topics)),
        })
    }
}

const fn library_name(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    match algorithm {
        Algorithm::HS256 => jsonwebtoken::Algorithm::HS256,
        Algorithm::HS384 => jsonwebtoken::Algorithm::HS384,
        Algorithm::HS512 => jsonwebtoken::Algorithm::HS512,
        Algorithm::RS256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::ES256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::EdDSA => jsonwebtoken::Algorithm::EdDSA,
    }
}

/// The hash of an algorithm with a secret.
fn hash(algorithm: Algorithm) -> Option<hmac::Algorithm> {
    match algorithm {
        Algorithm::HS256 => Some(hmac::HMAC_SHA256),
        Algorithm::HS384 => Some(hmac::HMAC_SHA384),
        Algorithm::HS512 => Some(hmac::HMAC_SHA512),
        Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA => None,
    }
}

/// Of a token's header, what is looked at.
#[derive(Deserialize)]
struct Header {
    alg: jsonwebtoken::Algorithm,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

/// The header, or the claims: JSON in Base64 (RFC 7515, section 7.1).
fn read_part<T>(part: &str, seed: impl for<'de> DeserializeSeed<'de, Value = T>) -> Result<T, AuthError> {
    let json = BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| AuthError::Malformed)?;
    let mut json = serde_json::Deserializer::from_slice(&json);
    let read = seed.deserialize(&mut json).map_err(|_| AuthError::Malformed)?;
    json.end().map_err(|_| AuthError::Malformed)?;
    Ok(read)
}

/// Whether `signature` is the key's for `message`; `None` when it is none at all.
fn has_signed(key: &Key, message: &str, signature: &str) -> Option<bool> {
    match &key.material {
        Material::Secret(secret) => {
            let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).ok()?;
            Some(hmac::verify(secret, message.as_bytes(), &signature).is_ok())
        }
        Material::Public(public) => crypto::verify(signature, message.as_bytes(), public, library_name(key.algorithm)).ok(),
    }
}

/// Whether `claim` is `expected`, or lists it (RFC 7519, section 4.1.3).
fn names(claim: &Value, expected: &str) -> bool {
    match claim {
        Value::Array(listed) => listed.iter().any(|one| one == expected),
        one => one == expected,
    }
}

/// The topics a claim lists. What is no list of names lists none: other systems may mean something else by the same word.
fn topics(claim: Option<&Value>) -> Arc<[String]> {
    let listed = claim.and_then(Value::as_array).into_iter().flatten();
    listed.filter_map(Value::as_str).filter(|topic| !topic.is_empty()).map(str::to_owned).collect()
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
    let header = jsonwebtoken::Header { kid: kid.map(str::to_owned), ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256) };
    encode(&header, &claims, &EncodingKey::from_secret(secret.expose_secret().as_bytes())).expect("an HMAC key signs any JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Revocation, Revoked};

    const OLD: &str = "an old secret of more than thirty-two bytes";
    const NEW: &str = "a new secret of more than thirty-two bytes!";
    /// Thursday, 15 January 2026, 10:30 UTC.
    const NOW: i64 = 1_768_473_000;

    fn verifier(keys: &[(Option<&str>, &str)], audience: Option<&str>, issuer: Option<&str>) -> JwtVerifier {
        let key = |(kid, secret): &(Option<&str>, &str)| JwtKeySettings::hs256(*kid, &(*secret).into());
        let settings = JwtSettings {
            leeway: Duration::from_secs(5),
            audience: audience.map(str::to_owned),
            issuer: issuer.map(str::to_owned),
            ..JwtSettings::of(keys.iter().map(key).collect())
        };
        JwtVerifier::new(&settings, none_revoked()).unwrap()
    }

    fn none_revoked() -> Arc<Revocations> {
        Arc::new(Revocations::new(Duration::from_hours(1), []))
    }

    fn plain() -> JwtVerifier {
        verifier(&[(None, OLD)], None, None)
    }

    fn token(header: &Value, claims: &Value, secret: &str) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &EncodingKey::from_secret(secret.as_bytes()), jsonwebtoken::Algorithm::HS256)
                .unwrap();
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
        check_header(&json!({"alg": "HS512"}), OLD, Err(AuthError::WrongAlgorithm));
        check_header(&json!({"alg": "RS256"}), OLD, Err(AuthError::WrongAlgorithm));
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
        for (header, claims) in [(r#"{"alg":"HS256"} {}"#, "{}"), (r#"{"alg":"HS256"}"#, r#"{"exp":9} x"#)] {
            let message = format!("{}.{}", BASE64_URL_SAFE_NO_PAD.encode(header), BASE64_URL_SAFE_NO_PAD.encode(claims));
            let key = EncodingKey::from_secret(OLD.as_bytes());
            let signature = crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::HS256).unwrap();
            check(&plain(), &format!("{message}.{signature}"), Err(AuthError::Malformed));
        }
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
    fn hmac_keys_are_each_for_one_hash() {
        use jsonwebtoken::Algorithm as Signed;
        let settings = |algorithm| {
            let key = JwtKeySettings { algorithms: vec![algorithm], ..JwtKeySettings::hs256(None, &OLD.into()) };
            JwtVerifier::new(&JwtSettings::of(vec![key]), none_revoked()).unwrap()
        };
        let hashes = [(Algorithm::HS256, Signed::HS256), (Algorithm::HS384, Signed::HS384), (Algorithm::HS512, Signed::HS512)];
        for (algorithm, _) in hashes {
            for (other, signed) in hashes {
                let key = EncodingKey::from_secret(OLD.as_bytes());
                let token = encode(&jsonwebtoken::Header::new(signed), &claims(&json!({})), &key).unwrap();
                check(&settings(algorithm), &token, if algorithm == other { Ok("42") } else { Err(AuthError::WrongAlgorithm) });
            }
        }
    }

    #[test]
    fn keys_that_are_not_their_algorithms_are_refused() {
        let bad = |algorithms: &[Algorithm], source: KeySource| {
            let key = JwtKeySettings { kid: None, algorithms: algorithms.to_vec(), source };
            JwtVerifier::new(&JwtSettings::of(vec![key]), none_revoked()).unwrap_err().index
        };
        assert_eq!(bad(&[Algorithm::RS256], KeySource::Secret(OLD.into())), 0);
        assert_eq!(bad(&[Algorithm::RS256], KeySource::PublicKey("no PEM".to_owned())), 0);
        assert_eq!(bad(&[Algorithm::HS256], KeySource::PublicKey("no PEM".to_owned())), 0);
        assert_eq!(bad(&[], KeySource::Secret(OLD.into())), 0);
    }

    #[track_caller]
    fn check_topics(claim: &Value, expected: &[&str]) {
        let signed = token(&json!({"alg": "HS256"}), &claims(&json!({ "topics": claim })), OLD);
        let identity = plain().verify(&signed, Timestamp::from_millis(NOW * 1000)).unwrap();
        assert_eq!(*identity.topics, *expected, "{claim}");
        assert_eq!(identity.issued_at, Some(Timestamp::from_millis(NOW * 1000)));
    }

    #[test]
    fn topics_are_names_in_a_list_and_all_else_is_none() {
        check_topics(&json!(["city.dar", "city.*"]), &["city.dar", "city.*"]);
        check_topics(&json!(["city.dar", 7, "", ["x"]]), &["city.dar"]);
        for other in [json!("city.dar"), json!({"a": "b"}), json!(7), json!(null), json!([])] {
            check_topics(&other, &[]);
        }
    }

    #[test]
    fn a_revoked_token_is_refused_and_only_then() {
        let at = |second: i64| Timestamp::from_millis(second * 1000);
        let what = Revoked::UserId("42".parse().unwrap());
        let revocation = Revocation { id: 1, what, reason: None, revoked_by: "loopback".to_owned(), revoked_at: at(NOW) };
        let revocations = Arc::new(Revocations::new(Duration::from_hours(1), [revocation]));
        let verifier = JwtVerifier::new(&JwtSettings::of(vec![JwtKeySettings::hs256(None, &OLD.into())]), revocations).unwrap();
        let signed = |changes: &Value| token(&json!({"alg": "HS256"}), &claims(changes), OLD);
        check(&verifier, &signed(&json!({})), Err(AuthError::Revoked));
        check(&verifier, &signed(&json!({"iat": NOW + 1})), Ok("42"));
        check(&verifier, &signed(&json!({"iat": null})), Err(AuthError::Revoked));
        check(&verifier, &signed(&json!({"iat": "yesterday"})), Err(AuthError::Revoked));
        check(&verifier, &signed(&json!({"user_id": 43})), Ok("43"));
        // What is wrong with it counts before.
        check(&verifier, &signed(&json!({"exp": 0})), Err(AuthError::Expired));
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
}
