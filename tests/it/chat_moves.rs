//! Random histories of the chat against a small model of it: whatever the order, counts, replay, history and notices are right.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;
use tarishi::{
    model::{ChatEventKind, ConversationId, MessageId, Timestamp, UserId},
    store::{ConversationFilter, MessageCursor, NewMessage, ParticipantChange},
};

use crate::{
    fixture::{Sqlite, TestStore, user_id},
    store_contract::chat::{sealed, unnoted, written},
};

const USERS: [&str; 3] = ["asha", "juma", "neema"];
/// Who is in which conversation.
const CHATS: [&[usize]; 2] = [&[0, 1, 2], &[0, 1]];

/// One thing that happens. Numbers choose among what is there at that moment.
#[derive(Clone, Debug)]
enum Op {
    /// `present` has a bit for each user.
    Send {
        chat: usize,
        user: usize,
        present: usize,
    },
    Repeat {
        message: usize,
    },
    Read {
        user: usize,
        message: usize,
    },
    Edit {
        user: usize,
        message: usize,
    },
    /// By this user, who may be its sender, or by an operator.
    Delete {
        user: Option<usize>,
        message: usize,
    },
    Hide {
        user: usize,
        message: usize,
    },
    Change {
        chat: usize,
        user: usize,
        change: ParticipantChange,
    },
    LeaveAndRejoin {
        chat: usize,
        user: usize,
    },
    MakeJob {
        notice: usize,
    },
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let (chat, user, any) = (0..CHATS.len(), 0..USERS.len(), 0..1000_usize);
    let change = prop_oneof![
        2 => Just(ParticipantChange::Leave),
        3 => Just(ParticipantChange::Rejoin),
        1 => Just(ParticipantChange::Hide),
        1 => Just(ParticipantChange::Unhide),
        1 => Just(ParticipantChange::Mute),
        1 => Just(ParticipantChange::Unmute),
    ];
    let about = || (user.clone(), any.clone());
    prop_oneof![
        12 => (chat.clone(), user.clone(), 0..8_usize).prop_map(|(chat, user, present)| Op::Send { chat, user, present }),
        1 => any.clone().prop_map(|message| Op::Repeat { message }),
        6 => about().prop_map(|(user, message)| Op::Read { user, message }),
        2 => about().prop_map(|(user, message)| Op::Edit { user, message }),
        4 => (prop::option::of(user.clone()), any.clone()).prop_map(|(user, message)| Op::Delete { user, message }),
        4 => about().prop_map(|(user, message)| Op::Hide { user, message }),
        6 => (chat.clone(), user.clone(), change).prop_map(|(chat, user, change)| Op::Change { chat, user, change }),
        2 => (chat, user).prop_map(|(chat, user)| Op::LeaveAndRejoin { chat, user }),
        1 => any.clone().prop_map(|notice| Op::MakeJob { notice }),
        1 => Just(Op::Reopen),
    ]
}

/// A message as it should be.
#[derive(Clone, Debug)]
struct Message {
    id: MessageId,
    chat: usize,
    sender: usize,
    sealed: String,
    is_deleted: bool,
    hidden_by: BTreeSet<usize>,
}

/// Somebody's part as it should be.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    has_left: bool,
    is_hidden: bool,
    is_muted: bool,
    read_to: i64,
    /// The last message before they came back.
    unread_from: i64,
    /// The first message of an open notice, and whether it has its job.
    notice: Option<(MessageId, bool)>,
}

/// What should be in the store.
#[derive(Debug, Default)]
struct Model {
    messages: Vec<Message>,
    parts: BTreeMap<(usize, usize), Part>,
    events: [Vec<(ChatEventKind, MessageId)>; CHATS.len()],
    /// The conversations, the latest active last.
    activity: Vec<usize>,
}

impl Model {
    fn new() -> Self {
        let parts = CHATS.iter().enumerate().flat_map(|(chat, users)| users.iter().map(move |user| ((chat, *user), Part::default())));
        Self { parts: parts.collect(), activity: (0..CHATS.len()).collect(), ..Self::default() }
    }

    fn is_present(&self, chat: usize, user: usize) -> bool {
        self.parts.get(&(chat, user)).is_some_and(|part| !part.has_left)
    }

    /// By definition: of others, later than what was read and than coming back, neither deleted nor hidden.
    fn unread(&self, chat: usize, user: usize) -> i64 {
        let part = self.parts[&(chat, user)];
        let is_unread = |message: &&Message| {
            message.chat == chat
                && message.sender != user
                && message.id.0 > part.read_to.max(part.unread_from)
                && !message.is_deleted
                && !message.hidden_by.contains(&user)
        };
        if part.has_left { 0 } else { i64::try_from(self.messages.iter().filter(is_unread).count()).unwrap() }
    }

