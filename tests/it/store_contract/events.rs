//! What the broker is told of, and that it is told of nothing else.

use std::{collections::BTreeMap, time::Duration};

use tarishi::{
    config::WhenFull,
    model::{Channel, Code, DeliveryId, DeliveryKey, Status, StatusSet},
    store::{EventKind, EventPage, EventSettings, PendingEvent, Placement, Purged, Record, Recorded, Step},
};

use crate::fixture::{Backend, HOUR, MADE, Offer, PROVIDER, TestStore, ago, ahead, first, job_id, outcome, user_id};

pub fn all_statuses() -> StatusSet {
    Status::ALL.into_iter().collect()
}

/// The next incarnation writes events.
async fn switch_on<B: Backend>(test: &mut TestStore<B>) {
    test.settings.events = Some(EventSettings { statuses: all_statuses(), limit: 1_000_000, when_full: WhenFull::Stop });
    test.reopen().await;
}

/// Every pending event, in pages, each seen to be in order.
pub async fn pending<B: Backend>(test: &TestStore<B>) -> Vec<PendingEvent> {
    let mut all: Vec<PendingEvent> = Vec::new();
    let mut after = 0;
    loop {
        let page = test.pending_events(after, 3).await.unwrap();
        assert!(page.events.len() <= 3);
        let Some(last) = page.last_seq else { break };
        assert!(page.events.iter().all(|event| after < event.seq && event.seq <= last));
        after = last;
        all.extend(page.events);
    }
    assert!(all.is_sorted_by(|one, next| one.seq < next.seq && one.at <= next.at), "{all:?}");
    assert_eq!(test.backend.number("SELECT count(*) FROM pending_events"), i64::try_from(test.events_pending()).unwrap());
    all
}

fn words(event: &PendingEvent) -> String {
    let job = &event.job_id;
    match &event.what {
        EventKind::Delivery { id, status, code, .. } => {
            let code = code.as_ref().map(|code| format!(" ({code})")).unwrap_or_default();
            format!("{job}.{} {status}{code}", id.ordinal)
        }
        EventKind::JobFinished { .. } => format!("{job} finished"),
        EventKind::AddressGone { id, .. } => format!("{job}.{} gone", id.ordinal),
    }
}

/// What has been told since this was last asked, which is then forgotten.
async fn told<B: Backend>(test: &TestStore<B>) -> Vec<String> {
    let events = pending(test).await;
    if let Some(last) = events.last() {
        assert_eq!(*test.events_written().borrow(), last.seq);
        test.remove_events(last.seq).await.unwrap();
    }
    assert_eq!(test.events_pending(), 0);
    events.iter().map(words).collect()
}

fn mail(id: &str) -> Offer {
    Offer::new(id).to(Channel::Email, "asha")
}

pub async fn every_move_is_told_in_order<B: Backend>(mut test: TestStore<B>) {
    switch_on(&mut test).await;
    let key = test.sending("job").await;
    test.put_outcome(Record { status_code: Some(Code::RATE_LIMITED), ..outcome(key, 1, Status::Queued) }).await;
    assert_eq!(told(&test).await, ["job.0 queued", "job.0 sending", "job.0 queued (rate_limited)"]);
    test.start(key, Channel::Email, 1).await;
    test.put_outcome(outcome(key, 2, Status::Sent)).await;
    assert_eq!(told(&test).await[1..], ["job.0 sent", "job finished"]);
    // What changes nothing is not told.
    test.put_outcome(outcome(key, 2, Status::Failed)).await;
    test.open_gate(key, Channel::Email, 2).await;
    test.offer(vec![mail("job").build()]).await.unwrap();
    test.cancel(&job_id("job")).await.unwrap();
    assert!(told(&test).await.is_empty());
    test.balanced().await;
}

pub async fn every_end_is_told<B: Backend>(mut test: TestStore<B>) {
    switch_on(&mut test).await;
    for (status, code, end) in [
        (Status::Sent, None, "job.0 sent"),
        (Status::Failed, Some(Code::PAYLOAD_REFUSED), "job.0 failed (payload_refused)"),
        (Status::Expired, Some(Code::EXPIRED), "job.0 expired (expired)"),
    ] {
        let id = format!("job{status}");
        let key = test.sending(&id).await;
        test.put_outcome(Record { status_code: code, ..outcome(key, 1, status) }).await;
        let told = told(&test).await;
        assert_eq!(told[2..], [end.replace("job", &id), format!("{id} finished")], "{told:?}");
    }
    // Cancelled while it was under way.
    let key = test.sending("job").await;
    test.cancel(&job_id("job")).await.unwrap();
    assert_eq!(told(&test).await, ["job.0 queued", "job.0 sending"]);
    test.put_outcome(outcome(key, 1, Status::Queued)).await;
    assert_eq!(told(&test).await, ["job.0 cancelled (cancelled_by_request)", "job finished"]);
}

