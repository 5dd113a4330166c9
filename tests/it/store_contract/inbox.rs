//! Inboxes and topics as their readers see them.

use std::{sync::Arc, time::Duration};

use tarishi::{
    model::{Address, Channel, DeliveryKey, Status, Stream, Topic},
    store::{Begin, Changed, Chosen, Head, InboxFilter, ItemChange, Placement},
};

use crate::fixture::{Backend, Offer, TestStore, first, next_millisecond, notification, user_id};

fn asha() -> Stream {
    Stream::User(user_id("asha"))
}

fn dar() -> Stream {
    Stream::Topic("city.dar".parse().unwrap())
}

/// A notification in a user's inbox; its delivery and id.
async fn put<B: Backend>(test: &TestStore<B>, id: &str, user: &str) -> (DeliveryKey, i64) {
    let key = first(test.take(Offer::new(id).to(Channel::Live, user).placed(Placement::Leased).build()).await);
    (key, test.live(key, user, None).await.unwrap().id)
}

/// A notification in a topic; its place.
async fn announce<B: Backend>(test: &TestStore<B>, id: &str, topic: &Topic, collapse_key: Option<&str>) -> i64 {
    let offer = collapse_key.map_or_else(|| Offer::new(id), |key| Offer::new(id).collapse(key));
    let mut job = offer.to(Channel::Live, "nobody").placed(Placement::Leased).build();
    let tarishi::store::NewDeliveries::Rows(rows) = &mut job.deliveries else { panic!("one row") };
    (rows[0].user_id, rows[0].address) = (None, Address::Topic(topic.clone()));
    let key = first(test.take(job).await);
    let begin = Begin { key, channel: Channel::Live, attempts: 0, provider: "sockets", list: None };
    let stored = test.live_to(Stream::Topic(topic.clone()), begin, notification(), collapse_key.map(str::to_owned)).await.unwrap();
    assert_eq!(stored.unread, 0);
    stored.seq
}

async fn seqs<B: Backend>(test: &TestStore<B>, stream: Stream, after: i64, limit: usize) -> (Vec<i64>, i64) {
    let replay = test.stream_since(stream, after, limit).await.unwrap();
    (replay.items.iter().map(|item| item.place.seq).collect(), replay.through)
}

async fn change<B: Backend>(test: &TestStore<B>, chosen: Chosen, change: ItemChange) -> Changed {
    test.change_items(user_id("asha"), chosen, change).await.unwrap()
}

pub async fn a_stream_is_read_in_order_and_says_how_far<B: Backend>(test: TestStore<B>) {
    assert_eq!(test.stream_head(asha()).await.unwrap(), Head::default());
    for number in 1..=5 {
        put(&test, &format!("job-{number}"), "asha").await;
    }
    put(&test, "theirs", "juma").await;
    assert_eq!(test.stream_head(asha()).await.unwrap(), Head { seq: 5, floor: 0, unread: 5 });
    assert_eq!(seqs(&test, asha(), 0, 3).await, (vec![1, 2, 3], 3));
    assert_eq!(seqs(&test, asha(), 3, 3).await, (vec![4, 5], 5));
    assert_eq!(seqs(&test, asha(), 5, 3).await, (vec![], 5));
    assert_eq!(seqs(&test, asha(), 9, 3).await, (vec![], 9), "nobody is taken back");
    let heads = test.stream_heads(vec![asha(), dar()]).await.unwrap();
    let heads: Vec<_> = heads.into_iter().map(|(stream, head)| (stream, head.seq)).collect();
    assert_eq!(heads, [(asha(), 5), (dar(), 0)]);
}

