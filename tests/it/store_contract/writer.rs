//! Group commit, seen from outside.

use std::sync::mpsc;

use tarishi::{
    model::{Channel, Contact, Status},
    store::{Store, StoreError},
};

use crate::fixture::{Backend, Offer, TestStore, first, outcome, until, user_id};

/// Keeps the writer busy, so that what is written meanwhile becomes one batch. Dropping the sender lets it go on.
async fn busy<B: Backend>(test: &TestStore<B>) -> (mpsc::Sender<()>, tokio::task::JoinHandle<()>) {
    let (release, released) = mpsc::channel::<()>();
    let (started, has_started) = mpsc::channel();
    let store = (*test).clone();
    let task = tokio::spawn(async move {
        let hold = move |present| {
            let _ = started.send(());
            let _ = released.recv();
            Ok::<Option<Contact>, ()>(present)
        };
        let _ = store.update_contact(user_id("holder"), hold).await;
    });
    tokio::task::spawn_blocking(move || has_started.recv()).await.unwrap().unwrap();
    (release, task)
}

/// A batch of two good writes around a bad one; what the bad one came to.
async fn batch_around<B: Backend, F>(test: &TestStore<B>, bad: F) -> StoreError
where
    F: FnMut(Option<Contact>) -> Result<Option<Contact>, ()> + Send + 'static,
{
    let before = first(test.take(Offer::new("before").to(Channel::Email, "asha").build()).await);
    let after = first(test.take(Offer::new("after").to(Channel::Email, "asha").build()).await);
    for key in [before, after] {
        test.start(key, Channel::Email, 0).await;
    }
    let (release, task) = busy(test).await;
    let one = test.record(outcome(before, 1, Status::Sent)).await.unwrap();
    let store = (*test).clone();
    let bad = tokio::spawn(async move { store.update_contact(user_id("bad"), bad).await });
    let two = test.record(outcome(after, 1, Status::Sent)).await.unwrap();
    drop(release);
    one.committed().await.unwrap();
    two.committed().await.unwrap();
    task.await.unwrap();
    for key in [before, after] {
        test.expect_status(key, Status::Sent).await;
    }
    bad.await.unwrap().unwrap_err()
}

pub async fn a_write_that_panics_takes_nobody_with_it<B: Backend>(test: TestStore<B>) {
    let error = batch_around(&test, |_| panic!("a bug")).await;
    assert!(matches!(&error, StoreError::Refused(reason) if reason.contains("a bug")), "{error}");
    assert!(test.is_writable(), "one bad write says nothing about the disk");
    test.take(Offer::new("next").to(Channel::Email, "asha").build()).await;
    test.balanced().await;
}

pub async fn a_write_that_fails_takes_nobody_with_it<B: Backend>(mut test: TestStore<B>) {
    test.update_contact(user_id("bad"), |_| Ok::<_, ()>(Some(Contact::default()))).await.unwrap().unwrap();
    test.reopen_after("UPDATE contacts SET document = '{' WHERE user_id = 'bad'").await;
    let error = batch_around(&test, Ok).await;
    assert!(matches!(error, StoreError::Refused(_)), "{error}");
    assert!(test.is_writable(), "one bad write says nothing about the disk");
    test.balanced().await;
}

pub async fn what_was_handed_over_is_written_before_the_end<B: Backend>(mut test: TestStore<B>) {
    let key = test.sending("job").await;
    let (release, task) = busy(&test).await;
    // Nobody waits for it; the store is closed while the writer has yet to come to it.
    drop(test.record(outcome(key, 1, Status::Sent)).await.unwrap());
    let store = (*test).clone();
    let closing = tokio::spawn(async move { store.close().await });
    until("the store closes", async || test.record(outcome(key, 1, Status::Failed)).await.err()).await;
    drop(release);
    closing.await.unwrap();
    task.await.unwrap();
    test.reopen().await;
    test.expect_status(key, Status::Sent).await;
    test.balanced().await;
}

pub async fn nothing_is_written_after_the_end<B: Backend>(test: TestStore<B>) {
    let job = Offer::new("job").to(Channel::Email, "asha").build();
    test.close().await;
    test.close().await;
    test.writer_ended().await;
    let refused = test.offer_groups(vec![vec![job]]).await;
    assert!(matches!(refused, Err(StoreError::Closed)));
    assert!(matches!(test.purge_step().await, Err(StoreError::Closed)));
    assert!(test.audit().await.unwrap().balanced, "reading still works");
}

pub async fn a_store_that_is_dropped_lets_go<B: Backend>(test: TestStore<B>) {
    let key = test.sending("job").await;
    let (release, task) = busy(&test).await;
    drop(test.record(outcome(key, 1, Status::Sent)).await.unwrap());
    let (backend, settings) = test.drop_store();
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    // Until its writer has ended, somebody else must not open it.
    assert!(matches!(Store::open(settings.clone()), Err(StoreError::Held(_))));
    drop(release);
    let store = until("the writer ends", async || Store::open(settings.clone()).ok()).await;
    assert_eq!(store.audit().await.unwrap().statuses[Status::Sent as usize].deliveries, 1, "what was handed over is written");
    store.close().await;
    drop(backend);
}

pub async fn incarnations_count_up_and_the_epoch_stays<B: Backend>(mut test: TestStore<B>) {
    let (owner, epoch) = (test.owner(), test.epoch().clone());
    assert!(owner > 0);
    test.reopen().await;
    assert_eq!((test.owner(), test.epoch()), (owner + 1, &epoch));
    assert_eq!(test.lease().owner, owner + 1);
    test.balanced().await;
}
