//! Jobs too large for one commit.

use tarishi::{
    model::{Channel, DeliveryKey},
    store::{Accepted, Step},
};

use crate::fixture::{Backend, MADE, Offer, TestStore, job_id};

async fn make<B: Backend>(test: &TestStore<B>, job: i64, offer: &Offer, from: usize, until: usize) -> Step {
    let rows = offer.rows()[from..until].to_vec();
    test.make_deliveries(job, u32::try_from(from).unwrap(), rows, None, test.lease()).await.unwrap()
}

pub async fn steps_make_every_delivery<B: Backend>(test: TestStore<B>) {
    let offer = Offer::new("large").many(10);
    let job = test.take(offer.large()).await;
    let audit = test.balanced().await;
    assert_eq!((audit.accepted, audit.unmade), (10, 10));
    assert!(test.claim_due(Channel::Email).await.is_empty());
    assert_eq!(make(&test, job, &offer, 0, 4).await, MADE);
    assert_eq!(test.balanced().await.unmade, 6);
    assert_eq!(make(&test, job, &offer, 0, 4).await, Step::Moved, "made already");
    assert_eq!(make(&test, job, &offer, 5, 10).await, Step::Moved, "not at the cursor");
    assert_eq!(make(&test, job, &offer, 4, 10).await, MADE);
    assert!(test.next_expansion().await.unwrap().is_none());
    assert_eq!(make(&test, 99, &offer, 0, 4).await, Step::Moved, "no such job");
    assert_eq!(test.balanced().await.unmade, 0);
    assert_eq!(test.claimed_keys(Channel::Email).await, (0..10).map(|ordinal| DeliveryKey { job, ordinal }).collect::<Vec<_>>());
    assert_eq!(test.offer(vec![offer.large()]).await, Ok(vec![Accepted::Repeat { deliveries: 10, skipped: Vec::new() }]));
}

pub async fn a_restart_goes_on_at_the_cursor<B: Backend>(mut test: TestStore<B>) {
    let offer = Offer::new("large").template("new_message").many(10);
    let job = test.take(offer.large()).await;
    for (from, until) in [(0, 3), (3, 6), (6, 10)] {
        test.reopen().await;
        let expansion = test.next_expansion().await.unwrap().unwrap();
        assert_eq!((expansion.job, expansion.made as usize, expansion.planned), (job, from, 10));
        assert_eq!((&expansion.envelope.id, expansion.plan.recipients.len()), (&job_id("large"), 10));
        assert_eq!(expansion.plan.channels, [Channel::Email]);
        assert_eq!(make(&test, job, &offer, from, until).await, MADE);
        test.balanced().await;
    }
    test.reopen().await;
    assert!(test.next_expansion().await.unwrap().is_none());
    assert_eq!(test.claim_due(Channel::Email).await.len(), 10);
}

pub async fn two_expanders_make_nothing_twice<B: Backend>(test: TestStore<B>) {
    let offer = Offer::new("large").many(60);
    let job = test.take(offer.large()).await;
    let mut moved = 0;
    for from in (0..60).step_by(10) {
        let (one, other) = tokio::join!(make(&test, job, &offer, from, from + 10), make(&test, job, &offer, from, from + 10));
        assert!(matches!((&one, &other), (Step::Made { .. }, Step::Moved) | (Step::Moved, Step::Made { .. })), "{one:?} and {other:?}");
        moved += 1;
    }
    assert_eq!(moved, 6);
    assert_eq!(test.claim_due(Channel::Email).await.len(), 60);
    assert_eq!(test.balanced().await.accepted, 60);
}

pub async fn the_oldest_is_made_first<B: Backend>(test: TestStore<B>) {
    let (one, two) = (Offer::new("one").many(2), Offer::new("two").many(2));
    let (older, newer) = (test.take(one.large()).await, test.take(two.large()).await);
    assert_eq!(test.next_expansion().await.unwrap().unwrap().job, older);
    make(&test, older, &one, 0, 2).await;
    assert_eq!(test.next_expansion().await.unwrap().unwrap().job, newer);
}
