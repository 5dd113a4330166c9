//! Files that earlier versions wrote: they open, and nothing of them is lost.

use tarishi::{
    config::WhenFull,
    model::{Channel, Contact, Status},
    store::{EventSettings, JobStatus},
};

use crate::fixture::{Backend, Offer, Sqlite, TestStore, job_id, user_id};

/// The history that the first version's file has in it. The checksum is over that version's schema, which therefore never changes.
const HISTORY_V1: &str = "
    CREATE TABLE refinery_schema_history (version int4 PRIMARY KEY, name VARCHAR(255), applied_on VARCHAR(255), checksum VARCHAR(255));
    INSERT INTO refinery_schema_history VALUES (1, 'initial', '2026-01-15T10:30:00Z', '15867623232800583850');";

/// One mail sent, one waiting, and the counters that go with them.
const ROWS_V1: &str = r#"
    INSERT INTO meta VALUES ('epoch', '0197f0a0-0000-7000-8000-000000000000'), ('incarnation', '4');
    INSERT INTO counters VALUES ('accepted', 2), ('purged', 0);
    INSERT INTO status_counts VALUES (0, 0, 1), (0, 2, 1);
    INSERT INTO jobs (num, key, id, body_hash, envelope, template, planned, made, open, accepted_at)
    VALUES (1, x'2887cd60328a2aac9c2de57b', 'order-8841-shipped', zeroblob(32),
            '{"id":"order-8841-shipped","template":"new_message","metadata":{"tenant":"one"}}', 'new_message', 2, 2, 1, 1768473000000);
    INSERT INTO deliveries (job, ordinal, channel, priority, user_id, address, status, attempts, due_at, expires_at, lease_owner,
                            lease_until, provider, provider_id, attempt_at, updated_at)
    VALUES (1, 0, 0, 1, '42', 'asha@example.com', 2, 1, 1768473000000, 9999999999999, 0, 0, 'smtp', 'id', 1768473000000, 1768473000000),
           (1, 1, 0, 1, '43', 'juma@example.com', 0, 0, 1768473000000, 9999999999999, 4, 9999999999999, NULL, NULL, NULL, 1768473000000);"#;

