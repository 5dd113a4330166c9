//! Somebody's conversations: listing them, beginning one, and their own part in it.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::Uri,
    response::IntoResponse as _,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    super::conversations::{Subject, name, subject, title},
    Answer, Envelope, NotDone, conversation_id, created, done, invalid, link, passed_over,
};
use crate::{
    chat::Chat,
    model::{ChatRole, ConversationId, Timestamp, UserId},
    socket::{Document, Identity},
    store::{CONVERSATIONS_PAGE_LIMIT, ConversationCursor, ConversationFilter, NewParticipant, ParticipantChange},
};

/// Conversations in a page of the envelope, as the replaced system had it.
const PAGE: usize = 20;

#[derive(Deserialize)]
pub(super) struct Listing {
    page: Option<usize>,
    cursor: Option<String>,
    #[serde(alias = "limit")]
    page_size: Option<usize>,
    #[serde(default)]
    hidden: bool,
}

/// The most active first: a bare array, or with `page` or `cursor` the envelope.
pub(super) async fn list(
    State(chat): State<Arc<Chat>>,
    Extension(identity): Extension<Identity>,
    uri: Uri,
    listing: Result<Query<Listing>, QueryRejection>,
) -> Answer {
    let Query(Listing { page, cursor, page_size, hidden }) = listing?;
    let user = identity.user_id;
    let is_enveloped = page.is_some() || cursor.is_some();
    let size = page_size.unwrap_or(if is_enveloped { PAGE } else { CONVERSATIONS_PAGE_LIMIT }).clamp(1, CONVERSATIONS_PAGE_LIMIT);
    let filter = ConversationFilter { hidden, limit: size, ..ConversationFilter::default() };
    if !is_enveloped {
        return Ok(Json(chat.conversations(&user, filter).await?.conversations).into_response());
    }
    let count = chat.store.conversation_count(user.clone(), hidden).await?;
    let by_page = page.filter(|_| cursor.is_none());
    let filter = match (by_page, cursor.filter(|cursor| !cursor.is_empty())) {
        (Some(page), _) => ConversationFilter { skip: passed_over(page, size, count)?, ..filter },
        (None, Some(cursor)) => ConversationFilter { before: Some(read_cursor(&cursor)?), ..filter },
        (None, None) => filter,
    };
    let listed = chat.conversations(&user, filter).await?;
    let next = listed.next.map(|next| match by_page {
        Some(page) => link(&uri, "page", &(page.max(1) + 1).to_string()),
        None => link(&uri, "cursor", &format!("{}-{}", next.activity.as_millis(), next.id)),
    });
    let previous = by_page.filter(|page| *page > 1).map(|page| link(&uri, "page", &(page - 1).to_string()));
    Ok(Json(Envelope { count, next, previous, results: listed.conversations }).into_response())
}

fn read_cursor(text: &str) -> Result<ConversationCursor, NotDone> {
    let read = text.split_once('-').and_then(|(activity, id)| {
        Some(ConversationCursor { activity: Timestamp::from_millis(activity.parse().ok()?), id: id.parse().ok()? })
    });
    read.ok_or_else(|| invalid("`cursor` is not one of this list; hint: follow `next`."))
}

/// Who is to talk about what: `user_id` or `agent_id`, or `participants`.
#[derive(Deserialize, JsonSchema)]
pub(in crate::chat) struct StartRequest {
    /// The other one. With both, each has the place named, and one of them is who asks.
    user_id: Option<UserId>,
    agent_id: Option<UserId>,
    /// How they are called, where that is not known.
    user_name: Option<String>,
    agent_name: Option<String>,
    /// For more than two. Who asks need not be among them.
    #[serde(default)]
    participants: Vec<Named>,
    #[schemars(with = "Option<Subject>")]
    property_id: Option<Value>,
    property_title: Option<String>,
}

