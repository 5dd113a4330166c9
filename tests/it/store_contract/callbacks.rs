//! What providers call back with, applied to deliveries and to the suppression list.

use tarishi::{
    model::{Channel, Code, DeliveryId, DeliveryKey, Status, SuppressionReason, Timestamp},
    store::{Applied, Callback, Record, Recorded, Report, SuppressionFilter},
};

use crate::fixture::{Backend, HOUR, Offer, PROVIDER, TestStore, ago, first, job_id, outcome};

const BOUNCED: Report = Report::Failed { code: Code::BOUNCED, suppress: Some(SuppressionReason::Bounced), is_bounce: true };

/// A bounce that leaves the address as it is.
const FAILED: Report = Report::Failed { code: Code::BOUNCED, suppress: None, is_bounce: true };

fn told(key: &str, job: &str, provider_id: &str, report: Report) -> Callback {
    Callback {
        provider: PROVIDER,
        channel: Channel::Email,
        key: key.to_owned(),
        delivery: Some(DeliveryId::new(DeliveryId::job_key(&job_id(job)), 0)),
        provider_id: Some(provider_id.to_owned()),
        address: None,
        at: Timestamp::now(),
        report,
    }
}

async fn apply<B: Backend>(test: &TestStore<B>, callback: Callback) -> Applied {
    test.apply_callbacks(vec![callback]).await.unwrap()
}

async fn entries<B: Backend>(test: &TestStore<B>) -> Vec<SuppressionReason> {
    let page = test.suppressions(SuppressionFilter { limit: 100, ..SuppressionFilter::default() }).await.unwrap();
    page.suppressions.into_iter().map(|view| view.reason).collect()
}

/// A mail whose first attempt came to an unknown end, and whose second is under way.
async fn second_under_way<B: Backend>(test: &TestStore<B>, id: &str) -> DeliveryKey {
    let key = test.sending(id).await;
    test.put_outcome(Record { outcome: "unknown", ..outcome(key, 1, Status::Queued) }).await;
    test.start(key, Channel::Email, 1).await;
    key
}

pub async fn a_repeat_changes_nothing<B: Backend>(test: TestStore<B>) {
    let key = test.sending("job").await;
    test.put_outcome(outcome(key, 1, Status::Sent)).await;
    let callbacks = ["a", "a", "b"].map(|key| told(key, "job", "id-1", Report::Delivered));
    let applied = test.apply_callbacks(callbacks.to_vec()).await.unwrap();
    assert_eq!((applied.moves.len(), applied.repeated, applied.unknown), (1, 1, 0));
    assert_eq!(apply(&test, told("b", "job", "id-1", BOUNCED)).await, Applied { repeated: 1, ..Applied::default() });
    test.expect_status(key, Status::Delivered).await;
    assert_eq!(apply(&test, told("c", "nobody's", "id-1", Report::Delivered)).await.unknown, 1);
    test.balanced().await;
}

pub async fn a_failure_of_an_earlier_attempt_leaves_a_later_success<B: Backend>(test: TestStore<B>) {
    let key = second_under_way(&test, "job").await;
    // Of the first one, while the second is under way.
    apply(&test, told("a", "job", "id-1.x", BOUNCED)).await;
    test.expect_status(key, Status::Sending).await;
    assert_eq!(test.put_outcome(outcome(key, 2, Status::Sent)).await, Recorded::Now(Status::Sent));
    let view = test.view(key).await;
    assert_eq!((view.status, view.code.as_deref(), view.provider_id.as_deref()), (Status::Sent, None, Some("id-2")));
    // And of the first one once more, after it; then of the second.
    apply(&test, told("b", "job", "id-1.y", BOUNCED)).await;
    test.expect_status(key, Status::Sent).await;
    apply(&test, told("c", "job", "id-2.x", BOUNCED)).await;
    assert_eq!(test.view(key).await.code.as_deref(), Some("bounced"));
    test.balanced().await;
}

