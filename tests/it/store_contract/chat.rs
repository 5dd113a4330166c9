//! Conversations and who takes part in them.

use serde_json::{Map, json};
use tarishi::{
    model::{ChatRole, ConversationId, MessageId, UserId},
    store::{
        AddRefused, BLOCKS_LIMIT, BlockAdded, ChangeRefused, ConversationFilter, KeyConflict, MessageCursor, NewConversation, NewMessage,
        NewParticipant, ParticipantChange, SendRefused, Sent,
    },
};

use crate::fixture::{Backend, TestStore, next_millisecond, user_id};

/// What takes no note of a commit.
pub fn unnoted<T>(_: &T) {}

/// What the message with this id says, as it is stored.
pub fn sealed(id: MessageId) -> String {
    format!("sealed {id}")
}

pub fn participant(user: &str) -> NewParticipant {
    NewParticipant { user_id: user_id(user), name: Some(user.to_uppercase()), role: None }
}

pub fn among(users: &[&str]) -> NewConversation {
    NewConversation {
        key: None,
        body_hash: [1; 32],
        created_by: users.first().map(|user| user_id(user)),
        participants: users.iter().map(|user| participant(user)).collect(),
        property_id: Some(json!(8841)),
        property_title: Some("A flat by the sea".to_owned()),
        metadata: Map::new(),
    }
}

pub fn written(conversation: ConversationId, sender: &str) -> NewMessage {
    NewMessage { conversation, sender: user_id(sender), client_id: None, reply_to: None, present: Vec::new(), notify_after: None }
}

impl<B: Backend> TestStore<B> {
    pub async fn chat(&self, users: &[&str]) -> ConversationId {
        let created = self.create_conversation(among(users)).await.unwrap().unwrap();
        assert!(!created.repeated);
        created.conversation.conversation.id
    }

    pub async fn offer_message(&self, message: NewMessage) -> Result<Sent, SendRefused> {
        self.send_message(message, sealed, unnoted).await.unwrap()
    }

    /// A message that is stored.
    pub async fn say(&self, conversation: ConversationId, sender: &str) -> MessageId {
        self.offer_message(written(conversation, sender)).await.unwrap().message.id
    }

    pub async fn unread(&self, conversation: ConversationId, user: &str) -> i64 {
        self.participant(conversation, user_id(user)).await.unwrap().unwrap().unread
    }

    /// Whether somebody's part could be changed so.
    pub async fn put_participant(&self, conversation: ConversationId, user: &str, change: ParticipantChange) -> bool {
        self.set_participant(conversation, user_id(user), change, unnoted).await.unwrap().is_some()
    }

    pub async fn history(&self, conversation: ConversationId, viewer: &str) -> Vec<MessageId> {
        let page = self.messages(conversation, Some(user_id(viewer)), MessageCursor::Latest, 100).await.unwrap();
        page.messages.iter().map(|message| message.id).collect()
    }
}

async fn listed<B: Backend>(test: &TestStore<B>, user: &str, filter: ConversationFilter) -> Vec<ConversationId> {
    let (mut found, mut filter) = (Vec::new(), filter);
    loop {
        let page = test.conversations(user_id(user), filter).await.unwrap();
        found.extend(page.conversations.iter().map(|view| view.conversation.id));
        if page.next.is_none() {
            return found;
        }
        filter.before = page.next;
    }
}

async fn shown<B: Backend>(test: &TestStore<B>, user: &str) -> Vec<ConversationId> {
    listed(test, user, ConversationFilter { limit: 2, ..ConversationFilter::default() }).await
}