pub async fn changes_are_counted_and_lift_what_brought_them<B: Backend>(test: TestStore<B>) {
    let (first_key, one) = put(&test, "one", "asha").await;
    let (_, two) = put(&test, "two", "asha").await;
    let (third_key, three) = put(&test, "three", "asha").await;
    let seen = change(&test, Chosen::Ids(vec![one, 999]), ItemChange::Seen).await;
    assert_eq!(seen, Changed { ids: vec![one], found: 1, unread: 3 });
    test.expect_status(first_key, Status::Delivered).await;
    assert_eq!(change(&test, Chosen::Ids(vec![one]), ItemChange::Seen).await, Changed { ids: vec![], found: 1, unread: 3 });
    assert_eq!(change(&test, Chosen::UpTo(2), ItemChange::Read).await.unread, 1);
    test.expect_status(third_key, Status::Sent).await;
    assert_eq!(change(&test, Chosen::Ids(vec![two]), ItemChange::Unread).await.unread, 2);
    assert_eq!(change(&test, Chosen::Ids(vec![two]), ItemChange::Archive).await.unread, 1, "archived is not unread");
    assert_eq!(change(&test, Chosen::Ids(vec![two]), ItemChange::Unarchive).await.unread, 2);
    assert_eq!(change(&test, Chosen::Ids(vec![three]), ItemChange::Delete).await.unread, 1);
    assert_eq!(change(&test, Chosen::Ids(vec![three]), ItemChange::Read).await.found, 0, "it is gone");
    assert_eq!(change(&test, Chosen::All, ItemChange::Read).await, Changed { ids: vec![two], found: 2, unread: 0 });
    assert_eq!(test.change_items(user_id("juma"), Chosen::Ids(vec![one]), ItemChange::Delete).await.unwrap().found, 0);
    assert_eq!(seqs(&test, asha(), 0, 9).await, (vec![1, 2], 3), "a hole where the deleted one was");
    assert_eq!(test.stream_head(asha()).await.unwrap().unread, 0);
    test.balanced().await;
}

pub async fn changes_since_an_item_came_are_found<B: Backend>(test: TestStore<B>) {
    let (_, one) = put(&test, "one", "asha").await;
    change(&test, Chosen::Ids(vec![one]), ItemChange::Read).await;
    next_millisecond().await;
    let (_, two) = put(&test, "two", "asha").await;
    next_millisecond().await;
    let changed = async |since| test.inbox_changed(user_id("asha"), since, 10).await.unwrap();
    assert_eq!(changed(2).await, [] as [i64; 0], "what changed before the client left, it knows");
    change(&test, Chosen::Ids(vec![one]), ItemChange::Archive).await;
    next_millisecond().await;
    change(&test, Chosen::Ids(vec![two]), ItemChange::Delete).await;
    put(&test, "three", "asha").await;
    assert_eq!(changed(2).await, [two, one]);
    assert_eq!(changed(1).await, [one], "what came later it does not have");
}

pub async fn an_inbox_is_listed_in_pages<B: Backend>(test: TestStore<B>) {
    let mut ids = Vec::new();
    for number in 1..=5 {
        ids.push(put(&test, &format!("job-{number}"), "asha").await.1);
    }
    change(&test, Chosen::Ids(vec![ids[1]]), ItemChange::Archive).await;
    change(&test, Chosen::Ids(vec![ids[2]]), ItemChange::Read).await;
    let list = async |filter: InboxFilter| {
        let page = test.inbox(user_id("asha"), filter).await.unwrap();
        (page.items.iter().map(|item| item.id).collect::<Vec<_>>(), page.next_before)
    };
    let two = InboxFilter { limit: 2, ..InboxFilter::default() };
    assert_eq!(list(two.clone()).await, (vec![ids[4], ids[3]], Some(4)));
    assert_eq!(list(InboxFilter { before: Some(4), ..two.clone() }).await, (vec![ids[2], ids[0]], None));
    assert_eq!(list(InboxFilter { read: Some(true), ..two.clone() }).await, (vec![ids[2]], None));
    assert_eq!(list(InboxFilter { read: Some(false), limit: 9, ..two.clone() }).await.0, [ids[4], ids[3], ids[0]]);
    assert_eq!(list(InboxFilter { archived: true, ..two }).await, (vec![ids[1]], None));
    let item = test.inbox_item(user_id("asha"), ids[2]).await.unwrap().unwrap();
    assert!(item.read_at.is_some() && item.seen_at.is_some() && item.notification.title == "Juma");
    assert!(test.inbox_item(user_id("juma"), ids[2]).await.unwrap().is_none());
}

