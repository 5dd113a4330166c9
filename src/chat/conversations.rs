//! Conversations as their participants see them, and how one of them begins one.

use futures_util::future::join_all;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    error::ChatError,
    members::Members,
    service::Chat,
    view::{self, MessageView},
};
use crate::{
    model::{ChatRole, ConversationId, MessageId, Participant, Timestamp, UserId},
    store::{ConversationFilter, ConversationView, NewConversation, NewParticipant},
};

/// Longest name of somebody, in bytes.
const NAME_LIMIT: usize = 255;
/// Longest name of a subject, in bytes, and longest title.
const PROPERTY_LIMIT: usize = 200;
const TITLE_LIMIT: usize = 500;

/// Somebody who takes part.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Person")]
pub struct PersonView {
    #[schemars(with = "UserId")]
    pub id: Value,
    /// The name that others see; the id where there is none.
    pub username: String,
    pub role: Option<ChatRole>,
    /// Whether they have this conversation open.
    pub is_online: bool,
    /// They have read up to this message.
    pub read_to: Option<MessageId>,
    pub read_at: Option<Timestamp>,
    /// Present, and true, for who has left.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schemars(default)]
    pub has_left: bool,
}

/// A conversation for one of those who take part.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Conversation")]
pub struct ConversationShown {
    pub id: ConversationId,
    #[schemars(with = "Option<UserId>")]
    pub user: Option<Value>,
    #[schemars(with = "Option<UserId>")]
    pub agent: Option<Value>,
    /// The first of the others.
    pub other_participant: Option<PersonView>,
    pub participants: Vec<PersonView>,
    /// What it is about: a number or a text.
    #[schemars(with = "Option<Subject>")]
    pub property: Option<Value>,
    pub property_title: Option<String>,
    pub last_message: Option<MessageView>,
    pub unread_count: i64,
    pub muted: bool,
    pub hidden: bool,
    pub created_at: Timestamp,
    /// Of its last message, or of its making.
    pub updated_at: Timestamp,
    /// Always: who has left a conversation is shown it no more.
    pub is_active: bool,
    pub metadata: Map<String, Value>,
}

/// A number, or a text; the same number in digits is one with it.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum Subject {
    Number(i64),
    Text(String),
}

/// A page of somebody's conversations.
#[derive(Debug)]
pub(super) struct ListedConversations {
    pub conversations: Vec<ConversationShown>,
    pub next: Option<crate::store::ConversationCursor>,
}

impl Chat {
    /// A conversation as `viewer` sees it.
    ///
    /// # Errors
    /// They take no part in it.
    pub(super) async fn conversation(&self, id: ConversationId, viewer: &UserId) -> Result<ConversationShown, ChatError> {
        let view = self.store.conversation(id, Some(viewer.clone())).await?;
        let view = view.filter(|view| view.participant(viewer).is_some_and(Participant::is_present));
        Ok(self.shown(view.ok_or(ChatError::NotFound("Conversation"))?, viewer).await)
    }

    pub(super) async fn conversations(&self, viewer: &UserId, filter: ConversationFilter) -> Result<ListedConversations, ChatError> {
        let page = self.store.conversations(viewer.clone(), filter).await?;
        let conversations = join_all(page.conversations.into_iter().map(|view| self.shown(view, viewer))).await;
        Ok(ListedConversations { conversations, next: page.next })
    }

    /// Finds the conversation of two people about their subject, or makes it; with more of them it is a new one. True when it was there.
    ///
    /// # Errors
    /// One of them has blocked another, there are too many, or whoever asks makes too many.
    pub(super) async fn start(
        &self,
        by: &UserId,
        participants: Vec<NewParticipant>,
        property_id: Option<Value>,
        property_title: Option<String>,
    ) -> Result<(ConversationShown, bool), ChatError> {
        let (many, limit) = (participants.len(), self.config.participants_limit);
        if many > limit {
            return Err(ChatError::Invalid(format!("Too many participants: {many}; at most {limit}.")));
        }
        self.check_pace(by)?;
        let blocked = self.store.blocks(by.clone()).await?;
        for other in participants.iter().map(|participant| &participant.user_id).filter(|other| *other != by) {
            if blocked.contains(other) {
                return Err(ChatError::Forbidden("You have blocked this user; unblock them to send messages."));
            }
            if self.store.is_blocked(other.clone(), by.clone()).await? {
                return Err(ChatError::Forbidden("You cannot send messages to this user."));
            }
        }
        let new = NewConversation {
            key: None,
            body_hash: [0; 32],
            created_by: Some(by.clone()),
            participants: self.named(participants).await?,
            property_id,
            property_title,
            metadata: Map::new(),
        };
        let created = self.store.start_conversation(new).await?.map_err(|_| ChatError::Conflict("The key is taken."))?;
        if created.repeated {
            // Whoever had left it may be back.
            self.membership_changed(created.conversation.conversation.id, None);
        }
        Ok((self.shown(created.conversation, by).await, created.repeated))
    }

    /// Known names go before those that were given: one user does not name another.
    async fn named(&self, participants: Vec<NewParticipant>) -> Result<Vec<NewParticipant>, ChatError> {
        let users = participants.iter().map(|participant| participant.user_id.clone()).collect();
        let mut contacts = self.store.contacts(users).await?;
        let named = participants.into_iter().map(|participant| {
            let known = contacts.remove(&participant.user_id).and_then(|contact| contact.name);
            NewParticipant { name: known.or(participant.name), ..participant }
        });
        Ok(named.collect())
    }