    /// Forgets the notice of who has nothing unread any more.
    fn settle(&mut self, chat: usize) {
        for user in CHATS[chat] {
            if self.unread(chat, *user) == 0 {
                self.parts.get_mut(&(chat, *user)).unwrap().notice = None;
            }
        }
    }

    fn sent(&mut self, id: MessageId, chat: usize, sender: usize, present: usize) {
        let message = Message { id, chat, sender, sealed: sealed(id), is_deleted: false, hidden_by: BTreeSet::new() };
        self.messages.push(message);
        self.events[chat].push((ChatEventKind::Sent, id));
        self.activity.retain(|other| *other != chat);
        self.activity.push(chat);
        for user in CHATS[chat] {
            let part = self.parts.get_mut(&(chat, *user)).unwrap();
            if part.has_left {
                continue;
            }
            part.is_hidden = false;
            if *user != sender && !part.is_muted && present & (1 << user) == 0 {
                part.notice = part.notice.or(Some((id, false)));
            }
        }
    }

    fn changed(&mut self, chat: usize, user: usize, change: &ParticipantChange) {
        let last = self.messages.iter().rev().find(|message| message.chat == chat).map_or(0, |message| message.id.0);
        let part = self.parts.get_mut(&(chat, user)).unwrap();
        match change {
            ParticipantChange::Leave | ParticipantChange::Remove => (part.has_left, part.is_hidden, part.notice) = (true, false, None),
            ParticipantChange::Rejoin if part.has_left => (part.has_left, part.unread_from) = (false, last),
            ParticipantChange::Hide => (part.is_hidden, part.notice) = (true, None),
            ParticipantChange::Unhide => part.is_hidden = false,
            ParticipantChange::Mute => (part.is_muted, part.notice) = (true, None),
            ParticipantChange::Unmute => part.is_muted = false,
            ParticipantChange::Rejoin | ParticipantChange::Rename(_) => {}
        }
    }
}

struct Run {
    test: TestStore<Sqlite>,
    model: Model,
    chats: Vec<ConversationId>,
}

fn user(index: usize) -> UserId {
    user_id(USERS[index])
}

impl Run {
    fn chosen(&self, message: usize) -> Option<(usize, Message)> {
        let count = self.model.messages.len();
        (count > 0).then(|| (message % count, self.model.messages[message % count].clone()))
    }

    async fn apply(&mut self, op: &Op) {
        match *op {
            Op::Send { chat, user, present } => self.send(chat, user, present).await,
            Op::Repeat { message } => self.repeat(message).await,
            Op::Read { user, message } => self.read(user, message).await,
            Op::Edit { user, message } => self.edit(user, message).await,
            Op::Delete { user, message } => self.delete(user, message).await,
            Op::Hide { user, message } => self.hide(user, message).await,
            Op::Change { chat, user, ref change } => self.change(chat, user, change).await,
            Op::LeaveAndRejoin { chat, user } => {
                self.change(chat, user, &ParticipantChange::Leave).await;
                self.change(chat, user, &ParticipantChange::Rejoin).await;
            }
            Op::MakeJob { notice } => self.make_job(notice).await,
            Op::Reopen => self.test.reopen().await,
        }
    }

    async fn send(&mut self, chat: usize, sender: usize, present: usize) {
        // So that the order of activity is told by the clock.
        crate::fixture::next_millisecond().await;
        let message = NewMessage {
            client_id: Some(self.model.messages.len().to_string()),
            present: (0..USERS.len()).filter(|index| present & (1 << index) != 0).map(user).collect(),
            notify_after: Some(Duration::ZERO),
            ..written(self.chats[chat], USERS[sender])
        };
        let sent = self.test.offer_message(message).await;
        assert_eq!(sent.is_ok(), self.model.is_present(chat, sender));
        let Ok(sent) = sent else { return };
        self.model.sent(sent.message.id, chat, sender, present);
        for unread in sent.unread {
            let other = USERS.iter().position(|name| *name == unread.user_id.as_str()).unwrap();
            assert_eq!(unread.unread, self.model.unread(chat, other));
        }
    }

    async fn repeat(&self, message: usize) {
        let Some((place, message)) = self.chosen(message) else { return };
        let again = NewMessage { client_id: Some(place.to_string()), ..written(self.chats[message.chat], USERS[message.sender]) };
        match self.test.offer_message(again).await {
            Ok(sent) => assert!(sent.repeated && sent.message.id == message.id),
            Err(_) => assert!(!self.model.is_present(message.chat, message.sender)),
        }
    }