pub async fn a_conversation_is_made_once_for_its_key<B: Backend>(test: TestStore<B>) {
    let new = NewConversation {
        key: Some("viewing-7".to_owned()),
        participants: vec![
            NewParticipant { role: Some(ChatRole::User), ..participant("asha") },
            NewParticipant { role: Some(ChatRole::Agent), name: None, ..participant("juma") },
            participant("asha"),
        ],
        metadata: [("tenant".to_owned(), json!("one"))].into_iter().collect(),
        ..among(&["asha"])
    };
    let first = test.create_conversation(new.clone()).await.unwrap().unwrap();
    let view = first.conversation.clone();
    assert_eq!((first.repeated, view.participants.len(), view.last_message), (false, 2, None));
    assert_eq!((view.conversation.property_id.clone(), view.conversation.key.as_deref()), (Some(json!(8841)), Some("viewing-7")));
    assert_eq!((view.conversation.metadata["tenant"].clone(), view.conversation.event), (json!("one"), 0));
    assert_eq!(view.conversation.created_by, Some(user_id("asha")));
    let asha = view.participants.iter().find(|one| one.user_id == user_id("asha")).unwrap();
    assert_eq!((asha.name.as_deref(), asha.role, asha.read_to, asha.unread), (Some("ASHA"), Some(ChatRole::User), None, 0));
    let id = view.conversation.id;
    let last = test.say(id, "asha").await;
    let again = test.create_conversation(new.clone()).await.unwrap().unwrap();
    assert_eq!((again.repeated, again.conversation.conversation.id), (true, id));
    assert_eq!(again.conversation.last_message.unwrap().id, last, "as it is by now");
    let other = NewConversation { body_hash: [2; 32], ..new.clone() };
    assert_eq!(test.create_conversation(other).await.unwrap(), Err(KeyConflict(id)));
    let without_key = NewConversation { key: None, ..new };
    assert!(test.create_conversation(without_key).await.unwrap().unwrap().conversation.conversation.id > id);
    assert!(test.conversation(ConversationId(99), None).await.unwrap().is_none());
    test.balanced().await;
}

pub async fn two_people_have_one_conversation_about_one_thing<B: Backend>(test: TestStore<B>) {
    let start = async |users: &[&str], property: i64| {
        let new = NewConversation { property_id: Some(json!(property)), ..among(users) };
        let created = test.start_conversation(new).await.unwrap().unwrap();
        (created.conversation.conversation.id, created.repeated)
    };
    let (first, _) = start(&["asha", "juma"], 1).await;
    assert_eq!(start(&["asha", "juma"], 1).await, (first, true));
    assert_eq!(start(&["juma", "asha"], 1).await, (first, true), "whoever begins");
    let (second, is_repeated) = start(&["asha", "juma"], 2).await;
    assert!(!is_repeated && second != first, "about something else");
    assert!(!start(&["asha", "neema"], 1).await.1, "with somebody else");
    assert!(!start(&["asha", "juma", "neema"], 1).await.1 && !start(&["asha", "juma", "neema"], 1).await.1, "only two are found");

    test.put_participant(first, "asha", ParticipantChange::Hide).await;
    assert_eq!(start(&["asha", "juma"], 1).await, (first, true));
    assert!(test.participant(first, user_id("asha")).await.unwrap().unwrap().hidden_at.is_none(), "it is in sight again");
    test.put_participant(first, "asha", ParticipantChange::Leave).await;
    assert_eq!(start(&["asha", "juma"], 1).await, (first, true), "who left comes back");
    test.put_participant(first, "juma", ParticipantChange::Leave).await;
    let (third, is_repeated) = start(&["asha", "juma"], 1).await;
    assert!(!is_repeated, "nobody is brought back by others");
    test.add_participants(third, vec![participant("neema")], 10, unnoted).await.unwrap().unwrap();
    assert!(!start(&["asha", "juma"], 1).await.1, "three are not two");
}

