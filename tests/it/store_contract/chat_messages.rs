//! Messages: sent, changed, read, and read again by who was away.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tarishi::{
    model::{ChatEventKind, ConversationId, MessageId},
    store::{ChangeRefused, ChatHead, MessageCursor, MessageHidden, NewMessage, SendRefused, Unread},
};

use super::chat::{sealed, unnoted, written};
use crate::fixture::{Backend, TestStore, user_id};

/// What a viewer gets of a conversation after an event, page by page of this many, and how far that goes.
async fn replay<B: Backend>(
    test: &TestStore<B>,
    chat: ConversationId,
    after: i64,
    limit: usize,
    viewer: &str,
) -> (Vec<(i64, ChatEventKind, MessageId)>, i64) {
    let (mut events, mut through) = (Vec::new(), after);
    loop {
        let page = test.chat_since(chat, through, limit, Some(user_id(viewer))).await.unwrap().unwrap();
        events.extend(page.events.iter().map(|event| (event.event, event.kind, event.message.id)));
        through = page.through;
        if through >= page.head.event {
            return (events, through);
        }
    }
}

pub async fn a_message_is_stored_with_all_that_follows<B: Backend>(test: TestStore<B>) {
    let chat = test.chat(&["asha", "juma", "neema"]).await;
    assert_eq!(test.chat_head(chat).await.unwrap(), Some(ChatHead::default()));
    let first = test.offer_message(written(chat, "asha")).await.unwrap();
    let message = first.message.clone();
    assert_eq!((first.repeated, message.event, message.sealed.clone()), (false, 1, sealed(message.id)), "sealed with its own id");
    let unread = |user: &str, unread| Unread { user_id: user_id(user), unread };
    assert_eq!(first.unread, [unread("juma", 1), unread("neema", 1)]);
    assert_eq!(test.message(message.id, None).await.unwrap(), Some(message.clone()));
    let reply = NewMessage { reply_to: Some(message.id), ..written(chat, "juma") };
    let second = test.offer_message(reply).await.unwrap();
    assert_eq!((second.message.event, second.message.reply_to), (2, Some(message.id)));
    assert_eq!(second.unread, [unread("asha", 1), unread("neema", 2)]);
    assert_eq!(test.chat_head(chat).await.unwrap(), Some(ChatHead { event: 2, floor: 0, last_message: Some(second.message.id) }));
    assert_eq!(test.chat_head(ConversationId(99)).await.unwrap(), None);

    let elsewhere = test.chat(&["asha", "juma"]).await;
    let other = test.say(elsewhere, "juma").await;
    assert_eq!(test.total_unread(user_id("asha")).await.unwrap(), 2);
    for reply_to in [other, MessageId(999)] {
        let reply = NewMessage { reply_to: Some(reply_to), ..written(chat, "juma") };
        assert_eq!(test.offer_message(reply).await, Err(SendRefused::UnknownReply));
    }
    assert_eq!(test.offer_message(written(chat, "zawadi")).await, Err(SendRefused::NotParticipant));
    assert_eq!(test.offer_message(written(ConversationId(99), "asha")).await, Err(SendRefused::NotParticipant));
    assert_eq!(test.chat_head(chat).await.unwrap().unwrap().event, 2, "what is refused leaves no trace");
    test.balanced().await;
}

pub async fn a_client_id_sends_once<B: Backend>(test: TestStore<B>) {
    let chat = test.chat(&["asha", "juma"]).await;
    let named = |chat, sender| NewMessage { client_id: Some("c1".to_owned()), ..written(chat, sender) };
    let first = test.offer_message(named(chat, "asha")).await.unwrap();
    let again = test.offer_message(named(chat, "asha")).await.unwrap();
    assert_eq!((again.repeated, &again.message), (true, &first.message));
    assert_eq!(test.unread(chat, "juma").await, 1);
    assert!(!test.offer_message(named(chat, "juma")).await.unwrap().repeated, "somebody else's is another");
    let elsewhere = test.chat(&["asha", "juma"]).await;
    assert!(!test.offer_message(named(elsewhere, "asha")).await.unwrap().repeated, "so is one elsewhere");
    test.delete_message(chat, first.message.id, Some(user_id("asha")), unnoted).await.unwrap().unwrap();
    let late = test.offer_message(named(chat, "asha")).await.unwrap();
    assert!(late.repeated && late.message.deleted_at.is_some(), "a repeat does not bring it back");
}

