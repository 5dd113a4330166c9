//! Topics: one row, many followers.

use serde_json::{Value, json};

use super::{Client, notify, seqs};
use crate::support::{Daemon, Setup, token};

pub fn to_topic(id: &str, topic: &str) -> Value {
    json!({ "id": id, "topic": topic, "content": { "title": format!("About {id}"), "body": "Habari ya leo" } })
}

/// Resolves once it is in the topic.
pub async fn announce(daemon: &Daemon, id: &str, topic: &str) {
    let receipt = daemon.api.post("/v1/jobs", &to_topic(id, topic)).await.expect(202);
    assert_eq!(receipt["deliveries"], 1);
    daemon.finished(id).await;
}

fn setup() -> Setup {
    Setup::new().with("live.public_topics", "[\"city.*\"]").with("live.topics_per_connection", "2")
}

#[tokio::test]
async fn a_topic_reaches_its_followers_and_is_one_delivery() {
    let mut setup = setup();
    let daemon = setup.start().await;
    let (mut follower, _) = Client::open_v1(&daemon, "42", "").await;
    let (mut other, _) = Client::open_v1(&daemon, "43", "").await;
    follower.send(&json!({ "type": "subscribe", "topic": "city.dar" })).await;
    let subscribed = follower.next().await;
    assert_eq!((&subscribed["type"], &subscribed["topic"], &subscribed["seq"]), (&json!("subscribed"), &json!("city.dar"), &json!(0)));
    announce(&daemon, "one", "city.dar").await;
    let frame = follower.next().await;
    assert_eq!((&frame["type"], &frame["topic"], &frame["seq"]), (&json!("notification"), &json!("city.dar"), &json!(1)));
    assert_eq!((&frame["title"], frame.get("user")), (&json!("About one"), None));
    let seen = daemon.job_when("one", |job| job["deliveries"][0]["status"] == "delivered").await;
    assert_eq!((&seen["deliveries"][0]["address"], &seen["deliveries_total"]), (&json!("topic city.dar"), &json!(1)));
    other.expect_silence().await;
    follower.send(&json!({ "type": "unsubscribe", "topic": "city.dar" })).await;
    assert_eq!(follower.next().await["type"], "unsubscribed");
    announce(&daemon, "two", "city.dar").await;
    follower.expect_silence().await;
    // It counts as nobody's unread.
    let (_, hello) = Client::open_v1(&daemon, "42", "").await;
    assert_eq!((&hello["unread"], &hello["seq"]), (&json!(0), &json!(0)));
    assert_eq!(daemon.api.get("/v1/audit").await.expect(200)["balanced"], true);
}

#[tokio::test]
async fn everyone_follows_the_star() {
    let mut setup = setup();
    let daemon = setup.start().await;
    let mut older = Client::open(&daemon, "42").await;
    let (mut newer, hello) = Client::open_v1(&daemon, "43", "").await;
    assert_eq!(hello["topics"], json!([{ "topic": "*", "seq": 0 }]));
    announce(&daemon, "all", "*").await;
    for client in [&mut older, &mut newer] {
        let frame = client.next().await;
        assert_eq!((&frame["topic"], &frame["seq"], &frame["message"]), (&json!("*"), &json!(1), &json!("Habari ya leo")));
    }
    newer.send(&json!({ "type": "unsubscribe", "topic": "*" })).await;
    assert_eq!(newer.next().await["code"], "forbidden");
}

#[tokio::test]
async fn a_topic_is_recovered_like_an_inbox() {
    let mut setup = setup();
    let daemon = setup.start().await;
    for number in 1..=4 {
        announce(&daemon, &format!("dar-{number}"), "city.dar").await;
        announce(&daemon, &format!("all-{number}"), "*").await;
    }
    notify(&daemon, "own", "42").await;
    // By a frame.
    let (mut client, hello) = Client::open_v1(&daemon, "42", "").await;
    let epoch = hello["epoch"].clone();
    client.send(&json!({ "type": "subscribe", "topic": "city.dar", "since": 2, "epoch": epoch })).await;
    assert_eq!(client.next().await["seq"], 4);
    let frames = client.up_to("recovered").await;
    assert_eq!(seqs(&frames), [3, 4]);
    assert_eq!((&frames[2]["topic"], &frames[2]["from"], &frames[2]["to"]), (&json!("city.dar"), &json!(3), &json!(4)));
    announce(&daemon, "dar-5", "city.dar").await;
    assert_eq!(seqs(&[client.next().await]), [5]);
    client.send(&json!({ "type": "subscribe", "topic": "city.dar", "since": 2, "epoch": "another" })).await;
    assert_eq!(client.up_to("recovered").await.last().unwrap()["recovered"], false);
    // With the connection, all of them.
    let query = format!("&since=0&topic=city.dar%3D4&topic=*%3D3&epoch={}", epoch.as_str().unwrap());
    let (mut client, hello) = Client::open_v1(&daemon, "42", &query).await;
    assert_eq!(hello["topics"], json!([{ "topic": "*", "seq": 4 }, { "topic": "city.dar", "seq": 5 }]));
    let mut told = Vec::new();
    for _ in 0..3 {
        told.push(seqs(&client.up_to("recovered").await));
    }
    assert_eq!(told, [[1], [4], [5]]);
}

#[tokio::test]
async fn only_permitted_topics_are_followed_and_only_so_many() {
    let mut setup = setup();
    let daemon = setup.start().await;
    let (mut client, _) = Client::open_v1(&daemon, "42", "&topic=staff").await;
    client.send(&json!({ "type": "subscribe", "topic": "staff" })).await;
    let refused = client.next().await;
    assert_eq!((&refused["type"], &refused["code"], &refused["topic"]), (&json!("error"), &json!("forbidden"), &json!("staff")));
    for topic in ["city.dar", "city.arusha"] {
        client.send(&json!({ "type": "subscribe", "topic": topic })).await;
        assert_eq!(client.next().await["type"], "subscribed");
    }
    client.send(&json!({ "type": "subscribe", "topic": "city.mwanza" })).await;
    assert_eq!(client.next().await["code"], "too_many_topics");
    announce(&daemon, "staff-1", "staff").await;
    client.expect_silence().await;
    let api = daemon.public_api().with_bearer(&token("42"));
    api.get("/v1/topics/staff/items").await.expect(403);
    announce(&daemon, "dar-1", "city.dar").await;
    let page = api.get("/v1/topics/city.dar/items").await.expect(200);
    assert_eq!((page["items"].as_array().unwrap().len(), &page["items"][0]["title"]), (1, &json!("About dar-1")));
    assert!(page["items"][0].get("read_at").is_none(), "topic items have no read state");
}

#[tokio::test]
async fn a_topic_stands_alone() {
    let mut setup = setup();
    let daemon = setup.start().await;
    let both = json!({ "id": "a", "topic": "city.dar", "to": [{ "user_id": 1 }], "content": { "title": "T", "body": "B" } });
    let problem = daemon.api.post("/v1/jobs", &both).await.expect(422);
    assert_eq!(problem["problems"][0]["path"], "$.topic");
    let nothing = json!({ "id": "b", "topic": "no such name", "content": { "title": "T", "body": "B" } });
    daemon.api.post("/v1/jobs", &nothing).await.expect(422);
}