pub async fn what_waits_and_ends_is_told<B: Backend>(mut test: TestStore<B>) {
    switch_on(&mut test).await;
    let late = first(test.take(mail("late").expires(ago(HOUR)).build()).await);
    test.claim_due(Channel::Email).await;
    test.open_gate(late, Channel::Email, 0).await;
    assert_eq!(told(&test).await, ["late.0 queued", "late.0 expired (expired)", "late finished"]);

    test.take(Offer::new("job").many(2).build()).await;
    test.cancel(&job_id("job")).await.unwrap();
    let cancelled = ["job.0 cancelled (cancelled_by_request)", "job.1 cancelled (cancelled_by_request)", "job finished"];
    assert_eq!(told(&test).await[2..], cancelled);

    test.take(mail("older").collapse("flat").build()).await;
    test.take(mail("newer").collapse("flat").build()).await;
    assert_eq!(told(&test).await, ["older.0 queued", "older.0 cancelled (collapsed)", "newer.0 queued", "older finished"]);
}

pub async fn rows_that_do_not_read_back_are_told<B: Backend>(mut test: TestStore<B>) {
    switch_on(&mut test).await;
    test.sending("interrupted").await;
    test.take(mail("waiting").build()).await;
    told(&test).await;
    // Even if it is the job that does not read back.
    test.reopen_after("UPDATE deliveries SET locale = 'no language' WHERE job = 1; UPDATE jobs SET envelope = '{' WHERE num = 2").await;
    test.interrupted().await.unwrap();
    test.claim_due(Channel::Email).await;
    let failed = ["interrupted.0 failed (unreadable)", "interrupted finished", "waiting.0 failed (unreadable)", "waiting finished"];
    assert_eq!(told(&test).await, failed);
}

pub async fn a_late_sent_is_told<B: Backend>(mut test: TestStore<B>) {
    switch_on(&mut test).await;
    let waits = test.sending("waits").await;
    test.put_outcome(Record { outcome: "unknown", ..outcome(waits, 1, Status::Queued) }).await;
    told(&test).await;
    assert_eq!(test.put_outcome(outcome(waits, 1, Status::Sent)).await, Recorded::Late { lifted: true });
    assert_eq!(told(&test).await, ["waits.0 sent", "waits finished"]);

    let failed = test.sending("failed").await;
    let unknown = Record { outcome: "unknown", status_code: Some(Code::UNKNOWN_OUTCOME), ..outcome(failed, 1, Status::Failed) };
    test.put_outcome(unknown).await;
    assert_eq!(told(&test).await[2..], ["failed.0 failed (unknown_outcome)", "failed finished"]);
    test.put_outcome(outcome(failed, 1, Status::Sent)).await;
    assert_eq!(told(&test).await, ["failed.0 sent"], "a job is finished once");
}

pub async fn live_notifications_are_told<B: Backend>(mut test: TestStore<B>) {
    switch_on(&mut test).await;
    let key = first(test.take(Offer::new("job").to(Channel::Live, "asha").placed(Placement::Leased).build()).await);
    test.live(key, "asha", None).await.unwrap();
    assert_eq!(told(&test).await, ["job.0 queued", "job.0 sending", "job.0 sent", "job finished"]);
    test.mark_delivered(vec![key, key]).await.unwrap();
    assert_eq!(told(&test).await, ["job.0 delivered"]);
}

/// Status, attempts, provider and its id.
fn snapshot(event: &PendingEvent) -> Option<(Status, u32, Option<&str>, Option<&str>)> {
    match &event.what {
        EventKind::Delivery { status, attempts, provider, provider_id, .. } => {
            Some((*status, *attempts, provider.as_deref(), provider_id.as_deref()))
        }
        _ => None,
    }
}

