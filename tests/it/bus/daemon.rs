//! The daemon with `bus.url` set, and another node of its deployment.

use std::sync::Arc;

use serde_json::json;
use tarishi::socket::{Frame, Seen};

use super::{
    node::{Fixture, user},
    redis_has,
};
use crate::{
    live::{Client, notify},
    support::{Commands, Redis, Setup, until},
};

fn setup(redis: &Redis) -> Setup {
    Setup::new()
        .with("bus.url", &redis.url())
        .with("bus.call_timeout", "1s")
        .with("socket.presence_grace", "100ms")
        .with("shutdown.drain", "200ms")
}

#[tokio::test]
async fn a_daemon_is_a_node_of_the_bus() {
    let mut redis = Redis::start().await;
    let mut setup = setup(&redis);
    let daemon = setup.start().await;
    daemon.process.until("the bus is connected", async || daemon.events("bus connected").pop()).await;
    let fixture = Fixture::new();
    let other = fixture.node(&redis.url()).await;
    let mut client = Client::open(&daemon, "42").await;
    redis_has(&redis, "tarishi:u:42", 1).await;
    // From another node to a socket here.
    other.bus.publish(&user("42"), &Arc::new(Frame::new(r#"{"type":"test"}"#)));
    assert_eq!(client.next().await["type"], "test");
    // From a job here to another node.
    let mut there = other.follow("42");
    redis_has(&redis, "tarishi:u:42", 2).await;
    notify(&daemon, "first", "42").await;
    assert_eq!(client.next().await["seq"], 1);
    let frame: serde_json::Value = serde_json::from_str(&there.raw().await).unwrap();
    assert_eq!((&frame["type"], &frame["seq"]), (&json!("notification"), &json!(1)));
    // Who is online is counted over both.
    let online = async |connections: u64| {
        let asked = daemon.api.get("/v1/users/42").await;
        (asked.body["presence"] == json!({ "online": true, "connections": connections })).then_some(())
    };
    until("two connections are counted", async || online(2).await).await;
    assert_eq!(daemon.api.get("/v1/users/43").await.status, 404);
    daemon.api.put("/v1/users/43", &json!({ "name": "Juma" })).await.expect(200);
    let known = daemon.api.get("/v1/users/43").await.expect(200);
    assert_eq!((&known["name"], &known["presence"]), (&json!("Juma"), &json!({ "online": false, "connections": 0 })));
    let status = daemon.api.get("/v1/status").await.expect(200);
    assert_eq!((&status["bus"]["connected"], &status["bus"]["url"]), (&json!(true), &json!(redis.url())));
    let metrics = daemon.api.get("/metrics").await.text;
    for expected in ["tarishi_bus_connected 1", "tarishi_bus_subscriptions 2", "tarishi_bus_received_total ", "tarishi_bus_dropped_total 0"]
    {
        assert!(metrics.contains(expected), "{expected}\n{metrics}");
    }
    drop(there);
    // Without it all goes on here, and it is said so.
    redis.kill();
    daemon
        .process
        .until("it is said", async || daemon.events("bus lost: other daemons are told late; trying again until it is back").pop())
        .await;
    let ready = daemon.api.get("/readyz").await.expect(200);
    assert!(ready["degraded"].as_str().unwrap().contains("bus"), "{ready}");
    notify(&daemon, "second", "42").await;
    assert_eq!(client.next_of("notification").await["seq"], 2);
    until("one connection is counted", async || online(1).await).await;
    redis.start_again().await;
    daemon.process.until("it is back", async || (daemon.events("bus connected").len() == 2).then_some(())).await;
    assert_eq!(daemon.api.get("/readyz").await.expect(200)["degraded"], serde_json::Value::Null);
    other.linked().await;
    redis_has(&redis, "tarishi:u:42", 1).await;
    other.bus.publish(&user("42"), &Arc::new(Frame::new(r#"{"type":"test"}"#)));
    assert_eq!(client.next_of("test").await["type"], "test");
    // A daemon that ends says so.
    assert_eq!(daemon.terminate().await.code, Some(0));
    let seen = async || (other.bus.presence(&"42".parse().unwrap()).await == Seen::default()).then_some(());
    until("nobody is online", seen).await;
}

#[tokio::test]
async fn a_daemon_starts_without_redis() {
    let redis = Redis::prepare(&[]);
    let mut setup = setup(&redis).with("bus.connect_timeout", "500ms");
    let daemon = setup.start().await;
    daemon
        .process
        .until("it is said", async || daemon.events("bus lost: other daemons are told late; trying again until it is back").pop())
        .await;
    let mut client = Client::open(&daemon, "42").await;
    notify(&daemon, "first", "42").await;
    assert_eq!(client.next().await["seq"], 1);
    assert_eq!(daemon.terminate().await.code, Some(0));
    assert_eq!(daemon.events("bus connected").len(), 0);
}

#[tokio::test]
async fn check_looks_at_the_url_and_connects_to_nobody() {
    let good = Commands::new().with("TARISHI__BUS__URL", "redis+sentinel://:secret@nowhere.invalid/main").run(&["check"]).await;
    assert_eq!(good.code, Some(0), "{good:?}");
    let bad = Commands::new().with("TARISHI__BUS__URL", "redis://:secret@nowhere.invalid,other.invalid").run(&["check"]).await;
    assert!(bad.code != Some(0) && bad.errors.contains("bus.url: several hosts"), "{bad:?}");
    assert!(!format!("{good:?}{bad:?}").contains("secret"));
}
