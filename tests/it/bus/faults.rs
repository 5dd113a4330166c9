//! What goes wrong with Redis, and that both sides come together again with nothing lost and nothing doubled.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tarishi::socket::{Control, Frame, PresenceChange};

use super::{
    node::{Fixture, bus_config, user},
    redis_has,
};
use crate::support::{Proxy, Redis, until};

#[tokio::test]
async fn killed_and_started_again() {
    let mut redis = Redis::start().await;
    let fixture = Fixture::new();
    let (a, b) = (fixture.node(&redis.url()).await, fixture.node(&redis.url()).await);
    let (mut here, mut there) = (a.follow("42"), b.follow("42"));
    let (mut controls, mut presence) = (b.bus.controls(), b.bus.presence_changes());
    redis_has(&redis, "tarishi:u:42", 2).await;
    let mut seq = 0;
    for round in 0..3 {
        for number in 0..40 {
            if number == 10 {
                redis.kill();
            }
            seq = fixture.store_item("42").await;
            // The last of a round is one that nobody is told of.
            if number < 39 {
                a.publish_item("42", seq);
            }
        }
        a.unlinked().await;
        b.unlinked().await;
        here.up_to(seq - 1).await;
        redis.start_again().await;
        there.up_to(seq).await;
        // In the other direction, too.
        here.up_to(seq).await;
        assert_eq!(controls.next().await, Some(Control::Missed), "{round}");
    }
    loop {
        if presence.next().await == Some(PresenceChange::Missed) {
            break;
        }
    }
    redis_has(&redis, "tarishi:u:42", 2).await;
    a.publish_item("42", seq + 1);
    there.up_to(seq + 1).await;
    assert_eq!((a.sessions(), b.sessions()), (4, 4));
}

#[tokio::test]
async fn absent_at_the_start() {
    let mut redis = Redis::prepare(&[]);
    let fixture = Fixture::new();
    let config = bus_config(&[("bus.url", &redis.url())]);
    let (a, b) = (fixture.start(&config), fixture.start(&config));
    let (mut here, mut there) = (a.follow("42"), b.follow("42"));
    until("it is said why", async || a.bus.status().unwrap().reason).await;
    for seq in 1..=5 {
        assert_eq!(fixture.store_item("42").await, seq);
        a.publish_item("42", seq);
        here.up_to(seq).await;
    }
    there.expect_nothing();
    redis.start_again().await;
    there.up_to(5).await;
    a.linked().await;
    assert_eq!(a.bus.status().unwrap().reason, None);
}

#[tokio::test]
async fn flushed() {
    let redis = Redis::start().await;
    let fixture = Fixture::new();
    let (a, b) = (fixture.node(&redis.url()).await, fixture.node(&redis.url()).await);
    let mut there = b.follow("42");
    let asked = "42".parse().unwrap();
    until("it is known who is online", async || (a.bus.presence(&asked).await.connections == 1).then_some(())).await;
    let () = redis.ask(&["FLUSHALL"]).await;
    let seq = fixture.store_item("42").await;
    a.publish_item("42", seq);
    there.up_to(seq).await;
    until("it is known again", async || (a.bus.presence(&asked).await.connections == 1).then_some(())).await;
    assert_eq!((a.sessions(), b.sessions()), (1, 1));
}

#[tokio::test]
async fn frozen() {
    let redis = Redis::start().await;
    let fixture = Fixture::new();
    // Room for few messages: the rest are hints.
    let a = fixture.start(&bus_config(&[("bus.url", &redis.url()), ("bus.queue_limit", "4 KiB")]));
    a.linked().await;
    let b = fixture.node(&redis.url()).await;
    let (mut here, mut there) = (a.follow("42"), b.follow("42"));
    redis_has(&redis, "tarishi:u:42", 2).await;
    redis.pause();
    let mut seq = 0;
    let mut published = Duration::ZERO;
    for _ in 0..200 {
        seq = fixture.store_item("42").await;
        let started = Instant::now();
        a.publish_item("42", seq);
        a.bus.publish(&user("42"), &Arc::new(Frame::v1("unread")));
        published += started.elapsed();
        // Nobody here waits for it.
        here.up_to(seq).await;
    }
    assert!(published < Duration::from_secs(5), "{published:?}");
    let (_, hinted, dropped) = a.bus.counters().unwrap();
    assert!(hinted > 100 && dropped > 100, "{hinted} {dropped}");
    assert!(a.bus.status().unwrap().waiting < 40);
    a.unlinked().await;
    redis.resume();
    there.up_to(seq).await;
    a.linked().await;
    until("everything is out", async || (a.bus.status().unwrap().waiting == 0).then_some(())).await;
}

#[tokio::test]
async fn paused_for_clients() {
    let redis = Redis::start().await;
    let fixture = Fixture::new();
    let (a, b) = (fixture.node(&redis.url()).await, fixture.node(&redis.url()).await);
    let mut there = b.follow("42");
    redis_has(&redis, "tarishi:u:42", 1).await;
    let () = redis.ask(&["CLIENT", "PAUSE", "3000", "ALL"]).await;
    for seq in 1..=20 {
        assert_eq!(fixture.store_item("42").await, seq);
        a.publish_item("42", seq);
    }
    there.up_to(20).await;
    a.linked().await;
    b.linked().await;
    redis_has(&redis, "tarishi:u:42", 1).await;
    a.publish_item("42", 21);
    there.up_to(21).await;
}

#[tokio::test]
async fn half_open() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(redis.address()).await;
    let fixture = Fixture::new();
    let a = fixture.node(&redis.url()).await;
    let b = fixture.node(&format!("redis://{}", proxy.address())).await;
    let mut there = b.follow("42");
    redis_has(&redis, "tarishi:u:42", 1).await;
    proxy.half_open();
    let seq = fixture.store_item("42").await;
    a.publish_item("42", seq);
    // Nothing was closed: it has to find out by itself.
    b.unlinked().await;
    proxy.heal();
    there.up_to(seq).await;
    // Bytes that are none of Redis'.
    proxy.corrupt();
    let seq = fixture.store_item("42").await;
    a.publish_item("42", seq);
    b.unlinked().await;
    proxy.heal();
    there.up_to(seq).await;
    proxy.cut();
    until("it is a new session", async || (b.sessions() > 3).then_some(())).await;
    let seq = fixture.store_item("42").await;
    a.publish_item("42", seq);
    there.up_to(seq).await;
}

#[tokio::test]
async fn a_subscription_taken_away_is_noticed() {
    let redis = Redis::start().await;
    let fixture = Fixture::new();
    let (a, b) = (fixture.node(&redis.url()).await, fixture.node(&redis.url()).await);
    let mut there = b.follow("42");
    redis_has(&redis, "tarishi:u:42", 1).await;
    let () = redis.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    until("both have begun anew", async || (a.sessions() == 2 && b.sessions() == 2).then_some(())).await;
    let seq = fixture.store_item("42").await;
    a.publish_item("42", seq);
    there.up_to(seq).await;
}