pub async fn a_failure_before_the_answer_counts<B: Backend>(test: TestStore<B>) {
    let key = second_under_way(&test, "job").await;
    apply(&test, told("a", "job", "id-2.x", FAILED)).await;
    assert_eq!(test.put_outcome(outcome(key, 2, Status::Sent)).await, Recorded::Now(Status::Failed));
    assert_eq!(test.view(key).await.code.as_deref(), Some("bounced"));
    // Of two messages the one that came counts.
    let both = second_under_way(&test, "both").await;
    apply(&test, told("b", "both", "id-1.x", FAILED)).await;
    apply(&test, told("c", "both", "id-2.x", Report::Delivered)).await;
    assert_eq!(test.put_outcome(outcome(both, 2, Status::Sent)).await, Recorded::Now(Status::Delivered));
    test.balanced().await;
}

pub async fn what_is_confirmed_has_no_code<B: Backend>(test: TestStore<B>) {
    for (id, report) in [("taken", Report::Taken), ("delivered", Report::Delivered)] {
        let key = test.sending(id).await;
        let limited = Record { status_code: Some(Code::RATE_LIMITED), ..outcome(key, 1, Status::Queued) };
        test.put_outcome(limited).await;
        test.start(key, Channel::Email, 1).await;
        apply(&test, told(id, id, "id-2.x", report)).await;
        test.put_outcome(outcome(key, 2, Status::Sent)).await;
        assert_eq!(test.view(key).await.code, None, "{id}");
    }
    test.balanced().await;
}

pub async fn whoever_reads_it_has_it<B: Backend>(test: TestStore<B>) {
    let key = test.sending("waiting").await;
    test.put_outcome(Record { outcome: "unknown", ..outcome(key, 1, Status::Queued) }).await;
    apply(&test, told("w", "waiting", "id-1.x", Report::Opened)).await;
    test.expect_status(key, Status::Delivered).await;
    // The complaint last: nothing is sent there any more.
    for (id, report) in [("opened", Report::Opened), ("clicked", Report::Clicked), ("complained", Report::Complained)] {
        let key = second_under_way(&test, id).await;
        apply(&test, told(id, id, "id-1.x", report)).await;
        let unknown = Record { outcome: "unknown", ..outcome(key, 2, Status::Queued) };
        assert_eq!(test.put_outcome(unknown).await, Recorded::Now(Status::Delivered), "{id}");
    }
    test.balanced().await;
}

pub async fn who_comes_back_takes_back_only_what_was_before<B: Backend>(test: TestStore<B>) {
    let key = first(test.take(Offer::new("job").to(Channel::Email, "asha").build()).await);
    test.start(key, Channel::Email, 0).await;
    test.put_outcome(outcome(key, 1, Status::Sent)).await;
    let at = |key: &str, at: Timestamp, report: Report| Callback { at, ..told(key, "job", "id-1", report) };
    let (unsubscribed, resubscribed) = (Report::Unsubscribed { list: None }, Report::Resubscribed { list: None });
    apply(&test, at("a", ago(2 * HOUR), unsubscribed.clone())).await;
    assert_eq!(apply(&test, at("b", ago(3 * HOUR), resubscribed.clone())).await.released, 0, "it is older");
    // Once more, later: an event in between is overtaken.
    apply(&test, at("c", ago(HOUR), unsubscribed)).await;
    assert_eq!(apply(&test, at("d", ago(HOUR + HOUR / 2), resubscribed.clone())).await.released, 0);
    assert_eq!(entries(&test).await, [SuppressionReason::Unsubscribed]);
    assert_eq!(apply(&test, at("e", ago(HOUR / 2), resubscribed.clone())).await.released, 1);
    assert!(entries(&test).await.is_empty());
    // What a person did not say by unsubscribing is not taken back by subscribing.
    apply(&test, at("f", ago(2 * HOUR), Report::Complained)).await;
    assert_eq!(apply(&test, at("g", ago(HOUR), resubscribed)).await.released, 0);
    assert_eq!(entries(&test).await, [SuppressionReason::Complained]);
    test.balanced().await;
}
