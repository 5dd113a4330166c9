//! A chat taken over from another system, and sealed texts put in the place of others.

use serde_json::{Map, json};
use tarishi::{
    model::{ConversationId, MessageId, Timestamp},
    store::{ChatCounts, ConversationFilter, Imported, ImportedConversation, ImportedMessage, ImportedParticipant, Reseal},
};

use super::chat::{among, participant, sealed, unnoted};
use crate::fixture::{Backend, TestStore, user_id};

const AT: i64 = 1_768_473_000_000;

fn at(offset: i64) -> Timestamp {
    Timestamp::from_millis(AT + offset)
}

fn conversation(id: i64) -> ImportedConversation {
    let participants =
        ["asha", "juma"].map(|user| ImportedParticipant { participant: participant(user), joined_at: at(0), hidden_at: None }).to_vec();
    ImportedConversation {
        id: ConversationId(id),
        created_by: None,
        participants,
        property_id: Some(json!(8841)),
        property_title: None,
        metadata: Map::new(),
        created_at: at(0),
        updated_at: at(0),
    }
}

fn message(id: i64, conversation: i64, sender: &str, is_read: bool) -> ImportedMessage {
    ImportedMessage {
        id: MessageId(id),
        conversation: ConversationId(conversation),
        sender: user_id(sender),
        sealed: sealed(MessageId(id)),
        reply_to: None,
        created_at: at(id),
        edited_at: None,
        deleted_at: None,
        read_at: is_read.then(|| at(id + 1)),
    }
}

fn added(count: u64) -> Imported {
    Imported { added: count, ..Imported::default() }
}

pub async fn ids_are_kept_and_counts_are_made<B: Backend>(test: TestStore<B>) {
    assert_eq!(test.import_conversations(vec![conversation(7), conversation(40)], None).await.unwrap(), added(2));
    let batch = vec![
        message(100, 7, "asha", true),
        message(101, 7, "asha", true),
        message(105, 7, "juma", false),
        message(110, 40, "asha", false),
        message(111, 7, "asha", false),
        ImportedMessage { sealed: String::new(), deleted_at: Some(at(500)), ..message(112, 7, "asha", false) },
    ];
    assert_eq!(test.import_messages(batch, None).await.unwrap(), added(6));
    let chat = ConversationId(7);
    let juma = test.participant(chat, user_id("juma")).await.unwrap().unwrap();
    assert_eq!((juma.read_to, juma.read_at, juma.unread), (Some(MessageId(101)), Some(at(102)), 1));
    assert_eq!((test.unread(chat, "asha").await, test.total_unread(user_id("juma")).await.unwrap()), (1, 2));
    let page = test.conversations(user_id("asha"), ConversationFilter { limit: 9, ..ConversationFilter::default() }).await.unwrap();
    let listed: Vec<_> = page.conversations.iter().map(|view| (view.conversation.id.0, view.conversation.updated_at)).collect();
    assert_eq!(listed, [(7, at(112)), (40, at(110))]);
    let events = test.chat_since(chat, 0, 100, None).await.unwrap().unwrap().events;
    assert_eq!(
        events.iter().map(|event| (event.event, event.message.id.0)).collect::<Vec<_>>(),
        [(1, 100), (2, 101), (3, 105), (4, 111), (5, 112)]
    );
    assert_eq!(test.next_notify().await.unwrap(), None, "nobody is told of what was");
    assert_eq!(test.chat_counts().await.unwrap(), ChatCounts { conversations: 2, participants: 4, messages: 6, deleted: 1 });

    assert_eq!(test.say(chat, "asha").await, MessageId(113), "ids go on after the largest");
    assert_eq!(test.chat(&["asha", "neema"]).await, ConversationId(41));
    let found = test.start_conversation(among(&["asha", "juma"])).await.unwrap().unwrap();
    assert!(found.repeated && found.conversation.conversation.id == chat, "what was taken over is found again");
    test.balanced().await;
}

pub async fn a_batch_can_be_given_again<B: Backend>(mut test: TestStore<B>) {
    test.import_conversations(vec![conversation(7)], Some("conversations".to_owned())).await.unwrap();
    let batch = vec![message(100, 7, "asha", false), message(101, 7, "juma", true)];
    test.import_messages(batch.clone(), Some("101".to_owned())).await.unwrap();
    test.reopen().await;
    assert_eq!(test.chat_import_progress().await.unwrap().as_deref(), Some("101"));
    let other = ImportedConversation { created_at: at(9), ..conversation(7) };
    let again = test.import_conversations(vec![conversation(7), other], None).await.unwrap();
    assert_eq!(again, Imported { known: 1, conflicts: vec![7], ..Imported::default() });
    let mut more = batch;
    more.extend([message(100, 7, "juma", true), message(102, 9, "asha", false), message(103, 7, "asha", false)]);
    let again = test.import_messages(more, None).await.unwrap();
    assert_eq!(again, Imported { added: 1, known: 2, conflicts: vec![100], orphans: vec![MessageId(102)] });
    assert_eq!((test.unread(ConversationId(7), "juma").await, test.unread(ConversationId(7), "asha").await), (2, 0));
    assert_eq!(test.chat_head(ConversationId(7)).await.unwrap().unwrap().event, 3);
    test.end_chat_import().await.unwrap();
    assert_eq!(test.chat_import_progress().await.unwrap(), None);
}

pub async fn sealed_texts_are_replaced_where_they_are_unchanged<B: Backend>(test: TestStore<B>) {
    let chat = test.chat(&["asha", "juma"]).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(test.say(chat, "asha").await);
    }
    test.delete_message(chat, ids[1], None, unnoted).await.unwrap().unwrap();
    let page = test.sealed_page(MessageId(0), 3).await.unwrap();
    assert_eq!(page.iter().map(|message| message.id).collect::<Vec<_>>(), [ids[0], ids[2], ids[3]], "nothing is left of a deleted one");
    assert!(page.iter().all(|message| message.conversation == chat && message.sealed == sealed(message.id)));
    assert_eq!(test.sealed_page(ids[3], 3).await.unwrap().len(), 1);

    test.edit_message(chat, ids[2], user_id("asha"), "edited meanwhile".to_owned(), unnoted).await.unwrap().unwrap();
    test.delete_message(chat, ids[3], None, unnoted).await.unwrap().unwrap();
    let batch = page.into_iter().map(|message| Reseal { id: message.id, old: message.sealed, new: "anew".to_owned() }).collect();
    assert_eq!(test.reseal(batch).await.unwrap(), 1);
    let mut now = Vec::new();
    for id in &ids {
        now.push(test.message(*id, None).await.unwrap().unwrap().sealed);
    }
    assert_eq!(now, ["anew", "", "edited meanwhile", "", &sealed(ids[4])]);
    assert_eq!(test.chat_head(chat).await.unwrap().unwrap().event, 8, "nobody hears of it");
}
