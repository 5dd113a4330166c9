//! What breaks between a broker and the daemon, under load. Producers remember every job that the broker confirmed; what became of each is
//! counted at the end: nothing lost, nothing doubled but by an unknown outcome, no innocent job rejected.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Broker, Daemon, Figures, Producers, Proxy, Rabbit, Setup, is_long, job, persistent, recipient, until};

const JOBS: &str = "tarishi.jobs";
const REJECTED: &str = "tarishi.rejected";
const LOST: &str = "broker lost: trying again until it is back";
const SIGABRT: i32 = 6;

/// Those of the fail points that only this intake and the feed have.
pub const CRASH_POINTS: [&str; 3] = ["amqp-acknowledged", "amqp-rejected", "events-confirmed"];

/// A daemon that notices quickly when the broker is silent.
fn setup(url: &str) -> Setup {
    Setup::new().with_quick_retries().with("amqp.url", url).with("amqp.heartbeat", "1s").with("amqp.call_timeout", "2s")
}

/// Resolves when it consumes.
async fn consuming(daemon: &Daemon) {
    daemon.process.until("it consumes", async || (daemon.api.get("/readyz").await.status == 200).then_some(())).await;
}

/// How often the session that consumes was lost.
fn losses(daemon: &Daemon) -> usize {
    daemon.events(LOST).iter().filter(|event| event["link"] == "jobs").count()
}

/// Resolves when the session has been lost more often than `before`, which is said, and is back.
async fn lost_and_back(daemon: &Daemon, before: usize) {
    daemon.process.until("it notices", async || (losses(daemon) > before).then_some(())).await;
    let noticed = std::time::Instant::now();
    consuming(daemon).await;
    assert!(noticed.elapsed().as_secs() < 30, "it heals within half a minute, not in {:?}", noticed.elapsed());
}

/// Everything the broker confirmed is finished, once, and nothing was rejected.
async fn check(producers: &mut Producers, setup: &Setup, daemon: &Daemon, broker: &Broker) -> Figures {
    producers.finish().await;
    consuming(daemon).await;
    until("every message is acknowledged", async || (broker.queue_depth("/", JOBS).await == 0).then_some(())).await;
    assert_eq!(broker.queue_depth("/", REJECTED).await, 0, "an innocent job was rejected");
    check_log(daemon);
    let figures = producers.check(setup, daemon).await;
    println!("{figures:?}");
    figures
}

