//! Revocations: `GET|POST /v1/revocations`, `DELETE /v1/revocations/{id}`. Sockets that revoked tokens have opened are closed at once.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Extension, Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};

use super::{AdminState, Caller, query::Parameters};
use crate::{
    event::{Event, emit},
    intake::problem_details::ProblemDetails,
    model::{Problem, Revocation, Revoked, UserId},
    socket::{BodyLimit, Control, Document, Ending},
    store::{NewRevocation, REVOCATIONS_PAGE_LIMIT, RevocationFilter},
};

/// Revocations on a page when nothing else is asked for.
const PAGE_DEFAULT: usize = 100;
/// Bytes of one request.
pub(super) const BODY_LIMIT: BodyLimit = BodyLimit::new(16 << 10);
/// Longest `jti` and reason, in bytes. simplejwt's `jti` has 32.
const JTI_LIMIT: usize = 512;
const REASON_LIMIT: usize = 500;

#[derive(Deserialize, schemars::JsonSchema)]
#[schemars(rename = "RevocationRequest")]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    #[serde(default)]
    user_id: Option<UserId>,
    #[serde(default)]
    jti: Option<String>,
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "RevocationsPage")]
pub(super) struct ListAnswer {
    revocations: Vec<Revocation>,
    next_cursor: Option<String>,
}

#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "RevocationMade")]
pub(super) struct RevokeAnswer {
    #[serde(flatten)]
    revocation: Revocation,
    /// Closed by it, in this process.
    sockets_closed: usize,
}

pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    Query(given): Query<BTreeMap<String, String>>,
) -> Result<Json<ListAnswer>, ProblemDetails> {
    let mut parameters = Parameters::new(given);
    let user = parameters.take::<UserId>("user_id").map(Revoked::UserId);
    let token = parameters.take::<Jti>("jti").map(|jti| Revoked::Jti(jti.0));
    let before = parameters.take::<Id>("cursor").map(|id| id.0);
    let limit = parameters.take_limit(PAGE_DEFAULT, REVOCATIONS_PAGE_LIMIT);
    parameters.finish()?;
    let revocations = state.store.revocations(RevocationFilter { what: user.or(token), before, limit }).await?;
    let last = revocations.last().filter(|_| revocations.len() == limit);
    Ok(Json(ListAnswer { next_cursor: last.map(|revocation| revocation.id.to_string()), revocations }))
}

pub(super) async fn revoke(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Document(request): Document<Request>,
) -> Result<(StatusCode, Json<RevokeAnswer>), ProblemDetails> {
    let (what, reason) = read(request)?;
    let revocation = state.store.revoke(NewRevocation { what, reason, by: caller.0.to_string() }).await?;
    // In this order: whoever is let in meanwhile is either refused or found.
    state.authenticator.revocations().add(revocation.clone());
    let sockets_closed = state.bus.hub().close_where(|identity| identity.is_covered_by(&revocation), Ending::Revoked);
    state.bus.control(Control::Revoked(revocation.clone()));
    let (user, jti) = named(&revocation.what);
    emit(&Event::TokensRevoked { by: &caller.0, revocation: revocation.id, user, jti, sockets: sockets_closed });
    Ok((StatusCode::CREATED, Json(RevokeAnswer { revocation, sockets_closed })))
}

pub(super) async fn take_back(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Revocation>, ProblemDetails> {
    let id: Id = id.parse().map_err(|told: String| ProblemDetails::invalid(vec![problem("id", &told)]))?;
    let Some(revocation) = state.store.unrevoke(id.0).await? else {
        return Err(ProblemDetails::not_found(format!("no revocation {} is in force; it was taken back, or it is over", id.0)));
    };
    state.authenticator.revocations().remove(&revocation);
    let (user, jti) = named(&revocation.what);
    emit(&Event::RevocationTakenBack { by: &caller.0, revocation: revocation.id, user, jti });
    Ok(Json(revocation))
}

fn named(what: &Revoked) -> (Option<&str>, Option<&str>) {
    match what {
        Revoked::UserId(user) => (Some(user.as_str()), None),
        Revoked::Jti(jti) => (None, Some(jti)),
    }
}

fn read(request: Request) -> Result<(Revoked, Option<String>), ProblemDetails> {
    const EXAMPLE: &str = "send {\"user_id\": \"42\"} or {\"jti\": \"…\"}";
    let Request { user_id, jti, reason } = request;
    let mut problems = Vec::new();
    let is_text = |text: &str, limit: usize| (1..=limit).contains(&text.len()) && !text.chars().any(char::is_control);
    if jti.as_deref().is_some_and(|jti| !is_text(jti, JTI_LIMIT)) {
        problems.push(Problem::new("$.jti", "not the id of a token", format!("1 to {JTI_LIMIT} bytes, as in the token's `jti`")));
    }
    if reason.as_deref().is_some_and(|reason| !is_text(reason, REASON_LIMIT)) {
        problems.push(Problem::new("$.reason", "not a reason", format!("1 to {REASON_LIMIT} bytes on one line, or leave it out")));
    }
    let what = match (user_id, jti) {
        (Some(user), None) => Some(Revoked::UserId(user)),
        (None, Some(jti)) => Some(Revoked::Jti(jti)),
        (None, None) => {
            problems.push(Problem::new("$", "says neither whose tokens nor which one", EXAMPLE));
            None
        }
        (Some(_), Some(_)) => {
            problems.push(Problem::new("$", "says both `user_id` and `jti`", "send one request for each"));
            None
        }
    };
    match what {
        Some(what) if problems.is_empty() => Ok((what, reason)),
        _ => Err(ProblemDetails::invalid(problems)),
    }
}

fn problem(path: &str, told: &str) -> Problem {
    let (problem, hint) = told.split_once("; hint: ").unwrap_or((told, ""));
    Problem::new(path, problem, hint)
}

/// A token's id. Any text may be one.
struct Jti(String);

impl std::str::FromStr for Jti {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

/// A revocation's number.
struct Id(i64);

impl std::str::FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| "not a revocation; hint: use the `id` of GET /v1/revocations".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, expected: Result<Revoked, &[&str]>) {
        match (read(serde_json::from_str(body).unwrap()), expected) {
            (Ok((what, _)), Ok(expected)) => assert_eq!(what, expected, "{body}"),
            (Err(refused), Err(expected)) => {
                let paths: Vec<&str> = refused.problems.iter().map(|problem| problem.path.as_str()).collect();
                assert_eq!(paths, expected, "{body}");
            }
            (read, _) => panic!("{body}: {:?}", read.map(|(what, _)| what)),
        }
    }

    #[test]
    fn a_user_or_a_token_is_revoked() {
        check(r#"{"user_id":42}"#, Ok(Revoked::UserId("42".parse().unwrap())));
        check(r#"{"user_id":"42","reason":"stolen phone"}"#, Ok(Revoked::UserId("42".parse().unwrap())));
        check(r#"{"jti":"a"}"#, Ok(Revoked::Jti("a".to_owned())));
        check("{}", Err(&["$"]));
        check(r#"{"user_id":42,"jti":"a"}"#, Err(&["$"]));
        check(r#"{"jti":""}"#, Err(&["$.jti"]));
        check(r#"{"jti":"a","reason":"a\nb"}"#, Err(&["$.reason"]));
    }
}
