//! What comes back from outside: providers' callbacks and clicks on unsubscribe links.
//!
//! Nothing is believed without a signature over the bytes as they came. What a callback says is turned into [`Callback`]s here and
//! applied by the store in one commit; only then is it answered, so that what is not written is told again.

mod body;
mod openapi;
mod page;
mod sendgrid;
mod twilio;
mod unsubscribe;

pub use self::openapi::operations;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use secrecy::SecretString;
use tokio::sync::Semaphore;

use crate::{
    channel::email::unsubscribe::UnsubscribeLinks,
    event::{Event, emit},
    lane::Pace,
    model::{Channel, Timestamp, mask},
    store::{Applied, Callback, Store, SuppressedAddress},
    template::Shelf,
};

/// Bytes of all bodies that are being read at once, for each route by itself: anybody may send some, what they are worth shows at their
/// end, and nobody's keep another's out.
const SENDGRID_ROOM: usize = 64 << 20;
const TWILIO_ROOM: usize = 4 << 20;
const UNSUBSCRIBE_ROOM: usize = 4 << 20;
/// Anybody can be refused as often as they like; the same reason is told no more often than this.
const REFUSAL_LINE_EVERY: Duration = Duration::from_secs(10);

/// What the webhooks work with.
pub struct WebhookState {
    store: Store,
    templates: Arc<Shelf>,
    links: Arc<UnsubscribeLinks>,
    /// Absent: their callbacks are refused.
    sendgrid: Option<sendgrid::Verifier>,
    twilio: Option<twilio::Verifier>,
    twilio_pace: Option<Arc<Pace>>,
    sendgrid_room: Semaphore,
    twilio_room: Semaphore,
    unsubscribe_room: Semaphore,
    refusals: Mutex<Refusals>,
}

/// What providers sign with, and where they call.
#[derive(Clone, Debug, Default)]
pub struct WebhookSettings {
    /// `public.base_url`: signatures are over the URL as the provider sees it, never as a `Host` header has it.
    pub base_url: String,
    /// Base64 of a DER `SubjectPublicKeyInfo`.
    pub sendgrid_public_key: Option<String>,
    pub twilio_auth_token: Option<SecretString>,
    /// How fast Twilio's account is used; absent: it is not.
    pub twilio_pace: Option<Arc<Pace>>,
}

impl WebhookState {
    pub fn new(store: Store, templates: Arc<Shelf>, links: Arc<UnsubscribeLinks>, settings: WebhookSettings) -> Self {
        let sendgrid = settings.sendgrid_public_key.and_then(|key| {
            let verifier = sendgrid::Verifier::new(&key);
            if verifier.is_none() {
                let reason = "provider.sendgrid.webhook_public_key is no P-256 key";
                emit(&Event::CallbackRefused { provider: sendgrid::NAME, reason, untold: Some(0) });
            }
            verifier
        });
        let twilio = settings.twilio_auth_token.map(|token| twilio::Verifier::new(&settings.base_url, &token));
        Self {
            store,
            templates,
            links,
            sendgrid,
            twilio,
            twilio_pace: settings.twilio_pace,
            sendgrid_room: Semaphore::new(SENDGRID_ROOM),
            twilio_room: Semaphore::new(TWILIO_ROOM),
            unsubscribe_room: Semaphore::new(UNSUBSCRIBE_ROOM),
            refusals: Mutex::default(),
        }
    }

    /// The answer, and the word of it in our log. Who is refused learns what to check, and never what of it was wrong.
    fn refuse(&self, provider: &'static str, refused: Refused) -> Response {
        let reason = refused.reason();
        let untold = self.refusals.lock().unwrap_or_else(PoisonError::into_inner).count(provider, reason, Timestamp::now());
        emit(&Event::CallbackRefused { provider, reason, untold });
        let status = refused.status();
        let told = match refused {
            Refused::NoKey | Refused::Signature(_) if provider == sendgrid::NAME => sendgrid::CHECK,
            Refused::NoKey | Refused::Signature(_) => twilio::CHECK,
            Refused::ContentType | Refused::TooLarge | Refused::TooSlow | Refused::Malformed(_) | Refused::Busy | Refused::Store => {
                refused.reason()
            }
        };
        let mut response = (status, format!("{told}\n")).into_response();
        if matches!(refused, Refused::Busy | Refused::Store) {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("5"));
        }
        response
    }
}

/// The routes of the public listener.
pub fn router(state: WebhookState) -> Router {
    Router::new()
        .route("/unsubscribe/{token}", get(unsubscribe::ask).post(unsubscribe::unsubscribe))
        .route(sendgrid::PATH, post(sendgrid::receive))
        .route(twilio::PATH, post(twilio::receive))
        .with_state(Arc::new(state))
}

