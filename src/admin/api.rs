//! What operators and producers ask and do: status, jobs, deliveries, templates, the audit.

use std::{collections::BTreeMap, str::FromStr, sync::Arc};

use axum::{
    Extension, Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{AdminState, Caller, query::Parameters};
use crate::{
    amqp::LinkStatus,
    event::{Event, emit},
    intake::{
        amqp::{AmqpIntake, AmqpStatus},
        problem_details::ProblemDetails,
    },
    lane::ProviderStatus,
    model::{Channel, DeliveryKey, JobId, Problem, Status, TemplateName, Timestamp, UserId},
    socket::{BusStatus, sign_development_token},
    store::{Audit, Cancelled, DeliveryFilter, DeliveryView, JobView, PAGE_LIMIT},
    template::ShelfStatus,
};

/// Deliveries on a page when nothing else is asked for.
const PAGE_DEFAULT: usize = 100;
/// How long a development token lives.
const DEVELOPMENT_TOKEN_LIFETIME: std::time::Duration = std::time::Duration::from_hours(12);

#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "DaemonStatus")]
pub(super) struct StatusAnswer {
    version: &'static str,
    mode: &'static str,
    uptime_seconds: u64,
    ready: bool,
    reasons: Vec<&'static str>,
    captures: Vec<Channel>,
    sockets: usize,
    accepted: i64,
    purged: i64,
    commits: i64,
    /// Where jobs come from over AMQP; `null` without a broker.
    broker: Option<AmqpStatus>,
    /// Where events go; `null` when they are off.
    events: Option<EventsAnswer>,
    /// The way to the other daemons; `null` for one alone.
    bus: Option<BusStatus>,
    templates: ShelfStatus,
    lanes: Vec<LaneAnswer>,
}

#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "EventsStatus")]
struct EventsAnswer {
    #[serde(flatten)]
    link: LinkStatus,
    pending: u64,
    dropped: i64,
}

#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "LaneStatus")]
struct LaneAnswer {
    channel: Channel,
    queued: i64,
    in_memory: usize,
    sending: i64,
    concurrency: usize,
    ended_total: u64,
    next_due_at: Option<Timestamp>,
    providers: Vec<ProviderStatus>,
    statuses: BTreeMap<&'static str, i64>,
}

pub(super) async fn status(State(state): State<Arc<AdminState>>) -> Json<StatusAnswer> {
    let counts = state.store.counts();
    let lanes = state
        .lanes
        .iter()
        .map(|(channel, lane)| {
            let lane = lane.status();
            LaneAnswer {
                channel,
                queued: counts.get(channel, Status::Queued),
                in_memory: lane.in_memory,
                sending: counts.get(channel, Status::Sending),
                concurrency: lane.concurrency,
                ended_total: lane.ended_total,
                next_due_at: lane.next_due_at,
                providers: lane.providers,
                statuses: Status::ALL.into_iter().map(|status| (status.as_str(), counts.get(channel, status))).collect(),
            }
        })
        .collect();
    let reasons = state.reasons();
    let load = |value: &std::sync::atomic::AtomicI64| value.load(std::sync::atomic::Ordering::Relaxed);
    Json(StatusAnswer {
        version: state.version,
        mode: state.mode,
        uptime_seconds: state.started.elapsed().as_secs(),
        ready: reasons.is_empty(),
        reasons,
        captures: state.captures.clone(),
        sockets: state.bus.hub().connections(),
        accepted: load(&counts.accepted),
        purged: load(&counts.purged),
        commits: state.store.commits(),
        broker: state.amqp.as_ref().map(AmqpIntake::status),
        events: state.feed.as_ref().map(|feed| EventsAnswer {
            link: feed.status(),
            pending: state.store.events_pending(),
            dropped: state.store.events_dropped(),
        }),
        bus: state.bus.status(),
        templates: state.templates.status(),
        lanes,
    })
}

pub(super) async fn audit(State(state): State<Arc<AdminState>>) -> Result<Json<Audit>, ProblemDetails> {
    Ok(Json(state.store.audit().await?))
}

pub(super) async fn job(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
    Query(given): Query<BTreeMap<String, String>>,
) -> Result<Json<JobView>, ProblemDetails> {
    let mut parameters = Parameters::new(given);
    let from = parameters.take::<Ordinal>("cursor").map_or(0, |cursor| cursor.0);
    let limit = parameters.take_limit(PAGE_DEFAULT, PAGE_LIMIT);
    parameters.finish()?;
    let found = state.store.job(&job_id(&id)?, from, limit).await?;
    found.map(Json).ok_or_else(|| no_such_job(&id))
}

pub(super) async fn cancel_job(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Cancelled>, ProblemDetails> {
    let job = job_id(&id)?;
    let cancelled = state.store.cancel(&job).await?.ok_or_else(|| no_such_job(&id))?;
    emit(&Event::JobCancelled { job: &job, by: &caller.0, cancelled: cancelled.cancelled, too_late: cancelled.too_late });
    Ok(Json(cancelled))
}

#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "DeliveriesPage")]
pub(super) struct DeliveriesAnswer {
    deliveries: Vec<DeliveryView>,
    next_cursor: Option<String>,
}

pub(super) async fn deliveries(
    State(state): State<Arc<AdminState>>,
    Query(given): Query<BTreeMap<String, String>>,
) -> Result<Json<DeliveriesAnswer>, ProblemDetails> {
    let mut parameters = Parameters::new(given);
    let filter = DeliveryFilter {
        status: parameters.take::<Status>("status"),
        channel: parameters.take::<Channel>("channel"),
        user: parameters.take::<UserId>("user").map(|user| user.to_string()),
        template: parameters.take::<TemplateName>("template").map(|template| template.to_string()),
        since: parameters.take::<Timestamp>("since"),
        cursor: parameters.take::<Cursor>("cursor").map(|cursor| cursor.0),
        limit: parameters.take_limit(PAGE_DEFAULT, PAGE_LIMIT),
    };
    parameters.finish()?;
    let page = state.store.deliveries(filter).await?;
    let next_cursor = page.next_cursor.map(|key| format!("{}-{}", key.job, key.ordinal));
    Ok(Json(DeliveriesAnswer { deliveries: page.deliveries, next_cursor }))
}

pub(super) async fn templates(State(state): State<Arc<AdminState>>) -> Json<Value> {
    let status = state.templates.status();
    let templates: Vec<Value> = state
        .templates
        .current()
        .list()
        .map(|template| {
            let channels: Vec<Channel> = template.channels.iter().collect();
            json!({
                "name": template.name,
                "channels": channels,
                "unsubscribe": template.unsubscribe,
                "locales": template.locales,
                "sample": template.sample,
            })
        })
        .collect();
    Json(json!({ "templates": templates, "loaded_at": status.loaded_at, "refused": status.refused }))
}

/// A token for trying the live socket; outside development there is none.
pub(super) async fn development_token(
    State(state): State<Arc<AdminState>>,
    Query(given): Query<BTreeMap<String, String>>,
) -> Result<Json<Value>, ProblemDetails> {
    let mut parameters = Parameters::new(given);
    let user = parameters.take::<UserId>("user");
    parameters.finish()?;
    let Some(development) = &state.development else {
        return Err(ProblemDetails::not_found("tokens are given out by `tarishi dev` only"));
    };
    let Some(user) = user else {
        return Err(ProblemDetails::invalid(vec![Problem::new("user", "`user` is missing", "add ?user=42")]));
    };
    let lifetime = DEVELOPMENT_TOKEN_LIFETIME;
    let token = sign_development_token(&development.secret, development.kid.as_deref(), &user, lifetime, Timestamp::now());
    Ok(Json(json!({ "token": token, "url": development.url })))
}

fn job_id(text: &str) -> Result<JobId, ProblemDetails> {
    text.parse().map_err(|reason: String| {
        let (problem, hint) = reason.split_once("; hint: ").unwrap_or((&reason, ""));
        ProblemDetails::invalid(vec![Problem::new("id", problem, hint)])
    })
}

fn no_such_job(id: &str) -> ProblemDetails {
    let detail = format!("no job `{}` is known; it was never accepted here, or it has been purged", crate::model::cut(id, 80));
    ProblemDetails::new(StatusCode::NOT_FOUND, "job_not_found", detail)
}

/// Where a page of one job's deliveries starts.
struct Ordinal(u32);

impl FromStr for Ordinal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| "not a cursor; hint: use next_cursor of the page before".to_owned())
    }
}

/// Where a page of the listing ended.
struct Cursor(DeliveryKey);

impl FromStr for Cursor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let key =
            text.split_once('-').and_then(|(job, ordinal)| Some(DeliveryKey { job: job.parse().ok()?, ordinal: ordinal.parse().ok()? }));
        key.map(Self).ok_or_else(|| "not a cursor; hint: use next_cursor of the page before".to_owned())
    }
}
