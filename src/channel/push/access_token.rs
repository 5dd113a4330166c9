//! The access token that FCM asks for: made from a service account (RFC 7523), kept while it is good, renewed early, by one caller at a
//! time whoever else is waiting.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::{Client, Url, header::HeaderValue};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::{
    channel::http::{self, Answer, config},
    config::is_loopback,
    model::{Code, Outcome, PermanentKind, Timestamp},
};

/// What a token lets its holder do: send messages, nothing else.
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
/// Whom an assertion is for; the same with whatever `token_uri` is asked, as in Google's own libraries.
const AUDIENCE: &str = "https://oauth2.googleapis.com/token";
const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// Seconds an assertion is good.
const ASSERTION_LIFETIME: i64 = 3600;
/// How long before its end a token is renewed.
const EARLY: Duration = Duration::from_mins(5);
/// Longest time a token is believed to be good, whatever its answer says.
const LIFETIME_LIMIT: u64 = 3600;
/// Time one exchange may take, and the share of a message's call that it may take of it.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
const CALL_SHARE: u32 = 4;
/// How long a failed exchange answers for those who waited for it.
const FAILURE_LIFETIME: Duration = Duration::from_secs(2);
/// How long after one that failed a token that is still good is not renewed again.
const EARLY_RETRY: Duration = Duration::from_secs(10);

/// A service account as Google's console makes it.
pub struct ServiceAccount {
    pub project_id: String,
    client_email: String,
    private_key: SecretString,
    private_key_id: String,
    token_uri: Url,
}

/// The file as it is, whatever it lacks.
#[derive(Deserialize)]
struct File {
    r#type: Option<String>,
    project_id: Option<String>,
    client_email: Option<String>,
    private_key: Option<SecretString>,
    private_key_id: Option<String>,
    token_uri: Option<String>,
}

impl ServiceAccount {
    /// # Errors
    /// In words, without any of it: what is wrong with the file.
    pub fn parse(json: &str) -> Result<Self, String> {
        const HINT: &str = "make a new private key in the Firebase console under Project settings, Service accounts";
        let lacks = || format!("lacks a member that service accounts have; hint: {HINT}");
        let file: File =
            serde_json::from_str(json).map_err(|error| if error.is_data() { lacks() } else { format!("is not JSON; hint: {HINT}") })?;
        if file.r#type.as_deref() != Some("service_account") {
            return Err(format!("is not a service account; hint: {HINT}"));
        }
        let token_uri = file.token_uri.ok_or_else(lacks)?;
        let account = Self {
            project_id: file.project_id.ok_or_else(lacks)?,
            client_email: file.client_email.ok_or_else(lacks)?,
            private_key: file.private_key.ok_or_else(lacks)?,
            private_key_id: file.private_key_id.ok_or_else(lacks)?,
            token_uri: parse_token_uri(&token_uri).map_err(|problem| format!("has a token_uri that {problem}; hint: {HINT}"))?,
        };
        account.key().map_err(|_| format!("has a private key that is none; hint: {HINT}"))?;
        Ok(account)
    }

    fn key(&self) -> jsonwebtoken::errors::Result<EncodingKey> {
        EncodingKey::from_rsa_pem(self.private_key.expose_secret().as_bytes())
    }
}

/// Where assertions go, which are as good as the key for an hour: over TLS, or to this machine.
fn parse_token_uri(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "is no URL")?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(text) => Ok(url),
        _ => Err("is not https"),
    }
}

/// A token, as the header that carries it.
#[derive(Clone, Debug)]
pub struct AccessToken {
    pub authorization: HeaderValue,
    refresh_at: Instant,
    expires_at: Instant,
}

/// The tokens of one account.
pub struct AccessTokens {
    client: Client,
    client_email: String,
    private_key_id: String,
    token_uri: Url,
    key: EncodingKey,
    exchange_timeout: Duration,
    current: RwLock<Option<Arc<AccessToken>>>,
    /// Held by the one that exchanges; what it came to, for those who waited. Across the await on purpose: it makes the flight single.
    exchange: Mutex<Option<(Instant, Outcome)>>,
}

impl AccessTokens {
    /// `call_timeout` is what one attempt at a message may take, its token included. The key's text is not kept.
    ///
    /// # Errors
    /// In words: what of the account cannot be used.
    pub fn new(account: ServiceAccount, call_timeout: Duration) -> Result<Self, String> {
        let key = account.key().map_err(|_| "the private key is none".to_owned())?;
        let ServiceAccount { client_email, private_key_id, token_uri, .. } = account;
        let client = http::builder(token_uri.as_str()).connect_timeout(http::connect_timeout(call_timeout)).build();
        Ok(Self {
            client: client.map_err(|error| format!("no HTTP client can be made: {}", http::innermost(&error)))?,
            client_email,
            private_key_id,
            token_uri,
            key,
            exchange_timeout: EXCHANGE_TIMEOUT.min(call_timeout / CALL_SHARE),
            current: RwLock::new(None),
            exchange: Mutex::new(None),
        })
    }