/// Somebody who is to take part.
#[derive(Deserialize, JsonSchema)]
struct Named {
    user_id: UserId,
    /// How they are called, where that is not known.
    name: Option<String>,
    role: Option<ChatRole>,
}

pub(super) async fn start(
    State(chat): State<Arc<Chat>>,
    Extension(identity): Extension<Identity>,
    Document(mut request): Document<StartRequest>,
) -> Answer {
    let property_id = subject(request.property_id.take()).map_err(|told| invalid(format!("`property_id` {told}.")))?;
    let property_title = title(request.property_title.take()).map_err(|told| invalid(format!("`property_title` {told}.")))?;
    let participants = participants(request, &identity.user_id).map_err(invalid)?;
    let (conversation, repeated) = chat.start(&identity.user_id, participants, property_id, property_title).await?;
    Ok(created(!repeated, conversation))
}

/// Everybody, `by` too. Of two, who asks is the user and the other the agent, unless it is said otherwise.
fn participants(request: StartRequest, by: &UserId) -> Result<Vec<NewParticipant>, String> {
    const HINT: &str = "hint: {\"agent_id\": 43}, or {\"participants\": [{\"user_id\": 43}, {\"user_id\": 44}]}";
    let StartRequest { user_id, agent_id, user_name, agent_name, participants, .. } = request;
    let person = |user_id, name, role| NewParticipant { user_id, name, role };
    let mut people = match (user_id, agent_id) {
        (Some(_), _) | (_, Some(_)) if !participants.is_empty() => {
            return Err(format!("`participants` together with `user_id` or `agent_id`; {HINT}"));
        }
        (Some(user), Some(agent)) => {
            if user != *by && agent != *by {
                return Err("One of `user_id` and `agent_id` is you; leave out your own.".to_owned());
            }
            vec![person(user, user_name, Some(ChatRole::User)), person(agent, agent_name, Some(ChatRole::Agent))]
        }
        (Some(other), None) => vec![person(by.clone(), None, None), person(other, user_name, None)],
        (None, Some(other)) => vec![person(by.clone(), user_name, None), person(other, agent_name, None)],
        (None, None) if participants.is_empty() => return Err(format!("With whom? `user_id` or `agent_id` is missing; {HINT}")),
        (None, None) => {
            let mut people: Vec<_> = participants.into_iter().map(|named| person(named.user_id, named.name, named.role)).collect();
            if people.iter().all(|person| person.user_id != *by) {
                people.insert(0, person(by.clone(), None, None));
            }
            people
        }
    };
    let mut users: Vec<&UserId> = people.iter().map(|person| &person.user_id).collect();
    users.sort_unstable();
    users.dedup();
    if users.len() < people.len() || people.len() < 2 {
        return Err("A conversation has at least two participants, each of them once.".to_owned());
    }
    if let [one, other] = &mut people[..]
        && one.role.is_none()
        && other.role.is_none()
    {
        let (first, second) = if one.user_id == *by { (one, other) } else { (other, one) };
        (first.role, second.role) = (Some(ChatRole::User), Some(ChatRole::Agent));
    }
    for person in &mut people {
        person.name = name(person.name.take()).map_err(|told| format!("The name of {} {told}.", person.user_id))?;
    }
    Ok(people)
}

/// Over all conversations in sight.
#[derive(Serialize, JsonSchema)]
pub(in crate::chat) struct UnreadCount {
    unread_count: i64,
}

pub(super) async fn unread_count(State(chat): State<Arc<Chat>>, Extension(identity): Extension<Identity>) -> Answer {
    Ok(Json(UnreadCount { unread_count: chat.store.total_unread(identity.user_id).await? }).into_response())
}

pub(super) async fn show(State(chat): State<Arc<Chat>>, Extension(identity): Extension<Identity>, Path(id): Path<String>) -> Answer {
    Ok(Json(chat.conversation(conversation_id(&id)?, &identity.user_id).await?).into_response())
}

