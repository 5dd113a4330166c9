//! `POST /v1/templates/{name}/preview`: what a template says, for people who write it.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::AdminState;
use crate::{
    intake::problem_details::ProblemDetails,
    model::{Channel, Locale, Problem, TemplateName, TimeZone, Timestamp},
    socket::Document,
    template::{Preview, Templates},
};

/// What is asked for. What is left out is the sample's, or everybody's.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(super) struct PreviewRequest {
    /// The data of the job; without it that of sample.json.
    data: Option<Map<String, Value>>,
    locale: Option<Locale>,
    timezone: Option<TimeZone>,
    /// Those of the template when it is left out or empty.
    channels: Option<Vec<Channel>>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct PreviewAnswer {
    /// What the channels carry, in the order asked for.
    bodies: Vec<Value>,
    /// Why the others carry nothing.
    problems: Vec<ChannelProblem>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ChannelProblem {
    channel: Channel,
    #[serde(flatten)]
    problem: Problem,
}

pub(super) async fn preview(
    State(state): State<Arc<AdminState>>,
    Path(name): Path<String>,
    Document(asked): Document<PreviewRequest>,
) -> Result<Json<PreviewAnswer>, ProblemDetails> {
    let templates = state.templates.current();
    let Some(name) = name.parse().ok().filter(|name: &TemplateName| templates.channels(name).is_some()) else {
        return Err(unknown(&templates, &name));
    };
    if let Some(data) = &asked.data {
        let problems = templates.check(&name, "$", data);
        if !problems.is_empty() {
            return Err(ProblemDetails::invalid(problems));
        }
    }
    let made = move || Ok(Json(answer(&templates, &name, asked, Timestamp::now())));
    // A template may take long, up to its fuel.
    tokio::task::spawn_blocking(made).await.unwrap_or_else(|panicked| {
        Err(ProblemDetails::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", format!("rendering failed inside the daemon: {panicked}")))
    })
}

fn unknown(templates: &Templates, name: &str) -> ProblemDetails {
    let hint = match name.parse().ok().and_then(|name| templates.nearest(&name)) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => "see GET /v1/templates".to_owned(),
    };
    let detail = format!("no template is called `{}`; hint: {hint}", crate::model::cut(name, 80));
    ProblemDetails::new(StatusCode::NOT_FOUND, "template_not_found", detail)
}

fn answer(templates: &Templates, name: &TemplateName, asked: PreviewRequest, now: Timestamp) -> PreviewAnswer {
    let info = templates.list().find(|info| info.name == name);
    let (sample, own) = info.map(|info| (info.sample.clone(), info.channels)).unwrap_or_default();
    let preview = Preview { data: asked.data.unwrap_or(sample), locale: asked.locale, timezone: asked.timezone };
    let mut answer = PreviewAnswer { bodies: Vec::new(), problems: Vec::new() };
    // None at all are all of them, as in a job.
    let asked_for = asked.channels.filter(|channels| !channels.is_empty());
    for channel in asked_for.unwrap_or_else(|| own.iter().collect()) {
        match templates.preview(name, channel, &preview, now) {
            Ok(body) => answer.bodies.push(templates.shown(&body)),
            Err(problem) => answer.problems.push(ChannelProblem { channel, problem }),
        }
    }
    answer
}
