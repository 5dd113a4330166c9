//! What is removed, and what is remembered of it.

use std::time::Duration;

use tarishi::{
    model::{Channel, Status},
    store::{Accepted, Conflicts, Placement, Purged},
};

use crate::fixture::{Backend, DAY, HOUR, Offer, TestStore, ago, ahead, first, job_id, outcome};

fn mail(id: &str) -> Offer {
    Offer::new(id).to(Channel::Email, "asha")
}

/// Accepts a job that is over at once, and purges it.
async fn come_and_go<B: Backend>(test: &TestStore<B>, offer: Offer) {
    test.take(offer.due(ago(HOUR)).build()).await;
    for key in test.claimed_keys(Channel::Email).await {
        test.open_gate(key, Channel::Email, 0).await;
        test.put_outcome(outcome(key, 1, Status::Sent)).await;
    }
    let purged = test.purge().await;
    assert_eq!((purged.deliveries, purged.jobs), (1, 1));
    test.balanced().await;
}

async fn keep_nothing<B: Backend>(test: &mut TestStore<B>) {
    test.settings.retention = Duration::ZERO;
    test.reopen().await;
}

pub async fn a_purged_job_is_remembered<B: Backend>(mut test: TestStore<B>) {
    keep_nothing(&mut test).await;
    come_and_go(&test, mail("job")).await;
    assert!(test.job(&job_id("job"), 0, 1).await.unwrap().is_none());
    assert_eq!(test.offer(vec![mail("job").build()]).await, Ok(vec![Accepted::Repeat { deliveries: 1, skipped: Vec::new() }]));
    assert_eq!(test.offer(vec![mail("job").body(2).build()]).await, Err(Conflicts(vec![0])));
    test.reopen().await;
    assert!(matches!(test.offer(vec![mail("job").build()]).await.unwrap()[..], [Accepted::Repeat { .. }]));
    let audit = test.balanced().await;
    assert_eq!((audit.accepted, audit.purged), (1, 1));
    assert_eq!(test.backend.number("SELECT (SELECT count(*) FROM attempts) + (SELECT count(*) FROM deliveries)"), 0);
}

pub async fn a_purged_job_is_forgotten_in_the_end<B: Backend>(mut test: TestStore<B>) {
    keep_nothing(&mut test).await;
    come_and_go(&test, mail("job").accepted_at(ago(3 * DAY))).await;
    assert!(matches!(test.offer(vec![mail("job").build()]).await.unwrap()[..], [Accepted::Repeat { .. }]));
    test.settings.idempotency_retention = DAY;
    test.reopen().await;
    // Over even before its row is removed, and another body is as new as the same.
    test.take(mail("job").body(2).due(ahead(HOUR)).build()).await;
    come_and_go(&test, mail("other").accepted_at(ago(3 * DAY))).await;
    assert_eq!(test.backend.number("SELECT count(*) FROM remembered"), 0);
    test.take(mail("other").build()).await;
    test.balanced().await;
}

pub async fn an_id_that_came_back_is_remembered_anew<B: Backend>(mut test: TestStore<B>) {
    keep_nothing(&mut test).await;
    come_and_go(&test, mail("job").accepted_at(ago(3 * DAY))).await;
    test.settings.idempotency_retention = DAY;
    test.reopen().await;
    come_and_go(&test, mail("job").body(2)).await;
    let again = test.offer(vec![mail("job").body(2).build()]).await.unwrap();
    assert!(matches!(again[..], [Accepted::Repeat { .. }]), "sent twice: {again:?}");
    assert_eq!(test.offer(vec![mail("job").build()]).await, Err(Conflicts(vec![0])));
}

pub async fn open_jobs_are_kept<B: Backend>(mut test: TestStore<B>) {
    keep_nothing(&mut test).await;
    let waiting = first(test.take(mail("waiting").accepted_at(ago(90 * DAY)).build()).await);
    let sending = test.sending("sending").await;
    let large = mail("large");
    test.take(large.large()).await;
    come_and_go(&test, mail("done")).await;
    assert_eq!(test.purge_step().await.unwrap(), Purged::default());
    test.expect_status(sending, Status::Sending).await;
    assert!(test.find(waiting).await.is_some());
    assert_eq!(test.next_expansion().await.unwrap().unwrap().planned, 1);
    test.balanced().await;
}

pub async fn a_large_job_goes_in_steps<B: Backend>(mut test: TestStore<B>) {
    keep_nothing(&mut test).await;
    test.take(Offer::new("large").many(2000).build()).await;
    test.take(Offer::new("small").many(3).build()).await;
    for id in ["large", "small"] {
        test.cancel(&job_id(id)).await.unwrap();
    }
    let mut total = Purged::default();
    while total.jobs < 2 {
        let step = test.purge().await;
        assert!(step.deliveries <= 2000, "{step:?}");
        total.deliveries += step.deliveries;
        total.jobs += step.jobs;
        // Nothing is unaccounted for in the middle either.
        test.balanced().await;
    }
    assert_eq!(total.deliveries, 2003);
    assert_eq!(test.balanced().await.purged, 2003);
}

pub async fn purged_inbox_items_are_no_loss<B: Backend>(mut test: TestStore<B>) {
    let live = |id: &str| Offer::new(id).to(Channel::Live, "asha").placed(Placement::Leased);
    let (read, unread) = (first(test.take(live("read").build()).await), first(test.take(live("unread").build()).await));
    test.live(read, "asha", None).await.unwrap();
    test.live(unread, "asha", None).await.unwrap();
    test.settings.inbox_retention = Duration::ZERO;
    test.reopen_after(&format!(
        "UPDATE inbox SET read_at = 1 WHERE job = {}; UPDATE inbox_users SET unread = 1; UPDATE inbox SET created_at = created_at - 1000;
         UPDATE deliveries SET attempt_at = attempt_at - 1000",
        read.job
    ))
    .await;
    assert_eq!(test.purge().await.inbox_items, 2);
    // An empty inbox, and a client that says only now that it has seen one of them.
    test.balanced().await;
    test.mark_delivered(vec![read]).await.unwrap();
    let later = first(test.take(live("later").build()).await);
    let stored = test.live(later, "asha", None).await.unwrap();
    assert_eq!((stored.seq, stored.unread), (3, 1), "the sequence goes on, and the unread one that is gone is not counted");
    test.balanced().await;
    // A row that was not purged is still missed.
    test.settings.inbox_retention = DAY;
    test.reopen_after(&format!("DELETE FROM inbox WHERE job = {}", later.job)).await;
    let audit = test.audit().await.unwrap();
    assert_eq!(audit.disagreements, ["1 live deliveries sent without an inbox row"]);
}
