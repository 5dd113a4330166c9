//! The gate before every attempt, and what comes of it.

use tarishi::{
    model::{Channel, Code, DeliveryKey, Status, Timestamp},
    store::{Attempts, Begin, Gate, Placement, Record, Recorded},
};

use crate::fixture::{Backend, HOUR, Offer, PROVIDER, TestStore, ago, ahead, first, job_id, outcome};

const LATE: Recorded = Recorded::Late { lifted: false };
const LIFTED: Recorded = Recorded::Late { lifted: true };

fn given_up(key: DeliveryKey, number: u32, code: Code) -> Record {
    Record { outcome: "unknown", code: Some(Code::TIMEOUT), status_code: Some(code), ..outcome(key, number, Status::Failed) }
}

/// The attempts of a job's only delivery: number and outcome.
async fn attempts<B: Backend>(test: &TestStore<B>, id: &str) -> Vec<(u32, Option<String>)> {
    let job = test.job(&job_id(id), 0, 1).await.unwrap().unwrap();
    let Attempts::List(attempts) = &job.deliveries[0].attempts else { panic!("a job view lists attempts") };
    attempts.iter().map(|attempt| (attempt.number, attempt.outcome.clone())).collect()
}

fn said(number: u32, outcome: &str) -> (u32, Option<String>) {
    (number, Some(outcome.to_owned()))
}

pub async fn a_gate_opens_once<B: Backend>(test: TestStore<B>) {
    let key = first(test.take(Offer::new("job").to(Channel::Email, "asha").build()).await);
    test.claim_due(Channel::Email).await;
    let begin = Begin { key, channel: Channel::Email, attempts: 0, provider: PROVIDER, list: None };
    let gates = test.begin(vec![begin.clone(), begin], test.lease()).await.unwrap();
    assert!(matches!(gates[..], [Gate::Open { .. }, Gate::Lost]));
    assert_eq!(test.open_gate(key, Channel::Email, 0).await, Gate::Lost);
    assert_eq!(test.open_gate(key, Channel::Email, 1).await, Gate::Lost);
    test.balanced().await;
}

pub async fn a_gate_refuses_another_number_and_another_owner<B: Backend>(test: TestStore<B>) {
    let key = first(test.take(Offer::new("job").to(Channel::Email, "asha").build()).await);
    // Nobody holds it yet.
    assert_eq!(test.open_gate(key, Channel::Email, 0).await, Gate::Lost);
    test.claim_due(Channel::Email).await;
    assert_eq!(test.open_gate(key, Channel::Email, 1).await, Gate::Lost);
    let foreign = tarishi::store::Lease { owner: test.owner() + 1, ..test.lease() };
    let begin = Begin { key, channel: Channel::Email, attempts: 0, provider: PROVIDER, list: None };
    assert_eq!(test.begin(vec![begin], foreign).await.unwrap(), [Gate::Lost]);
    assert_eq!(test.open_gate(DeliveryKey { job: key.job, ordinal: 9 }, Channel::Email, 0).await, Gate::Lost);
    test.start(key, Channel::Email, 0).await;
    test.balanced().await;
}

pub async fn a_gate_refuses_what_is_cancelled_or_collapsed<B: Backend>(test: TestStore<B>) {
    let leased = |id: &str| Offer::new(id).to(Channel::Email, "asha").placed(Placement::Leased);
    let cancelled = first(test.take(leased("cancelled").build()).await);
    test.cancel(&job_id("cancelled")).await.unwrap();
    assert_eq!(test.open_gate(cancelled, Channel::Email, 0).await, Gate::Lost);
    let collapsed = first(test.take(leased("older").collapse("flat").build()).await);
    test.take(leased("newer").collapse("flat").build()).await;
    assert_eq!(test.open_gate(collapsed, Channel::Email, 0).await, Gate::Lost);
    assert_eq!(test.view(collapsed).await.code.as_deref(), Some("collapsed"));
    test.balanced().await;
}