pub async fn an_event_keeps_what_was_true_at_its_moment<B: Backend>(mut test: TestStore<B>) {
    switch_on(&mut test).await;
    // Two and three moves in one commit.
    let mail = first(test.take(mail("mail").placed(Placement::Sending { provider: PROVIDER }).build()).await);
    let live = first(test.take(Offer::new("live").to(Channel::Live, "asha").placed(Placement::Leased).build()).await);
    let stored = test.live(live, "asha", None).await.unwrap().id.to_string();
    test.put_outcome(outcome(mail, 1, Status::Sent)).await;
    let events = pending(&test).await;
    assert_eq!(
        events.iter().filter_map(snapshot).collect::<Vec<_>>(),
        [
            (Status::Queued, 0, None, None),
            (Status::Sending, 1, Some(PROVIDER), None),
            (Status::Queued, 0, None, None),
            (Status::Sending, 1, Some("sockets"), None),
            (Status::Sent, 1, Some("sockets"), Some(stored.as_str())),
            (Status::Sent, 1, Some(PROVIDER), Some("id-1")),
        ]
    );
}

pub async fn an_event_carries_what_its_job_said<B: Backend>(mut test: TestStore<B>) {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    switch_on(&mut test).await;
    let offer = Offer::new("order").template("new_message").metadata("tenant", "one").traceparent(TRACE);
    test.take(offer.to(Channel::Sms, "juma").to(Channel::Email, "asha").build()).await;
    test.take(mail("plain").build()).await;
    let events = pending(&test).await;
    let [sms, email, plain] = &events[..] else { panic!("{events:?}") };
    for event in [sms, email] {
        assert_eq!((event.job_id.as_str(), event.template.as_deref()), ("order", Some("new_message")));
        assert_eq!(event.metadata, BTreeMap::from([("tenant".to_owned(), "one".to_owned())]));
        assert_eq!(event.traceparent.as_deref(), Some(TRACE));
    }
    let EventKind::Delivery { id, channel, user_id, code, .. } = &email.what else { panic!("{email:?}") };
    assert_eq!(*id, DeliveryId::new(DeliveryId::job_key(&job_id("order")), 1));
    assert_eq!((*channel, user_id.as_deref(), code), (Channel::Email, Some("asha"), &None));
    assert!(matches!(sms.what, EventKind::Delivery { channel: Channel::Sms, .. }));
    assert_eq!((plain.template.as_ref(), plain.traceparent.as_ref(), plain.metadata.len()), (None, None, 0));
}

pub async fn only_the_statuses_asked_for_are_told<B: Backend>(mut test: TestStore<B>) {
    let statuses = [Status::Sent, Status::Failed].into_iter().collect();
    test.settings.events = Some(EventSettings { statuses, limit: 1000, when_full: WhenFull::Stop });
    test.reopen().await;
    let key = test.sending("job").await;
    test.take(mail("waiting").build()).await;
    test.cancel(&job_id("waiting")).await.unwrap();
    assert_eq!(told(&test).await, ["waiting finished"]);
    test.put_outcome(outcome(key, 1, Status::Sent)).await;
    assert_eq!(told(&test).await, ["job.0 sent", "job finished"]);
}

pub async fn a_job_is_finished_once<B: Backend>(mut test: TestStore<B>) {
    switch_on(&mut test).await;
    test.take(Offer::new("nobody").build()).await;
    let job = test.take(Offer::new("job").many(3).build()).await;
    test.claim_due(Channel::Email).await;
    for (ordinal, status) in [(0, Status::Sent), (1, Status::Failed), (2, Status::Sent)] {
        let key = DeliveryKey { job, ordinal };
        test.open_gate(key, Channel::Email, 0).await;
        test.put_outcome(outcome(key, 1, status)).await;
    }
    let finished: Vec<PendingEvent> =
        pending(&test).await.into_iter().filter(|event| matches!(event.what, EventKind::JobFinished { .. })).collect();
    let statuses = BTreeMap::from([(Status::Sent, 2), (Status::Failed, 1)]);
    assert_eq!(finished.iter().map(|event| event.job_id.as_str()).collect::<Vec<_>>(), ["nobody", "job"]);
    assert_eq!(finished[0].what, EventKind::JobFinished { deliveries: 0, statuses: BTreeMap::new() });
    assert_eq!(finished[1].what, EventKind::JobFinished { deliveries: 3, statuses });
    test.mark_delivered(vec![first(job)]).await.unwrap();
    assert_eq!(told(&test).await.iter().filter(|words| words.ends_with("finished")).count(), 2);
}

