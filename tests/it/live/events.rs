//! Server-sent events.

use serde_json::json;

use super::{Client, client::Events, notify, with_short_drain};
use crate::support::{Setup, token};

#[tokio::test]
async fn events_carry_what_a_socket_would_and_go_on_from_the_last_id() {
    let mut setup = Setup::new().with("live.public_topics", "[\"city.*\"]");
    let daemon = setup.start().await;
    let query = format!("?token={}&topic=city.dar", token("42"));
    let mut events = Events::open(daemon.public, &query, "").await;
    assert_eq!(events.next().await.unwrap()["type"], "hello");
    notify(&daemon, "one", "42").await;
    let event = events.next_of("notification").await;
    assert_eq!((&event["seq"], &event["title"]), (&json!(1), &json!("About one")));
    daemon.job_when("one", |job| job["deliveries"][0]["status"] == "delivered").await;
    let last_id = events.last_id.clone();
    assert!(last_id.ends_with("/1,*=0,city.dar=0"), "{last_id}");
    drop(events);
    notify(&daemon, "two", "42").await;
    let to_topic = json!({ "id": "dar", "topic": "city.dar", "content": { "title": "T", "body": "B" } });
    daemon.api.post("/v1/jobs", &to_topic).await.expect(202);
    daemon.finished("dar").await;
    let mut events = Events::open(daemon.public, &query, &format!("Last-Event-ID: {last_id}\r\n")).await;
    assert_eq!(events.next().await.unwrap()["type"], "hello");
    assert_eq!(events.next_of("notification").await["title"], "About two");
    let topical = events.next_of("notification").await;
    assert_eq!((&topical["topic"], &topical["seq"]), (&json!("city.dar"), &json!(1)));
    assert!(events.last_id.ends_with("/2,*=0,city.dar=1"), "{}", events.last_id);
    // Both ways count as one user's connections.
    let (_socket, _) = Client::open_v1(&daemon, "42", "").await;
    assert_eq!(daemon.api.get("/v1/status").await.expect(200)["sockets"], 2);
}

#[tokio::test]
async fn events_are_refused_like_any_request() {
    let mut setup = Setup::new().with("public.allowed_origins", "[\"https://app.example.com\"]");
    let daemon = setup.start().await;
    let api = daemon.public_api();
    api.get("/sse/notifications").await.expect(401);
    api.get(&format!("/sse/notifications?token={}&topic=a%20b", token("42"))).await.expect(400);
    let foreign = api.with_header("origin", "https://evil.example");
    foreign.get(&format!("/sse/notifications?token={}", token("42"))).await.expect(403);
}

#[tokio::test]
async fn a_drain_ends_events_with_a_time_to_come_back() {
    let mut setup = with_short_drain();
    let daemon = setup.start().await;
    let mut events = Events::open(daemon.public, &format!("?token={}", token("42")), "").await;
    assert_eq!(events.next().await.unwrap()["type"], "hello");
    daemon.process.signal("TERM");
    assert_eq!(events.next().await, None);
    assert_eq!(daemon.process.end().await.code, Some(0));
}