    async fn read(&mut self, reader: usize, message: usize) {
        let Some((_, message)) = self.chosen(message) else { return };
        let read = self.test.read_to(self.chats[message.chat], user(reader), message.id, unnoted).await.unwrap();
        let part = self.model.parts.get_mut(&(message.chat, reader));
        let Some(part) = part.filter(|part| !part.has_left && part.read_to < message.id.0) else {
            assert_eq!(read, None);
            return;
        };
        part.read_to = message.id.0;
        part.notice = part.notice.filter(|(first, _)| *first > message.id);
        self.model.settle(message.chat);
        assert_eq!(read.unwrap().unread, self.model.unread(message.chat, reader));
    }

    async fn edit(&mut self, by: usize, message: usize) {
        let Some((place, message)) = self.chosen(message) else { return };
        let text = format!("edited in {}", self.model.events[message.chat].len());
        let edited = self.test.edit_message(self.chats[message.chat], message.id, user(by), text.clone(), unnoted).await.unwrap();
        let may = by == message.sender && self.model.is_present(message.chat, by) && !message.is_deleted;
        assert_eq!(edited.is_ok(), may);
        if may {
            self.model.messages[place].sealed = text;
            self.model.events[message.chat].push((ChatEventKind::Edited, message.id));
        }
    }

    async fn delete(&mut self, by: Option<usize>, message: usize) {
        let Some((place, message)) = self.chosen(message) else { return };
        let deleted = self.test.delete_message(self.chats[message.chat], message.id, by.map(user), unnoted).await.unwrap();
        let is_allowed = by.is_none_or(|by| by == message.sender && self.model.is_present(message.chat, by));
        let may = is_allowed && !message.is_deleted;
        assert_eq!(deleted.is_ok(), may);
        if may {
            let message = &mut self.model.messages[place];
            (message.is_deleted, message.sealed) = (true, String::new());
            let (chat, id) = (message.chat, message.id);
            self.model.events[chat].push((ChatEventKind::Deleted, id));
            self.model.settle(chat);
        }
    }

    async fn hide(&mut self, by: usize, message: usize) {
        let Some((place, message)) = self.chosen(message) else { return };
        let hidden = self.test.hide_message(self.chats[message.chat], message.id, user(by)).await.unwrap();
        let may = self.model.is_present(message.chat, by);
        assert_eq!(hidden.is_ok(), may);
        if may {
            self.model.messages[place].hidden_by.insert(by);
            self.model.settle(message.chat);
            assert_eq!(hidden.unwrap().unread, self.model.unread(message.chat, by));
        }
    }

    async fn change(&mut self, chat: usize, user: usize, change: &ParticipantChange) {
        let may = CHATS[chat].contains(&user) && (self.model.is_present(chat, user) || *change == ParticipantChange::Rejoin);
        assert_eq!(self.test.put_participant(self.chats[chat], USERS[user], change.clone()).await, may);
        if may {
            self.model.changed(chat, user, change);
        }
    }

    async fn make_job(&mut self, notice: usize) {
        let due = self.test.notify_due(Timestamp::now(), 100).await.unwrap();
        if due.is_empty() {
            return;
        }
        let notice = &due[notice % due.len()];
        let (id, by) = (notice.view.conversation.id, notice.user_id.clone());
        assert!(self.test.notify_made(id, by, notice.first_message).await.unwrap());
        let chat = self.chats.iter().position(|chat| *chat == id).unwrap();
        let index = USERS.iter().position(|name| *name == notice.user_id.as_str()).unwrap();
        self.model.parts.get_mut(&(chat, index)).unwrap().notice = Some((notice.first_message, true));
    }

    async fn check(&self) {
        for (chat, users) in CHATS.iter().enumerate() {
            for index in *users {
                let part = self.model.parts[&(chat, *index)];
                let found = self.test.participant(self.chats[chat], user(*index)).await.unwrap().unwrap();
                assert_eq!(found.unread, self.model.unread(chat, *index), "{} in {chat}", USERS[*index]);
                assert_eq!(found.read_to.map_or(0, |id| id.0), part.read_to);
                assert_eq!((found.is_present(), found.hidden_at.is_some(), found.muted), (!part.has_left, part.is_hidden, part.is_muted));
                self.check_replay(chat, *index).await;
                self.check_history(chat, *index).await;
            }
        }
        for index in 0..USERS.len() {
            self.check_list(index).await;
        }
        self.check_notices().await;
    }

    async fn check_list(&self, index: usize) {
        let mine = |chat: &usize| self.model.is_present(*chat, index);
        let shown: Vec<usize> =
            self.model.activity.iter().rev().copied().filter(mine).filter(|chat| !self.model.parts[&(*chat, index)].is_hidden).collect();
        let unread: i64 = shown.iter().map(|chat| self.model.unread(*chat, index)).sum();
        assert_eq!(self.test.total_unread(user(index)).await.unwrap(), unread);
        let page = self.test.conversations(user(index), ConversationFilter { limit: 9, ..ConversationFilter::default() }).await.unwrap();
        let listed: Vec<ConversationId> = page.conversations.iter().map(|view| view.conversation.id).collect();
        assert_eq!(listed, shown.iter().map(|chat| self.chats[*chat]).collect::<Vec<_>>());
        for view in &page.conversations {
            let chat = self.chats.iter().position(|id| *id == view.conversation.id).unwrap();
            let last = self.model.messages.iter().rev().find(|one| one.chat == chat && !one.hidden_by.contains(&index));
            assert_eq!(view.last_message.as_ref().map(|message| message.id), last.map(|message| message.id));
        }
    }