pub async fn a_gate_expires_what_is_too_late<B: Backend>(test: TestStore<B>) {
    let key = first(test.take(Offer::new("job").to(Channel::Email, "asha").expires(ago(HOUR)).build()).await);
    test.claim_due(Channel::Email).await;
    assert_eq!(test.open_gate(key, Channel::Email, 0).await, Gate::Expired);
    let view = test.view(key).await;
    assert_eq!((view.status, view.code.as_deref(), view.next_at), (Status::Expired, Some("expired"), None));
    assert!(matches!(view.attempts, Attempts::Count(0)));
    assert_eq!(test.open_gate(key, Channel::Email, 0).await, Gate::Lost);
    assert!(test.job(&job_id("job"), 0, 1).await.unwrap().unwrap().finished_at.is_some());
    test.balanced().await;
}

pub async fn an_outcome_is_recorded_once<B: Backend>(test: TestStore<B>) {
    let key = test.sending("job").await;
    assert_eq!(test.put_outcome(outcome(key, 1, Status::Sent)).await, Recorded::Now(Status::Sent));
    assert_eq!(test.put_outcome(outcome(key, 1, Status::Queued)).await, LATE);
    assert_eq!(test.put_outcome(outcome(key, 1, Status::Sent)).await, LATE);
    let view = test.view(key).await;
    assert_eq!((view.status, view.provider_id.as_deref()), (Status::Sent, Some("id-1")));
    assert_eq!(attempts(&test, "job").await, [said(1, "sent")]);
    test.balanced().await;
}

pub async fn what_was_refused_for_our_own_set_up_is_told_apart<B: Backend>(test: TestStore<B>) {
    let key = test.sending("job").await;
    let refused = Record { outcome: "permanent", code: Some(Code::AUTHENTICATION_FAILED), ..outcome(key, 1, Status::Queued) };
    test.put_outcome(refused).await;
    test.start(key, Channel::Email, 1).await;
    test.put_outcome(Record { code: Some(Code::VELOCITY_LIMITED), ..outcome(key, 2, Status::Queued) }).await;
    test.start(key, Channel::Email, 2).await;
    test.put_outcome(Record { code: Some(Code::RATE_LIMITED), ..outcome(key, 3, Status::Queued) }).await;
    assert_eq!(test.uncounted_attempts(key).await.unwrap(), 2);
    assert_eq!(test.uncounted_attempts(DeliveryKey { job: key.job, ordinal: 9 }).await.unwrap(), 0);
}

pub async fn a_retry_is_queued_until_it_is_due<B: Backend>(test: TestStore<B>) {
    let key = test.sending("job").await;
    let due_at = ahead(HOUR);
    let retry = Record { due_at, status_code: Some(Code::RATE_LIMITED), ..outcome(key, 1, Status::Queued) };
    assert_eq!(test.put_outcome(retry).await, Recorded::Now(Status::Queued));
    let view = test.view(key).await;
    assert_eq!((view.status, view.next_at, view.code.as_deref()), (Status::Queued, Some(due_at), Some("rate_limited")));
    let claimed = test.claim(Channel::Email, [10; 3], test.lease()).await.unwrap();
    assert!(claimed.deliveries.is_empty());
    assert_eq!(claimed.next_due[1], due_at);
    // Its lease ended with the attempt.
    assert_eq!(test.open_gate(key, Channel::Email, 1).await, Gate::Lost);

    let soon = test.sending("soon").await;
    test.put_outcome(outcome(soon, 1, Status::Queued)).await;
    let claimed = test.claim_due(Channel::Email).await;
    assert!(matches!(&claimed[..], [delivery] if delivery.key == soon && delivery.attempts == 1));
    assert_eq!(test.open_gate(soon, Channel::Email, 0).await, Gate::Lost);
    assert!(matches!(test.open_gate(soon, Channel::Email, 1).await, Gate::Open { .. }));
    assert_eq!(test.put_outcome(outcome(soon, 2, Status::Sent)).await, Recorded::Now(Status::Sent));
    assert_eq!(attempts(&test, "soon").await, [said(1, "transient"), said(2, "sent")]);
    test.balanced().await;
}

