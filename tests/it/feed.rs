//! Events: what became of each delivery, as whoever listens gets it, through a broker that comes and goes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::{Broker, Contract, Daemon, Message, Rabbit, Setup, StoreFile, Vhost, job, recipient, until};

const LISTENER: &str = "listener";
const SIGABRT: i32 = 6;

fn setup(url: &str) -> Setup {
    Setup::new()
        .with_quick_retries()
        .with("amqp.url", url)
        .with("amqp.events.enabled", "true")
        .with("amqp.heartbeat", "1s")
        .with("amqp.call_timeout", "2s")
}

/// A queue that gets every event, and outlives the broker's end.
async fn listen(url: &str) -> Rabbit {
    let rabbit = Rabbit::connect(url).await;
    rabbit.declare_exchange("tarishi.events").await;
    rabbit.declare(LISTENER, &[]).await;
    rabbit.bind(LISTENER, "tarishi.events", "#").await;
    rabbit
}

async fn post(daemon: &Daemon, id: &str, channels: &[&str]) {
    daemon.api.post("/v1/jobs", &job(id, &[recipient("42")], channels)).await.expect(202);
}

/// Events pending, as the status tells it.
async fn pending(daemon: &Daemon) -> u64 {
    daemon.api.get("/v1/status").await.expect(200)["events"]["pending"].as_u64().unwrap()
}

/// Resolves when every event has been published.
async fn published(daemon: &Daemon) {
    daemon.process.until("every event is published", async || (pending(daemon).await == 0).then_some(())).await;
}

