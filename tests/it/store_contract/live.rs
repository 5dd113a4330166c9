//! Live notifications: the inbox row and `sent` in one commit.

use std::{collections::BTreeMap, sync::Arc};

use tarishi::{
    model::{Channel, DeliveryKey, Status, Stream},
    store::{Accepted, Attempts, Begin, Gate, LiveItem, Placement},
};

use crate::fixture::{Backend, HOUR, Offer, TestStore, ago, first, job_id, notification, outcome, user_id};

async fn leased<B: Backend>(test: &TestStore<B>, id: &str, user: &str) -> DeliveryKey {
    first(test.take(Offer::new(id).to(Channel::Live, user).placed(Placement::Leased).build()).await)
}

/// The sequence number and unread count of a notification sent under a collapse key.
async fn send_about<B: Backend>(test: &TestStore<B>, id: &str, user: &str, key: &str) -> (i64, i64) {
    let offer = Offer::new(id).collapse(key).to(Channel::Live, user).placed(Placement::Leased);
    let delivery = first(test.take(offer.build()).await);
    let stored = test.live(delivery, user, Some(key)).await.unwrap();
    (stored.seq, stored.unread)
}

pub async fn a_notification_is_in_the_inbox_and_sent_in_one_commit<B: Backend>(test: TestStore<B>) {
    let key = leased(&test, "job", "asha").await;
    let before = test.commits();
    let stored = test.live(key, "asha", None).await.unwrap();
    assert_eq!(test.commits(), before + 1);
    assert_eq!((stored.seq, stored.unread), (1, 1));
    let job = test.job(&job_id("job"), 0, 1).await.unwrap().unwrap();
    let view = &job.deliveries[0];
    assert_eq!(
        (view.status, view.provider.as_deref(), view.provider_id.clone()),
        (Status::Sent, Some("sockets"), Some(stored.id.to_string()))
    );
    let Attempts::List(attempts) = &view.attempts else { panic!("a job view lists attempts") };
    assert!(matches!(&attempts[..], [attempt] if attempt.outcome.as_deref() == Some("sent")));
    assert!(job.finished_at.is_some());
    assert_eq!(test.backend.number(&format!("SELECT count(*) FROM inbox WHERE job = {} AND user_id = 'asha'", key.job)), 1);
    test.balanced().await;
}

/// A job whose live notification goes into a user's inbox in accept's own commit.
fn at_once(id: &str, user: &str) -> Offer {
    let stream = Stream::User(user_id(user));
    Offer::new(id).to(Channel::Live, user).placed(Placement::Stored { provider: "sockets", stream, notification: notification() })
}

pub async fn accept_itself_stores_what_has_a_place<B: Backend>(test: TestStore<B>) {
    let before = test.commits();
    let group = ["one", "two"].map(|id| at_once(id, "asha").build()).into();
    let [Accepted::New { num, begun }, Accepted::New { begun: second, .. }] = &test.offer(group).await.unwrap()[..] else {
        panic!("both are new");
    };
    assert_eq!(test.commits(), before + 1);
    let [stored] = begun.stored[..] else { panic!("{begun:?}") };
    assert_eq!((stored.seq, stored.unread, second.stored[0].seq, second.stored[0].unread), (1, 1, 2, 2));
    let job = test.job(&job_id("one"), 0, 1).await.unwrap().unwrap();
    let view = &job.deliveries[0];
    assert_eq!((view.status, view.provider_id.clone()), (Status::Sent, Some(stored.id.to_string())));
    assert!(matches!(&view.attempts, Attempts::List(attempts) if attempts.len() == 1 && attempts[0].outcome.as_deref() == Some("sent")));
    assert!(job.finished_at.is_some());
    assert_eq!(test.backend.number(&format!("SELECT count(*) FROM inbox WHERE job = {num} AND ordinal = 0 AND user_id = 'asha'")), 1);
    assert_eq!(test.live(first(*num), "asha", None).await, Err(Gate::Lost), "it is there once");
    let repeated = test.offer(vec![at_once("one", "asha").build()]).await.unwrap();
    assert!(matches!(repeated[..], [Accepted::Repeat { .. }]));
    assert_eq!(test.backend.number("SELECT count(*) FROM inbox"), 2);
    test.balanced().await;
}

pub async fn a_job_that_is_not_taken_stores_nothing<B: Backend>(test: TestStore<B>) {
    test.take(at_once("known", "asha").build()).await;
    let other_body = Offer::new("known").body(9).to(Channel::Email, "asha").build();
    assert!(test.offer(vec![at_once("new", "asha").build(), other_body]).await.is_err());
    assert_eq!(test.backend.number("SELECT count(*) FROM inbox"), 1);
    let next = test.offer(vec![at_once("next", "asha").build()]).await.unwrap();
    assert!(matches!(&next[..], [Accepted::New { begun, .. }] if begun.stored[0].seq == 2), "{next:?}");
    test.balanced().await;
}