pub async fn ids_and_events_are_in_the_order_of_the_commits<B: Backend>(test: TestStore<B>) {
    let chats = [test.chat(&["asha", "juma"]).await, test.chat(&["asha", "juma"]).await];
    let noted: Arc<Mutex<Vec<(ConversationId, i64, MessageId)>>> = Arc::default();
    let sending: Vec<_> = (0..200)
        .map(|number| {
            let (store, noted) = ((*test).clone(), noted.clone());
            let message = written(chats[number % 2], ["asha", "juma"][number / 2 % 2]);
            tokio::spawn(async move {
                let note = move |sent: &Result<tarishi::store::Sent, SendRefused>| {
                    let message = &sent.as_ref().unwrap().message;
                    noted.lock().unwrap().push((message.conversation, message.event, message.id));
                };
                store.send_message(message, sealed, note).await.unwrap().unwrap()
            })
        })
        .collect();
    for sent in sending {
        let message = sent.await.unwrap().message;
        assert_eq!(message.sealed, sealed(message.id));
    }
    let noted = noted.lock().unwrap().clone();
    assert!(noted.is_sorted_by_key(|(_, _, id)| *id), "notes are taken in the order of the commits");
    for chat in chats {
        let events: Vec<i64> = noted.iter().filter(|(of, ..)| *of == chat).map(|(_, event, _)| *event).collect();
        assert_eq!(events, (1..=100).collect::<Vec<_>>(), "without gaps");
        let (replayed, through) = replay(&test, chat, 0, 7, "asha").await;
        assert_eq!(through, 100);
        let expected: Vec<_> =
            noted.iter().filter(|(of, ..)| *of == chat).map(|(_, event, id)| (*event, ChatEventKind::Sent, *id)).collect();
        assert_eq!(replayed, expected);
    }
}

pub async fn a_note_that_panics_takes_nobody_with_it<B: Backend>(test: TestStore<B>) {
    let chat = test.chat(&["asha", "juma"]).await;
    let sent = test.send_message(written(chat, "asha"), sealed, |_| panic!("a bug")).await.unwrap();
    assert_eq!(sent.unwrap().message.event, 1, "it is committed all the same");
    test.say(chat, "asha").await;
    let refused = test.send_message(written(chat, "asha"), |_| panic!("a bug in sealing"), unnoted).await;
    assert!(refused.is_err() && test.is_writable(), "what cannot be sealed is not stored");
    assert_eq!(test.chat_head(chat).await.unwrap().unwrap().event, 2);
}

pub async fn a_message_is_edited_by_its_sender<B: Backend>(test: TestStore<B>) {
    let chat = test.chat(&["asha", "juma"]).await;
    let first = test.say(chat, "asha").await;
    let edit = async |message, by: &str| test.edit_message(chat, message, user_id(by), "anew".to_owned(), unnoted).await.unwrap();
    let edited = edit(first, "asha").await.unwrap();
    assert_eq!((edited.event, edited.kind, edited.message.event), (2, ChatEventKind::Edited, 1), "its own place stays");
    assert!(edited.message.sealed == "anew" && edited.message.edited_at.is_some());
    assert_eq!(test.message(first, None).await.unwrap().unwrap(), edited.message);
    assert_eq!(edit(first, "juma").await, Err(ChangeRefused::NotSender));
    assert_eq!(edit(MessageId(999), "asha").await, Err(ChangeRefused::NotFound));
    assert_eq!(edit(first, "neema").await, Err(ChangeRefused::NotParticipant));
    let elsewhere = test.chat(&["asha", "juma"]).await;
    let other = test.say(elsewhere, "asha").await;
    assert_eq!(edit(other, "asha").await, Err(ChangeRefused::NotFound), "only in its own conversation");
    test.delete_message(chat, first, Some(user_id("asha")), unnoted).await.unwrap().unwrap();
    assert_eq!(edit(first, "asha").await, Err(ChangeRefused::Deleted));
    assert_eq!(test.unread(chat, "juma").await, 0);
}