pub async fn conversations_are_listed_by_activity<B: Backend>(test: TestStore<B>) {
    let mut ids = Vec::new();
    for other in ["juma", "neema", "zawadi", "baraka", "imani"] {
        ids.push(test.chat(&["asha", other]).await);
        next_millisecond().await;
    }
    test.chat(&["juma", "neema"]).await;
    assert_eq!(shown(&test, "asha").await, [ids[4], ids[3], ids[2], ids[1], ids[0]]);
    let hidden = test.say(ids[1], "neema").await;
    assert_eq!(shown(&test, "asha").await, [ids[1], ids[4], ids[3], ids[2], ids[0]]);
    test.put_participant(ids[4], "asha", ParticipantChange::Hide).await;
    test.put_participant(ids[3], "asha", ParticipantChange::Leave).await;
    assert_eq!(shown(&test, "asha").await, [ids[1], ids[2], ids[0]]);
    assert_eq!(listed(&test, "asha", ConversationFilter { hidden: true, limit: 9, ..ConversationFilter::default() }).await, [ids[4]]);
    let counts =
        (test.conversation_count(user_id("asha"), false).await.unwrap(), test.conversation_count(user_id("asha"), true).await.unwrap());
    assert_eq!(counts, (3, 1));
    assert_eq!(shown(&test, "baraka").await, [ids[3]], "for the other one it is as before");
    next_millisecond().await;
    test.say(ids[4], "asha").await;
    assert_eq!(shown(&test, "asha").await, [ids[4], ids[1], ids[2], ids[0]], "a message brings it back, even one's own");

    let last = async |viewer: Option<UserId>| test.conversation(ids[1], viewer).await.unwrap().unwrap().last_message;
    test.hide_message(ids[1], hidden, user_id("asha")).await.unwrap().unwrap();
    assert_eq!(last(Some(user_id("asha"))).await, None);
    assert_eq!(last(None).await.unwrap().id, hidden);
}

pub async fn conversations_made_in_one_moment_are_all_listed<B: Backend>(mut test: TestStore<B>) {
    for _ in 0..7 {
        test.chat(&["asha", "juma"]).await;
    }
    test.reopen_after("UPDATE participants SET activity = 1768473000000").await;
    let mut found = shown(&test, "asha").await;
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.len(), 7);
}

pub async fn who_leaves_hears_nothing_until_they_are_back<B: Backend>(test: TestStore<B>) {
    let chat = test.chat(&["asha", "juma", "neema"]).await;
    test.say(chat, "asha").await;
    assert!(test.put_participant(chat, "neema", ParticipantChange::Leave).await);
    assert_eq!((test.unread(chat, "neema").await, test.total_unread(user_id("neema")).await.unwrap()), (0, 0));
    for change in [ParticipantChange::Hide, ParticipantChange::Mute, ParticipantChange::Leave, ParticipantChange::Rename(None)] {
        assert!(!test.put_participant(chat, "neema", change).await, "who has left can only come back");
    }
    assert_eq!(test.offer_message(written(chat, "neema")).await, Err(SendRefused::NotParticipant));
    let said = test.offer_message(written(chat, "asha")).await.unwrap();
    assert_eq!(said.unread.iter().map(|one| one.user_id.as_str()).collect::<Vec<_>>(), ["juma"]);
    assert_eq!(test.read_to(chat, user_id("neema"), said.message.id, unnoted).await.unwrap(), None);
    let hidden = test.hide_message(chat, said.message.id, user_id("neema")).await.unwrap();
    assert_eq!(hidden, Err(ChangeRefused::NotParticipant));

    assert!(test.put_participant(chat, "neema", ParticipantChange::Rejoin).await);
    assert_eq!(test.unread(chat, "neema").await, 0, "what was said meanwhile is not unread");
    assert_eq!(test.history(chat, "neema").await.len(), 2, "it can be read");
    assert_eq!(shown(&test, "neema").await, [chat]);
    let next = test.say(chat, "juma").await;
    assert_eq!(test.unread(chat, "neema").await, 1);
    let first = test.history(chat, "neema").await[0];
    assert_eq!(test.read_to(chat, user_id("neema"), first, unnoted).await.unwrap().unwrap().unread, 1, "that was before");
    test.delete_message(chat, said.message.id, None, unnoted).await.unwrap().unwrap();
    assert_eq!(test.unread(chat, "neema").await, 1, "so was that");
    assert_eq!(test.read_to(chat, user_id("neema"), next, unnoted).await.unwrap().unwrap().unread, 0);
    assert!(!test.put_participant(chat, "nobody", ParticipantChange::Rejoin).await);
    assert!(!test.put_participant(ConversationId(99), "neema", ParticipantChange::Hide).await);
}