pub async fn large_jobs_are_told_as_they_are_made<B: Backend>(mut test: TestStore<B>) {
    switch_on(&mut test).await;
    let offer = Offer::new("large").many(3);
    let job = test.take(offer.large()).await;
    assert!(told(&test).await.is_empty());
    let rows = offer.rows();
    assert_eq!(test.make_deliveries(job, 0, rows[..2].to_vec(), None, test.lease()).await.unwrap(), MADE);
    assert_eq!(told(&test).await, ["large.0 queued", "large.1 queued"]);
    test.cancel(&job_id("large")).await.unwrap();
    assert_eq!(told(&test).await, ["large.0 cancelled (cancelled_by_request)", "large.1 cancelled (cancelled_by_request)"]);
    assert_eq!(test.make_deliveries(job, 2, rows[2..].to_vec(), None, test.lease()).await.unwrap(), Step::MadeCancelled);
    assert_eq!(told(&test).await, ["large.2 queued", "large.2 cancelled (cancelled_by_request)", "large finished"]);

    let overtaken = mail("overtaken").collapse("flat");
    let job = test.take(overtaken.large()).await;
    test.take(mail("newer").collapse("flat").build()).await;
    test.make_deliveries(job, 0, overtaken.rows(), Some("flat".to_owned()), test.lease()).await.unwrap();
    assert_eq!(told(&test).await, ["newer.0 queued", "overtaken.0 queued", "overtaken.0 cancelled (collapsed)", "overtaken finished"]);
}

pub async fn a_dead_address_is_told_once<B: Backend>(mut test: TestStore<B>) {
    switch_on(&mut test).await;
    let key = test.sending("job").await;
    told(&test).await;
    let refused = Record {
        code: Some(Code::ADDRESS_REFUSED),
        status_code: Some(Code::ADDRESS_REFUSED),
        address_gone: true,
        ..outcome(key, 1, Status::Failed)
    };
    test.put_outcome(refused.clone()).await;
    // The same outcome again, from somebody who did not hear that it was written.
    test.put_outcome(refused.clone()).await;
    test.put_outcome(Record { key: DeliveryKey { job: 99, ordinal: 0 }, ..refused }).await;
    let events = pending(&test).await;
    assert_eq!(events.iter().map(words).collect::<Vec<_>>(), ["job.0 failed (address_refused)", "job.0 gone", "job finished"]);
    let gone = EventKind::AddressGone {
        id: DeliveryId::new(DeliveryId::job_key(&job_id("job")), 0),
        channel: Channel::Email,
        address: "asha@example.com".to_owned(),
        user_id: Some("asha".to_owned()),
        code: Some("address_refused".to_owned()),
        provider: Some(PROVIDER.to_owned()),
    };
    assert_eq!(events[1].what, gone);
}

pub async fn a_write_that_fails_tells_nothing<B: Backend>(mut test: TestStore<B>) {
    switch_on(&mut test).await;
    let key = test.sending("job").await;
    told(&test).await;
    let writes = async {
        let outcome = test.record(outcome(key, 1, Status::Sent)).await.unwrap();
        let failing = test.update_contact::<(), _>(user_id("bad"), |_| panic!("a bug")).await;
        assert!(failing.is_err());
        outcome.committed().await.unwrap();
    };
    writes.await;
    assert_eq!(told(&test).await, ["job.0 sent", "job finished"]);
}

pub async fn removed_events_are_gone<B: Backend>(mut test: TestStore<B>) {
    switch_on(&mut test).await;
    assert_eq!(test.pending_events(0, 10).await.unwrap(), EventPage::default());
    test.take(Offer::new("job").many(5).build()).await;
    let events = pending(&test).await;
    assert_eq!(events.len(), 5);
    test.remove_events(events[1].seq).await.unwrap();
    assert_eq!(pending(&test).await, events[2..]);
    // Again, and before all of them.
    test.remove_events(events[1].seq).await.unwrap();
    test.remove_events(0).await.unwrap();
    assert_eq!(pending(&test).await, events[2..]);
    test.reopen().await;
    assert_eq!((*test.events_written().borrow(), test.events_pending()), (events[4].seq, 3));
    assert_eq!(pending(&test).await, events[2..]);
    test.remove_events(events[4].seq).await.unwrap();
    test.reopen().await;
    assert_eq!((*test.events_written().borrow(), test.events_pending()), (0, 0));
    // A number is never used again: it is part of an event's id.
    test.take(mail("next").build()).await;
    assert!(pending(&test).await[0].seq > events[4].seq);
    assert_eq!(test.events_dropped(), 0);
}

