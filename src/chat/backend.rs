//! What a backend and operators do with conversations: making them for their users, changing who takes part, and looking after them. They are
//! shown no texts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    conversations::{Subject, name, subject, title},
    error::ChatError,
    service::Chat,
};
use crate::{
    model::{ChatRole, Conversation, ConversationId, MessageId, Participant, Problem, Severity, UserId},
    store::{
        AddRefused, ConversationFilter, ConversationPage, ConversationView, NewConversation, NewParticipant, ParticipantChange, StoreError,
    },
};

/// Longest key, in bytes.
const KEY_LIMIT: usize = 255;
/// Longest metadata, in bytes of JSON.
const METADATA_LIMIT: usize = 16 << 10;
/// Longest notice, in characters.
const NOTICE_LIMIT: usize = 2000;

/// Somebody who is to take part.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewParticipant")]
struct Coming {
    user_id: UserId,
    /// The name that others see.
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    role: Option<ChatRole>,
}

/// A conversation to make.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewConversation")]
pub struct ConversationMaking {
    /// Makes making it idempotent; also as the header `Idempotency-Key`.
    #[serde(default)]
    key: Option<String>,
    #[schemars(length(min = 1))]
    participants: Vec<Coming>,
    #[serde(default)]
    #[schemars(with = "Option<Subject>")]
    property_id: Option<Value>,
    #[serde(default)]
    property_title: Option<String>,
    #[serde(default)]
    metadata: Map<String, Value>,
}

/// Another name for somebody.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Renaming {
    user_id: UserId,
    /// `null` takes the name away.
    name: Option<String>,
}

/// Who comes, who goes, and who is called otherwise.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParticipantsChange {
    #[serde(default)]
    add: Vec<Coming>,
    /// They cannot come back by their own will.
    #[serde(default)]
    remove: Vec<UserId>,
    #[serde(default)]
    rename: Vec<Renaming>,
}

/// Something to show all who have a conversation open.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SystemNotice {
    message: String,
    #[serde(default)]
    severity: Severity,
}

/// A conversation as it is kept, without what was said in it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ConversationRecord {
    #[serde(flatten)]
    conversation: Conversation,
    /// Those who have left too.
    participants: Vec<Participant>,
}

impl From<ConversationView> for ConversationRecord {
    fn from(view: ConversationView) -> Self {
        Self { conversation: view.conversation, participants: view.participants }
    }
}

impl ConversationRecord {
    pub const fn id(&self) -> ConversationId {
        self.conversation.id
    }
}

/// Why something was not made.
#[derive(Debug)]
pub enum NotMade {
    Invalid(Vec<Problem>),
    /// The key is of another conversation, which other words made.
    KeyConflict(ConversationId),
    NotFound,
    /// More would take part than may.
    Full(usize),
    Store(StoreError),
}

impl From<StoreError> for NotMade {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl ConversationMaking {
    /// With the key that came beside it.
    ///
    /// # Errors
    /// It has another one of its own.
    pub fn with_key(self, beside: Option<String>) -> Result<Self, Problem> {
        match (&self.key, &beside) {
            (Some(own), Some(beside)) if own != beside => {
                Err(Problem::new("$.key", "is not the Idempotency-Key of the request", "give one of them, or the same twice"))
            }
            _ => Ok(Self { key: self.key.or(beside), ..self }),
        }
    }

