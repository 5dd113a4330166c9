//! What accept stores in its own commit, and what it leaves to the lane: nobody can tell which it was.

use std::fs;

use serde_json::{Value, json};

use super::Client;
use crate::support::{Daemon, Setup, StoreFile, job, recipient};

/// The titles and places of the next `count` notifications.
async fn told(client: &mut Client, count: usize) -> Vec<(i64, String)> {
    let mut told = Vec::new();
    while told.len() < count {
        let frame = client.next_of("notification").await;
        told.push((frame["seq"].as_i64().unwrap(), frame["title"].as_str().unwrap().to_owned()));
    }
    told
}

/// Nothing holds a place in the lane any more.
async fn is_idle(daemon: &Daemon) {
    daemon.metric_is("tarishi_lane_in_flight{channel=\"live\"}", 0).await;
    daemon.metric_is("tarishi_lane_in_memory{channel=\"live\"}", 0).await;
}

#[tokio::test]
async fn a_job_for_more_than_are_stored_at_once_reaches_everybody() {
    let mut setup = Setup::new();
    let daemon = setup.start().await;
    let mut clients = Vec::new();
    for user in ["user-0", "user-63", "user-64", "user-149"] {
        clients.push(Client::open(&daemon, user).await);
    }
    let to: Vec<Value> = (0..150).map(|number| recipient(&format!("user-{number}"))).collect();
    for id in ["first", "second"] {
        daemon.api.post("/v1/jobs", &job(id, &to, &["live"])).await.expect(202);
    }
    for client in &mut clients {
        assert_eq!(told(client, 2).await, [(1, "About first".to_owned()), (2, "About second".to_owned())]);
    }
    for id in ["first", "second"] {
        daemon.finished(id).await;
    }
    is_idle(&daemon).await;
    assert_eq!(daemon.terminate().await.code, Some(0));
    let store = StoreFile::open(&setup.store_path());
    store.check_inbox();
    assert_eq!(store.number("SELECT count(*) FROM inbox"), 300);
}

#[tokio::test]
async fn an_array_keeps_its_order() {
    let mut setup = Setup::new().with("channel.live.concurrency", &2);
    let daemon = setup.start().await;
    let mut client = Client::open(&daemon, "42").await;
    for round in 0..3 {
        let jobs: Vec<Value> = (0..10).map(|number| job(&format!("{round}-{number}"), &[recipient("42")], &["live"])).collect();
        daemon.api.post("/v1/jobs", &Value::from(jobs)).await.expect(202);
    }
    let expected: Vec<(i64, String)> = (0..30).map(|number| (number + 1, format!("About {}-{}", number / 10, number % 10))).collect();
    assert_eq!(told(&mut client, 30).await, expected);
}

#[tokio::test]
async fn what_is_left_to_the_lane_is_not_overtaken() {
    let mut setup = Setup::new();
    let daemon = setup.start().await;
    let mut client = Client::open(&daemon, "42").await;
    for round in 0..10 {
        let id = |number: usize| format!("{round}-{number}");
        let array: Vec<Value> = (0..200).map(|number| job(&id(number), &[recipient("42")], &["live"])).collect();
        let api = daemon.api.clone();
        let posting = tokio::spawn(async move { api.post("/v1/jobs", &Value::from(array)).await.expect(202) });
        // The lane's part is somewhere between its queue and the writer.
        assert_eq!(told(&mut client, 1).await[0].1, format!("About {round}-0"));
        daemon.api.post("/v1/jobs", &job(&id(200), &[recipient("42")], &["live"])).await.expect(202);
        let others = told(&mut client, 200).await;
        assert_eq!(
            others.into_iter().map(|(_, title)| title).collect::<Vec<_>>(),
            (1..=200).map(|number| format!("About {}", id(number))).collect::<Vec<_>>()
        );
        posting.await.unwrap();
    }
}

#[tokio::test]
async fn what_is_not_stored_gives_its_place_back() {
    let mut setup = Setup::new().with("channel.live.concurrency", &1);
    let daemon = setup.start().await;
    let one = job("one", &[recipient("42")], &["live"]);
    for _ in 0..3 {
        assert_eq!(daemon.api.post("/v1/jobs", &one).await.expect(202)["id"], "one");
    }
    daemon.finished("one").await;
    let mut other = one.clone();
    other["data"]["title"] = json!("Other");
    daemon.api.post("/v1/jobs", &json!([job("two", &[recipient("42")], &["live"]), other])).await.expect(409);
    is_idle(&daemon).await;
    daemon.api.post("/v1/jobs", &job("three", &[recipient("42")], &["live"])).await.expect(202);
    assert_eq!(daemon.finished("three").await["deliveries"][0]["status"], "sent");
}

#[tokio::test]
async fn what_cannot_be_rendered_fails_and_holds_nobody_up() {
    let mut setup = Setup::new().with("templates.path", "templates");
    let folder = setup.folder().join("templates/visit");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("live.json"), r#"{ "title": "A visit", "message": {{ agent.name }} }"#).unwrap();
    fs::write(folder.join("sample.json"), r#"{ "agent": { "name": "Neema" } }"#).unwrap();
    let daemon = setup.start().await;
    let mut client = Client::open(&daemon, "42").await;
    let visit =
        |id: &str, data: Value| json!({ "id": id, "template": "visit", "to": [recipient("42")], "channels": ["live"], "data": data });
    let whole = json!({ "agent": { "name": "Juma" } });
    daemon.api.post("/v1/jobs", &json!([visit("broken", json!({})), visit("whole", whole.clone())])).await.expect(202);
    assert_eq!(told(&mut client, 1).await[0].0, 1);
    let broken = daemon.finished("broken").await["deliveries"][0].clone();
    assert_eq!(
        (&broken["status"], &broken["code"], &broken["attempts"][0]["outcome"]),
        (&json!("failed"), &json!("render_failed"), &json!("permanent")),
        "{broken}"
    );
    daemon.api.post("/v1/jobs", &visit("next", whole)).await.expect(202);
    assert_eq!(told(&mut client, 1).await[0].0, 2);
    is_idle(&daemon).await;
}

#[tokio::test]
async fn what_sockets_take_in_a_drain_is_delivered() {
    // Closed at a moment of its own within half of it: hardly before the notification is there.
    let mut setup = Setup::new().with("shutdown.drain", "1h");
    let daemon = setup.start().await;
    let mut client = Client::open(&daemon, "42").await;
    let held = rusqlite::Connection::open(setup.store_path()).unwrap();
    held.execute_batch("BEGIN IMMEDIATE").unwrap();
    let api = daemon.api.clone();
    let posting = tokio::spawn(async move { api.post("/v1/jobs", &job("last", &[recipient("42")], &["live"])).await.status });
    daemon.metric_is("tarishi_lane_in_flight{channel=\"live\"}", 1).await;
    daemon.process.signal("TERM");
    daemon.process.until("it drains", async || daemon.events("daemon draining: finishing what is under way").pop()).await;
    held.execute_batch("ROLLBACK").unwrap();
    assert_eq!(posting.await.unwrap(), 202);
    assert_eq!(told(&mut client, 1).await[0].0, 1);
    client.close().await;
    assert_eq!(daemon.process.end().await.code, Some(0));
    let store = StoreFile::open(&setup.store_path());
    assert_eq!(store.number("SELECT count(*) FROM deliveries WHERE status = 3"), 1);
}