/// Why a callback is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    NoKey,
    Signature(&'static str),
    ContentType,
    TooLarge,
    TooSlow,
    Malformed(&'static str),
    /// Come again, both of them.
    Busy,
    Store,
}

impl Refused {
    const fn status(self) -> StatusCode {
        match self {
            Self::NoKey | Self::Signature(_) => StatusCode::FORBIDDEN,
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Busy | Self::Store => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    const fn reason(self) -> &'static str {
        match self {
            Self::NoKey => "nothing is configured to check its signature with",
            Self::Signature(reason) | Self::Malformed(reason) => reason,
            Self::ContentType => "not the content type the provider sends",
            Self::TooLarge => "longer than the provider sends",
            Self::TooSlow => "not complete in time",
            Self::Busy => "too many are being read at once",
            Self::Store => "the store cannot be written at the moment",
        }
    }
}

/// When a reason was told last, and how often it was not since. There are as many reasons as this module names.
#[derive(Default)]
struct Refusals(HashMap<(&'static str, &'static str), (Timestamp, u64)>);

impl Refusals {
    /// Counts one more; says whether to tell of it, and how many went untold before.
    fn count(&mut self, provider: &'static str, reason: &'static str, now: Timestamp) -> Option<u64> {
        let (told_at, untold) = self.0.entry((provider, reason)).or_default();
        if now < told_at.saturating_add(REFUSAL_LINE_EVERY) {
            *untold += 1;
            return None;
        }
        *told_at = now;
        Some(std::mem::take(untold))
    }
}

/// The one value of a header that has to be there once.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h str, Refused> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if !value.is_empty() => value.to_str().map_err(|_| Refused::Signature("a signature header is no text")),
        (Some(_), None) => Err(Refused::Signature("a signature header is empty")),
        (Some(_), Some(_)) => Err(Refused::Signature("a signature header is there twice")),
        (None, _) => Err(Refused::Signature("a signature header is missing")),
    }
}

/// The media type, without parameters and in lower case.
fn media_type(headers: &HeaderMap) -> String {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

impl WebhookState {
    /// Applies callbacks, and tells of what they did.
    async fn apply(&self, provider: &'static str, callbacks: Vec<Callback>) -> Result<Applied, Refused> {
        match self.store.apply_callbacks(callbacks).await {
            Ok(applied) => {
                tell(provider, &applied);
                Ok(applied)
            }
            Err(error) => {
                emit(&Event::StoreFailed { doing: "applying callbacks; the provider will call again", error: &error.to_string() });
                Err(Refused::Store)
            }
        }
    }
}

impl WebhookState {
    /// Twilio takes messages faster than a sender may send them, and says so only afterwards.
    fn slow_down_twilio(&self, now: Timestamp) {
        if let Some(rate) = self.twilio_pace.as_ref().and_then(|pace| pace.limited(None, now)) {
            emit(&Event::PaceLowered { provider: twilio::NAME, channel: Channel::Sms, rate });
        }
    }
}

fn tell(provider: &'static str, applied: &Applied) {
    for moved in &applied.moves {
        emit(&Event::DeliveryConfirmed { delivery: moved.id, channel: moved.channel, status: moved.to, code: moved.code });
    }
    if applied.repeated + applied.unknown > 0 {
        emit(&Event::CallbacksPassedOver { provider, repeated: applied.repeated, unknown: applied.unknown });
    }
    applied.suppressed.iter().for_each(|suppressed| tell_suppressed(provider, suppressed));
    if applied.released > 0 {
        emit(&Event::SuppressionChanged { by: provider, what: "taken off", entries: applied.released });
    }
}

fn tell_suppressed(source: &str, suppressed: &SuppressedAddress) {
    let SuppressedAddress { channel, address, list, reason } = suppressed;
    let list = list.as_ref().map(crate::model::ListName::as_str);
    emit(&Event::AddressSuppressed { channel: *channel, address: &mask(address), list, reason: *reason, source });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_told_once_in_a_while() {
        let now: Timestamp = "2026-01-15T10:30:00Z".parse().unwrap();
        let mut refusals = Refusals::default();
        assert_eq!(refusals.count("twilio", "a", now), Some(0));
        for _ in 0..3 {
            assert_eq!(refusals.count("twilio", "a", now), None);
        }
        assert_eq!((refusals.count("twilio", "b", now), refusals.count("sendgrid", "a", now)), (Some(0), Some(0)));
        let later = now.saturating_add(REFUSAL_LINE_EVERY);
        assert_eq!((refusals.count("twilio", "a", later), refusals.count("twilio", "a", later)), (Some(3), None));
    }
}