pub async fn only_so_many_are_kept<B: Backend>(mut test: TestStore<B>) {
    test.settings.inbox_limit = 3;
    test.reopen().await;
    for number in 1..=5 {
        put(&test, &format!("job-{number}"), "asha").await;
        announce(&test, &format!("topic-{number}"), &"city.dar".parse().unwrap(), None).await;
    }
    assert_eq!(test.stream_head(asha()).await.unwrap(), Head { seq: 5, floor: 2, unread: 3 });
    assert_eq!(seqs(&test, asha(), 0, 9).await, (vec![3, 4, 5], 5));
    assert_eq!(test.stream_head(dar()).await.unwrap(), Head { seq: 5, floor: 2, unread: 0 });
    assert_eq!(seqs(&test, dar(), 0, 9).await, (vec![3, 4, 5], 5));
    test.balanced().await;
}

pub async fn a_topic_is_a_stream_of_its_own<B: Backend>(test: TestStore<B>) {
    let topic: Topic = "city.dar".parse().unwrap();
    assert_eq!(announce(&test, "one", &topic, Some("k")).await, 1);
    assert_eq!(announce(&test, "two", &topic, None).await, 2);
    assert_eq!(announce(&test, "all", &Topic::everyone(), None).await, 1);
    assert_eq!(announce(&test, "three", &topic, Some("k")).await, 3);
    assert_eq!(seqs(&test, dar(), 0, 9).await, (vec![2, 3], 3), "the newer took the place of the first");
    let page = test.topic_items(topic, None, 1).await.unwrap();
    assert_eq!((page.items[0].place.seq, page.next_before), (3, Some(3)));
    assert_eq!(test.backend.number("SELECT count(*) FROM inbox"), 0);
    test.balanced().await;
}

pub async fn a_lost_topic_item_is_missed<B: Backend>(mut test: TestStore<B>) {
    announce(&test, "one", &"city.dar".parse().unwrap(), None).await;
    test.reopen_after("DELETE FROM topic_items").await;
    assert_eq!(test.audit().await.unwrap().disagreements, ["1 live deliveries to a topic sent without a row there"]);
}

pub async fn old_items_go_and_the_floor_rises<B: Backend>(mut test: TestStore<B>) {
    put(&test, "one", "asha").await;
    announce(&test, "two", &"city.dar".parse().unwrap(), None).await;
    test.settings.inbox_retention = Duration::ZERO;
    test.reopen().await;
    assert_eq!(test.purge().await.inbox_items, 2);
    assert_eq!(test.stream_head(asha()).await.unwrap(), Head { seq: 1, floor: 1, unread: 0 });
    assert_eq!(test.stream_head(dar()).await.unwrap(), Head { seq: 1, floor: 1, unread: 0 });
    test.balanced().await;
}

pub async fn a_batch_is_one_commit_in_order<B: Backend>(test: TestStore<B>) {
    let mut items = Vec::new();
    for number in 1..=3 {
        let offer = Offer::new(&format!("job-{number}")).to(Channel::Live, "asha").placed(Placement::Leased);
        let key = first(test.take(offer.build()).await);
        let begin = Begin { key, channel: Channel::Live, attempts: 0, provider: "sockets", list: None };
        items.push(tarishi::store::LiveItem { begin, stream: asha(), notification: notification(), collapse_key: None });
    }
    items.push(items[0].clone());
    let before = test.commits();
    let stored = test.send_live(Arc::new(items), test.lease()).await.unwrap().committed().await.unwrap();
    assert_eq!(test.commits(), before + 1);
    let places: Vec<_> = stored.iter().map(|stored| stored.map(|stored| stored.seq)).collect();
    assert_eq!(places, [Ok(1), Ok(2), Ok(3), Err(tarishi::store::Gate::Lost)]);
    test.balanced().await;
}