pub async fn what_accept_stores_takes_the_place_of_older_ones<B: Backend>(test: TestStore<B>) {
    assert_eq!(send_about(&test, "sent", "asha", "flat").await, (1, 1));
    let queued = first(test.take(Offer::new("queued").collapse("flat").to(Channel::Live, "asha").placed(Placement::Leased).build()).await);
    let accepted = test.offer(vec![at_once("newest", "asha").collapse("flat").build()]).await.unwrap();
    assert!(
        matches!(&accepted[..], [Accepted::New { begun, .. }] if (begun.stored[0].seq, begun.stored[0].unread) == (2, 1)),
        "{accepted:?}"
    );
    test.expect_status(queued, Status::Cancelled).await;
    assert_eq!(test.backend.number("SELECT count(*) FROM inbox WHERE user_id = 'asha' AND deleted_at IS NULL"), 1);
    test.balanced().await;
}

pub async fn sequences_have_no_gaps_under_concurrency<B: Backend>(test: TestStore<B>) {
    const EACH: i64 = 40;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..EACH {
        for user in ["asha", "juma", "neema"] {
            let key = leased(&test, &format!("{user}{number}"), user).await;
            let begin = Begin { key, channel: Channel::Live, attempts: 0, provider: "sockets", list: None };
            let item = LiveItem { begin, stream: Stream::User(user_id(user)), notification: notification(), collapse_key: None };
            let (store, lease) = ((*test).clone(), test.lease());
            tasks.spawn(async move {
                let stored = store.send_live(Arc::new(vec![item]), lease).await.unwrap().committed().await.unwrap();
                (user, stored[0].unwrap())
            });
        }
    }
    let mut sequences: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for (user, stored) in tasks.join_all().await {
        sequences.entry(user).or_default().push(stored.seq);
    }
    assert_eq!(sequences.len(), 3);
    for (user, mut sequence) in sequences {
        sequence.sort_unstable();
        assert_eq!(sequence, (1..=EACH).collect::<Vec<_>>(), "{user}");
    }
    test.balanced().await;
}

pub async fn a_repeat_finds_its_row<B: Backend>(mut test: TestStore<B>) {
    let key = leased(&test, "job", "asha").await;
    test.live(key, "asha", None).await.unwrap();
    assert_eq!(test.live(key, "asha", None).await, Err(Gate::Lost));
    test.reopen().await;
    assert_eq!(test.live(key, "asha", None).await, Err(Gate::Lost));
    assert_eq!(test.backend.number("SELECT count(*) FROM inbox"), 1);
    assert_eq!(test.backend.number("SELECT seq FROM inbox_users"), 1);
    test.balanced().await;
}

pub async fn a_newer_item_replaces_an_older_one<B: Backend>(mut test: TestStore<B>) {
    assert_eq!(send_about(&test, "one", "asha", "flat").await, (1, 1));
    let two = test.live(leased(&test, "two", "asha").await, "asha", None).await.unwrap();
    assert_eq!((two.seq, two.unread), (2, 2));
    assert_eq!(send_about(&test, "three", "asha", "flat").await, (3, 2), "an unread one went");
    assert_eq!(send_about(&test, "four", "juma", "flat").await, (1, 1), "somebody else's stays");
    assert_eq!(send_about(&test, "five", "asha", "house").await, (4, 3), "another key");
    test.reopen_after("UPDATE inbox SET read_at = 1 WHERE user_id = 'asha'; UPDATE inbox_users SET unread = 0 WHERE user_id = 'asha'")
        .await;
    assert_eq!(send_about(&test, "six", "asha", "flat").await, (5, 1), "a read one went");
    assert_eq!(test.backend.number("SELECT count(*) FROM inbox WHERE user_id = 'asha' AND deleted_at IS NULL"), 3);
    test.balanced().await;
}

pub async fn an_expired_one_leaves_no_row<B: Backend>(test: TestStore<B>) {
    let offer = Offer::new("job").to(Channel::Live, "asha").placed(Placement::Leased).expires(ago(HOUR));
    let key = first(test.take(offer.build()).await);
    assert_eq!(test.live(key, "asha", None).await, Err(Gate::Expired));
    assert_eq!(test.live(key, "asha", None).await, Err(Gate::Lost), "it expires once");
    assert_eq!(test.backend.number("SELECT count(*) FROM inbox"), 0);
    test.balanced().await;
}

pub async fn only_sent_ones_are_marked_delivered<B: Backend>(test: TestStore<B>) {
    let sent = leased(&test, "sent", "asha").await;
    test.live(sent, "asha", None).await.unwrap();
    let queued = leased(&test, "queued", "asha").await;
    let failed = test.sending("failed").await;
    test.put_outcome(outcome(failed, 1, Status::Failed)).await;
    let nobody = DeliveryKey { job: 99, ordinal: 0 };
    test.mark_delivered(vec![sent, queued, failed, nobody, sent]).await.unwrap();
    test.mark_delivered(Vec::new()).await.unwrap();
    for (key, status) in [(sent, Status::Delivered), (queued, Status::Queued), (failed, Status::Failed)] {
        test.expect_status(key, status).await;
    }
    test.balanced().await;
}
