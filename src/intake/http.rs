//! Jobs over HTTP: `POST /v1/jobs`.
//!
//! One job, or an array that is taken whole or not at all. The answer comes after the commit.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::post,
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    decode::{DecodedBody, MissingId, Refused, decode_body},
    problem_details::ProblemDetails,
};
use crate::{
    accept::{Acceptor, NotAccepted, Receipt},
    config::IntakeConfig,
    event::{Event, emit},
    model::{Job, JobId, Problem, Skipped, trace_parent},
    openapi::{Operation, Schemas, list_of},
    socket::{BodyLimit, BodyTimedOut, json_only},
    store::{Store, StoreError},
};

/// Skipped addresses listed in an answer; all of them are kept with the job.
const SKIPPED_LISTED: usize = 100;
/// Bodies larger than this are decoded off the runtime's own threads.
const INLINE_DECODE_LIMIT: usize = 64 << 10;
/// What a producer is asked to wait when we are busy or the store cannot be written, in seconds.
const RETRY_AFTER_SECONDS: u32 = 1;

/// What the intake needs.
#[derive(Clone)]
pub struct HttpIntake {
    acceptor: Acceptor,
    store: Store,
    limits: Arc<IntakeConfig>,
    /// Bytes of bodies that may be in memory at once.
    in_flight: Arc<Semaphore>,
}

/// The answer for one job.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[schemars(rename = "JobAccepted")]
struct Answer {
    id: JobId,
    deliveries: u32,
    repeated: bool,
    skipped: Vec<Skipped>,
    skipped_total: usize,
}

impl From<Receipt> for Answer {
    fn from(receipt: Receipt) -> Self {
        let skipped_total = receipt.skipped.len();
        let mut skipped = receipt.skipped;
        skipped.truncate(SKIPPED_LISTED);
        Self { id: receipt.id, deliveries: receipt.deliveries, repeated: receipt.repeated, skipped, skipped_total }
    }
}

impl HttpIntake {
    /// What a document with a job's data may have.
    pub fn job_limit(&self) -> BodyLimit {
        BodyLimit::of("intake.job_limit", usize::try_from(self.limits.job_limit.as_u64()).unwrap_or(usize::MAX))
    }

    pub fn new(acceptor: Acceptor, store: Store, limits: IntakeConfig) -> Self {
        let bytes = usize::try_from(limits.in_flight_limit.as_u64()).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { acceptor, store, limits: Arc::new(limits), in_flight: Arc::new(Semaphore::new(bytes)) }
    }
}

/// For the OpenAPI document.
pub fn operations(schemas: &mut Schemas) -> Vec<Operation> {
    let (job, accepted) = (schemas.request::<Job>(), schemas.answer::<Answer>());
    let one_or_many = |one: &Value| json!({ "oneOf": [one, list_of(one)] });
    vec![
        Operation::admin("post", "/v1/jobs", "postJobs", "Hands in a job, or an array of them that is taken whole or not at all.")
            .under("Jobs")
            .with_headers(&[
                ("Idempotency-Key", "string", "The job's id, where the document has none."),
                ("traceparent", "string", "The trace it belongs to (W3C Trace Context)."),
            ])
            .takes(one_or_many(&job))
            .example(json!({
                "id": "order-8841-shipped",
                "template": "new_message",
                "to": [{ "user_id": "42", "email": "asha@example.com", "locale": "sw", "timezone": "Africa/Dar_es_Salaam" }],
                "channels": ["live", "email"],
                "data": { "sender_name": "Juma", "preview": "Is the flat still free?", "conversation_id": 7 },
            }))
            .answers(202, "It is stored, and will be sent.", one_or_many(&accepted)),
    ]
}

pub fn router(intake: HttpIntake) -> Router {
    Router::new().route("/v1/jobs", post(post_jobs).route_layer(middleware::from_fn(json_only))).with_state(intake)
}

async fn post_jobs(State(intake): State<HttpIntake>, headers: HeaderMap, body: Body) -> Response {
    match intake.take(&headers, body).await {
        Ok(answer) => answer,
        Err(refused) => {
            emit(&Event::JobRefused { code: refused.code, problems: refused.problems.len() });
            refused.into_response()
        }
    }
}

