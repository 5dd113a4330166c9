//! Jobs over AMQP, through the real daemon and a real broker: what is understood, what is rejected, and that nothing is told twice.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};

use crate::support::{Broker, Daemon, Message, Proxy, Rabbit, Setup, Vhost, job, persistent, python, recipient, text, until};

const JOBS: &str = "tarishi.jobs";
const REJECTED: &str = "tarishi.rejected";
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const SIGABRT: i32 = 6;

/// A daemon on a virtual host of its own, and a connection there.
async fn started() -> (Vhost, Setup, Daemon, Rabbit) {
    let vhost = Vhost::new();
    let mut setup = setup(&vhost);
    let daemon = setup.start().await;
    consuming(&daemon).await;
    let rabbit = Rabbit::connect(&vhost.url()).await;
    (vhost, setup, daemon, rabbit)
}

fn setup(vhost: &Vhost) -> Setup {
    Setup::new().with_quick_retries().with("amqp.url", &vhost.url())
}

/// Resolves when the daemon consumes: then its queues exist.
async fn consuming(daemon: &Daemon) {
    daemon.process.until("it consumes", async || (daemon.api.get("/readyz").await.status == 200).then_some(())).await;
}

/// A job of one mail.
fn mail(id: &str) -> Value {
    job(id, &[recipient("42")], &["email"])
}

fn bytes(job: &Value) -> Vec<u8> {
    job.to_string().into_bytes()
}

