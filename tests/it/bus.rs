//! The bus over a real Redis: nodes that share a store, each a hub and a bus of its own.

mod daemon;
mod faults;
pub mod node;
mod presence;
mod reaching;

use std::{sync::Arc, time::Duration};

use tarishi::{
    model::{Revocation, Revoked, Stream, Timestamp, Topic},
    socket::{Control, Frame},
};

use self::node::{Fixture, Follower, bus_config, user};
use crate::support::{Redis, until};

#[tokio::test]
async fn frames_cross_once_each_and_in_order() {
    let redis = Redis::start().await;
    let fixture = Fixture::new();
    let (a, b) = (fixture.node(&redis.url()).await, fixture.node(&redis.url()).await);
    let (mut here, mut there) = (a.follow("42"), b.follow("42"));
    let mut plain = Follower::of(b.register("42", false), &fixture);
    let mut stranger = b.follow("43");
    redis_has(&redis, "tarishi:u:42", 2).await;
    for seq in 1..=200 {
        a.publish_item("42", seq);
        if seq % 50 == 0 {
            a.bus.publish(&user("42"), &Arc::new(Frame::v1(format!("unread {seq}"))));
        }
    }
    let expected: Vec<String> =
        (1..=200).flat_map(|seq| std::iter::once(format!("item {seq}")).chain((seq % 50 == 0).then(|| format!("unread {seq}")))).collect();
    for follower in [&mut here, &mut there] {
        for text in &expected {
            assert_eq!(follower.raw().await, *text);
        }
        follower.expect_nothing();
    }
    for seq in 1..=200 {
        assert_eq!(plain.raw().await, format!("item {seq}"));
    }
    plain.expect_nothing();
    stranger.expect_nothing();
    // The other way, and to everyone.
    b.bus.publish(&Stream::Topic(Topic::everyone()), &Arc::new(Frame::new("all")));
    for follower in [&mut here, &mut there, &mut plain, &mut stranger] {
        assert_eq!(follower.raw().await, "all");
    }
    let (counters, hinted, dropped) = a.bus.counters().unwrap();
    // And perhaps who is online.
    assert!(counters.published.load(std::sync::atomic::Ordering::Relaxed) >= 204);
    assert_eq!((hinted, dropped), (0, 0));
}

#[tokio::test]
async fn subscriptions_follow_the_hub() {
    let redis = Redis::start().await;
    let fixture = Fixture::new();
    let (a, b) = (fixture.node(&redis.url()).await, fixture.node(&redis.url()).await);
    assert_eq!(redis.shard_channels().await, ["tarishi:control", "tarishi:presence"]);
    let (phone, tablet) = (a.follow("42"), a.follow("42"));
    let elsewhere = b.follow("42");
    let dar: Topic = "city.dar".parse().unwrap();
    phone.subscriber().follow(&dar).unwrap();
    redis_has(&redis, "tarishi:u:42", 2).await;
    redis_has(&redis, "tarishi:t:city.dar", 1).await;
    redis_has(&redis, "tarishi:t:*", 2).await;
    drop(tablet);
    phone.subscriber().unfollow(&dar);
    redis_has(&redis, "tarishi:t:city.dar", 0).await;
    assert_eq!(redis.shard_subscribers("tarishi:u:42").await, 2);
    drop(elsewhere);
    redis_has(&redis, "tarishi:u:42", 1).await;
    // Many at once, and gone again.
    let many: Vec<_> = (1000..4000).map(|id| a.register(&id.to_string(), true)).collect();
    until("all are subscribed to", async || (redis.shard_channels().await.len() == 3004).then_some(())).await;
    drop((many, phone));
    until("none is left", async || (redis.shard_channels().await.len() == 2).then_some(())).await;
    assert!(a.bus.status().unwrap().connected, "nothing was taken for a slot that moved");
    assert_eq!(a.sessions(), 1);
}

#[tokio::test]
async fn what_was_published_before_the_subscription_is_found() {
    let redis = Redis::start().await;
    let fixture = Fixture::new();
    let (a, b) = (fixture.node(&redis.url()).await, fixture.node(&redis.url()).await);
    for round in 1..=20 {
        let name = format!("user-{round}");
        let mut follower = b.follow(&name);
        // At the same time as the subscription is under way.
        let seq = fixture.store_item(&name).await;
        a.publish_item(&name, seq);
        follower.up_to(seq).await;
    }
}

#[tokio::test]
async fn a_lost_last_hint_heals_within_one_interval() {
    let redis = Redis::start().await;
    let mut fixture = Fixture::new();
    fixture.interval = Duration::from_secs(1);
    let b = fixture.node(&redis.url()).await;
    let mut follower = b.follow("42");
    redis_has(&redis, "tarishi:u:42", 1).await;
    for seq in 1..=3 {
        // Stored by somebody, and told to nobody.
        assert_eq!(fixture.store_item("42").await, seq);
        follower.up_to(seq).await;
    }
}

#[tokio::test]
async fn controls_reach_every_node() {
    let redis = Redis::start().await;
    let fixture = Fixture::new();
    let (a, b) = (fixture.node(&redis.url()).await, fixture.node(&redis.url()).await);
    let (mut at_a, mut at_b) = (a.bus.controls(), b.bus.controls());
    for what in [Revoked::UserId("42".parse().unwrap()), Revoked::Jti("a token's".to_owned())] {
        let (reason, revoked_by, revoked_at) = (None, "backend".to_owned(), Timestamp::now());
        let control = Control::Revoked(Revocation { id: 1, what, reason, revoked_by, revoked_at });
        a.bus.control(control.clone());
        assert_eq!(at_a.next().await, Some(control.clone()));
        assert_eq!(at_b.next().await, Some(control));
    }
}

#[tokio::test]
async fn a_key_works_once_on_all_nodes() {
    const TTL: Duration = Duration::from_secs(30);
    let mut redis = Redis::start().await;
    let fixture = Fixture::new();
    let (a, b) = (fixture.node(&redis.url()).await, fixture.node(&redis.url()).await);
    assert!(a.bus.use_once("ticket", TTL).await.unwrap());
    assert!(!b.bus.use_once("ticket", TTL).await.unwrap());
    assert!(!a.bus.use_once("ticket", TTL).await.unwrap());
    let left: i64 = redis.ask(&["PTTL", "tarishi:once:ticket"]).await;
    assert!((1..=30_000).contains(&left), "{left}");
    redis.kill();
    a.unlinked().await;
    assert!(a.bus.use_once("another", TTL).await.is_err(), "who cannot ask lets nobody in");
}

#[tokio::test]
async fn deployments_on_one_redis_do_not_meet() {
    let redis = Redis::start().await;
    let fixture = Fixture::new();
    let a = fixture.node(&redis.url()).await;
    let other = fixture.start(&bus_config(&[("bus.url", &redis.url()), ("bus.prefix", "other")]));
    other.linked().await;
    let mut follower = other.follow("42");
    redis_has(&redis, "other:u:42", 1).await;
    a.publish_item("42", 1);
    let b = fixture.node(&redis.url()).await;
    let mut same = b.follow("42");
    redis_has(&redis, "tarishi:u:42", 1).await;
    a.publish_item("42", 2);
    assert_eq!(same.raw().await, "item 2");
    follower.expect_nothing();
}

/// Waits until a channel has so many subscribers.
async fn redis_has(redis: &Redis, channel: &str, subscribers: usize) {
    let what = format!("{channel} has {subscribers} subscribers");
    until(&what, async || (redis.shard_subscribers(channel).await == subscribers).then_some(())).await;
}