/// Invariants H and J: no address and no password in any line, and no panic.
#[track_caller]
fn check_log(daemon: &Daemon) {
    for line in daemon.process.lines() {
        assert!(!line.contains("@people.example") && !line.contains("guest:guest") && !line.contains("panicked"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_ends_stops_or_hangs_costs_nothing() {
    let mut broker = Broker::start().await;
    let mut setup = setup(&broker.url("/"));
    let daemon = setup.start().await;
    consuming(&daemon).await;
    let mut producers = Producers::new();
    for producer in 0..3 {
        producers.start_amqp(&broker.url("/"), &format!("p{producer}"), 700);
    }
    producers.acknowledged(100).await;
    let before = losses(&daemon);
    broker.restart().await;
    lost_and_back(&daemon, before).await;

    producers.acknowledged(producers.done() + 100).await;
    let before = losses(&daemon);
    broker.kill().await;
    daemon.process.until("it is not ready", async || (daemon.api.get("/readyz").await.status == 503).then_some(())).await;
    broker.start_again().await;
    lost_and_back(&daemon, before).await;

    producers.acknowledged(producers.done() + 100).await;
    let before = losses(&daemon);
    broker.close_all_connections("a test").await;
    lost_and_back(&daemon, before).await;

    producers.acknowledged(producers.done() + 100).await;
    let before = losses(&daemon);
    broker.pause();
    daemon.process.until("it notices the silence", async || (losses(&daemon) > before).then_some(())).await;
    broker.resume();
    lost_and_back(&daemon, before).await;
    let figures = check(&mut producers, &setup, &daemon, &broker).await;
    assert_eq!((figures.duplicates, figures.unknown_outcomes), (0, 0), "the daemon never ended");
    // One line a change of state, whatever the number of tries.
    assert!(losses(&daemon) < 20, "{} lines", losses(&daemon));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_queue_is_declared_again() {
    let broker = Broker::start().await;
    let mut setup = setup(&broker.url("/"));
    let daemon = setup.start().await;
    consuming(&daemon).await;
    broker.delete_queue("/", JOBS).await;
    lost_and_back(&daemon, 0).await;
    assert!(daemon.events(LOST)[0]["reason"].as_str().unwrap().contains("was the queue deleted?"));
    // The other queue is missed when it is needed.
    broker.delete_queue("/", REJECTED).await;
    let mut producers = Producers::new();
    producers.start_amqp(&broker.url("/"), "after", 50);
    producers.finish().await;
    let rabbit = Rabbit::connect(&broker.url("/")).await;
    rabbit.publish(JOBS, "job", persistent(), b"nonsense").await.taken();
    let said = "job rejected: it is on the queue tarishi.rejected; see `tarishi rejected list`";
    daemon.process.until("it is rejected", async || (!daemon.events(said).is_empty()).then_some(())).await;
    assert_eq!(rabbit.get(REJECTED).await.unwrap().headers["tarishi-reason"], "malformed");
    check(&mut producers, &setup, &daemon, &broker).await;
}

/// Under an alarm the broker blocks whoever publishes. What is there already is consumed and acknowledged all the same; what is to be
/// published waits, and goes out afterwards. A message that cannot be rejected for too long costs the channel (406), and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_stops_only_what_is_published() {
    const MESSAGES: usize = 300;
    let broker = Broker::start().await;
    broker
        .ctl(&["eval", "application:set_env(rabbit, consumer_timeout, 3000), application:set_env(rabbit, channel_tick_interval, 500)."])
        .await;
    let mut setup = setup(&broker.url("/")).with("amqp.events.enabled", "true").with("amqp.events.statuses", "[\"sent\"]");
    let daemon = setup.start().await;
    consuming(&daemon).await;
    daemon.terminate().await;
    let rabbit = Rabbit::connect(&broker.url("/")).await;
    rabbit.declare("listener", &[]).await;
    rabbit.bind("listener", "tarishi.events", "delivery.#").await;
    let body = |number: usize| job(&format!("alarm-{number}"), &[recipient("42")], &["email"]).to_string().into_bytes();
    rabbit.publish_many(JOBS, "job", (0..MESSAGES).map(|number| (persistent(), body(number)))).await;
    rabbit.publish(JOBS, "job", persistent().with_message_id("bad".into()), b"nonsense").await.taken();
    broker.memory_alarm(true).await;
    let daemon = setup.start().await;
    consuming(&daemon).await;
    until("all but the bad one is acknowledged", async || (broker.queue_depth("/", JOBS).await == 1).then_some(())).await;
    daemon.drained().await;
    assert_eq!(setup.record().len(), MESSAGES);
    let kept_too_long = async || {
        let reasons = daemon.events(LOST);
        reasons
            .iter()
            .any(|event| event["link"] == "jobs" && event["reason"].as_str().unwrap().contains("PRECONDITION_FAILED"))
            .then_some(())
    };
    daemon.process.until("the broker closes the channel (406)", kept_too_long).await;
    consuming(&daemon).await;
    assert_eq!(broker.queue_depth("/", REJECTED).await, 0);
    assert!(daemon.api.get("/v1/status").await.expect(200)["events"]["pending"].as_u64().unwrap() >= MESSAGES as u64);
    for link in ["rejected", "events"] {
        let lines = daemon.events(LOST).iter().filter(|event| event["link"] == link).count();
        assert!(lines <= 1, "{lines} lines about {link}: one a change of state");
    }
    broker.memory_alarm(false).await;
    until("it is rejected at last", async || rabbit.get(REJECTED).await).await;
    let pending = async || daemon.api.get("/v1/status").await.expect(200)["events"]["pending"].as_u64();
    until("the events are published", async || pending().await.filter(|pending| *pending == 0)).await;
    // At least once: what was on its way into a blocked connection may have come too.
    let events = rabbit.drain("listener").await;
    let ids: BTreeSet<String> = events.iter().map(|event| event.json()["id"].to_string()).collect();
    assert_eq!(ids.len(), MESSAGES);
    until("it is acknowledged", async || (broker.queue_depth("/", JOBS).await == 0).then_some(())).await;

    broker.disk_alarm(true).await;
    let before = losses(&daemon);
    broker.close_all_connections("a test").await;
    lost_and_back(&daemon, before).await;
    broker.disk_alarm(false).await;
    let rabbit = Rabbit::connect(&broker.url("/")).await;
    rabbit.publish(JOBS, "job", persistent(), &body(MESSAGES)).await.taken();
    until("it is acknowledged", async || (broker.queue_depth("/", JOBS).await == 0).then_some(())).await;
    check_log(&daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_network_costs_nothing() {
    let broker = Broker::start().await;
    let proxy = Proxy::start(broker.address()).await;
    let url = format!("amqp://guest:guest@{}/", proxy.address());
    let mut setup = setup(&url);
    let daemon = setup.start().await;
    consuming(&daemon).await;
    let mut producers = Producers::new();
    // They have a better network.
    for producer in 0..2 {
        producers.start_amqp(&broker.url("/"), &format!("p{producer}"), 600);
    }
    for fault in [Proxy::cut, Proxy::half_open, Proxy::corrupt] {
        producers.acknowledged(producers.done() + 100).await;
        let before = losses(&daemon);
        fault(&proxy);
        daemon.process.until("it notices", async || (losses(&daemon) > before).then_some(())).await;
        proxy.heal();
        lost_and_back(&daemon, before).await;
    }
    proxy.slow(20_000);
    producers.acknowledged(producers.done() + 100).await;
    proxy.heal();
    let figures = check(&mut producers, &setup, &daemon, &broker).await;
    assert_eq!((figures.duplicates, figures.unknown_outcomes), (0, 0), "the daemon never ended");
}

/// Crashes at a fail point, twice, under load and with poison among it; then is left alone.
async fn crash_at(broker: &Broker, point: &str) {
    let vhost = point;
    broker.add_vhost(vhost).await;
    let url = broker.url(vhost);
    let mut setup = setup(&url).with("amqp.events.enabled", "true");
    let mut producers = Producers::new();
    // Declares the queues.
    let daemon = setup.start().await;
    consuming(&daemon).await;
    daemon.process.kill().await;
    producers.start_amqp(&url, "one", 400);
    producers.start_amqp(&url, "two", 400);
    producers.acknowledged(20).await;
    let rabbit = Rabbit::connect(&url).await;
    rabbit.publish(JOBS, "job", persistent().with_message_id("bad".into()), b"nonsense").await.taken();
    for _ in 0..2 {
        let ended = match setup.try_start(&[("TARISHI_ABORT_AT", point)]).await {
            Err((_, ended)) => ended,
            Ok(daemon) => daemon.process.end().await,
        };
        assert_eq!(ended.signal, Some(SIGABRT), "at {point}: {ended:?}");
    }
    let daemon = setup.start().await;
    producers.finish().await;
    consuming(&daemon).await;
    until("every message is acknowledged", async || (broker.queue_depth(vhost, JOBS).await == 0).then_some(())).await;
    let rejected = rabbit.drain(REJECTED).await;
    assert!(!rejected.is_empty(), "at {point}: the poison is gone");
    assert!(rejected.iter().all(|message| message.body == b"nonsense"), "at {point}: an innocent job was rejected");
    check_log(&daemon);
    let figures = producers.check(&setup, &daemon).await;
    println!("{point}: {figures:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn crashed_at_every_point_it_loses_nothing() {
    let broker = Broker::start().await;
    let shared = ["accept-before-commit", "accept-committed", "store-before-commit", "store-after-commit"];
    for point in CRASH_POINTS.into_iter().chain(shared) {
        crash_at(&broker, point).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_a_loop_it_loses_nothing() {
    let lives = if is_long() { 50 } else { 4 };
    let broker = Broker::start().await;
    let mut setup = setup(&broker.url("/"));
    let mut producers = Producers::new();
    for producer in 0..3 {
        producers.start_amqp(&broker.url("/"), &format!("p{producer}"), 150 * lives);
    }
    for life in 1..=lives {
        let daemon = setup.start().await;
        producers.acknowledged(life * producers.wanted() / (lives + 1)).await;
        assert_eq!(daemon.process.kill().await.signal, Some(9));
        check_log(&daemon);
    }
    let daemon = setup.start().await;
    check(&mut producers, &setup, &daemon, &broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn terminated_under_load_it_loses_and_doubles_nothing() {
    const LIVES: usize = 4;
    let broker = Broker::start().await;
    let mut setup = setup(&broker.url("/"));
    let mut producers = Producers::new();
    for producer in 0..3 {
        producers.start_amqp(&broker.url("/"), &format!("p{producer}"), 150 * LIVES);
    }
    for life in 1..=LIVES {
        let daemon = setup.start().await;
        consuming(&daemon).await;
        producers.acknowledged(life * producers.wanted() / (LIVES + 1)).await;
        assert_eq!(daemon.terminate().await.code, Some(0), "{}", daemon.process.lines().join("\n"));
        check_log(&daemon);
    }
    let daemon = setup.start().await;
    let figures = check(&mut producers, &setup, &daemon, &broker).await;
    assert_eq!((figures.duplicates, figures.unknown_outcomes), (0, 0));
}

/// Many jobs, through one end of the daemon and one of the broker.
#[tokio::test(flavor = "multi_thread")]
async fn many_jobs_go_through_both_ends() {
    const PRODUCERS: usize = 8;
    let jobs: usize = if is_long() { 100_000 } else { 2000 };
    let mut broker = Broker::start().await;
    let mut setup = setup(&broker.url("/"));
    let daemon = setup.start().await;
    consuming(&daemon).await;
    let mut producers = Producers::new();
    for producer in 0..PRODUCERS {
        producers.start_amqp(&broker.url("/"), &format!("p{producer}"), jobs / PRODUCERS);
    }
    while producers.done() < jobs / 3 {
        producers.acknowledged(producers.done() + 100).await;
    }
    daemon.process.kill().await;
    let daemon = setup.start().await;
    while producers.done() < jobs * 2 / 3 {
        producers.acknowledged(producers.done() + 100).await;
    }
    broker.kill().await;
    broker.start_again().await;
    while producers.done() < jobs {
        producers.acknowledged(producers.done() + 100).await;
    }
    let figures = check(&mut producers, &setup, &daemon, &broker).await;
    assert_eq!(figures.jobs, jobs);
}

/// Whatever the broker has to say when it refuses us is told to operators, and the rest goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_refuses_us_is_told() {
    let broker = Broker::start().await;
    let url = broker.url("/").replace("guest:guest", "guest:wrong-and-secret");
    let mut setup = setup(&url);
    let daemon = setup.start().await;
    let refused = async || daemon.process.events().into_iter().find(|event| event["link"] == "jobs");
    let told = daemon.process.until("it says so", refused).await;
    assert!(told["reason"].as_str().unwrap().to_lowercase().contains("refused"), "{told}");
    assert!(daemon.process.lines().iter().all(|line| !line.contains("wrong-and-secret")));
    let body: Value = job("over-http", &[recipient("42")], &["email"]);
    assert_eq!(daemon.api.post("/v1/jobs", &body).await.expect(202)["id"], json!("over-http"));
    daemon.finished("over-http").await;
}