fn without_id(mut job: Value) -> Value {
    job.as_object_mut().unwrap().remove("id");
    job
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn headers(pairs: &[(&str, &str)]) -> FieldTable {
    let mut headers = FieldTable::default();
    for (name, value) in pairs {
        headers.insert((*name).into(), text(value));
    }
    headers
}

async fn publish(rabbit: &Rabbit, properties: BasicProperties, body: &[u8]) {
    rabbit.publish(JOBS, "job", properties, body).await.taken();
}

/// Resolves when nothing is left in the queue, acknowledged or not.
async fn emptied(vhost: &Vhost) {
    until("every message is acknowledged", async || (vhost.queue_depth(JOBS).await == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_taken_however_they_are_written() {
    let (vhost, _setup, daemon, rabbit) = started().await;
    let event = |id: Option<&str>| {
        let mut event =
            json!({ "specversion": "1.0", "source": "shop", "type": "shop.order", "traceparent": TRACE, "data": without_id(mail("x")) });
        event["id"] = json!(id);
        bytes(&event)
    };
    let plain = bytes(&without_id(mail("x")));
    let with_id = |id: &str| persistent().with_message_id(id.into());
    let cases: Vec<(&str, BasicProperties, Vec<u8>)> = vec![
        ("body-id", persistent(), bytes(&mail("body-id"))),
        ("no-type", BasicProperties::default(), bytes(&mail("no-type"))),
        ("charset", BasicProperties::default().with_content_type("Application/JSON; charset=\"UTF-8\"".into()), bytes(&mail("charset"))),
        ("message-id", with_id("message-id"), plain.clone()),
        ("body-first", with_id("not-this"), bytes(&mail("body-first"))),
        ("gzip", persistent().with_content_encoding("gzip".into()), gzip(&bytes(&mail("gzip")))),
        ("binary", persistent().with_headers(headers(&[("cloudEvents:specversion", "1.0"), ("cloudEvents:id", "binary")])), plain.clone()),
        ("lower", persistent().with_headers(headers(&[("cloudEvents_specversion", "1.0"), ("cloudEvents_id", "lower")])), plain.clone()),
        ("structured", persistent().with_content_type("application/cloudevents+json".into()), event(Some("structured"))),
        ("outer", with_id("outer").with_content_type("application/cloudevents+json; charset=utf-8".into()), event(Some("inner"))),
    ];
    for (_, properties, body) in &cases {
        publish(&rabbit, properties.clone(), body).await;
    }
    publish(&rabbit, persistent(), &bytes(&json!([mail("array-1"), mail("array-2")]))).await;
    emptied(&vhost).await;
    for (id, ..) in &cases {
        assert_eq!(daemon.finished(id).await["deliveries"][0]["status"], "sent", "{id}");
    }
    for id in ["array-1", "array-2"] {
        daemon.finished(id).await;
    }
    assert!(rabbit.get(REJECTED).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_complete_a_job() {
    let (vhost, _setup, daemon, rabbit) = started().await;
    let of = |id: &str| bytes(&mail(id));
    publish(&rabbit, persistent().with_priority(9).with_headers(headers(&[("traceparent", TRACE)])), &of("urgent")).await;
    publish(&rabbit, persistent().with_priority(1), &of("slow")).await;
    publish(&rabbit, persistent().with_priority(0), &of("nobody-chose")).await;
    let mut own = mail("own");
    own["priority"] = json!("low");
    own["expires_at"] = json!("2100-01-01T00:00:00Z");
    publish(&rabbit, persistent().with_priority(9).with_expiration("90000".into()), &bytes(&own)).await;
    publish(&rabbit, persistent().with_expiration("90000".into()), &of("brief")).await;
    // Published an hour ago: it is over before it begins.
    let hour_ago = u64::try_from(tarishi::model::Timestamp::now().as_millis() / 1000).unwrap() - 3600;
    publish(&rabbit, persistent().with_expiration("90000".into()).with_timestamp(hour_ago), &of("over")).await;
    emptied(&vhost).await;
    for (id, priority) in [("urgent", "high"), ("slow", "low"), ("nobody-chose", "normal"), ("own", "low")] {
        assert_eq!(daemon.finished(id).await["deliveries"][0]["priority"], priority, "{id}");
    }
    let lifetime = |job: &Value| {
        let at = |member: &str| chrono::DateTime::parse_from_rfc3339(job["deliveries"][0][member].as_str().unwrap()).unwrap();
        (at("expires_at") - at("accepted_at")).num_seconds()
    };
    assert!((80..=90).contains(&lifetime(&daemon.finished("brief").await)));
    assert!(lifetime(&daemon.finished("own").await) > 3600);
    assert_eq!(daemon.finished("over").await["deliveries"][0]["status"], "expired");
    let accepted = daemon.events("job accepted").into_iter().find(|event| event["job"] == "urgent").unwrap();
    assert_eq!(accepted["traceparent"], TRACE);
    assert_eq!(daemon.events("job accepted").iter().filter(|event| !event["traceparent"].is_null()).count(), 1);
}

/// What is on the rejected queue under this message id, waiting for it.
async fn rejected(rabbit: &Rabbit) -> Message {
    until("a message is rejected", async || rabbit.get(REJECTED).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_is_rejected_with_its_reason_and_as_it_came() {
    let (vhost, _setup, daemon, rabbit) = started().await;
    publish(&rabbit, persistent(), &bytes(&mail("known"))).await;
    emptied(&vhost).await;
    daemon.finished("known").await;
    let mut misspelt = mail("misspelt");
    misspelt["tmplate"] = json!("x");
    let mut other_body = mail("known");
    other_body["priority"] = json!("low");
    let mut version = mail("version");
    version["v"] = json!(2);
    let mut unknown_template = mail("template");
    unknown_template["template"] = json!("no_such");
    let mut without_message = mail("data");
    without_message["data"] = json!({ "title": "Habari" });
    let many: Vec<Value> = (0..20_000).map(|user| json!({ "user_id": user })).collect();
    let deep = [b"{\"data\":".repeat(200), b"1".to_vec(), b"}".repeat(200)].concat();
    let encoded = |encoding: &str| persistent().with_content_encoding(encoding.into());
    let typed = |kind: &str| BasicProperties::default().with_content_type(kind.into());
    let events = "application/cloudevents+json";
    let cases: Vec<(&str, &str, BasicProperties, Vec<u8>)> = vec![
        ("malformed", "$", persistent(), b"nonsense".to_vec()),
        ("malformed", "$", persistent(), Vec::new()),
        ("malformed", "$", persistent(), b"{\"id\":\"\xff\xfe\"}".to_vec()),
        ("malformed", "$", persistent(), b"\0".repeat(100)),
        ("malformed", "$", persistent(), deep),
        ("malformed", "$", encoded("gzip"), b"not gzip".to_vec()),
        ("malformed", "$", encoded("gzip"), gzip(&bytes(&mail("cut")))[..20].to_vec()),
        ("malformed", "$", typed(events), b"[]".to_vec()),
        ("malformed", "$.data", typed(events), b"{\"specversion\":\"1.0\",\"id\":\"a\"}".to_vec()),
        ("too_large", "$", persistent(), b" ".repeat(20 << 20)),
        ("too_large", "$", encoded("gzip"), gzip(&b" ".repeat(20 << 20))),
        ("too_large", "$", persistent(), [b"{\"id\":\"".to_vec(), b"x".repeat(5 << 20), b"\"}".to_vec()].concat()),
        ("invalid", "$.tmplate", persistent(), bytes(&misspelt)),
        ("invalid", "$.v", persistent(), bytes(&version)),
        ("invalid", "$.template", persistent(), bytes(&unknown_template)),
        ("invalid", "$.data.message", persistent(), bytes(&without_message)),
        ("invalid", "$[0].data.message", persistent(), bytes(&json!([without_message]))),
        ("invalid", "$.data.data.message", typed(events), bytes(&json!({ "specversion": "1.0", "id": "e", "data": without_message }))),
        ("invalid", "$.to", persistent(), bytes(&job("many", &many, &["email"]))),
        ("invalid", "$.data.tmplate", typed(events), bytes(&json!({ "specversion": "1.0", "id": "e", "data": misspelt }))),
        ("invalid", "message_id", persistent().with_message_id(" x ".into()), bytes(&without_id(mail("x")))),
        ("invalid", "$[1].tmplate", persistent(), bytes(&json!([mail("whole"), misspelt]))),
        ("missing_id", "$.id", persistent(), bytes(&without_id(mail("x")))),
        ("missing_id", "$[1].id", persistent().with_message_id("of-no-use".into()), bytes(&json!([mail("whole"), without_id(mail("x"))]))),
        ("id_conflict", "$.id", persistent(), bytes(&other_body)),
        ("id_conflict", "$[1].id", persistent(), bytes(&json!([mail("whole"), other_body]))),
        ("unsupported_content_type", "content_type", typed("text/plain"), bytes(&mail("plain"))),
        ("unsupported_content_type", "content_type", typed("application/json; charset=latin1"), bytes(&mail("latin"))),
        ("unsupported_content_encoding", "content_encoding", encoded("br"), bytes(&mail("brotli"))),
    ];
    for (reason, path, properties, body) in cases {
        let mut kept = headers(&[("tenant", "shop"), ("x-death", "copied, it would end here"), ("tarishi-reason", "old")]);
        kept.insert("CC".into(), AMQPValue::FieldArray(vec![text("elsewhere")].into()));
        let properties = properties.with_headers(kept).with_correlation_id("c-1".into()).with_expiration("600000".into());
        rabbit.publish(JOBS, "agents.order", properties.clone(), &body).await.taken();
        let message = rejected(&rabbit).await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        assert_eq!((&message.headers["tarishi-reason"], &message.headers["tarishi-path"]), (&json!(reason), &json!(path)), "{shown}");
        assert!(message.body == body, "{shown}: the bytes changed");
        for told in ["tarishi-problem", "tarishi-hint", "tarishi-rejected-at"] {
            assert!(message.headers[told].as_str().is_some_and(|text| !text.is_empty()), "{shown}: {told}");
        }
        let problems: Value = serde_json::from_str(message.headers["tarishi-problems"].as_str().unwrap()).unwrap();
        assert_eq!(problems[0]["path"], path);
        assert_eq!((&message.headers["tarishi-exchange"], &message.headers["tarishi-routing-key"]), (&json!(JOBS), &json!("agents.order")));
        assert_eq!(message.headers["tenant"], "shop");
        assert!(!message.headers.contains_key("x-death") && !message.headers.contains_key("CC"), "{:?}", message.headers);
        let MessageProperties { message_id, content_type, content_encoding, correlation_id } = MessageProperties::of(&message.properties);
        let sent = MessageProperties::of(&properties);
        assert_eq!(
            (message_id, content_type, content_encoding, correlation_id),
            (sent.message_id, sent.content_type, sent.content_encoding, sent.correlation_id)
        );
        assert_eq!((message.properties.delivery_mode(), message.properties.expiration()), (&Some(2), &None));
    }
    emptied(&vhost).await;
    // Nothing of them was taken, and the next good job goes its way.
    for id in ["whole", "cut", "plain", "misspelt"] {
        daemon.api.get(&format!("/v1/jobs/{id}")).await.expect(404);
    }
    publish(&rabbit, persistent(), &bytes(&mail("after"))).await;
    emptied(&vhost).await;
    daemon.finished("after").await;
    assert!(daemon.process.lines().iter().all(|line| !line.contains("panicked") && !line.contains("@people.example")));
}

/// What must come along.
#[derive(Debug, PartialEq, Eq)]
struct MessageProperties {
    message_id: Option<String>,
    content_type: Option<String>,
    content_encoding: Option<String>,
    correlation_id: Option<String>,
}

impl MessageProperties {
    fn of(properties: &BasicProperties) -> Self {
        let text = |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string);
        Self {
            message_id: text(properties.message_id()),
            content_type: text(properties.content_type()),
            content_encoding: text(properties.content_encoding()),
            correlation_id: text(properties.correlation_id()),
        }
    }
}

/// As large as the broker lets headers be: ours have to fit beside them.
#[tokio::test(flavor = "multi_thread")]
async fn poison_with_huge_headers_is_rejected_too() {
    let (vhost, _setup, _daemon, rabbit) = started().await;
    let mut huge = FieldTable::default();
    for number in 0..12 {
        huge.insert(format!("padding-{number}").as_str().into(), AMQPValue::LongString("x".repeat(10_000).into()));
    }
    publish(&rabbit, persistent().with_headers(huge), b"nonsense").await;
    let message = rejected(&rabbit).await;
    assert_eq!(message.headers["tarishi-reason"], "malformed");
    assert!(message.headers.len() < 17, "some of them do not fit");
    emptied(&vhost).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_comes_twice_is_sent_once() {
    let (vhost, setup, daemon, rabbit) = started().await;
    let jobs: Vec<Value> = (0..200).map(|number| mail(&format!("twice-{number}"))).collect();
    let mut order: Vec<usize> = (0..jobs.len()).chain(0..jobs.len()).collect();
    fastrand::shuffle(&mut order);
    rabbit.publish_many(JOBS, "job", order.into_iter().map(|place| (persistent(), bytes(&jobs[place])))).await;
    // And once more over HTTP.
    daemon.api.post("/v1/jobs", &jobs[0]).await.expect(202);
    emptied(&vhost).await;
    daemon.drained().await;
    let record = setup.record();
    assert_eq!((record.len(), record.values().map(|(times, _)| times).max()), (200, Some(&1)));
    assert!(rabbit.get(REJECTED).await.is_none());
}

/// The message that crashes whoever works on it: its neighbours are all sent, and it ends on the rejected queue by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_kills_takes_nobody_with_it() {
    let vhost = Vhost::new();
    let mut setup = setup(&vhost);
    // Declares the queues.
    let daemon = setup.start().await;
    consuming(&daemon).await;
    daemon.process.kill().await;
    let rabbit = Rabbit::connect(&vhost.url()).await;
    let innocent: Vec<Value> = (0..300).map(|number| mail(&format!("innocent-{number}"))).collect();
    let killer = (persistent().with_app_id("killer".into()).with_message_id("killer".into()), bytes(&mail("killer")));
    let messages: Vec<_> = innocent.iter().map(|job| (persistent(), bytes(job))).collect();
    rabbit.publish_many(JOBS, "job", messages[..150].iter().cloned()).await;
    rabbit.publish_many(JOBS, "job", [killer]).await;
    rabbit.publish_many(JOBS, "job", messages[150..].iter().cloned()).await;
    let mut crashes = 0;
    let daemon = loop {
        assert!(crashes < 20, "it is never recognised");
        let Ok(daemon) = setup.try_start(&[("TARISHI_ABORT_AT", "amqp-killer")]).await else {
            crashes += 1;
            continue;
        };
        let done = until("the killer is rejected", async || {
            let is_over = daemon.process.has_ended().is_some();
            let is_rejected = !daemon.events("job rejected: it is on the queue tarishi.rejected; see `tarishi rejected list`").is_empty();
            (is_over || is_rejected).then_some(is_rejected)
        });
        if done.await {
            break daemon;
        }
        assert_eq!(daemon.process.end().await.signal, Some(SIGABRT));
        crashes += 1;
    };
    emptied(&vhost).await;
    daemon.drained().await;
    let record = setup.record();
    assert_eq!(record.len(), innocent.len(), "after {crashes} crashes");
    for job in &innocent {
        assert_eq!(daemon.finished(job["id"].as_str().unwrap()).await["deliveries"][0]["status"], "sent");
    }
    let message = rejected(&rabbit).await;
    assert_eq!(
        (&message.headers["tarishi-reason"], message.properties.message_id().as_ref().unwrap().as_str()),
        (&json!("killed_worker"), "killer")
    );
    assert!(rabbit.get(REJECTED).await.is_none(), "an innocent was rejected");
    assert!((10..=14).contains(&crashes), "{crashes} crashes: twice among others, then ten times alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_share_a_queue() {
    let vhost = Vhost::new();
    let mut setups = [setup(&vhost), setup(&vhost)];
    let mut daemons = Vec::new();
    for setup in &mut setups {
        let daemon = setup.with_prefetch(20).start().await;
        consuming(&daemon).await;
        daemons.push(daemon);
    }
    let rabbit = Rabbit::connect(&vhost.url()).await;
    rabbit.publish_many(JOBS, "job", (0..1000).map(|number| (persistent(), bytes(&mail(&format!("shared-{number}")))))).await;
    emptied(&vhost).await;
    for daemon in &daemons {
        daemon.drained().await;
    }
    let [one, two] = setups.each_ref().map(Setup::record);
    assert!(!one.is_empty() && !two.is_empty(), "{} and {}", one.len(), two.len());
    assert_eq!(one.len() + two.len(), 1000);
    assert!(one.keys().all(|id| !two.contains_key(id)));
}

/// Somebody declared the queue otherwise: what, where and what to do is said, once, and it heals when that is done.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_declared_otherwise_is_told() {
    const REFUSED: &str = "broker refuses: trying again, but it will not mend by itself";
    let vhost = Vhost::new();
    let rabbit = Rabbit::connect(&vhost.url()).await;
    // As ours but for one argument.
    let arguments = [
        ("x-queue-type", text("quorum")),
        ("x-delivery-limit", AMQPValue::LongInt(5)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(REJECTED)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ];
    rabbit.declare(JOBS, &arguments).await;
    let mut setup = setup(&vhost);
    let daemon = setup.start().await;
    daemon.process.until("it says so", async || (!daemon.events(REFUSED).is_empty()).then_some(())).await;
    let reason = daemon.events(REFUSED)[0]["reason"].as_str().unwrap().to_owned();
    for part in ["queue 'tarishi.jobs'", "x-delivery-limit", "`5`", "`1000`", "delete_queue"] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    let ready = daemon.api.get("/readyz").await.expect(503);
    assert_eq!(ready["reasons"], json!(["no connection to the broker: no jobs come in over AMQP"]));
    assert_eq!(daemon.api.get("/v1/status").await.expect(200)["broker"]["reason"], reason);
    vhost.delete_queue(JOBS).await;
    consuming(&daemon).await;
    assert_eq!(daemon.events(REFUSED).len(), 1);
    publish(&rabbit, persistent(), &bytes(&mail("at-last"))).await;
    emptied(&vhost).await;
    daemon.finished("at-last").await;
}

/// TLS with our own authority and a certificate of our own; the next host when one is not there; and a name to find us by.
#[tokio::test(flavor = "multi_thread")]
async fn it_connects_as_configured() {
    let broker = Broker::start_with_tls().await;
    let certificates = broker.certificates();
    let (url, nobody) = (broker.tls_url("/"), Proxy::start(broker.address()).await.address());
    let port = url.rsplit(':').next().unwrap().split('/').next().unwrap();
    // A port that nobody listens on any more, and a further host that is right.
    let first = url.replace(&format!(":{port}"), &format!(":{}", nobody.port()));
    let mut setup = Setup::new()
        .with("amqp.url", &first)
        .with("amqp.hosts", &format!("[\"localhost:{port}\"]"))
        .with("amqp.ca_file", &certificates.ca.display())
        .with("amqp.client_certificate_file", &certificates.client.display())
        .with("amqp.client_key_file", &certificates.client_key.display());
    let daemon = setup.start().await;
    consuming(&daemon).await;
    let rabbit = Rabbit::connect(&broker.url("/")).await;
    publish(&rabbit, persistent(), &bytes(&mail("sealed"))).await;
    until("it is acknowledged", async || (broker.queue_depth("/", JOBS).await == 0).then_some(())).await;
    daemon.finished("sealed").await;
    let names = broker.ctl(&["list_connections", "client_properties"]).await;
    let expected = format!("tarishi {} jobs on", env!("CARGO_PKG_VERSION"));
    assert!(names.contains(&expected), "{names}");
    daemon.terminate().await;

    // Signed by nobody we trust.
    setup.set("amqp.ca_file", &certificates.stranger_ca.display());
    let daemon = setup.start().await;
    daemon
        .process
        .until("it says so", async || (!daemon.events("broker lost: trying again until it is back").is_empty()).then_some(()))
        .await;
    daemon.api.get("/readyz").await.expect(503);
    // A secret is nowhere to be read.
    assert!(daemon.process.lines().iter().all(|line| !line.contains("guest:guest")));
}

/// While the store takes nothing, nothing is consumed and nothing lost; then it goes on by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_takes_nothing_stops_consuming() {
    let (vhost, setup, daemon, rabbit) = started().await;
    let held = rusqlite::Connection::open(setup.store_path()).unwrap();
    held.execute_batch("PRAGMA busy_timeout = 60000; BEGIN IMMEDIATE").unwrap();
    rabbit.publish_many(JOBS, "job", (0..100).map(|number| (persistent(), bytes(&mail(&format!("held-{number}")))))).await;
    let reasons = daemon.process.until("it is not ready", async || {
        let answer = daemon.api.get("/readyz").await;
        (answer.status == 503).then(|| answer.body["reasons"].clone())
    });
    assert_eq!(reasons.await, json!(["the store cannot be written"]));
    until("it consumes no more", async || {
        let status = daemon.api.get("/v1/status").await.expect(200);
        (status["broker"]["connected"] == false && status["broker"]["unacknowledged"] == 0).then_some(())
    })
    .await;
    assert_eq!(vhost.queue_depth(JOBS).await, 100);
    held.execute_batch("ROLLBACK").unwrap();
    emptied(&vhost).await;
    daemon.drained().await;
    assert_eq!(setup.record().len(), 100);
    assert!(rabbit.get(REJECTED).await.is_none());
}

/// The library ends the connection over text that is not UTF-8 in a message's properties. Others get through, and it ends on the rejected queue.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_stops_nobody() {
    const PUBLISH: &str = "import os, pika\n\
        connection = pika.BlockingConnection(pika.URLParameters(os.environ['URL']))\n\
        channel = connection.channel()\n\
        properties = pika.BasicProperties(delivery_mode=2)\n\
        properties.message_id = b'caf\\xe9'\n\
        channel.basic_publish('tarishi.jobs', 'job', b'{}', properties)\n\
        connection.close()\n";
    let (vhost, setup, daemon, rabbit) = started().await;
    publish(&rabbit, persistent(), &bytes(&mail("before"))).await;
    let env = std::collections::BTreeMap::from([("URL".to_owned(), vhost.url())]);
    let published = python(&["-c".to_owned(), PUBLISH.to_owned()], &env);
    assert_eq!(published.end().await.code, Some(0), "{:?}", published.lines());
    rabbit.publish_many(JOBS, "job", (0..50).map(|number| (persistent(), bytes(&mail(&format!("behind-{number}")))))).await;
    until("it is given up", async || (vhost.queue_depth(REJECTED).await == 1).then_some(())).await;
    emptied(&vhost).await;
    consuming(&daemon).await;
    publish(&rabbit, persistent(), &bytes(&mail("after"))).await;
    emptied(&vhost).await;
    daemon.drained().await;
    assert_eq!(setup.record().len(), 52);
    assert_eq!(vhost.queue_depth(REJECTED).await, 1, "an innocent was rejected");
    let lines = daemon.process.lines().iter().filter(|line| line.contains("broker lost")).count();
    assert!((1..10).contains(&lines), "{lines} lines about it");
}
