//! The suppression list: `GET|POST|DELETE /v1/suppressions`. Its addresses are not masked: they are what it is about.

use std::{collections::BTreeMap, str::FromStr, sync::Arc};

use axum::{
    Extension, Json,
    extract::{Query, State},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{AdminState, Caller, query::Parameters};
use crate::{
    event::{Event, emit},
    intake::problem_details::ProblemDetails,
    model::{Channel, ListName, Problem, SuppressionKey, SuppressionReason, Timestamp, canonical_address, channel_of_address, decode_all},
    socket::{BodyLimit, Document},
    store::{NewSuppression, SUPPRESSIONS_PAGE_LIMIT, Suppressed, SuppressionFilter, SuppressionView},
};

/// Entries on a page when nothing else is asked for.
const PAGE_DEFAULT: usize = 100;
/// Entries of one request.
const ENTRIES_LIMIT: usize = 1000;
/// Bytes of one request: that many push tokens, with room around them.
pub(super) const BODY_LIMIT: BodyLimit = BodyLimit::new(8 << 20);

#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "SuppressionsPage")]
pub(super) struct ListAnswer {
    suppressions: Vec<SuppressionView>,
    next_cursor: Option<String>,
}

/// An entry as it is sent to us.
#[derive(Deserialize, schemars::JsonSchema)]
#[schemars(rename = "SuppressionEntry")]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    channel: Channel,
    address: String,
    #[serde(default)]
    list: Option<ListName>,
    #[serde(default)]
    reason: Option<SuppressionReason>,
    #[serde(default)]
    expires_at: Option<Timestamp>,
}

/// An entry to remove.
#[derive(Deserialize, schemars::JsonSchema)]
#[schemars(rename = "SuppressionToRemove")]
#[serde(deny_unknown_fields)]
pub(super) struct Key {
    channel: Channel,
    address: String,
    #[serde(default)]
    list: Option<ListName>,
}

pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    Query(given): Query<BTreeMap<String, String>>,
) -> Result<Json<ListAnswer>, ProblemDetails> {
    let mut parameters = Parameters::new(given);
    let channel = parameters.take::<Channel>("channel");
    let reason = parameters.take::<SuppressionReason>("reason");
    let address = parameters.take::<Text>("address").map(|text| text.0);
    let cursor = parameters.take::<Cursor>("cursor").map(|cursor| cursor.0);
    let limit = parameters.take_limit(PAGE_DEFAULT, SUPPRESSIONS_PAGE_LIMIT);
    parameters.finish()?;
    let channel = channel.or_else(|| address.as_deref().map(channel_of_address));
    let address = match (channel, address) {
        (Some(channel), Some(address)) => Some(canonical_address(channel, &address).map_err(|told| invalid("address", &told))?),
        _ => None,
    };
    let page = state.store.suppressions(SuppressionFilter { channel, reason, address, cursor, limit }).await?;
    Ok(Json(ListAnswer { suppressions: page.suppressions, next_cursor: page.next_cursor.map(|key| Cursor(key).to_string()) }))
}

/// Puts one address, or an array of them, on the list. All of them or none.
pub(super) async fn add(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Document(document): Document<Value>,
) -> Result<Json<Suppressed>, ProblemDetails> {
    let now = Timestamp::now();
    let source = &caller.0;
    let entries = read(document, |entry: Entry, path| {
        let mut problems = Vec::new();
        if entry.expires_at.is_some_and(|until| until <= now) {
            problems.push(Problem::new(format!("{path}.expires_at"), "is over already", "a moment to come, or leave it out for ever"));
        }
        match SuppressionKey::new(entry.channel, &entry.address, entry.list) {
            Ok(key) if problems.is_empty() => {
                let reason = entry.reason.unwrap_or(SuppressionReason::Manual);
                return Ok(NewSuppression { key, reason, source: source.to_string(), expires_at: entry.expires_at });
            }
            Ok(_) => {}
            Err(told) => problems.push(problem(format!("{path}.address"), &told)),
        }
        Err(problems)
    })?;
    let done = state.store.suppress(entries).await?;
    emit(&Event::SuppressionChanged { by: &caller.0, what: "added to", entries: done.added + done.changed });
    Ok(Json(done))
}

/// Takes exactly these entries off the list.
pub(super) async fn remove(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Document(document): Document<Value>,
) -> Result<Json<Value>, ProblemDetails> {
    let keys = read(document, |key: Key, path| {
        SuppressionKey::new(key.channel, &key.address, key.list).map_err(|told| vec![problem(format!("{path}.address"), &told)])
    })?;
    let removed = state.store.unsuppress(keys).await?;
    emit(&Event::SuppressionChanged { by: &caller.0, what: "taken off", entries: removed });
    Ok(Json(json!({ "removed": removed })))
}

/// Reads one object or an array of them, and says everything that is wrong.
fn read<T, R>(document: Value, mut check: impl FnMut(T, &str) -> Result<R, Vec<Problem>>) -> Result<Vec<R>, ProblemDetails>
where
    T: DeserializeOwned,
{
    let is_array = document.is_array();
    let given: Vec<T> = if is_array { decode_all(document, "$") } else { decode_all::<T>(document, "$").map(|one| vec![one]) }
        .map_err(ProblemDetails::invalid)?;
    if given.len() > ENTRIES_LIMIT {
        let told = format!("{} entries; hint: at most {ENTRIES_LIMIT} in one request", given.len());
        return Err(invalid("$", &told));
    }
    let (mut good, mut problems) = (Vec::with_capacity(given.len()), Vec::new());
    for (place, one) in given.into_iter().enumerate() {
        let path = if is_array { format!("$[{place}]") } else { "$".to_owned() };
        match check(one, &path) {
            Ok(one) => good.push(one),
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() { Ok(good) } else { Err(ProblemDetails::invalid(problems)) }
}

fn invalid(path: &str, told: &str) -> ProblemDetails {
    ProblemDetails::invalid(vec![problem(path, told)])
}

fn problem(path: impl Into<String>, told: &str) -> Problem {
    let (problem, hint) = told.split_once("; hint: ").unwrap_or((told, ""));
    Problem::new(path, problem, hint)
}

/// An address, not looked at yet: of which channel it is may stand in another parameter.
struct Text(String);

impl FromStr for Text {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

/// Where a page ended. Opaque outside: an address has no place in a URL as it is.
struct Cursor(SuppressionKey);

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = json!([self.0.channel, self.0.address, self.0.list]).to_string();
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(key))
    }
}

impl FromStr for Cursor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let key = BASE64_URL_SAFE_NO_PAD.decode(text).ok().and_then(|key| serde_json::from_slice(&key).ok());
        key.map(|(channel, address, list)| Self(SuppressionKey { channel, address, list }))
            .ok_or_else(|| "not a cursor; hint: use next_cursor of the page before".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_read_back() {
        for list in [None, Some("messages".parse().unwrap())] {
            let key = SuppressionKey::new(Channel::Email, "asha@example.com", list).unwrap();
            assert_eq!(Cursor(key.clone()).to_string().parse::<Cursor>().map(|cursor| cursor.0), Ok(key));
        }
        assert!("asha".parse::<Cursor>().is_err());
    }
}