/// What happened to each delivery, in the order it came, and how often each job was finished. Ids may repeat only with the same body.
fn told(messages: &[Message]) -> (BTreeMap<String, Vec<String>>, BTreeMap<String, usize>) {
    let (mut deliveries, mut jobs): (BTreeMap<String, Vec<String>>, BTreeMap<String, usize>) = Default::default();
    let mut known: BTreeMap<String, Value> = BTreeMap::new();
    for message in messages {
        let event = message.json();
        let id = event["id"].as_str().unwrap().to_owned();
        assert_eq!(message.properties.message_id().as_ref().unwrap().as_str(), id);
        let text = |member: &str| event["data"][member].as_str().unwrap().to_owned();
        match known.insert(id, event.clone()) {
            Some(before) => assert_eq!(before["type"], event["type"], "the same id for something else"),
            None if message.routing_key == "job.finished" => *jobs.entry(text("job_id")).or_default() += 1,
            None if message.routing_key == "address.gone" => {}
            None => deliveries.entry(text("delivery_id")).or_default().push(text("status")),
        }
    }
    (deliveries, jobs)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_status_is_told_once_and_in_order() {
    const JOBS: usize = 40;
    let vhost = Vhost::new();
    let rabbit = listen(&vhost.url()).await;
    let mut setup = setup(&vhost.url());
    let daemon = setup.start().await;
    for number in 0..JOBS {
        post(&daemon, &format!("told-{number}"), &["email", "sms", "push", "live"]).await;
    }
    // Nobody to tell: finished at once.
    daemon.api.post("/v1/jobs", &job("nobody", &[json!({ "user_id": "7" })], &["email"])).await.expect(202);
    daemon.drained().await;
    published(&daemon).await;
    let messages = rabbit.drain(LISTENER).await;
    let (deliveries, jobs) = told(&messages);
    let ids: BTreeSet<&str> = messages.iter().map(|message| message.properties.message_id().as_ref().unwrap().as_str()).collect();
    assert_eq!((ids.len(), deliveries.len(), jobs.len()), (messages.len(), JOBS * 4, JOBS + 1));
    assert!(jobs.values().all(|times| *times == 1));
    for (id, statuses) in deliveries {
        assert_eq!(statuses, ["queued", "sending", "sent"], "{id}");
    }
    let contract = Contract::load();
    for message in messages {
        contract.check_message(if message.routing_key == "job.finished" { "jobFinished" } else { "delivery" }, &message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_told_too_and_dead_addresses_with_their_address() {
    let vhost = Vhost::new();
    let rabbit = listen(&vhost.url()).await;
    let mut setup = setup(&vhost.url())
        .with("provider.outbox.chaos", "1.0")
        .with("channel.email.retry.attempts", "3")
        .with("breaker.minimum_calls", "1000000")
        .with("amqp.events.statuses", "[\"failed\"]");
    let daemon = setup.start().await;
    for number in 0..100 {
        post(&daemon, &format!("doomed-{number}"), &["email"]).await;
    }
    daemon.drained().await;
    published(&daemon).await;
    let messages = rabbit.drain(LISTENER).await;
    let contract = Contract::load();
    let of = |routing_key: &str| messages.iter().filter(|message| message.routing_key == routing_key).collect::<Vec<_>>();
    let gone = of("address.gone");
    for message in &gone {
        contract.check_message("addressGone", message);
        let data = message.json()["data"].clone();
        assert_eq!((&data["address"], &data["user_id"], &data["channel"]), (&json!("42@people.example"), &json!("42"), &json!("email")));
    }
    assert_eq!(daemon.terminate().await.code, Some(0));
    let store = StoreFile::open(&setup.store_path());
    let count = |query: &str| usize::try_from(store.number(query)).unwrap();
    assert_eq!(gone.len(), count("SELECT count(*) FROM attempts WHERE code = 'chaos' AND outcome = 'permanent'"));
    assert!(!gone.is_empty(), "chaos hit no address in a hundred");
    assert_eq!(of("delivery.email.failed").len(), count("SELECT count(*) FROM deliveries WHERE status = 4"));
    assert_eq!(messages.len(), gone.len() + of("delivery.email.failed").len() + of("job.finished").len(), "only what was asked for");
    assert_eq!(store.number("SELECT count(*) FROM pending_events"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_is_told_afterwards() {
    let mut broker = Broker::start().await;
    let url = broker.url("/");
    drop(listen(&url).await);
    let mut setup = setup(&url);
    let daemon = setup.start().await;
    post(&daemon, "before", &["email"]).await;
    published(&daemon).await;
    // A queue that is being declared does not survive the broker's sudden end.
    daemon.process.until("its queues are declared", async || (daemon.api.get("/readyz").await.status == 200).then_some(())).await;
    broker.kill().await;
    for number in 0..50 {
        post(&daemon, &format!("meanwhile-{number}"), &["email"]).await;
    }
    daemon.drained().await;
    assert_eq!(pending(&daemon).await, 50 * 4);
    // And through an end of our own.
    daemon.process.kill().await;
    let daemon = setup.start().await;
    assert_eq!(pending(&daemon).await, 50 * 4);
    broker.start_again().await;
    published(&daemon).await;
    let rabbit = Rabbit::connect(&url).await;
    let (deliveries, jobs) = told(&rabbit.drain(LISTENER).await);
    assert_eq!((deliveries.len(), jobs.len()), (51, 51));
    assert!(deliveries.values().all(|statuses| statuses == &["queued", "sending", "sent"]), "{deliveries:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_tells_the_same_again_and_misses_nothing() {
    let vhost = Vhost::new();
    let rabbit = listen(&vhost.url()).await;
    let mut setup = setup(&vhost.url());
    let daemon = match setup.try_start(&[("TARISHI_ABORT_AT", "events-confirmed")]).await {
        Ok(daemon) => daemon,
        Err((_, ended)) => panic!("nothing was there to publish: {ended:?}"),
    };
    // The crash may come between any two of them.
    for number in 0..5 {
        let body = job(&format!("crash-{number}"), &[recipient("42")], &["email"]);
        if crate::support::Answer::of(daemon.api.request(reqwest::Method::POST, "/v1/jobs").json(&body)).await.is_err() {
            break;
        }
    }
    assert_eq!(daemon.process.end().await.signal, Some(SIGABRT));
    let daemon = setup.start().await;
    for number in 0..5 {
        post(&daemon, &format!("crash-{number}"), &["email"]).await;
    }
    daemon.drained().await;
    published(&daemon).await;
    let messages = rabbit.drain(LISTENER).await;
    let (deliveries, jobs) = told(&messages);
    assert_eq!((deliveries.len(), jobs.len()), (5, 5));
    for statuses in deliveries.values() {
        assert_eq!((statuses.first().unwrap().as_str(), statuses.last().unwrap().as_str()), ("queued", "sent"));
    }
    let ids: BTreeSet<&str> = messages.iter().map(|message| message.properties.message_id().as_ref().unwrap().as_str()).collect();
    assert!(ids.len() < messages.len(), "nothing was told twice: this proved nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_events_stop_the_intake_until_they_are_published() {
    let mut broker = Broker::start().await;
    let url = broker.url("/");
    drop(listen(&url).await);
    let mut setup = setup(&url).with("amqp.events.limit", "40");
    let daemon = setup.start().await;
    post(&daemon, "first", &["email"]).await;
    published(&daemon).await;
    // A queue that is being declared does not survive the broker's sudden end.
    daemon.process.until("its queues are declared", async || (daemon.api.get("/readyz").await.status == 200).then_some(())).await;
    broker.kill().await;
    let mut accepted = 1;
    let refused = loop {
        let answer = daemon.api.post("/v1/jobs", &job(&format!("full-{accepted}"), &[recipient("42")], &["email"])).await;
        if answer.status != 202 {
            break answer;
        }
        accepted += 1;
        assert!(accepted < 60, "it never stops");
    };
    assert_eq!(refused.header("retry-after"), "1");
    let problem = refused.expect_problem(503, "unavailable");
    assert!(problem["detail"].as_str().unwrap().contains("amqp.events.limit"), "{problem}");
    let reasons = daemon.api.get("/readyz").await.expect(503)["reasons"].to_string();
    assert!(reasons.contains("amqp.events.limit"), "{reasons}");
    // What was accepted is sent all the same.
    daemon.drained().await;
    assert_eq!(setup.record().len(), accepted);
    broker.start_again().await;
    published(&daemon).await;
    daemon.process.until("it is ready again", async || (daemon.api.get("/readyz").await.status == 200).then_some(())).await;
    post(&daemon, "last", &["email"]).await;
    published(&daemon).await;
    let rabbit = Rabbit::connect(&url).await;
    let (deliveries, _) = told(&rabbit.drain(LISTENER).await);
    assert_eq!(deliveries.len(), accepted + 1);
    assert!(deliveries.values().all(|statuses| statuses == &["queued", "sending", "sent"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn or_the_oldest_are_dropped_and_counted() {
    let mut broker = Broker::start().await;
    let url = broker.url("/");
    drop(listen(&url).await);
    let mut setup = setup(&url).with("amqp.events.limit", "40").with("amqp.events.when_full", "drop_oldest");
    let daemon = setup.start().await;
    post(&daemon, "first", &["email"]).await;
    published(&daemon).await;
    // A queue that is being declared does not survive the broker's sudden end.
    daemon.process.until("its queues are declared", async || (daemon.api.get("/readyz").await.status == 200).then_some(())).await;
    broker.kill().await;
    for number in 0..50 {
        post(&daemon, &format!("dropped-{number}"), &["email"]).await;
    }
    daemon.drained().await;
    let events = daemon.api.get("/v1/status").await.expect(200)["events"].clone();
    assert_eq!((events["pending"].as_u64(), events["dropped"].as_u64()), (Some(40), Some(50 * 4 - 40)), "{events}");
    broker.start_again().await;
    published(&daemon).await;
    let rabbit = Rabbit::connect(&url).await;
    assert_eq!(until("they arrive", async || Some(rabbit.drain(LISTENER).await)).await.len(), 4 + 40);
    assert_eq!(
        daemon.api.get("/metrics").await.text.lines().find(|line| line.starts_with("tarishi_events_dropped_total")).unwrap(),
        "tarishi_events_dropped_total 160"
    );
}
