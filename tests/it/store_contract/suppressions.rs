//! Addresses that are not written to any more: what the gate makes of them, how long they stay, how they are listed.

use std::{sync::Arc, time::Duration};

use tarishi::{
    model::{Channel, Code, DeliveryKey, Status, SuppressionKey, SuppressionReason, Timestamp},
    store::{
        Accepted, Attempts, Begin, Callback, Gate, NewSuppression, Placement, Record, Recorded, Report, SuppressionFilter, SuppressionPage,
        SuppressionView,
    },
};

use crate::fixture::{Backend, DAY, HOUR, Offer, PROVIDER, TestStore, address, ahead, first, job_id, outcome};

fn entry(channel: Channel, address: &str, list: Option<&str>, expires_at: Option<Timestamp>) -> NewSuppression {
    let key = SuppressionKey::new(channel, address, list.map(|list| list.parse().unwrap())).unwrap();
    NewSuppression { key, reason: SuppressionReason::Manual, source: "asha".to_owned(), expires_at }
}

async fn suppress<B: Backend>(test: &TestStore<B>, address: &str, list: Option<&str>) {
    let done = test.suppress(vec![entry(Channel::Email, address, list, None)]).await.unwrap();
    assert_eq!((done.added, done.changed, done.kept), (1, 0, 0));
}

fn begin(key: DeliveryKey, attempts: u32, list: Option<&str>) -> Begin {
    Begin { key, channel: Channel::Email, attempts, provider: PROVIDER, list: list.map(Arc::from) }
}

async fn page<B: Backend>(test: &TestStore<B>, filter: SuppressionFilter) -> SuppressionPage {
    test.suppressions(SuppressionFilter { limit: if filter.limit == 0 { 100 } else { filter.limit }, ..filter }).await.unwrap()
}

async fn all<B: Backend>(test: &TestStore<B>) -> Vec<SuppressionView> {
    page(test, SuppressionFilter::default()).await.suppressions
}

#[track_caller]
fn expect_suppressed(gate: Gate) {
    assert_eq!(gate, Gate::Suppressed);
}

async fn is_over<B: Backend>(test: &TestStore<B>, key: DeliveryKey, attempts: usize) {
    let view = test.view(key).await;
    assert_eq!((view.status, view.code.as_deref(), view.next_at), (Status::Suppressed, Some("suppressed"), None));
    assert!(matches!(view.attempts, Attempts::Count(count) if count as usize == attempts), "{:?}", view.attempts);
    assert_eq!(test.open_gate(key, Channel::Email, 0).await, Gate::Lost);
    test.balanced().await;
}

pub async fn a_gate_holds_back_what_waits_in_memory<B: Backend>(test: TestStore<B>) {
    let leased = Offer::new("job").to(Channel::Email, "Asha").placed(Placement::Leased);
    let key = first(test.take(leased.build()).await);
    suppress(&test, "asha@EXAMPLE.com", None).await;
    expect_suppressed(test.open_gate(key, Channel::Email, 0).await);
    is_over(&test, key, 0).await;
    assert!(test.job(&job_id("job"), 0, 1).await.unwrap().unwrap().finished_at.is_some());
}

pub async fn a_gate_holds_back_between_attempts<B: Backend>(test: TestStore<B>) {
    let key = test.sending("job").await;
    suppress(&test, "asha@example.com", None).await;
    // What is under way runs out.
    assert_eq!(test.put_outcome(outcome(key, 1, Status::Queued)).await, Recorded::Now(Status::Queued));
    test.claim_due(Channel::Email).await;
    expect_suppressed(test.open_gate(key, Channel::Email, 1).await);
    is_over(&test, key, 1).await;
}

pub async fn a_gate_holds_back_from_the_next_provider<B: Backend>(test: TestStore<B>) {
    let key = test.sending("job").await;
    suppress(&test, "asha@example.com", None).await;
    let next = Begin { provider: "next", ..begin(key, 1, None) };
    let moved = test.fail_over(outcome(key, 1, Status::Queued), next, test.lease()).await.unwrap();
    assert_eq!(moved.committed().await.unwrap(), (Recorded::Now(Status::Queued), Some(Gate::Suppressed)));
    is_over(&test, key, 1).await;
}

pub async fn a_gate_holds_back_what_was_meant_for_later<B: Backend>(mut test: TestStore<B>) {
    let key = first(test.take(Offer::new("job").to(Channel::Email, "asha").due(ahead(HOUR)).build()).await);
    suppress(&test, "asha@example.com", None).await;
    // It is on the list for as long as it takes.
    test.expect_status(key, Status::Queued).await;
    test.reopen_after("UPDATE deliveries SET due_at = 0").await;
    test.claim_due(Channel::Email).await;
    expect_suppressed(test.open_gate(key, Channel::Email, 0).await);
    is_over(&test, key, 0).await;
}

