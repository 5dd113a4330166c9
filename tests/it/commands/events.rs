//! `tarishi events tail`.

use serde_json::{Value, json};

use super::{EVENTS, declared};
use crate::support::{Commands, Fate, Process, Proxy, Rabbit, persistent, until};

const ROUTING_KEYS: [&str; 5] = ["delivery.email.sent", "delivery.email.failed", "delivery.sms.failed", "job.finished", "address.gone"];

fn event(routing_key: &str) -> Value {
    let data = match routing_key.split('.').collect::<Vec<_>>()[..] {
        ["delivery", channel, status] => {
            let code = (status == "failed").then_some("bounced");
            json!({ "job_id": "order-1", "delivery_id": "d", "channel": channel, "status": status, "user_id": "42", "template": "generic", "code": code })
        }
        ["job", _] => json!({ "job_id": "order-1", "template": "generic", "deliveries": 3, "statuses": { "failed": 2, "sent": 1 } }),
        _ => json!({ "job_id": "order-2", "channel": "email", "address": "asha@example.com", "user_id": "43", "code": "bounced" }),
    };
    json!({ "specversion": "1.0", "id": "e-1", "source": "tarishi", "type": format!("tarishi.{}", kind(routing_key)),
            "time": "2026-01-15T10:30:00.123Z", "data": data })
}

fn kind(routing_key: &str) -> String {
    match routing_key.split('.').collect::<Vec<_>>()[..] {
        ["delivery", _, status] => format!("delivery.{status}"),
        _ => routing_key.to_owned(),
    }
}

/// A tail that listens: something that it is bound for finds its way.
async fn tail(commands: &Commands, rabbit: &Rabbit, arguments: &[&str], routing_key: &str) -> Process {
    let process = commands.start(&[&["events", "tail"], arguments].concat());
    listening(rabbit, routing_key).await;
    process
}

/// Publishes noise that no tail shows, until somebody is there to get it.
async fn listening(rabbit: &Rabbit, routing_key: &str) {
    let noise = json!({ "data": { "channel": "none", "user_id": "none", "job_id": "none", "template": "none" }, "type": "noise" });
    let is_routed = async || {
        let fate = rabbit.publish(EVENTS, routing_key, persistent(), noise.to_string().as_bytes()).await;
        (fate == Fate::Taken).then_some(())
    };
    until("somebody listens", is_routed).await;
}

async fn publish_all(rabbit: &Rabbit) {
    for routing_key in ROUTING_KEYS {
        // Nobody may want it.
        let _ = rabbit.publish(EVENTS, routing_key, persistent(), event(routing_key).to_string().as_bytes()).await;
    }
}

/// What is shown of everything with these filters.
async fn check_filters(arguments: &[&str], routing_key: &str, expected: &[&str]) {
    let (_vhost, rabbit, commands) = declared().await;
    let count = expected.len().to_string();
    let process = tail(&commands, &rabbit, &[arguments, &["--json", "--count", &count]].concat(), routing_key).await;
    publish_all(&rabbit).await;
    assert_eq!(process.end().await.code, Some(0));
    let shown: Vec<Value> = process.events().iter().map(|event| event["type"].clone()).filter(|kind| kind != "noise").collect();
    assert_eq!(shown, expected, "{arguments:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_show_what_was_asked_for() {
    // Each counts to the last that it expects, so that one too many would come before it.
    check_filters(&["--user", "42"], "job.finished", &["tarishi.delivery.sent", "tarishi.delivery.failed", "tarishi.delivery.failed"])
        .await;
    check_filters(&["--channel", "email"], "address.gone", &["tarishi.delivery.sent", "tarishi.delivery.failed", "tarishi.address.gone"])
        .await;
    check_filters(&["--channel", "sms,push"], "delivery.push.sent", &["tarishi.delivery.failed"]).await;
    check_filters(&["--status", "failed", "--channel", "sms"], "delivery.sms.failed", &["tarishi.delivery.failed"]).await;
    check_filters(&["--job", "order-2"], "job.finished", &["tarishi.address.gone"]).await;
    check_filters(
        &["--template", "generic"],
        "job.finished",
        &["tarishi.delivery.sent", "tarishi.delivery.failed", "tarishi.delivery.failed", "tarishi.job.finished"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_sends_no_more_than_the_filters_allow() {
    let (_vhost, rabbit, commands) = declared().await;
    let process = tail(&commands, &rabbit, &["--status", "failed", "--count", "2"], "delivery.live.failed").await;
    for (routing_key, wanted) in
        [("delivery.email.sent", false), ("job.finished", false), ("address.gone", false), ("delivery.sms.failed", true)]
    {
        let fate = rabbit.publish(EVENTS, routing_key, persistent(), event(routing_key).to_string().as_bytes()).await;
        assert_eq!(fate == Fate::Taken, wanted, "{routing_key}");
    }
    drop(process);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_until_it_is_told_to_end() {
    let (_vhost, rabbit, commands) = declared().await;
    let process = tail(&commands, &rabbit, &[], "any").await;
    publish_all(&rabbit).await;
    let _ = rabbit.publish(EVENTS, "any", persistent(), b"no event").await;
    process.find_line(|line| line.contains("no event of tarishi's").then_some(())).await.unwrap();
    process
        .until("all are shown", async || (process.lines().iter().filter(|line| line.contains("order-")).count() == 5).then_some(()))
        .await;
    let shown: Vec<String> = process.lines().into_iter().filter(|line| line.contains("order-")).collect();
    assert_eq!(
        shown,
        [
            "2026-01-15T10:30:00.123Z  email  sent        order-1  42",
            "2026-01-15T10:30:00.123Z  email  failed      order-1  42  bounced",
            "2026-01-15T10:30:00.123Z  sms    failed      order-1  42  bounced",
            "2026-01-15T10:30:00.123Z  -      finished    order-1  -  3 deliveries: 2 failed, 1 sent",
            "2026-01-15T10:30:00.123Z  email  gone        order-2  43  a***@e***.com  bounced",
        ]
    );
    process.signal("INT");
    assert_eq!(process.end().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_its_reader() {
    let (_vhost, rabbit, commands) = declared().await;
    let reading = tokio::spawn(async move { commands.run_in_shell("tarishi events tail | head -n 1").await });
    listening(&rabbit, "any").await;
    until("it has ended", async || {
        publish_all(&rabbit).await;
        reading.is_finished().then_some(())
    })
    .await;
    assert_eq!(reading.await.unwrap().out().lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_connects_again() {
    let (vhost, rabbit, _) = declared().await;
    let proxy = Proxy::start(vhost.address()).await;
    let commands = Commands::with_broker(&vhost.url_through(&proxy));
    let process = tail(&commands, &rabbit, &[], "any").await;
    proxy.cut();
    process.find_line(|line| line.contains("connected again").then_some(())).await.unwrap();
    publish_all(&rabbit).await;
    process.find_line(|line| line.contains("email  sent").then_some(())).await.unwrap();
    let notes: Vec<String> = process.lines().into_iter().filter(|line| line.contains("connect")).collect();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].starts_with("note: the connection to the broker is lost ("), "{notes:?}");
    process.signal("TERM");
    assert_eq!(process.end().await.code, Some(0));
    // The library that speaks AMQP has said nothing of its own.
    let others: Vec<String> =
        process.lines().into_iter().filter(|line| !line.starts_with("note: ") && !line.starts_with("2026-")).collect();
    assert!(others.iter().all(|line| line.contains("noise")), "{others:?}");
}
