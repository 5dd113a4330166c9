//! One HTTP exchange with a provider: bounded, and what went wrong sorted into what cannot have arrived and what may have.
//!
//! It knows no provider's interface. Redirects are not followed: credentials go where the configuration says and nowhere else.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use reqwest::{
    Client, ClientBuilder, RequestBuilder, Response, StatusCode,
    header::{HeaderMap, HeaderValue, RETRY_AFTER},
    redirect,
};
use serde::de::DeserializeOwned;

use crate::{
    config::is_loopback,
    model::{Code, Outcome, PermanentKind, Timestamp, cut},
};

/// Bytes of an answer that are read. The APIs answer in a few hundred.
const ANSWER_LIMIT: usize = 64 << 10;
/// Time the rest of an answer has, once its head is there: what it says is known by then.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time a connection has to come about, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Share of the time a call may take that a connection may take at most: one that does not come about has not brought anything there, and
/// has to be told before the call as a whole is too late, which leaves open what was taken.
const CONNECT_SHARE: u32 = 4;
/// Providers close idle connections after one to several minutes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);
/// Bytes of a provider's words that go into a `detail`.
const DETAIL_LIMIT: usize = 300;
/// Longest wait a provider may ask for; `Retry-After` can hold anything.
const RETRY_AFTER_LIMIT: Duration = Duration::from_hours(24);

/// What a provider answered.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// False when it was cut off, too long or too slow; its status still holds.
    pub is_whole: bool,
}

/// A client for one provider's API.
///
/// # Errors
/// In words, why there can be none.
pub fn client(base_url: &str) -> Result<Client, String> {
    builder(base_url).build().map_err(|error| format!("no HTTP client can be made: {}", innermost(&error)))
}

/// As [`client`], to be told more.
pub fn builder(base_url: &str) -> ClientBuilder {
    let builder = Client::builder()
        .user_agent(concat!("tarishi/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .http2_keep_alive_interval(IDLE_TIMEOUT / 2)
        .http2_keep_alive_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true);
    // A proxy from the environment would be asked for the machine itself.
    if is_loopback(base_url) { builder.no_proxy() } else { builder }
}

/// Time a connection has within a call that may take this long.
pub fn connect_timeout(call_timeout: Duration) -> Duration {
    CONNECT_TIMEOUT.min(call_timeout / CONNECT_SHARE)
}

/// A header that holds a secret, and does not print.
///
/// # Errors
/// The secret has characters that no header may have.
pub fn secret_header(text: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(text).map_err(|_| "has a character that no HTTP header may have".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

/// Sends `request` and reads the answer.
///
/// # Errors
/// The outcome when there is no answer: transient when the request cannot have left, unknown otherwise.
pub async fn exchange(request: RequestBuilder) -> Result<Answer, Outcome> {
    let mut response = request.send().await.map_err(|error| unanswered(&error))?;
    let mut body = Vec::new();
    let is_whole = {
        let mut read = pin!(read(&mut response, &mut body));
        // A short answer is there with its head: only what is not is given time.
        match poll_fn(|context| Poll::Ready(read.as_mut().poll(context))).await {
            Poll::Ready(is_whole) => is_whole,
            Poll::Pending => tokio::time::timeout(ANSWER_TIMEOUT, read).await.unwrap_or(false),
        }
    };
    Ok(Answer { status: response.status(), headers: std::mem::take(response.headers_mut()), body, is_whole })
}

/// Reads as much as there is room for; says whether that is all of it.
async fn read(response: &mut Response, body: &mut Vec<u8>) -> bool {
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk[..chunk.len().min(ANSWER_LIMIT - body.len())]),
            Ok(None) => return true,
            Err(_) => return false,
        }
        if body.len() == ANSWER_LIMIT {
            return false;
        }
    }
}