    /// From every event on: all that follows in order, but for what is hidden, each message as it is now.
    async fn check_replay(&self, chat: usize, viewer: usize) {
        let events = &self.model.events[chat];
        let (mut found, mut through) = (Vec::new(), 0);
        loop {
            let page = self.test.chat_since(self.chats[chat], through, 4, Some(user(viewer))).await.unwrap().unwrap();
            assert_eq!(usize::try_from(page.head.event).unwrap(), events.len());
            found.extend(page.events);
            through = page.through;
            if through >= page.head.event {
                break;
            }
        }
        let message = |id: MessageId| self.model.messages.iter().find(|message| message.id == id).unwrap();
        let visible = (1_i64..).zip(events).filter(|(_, (_, id))| !message(*id).hidden_by.contains(&viewer));
        let expected: Vec<_> = visible.map(|(event, (kind, id))| (event, *kind, *id, message(*id).sealed.clone())).collect();
        let told = found.into_iter().map(|event| (event.event, event.kind, event.message.id, event.message.sealed));
        assert_eq!(told.collect::<Vec<_>>(), expected);
        for after in 0..=events.len() {
            let after = i64::try_from(after).unwrap();
            let page = self.test.chat_since(self.chats[chat], after, 100, Some(user(viewer))).await.unwrap().unwrap();
            let later = expected.iter().filter(|(event, ..)| *event > after).map(|(event, ..)| *event);
            assert_eq!(page.events.iter().map(|event| event.event).collect::<Vec<_>>(), later.collect::<Vec<_>>());
        }
    }

    async fn check_history(&self, chat: usize, viewer: usize) {
        let visible = self.model.messages.iter().filter(|message| message.chat == chat && !message.hidden_by.contains(&viewer));
        let expected: Vec<MessageId> = visible.map(|message| message.id).collect();
        let read = async |cursor| self.test.messages(self.chats[chat], Some(user(viewer)), cursor, 3).await.unwrap();
        let (mut backwards, mut cursor) = (Vec::new(), MessageCursor::Latest);
        loop {
            let page = read(cursor).await;
            backwards.extend(page.messages.iter().rev().map(|message| message.id));
            let Some(first) = page.messages.first().filter(|_| page.has_more) else { break };
            cursor = MessageCursor::Before(first.id);
        }
        backwards.reverse();
        assert_eq!(backwards, expected);
        let (mut forwards, mut cursor) = (Vec::new(), MessageCursor::After(MessageId(0)));
        loop {
            let page = read(cursor).await;
            forwards.extend(page.messages.iter().map(|message| message.id));
            let Some(last) = page.messages.last().filter(|_| page.has_more) else { break };
            cursor = MessageCursor::After(last.id);
        }
        assert_eq!(forwards, expected);
    }

    async fn check_notices(&self) {
        let due = self.test.notify_due(Timestamp::FAR_FUTURE, 100).await.unwrap();
        let found: BTreeSet<_> = due
            .iter()
            .map(|notice| {
                assert!(notice.unread > 0 && notice.latest.is_some(), "there is something to tell");
                (notice.view.conversation.id, notice.user_id.to_string(), notice.first_message, notice.unread)
            })
            .collect();
        let waiting = self.model.parts.iter().filter_map(|((chat, index), part)| match part.notice {
            Some((first, false)) => Some((self.chats[*chat], USERS[*index].to_owned(), first, self.model.unread(*chat, *index))),
            _ => None,
        });
        assert_eq!(found, waiting.collect());
        assert_eq!(self.test.next_notify().await.unwrap().is_some(), !due.is_empty());
    }
}

async fn play(ops: Vec<Op>) {
    let test = TestStore::<Sqlite>::fresh();
    let mut chats = Vec::new();
    for users in CHATS {
        chats.push(test.chat(&users.iter().map(|index| USERS[*index]).collect::<Vec<_>>()).await);
        crate::fixture::next_millisecond().await;
    }
    let mut run = Run { test, model: Model::new(), chats };
    for op in ops {
        run.apply(&op).await;
        run.check().await;
    }
    run.test.balanced().await;
    run.test.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_of_a_chat_is_told_right(ops in prop::collection::vec(op(), 1..50)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(play(ops));
    }
}