pub async fn a_message_is_deleted_for_everyone<B: Backend>(test: TestStore<B>) {
    let chat = test.chat(&["asha", "juma", "neema"]).await;
    let ids = [test.say(chat, "asha").await, test.say(chat, "asha").await];
    test.read_to(chat, user_id("juma"), ids[0], unnoted).await.unwrap().unwrap();
    let delete = async |message, by: Option<&str>| test.delete_message(chat, message, by.map(user_id), unnoted).await.unwrap();
    assert_eq!(delete(ids[0], Some("juma")).await, Err(ChangeRefused::NotSender));
    let deleted = delete(ids[0], Some("asha")).await.unwrap();
    assert_eq!((deleted.event.event, deleted.event.kind), (3, ChatEventKind::Deleted));
    let gone = deleted.event.message;
    assert!(gone.sealed.is_empty() && gone.deleted_at.is_some() && gone.event == 1, "its place stays");
    assert_eq!(deleted.unread, [Unread { user_id: user_id("neema"), unread: 1 }], "who had read it counts it no more");
    assert_eq!(delete(ids[0], Some("asha")).await, Err(ChangeRefused::Deleted));
    assert_eq!(delete(ids[1], None).await.unwrap().unread.len(), 2, "an operator may too");
    assert_eq!((test.unread(chat, "juma").await, test.unread(chat, "neema").await), (0, 0));
    assert_eq!(test.history(chat, "juma").await, ids);
    assert_eq!(test.backend.number("SELECT count(*) FROM messages WHERE sealed <> ''"), 0);
}

pub async fn a_message_is_hidden_for_one<B: Backend>(test: TestStore<B>) {
    let chat = test.chat(&["asha", "juma"]).await;
    let ids = [test.say(chat, "asha").await, test.say(chat, "asha").await, test.say(chat, "juma").await];
    let hide = async |message, user: &str| test.hide_message(chat, message, user_id(user)).await.unwrap();
    assert_eq!(hide(ids[0], "juma").await, Ok(MessageHidden { repeated: false, unread: 1 }));
    assert_eq!(hide(ids[0], "juma").await, Ok(MessageHidden { repeated: true, unread: 1 }));
    assert_eq!(hide(ids[2], "juma").await.unwrap().unread, 1, "one's own was never unread");
    assert_eq!(hide(MessageId(999), "juma").await, Err(ChangeRefused::NotFound));
    assert_eq!((test.history(chat, "juma").await, test.history(chat, "asha").await), (vec![ids[1]], ids.to_vec()));
    assert_eq!(test.message(ids[0], Some(user_id("juma"))).await.unwrap(), None);
    assert!(test.message(ids[0], Some(user_id("asha"))).await.unwrap().is_some());
    assert_eq!(replay(&test, chat, 0, 1, "juma").await, (vec![(2, ChatEventKind::Sent, ids[1])], 3), "holes, and covered all the same");
    test.delete_message(chat, ids[0], None, unnoted).await.unwrap().unwrap();
    assert_eq!(test.unread(chat, "juma").await, 1, "it was not counted any more");
    assert_eq!(test.read_to(chat, user_id("juma"), ids[1], unnoted).await.unwrap().unwrap().unread, 0);
}

