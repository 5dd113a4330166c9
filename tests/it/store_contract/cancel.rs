//! Cancelling jobs.

use tarishi::{
    model::{Channel, Status},
    store::{Cancelled, JobStatus, Placement, Recorded, Step},
};

use crate::fixture::{Backend, MADE, Offer, PROVIDER, TestStore, job_id, outcome};

async fn cancel<B: Backend>(test: &TestStore<B>, id: &str) -> Cancelled {
    test.cancel(&job_id(id)).await.unwrap().unwrap()
}

pub async fn what_waits_is_cancelled_and_what_is_under_way_is_too_late<B: Backend>(test: TestStore<B>) {
    let job = test.take(Offer::new("job").many(3).build()).await;
    let keys = test.claimed_keys(Channel::Email).await;
    test.open_gate(keys[0], Channel::Email, 0).await;
    assert_eq!(cancel(&test, "job").await, Cancelled { cancelled: 2, too_late: 1 });
    let view = test.job(&job_id("job"), 0, 10).await.unwrap().unwrap();
    assert_eq!((view.num, view.status, view.open), (job, JobStatus::Cancelled, 1));
    assert_eq!(view.deliveries.iter().map(|view| view.status).collect::<Vec<_>>(), [Status::Sending, Status::Cancelled, Status::Cancelled]);
    assert_eq!(view.deliveries[1].code.as_deref(), Some("cancelled_by_request"));
    test.balanced().await;
}

pub async fn an_attempt_under_way_is_not_repeated<B: Backend>(mut test: TestStore<B>) {
    let key = test.sending("job").await;
    cancel(&test, "job").await;
    // The wish outlives the process.
    test.reopen().await;
    assert_eq!(test.put_outcome(outcome(key, 1, Status::Queued)).await, Recorded::Now(Status::Cancelled));
    let view = test.view(key).await;
    assert_eq!((view.status, view.code.as_deref()), (Status::Cancelled, Some("cancelled_by_request")));
    assert!(test.claim_due(Channel::Email).await.is_empty());
    assert!(test.job(&job_id("job"), 0, 1).await.unwrap().unwrap().finished_at.is_some());
    test.balanced().await;
}

pub async fn an_attempt_under_way_may_still_be_sent<B: Backend>(test: TestStore<B>) {
    for (id, status) in [("sent", Status::Sent), ("failed", Status::Failed)] {
        let key = test.sending(id).await;
        assert_eq!(cancel(&test, id).await, Cancelled { cancelled: 0, too_late: 1 });
        assert_eq!(test.put_outcome(outcome(key, 1, status)).await, Recorded::Now(status));
        test.expect_status(key, status).await;
    }
    test.balanced().await;
}

pub async fn a_repeat_is_harmless<B: Backend>(test: TestStore<B>) {
    let sent = test.sending("job").await;
    test.put_outcome(outcome(sent, 1, Status::Sent)).await;
    test.take(Offer::new("waiting").many(2).build()).await;
    assert_eq!(cancel(&test, "waiting").await, Cancelled { cancelled: 2, too_late: 0 });
    assert_eq!(cancel(&test, "waiting").await, Cancelled::default());
    assert_eq!(cancel(&test, "job").await, Cancelled::default());
    test.expect_status(sent, Status::Sent).await;
    test.balanced().await;
}

pub async fn an_unknown_job_is_no_job<B: Backend>(test: TestStore<B>) {
    assert!(test.cancel(&job_id("nobody")).await.unwrap().is_none());
}

pub async fn a_large_job_is_cancelled_unmade_ones_included<B: Backend>(test: TestStore<B>) {
    let offer = Offer::new("large").many(5);
    let job = test.take(offer.large()).await;
    let rows = offer.rows();
    assert_eq!(test.make_deliveries(job, 0, rows[..2].to_vec(), None, test.lease()).await.unwrap(), MADE);
    assert_eq!(cancel(&test, "large").await, Cancelled { cancelled: 5, too_late: 0 });
    test.balanced().await;
    // The rest is made all the same, so that each can be asked after.
    let expansion = test.next_expansion().await.unwrap().unwrap();
    assert_eq!((expansion.job, expansion.made), (job, 2));
    assert_eq!(test.make_deliveries(job, 2, rows[2..].to_vec(), None, test.lease()).await.unwrap(), Step::MadeCancelled);
    assert!(test.next_expansion().await.unwrap().is_none());
    let view = test.job(&job_id("large"), 0, 10).await.unwrap().unwrap();
    assert_eq!((view.deliveries.len(), view.open), (5, 0));
    assert!(view.finished_at.is_some() && view.deliveries.iter().all(|view| view.status == Status::Cancelled));
    assert!(test.claim_due(Channel::Email).await.is_empty());
    test.balanced().await;
}

pub async fn a_cancelled_large_job_begins_no_attempt<B: Backend>(test: TestStore<B>) {
    let offer = Offer::new("large").many(3).placed(Placement::Sending { provider: PROVIDER });
    let job = test.take(offer.large()).await;
    assert_eq!(cancel(&test, "large").await, Cancelled { cancelled: 3, too_late: 0 });
    assert_eq!(test.make_deliveries(job, 0, offer.rows(), None, test.lease()).await.unwrap(), Step::MadeCancelled);
    let view = test.job(&job_id("large"), 0, 10).await.unwrap().unwrap();
    assert!(view.deliveries.iter().all(|view| view.status == Status::Cancelled), "an attempt began after cancel had answered");
    test.balanced().await;
}

pub async fn many_steps_reach_every_delivery<B: Backend>(test: TestStore<B>) {
    test.take(Offer::new("job").many(2500).build()).await;
    assert_eq!(cancel(&test, "job").await, Cancelled { cancelled: 2500, too_late: 0 });
    assert!(test.claim_due(Channel::Email).await.is_empty());
    test.balanced().await;
}