pub async fn every_end_is_kept_with_its_code<B: Backend>(test: TestStore<B>) {
    for (id, status, code) in [("failed", Status::Failed, Code::ADDRESS_REFUSED), ("expired", Status::Expired, Code::EXPIRED)] {
        let key = test.sending(id).await;
        let end = Record { status_code: Some(code), ..outcome(key, 1, status) };
        assert_eq!(test.put_outcome(end).await, Recorded::Now(status));
        let view = test.view(key).await;
        assert_eq!((view.status, view.code.as_deref()), (status, Some(code.as_str())));
        assert!(test.job(&job_id(id), 0, 1).await.unwrap().unwrap().finished_at.is_some());
    }
    assert!(test.claim_due(Channel::Email).await.is_empty());
    test.balanced().await;
}

pub async fn a_late_outcome_stays_on_its_own_attempt<B: Backend>(test: TestStore<B>) {
    let key = test.sending("job").await;
    test.put_outcome(given_up(key, 1, Code::ATTEMPTS_EXHAUSTED)).await;
    // What the lost process found out in the end is worth more than that nobody knew.
    let late = Record { detail: Some("mailbox full".to_owned()), ..outcome(key, 1, Status::Queued) };
    assert_eq!(test.put_outcome(late).await, LATE);
    assert_eq!(attempts(&test, "job").await, [said(1, "transient")]);
    let view = test.view(key).await;
    assert_eq!((view.status, view.code.as_deref()), (Status::Failed, Some("attempts_exhausted")));
    test.balanced().await;
}

pub async fn a_late_sent_lifts_what_waits<B: Backend>(test: TestStore<B>) {
    let key = test.sending("job").await;
    let unknown = Record { outcome: "unknown", ..outcome(key, 1, Status::Queued) };
    assert_eq!(test.put_outcome(unknown).await, Recorded::Now(Status::Queued));
    test.claim_due(Channel::Email).await;
    assert_eq!(test.put_outcome(outcome(key, 1, Status::Sent)).await, LIFTED);
    assert_eq!(test.open_gate(key, Channel::Email, 1).await, Gate::Lost);
    let view = test.view(key).await;
    assert_eq!((view.status, view.provider_id.as_deref(), view.code), (Status::Sent, Some("id-1"), None));
    assert_eq!(attempts(&test, "job").await, [said(1, "sent")]);
    assert_eq!(test.balanced().await.unknown_outcomes, 0);
}

pub async fn a_late_sent_lifts_what_was_given_up_as_unknown<B: Backend>(test: TestStore<B>) {
    let key = test.sending("job").await;
    test.put_outcome(Record { provider: "second", ..given_up(key, 1, Code::UNKNOWN_OUTCOME) }).await;
    assert_eq!(test.put_outcome(Record { provider: "first", ..outcome(key, 1, Status::Sent) }).await, LIFTED);
    let view = test.view(key).await;
    // The provider and its id belong together: callbacks are looked up by both.
    assert_eq!((view.status, view.provider.as_deref(), view.provider_id.as_deref()), (Status::Sent, Some("first"), Some("id-1")));
    test.balanced().await;
}

pub async fn a_late_sent_lifts_nothing_else<B: Backend>(test: TestStore<B>) {
    for (id, status, code) in [
        ("failed", Status::Failed, Code::ADDRESS_REFUSED),
        ("exhausted", Status::Failed, Code::ATTEMPTS_EXHAUSTED),
        ("expired", Status::Expired, Code::EXPIRED),
    ] {
        let key = test.sending(id).await;
        test.put_outcome(Record { outcome: "unknown", status_code: Some(code), ..outcome(key, 1, status) }).await;
        assert_eq!(test.put_outcome(outcome(key, 1, Status::Sent)).await, LATE, "{id}");
        test.expect_status(key, status).await;
        assert_eq!(attempts(&test, id).await, [said(1, "sent")]);
    }
    let cancelled = test.sending("cancelled").await;
    test.cancel(&job_id("cancelled")).await.unwrap();
    test.put_outcome(Record { outcome: "unknown", ..outcome(cancelled, 1, Status::Queued) }).await;
    assert_eq!(test.put_outcome(outcome(cancelled, 1, Status::Sent)).await, LATE);
    test.expect_status(cancelled, Status::Cancelled).await;
    test.balanced().await;
}

