//! Contacts: `GET|PUT|PATCH|DELETE /v1/users/{id}`.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::Serialize;
use serde_json::Value;

use super::{AdminState, Caller};
use crate::{
    event::{Event, emit},
    intake::problem_details::ProblemDetails,
    model::{Contact, Problem, UserId, decode_all},
    socket::{Document, Present, Seen},
};

/// Longest name kept, in bytes.
const NAME_LIMIT: usize = 255;

/// A contact, and whether the user is connected.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "User")]
pub(super) struct UserAnswer {
    #[serde(flatten)]
    contact: Contact,
    presence: Seen,
}

pub(super) async fn get(State(state): State<Arc<AdminState>>, Path(user): Path<String>) -> Result<Json<UserAnswer>, ProblemDetails> {
    let user = user_id(&user)?;
    let contact = state.store.contact(&user).await?;
    let presence = state.bus.presence(&Present::Online(user.clone())).await;
    // Who is connected is somebody, though nothing else is known.
    let contact = contact.or_else(|| presence.online.then(Contact::default)).ok_or_else(unknown)?;
    Ok(Json(UserAnswer { contact, presence }))
}

/// Sets all of a contact: what is left out is gone.
pub(super) async fn put(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Path(user): Path<String>,
    Document(document): Document<Value>,
) -> Result<Json<Contact>, ProblemDetails> {
    let contact = contact(document).map_err(ProblemDetails::invalid)?;
    change(&state, &caller, &user, "put", move |_| Ok(Some(contact.clone()))).await
}

/// Changes a contact by a merge patch (RFC 7396): `null` removes a member.
pub(super) async fn patch(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Path(user): Path<String>,
    Document(patch): Document<Value>,
) -> Result<Json<Contact>, ProblemDetails> {
    if !patch.is_object() {
        return Err(ProblemDetails::invalid(vec![Problem::new("$", "not an object", "send the members to change")]));
    }
    let patched = move |present: Option<Contact>| {
        let mut document = serde_json::to_value(present.unwrap_or_default()).unwrap_or_default();
        // Set by the daemon, and not part of what may be written.
        for entry in document["push_tokens"].as_array_mut().into_iter().flatten() {
            entry.as_object_mut().map(|entry| entry.remove("registered_at"));
        }
        merge(&mut document, &patch);
        contact(document).map(Some)
    };
    change(&state, &caller, &user, "patched", patched).await
}

pub(super) async fn delete(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    Path(user): Path<String>,
) -> Result<StatusCode, ProblemDetails> {
    let user = user_id(&user)?;
    // A contact that is not there is refused; the write then changes nothing.
    let deleted = state.store.update_contact(user.clone(), |present| present.map(|_| None).ok_or(())).await?;
    deleted.map_err(|()| unknown())?;
    emit(&Event::ContactChanged { user: user.as_str(), by: &caller.0, what: "deleted" });
    Ok(StatusCode::NO_CONTENT)
}

async fn change(
    state: &AdminState,
    caller: &Caller,
    user: &str,
    what: &'static str,
    change: impl FnMut(Option<Contact>) -> Result<Option<Contact>, Vec<Problem>> + Send + 'static,
) -> Result<Json<Contact>, ProblemDetails> {
    let user = user_id(user)?;
    let changed = state.store.update_contact(user.clone(), change).await?.map_err(ProblemDetails::invalid)?;
    emit(&Event::ContactChanged { user: user.as_str(), by: &caller.0, what });
    Ok(Json(changed.unwrap_or_default()))
}

fn contact(document: Value) -> Result<Contact, Vec<Problem>> {
    let contact: Contact = decode_all(document, "$")?;
    match &contact.name {
        Some(name) if name.trim().is_empty() || name.len() > NAME_LIMIT || name.chars().any(char::is_control) => {
            Err(vec![Problem::new("$.name", "not a name", format!("one line of 1 to {NAME_LIMIT} bytes"))])
        }
        _ => Ok(contact),
    }
}

/// RFC 7396, section 2.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

fn user_id(text: &str) -> Result<UserId, ProblemDetails> {
    text.parse().map_err(|reason: String| {
        let (problem, hint) = reason.split_once("; hint: ").unwrap_or((&reason, ""));
        ProblemDetails::invalid(vec![Problem::new("id", problem, hint)])
    })
}

fn unknown() -> ProblemDetails {
    ProblemDetails::new(StatusCode::NOT_FOUND, "contact_not_found", "nothing is known of this user")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(mut target: Value, patch: &Value, expected: &Value) {
        merge(&mut target, patch);
        assert_eq!(&target, expected);
    }

    #[test]
    fn merge_patches_as_rfc_7396_shows() {
        check(json!({"a": "b"}), &json!({"a": "c"}), &json!({"a": "c"}));
        check(json!({"a": "b"}), &json!({"b": "c"}), &json!({"a": "b", "b": "c"}));
        check(json!({"a": "b", "b": "c"}), &json!({"a": null}), &json!({"b": "c"}));
        check(json!({"a": ["b"]}), &json!({"a": "c"}), &json!({"a": "c"}));
        check(json!({"a": {"b": "c"}}), &json!({"a": {"b": "d", "c": null}}), &json!({"a": {"b": "d"}}));
        check(json!({}), &json!({"a": {"bb": {"ccc": null}}}), &json!({"a": {"bb": {}}}));
    }

    #[test]
    fn a_contact_says_everything_that_is_wrong() {
        let problems = contact(json!({"email": "x", "phon": "1", "timezone": "Dar"})).unwrap_err();
        let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(paths, ["$.email", "$.phon", "$.timezone"]);
        assert!(contact(json!({"name": "a\nb"})).is_err());
    }
}