    /// A token that is good for a while.
    ///
    /// # Errors
    /// The outcome of a message that cannot be sent for want of one: it has not left.
    pub async fn get(&self) -> Result<Arc<AccessToken>, Outcome> {
        self.get_at(Instant::now()).await
    }

    /// As [`Self::get`], as of `now`.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn get_at(&self, now: Instant) -> Result<Arc<AccessToken>, Outcome> {
        match self.current(now) {
            Some(current) if now < current.refresh_at => Ok(current),
            Some(current) => Ok(Box::pin(self.renew_early(current, now)).await),
            None => Box::pin(self.renew(None, now)).await,
        }
    }

    /// It is still good: one renews it, the others use it meanwhile, and so does that one if it cannot. Then nobody tries for a while.
    async fn renew_early(&self, current: Arc<AccessToken>, now: Instant) -> Arc<AccessToken> {
        let Ok(mut failure) = self.exchange.try_lock() else { return current };
        if let Some(renewed) = self.current(now).filter(|token| now < token.refresh_at) {
            return renewed;
        }
        if failure.as_ref().is_some_and(|(at, _)| now.saturating_duration_since(*at) < EARLY_RETRY) {
            return current;
        }
        let fetched = self.fetch(now).await;
        *failure = fetched.as_ref().err().map(|outcome| (now, outcome.clone()));
        fetched.unwrap_or(current)
    }

    /// A token other than `refused`, which FCM did not take.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn renew(&self, refused: Option<&Arc<AccessToken>>, now: Instant) -> Result<Arc<AccessToken>, Outcome> {
        let mut failure = self.exchange.lock().await;
        if let Some(current) = self.current(now)
            && refused.is_none_or(|refused| !Arc::ptr_eq(refused, &current))
        {
            return Ok(current);
        }
        if let Some((at, outcome)) = &*failure
            && now.saturating_duration_since(*at) < FAILURE_LIFETIME
        {
            return Err(outcome.clone());
        }
        let fetched = self.fetch(now).await;
        *failure = fetched.as_ref().err().map(|outcome| (Instant::now().max(now), outcome.clone()));
        fetched
    }

    fn current(&self, now: Instant) -> Option<Arc<AccessToken>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        current.filter(|token| now < token.expires_at)
    }

    async fn fetch(&self, asked_at: Instant) -> Result<Arc<AccessToken>, Outcome> {
        let form = [("grant_type", GRANT_TYPE.to_owned()), ("assertion", self.assertion(Timestamp::now())?)];
        let request = self.client.post(self.token_uri.clone()).form(&form);
        // Over all of it: what reqwest's own limit leaves out is the rest of an answer.
        let answered = tokio::time::timeout(self.exchange_timeout, http::exchange(request)).await;
        let late = |_| Outcome::Unknown { code: Code::TIMEOUT, detail: format!("no answer within {:?}", self.exchange_timeout) };
        let answer = answered.map_err(late).flatten().map_err(|outcome| not_sent(&outcome))?;
        let token = Arc::new(read(&answer, asked_at)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
        Ok(token)
    }

    fn assertion(&self, now: Timestamp) -> Result<String, Outcome> {
        #[derive(Serialize)]
        struct Claims<'a> {
            iss: &'a str,
            scope: &'a str,
            aud: &'a str,
            iat: i64,
            exp: i64,
        }
        let header = Header { kid: Some(self.private_key_id.clone()), ..Header::new(Algorithm::RS256) };
        let iat = now.as_millis() / 1000;
        let claims = Claims { iss: &self.client_email, scope: SCOPE, aud: AUDIENCE, iat, exp: iat + ASSERTION_LIFETIME };
        jsonwebtoken::encode(&header, &claims, &self.key)
            .map_err(|error| config(Code::AUTHENTICATION_FAILED, format!("the service account's key does not sign: {error}")))
    }
}