pub(super) async fn leave(State(chat): State<Arc<Chat>>, Extension(identity): Extension<Identity>, Path(id): Path<String>) -> Answer {
    chat.change_part(&identity.user_id, conversation_id(&id)?, ParticipantChange::Leave).await?;
    Ok(done())
}

async fn change(chat: &Chat, identity: &Identity, id: &str, change: ParticipantChange) -> Answer {
    let id: ConversationId = conversation_id(id)?;
    chat.change_part(&identity.user_id, id, change).await?;
    Ok(Json(chat.conversation(id, &identity.user_id).await?).into_response())
}

pub(super) async fn hide(chat: State<Arc<Chat>>, identity: Extension<Identity>, id: Path<String>) -> Answer {
    change(&chat, &identity, &id, ParticipantChange::Hide).await
}

pub(super) async fn unhide(chat: State<Arc<Chat>>, identity: Extension<Identity>, id: Path<String>) -> Answer {
    change(&chat, &identity, &id, ParticipantChange::Unhide).await
}

pub(super) async fn mute(chat: State<Arc<Chat>>, identity: Extension<Identity>, id: Path<String>) -> Answer {
    change(&chat, &identity, &id, ParticipantChange::Mute).await
}

pub(super) async fn unmute(chat: State<Arc<Chat>>, identity: Extension<Identity>, id: Path<String>) -> Answer {
    change(&chat, &identity, &id, ParticipantChange::Unmute).await
}

pub(super) async fn rejoin(chat: State<Arc<Chat>>, identity: Extension<Identity>, id: Path<String>) -> Answer {
    change(&chat, &identity, &id, ParticipantChange::Rejoin).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Everybody as `id name role`, asked by 42.
    #[track_caller]
    fn check(body: &Value, expected: Option<&[&str]>) {
        let request: StartRequest = serde_json::from_value(body.clone()).unwrap();
        let people = participants(request, &"42".parse().unwrap()).ok().map(|people| {
            let told = |person: &NewParticipant| {
                let role = person.role.map_or("-", ChatRole::as_str);
                format!("{} {} {role}", person.user_id, person.name.as_deref().unwrap_or("-"))
            };
            people.iter().map(told).collect::<Vec<_>>()
        });
        let expected = expected.map(|people| people.iter().map(ToString::to_string).collect());
        assert_eq!(people, expected, "{body}");
    }

    #[test]
    fn places_are_given_as_the_replaced_system_had_them() {
        check(&json!({ "agent_id": 43, "agent_name": "Juma" }), Some(&["42 - user", "43 Juma agent"]));
        check(&json!({ "user_id": "43", "user_name": " Asha " }), Some(&["42 - user", "43 Asha agent"]));
        check(&json!({ "user_id": 43, "agent_id": 42 }), Some(&["43 - user", "42 - agent"]));
        check(&json!({ "participants": [{ "user_id": 43, "role": "user" }] }), Some(&["42 - -", "43 - user"]));
        check(&json!({ "participants": [{ "user_id": 43 }, { "user_id": 42 }] }), Some(&["43 - agent", "42 - user"]));
        check(&json!({ "participants": [{ "user_id": 43 }, { "user_id": 44 }] }), Some(&["42 - -", "43 - -", "44 - -"]));
    }

    #[test]
    fn nobody_talks_alone_or_twice() {
        check(&json!({}), None);
        check(&json!({ "agent_id": 42 }), None);
        check(&json!({ "user_id": 42, "agent_id": 42 }), None);
        check(&json!({ "user_id": 43, "agent_id": 44 }), None);
        check(&json!({ "user_id": 43, "participants": [{ "user_id": 43 }] }), None);
        check(&json!({ "participants": [{ "user_id": 43 }, { "user_id": "43" }] }), None);
        check(&json!({ "participants": [{ "user_id": 42 }] }), None);
        check(&json!({ "agent_id": 43, "agent_name": "a\nb" }), None);
    }
}