    async fn shown(&self, view: ConversationView, viewer: &UserId) -> ConversationShown {
        let ConversationView { conversation, participants, last_message } = view;
        let members = Members::of(participants);
        let participants = members.all();
        let last_message = last_message.map(|message| MessageView::new(&message, self.open(&message), &members, participants));
        let people = participants.iter().map(async |participant| self.person(conversation.id, &members, participant).await);
        let mut people = join_all(people).await;
        let is_other = |person: &&PersonView| person.id != viewer.to_wire();
        let other = people.iter().filter(is_other).min_by_key(|person| person.has_left).cloned();
        let place = |role| participants.iter().find(|participant| participant.role == Some(role));
        // Who makes conversations for others may leave the places open.
        let mut open = participants.iter().filter(|participant| participant.role.is_none());
        let user = place(ChatRole::User).or_else(|| open.next());
        let agent = place(ChatRole::Agent).or_else(|| open.next());
        let own = members.present(viewer);
        people.retain(|person| !person.has_left);
        ConversationShown {
            id: conversation.id,
            user: user.map(|participant| participant.user_id.to_wire()),
            agent: agent.map(|participant| participant.user_id.to_wire()),
            other_participant: other,
            participants: people,
            property: conversation.property_id,
            property_title: conversation.property_title,
            last_message,
            unread_count: own.map_or(0, |own| own.unread),
            muted: own.is_some_and(|own| own.muted),
            hidden: own.is_some_and(|own| own.hidden_at.is_some()),
            created_at: conversation.created_at,
            updated_at: conversation.updated_at,
            is_active: true,
            metadata: conversation.metadata,
        }
    }

    async fn person(&self, conversation: ConversationId, members: &Members, participant: &Participant) -> PersonView {
        let has_left = !participant.is_present();
        PersonView {
            id: participant.user_id.to_wire(),
            username: members.name(&participant.user_id),
            role: participant.role,
            is_online: !has_left && self.is_attending(conversation, &participant.user_id).await,
            read_to: participant.read_to,
            read_at: participant.read_at,
            has_left,
        }
    }

    /// Messages as `viewer` sees them.
    pub(super) async fn messages_shown(
        &self,
        conversation: ConversationId,
        messages: &[crate::model::StoredMessage],
    ) -> Result<Vec<MessageView>, ChatError> {
        let members = Members::of(self.store.participants(conversation).await?);
        Ok(view::all(self, messages, &members))
    }
}

/// What a conversation is about. A number that came as text is one again; an empty text is nothing.
///
/// # Errors
/// It is neither a whole number nor a short text.
pub(super) fn subject(given: Option<Value>) -> Result<Option<Value>, String> {
    match given {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) if number.is_i64() => Ok(Some(Value::Number(number))),
        Some(Value::String(text)) => {
            let text = text.trim();
            if text.len() > PROPERTY_LIMIT || text.chars().any(char::is_control) {
                return Err(format!("has at most {PROPERTY_LIMIT} bytes, and no control characters"));
            }
            let number = text.parse::<i64>().ok().filter(|number| number.to_string() == text);
            Ok(number.map(Value::from).or_else(|| (!text.is_empty()).then(|| text.into())))
        }
        Some(_) => Err("is a whole number or a text".to_owned()),
    }
}

/// Somebody's name, trimmed; an empty one is none.
///
/// # Errors
/// It is too long, or more than a line.
pub(super) fn name(given: Option<String>) -> Result<Option<String>, String> {
    line(given, NAME_LIMIT)
}

/// The title of a subject, as [`name`].
pub(super) fn title(given: Option<String>) -> Result<Option<String>, String> {
    line(given, TITLE_LIMIT)
}

fn line(given: Option<String>, limit: usize) -> Result<Option<String>, String> {
    let Some(text) = given.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()) else { return Ok(None) };
    if text.len() > limit || text.chars().any(char::is_control) {
        return Err(format!("is one line of at most {limit} bytes"));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(given: Value, expected: Option<Value>) {
        assert_eq!(subject(Some(given)), Ok(expected));
    }

    #[test]
    fn a_number_and_its_digits_are_one_subject() {
        check(json!(8841), Some(json!(8841)));
        check(json!("8841"), Some(json!(8841)));
        check(json!(" 8841 "), Some(json!(8841)));
        check(json!("08841"), Some(json!("08841")));
        check(json!("flat-7"), Some(json!("flat-7")));
        check(json!(""), None);
        check(json!(null), None);
        for bad in [json!(1.5), json!([1]), json!({}), json!(true), json!("a\nb"), json!("x".repeat(201))] {
            assert!(subject(Some(bad.clone())).is_err(), "{bad}");
        }
        assert_eq!(subject(None), Ok(None));
    }

    #[test]
    fn names_are_a_line() {
        assert_eq!(name(Some(" Asha ".to_owned())), Ok(Some("Asha".to_owned())));
        assert_eq!(name(Some("  ".to_owned())), Ok(None));
        assert!(name(Some("a\nb".to_owned())).is_err());
        assert!(title(Some("x".repeat(501))).is_err());
    }
}