impl HttpIntake {
    async fn take(&self, headers: &HeaderMap, body: Body) -> Result<Response, ProblemDetails> {
        if let Some(closed) = self.store.closed_to_jobs() {
            return Err(unavailable(format!("{}; nothing was taken", closed.as_str())));
        }
        let given_id = given_id(headers)?;
        let _bytes = self.reserve(headers)?;
        let limit = usize::try_from(self.limits.request_limit.as_u64()).unwrap_or(usize::MAX);
        let body = axum::body::to_bytes(body, limit).await.map_err(|error| match BodyTimedOut::find(&error) {
            Some(timed_out) => ProblemDetails::new(StatusCode::REQUEST_TIMEOUT, "body_timed_out", timed_out.to_string()),
            None if is_too_long(&error) => self.too_large(),
            None => ProblemDetails::new(StatusCode::BAD_REQUEST, "body_unreadable", "the body broke off"),
        })?;
        let decoded = if body.len() > INLINE_DECODE_LIMIT {
            let limits = self.limits.clone();
            tokio::task::spawn_blocking(move || decode(&body, &limits, given_id.as_ref())).await.map_err(|_| {
                ProblemDetails::new(StatusCode::INTERNAL_SERVER_ERROR, "decoder_panicked", "a bug in the decoder; please report it")
            })?
        } else {
            decode(&body, &self.limits, given_id.as_ref())
        };
        let mut decoded = decoded.map_err(refusal)?;
        let traceparent = headers.get("traceparent").and_then(|value| value.to_str().ok()).filter(|value| trace_parent::is_valid(value));
        decoded.jobs.iter_mut().for_each(|job| job.traceparent = traceparent.map(str::to_owned));
        let receipts = self.acceptor.accept(decoded.jobs).await.map_err(not_accepted)?;
        let mut answers = receipts.into_iter().map(Answer::from);
        Ok(match (decoded.is_array, answers.next()) {
            (false, Some(answer)) => (StatusCode::ACCEPTED, axum::Json(answer)).into_response(),
            (_, first) => (StatusCode::ACCEPTED, axum::Json(first.into_iter().chain(answers).collect::<Vec<_>>())).into_response(),
        })
    }

    /// Room for the body, by its announced length; without one, for the largest there may be.
    fn reserve(&self, headers: &HeaderMap) -> Result<OwnedSemaphorePermit, ProblemDetails> {
        let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let limit = self.limits.request_limit.as_u64();
        if announced.is_some_and(|announced| announced > limit) {
            return Err(self.too_large());
        }
        let bytes = u32::try_from(announced.unwrap_or(limit)).unwrap_or(u32::MAX);
        self.in_flight.clone().try_acquire_many_owned(bytes).map_err(|_| {
            ProblemDetails::new(
                StatusCode::TOO_MANY_REQUESTS,
                "busy",
                "more jobs are being accepted at once than intake.in_flight_limit allows",
            )
            .with_retry_after(RETRY_AFTER_SECONDS)
        })
    }

    fn too_large(&self) -> ProblemDetails {
        let detail = format!("the request is larger than {} (intake.request_limit); send it in parts", self.limits.request_limit);
        ProblemDetails::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    }
}

fn decode(body: &[u8], limits: &IntakeConfig, given_id: Option<&JobId>) -> Result<DecodedBody, Refused> {
    decode_body(body, limits, given_id.map_or(MissingId::Make, MissingId::Given))
}

fn given_id(headers: &HeaderMap) -> Result<Option<JobId>, ProblemDetails> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let parsed = value.to_str().map_err(|_| "not printable ASCII; hint: write it like order-8841-shipped".to_owned()).and_then(str::parse);
    parsed.map(Some).map_err(|reason| {
        let (problem, hint) = reason.split_once("; hint: ").unwrap_or((&reason, ""));
        ProblemDetails::invalid(vec![Problem::new("Idempotency-Key", problem, hint)])
    })
}

fn refusal(refused: Refused) -> ProblemDetails {
    match refused {
        Refused::TooLarge { what, limit, key } => {
            let detail = format!("{what} is larger than {} ({key})", bytesize::ByteSize(limit));
            ProblemDetails::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
        }
        Refused::Malformed(problem) => {
            let mut details = ProblemDetails::invalid(vec![problem]);
            details.code = "malformed";
            details
        }
        Refused::Invalid(problems) | Refused::MissingId(problems) => ProblemDetails::invalid(problems),
    }
}

fn not_accepted(refused: NotAccepted) -> ProblemDetails {
    match refused {
        NotAccepted::Invalid(problems) => ProblemDetails::invalid(problems),
        NotAccepted::Conflict(problems) => {
            let mut details = ProblemDetails::new(StatusCode::CONFLICT, "id_conflict", "nothing was taken");
            details.problems = problems;
            details
        }
        NotAccepted::Store(error @ StoreError::Refused(_)) => {
            ProblemDetails::new(StatusCode::INTERNAL_SERVER_ERROR, "refused_by_store", format!("{error}; nothing was taken"))
        }
        NotAccepted::Store(error) => unavailable(format!("{error}; nothing was taken")),
        NotAccepted::Stopping => unavailable("the daemon is stopping; nothing was taken"),
    }
}

fn unavailable(detail: impl Into<String>) -> ProblemDetails {
    ProblemDetails::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail).with_retry_after(RETRY_AFTER_SECONDS)
}

fn is_too_long(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>)
}
