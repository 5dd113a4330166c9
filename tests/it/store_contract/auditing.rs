//! The audit notices what it is there for.

use tarishi::model::{Channel, Status};

use crate::fixture::{Backend, Offer, TestStore, outcome};

async fn some_of_everything<B: Backend>(test: &TestStore<B>) {
    let sent = test.sending("sent").await;
    test.put_outcome(outcome(sent, 1, Status::Sent)).await;
    test.take(Offer::new("waiting").many(3).build()).await;
    test.take(Offer::new("large").many(3).large()).await;
    let live = Offer::new("live").to(Channel::Live, "asha").placed(tarishi::store::Placement::Leased);
    let key = crate::fixture::first(test.take(live.build()).await);
    test.live(key, "asha", None).await.unwrap();
    test.balanced().await;
}

pub async fn a_row_that_disappears_is_noticed<B: Backend>(mut test: TestStore<B>) {
    some_of_everything(&test).await;
    test.reopen_after("DELETE FROM deliveries WHERE status = 2 AND channel = 0").await;
    let audit = test.audit().await.unwrap();
    assert!(!audit.balanced);
    assert_eq!(
        audit.disagreements,
        ["8 accepted, but 7 in the store and 0 purged: 1 unaccounted for", "sent: the counter says 2, the rows 1"]
    );
}

pub async fn every_kind_of_damage_is_noticed<B: Backend>(mut test: TestStore<B>) {
    some_of_everything(&test).await;
    for (damage, repair, noticed) in [
        (
            "UPDATE counters SET value = value + 1 WHERE name = 'accepted'",
            "UPDATE counters SET value = value - 1 WHERE name = 'accepted'",
            "unaccounted",
        ),
        (
            "UPDATE deliveries SET status = 4 WHERE status = 2 AND channel = 0",
            "UPDATE deliveries SET status = 2 WHERE status = 4",
            "failed: the counter says 0",
        ),
        (
            "UPDATE jobs SET open = open + 1 WHERE id = 'waiting'",
            "UPDATE jobs SET open = open - 1 WHERE id = 'waiting'",
            "open deliveries is wrong",
        ),
        (
            "UPDATE jobs SET finished_at = 1 WHERE id = 'waiting'",
            "UPDATE jobs SET finished_at = NULL WHERE id = 'waiting'",
            "finished jobs",
        ),
        ("UPDATE expansions SET job = job + 100", "UPDATE expansions SET job = job - 100", "no plan to make them"),
        ("UPDATE jobs SET num = num + 100 WHERE id = 'sent'", "UPDATE jobs SET num = num - 100 WHERE id = 'sent'", "without their job"),
        ("UPDATE inbox SET job = job + 100", "UPDATE inbox SET job = job - 100", "without an inbox row"),
    ] {
        test.reopen_after(damage).await;
        let audit = test.audit().await.unwrap();
        assert!(!audit.balanced && audit.disagreements.iter().any(|found| found.contains(noticed)), "{damage}: {:?}", audit.disagreements);
        test.reopen_after(repair).await;
        test.balanced().await;
    }
}