pub async fn nothing_is_sent_again_after_a_late_sent<B: Backend>(test: TestStore<B>) {
    for (id, second) in [("retried", Status::Queued), ("failed", Status::Failed), ("expired", Status::Expired)] {
        let key = test.sending(id).await;
        test.put_outcome(Record { outcome: "unknown", ..outcome(key, 1, Status::Queued) }).await;
        test.start(key, Channel::Email, 1).await;
        // The first attempt was sent after all, while the second is under way.
        assert_eq!(test.put_outcome(outcome(key, 1, Status::Sent)).await, LATE);
        test.expect_status(key, Status::Sending).await;
        assert_eq!(test.put_outcome(outcome(key, 2, second)).await, Recorded::Now(Status::Sent), "{id}");
        let view = test.view(key).await;
        assert_eq!((view.status, view.provider_id.as_deref(), view.code), (Status::Sent, Some("id-1"), None));
        assert!(test.claim_due(Channel::Email).await.is_empty());
    }
    test.balanced().await;
}

pub async fn an_unknown_outcome_never_replaces_a_known_one<B: Backend>(test: TestStore<B>) {
    let key = test.sending("job").await;
    test.put_outcome(outcome(key, 1, Status::Sent)).await;
    assert_eq!(test.put_outcome(given_up(key, 1, Code::UNKNOWN_OUTCOME)).await, LATE);
    assert_eq!(attempts(&test, "job").await, [said(1, "sent")]);
    test.expect_status(key, Status::Sent).await;
    assert_eq!(test.balanced().await.unknown_outcomes, 0);
}

pub async fn an_outcome_of_a_purged_delivery_leaves_nothing<B: Backend>(mut test: TestStore<B>) {
    test.settings.retention = std::time::Duration::ZERO;
    test.reopen().await;
    let key = test.sending("job").await;
    test.put_outcome(given_up(key, 1, Code::UNKNOWN_OUTCOME)).await;
    test.purge().await;
    assert_eq!(test.put_outcome(outcome(key, 1, Status::Sent)).await, LATE);
    assert_eq!(test.backend.number("SELECT count(*) FROM attempts"), 0);
    test.balanced().await;
}

pub async fn interrupted_attempts_are_found_after_a_restart<B: Backend>(mut test: TestStore<B>) {
    let before = Timestamp::now();
    let key = test.sending("job").await;
    assert!(test.interrupted().await.unwrap().is_empty(), "its own attempts are under way, not interrupted");
    test.reopen().await;
    let interrupted = test.interrupted().await.unwrap();
    let [found] = &interrupted[..] else { panic!("{interrupted:?}") };
    assert_eq!((found.delivery.key, found.delivery.attempts, found.provider.as_str()), (key, 1, PROVIDER));
    assert!(found.started_at >= before);
    assert_eq!(found.delivery.job.id, job_id("job"));
    // Nobody claims it before it is resolved.
    assert!(test.claim_due(Channel::Email).await.is_empty());
    assert_eq!(test.balanced().await.unknown_outcomes, 0);

    assert_eq!(test.put_outcome(given_up(key, 1, Code::UNKNOWN_OUTCOME)).await, Recorded::Now(Status::Failed));
    assert!(test.interrupted().await.unwrap().is_empty());
    assert_eq!(test.balanced().await.unknown_outcomes, 1);
}

pub async fn an_interrupted_row_that_does_not_read_back_keeps_nobody<B: Backend>(mut test: TestStore<B>) {
    let bad = test.sending("bad").await;
    let good = test.sending("good").await;
    test.reopen_after(&format!("UPDATE deliveries SET locale = 'no language' WHERE job = {}", bad.job)).await;
    let interrupted = test.interrupted().await.unwrap();
    assert!(matches!(&interrupted[..], [found] if found.delivery.key == good));
    let view = test.view(bad).await;
    assert_eq!((view.status, view.code.as_deref()), (Status::Failed, Some("unreadable")));
    test.balanced().await;
}