    fn checked(self, limit: usize) -> Result<NewConversation, Vec<Problem>> {
        let Self { key, participants, property_id, property_title, metadata } = self;
        let mut problems = Vec::new();
        if key.as_ref().is_some_and(|key| !(1..=KEY_LIMIT).contains(&key.len()) || key.chars().any(char::is_control)) {
            problems.push(Problem::new("$.key", "not a key", format!("1 to {KEY_LIMIT} bytes, such as order-8841")));
        }
        if participants.is_empty() {
            problems.push(Problem::new("$.participants", "nobody takes part", "name at least one: {\"user_id\": \"42\"}"));
        }
        let participants = coming(participants, "$.participants", limit, &mut problems);
        let mut take = |given: Result<_, String>, path: &str| {
            given.unwrap_or_else(|told| {
                problems.push(Problem::new(path, told, ""));
                None
            })
        };
        let property_id = take(subject(property_id), "$.property_id");
        let property_title = take(title(property_title).map(|title| title.map(Value::from)), "$.property_title");
        let property_title = property_title.and_then(|title| title.as_str().map(str::to_owned));
        if serde_json::to_string(&metadata).is_ok_and(|text| text.len() > METADATA_LIMIT) {
            problems.push(Problem::new("$.metadata", "too long", format!("at most {METADATA_LIMIT} bytes of JSON")));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let people: Vec<Value> =
            participants.iter().map(|person| json!([person.user_id, person.name, person.role.map(ChatRole::as_str)])).collect();
        let said = json!([people, property_id, property_title, metadata]);
        let canonical = serde_json_canonicalizer::to_vec(&said).unwrap_or_default();
        let body_hash = Sha256::digest(&canonical).into();
        Ok(NewConversation { key, body_hash, created_by: None, participants, property_id, property_title, metadata })
    }
}

/// Who is to take part, checked.
fn coming(given: Vec<Coming>, path: &str, limit: usize, problems: &mut Vec<Problem>) -> Vec<NewParticipant> {
    if given.len() > limit {
        problems.push(Problem::new(path, format!("{} of them", given.len()), format!("at most {limit} (chat.participants_limit)")));
    }
    let mut people: Vec<NewParticipant> = Vec::with_capacity(given.len());
    for (index, Coming { user_id, name: called, role }) in given.into_iter().enumerate() {
        if people.iter().any(|known| known.user_id == user_id) {
            problems.push(Problem::new(format!("{path}[{index}].user_id"), "named twice", "name everybody once"));
        }
        let name = checked_name(called, &format!("{path}[{index}].name"), problems);
        people.push(NewParticipant { user_id, name, role });
    }
    people
}

fn checked_name(given: Option<String>, path: &str, problems: &mut Vec<Problem>) -> Option<String> {
    name(given).unwrap_or_else(|told| {
        problems.push(Problem::new(path, told, ""));
        None
    })
}

impl Chat {
    /// Makes a conversation for others; true when its key had made it before.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub async fn make(&self, making: ConversationMaking) -> Result<(ConversationRecord, bool), NotMade> {
        let new = making.checked(self.config.participants_limit).map_err(NotMade::Invalid)?;
        let created = self.store.create_conversation(new).await?.map_err(|conflict| NotMade::KeyConflict(conflict.0))?;
        Ok((created.conversation.into(), created.repeated))
    }

    /// A conversation as it is kept.
    ///
    /// # Errors
    /// There is none such.
    pub async fn record(&self, id: ConversationId) -> Result<ConversationRecord, NotMade> {
        self.store.conversation(id, None).await?.map(Into::into).ok_or(NotMade::NotFound)
    }

    /// A page of somebody's conversations as they are kept.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn records(&self, user: UserId, filter: ConversationFilter) -> Result<ConversationPage, StoreError> {
        self.store.conversations(user, filter).await
    }

    /// Changes who takes part: first who comes, then who goes, then who is called what. Done again, it changes nothing.
    ///
    /// # Errors
    /// Nothing was done of what is wrong; of the rest, what was done before stays.
    pub async fn change_participants(&self, id: ConversationId, change: ParticipantsChange) -> Result<ConversationRecord, NotMade> {
        let limit = self.config.participants_limit;
        let before = self.store.conversation(id, None).await?.ok_or(NotMade::NotFound)?;
        let ParticipantsChange { add, remove, rename } = change;
        let mut problems = Vec::new();
        let add = coming(add, "$.add", limit, &mut problems);
        let mut renamed = Vec::new();
        for (index, Renaming { user_id, name: called }) in rename.into_iter().enumerate() {
            let is_known =
                before.participant(&user_id).is_some_and(Participant::is_present) || add.iter().any(|new| new.user_id == user_id);
            if !is_known || remove.contains(&user_id) {
                problems.push(Problem::new(format!("$.rename[{index}].user_id"), "takes no part in it", "add them first"));
            }
            renamed.push((user_id, checked_name(called, &format!("$.rename[{index}].name"), &mut problems)));
        }
        if !problems.is_empty() {
            return Err(NotMade::Invalid(problems));
        }
        if !add.is_empty() {
            let added = self.store.add_participants(id, add, limit, |_| ()).await?;
            added.map_err(|refused| match refused {
                AddRefused::NotFound => NotMade::NotFound,
                AddRefused::Full => NotMade::Full(limit),
            })?;
            self.membership_changed(id, None);
        }
        for user in remove {
            self.store.set_participant(id, user.clone(), ParticipantChange::Remove, |_| ()).await?;
            self.membership_changed(id, Some(&user));
        }
        for (user, called) in renamed {
            self.store.set_participant(id, user, ParticipantChange::Rename(called), |_| ()).await?;
            self.membership_changed(id, None);
        }
        self.record(id).await
    }