fn unanswered(error: &reqwest::Error) -> Outcome {
    let detail = cut(&innermost(error), DETAIL_LIMIT);
    if error.is_builder() {
        // What a message says is bytes by now: it is the URL or a header, and those are configured.
        config(Code::CONFIG_REFUSED, format!("no request can be made: {detail}"))
    } else if error.is_connect() {
        Outcome::Transient { code: Code::CONNECTION_FAILED, detail, retry_after: None }
    } else {
        Outcome::Unknown { code: Code::CONNECTION_LOST, detail }
    }
}

/// reqwest's own words name the URL and wrap those of the system, which are the ones that help.
pub fn innermost(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => innermost(source),
        None => error.to_string(),
    }
}

impl Answer {
    /// The body as JSON of this form; `None` when it is anything else.
    pub fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// How long the provider wishes us to wait: seconds or a date (RFC 9110, section 10.2.3). Nonsense is no wish.
    pub fn retry_after(&self, now: Timestamp) -> Option<Duration> {
        let text = self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        let wait = match text.parse::<u64>() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => Timestamp::from(httpdate::parse_http_date(text).ok()?).since(now),
        };
        Some(wait.min(RETRY_AFTER_LIMIT))
    }

    /// What a status says that the provider's interface gives no meaning of its own. `words` are the provider's, if it said any.
    ///
    /// An answer of 500, 502 or 504 leaves open what was done before it: a gateway gives the last two for what it passed on.
    pub fn by_status(&self, words: &str, now: Timestamp) -> Outcome {
        let detail = self.detail(words);
        let retry_after = self.retry_after(now);
        match self.status.as_u16() {
            // 409, 421, 423, 424 and 428 are about the moment or the connection, and not about what was sent.
            408 | 409 | 421 | 423 | 424 | 425 | 428 | 503 => Outcome::Transient { code: Code::PROVIDER_UNAVAILABLE, detail, retry_after },
            429 => Outcome::Transient { code: Code::RATE_LIMITED, detail, retry_after },
            401 | 403 | 407 => config(Code::AUTHENTICATION_FAILED, detail),
            402 => config(Code::QUOTA_EXCEEDED, detail),
            413 => Outcome::Permanent { kind: PermanentKind::Payload, code: Code::TOO_LARGE, detail },
            300..=399 | 404 | 405 | 406 | 410 | 415 => config(Code::CONFIG_REFUSED, format!("{detail}; is base_url right?")),
            400..=499 => Outcome::Permanent { kind: PermanentKind::Payload, code: Code::PAYLOAD_REFUSED, detail },
            500..=599 => Outcome::Unknown { code: Code::PROVIDER_UNAVAILABLE, detail },
            _ => Outcome::Unknown { code: Code::UNEXPECTED_ANSWER, detail },
        }
    }

    /// For people: the status, and the provider's words without what looks like an address.
    pub fn detail(&self, words: &str) -> String {
        let words = without_addresses(words);
        if words.is_empty() {
            format!("answered {}", self.status)
        } else {
            cut(&format!("answered {}: {words}", self.status), DETAIL_LIMIT)
        }
    }
}

/// An outcome that pauses the provider and wakes someone.
pub fn config(code: Code, detail: impl Into<String>) -> Outcome {
    Outcome::Permanent { kind: PermanentKind::Config, code, detail: detail.into() }
}