pub async fn participants_are_added_up_to_the_limit<B: Backend>(test: TestStore<B>) {
    let chat = test.chat(&["asha", "juma"]).await;
    test.say(chat, "asha").await;
    let add = async |users: &[&str], limit: usize| {
        let new = users.iter().map(|user| participant(user)).collect();
        let added = test.add_participants(chat, new, limit, unnoted).await.unwrap();
        added.map(|added| added.into_iter().map(|one| one.user_id.to_string()).collect::<Vec<_>>())
    };
    assert_eq!(add(&["neema", "zawadi"], 3).await, Err(AddRefused::Full));
    assert_eq!(add(&["neema", "asha", "neema"], 3).await, Ok(vec!["neema".to_owned()]));
    assert_eq!(test.unread(chat, "neema").await, 0, "what was said before is not unread");
    assert_eq!(add(&["juma"], 3).await, Ok(vec![]));
    test.put_participant(chat, "juma", ParticipantChange::Leave).await;
    assert_eq!(add(&["juma"], 3).await, Ok(vec!["juma".to_owned()]), "who has left comes back");
    test.put_participant(chat, "juma", ParticipantChange::Rename(Some("Juma M.".to_owned()))).await;
    let everybody = test.participants(chat).await.unwrap();
    let names: Vec<_> = everybody.iter().map(|one| (one.user_id.as_str(), one.name.as_deref(), one.is_present())).collect();
    assert_eq!(names, [("asha", Some("ASHA"), true), ("juma", Some("Juma M."), true), ("neema", Some("NEEMA"), true)]);
    let nowhere = test.add_participants(ConversationId(99), vec![participant("asha")], 9, unnoted).await.unwrap();
    assert_eq!(nowhere, Err(AddRefused::NotFound));
}

pub async fn who_is_blocked_does_not_get_through<B: Backend>(test: TestStore<B>) {
    let (asha, juma) = (user_id("asha"), user_id("juma"));
    let chat = test.chat(&["asha", "juma"]).await;
    assert_eq!(test.block(asha.clone(), juma.clone()).await.unwrap(), BlockAdded::Added);
    assert_eq!(test.block(asha.clone(), juma.clone()).await.unwrap(), BlockAdded::Known);
    assert_eq!(test.blocks(asha.clone()).await.unwrap(), std::slice::from_ref(&juma));
    assert!(test.is_blocked(asha.clone(), juma.clone()).await.unwrap() && !test.is_blocked(juma.clone(), asha.clone()).await.unwrap());
    assert_eq!(test.offer_message(written(chat, "juma")).await, Err(SendRefused::Blocked));
    assert_eq!(test.offer_message(written(chat, "asha")).await, Err(SendRefused::Blocking));

    let group = test.chat(&["asha", "juma", "neema"]).await;
    let said = NewMessage { notify_after: Some(std::time::Duration::ZERO), ..written(group, "juma") };
    assert_eq!(test.offer_message(said).await.unwrap().unread.len(), 2, "more than two go on");
    let due = test.notify_due(tarishi::model::Timestamp::FAR_FUTURE, 9).await.unwrap();
    assert_eq!(due.iter().map(|notice| notice.user_id.as_str()).collect::<Vec<_>>(), ["neema"], "without a notice");

    assert!(test.unblock(asha.clone(), juma.clone()).await.unwrap() && !test.unblock(asha.clone(), juma.clone()).await.unwrap());
    test.say(chat, "juma").await;
    for number in 0..BLOCKS_LIMIT {
        assert_eq!(test.block(asha.clone(), user_id(&number.to_string())).await.unwrap(), BlockAdded::Added);
    }
    assert_eq!(test.block(asha, juma).await.unwrap(), BlockAdded::Full);
}
