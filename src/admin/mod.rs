//! The admin listener: queries, contacts, the outbox, the console, metrics and health. Job intake is merged in from [`crate::intake`].

mod api;
mod chat;
mod console;
mod contacts;
pub mod docs;
mod guard;
mod health;
pub mod openapi;
mod outbox;
mod query;
mod revocations;
mod suppressions;
mod templates;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use axum::{
    Extension, Router,
    http::{HeaderValue, StatusCode, header},
    middleware,
    response::Response,
    routing::{delete, get, post},
};
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::SecretString;

pub use self::guard::{Caller, Guard};
use crate::{
    channel::outbox::Outbox,
    chat::Chat,
    feed::EventFeed,
    intake::{
        amqp::AmqpIntake,
        http::{self, HttpIntake},
        problem_details::ProblemDetails,
    },
    lane::Lane,
    model::{Channel, PerChannel},
    socket::{Authenticator, Bus, ListenerCounters, SessionCounters},
    store::{Store, StoreError},
    template::Shelf,
};

/// What the admin listener shows and does.
pub struct AdminState {
    pub store: Store,
    pub lanes: PerChannel<Arc<Lane>>,
    pub templates: Arc<Shelf>,
    pub outbox: Arc<Outbox>,
    /// Where there is a broker.
    pub amqp: Option<AmqpIntake>,
    /// Where there is a broker that wants events.
    pub feed: Option<Arc<EventFeed>>,
    pub authenticator: Arc<Authenticator>,
    pub bus: Bus,
    /// Where there is a chat.
    pub chat: Option<Arc<Chat>>,
    pub metrics: PrometheusHandle,
    pub sessions: Arc<SessionCounters>,
    /// By the listener's name.
    pub listeners: [(&'static str, Arc<ListenerCounters>); 2],
    pub readiness: Arc<Readiness>,
    pub version: &'static str,
    pub mode: &'static str,
    pub started: Instant,
    /// Channels whose only provider captures.
    pub captures: Vec<Channel>,
    /// Present in development only: anybody who reaches this listener may have a token.
    pub development: Option<DevelopmentTokens>,
}

impl AdminState {
    /// Why work should not be sent here; empty when ready.
    fn reasons(&self) -> Vec<&'static str> {
        let mut reasons = self.readiness.reasons(&self.store);
        let is_taking = reasons.is_empty();
        if is_taking && self.amqp.as_ref().is_some_and(|amqp| !amqp.status().link.connected) {
            reasons.push("no connection to the broker: no jobs come in over AMQP");
        }
        reasons
    }
}

/// What tokens for trying the live socket are made with.
pub struct DevelopmentTokens {
    pub secret: SecretString,
    pub kid: Option<String>,
    /// Where the live socket is.
    pub url: String,
}

/// Whether work should be sent here.
#[derive(Debug, Default)]
pub struct Readiness {
    serving: AtomicBool,
    draining: AtomicBool,
}

impl Readiness {
    pub fn serve(&self) {
        self.serving.store(true, Ordering::Release);
    }

    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Why not, as far as this process goes.
    fn reasons(&self, store: &Store) -> Vec<&'static str> {
        let mut reasons = Vec::new();
        if !self.serving.load(Ordering::Acquire) {
            reasons.push("starting");
        }
        if self.draining.load(Ordering::Acquire) {
            reasons.push("draining");
        }
        if let Some(closed) = store.closed_to_jobs() {
            reasons.push(closed.as_str());
        }
        reasons
    }
}

/// Everything on the admin listener, behind the guard.
pub fn router(state: Arc<AdminState>, intake: HttpIntake, rules: Guard) -> Router {
    let suppressions = get(suppressions::list).post(suppressions::add).delete(suppressions::remove);
    let revocations = get(revocations::list).post(revocations::revoke);
    Router::new()
        .route("/v1/status", get(api::status))
        .route("/v1/audit", get(api::audit))
        .route("/v1/jobs/{id}", get(api::job).delete(api::cancel_job))
        .route("/v1/deliveries", get(api::deliveries))
        .route("/v1/templates", get(api::templates))
        .route("/v1/templates/{name}/preview", post(templates::preview))
        .route("/v1/users/{id}", get(contacts::get).put(contacts::put).patch(contacts::patch).delete(contacts::delete))
        .route("/v1/suppressions", suppressions.layer(Extension(suppressions::BODY_LIMIT)))
        .route("/v1/revocations", revocations.layer(Extension(revocations::BODY_LIMIT)))
        .route("/v1/revocations/{id}", delete(revocations::take_back))
        .route("/v1/outbox", get(outbox::list))
        .route("/v1/outbox/{id}/html", get(outbox::html))
        .route("/v1/dev/token", get(api::development_token))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .merge(chat::router())
        .merge(console::router())
        .merge(docs::router())
        .layer(Extension(intake.job_limit()))
        .with_state(state)
        .merge(http::router(intake))
        .fallback(async || ProblemDetails::not_found("there is nothing here; hint: the console is at /, and /openapi.json lists the rest"))
        .method_not_allowed_fallback(async || {
            let detail = "this method is not known here; hint: the header `Allow` lists those that are";
            ProblemDetails::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
        })
        .layer(middleware::map_response(with_safe_headers))
        .layer(middleware::from_fn_with_state(Arc::new(rules), guard::guard))
}

/// The page may load only what comes from here, and nobody may frame it. A mail in its frame has rules of its own.
async fn with_safe_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self' ws: wss:; frame-src 'self'; \
         frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

impl From<StoreError> for ProblemDetails {
    fn from(error: StoreError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", error.to_string()).with_retry_after(1)
    }
}