    /// Shows a notice to all who have the conversation open.
    ///
    /// # Errors
    /// There is no such conversation, or nothing to show.
    pub async fn show_notice(&self, id: ConversationId, notice: SystemNotice) -> Result<(), NotMade> {
        let message = notice.message.trim();
        if !(1..=NOTICE_LIMIT).contains(&message.chars().count()) {
            let hint = format!("1 to {NOTICE_LIMIT} characters");
            return Err(NotMade::Invalid(vec![Problem::new("$.message", "empty or too long", hint)]));
        }
        self.notify(id, message.to_owned(), notice.severity).await.map_err(|error| match error {
            ChatError::Store(error) => NotMade::Store(error),
            _ => NotMade::NotFound,
        })
    }

    /// Empties a message for everyone, whoever wrote it; the conversation it is in, and false when it was deleted before.
    ///
    /// # Errors
    /// There is none such.
    pub async fn take_down(&self, id: MessageId) -> Result<(ConversationId, bool), NotMade> {
        let message = self.store.message(id, None).await?.ok_or(NotMade::NotFound)?;
        match self.delete(None, message.conversation, id).await {
            Ok(()) => Ok((message.conversation, true)),
            Err(ChatError::Conflict(_)) => Ok((message.conversation, false)),
            Err(ChatError::Store(error)) => Err(NotMade::Store(error)),
            Err(_) => Err(NotMade::NotFound),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &Value, expected: Result<(), &[&str]>) {
        let making: ConversationMaking = serde_json::from_value(body.clone()).unwrap();
        let checked =
            making.checked(3).map(|_| ()).map_err(|problems| problems.into_iter().map(|problem| problem.path).collect::<Vec<_>>());
        assert_eq!(checked, expected.map_err(|paths| paths.iter().map(ToString::to_string).collect()), "{body}");
    }

    #[test]
    fn everything_wrong_is_told() {
        let two = json!([{ "user_id": 1 }, { "user_id": "2", "name": "Juma", "role": "agent" }]);
        check(&json!({ "participants": two, "property_id": "7", "metadata": { "a": 1 } }), Ok(()));
        check(&json!({ "participants": [] }), Err(&["$.participants"]));
        check(
            &json!({ "participants": [{ "user_id": 1 }, { "user_id": 2 }, { "user_id": 3 }, { "user_id": 4 }] }),
            Err(&["$.participants"]),
        );
        check(
            &json!({ "key": "", "participants": [{ "user_id": 1 }, { "user_id": "1", "name": "a\n" }], "property_id": [], "property_title": "a\nb",
                    "metadata": { "a": "x".repeat(20_000) } }),
            Err(&["$.key", "$.participants[1].user_id", "$.property_id", "$.property_title", "$.metadata"]),
        );
        check(&json!({ "participants": [{ "user_id": 1, "name": "a\nb" }] }), Err(&["$.participants[0].name"]));
    }

    #[test]
    fn the_same_said_otherwise_is_the_same() {
        let hash = |body: Value| serde_json::from_value::<ConversationMaking>(body).unwrap().checked(3).unwrap().body_hash;
        let one = hash(json!({ "participants": [{ "user_id": 1 }], "property_id": "7", "metadata": { "a": 1, "b": 2 } }));
        assert_eq!(
            one,
            hash(json!({ "property_id": 7, "participants": [{ "user_id": "1", "name": " " }], "metadata": { "b": 2, "a": 1 } }))
        );
        assert_ne!(one, hash(json!({ "property_id": 8, "participants": [{ "user_id": "1" }], "metadata": { "b": 2, "a": 1 } })));
    }

    #[test]
    fn a_key_is_given_in_one_way_or_the_other() {
        let making = |key: Option<&str>| serde_json::from_value::<ConversationMaking>(json!({ "key": key, "participants": [] })).unwrap();
        assert_eq!(making(None).with_key(Some("a".to_owned())).unwrap().key.as_deref(), Some("a"));
        assert_eq!(making(Some("a")).with_key(None).unwrap().key.as_deref(), Some("a"));
        assert!(making(Some("a")).with_key(Some("a".to_owned())).is_ok());
        assert!(making(Some("a")).with_key(Some("b".to_owned())).is_err());
    }
}