/// `text` on one line, with `***` for every word that could be an email address, a phone number or a token.
pub fn without_addresses(text: &str) -> String {
    /// Fewer digits are a code, more could be a phone number.
    const DIGITS: usize = 7;
    /// No word of any language, and any token.
    const WORD: usize = 60;
    let hides = |word: &str| {
        word.contains('@') || word.len() > WORD || word.bytes().filter(u8::is_ascii_digit).count() >= DIGITS && !word.contains("://")
    };
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.map(|word| if hides(word) { "***" } else { word }).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What `main` does before anything else.
    pub fn install_cryptography() {
        // There is one, or there was one already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }

    const NOW: Timestamp = Timestamp::from_millis(1_768_473_000_000);

    fn answer(status: u16, retry_after: Option<&str>) -> Answer {
        let headers = retry_after.map(|text| (RETRY_AFTER, HeaderValue::from_str(text).unwrap()));
        Answer { status: StatusCode::from_u16(status).unwrap(), headers: headers.into_iter().collect(), body: Vec::new(), is_whole: true }
    }

    #[track_caller]
    fn check_wait(text: &str, expected: Option<u64>) {
        assert_eq!(answer(429, Some(text)).retry_after(NOW), expected.map(Duration::from_secs), "{text}");
    }

    #[test]
    fn waits_are_seconds_or_dates_and_never_nonsense() {
        check_wait("5", Some(5));
        check_wait(" 0 ", Some(0));
        check_wait("-5", None);
        check_wait("soon", None);
        check_wait("1.5", None);
        check_wait("999999999999", Some(86_400));
        check_wait("99999999999999999999999", None);
        check_wait("Thu, 15 Jan 2026 10:31:00 GMT", Some(60));
        check_wait("Thu, 15 Jan 2026 10:29:00 GMT", Some(0));
    }

    #[track_caller]
    fn check(status: u16, expected: &str, code: Code) {
        let outcome = answer(status, None).by_status("", NOW);
        let told = match &outcome {
            Outcome::Permanent { kind, .. } => format!("{kind:?}"),
            other => other.as_str().to_owned(),
        };
        assert_eq!((told.as_str(), outcome.code()), (expected, Some(code)), "{status}");
    }

    #[test]
    fn statuses_have_a_meaning_of_their_own() {
        check(200, "unknown", Code::UNEXPECTED_ANSWER);
        check(302, "Config", Code::CONFIG_REFUSED);
        check(400, "Payload", Code::PAYLOAD_REFUSED);
        check(401, "Config", Code::AUTHENTICATION_FAILED);
        check(402, "Config", Code::QUOTA_EXCEEDED);
        check(403, "Config", Code::AUTHENTICATION_FAILED);
        check(404, "Config", Code::CONFIG_REFUSED);
        check(408, "transient", Code::PROVIDER_UNAVAILABLE);
        check(413, "Payload", Code::TOO_LARGE);
        for status in [409, 421, 423, 424, 425, 428] {
            check(status, "transient", Code::PROVIDER_UNAVAILABLE);
        }
        check(422, "Payload", Code::PAYLOAD_REFUSED);
        check(429, "transient", Code::RATE_LIMITED);
        check(500, "unknown", Code::PROVIDER_UNAVAILABLE);
        check(502, "unknown", Code::PROVIDER_UNAVAILABLE);
        check(503, "transient", Code::PROVIDER_UNAVAILABLE);
        check(504, "unknown", Code::PROVIDER_UNAVAILABLE);
        check(599, "unknown", Code::PROVIDER_UNAVAILABLE);
        check(999, "unknown", Code::UNEXPECTED_ANSWER);
    }

    #[test]
    fn a_providers_words_tell_no_address() {
        assert_eq!(without_addresses("The 'To' number +255712345678 is\nnot valid"), "The 'To' number *** is not valid");
        assert_eq!(without_addresses("<asha@example.com>: unknown"), "*** unknown");
        assert_eq!(without_addresses("see https://www.twilio.com/docs/errors/21211"), "see https://www.twilio.com/docs/errors/21211");
        assert_eq!(without_addresses(&format!("token {} gone", "a".repeat(150))), "token *** gone");
        assert_eq!(without_addresses(" \r\n\0"), "");
    }

    #[tokio::test]
    async fn a_request_that_cannot_be_made_is_for_whoever_configures() {
        install_cryptography();
        let outcome = exchange(Client::new().get("nowhere")).await.unwrap_err();
        assert!(matches!(&outcome, Outcome::Permanent { kind: PermanentKind::Config, code: Code::CONFIG_REFUSED, .. }), "{outcome:?}");
    }

    #[test]
    fn a_connection_is_given_up_before_its_call_is() {
        assert_eq!(connect_timeout(Duration::from_millis(200)), Duration::from_millis(50));
        assert_eq!(connect_timeout(Duration::from_hours(1)), CONNECT_TIMEOUT);
    }
}