pub async fn who_was_away_gets_every_event<B: Backend>(test: TestStore<B>) {
    let chat = test.chat(&["asha", "juma"]).await;
    let ids = [test.say(chat, "asha").await, test.say(chat, "juma").await];
    test.edit_message(chat, ids[0], user_id("asha"), "anew".to_owned(), unnoted).await.unwrap().unwrap();
    let third = test.say(chat, "asha").await;
    test.delete_message(chat, ids[0], Some(user_id("asha")), unnoted).await.unwrap().unwrap();
    let all = [
        (1, ChatEventKind::Sent, ids[0]),
        (2, ChatEventKind::Sent, ids[1]),
        (3, ChatEventKind::Edited, ids[0]),
        (4, ChatEventKind::Sent, third),
        (5, ChatEventKind::Deleted, ids[0]),
    ];
    for after in 0..=5_usize {
        for limit in 1..=6 {
            let expected = (all[after..].to_vec(), 5);
            assert_eq!(replay(&test, chat, i64::try_from(after).unwrap(), limit, "juma").await, expected, "{after} {limit}");
        }
    }
    let page = test.chat_since(chat, 0, 2, None).await.unwrap().unwrap();
    assert_eq!((page.events.len(), page.through, page.head.event), (2, 2, 5));
    assert!(page.events[0].message.deleted_at.is_some(), "as it is now");
    let ahead = test.chat_since(chat, 9, 2, None).await.unwrap().unwrap();
    assert_eq!((ahead.events.len(), ahead.through), (0, 9), "nobody is taken back");
    assert!(test.chat_since(ConversationId(99), 0, 2, None).await.unwrap().is_none());
}

pub async fn history_is_read_both_ways<B: Backend>(test: TestStore<B>) {
    let chat = test.chat(&["asha", "juma"]).await;
    let elsewhere = test.chat(&["asha", "juma"]).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(test.say(chat, "asha").await);
        test.say(elsewhere, "asha").await;
    }
    test.hide_message(chat, ids[2], user_id("juma")).await.unwrap().unwrap();
    let page = async |cursor, limit| {
        let page = test.messages(chat, Some(user_id("juma")), cursor, limit).await.unwrap();
        (page.messages.iter().map(|message| message.id).collect::<Vec<_>>(), page.has_more)
    };
    assert_eq!(page(MessageCursor::Latest, 2).await, (vec![ids[3], ids[4]], true));
    assert_eq!(page(MessageCursor::Before(ids[3]), 2).await, (vec![ids[0], ids[1]], false), "over the hidden one");
    assert_eq!(page(MessageCursor::Before(ids[0]), 2).await, (vec![], false));
    assert_eq!(page(MessageCursor::After(ids[0]), 2).await, (vec![ids[1], ids[3]], true));
    assert_eq!(page(MessageCursor::After(ids[3]), 2).await, (vec![ids[4]], false));
    assert!(!page(MessageCursor::Latest, 4).await.1);
    assert_eq!(test.messages(chat, None, MessageCursor::Latest, 100).await.unwrap().messages.len(), 5);
}

pub async fn a_read_pointer_only_goes_forward<B: Backend>(test: TestStore<B>) {
    let chat = test.chat(&["asha", "juma"]).await;
    let mut ids = BTreeMap::new();
    for number in 1..=4 {
        ids.insert(number, test.say(chat, if number == 2 { "juma" } else { "asha" }).await);
    }
    let elsewhere = test.chat(&["asha", "juma"]).await;
    let other = test.say(elsewhere, "asha").await;
    let read = async |message| {
        let read = test.read_to(chat, user_id("juma"), message, unnoted).await.unwrap();
        read.map(|read| (read.read_to, read.unread))
    };
    assert_eq!(read(MessageId(999)).await, None);
    assert_eq!(read(other).await, None, "that is in another conversation");
    assert_eq!(read(ids[&3]).await, Some((ids[&3], 1)));
    assert_eq!(read(ids[&3]).await, None);
    assert_eq!(read(ids[&1]).await, None);
    let juma = test.participant(chat, user_id("juma")).await.unwrap().unwrap();
    assert_eq!((juma.read_to, juma.read_at.is_some(), juma.unread), (Some(ids[&3]), true, 1));
    assert_eq!(read(ids[&4]).await, Some((ids[&4], 0)));
    assert_eq!(test.total_unread(user_id("juma")).await.unwrap(), 1);
    assert_eq!(test.read_to(chat, user_id("neema"), ids[&4], unnoted).await.unwrap(), None);
    assert_eq!(test.unread(chat, "asha").await, 1, "everybody has their own");
}
