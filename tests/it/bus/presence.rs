//! Who is online, over all nodes.

use tarishi::socket::{PresenceChange, PresenceChanges, Seen};

use super::node::{Fixture, Node};
use crate::support::{PATIENCE, Redis, until};

async fn seen(node: &Node, user: &str, online: bool, connections: usize) {
    let (asked, expected) = (user.parse().unwrap(), Seen { online, connections });
    until(&format!("{user} is {expected:?}"), async || (node.bus.presence(&asked).await == expected).then_some(())).await;
}

/// Waits for this change; those known already are told again now and then.
async fn told(changes: &mut PresenceChanges, expected: PresenceChange) {
    let waiting = async { while changes.next().await != Some(expected.clone()) {} };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{expected:?} is told"));
}

fn online(user: &str) -> PresenceChange {
    PresenceChange::Online(user.parse().unwrap())
}

fn offline(user: &str) -> PresenceChange {
    PresenceChange::Offline(user.parse().unwrap())
}

#[tokio::test]
async fn connections_are_counted_over_all_nodes() {
    let redis = Redis::start().await;
    let fixture = Fixture::new();
    let (a, b) = (fixture.node(&redis.url()).await, fixture.node(&redis.url()).await);
    let (mut at_a, mut at_b) = (a.bus.presence_changes(), b.bus.presence_changes());
    let phone = a.follow("42");
    told(&mut at_b, online("42")).await;
    told(&mut at_a, online("42")).await;
    let (tablet, laptop) = (a.follow("42"), b.follow("42"));
    seen(&a, "42", true, 3).await;
    seen(&b, "42", true, 3).await;
    drop((phone, tablet));
    seen(&b, "42", true, 1).await;
    seen(&a, "42", true, 1).await;
    // Closing all tabs of one node is not going offline; closing the last is.
    drop(laptop);
    told(&mut at_a, offline("42")).await;
    told(&mut at_b, offline("42")).await;
    seen(&a, "42", false, 0).await;
    seen(&b, "42", false, 0).await;
    seen(&a, "43", false, 0).await;
}

#[tokio::test]
async fn a_node_that_dies_takes_its_users_along() {
    let redis = Redis::start().await;
    let fixture = Fixture::new();
    let (a, b) = (fixture.node(&redis.url()).await, fixture.node(&redis.url()).await);
    let mut at_a = a.bus.presence_changes();
    let (_there, _both) = (b.follow("42"), (a.follow("43"), b.follow("43")));
    told(&mut at_a, online("42")).await;
    seen(&a, "43", true, 2).await;
    drop(b);
    told(&mut at_a, offline("42")).await;
    seen(&a, "42", false, 0).await;
    seen(&a, "43", true, 1).await;
}

#[tokio::test]
async fn a_node_that_ends_in_order_is_gone_after_the_grace_time() {
    let redis = Redis::start().await;
    let fixture = Fixture::new();
    let (a, b) = (fixture.node(&redis.url()).await, fixture.node(&redis.url()).await);
    let mut at_a = a.bus.presence_changes();
    let _connection = b.register("42", true);
    told(&mut at_a, online("42")).await;
    b.publish_item("43", 1);
    b.end().await;
    told(&mut at_a, offline("42")).await;
    let received = a.bus.counters().unwrap().0.received.load(std::sync::atomic::Ordering::Relaxed);
    assert!(received > 0);
}

#[tokio::test]
async fn without_redis_each_node_knows_its_own() {
    let mut redis = Redis::start().await;
    let fixture = Fixture::new();
    let (a, b) = (fixture.node(&redis.url()).await, fixture.node(&redis.url()).await);
    let (mut at_a, mut at_b) = (a.bus.presence_changes(), b.bus.presence_changes());
    let (here, there) = (a.follow("42"), b.follow("42"));
    seen(&a, "42", true, 2).await;
    redis.kill();
    a.unlinked().await;
    b.unlinked().await;
    seen(&a, "42", true, 1).await;
    drop(here);
    told(&mut at_a, offline("42")).await;
    redis.start_again().await;
    // It was wrong to think so.
    told(&mut at_a, online("42")).await;
    seen(&a, "42", true, 1).await;
    drop(there);
    told(&mut at_a, offline("42")).await;
    told(&mut at_b, offline("42")).await;
}