#[derive(Deserialize)]
struct Issued {
    access_token: String,
    expires_in: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refused {
    error: String,
    error_description: String,
}

fn read(answer: &Answer, asked_at: Instant) -> Result<AccessToken, Outcome> {
    if answer.status.as_u16() == 200
        && let Some(Issued { access_token, expires_in }) = answer.json()
        && let Ok(authorization) = http::secret_header(&format!("Bearer {access_token}"))
    {
        let lifetime = Duration::from_secs(expires_in.min(LIFETIME_LIMIT));
        let good = lifetime.saturating_sub(EARLY).max(lifetime / 2);
        return Ok(AccessToken { authorization, refresh_at: asked_at + good, expires_at: asked_at + lifetime });
    }
    let Refused { error, error_description } = answer.json().unwrap_or_default();
    let words = format!("access token: {error} {error_description}");
    if answer.status.is_client_error() && answer.status.as_u16() != 429 && answer.status.as_u16() != 408 {
        let hint = "is the service account still there, and this machine's clock right?";
        return Err(config(Code::AUTHENTICATION_FAILED, format!("{}; {hint}", answer.detail(&words))));
    }
    Err(not_sent(&answer.by_status(&words, Timestamp::now())))
}

/// Nothing of the message has left when its token could not be had; and whatever was refused then, it was not the message.
fn not_sent(outcome: &Outcome) -> Outcome {
    let told = |detail: &str| if detail.contains("access token") { detail.to_owned() } else { format!("access token: {detail}") };
    match outcome {
        Outcome::Unknown { code, detail } => Outcome::Transient { code: *code, detail: told(detail), retry_after: None },
        Outcome::Permanent { kind: PermanentKind::Address | PermanentKind::Payload, detail, .. } => {
            config(Code::CONFIG_REFUSED, told(detail))
        }
        Outcome::Permanent { kind: PermanentKind::Config, code, detail } => config(*code, told(detail)),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use reqwest::{StatusCode, header::HeaderMap};

    use super::*;
    use crate::model::PermanentKind;

    fn answer(status: u16, body: &str) -> Answer {
        let status = StatusCode::from_u16(status).unwrap();
        Answer { status, headers: HeaderMap::new(), body: body.as_bytes().to_vec(), is_whole: true }
    }

    #[test]
    fn a_token_is_renewed_early_and_never_believed_too_long() {
        let now = Instant::now();
        let issued = |seconds: u64| read(&answer(200, &format!(r#"{{"access_token":"t","expires_in":{seconds}}}"#)), now).unwrap();
        assert_eq!(issued(3599).refresh_at, now + Duration::from_secs(3599 - 300));
        assert_eq!(issued(100).refresh_at, now + Duration::from_secs(50));
        assert_eq!(issued(u64::MAX).expires_at, now + Duration::from_hours(1));
        assert!(!format!("{:?}", issued(3599)).contains("Bearer"));
    }

    #[track_caller]
    fn check(status: u16, body: &str, expected: &str) {
        let outcome = read(&answer(status, body), Instant::now()).unwrap_err();
        let told = match &outcome {
            Outcome::Permanent { kind: PermanentKind::Config, .. } => "config",
            other => other.as_str(),
        };
        assert_eq!(told, expected, "{status} {body}: {outcome:?}");
    }

    #[test]
    fn a_refused_exchange_is_ours_to_mend_and_a_broken_one_passes() {
        check(400, r#"{"error":"invalid_grant","error_description":"Invalid JWT Signature."}"#, "config");
        check(401, r#"{"error":"invalid_client"}"#, "config");
        check(429, "", "transient");
        check(500, "", "transient");
        check(502, "<html>", "transient");
        check(503, "", "transient");
        check(200, "<html>", "transient");
        check(200, r#"{"access_token":"a\nb","expires_in":3599}"#, "transient");
    }

    #[test]
    fn a_message_is_never_to_blame_for_its_token() {
        for kind in [PermanentKind::Address, PermanentKind::Payload, PermanentKind::Config] {
            let outcome = not_sent(&Outcome::Permanent { kind, code: Code::PAYLOAD_REFUSED, detail: "why".to_owned() });
            assert!(matches!(&outcome, Outcome::Permanent { kind: PermanentKind::Config, detail, .. } if detail == "access token: why"));
        }
    }

    #[test]
    fn assertions_go_over_tls_or_to_this_machine() {
        for (uri, expected) in [
            ("https://oauth2.googleapis.com/token", Ok(())),
            ("http://127.0.0.1:8090/token", Ok(())),
            ("http://[::1]:8090/token", Ok(())),
            ("http://oauth2.googleapis.com/token", Err("is not https")),
            ("file:///etc/passwd", Err("is not https")),
            ("oauth2.googleapis.com/token", Err("is no URL")),
            ("https://", Err("is no URL")),
            ("", Err("is no URL")),
        ] {
            assert_eq!(parse_token_uri(uri).map(|_| ()), expected, "{uri}");
        }
    }

    #[test]
    fn a_file_that_is_no_service_account_is_told_without_its_text() {
        for (json, expected) in [
            ("x", "is not JSON"),
            (r#"{"type":"authorized_user"}"#, "is not a service account"),
            (r#"{"type":"service_account","project_id":"p"}"#, "lacks a member"),
            (r#"{"type":"service_account","project_id":7}"#, "lacks a member"),
            (
                r#"{"type":"service_account","project_id":"p","client_email":"e","private_key":"hush","private_key_id":"k","token_uri":"u"}"#,
                "has a token_uri that is no URL",
            ),
            (
                r#"{"type":"service_account","project_id":"p","client_email":"e","private_key":"hush","private_key_id":"k","token_uri":"https://u"}"#,
                "has a private key that is none",
            ),
        ] {
            let told = ServiceAccount::parse(json).err().unwrap();
            assert!(told.contains(expected) && !told.contains("hush"), "{told}");
        }
    }
}