pub async fn rows_that_nothing_can_be_told_of_are_passed_over<B: Backend>(mut test: TestStore<B>) {
    switch_on(&mut test).await;
    let gone = test.take(Offer::new("gone").many(3).build()).await;
    test.take(mail("here").build()).await;
    let last = pending(&test).await.pop().unwrap();
    test.reopen_after(&format!("DELETE FROM jobs WHERE num = {gone}")).await;
    let page = test.pending_events(0, 3).await.unwrap();
    assert_eq!((page.events.len(), page.last_seq), (0, Some(3)));
    assert_eq!(test.pending_events(3, 3).await.unwrap(), EventPage { last_seq: Some(last.seq), events: vec![last.clone()] });
    test.reopen_after("UPDATE pending_events SET kind = 99 WHERE seq = 4").await;
    assert_eq!(test.pending_events(3, 3).await.unwrap(), EventPage { last_seq: Some(last.seq), events: Vec::new() });
    test.remove_events(last.seq).await.unwrap();
    assert_eq!(test.events_pending(), 0);
}

pub async fn a_publisher_is_woken_by_the_commit<B: Backend>(mut test: TestStore<B>) {
    switch_on(&mut test).await;
    let mut written = test.events_written();
    assert_eq!(*written.borrow_and_update(), 0);
    let waiting = tokio::spawn(async move {
        written.changed().await.unwrap();
        *written.borrow()
    });
    test.begin_alone([0; 32]).await.unwrap();
    test.take(Offer::new("job").many(3).build()).await;
    assert_eq!(waiting.await.unwrap(), 3);
    // What told nothing wakes nobody.
    let mut written = test.events_written();
    written.mark_unchanged();
    test.claim_due(Channel::Email).await;
    test.remove_events(3).await.unwrap();
    assert!(!written.has_changed().unwrap());
}

pub async fn events_off_writes_nothing<B: Backend>(mut test: TestStore<B>) {
    let key = test.sending("job").await;
    test.put_outcome(Record { address_gone: true, ..outcome(key, 1, Status::Failed) }).await;
    test.take(Offer::new("nobody").build()).await;
    assert_eq!(test.backend.number("SELECT count(*) FROM pending_events"), 0);
    assert_eq!((test.events_pending(), test.events_dropped(), test.closed_to_jobs()), (0, 0, None));
    // Switched on and off again: what was not told by then never will be.
    switch_on(&mut test).await;
    test.take(Offer::new("more").many(4).build()).await;
    test.settings.events = None;
    test.reopen().await;
    assert_eq!((test.events_pending(), test.events_dropped()), (0, 4));
    assert_eq!(test.pending_events(0, 10).await.unwrap(), EventPage::default());
    test.cancel(&job_id("more")).await.unwrap();
    switch_on(&mut test).await;
    assert_eq!((test.events_pending(), test.events_dropped()), (0, 4));
    test.balanced().await;
}

pub async fn a_job_stays_until_its_events_are_gone<B: Backend>(mut test: TestStore<B>) {
    test.settings.retention = Duration::ZERO;
    switch_on(&mut test).await;
    let key = first(test.take(Offer::new("live").to(Channel::Live, "asha").placed(Placement::Leased).build()).await);
    test.live(key, "asha", None).await.unwrap();
    assert_eq!(test.purge().await, Purged::default());
    told(&test).await;
    // It finished before the oldest event that is pending, and is still what that is about.
    test.mark_delivered(vec![key]).await.unwrap();
    test.take(Offer::new("later").build()).await;
    test.take(mail("waiting").due(ahead(HOUR)).build()).await;
    assert_eq!(test.purge().await, Purged::default());
    let events = pending(&test).await;
    assert_eq!(events.iter().map(words).collect::<Vec<_>>(), ["live.0 delivered", "later finished", "waiting.0 queued"]);
    test.remove_events(events[0].seq).await.unwrap();
    assert_eq!(test.purge().await.jobs, 1);
    assert!(test.job(&job_id("live"), 0, 1).await.unwrap().is_none());
    test.remove_events(events[1].seq).await.unwrap();
    assert_eq!(test.purge().await.jobs, 1);
    assert_eq!(told(&test).await, ["waiting.0 queued"]);
    test.balanced().await;
}
