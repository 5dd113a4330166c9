//! A newer delivery in the place of an older one.

use tarishi::{
    model::{Channel, DeliveryKey, Status},
    store::{Placement, Recorded, Step},
};

use crate::fixture::{Backend, HOUR, MADE, Offer, PROVIDER, TestStore, ahead, first, job_id, outcome};

fn about_flat(id: &str) -> Offer {
    Offer::new(id).collapse("flat").to(Channel::Email, "asha")
}

pub async fn a_newer_delivery_takes_the_place_of_an_older_one<B: Backend>(test: TestStore<B>) {
    let waiting = first(test.take(about_flat("waiting").due(ahead(HOUR)).build()).await);
    let newer = first(test.take(about_flat("newer").build()).await);
    let view = test.view(waiting).await;
    assert_eq!((view.status, view.code.as_deref()), (Status::Cancelled, Some("collapsed")));
    assert!(test.job(&job_id("waiting"), 0, 1).await.unwrap().unwrap().finished_at.is_some());
    // One array is in order too.
    let both = test.offer(vec![about_flat("first").build(), about_flat("second").build()]).await.unwrap();
    test.expect_status(newer, Status::Cancelled).await;
    let [tarishi::store::Accepted::New { num: older, .. }, tarishi::store::Accepted::New { num: newest, .. }] = both[..] else {
        panic!("{both:?}")
    };
    test.expect_status(first(older), Status::Cancelled).await;
    assert_eq!(test.claimed_keys(Channel::Email).await, [first(newest)]);
    test.balanced().await;
}

pub async fn nobody_else_is_collapsed<B: Backend>(test: TestStore<B>) {
    let others = [
        Offer::new("other user").collapse("flat").to(Channel::Email, "juma"),
        Offer::new("other channel").collapse("flat").to(Channel::Sms, "asha"),
        Offer::new("other key").collapse("house").to(Channel::Email, "asha"),
        Offer::new("no key").to(Channel::Email, "asha"),
    ];
    let mut keys = Vec::new();
    for offer in others {
        keys.push(first(test.take(offer.build()).await));
    }
    // Two devices of one user, in one job: both.
    let two = about_flat("newer").to(Channel::Email, "asha");
    let job = test.take(two.build()).await;
    keys.extend([first(job), DeliveryKey { job, ordinal: 1 }]);
    for key in keys {
        test.expect_status(key, Status::Queued).await;
    }
    test.balanced().await;
}

pub async fn what_has_begun_is_not_collapsed<B: Backend>(test: TestStore<B>) {
    let sending = first(test.take(about_flat("sending").placed(Placement::Sending { provider: PROVIDER }).build()).await);
    let sent = first(test.take(about_flat("sent").placed(Placement::Sending { provider: PROVIDER }).build()).await);
    test.put_outcome(outcome(sent, 1, Status::Sent)).await;
    test.take(about_flat("newer").build()).await;
    test.expect_status(sending, Status::Sending).await;
    test.expect_status(sent, Status::Sent).await;
    assert_eq!(test.put_outcome(outcome(sending, 1, Status::Sent)).await, Recorded::Now(Status::Sent));
    test.balanced().await;
}

pub async fn a_large_job_overtaken_by_a_newer_one_is_collapsed<B: Backend>(test: TestStore<B>) {
    let large = Offer::new("large").collapse("flat").to(Channel::Email, "asha").to(Channel::Email, "juma");
    let job = test.take(large.large()).await;
    let newer = first(test.take(about_flat("newer").build()).await);
    let key = Some("flat".to_owned());
    assert_eq!(test.make_deliveries(job, 0, large.rows(), key, test.lease()).await.unwrap(), MADE);
    let view = test.view(first(job)).await;
    assert_eq!((view.status, view.code.as_deref()), (Status::Cancelled, Some("collapsed")), "the older would be sent after the newer");
    test.expect_status(DeliveryKey { job, ordinal: 1 }, Status::Queued).await;
    test.expect_status(newer, Status::Queued).await;
    test.balanced().await;
}

pub async fn a_cancelled_large_job_collapses_nobody<B: Backend>(test: TestStore<B>) {
    let older = first(test.take(about_flat("older").build()).await);
    let large = about_flat("large");
    let job = test.take(large.large()).await;
    test.cancel(&job_id("large")).await.unwrap();
    let key = Some("flat".to_owned());
    assert_eq!(test.make_deliveries(job, 0, large.rows(), key, test.lease()).await.unwrap(), Step::MadeCancelled);
    test.expect_status(older, Status::Queued).await;
    test.balanced().await;
}
