//! `tarishi rejected`.

use lapin::{BasicProperties, types::AMQPValue};
use serde_json::{Value, json};

use super::{JOBS, REJECTED, declared, rejected};
use crate::support::{Commands, Rabbit, Vhost, persistent, text, until};

const LONG_AGO: &str = "2026-01-15T10:30:00Z";
const BINARY: &[u8] = b"caf\xe9 \x00\xff";
const JSON: &[u8] = br#"{"id":"order-1","n":12345678901234567890.10}"#;
const SIGABRT: i32 = 6;

async fn put(rabbit: &Rabbit, properties: BasicProperties, body: &[u8]) {
    rabbit.publish("", REJECTED, properties, body).await.taken();
}

/// Four that differ in everything, in the order of their numbers.
async fn four() -> (Vhost, Rabbit, Commands) {
    let (vhost, rabbit, commands) = declared().await;
    put(&rabbit, rejected("invalid", "2026-01-15T10:30:00Z"), JSON).await;
    put(&rabbit, rejected("malformed", "2026-01-15T10:31:00Z").with_message_id("binary".into()), BINARY).await;
    put(&rabbit, rejected("malformed", "2026-01-15T10:32:00Z"), b"").await;
    put(&rabbit, rejected("id_conflict", "2026-01-15T10:33:00Z"), br#"[{"id":"a"},{"id":"b"}]"#).await;
    (vhost, rabbit, commands)
}

async fn ids(commands: &Commands) -> Vec<Value> {
    commands.run(&["rejected", "list", "--json", "--limit", "5000"]).await.lines().into_iter().map(|mut line| line["id"].take()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn listing_takes_nothing_away() {
    let (vhost, _rabbit, commands) = four().await;
    let listed = commands.run(&["rejected", "list"]).await.out();
    assert_eq!(
        listed,
        "number  when                  reason       id            path           problem         size\n     \
         1  2026-01-15T10:30:00Z  invalid      order-1       $.to[0].email  not an address  44 B\n     \
         2  2026-01-15T10:31:00Z  malformed    binary        $.to[0].email  not an address   7 B\n     \
         3  2026-01-15T10:32:00Z  malformed    -             $.to[0].email  not an address   0 B\n     \
         4  2026-01-15T10:33:00Z  id_conflict  a and 1 more  $.to[0].email  not an address  23 B\n\
         4 messages rejected\n"
    );
    // The same again, and numbers stay whatever else is left out.
    assert_eq!(commands.run(&["rejected", "list"]).await.out(), listed);
    let newest = commands.run(&["rejected", "list", "--limit", "1"]).await.out();
    assert!(newest.contains("     4  2026-") && newest.ends_with("the newest 1 of 4 messages rejected; --limit shows more\n"), "{newest}");
    let malformed = commands.run(&["rejected", "list", "--reason", "malformed", "--json"]).await.lines();
    assert_eq!(malformed.iter().map(|line| &line["number"]).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(malformed[0]["path"], "$.to[0].email");
    let none = commands.run(&["rejected", "list", "--reason", "expired"]).await.out();
    assert_eq!(none, "nothing is rejected as expired; 4 rejected messages in all\n");
    commands.run(&["rejected", "list", "--reason", "expird"]).await.failed(2, &["'expird'", "expired"]);
    assert_eq!(vhost.queue_depth(REJECTED).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_about_one_is_shown() {
    let (vhost, _rabbit, commands) = four().await;
    let shown = commands.run(&["rejected", "show", "order-1"]).await.out();
    for part in [
        "number        1\n",
        "reason        invalid\n",
        "exchange      tarishi.jobs\n",
        "routing key   order.shipped\n",
        "problems      $.to[0].email: not an address (hint: write it like asha@example.com)\n              $.colour: unknown member\n",
        "headers       traceparent: 00-",
        "body          44 bytes\n\n{\n  \"id\": \"order-1\",\n  \"n\": 12345678901234567890.10\n}\n",
    ] {
        assert!(shown.contains(part), "no `{part}` in\n{shown}");
    }
    assert!(commands.run(&["rejected", "show", "2"]).await.out().contains("00000000  63 61 66 e9 20 00 ff"));
    assert!(commands.run(&["rejected", "show", "3"]).await.out().ends_with("body          0 bytes\n"));
    assert!(commands.run(&["rejected", "show", "b"]).await.out().contains("id            a, b\n"));
    for (which, body) in [("1", JSON), ("binary", BINARY), ("3", b"")] {
        let raw = commands.run(&["rejected", "show", which, "--raw"]).await;
        assert_eq!((raw.code, raw.bytes.as_slice()), (Some(0), body), "{which}");
    }
    let json = commands.run(&["rejected", "show", "1", "--json"]).await.out();
    assert!(json.contains(r#""body": {"id":"order-1","n":12345678901234567890.10}"#), "{json}");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["number"], &json["reason"], &json["problems"][1]["path"]), (&json!(1), &json!("invalid"), &json!("$.colour")));
    assert_eq!(json["headers"]["tarishi-exchange"], "tarishi.jobs");
    let binary: Value = serde_json::from_str(&commands.run(&["rejected", "show", "2", "--json"]).await.out()).unwrap();
    assert_eq!((&binary["body_base64"], &binary["properties"]["message_id"]), (&json!("Y2Fm6SAA/w=="), &json!("binary")));
    for which in ["5", "nobody", "id=1"] {
        commands.run(&["rejected", "show", which]).await.failed(1, &["not among the rejected messages: ", "tarishi rejected list"]);
    }
    assert_eq!(vhost.queue_depth(REJECTED).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_requeued_is_as_it_was_published() {
    let (vhost, rabbit, commands) = declared().await;
    let properties = rejected("invalid", LONG_AGO).with_content_encoding("gzip".into()).with_priority(7).with_correlation_id("c".into());
    put(&rabbit, properties.with_message_id("m".into()).with_timestamp(1_768_473_000), BINARY).await;
    put(&rabbit, rejected("malformed", LONG_AGO), b"").await;
    assert_eq!(commands.run(&["rejected", "requeue", "m"]).await.out(), "requeued 1 message; 1 left here\n");
    let message = rabbit.get(JOBS).await.unwrap();
    assert_eq!((message.exchange.as_str(), message.routing_key.as_str(), message.body.as_slice()), (JOBS, "order.shipped", BINARY));
    let names: Vec<&str> = message.headers.keys().map(String::as_str).filter(|name| *name != "x-delivery-count").collect();
    assert_eq!(names, ["traceparent"]);
    let properties = &message.properties;
    let texts = [properties.message_id(), properties.content_encoding(), properties.correlation_id(), properties.content_type()];
    assert_eq!(texts.map(|text| text.as_ref().unwrap().to_string()), ["m", "gzip", "c", "application/json"]);
    assert_eq!((*properties.priority(), *properties.timestamp(), *properties.delivery_mode()), (Some(7), Some(1_768_473_000), Some(2)));
    // An empty body has no frame of its own.
    assert_eq!(commands.run(&["rejected", "requeue", "--all", "--json"]).await.lines(), [json!({ "requeued": 1, "left": 0 })]);
    assert_eq!(rabbit.get(JOBS).await.unwrap().body, b"");
    assert_eq!(commands.run(&["rejected", "list"]).await.out(), "nothing is rejected\n");
    assert_eq!(commands.run(&["rejected", "requeue", "--all"]).await.out(), "requeued 0 messages; 0 left here\n");
    assert_eq!(vhost.queue_depth(REJECTED).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_a_thousand_goes_and_all_others_stay() {
    let (vhost, rabbit, commands) = declared().await;
    let at = |number: usize| format!("2026-01-15T{:02}:{:02}:00Z", number / 60, number % 60);
    let message = |number: usize| {
        let reason = if number.is_multiple_of(2) { "invalid" } else { "killed_worker" };
        (rejected(reason, &at(number)), json!({ "id": format!("order-{number}") }).to_string().into_bytes())
    };
    rabbit.publish_many("", REJECTED, (0..1000).map(message)).await;
    assert_eq!(commands.run(&["rejected", "requeue", "order-500"]).await.out(), "requeued 1 message; 999 left here\n");
    assert_eq!(rabbit.get(JOBS).await.unwrap().json()["id"], "order-500");
    let expected: Vec<Value> = (0..1000).filter(|number| *number != 500).map(|number| format!("order-{number}").into()).collect();
    assert_eq!(ids(&commands).await, expected);

    // By numbers, which are those of the list.
    let ran = commands.run(&["rejected", "requeue", "1", "501", "5000", "nobody"]).await;
    ran.failed(1, &["not among the rejected messages: number 5000, nobody"]);
    assert_eq!(ran.text(), "requeued 2 messages; 997 left here\n");
    let mut requeued: Vec<String> = rabbit.drain(JOBS).await.iter().map(|message| message.json()["id"].to_string()).collect();
    requeued.sort();
    assert_eq!(requeued, ["\"order-0\"", "\"order-501\""]);

    // By reason, and each is taken away by itself: none of those acknowledgements may get lost.
    let purged = commands.run(&["rejected", "purge", "--reason", "invalid", "--yes"]).await;
    assert_eq!(purged.out(), "removed 498 messages; 499 left here\n");
    assert_eq!(vhost.queue_depth(REJECTED).await, 499);
    let requeued = commands.run(&["rejected", "requeue", "--reason", "killed_worker"]).await;
    assert_eq!(requeued.out(), "requeued 499 messages; 0 left here\n");
    assert_eq!((rabbit.drain(JOBS).await.len(), vhost.queue_depth(REJECTED).await), (499, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn purging_asks_first() {
    let (vhost, rabbit, commands) = four().await;
    // No time is told of this one.
    put(&rabbit, persistent(), b"{}").await;
    for arguments in [&["purge"][..], &["requeue"], &["purge", "--yes"]] {
        let ran = commands.run(&[&["rejected"], arguments].concat()).await;
        ran.failed(2, &["nothing is chosen", "--reason REASON", "--all", "--older-than TIME"]);
    }
    commands.run(&["rejected", "purge", "--all"]).await.failed(2, &["there is no terminal to ask on", "--yes"]);
    commands.run(&["rejected", "purge", "1", "--all", "--yes"]).await.failed(2, &["cannot be used with"]);
    commands.run(&["rejected", "purge", "0", "--yes"]).await.failed(2, &["there is no message number 0"]);
    for (line, question) in
        [("--all", "Remove 5 rejected messages for good? [y/N]"), ("binary", "Remove 1 rejected message for good? [y/N]")]
    {
        let ran = commands.run_at_terminal(&format!("tarishi rejected purge {line}"), "n\n").await;
        assert!(ran.code == Some(1) && ran.text().contains(question) && ran.text().contains("nothing was removed"), "{}", ran.text());
    }
    assert_eq!(vhost.queue_depth(REJECTED).await, 5);
    let ran = commands.run_at_terminal("tarishi rejected purge binary", "y\n").await;
    assert!(ran.code == Some(0) && ran.text().contains("removed 1 message; 4 left here"), "{}", ran.text());

    let young = commands.run(&["rejected", "purge", "--older-than", "36500d", "--yes"]).await;
    assert_eq!(young.out(), "removed 0 messages; 4 left here\n");
    let both = commands.run(&["rejected", "purge", "--older-than", "1s", "--reason", "malformed", "--yes", "--json"]).await;
    assert_eq!(both.lines(), [json!({ "removed": 1, "left": 3 })]);
    let old = commands.run(&["rejected", "purge", "--older-than", "1s", "--yes"]).await;
    assert_eq!(old.out(), "removed 2 messages; 1 left here\n");
    assert_eq!(commands.run(&["rejected", "purge", "--all", "--yes"]).await.out(), "removed 1 message; 0 left here\n");
    assert_eq!(vhost.queue_depth(REJECTED).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_gave_up_says_why() {
    let (vhost, rabbit, commands) = declared().await;
    // The broker takes `user_id` only from that user: whoever requeues may be another.
    let properties = persistent().with_expiration("1".into()).with_user_id("guest".into());
    rabbit.publish(JOBS, "order.shipped", properties, br#"{"id":"late"}"#).await.taken();
    put(&rabbit, persistent(), b"by hand").await;
    until("both are there", async || (vhost.queue_depth(REJECTED).await == 2).then_some(())).await;
    let listed = commands.run(&["rejected", "list", "--json"]).await.lines();
    assert_eq!((&listed[0]["reason"], &listed[0]["rejected_at"]), (&json!("unknown"), &Value::Null));
    assert_eq!((&listed[1]["reason"], &listed[1]["problem"]), (&json!("expired"), &json!("expired in the queue tarishi.jobs")));
    let shown = commands.run(&["rejected", "show", "late"]).await.out();
    assert!(shown.contains("routing key   order.shipped\n") && shown.contains("x-death"), "{shown}");
    assert_eq!(commands.run(&["rejected", "requeue", "--reason", "expired"]).await.out(), "requeued 1 message; 1 left here\n");
    let message = rabbit.get(JOBS).await.unwrap();
    assert_eq!((message.routing_key.as_str(), message.body.as_slice()), ("order.shipped", &br#"{"id":"late"}"#[..]));
    assert!(message.properties.expiration().is_none() && message.properties.user_id().is_none());
    assert!(!message.headers.contains_key("x-death"), "{:?}", message.headers);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_requeued_stays() {
    let vhost = Vhost::new();
    let (rabbit, commands) = (Rabbit::connect(&vhost.url()).await, Commands::with_broker(&vhost.url()));
    rabbit.declare(REJECTED, &[]).await;
    put(&rabbit, rejected("invalid", LONG_AGO), JSON).await;
    let requeue = ["rejected", "requeue", "--all"];
    commands.run(&requeue).await.failed(5, &["there is no queue for jobs", "it declares the queue tarishi.jobs"]);
    rabbit.declare(JOBS, &[("x-max-length", AMQPValue::LongInt(1)), ("x-overflow", text("reject-publish"))]).await;
    rabbit.declare_exchange(JOBS).await;
    commands.run(&requeue).await.failed(5, &["NO_ROUTE", "0 messages requeued before that, all others are still here"]);
    assert_eq!(vhost.queue_depth(REJECTED).await, 1);
    rabbit.bind(JOBS, JOBS, "#").await;
    assert_eq!(commands.run(&requeue).await.out(), "requeued 1 message; 0 left here\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_leaves_it_in_both_queues() {
    let (vhost, rabbit, commands) = declared().await;
    put(&rabbit, rejected("invalid", LONG_AGO), JSON).await;
    put(&rabbit, rejected("invalid", LONG_AGO), b"{}").await;
    let crashing = Commands::with_broker(&vhost.url()).with("TARISHI_ABORT_AT", "rejected-republished");
    let process = crashing.start(&["rejected", "requeue", "order-1"]);
    assert_eq!(process.end().await.signal, Some(SIGABRT));
    assert_eq!(rabbit.get(JOBS).await.unwrap().body, JSON);
    // The broker notices that nobody holds them any more.
    until("both are back", async || (ids(&commands).await.len() == 2).then_some(())).await;
    assert_eq!(vhost.queue_depth(REJECTED).await, 2);
}