pub async fn a_list_holds_back_its_own_mails<B: Backend>(test: TestStore<B>) {
    suppress(&test, "asha@example.com", Some("messages")).await;
    for (id, list, expected) in [("own", Some("messages"), true), ("other", Some("digest"), false), ("none", None, false)] {
        let key = first(test.take(Offer::new(id).to(Channel::Email, "asha").placed(Placement::Leased).build()).await);
        let gate = test.begin(vec![begin(key, 0, list)], test.lease()).await.unwrap().remove(0);
        assert_eq!(gate == Gate::Suppressed, expected, "{id}: {gate:?}");
        // The same at the moment of accept.
        let mut sending = Offer::new(&format!("{id} at once")).to(Channel::Email, "asha").placed(Placement::Sending { provider: PROVIDER });
        sending = sending.list(list);
        let accepted = test.offer(vec![sending.build()]).await.unwrap();
        let [Accepted::New { begun, .. }] = &accepted[..] else { panic!("{accepted:?}") };
        assert_eq!(begun.suppressed == [0], expected, "{id}");
    }
    // Nobody else, and no other channel.
    let other = Offer::new("juma").to(Channel::Email, "juma").to(Channel::Push, "asha").placed(Placement::Leased);
    let job = test.take(other.build()).await;
    assert!(matches!(test.open_gate(first(job), Channel::Email, 0).await, Gate::Open { .. }));
    assert!(matches!(test.open_gate(DeliveryKey { job, ordinal: 1 }, Channel::Push, 0).await, Gate::Open { .. }));
    suppress(&test, "asha@example.com", None).await;
    let key = first(test.take(Offer::new("digest").to(Channel::Email, "asha").placed(Placement::Leased).build()).await);
    expect_suppressed(test.begin(vec![begin(key, 0, Some("digest"))], test.lease()).await.unwrap()[0]);
    test.balanced().await;
}

pub async fn each_reason_lasts_its_time<B: Backend>(test: TestStore<B>) {
    use SuppressionReason::{Bounced, Complained, OptedOut, Unregistered};
    let before = Timestamp::now();
    let failed = |reason| Report::Failed { code: Code::ADDRESS_UNKNOWN, suppress: Some(reason), is_bounce: false };
    for (user, channel, report) in [
        ("bounced", Channel::Email, failed(Bounced)),
        ("complained", Channel::Email, Report::Complained),
        ("unsubscribed", Channel::Email, Report::Unsubscribed { list: None }),
        ("opted-out", Channel::Sms, failed(OptedOut)),
        ("gone", Channel::Push, failed(Unregistered)),
    ] {
        let callback = Callback {
            provider: PROVIDER,
            channel,
            key: user.to_owned(),
            delivery: None,
            provider_id: None,
            address: Some(address(channel, user).as_stored().into_owned()),
            at: Timestamp::now(),
            report,
        };
        assert_eq!(test.apply_callbacks(vec![callback]).await.unwrap().suppressed.len(), 1, "{user}");
    }
    let after = Timestamp::now();
    let lasts = |reason| match reason {
        Bounced => Some(180 * DAY),
        Unregistered => Some(270 * DAY),
        _ => None,
    };
    let entries = all(&test).await;
    assert_eq!(entries.len(), 5);
    for view in entries {
        match (lasts(view.reason), view.expires_at) {
            (None, None) => {}
            (Some(lasts), Some(until)) => {
                assert!((before.saturating_add(lasts)..=after.saturating_add(lasts)).contains(&until), "{view:?}");
            }
            _ => panic!("{view:?}"),
        }
    }
    // What a person said weighs more than a bounce, and lasts.
    let key = SuppressionKey::new(Channel::Email, "bounced@example.com", None).unwrap();
    let complained = NewSuppression { key, reason: Complained, source: "asha".to_owned(), expires_at: None };
    assert_eq!(test.suppress(vec![complained]).await.unwrap().changed, 1);
    let short = entry(Channel::Email, "bounced@example.com", None, Some(ahead(HOUR)));
    assert_eq!(test.suppress(vec![short]).await.unwrap().kept, 1);
    assert!(all(&test).await.iter().all(|view| view.reason != Bounced));
}

