//! The limit of pending events, and what gives when it is reached.

use tarishi::{
    config::WhenFull,
    model::{Channel, Status},
    store::{ClosedToJobs, EventSettings, StoreError},
};

use super::events::{all_statuses, pending};
use crate::fixture::{Backend, Offer, TestStore, job_id, outcome};

async fn limit<B: Backend>(test: &mut TestStore<B>, limit: u64, when_full: WhenFull) {
    test.settings.events = Some(EventSettings { statuses: all_statuses(), limit, when_full });
    test.reopen().await;
}

async fn try_accept<B: Backend>(test: &TestStore<B>, id: &str) -> Result<(), StoreError> {
    let job = Offer::new(id).to(Channel::Email, "asha").build();
    test.offer_groups(vec![vec![job]]).await.map(drop)
}

#[track_caller]
fn check_full<T: std::fmt::Debug>(answer: &Result<T, StoreError>) {
    assert!(matches!(answer, Err(StoreError::EventsFull)), "{answer:?}");
}

pub async fn the_oldest_are_dropped_for_the_newest<B: Backend>(mut test: TestStore<B>) {
    limit(&mut test, 5, WhenFull::DropOldest).await;
    for number in 0..4 {
        test.take(Offer::new(&format!("job{number}")).many(2).build()).await;
    }
    let told: Vec<String> = pending(&test).await.into_iter().map(|event| event.job_id).collect();
    assert_eq!(told, ["job1", "job2", "job2", "job3", "job3"]);
    assert_eq!((test.events_pending(), test.events_dropped(), test.closed_to_jobs()), (5, 3, None));
    // More than the limit in one commit.
    test.take(Offer::new("many").many(8).build()).await;
    assert!(pending(&test).await.iter().all(|event| event.job_id == "many"));
    assert_eq!((test.events_pending(), test.events_dropped()), (5, 11));
    test.reopen().await;
    assert_eq!((test.events_pending(), test.events_dropped()), (5, 11), "the count outlives the process");
    // There is room again for what comes after some were told.
    let first_two = pending(&test).await[1].seq;
    test.remove_events(first_two).await.unwrap();
    test.take(Offer::new("few").many(2).build()).await;
    assert_eq!((test.events_pending(), test.events_dropped()), (5, 11));
    test.balanced().await;
}

pub async fn a_lower_limit_drops_at_the_next_commit<B: Backend>(mut test: TestStore<B>) {
    limit(&mut test, 100, WhenFull::DropOldest).await;
    test.take(Offer::new("many").many(20).build()).await;
    limit(&mut test, 3, WhenFull::DropOldest).await;
    test.take(Offer::new("few").many(2).build()).await;
    let told: Vec<String> = pending(&test).await.into_iter().map(|event| event.job_id).collect();
    assert_eq!(told, ["many", "few", "few"]);
    assert_eq!(test.events_dropped(), 19);
}

pub async fn jobs_are_refused_and_outcomes_are_not<B: Backend>(mut test: TestStore<B>) {
    limit(&mut test, 6, WhenFull::Stop).await;
    let key = test.sending("job").await;
    let large = Offer::new("large").many(3);
    let num = test.take(large.large()).await;
    let opened = tokio::spawn({
        let store = (*test).clone();
        async move { store.closed_to_jobs_changed(None).await }
    });
    test.take(Offer::new("last").many(4).build()).await;
    assert_eq!(opened.await.unwrap(), Some(ClosedToJobs::EventsFull));
    assert_eq!((test.events_pending(), test.closed_to_jobs()), (6, Some(ClosedToJobs::EventsFull)));
    assert!(test.is_writable());

    check_full(&try_accept(&test, "refused").await);
    check_full(&try_accept(&test, "job").await);
    assert!(test.job(&job_id("refused"), 0, 1).await.unwrap().is_none());
    assert_eq!(test.events_pending(), 6);
    // What was accepted goes on, and is told in full.
    test.put_outcome(outcome(key, 1, Status::Sent)).await;
    test.make_deliveries(num, 0, large.rows(), None, test.lease()).await.unwrap();
    test.cancel(&job_id("large")).await.unwrap();
    test.expect_status(key, Status::Sent).await;
    assert_eq!((pending(&test).await.len(), test.events_dropped()), (15, 0));
    test.balanced().await;
}

pub async fn intake_opens_again_below_nine_tenths<B: Backend>(mut test: TestStore<B>) {
    limit(&mut test, 20, WhenFull::Stop).await;
    test.take(Offer::new("job").many(20).build()).await;
    let opening = tokio::spawn({
        let store = (*test).clone();
        async move { store.closed_to_jobs_changed(Some(ClosedToJobs::EventsFull)).await }
    });
    let events = pending(&test).await;
    for event in &events[..2] {
        test.remove_events(event.seq).await.unwrap();
        assert_eq!(test.closed_to_jobs(), Some(ClosedToJobs::EventsFull));
        check_full(&try_accept(&test, "refused").await);
    }
    test.remove_events(events[2].seq).await.unwrap();
    assert_eq!(opening.await.unwrap(), None);
    // And it stays open up to the limit.
    for number in 0..3 {
        assert_eq!(test.closed_to_jobs(), None);
        try_accept(&test, &format!("next{number}")).await.unwrap();
    }
    assert_eq!((test.events_pending(), test.closed_to_jobs()), (20, Some(ClosedToJobs::EventsFull)));
}

pub async fn a_full_store_is_still_full_after_a_restart<B: Backend>(mut test: TestStore<B>) {
    limit(&mut test, 10, WhenFull::Stop).await;
    test.take(Offer::new("job").many(10).build()).await;
    test.reopen().await;
    assert_eq!(test.closed_to_jobs(), Some(ClosedToJobs::EventsFull));
    check_full(&try_accept(&test, "refused").await);
    // With another limit, or another rule, it is not.
    limit(&mut test, 11, WhenFull::Stop).await;
    try_accept(&test, "one").await.unwrap();
    check_full(&try_accept(&test, "two").await);
    limit(&mut test, 10, WhenFull::DropOldest).await;
    try_accept(&test, "two").await.unwrap();
    assert_eq!((test.events_pending(), test.events_dropped()), (10, 2));
}

pub async fn one_call_of_many_groups_is_refused_whole<B: Backend>(mut test: TestStore<B>) {
    limit(&mut test, 2, WhenFull::Stop).await;
    let groups = |names: [&str; 3]| names.map(|id| vec![Offer::new(id).to(Channel::Email, "asha").build()]).into();
    // It is asked once, before the first: what one call brings is taken.
    assert_eq!(test.offer_groups(groups(["a", "b", "c"])).await.unwrap().len(), 3);
    check_full(&test.offer_groups(groups(["d", "e", "f"])).await);
    assert_eq!(test.balanced().await.accepted, 3);
}
