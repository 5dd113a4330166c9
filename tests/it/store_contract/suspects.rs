//! How often a suspicious message was begun.

use crate::fixture::{Backend, DAY, TestStore, next_millisecond};

pub async fn tries_are_counted_across_restarts<B: Backend>(mut test: TestStore<B>) {
    let (one, other) = ([1; 32], [2; 32]);
    assert_eq!(test.begin_alone(one).await.unwrap(), 1);
    assert_eq!(test.begin_alone(one).await.unwrap(), 2);
    test.reopen().await;
    assert_eq!(test.begin_alone(one).await.unwrap(), 3);
    assert_eq!(test.begin_alone(other).await.unwrap(), 1, "each has a count of its own");
    test.end_alone(one).await.unwrap();
    test.end_alone(one).await.unwrap();
    assert_eq!(test.begin_alone(one).await.unwrap(), 1, "it ended: the next time is the first again");
    assert_eq!(test.begin_alone(other).await.unwrap(), 2);
}

pub async fn the_purge_forgets_old_ones<B: Backend>(mut test: TestStore<B>) {
    test.begin_alone([1; 32]).await.unwrap();
    test.begin_alone([2; 32]).await.unwrap();
    next_millisecond().await;
    assert_eq!(test.purge_step().await.unwrap().suspects, 0);
    test.settings.idempotency_retention = DAY;
    test.reopen_after(&format!("UPDATE suspects SET at = at - {} WHERE key = x'{}'", 2 * DAY.as_millis(), "01".repeat(32))).await;
    assert_eq!(test.purge().await.suspects, 1);
    assert_eq!(test.begin_alone([1; 32]).await.unwrap(), 1);
    assert_eq!(test.begin_alone([2; 32]).await.unwrap(), 2);
}