pub async fn what_is_over_holds_nobody_back<B: Backend>(mut test: TestStore<B>) {
    let until = |user: &str, until| entry(Channel::Email, &format!("{user}@example.com"), None, until);
    test.suppress(vec![until("asha", Some(ahead(HOUR))), until("juma", Some(ahead(HOUR))), until("neema", None)]).await.unwrap();
    assert_eq!(test.suppression_count(), 3);
    test.reopen_after("UPDATE suppressions SET expires_at = 1 WHERE address <> 'juma@example.com' AND expires_at IS NOT NULL").await;
    let listed: Vec<String> = all(&test).await.into_iter().map(|view| view.key.address).collect();
    assert_eq!(listed, ["juma@example.com", "neema@example.com"]);
    for (user, is_open) in [("asha", true), ("juma", false), ("neema", false)] {
        let key = first(test.take(Offer::new(user).to(Channel::Email, user).placed(Placement::Leased).build()).await);
        assert_eq!(matches!(test.open_gate(key, Channel::Email, 0).await, Gate::Open { .. }), is_open, "{user}");
    }
    assert_eq!(test.purge().await.suppressions, 1);
    assert_eq!((test.suppression_count(), test.purge().await.suppressions), (2, 0));
    test.reopen().await;
    assert_eq!(test.suppression_count(), 2);
    // Whoever comes on it again after that is new.
    assert_eq!(test.suppress(vec![until("asha", None)]).await.unwrap().added, 1);
}

pub async fn pages_of_the_list_have_no_holes<B: Backend>(test: TestStore<B>) {
    let mut entries: Vec<NewSuppression> =
        (0..7).map(|number| entry(Channel::Email, &format!("user{number}@example.com"), None, None)).collect();
    entries.push(entry(Channel::Email, "user3@example.com", Some("digest"), None));
    entries.push(entry(Channel::Email, "user3@example.com", Some("messages"), None));
    entries.push(entry(Channel::Sms, "+255712345678", None, None));
    entries.push(entry(Channel::Push, "device", None, None));
    entries[1].reason = SuppressionReason::Complained;
    let keys: Vec<SuppressionKey> = entries.iter().map(|entry| entry.key.clone()).collect();
    test.suppress(entries).await.unwrap();
    let expected: Vec<SuppressionKey> = all(&test).await.into_iter().map(|view| view.key).collect();
    assert_eq!(expected.len(), keys.len());
    assert!(expected.is_sorted() && keys.iter().all(|key| expected.contains(key)), "{expected:?}");
    for limit in 1..=12 {
        let (mut found, mut cursor) = (Vec::new(), None);
        loop {
            let page = page(&test, SuppressionFilter { cursor, limit, ..SuppressionFilter::default() }).await;
            assert!(page.suppressions.len() <= limit);
            found.extend(page.suppressions.into_iter().map(|view| view.key));
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(found, expected, "pages of {limit}");
    }
    let count = async |filter: SuppressionFilter| page(&test, filter).await.suppressions.len();
    assert_eq!(count(SuppressionFilter { channel: Some(Channel::Sms), ..SuppressionFilter::default() }).await, 1);
    assert_eq!(count(SuppressionFilter { address: Some("user3@example.com".to_owned()), ..SuppressionFilter::default() }).await, 3);
    assert_eq!(count(SuppressionFilter { reason: Some(SuppressionReason::Complained), ..SuppressionFilter::default() }).await, 1);
    assert_eq!(test.unsuppress(vec![keys[7].clone(), keys[7].clone()]).await.unwrap(), 1);
    assert_eq!(count(SuppressionFilter { address: Some("user3@example.com".to_owned()), ..SuppressionFilter::default() }).await, 2);
}

pub async fn a_dead_address_is_suppressed_with_its_outcome<B: Backend>(test: TestStore<B>) {
    let key = test.sending("job").await;
    let gone = Record { code: Some(Code::ADDRESS_UNKNOWN), address_gone: true, ..outcome(key, 1, Status::Failed) };
    test.put_outcome(gone).await;
    let [view] = &all(&test).await[..] else { panic!("one entry") };
    assert_eq!((view.key.address.as_str(), view.reason, view.source.as_str()), ("asha@example.com", SuppressionReason::Bounced, PROVIDER));
    // What was accepted before meets it at the gate; what has no say of the address leaves it alone.
    let other = first(test.take(Offer::new("other").to(Channel::Email, "juma").build()).await);
    test.start(other, Channel::Email, 0).await;
    test.put_outcome(Record { code: Some(Code::CONTENT_REFUSED), ..outcome(other, 1, Status::Failed) }).await;
    assert_eq!(all(&test).await.len(), 1);
    assert_eq!(view.expires_at.map(|until| until.since(view.created_at)), Some(Duration::from_hours(180 * 24)));
    test.balanced().await;
}
