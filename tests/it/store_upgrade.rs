//! Files that earlier versions wrote: they open, and nothing of them is lost.

use tarishi::{
    config::WhenFull,
    model::{Channel, Status},
    store::{EventSettings, JobStatus},
};

use crate::fixture::{Backend, Offer, Sqlite, TestStore, job_id};

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