/// Addresses that the first version took and today's does not: in a delivery that waits, in a contact, in a large job not made yet.
const OLD_ADDRESSES_V1: &str = r#"
    INSERT INTO meta VALUES ('epoch', '0197f0a0-0000-7000-8000-000000000000'), ('incarnation', '4');
    INSERT INTO counters VALUES ('accepted', 4), ('purged', 0);
    INSERT INTO status_counts VALUES (0, 0, 4);
    INSERT INTO jobs (num, key, id, body_hash, envelope, template, planned, made, open, accepted_at)
    VALUES (1, x'2887cd60328a2aac9c2de57b', 'order-8841-shipped', zeroblob(32),
            '{"id":"order-8841-shipped","template":"new_message"}', 'new_message', 2, 2, 2, 1768473000000),
           (2, x'2887cd60328a2aac9c2de57c', 'large', zeroblob(32), '{"id":"large","template":"new_message"}', 'new_message', 2, 0, 2,
            1768473000000);
    INSERT INTO deliveries (job, ordinal, channel, priority, user_id, address, status, attempts, due_at, expires_at, lease_owner,
                            lease_until, updated_at)
    VALUES (1, 0, 0, 1, '42', 'asha@[127.0.0.1]', 0, 0, 1768473000000, 9999999999999, 0, 0, 1768473000000),
           (1, 1, 0, 1, '43', '"juma m"@example.com', 0, 0, 1768473000000, 9999999999999, 0, 0, 1768473000000);
    INSERT INTO contacts VALUES
        ('42', '{"name":"Asha","email":"asha@[127.0.0.1]","locale":"sw","push_tokens":[]}', 1768473000000),
        ('43', '{"email":"juma@example.com","push_tokens":[]}', 1768473000000);
    INSERT INTO expansions VALUES (2, '{"recipients":[{"user_id":"42","email":"as\u200bha@example.com"},{"user_id":"43","email":"juma@example.com"}],
        "channels":["email"],"available":["email"],"push_topic":null,"push_condition":null,"priority":"normal",
        "due_at":"2026-01-15T10:30:00Z","expires_at":["2036-01-15T10:30:00Z"]}');"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_that_are_not_taken_any_more_hold_nothing_up() {
    let backend = Sqlite::create();
    backend.tamper(include_str!("../../src/store/migrations/V1__initial.sql"));
    backend.tamper(&format!("{HISTORY_V1}{OLD_ADDRESSES_V1}"));
    let test = TestStore::in_folder(backend.settings());
    let claimed = test.claim(Channel::Email, [10; 3], test.lease()).await.unwrap();
    assert!(claimed.unreadable.is_empty(), "{:?}", claimed.unreadable);
    let addresses: Vec<String> = claimed.deliveries.iter().map(|delivery| delivery.address.as_stored().into_owned()).collect();
    assert_eq!(addresses, ["asha@[127.0.0.1]", "\"juma m\"@example.com"]);

    let expansion = test.next_expansion().await.unwrap().unwrap();
    let emails: Vec<String> = expansion.plan.recipients.iter().map(|recipient| recipient.email.as_ref().unwrap().to_string()).collect();
    assert_eq!((expansion.planned, &emails[..]), (2, &["as\u{200b}ha@example.com".to_owned(), "juma@example.com".to_owned()][..]));

    // One of them keeps nobody else's from being found, and can be put right.
    let (asha, juma) = (user_id("42"), user_id("43"));
    let contacts = test.contacts(vec![asha.clone(), juma.clone()]).await.unwrap();
    assert_eq!((contacts[&asha].name.as_deref(), contacts[&juma].email.as_ref().unwrap().as_str()), (Some("Asha"), "juma@example.com"));
    let mended = test
        .update_contact(asha.clone(), |present| {
            let present = present.ok_or(())?;
            Ok::<_, ()>(Some(Contact { email: Some("asha@example.com".parse().unwrap()), ..present }))
        })
        .await
        .unwrap();
    let mended = mended.unwrap().unwrap();
    assert_eq!((mended.name.as_deref(), mended.email.unwrap().as_str()), (Some("Asha"), "asha@example.com"));
    assert_eq!(test.update_contact(asha, |present| present.map(|_| None).ok_or(())).await.unwrap(), Ok(None));
    test.balanced().await;
    test.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_the_first_version_opens() {
    let backend = Sqlite::create();
    backend.tamper(include_str!("../../src/store/migrations/V1__initial.sql"));
    backend.tamper(&format!("{HISTORY_V1}{ROWS_V1}"));
    let mut settings = backend.settings();
    settings.events = Some(EventSettings { statuses: Status::ALL.into_iter().collect(), limit: 100, when_full: WhenFull::Stop });
    let test = TestStore::in_folder(settings);
    assert_eq!((test.owner(), &**test.epoch()), (5, "0197f0a0-0000-7000-8000-000000000000"));
    assert_eq!(test.balanced().await.accepted, 2);
    assert_eq!((test.events_pending(), test.events_dropped()), (0, 0), "what was before is not told");

    let id = job_id("order-8841-shipped");
    assert_eq!(test.job(&id, 0, 10).await.unwrap().unwrap().status, JobStatus::Running);
    let [waiting] = test.claimed_keys(Channel::Email).await[..] else { panic!("one waits") };
    test.open_gate(waiting, Channel::Email, 0).await;
    test.put_outcome(crate::fixture::outcome(waiting, 1, Status::Sent)).await;
    test.take(Offer::new("next").to(Channel::Email, "asha").build()).await;
    let page = test.pending_events(0, 10).await.unwrap();
    assert_eq!(page.events.len(), 4, "sending, sent, finished, queued: {page:?}");
    assert_eq!(page.events[0].metadata["tenant"], "one");
    assert_eq!(page.events[0].traceparent, None);
    assert_eq!(test.job(&id, 0, 10).await.unwrap().unwrap().status, JobStatus::Finished);
    assert_eq!(test.begin_alone([0; 32]).await.unwrap(), 1);
    test.balanced().await;
    test.close().await;
}
