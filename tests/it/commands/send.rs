//! `tarishi send --amqp`.

use std::collections::BTreeSet;

use lapin::types::AMQPValue;
use serde_json::json;

use super::{JOBS, REJECTED, declared};
use crate::support::{Commands, Rabbit, Setup, Vhost, text};

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_on_the_queue_once_it_says_so() {
    let (vhost, rabbit, commands) = declared().await;
    let sent = commands.run(&["send", "--amqp", "--template", "generic", "--to", "42", "--id", "order-1"]).await;
    assert_eq!(sent.out(), "published order-1: it is on the queue tarishi.jobs\n");
    let message = rabbit.get(JOBS).await.unwrap();
    assert_eq!(message.json(), json!({ "v": 1, "id": "order-1", "template": "generic", "to": [{ "user_id": "42" }] }));
    assert_eq!((message.exchange.as_str(), message.routing_key.as_str()), (JOBS, "job"));
    let properties = &message.properties;
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "order-1");
    assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/json");
    assert_eq!(*properties.delivery_mode(), Some(2));

    // More than one window of them, and one whose id is too long for a property.
    let long = "x".repeat(300);
    let jobs = format!("{}\n{}\n", json!({ "id": "a", "n": 1.5 }), json!({ "id": long }));
    let sent = commands.run_with_input(&["send", "-", "--amqp", "--repeat", "1000", "--json"], &jobs).await;
    let told: Vec<String> = sent.lines().iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect();
    let messages = rabbit.drain(JOBS).await;
    let found: Vec<String> = messages.iter().map(|message| message.json()["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!((told.len(), told), (2000, found));
    assert!(messages[1].properties.message_id().is_none());
    assert_eq!(vhost.queue_depth(JOBS).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_queue_takes_does_not_count_as_sent() {
    const LIMIT: i32 = 300;
    let vhost = Vhost::new();
    let (rabbit, commands) = (Rabbit::connect(&vhost.url()).await, Commands::with_broker(&vhost.url()));
    let full = [("x-max-length", AMQPValue::LongInt(LIMIT)), ("x-overflow", text("reject-publish"))];
    rabbit.declare(JOBS, &full).await;
    let send = ["send", "--amqp", "--template", "generic", "--to", "42", "--id", "a", "--repeat", "2000"];
    // The queue is there, and the exchange is not; then the exchange leads nowhere; then the queue is full at some time.
    commands.run(&send).await.failed(5, &["no exchange 'tarishi.jobs'", "none of the 2000 jobs counts as published"]);
    rabbit.declare_exchange(JOBS).await;
    commands.run(&send).await.failed(5, &["there is no queue for it: NO_ROUTE", "is the daemon running", "recognised by its id"]);
    commands.run(&send[..8]).await.failed(5, &["NO_ROUTE", "is the daemon running"]);
    rabbit.bind(JOBS, JOBS, "#").await;
    let ran = commands.run(&send).await;
    ran.failed(5, &["did not take the message", "is the queue tarishi.jobs full?", " of 2000 jobs are on the queue, nothing from a-"]);
    let taken: usize = ran.errors.split_once("the first ").unwrap().1.split(' ').next().unwrap().parse().unwrap();
    let there: BTreeSet<String> =
        rabbit.drain(JOBS).await.iter().map(|message| message.json()["id"].as_str().unwrap().to_owned()).collect();
    assert!(taken > 0 && (1..=taken).all(|number| there.contains(&format!("a-{number}"))), "{taken} of {there:?}");
}

#[tokio::test]
async fn options_that_do_not_go_together_are_refused() {
    let commands = Commands::with_broker("amqp://127.0.0.1:1/").with("TARISHI_SERVER", "http://127.0.0.1:1");
    let send = ["send", "--amqp", "--template", "generic", "--to", "42"];
    let with_server = [&send[..], &["--server", "http://127.0.0.1:2"]].concat();
    commands.run(&with_server).await.failed(2, &["no meaning with --amqp", "only --wait asks the daemon"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_asks_the_daemon_what_became_of_them() {
    let vhost = Vhost::new();
    let mut setup = Setup::new().with("amqp.url", &vhost.url());
    let daemon = setup.start().await;
    daemon.process.until("it consumes", async || (daemon.api.get("/readyz").await.status == 200).then_some(())).await;
    let commands = Commands::with_broker(&vhost.url()).with("TARISHI_SERVER", &format!("http://{}", daemon.admin));
    let base = ["send", "--amqp", "--template", "generic", "--to", "42,email=asha@example.com", "--channel", "email"];
    let data = ["--data", "title=Habari", "--data", "message=Habari ya leo", "--repeat", "300", "--wait"];
    let sent = commands.run(&[&base[..], &data].concat()).await;
    assert!(sent.out().ends_with("300 sent\n"), "{}", sent.text());
    let sent = commands.run(&[&base[..], &data, &["--id", "again", "--json"]].concat()).await.lines();
    assert_eq!((sent.len(), &sent[0]["id"], &sent[0]["deliveries"]), (300, &json!("again-1"), &json!(1)));
    assert_eq!(sent[0]["statuses"], json!({ "sent": 1 }));

    // One that it does not take is never known to it, and says where to look.
    let bad = ["send", "--amqp", "--template", "generic", "--to", "42", "--channel", "email", "--id", "bad", "--wait=1s"];
    let ran = commands.run_with_input(&[&bad[..], &["--topic", "t"]].concat(), "").await;
    ran.failed(1, &["has not accepted job bad in time", "tarishi rejected list"]);
    let rejected = commands.run(&["rejected", "list", "--json"]).await.lines();
    assert_eq!((rejected.len(), &rejected[0]["id"], &rejected[0]["reason"]), (1, &json!("bad"), &json!("invalid")));
    // It is as bad as before: it comes back, and this pass is over all the same.
    let requeued = commands.run(&["rejected", "requeue", "--all"]).await;
    assert_eq!(requeued.out(), "requeued 1 message; 0 left here\n");
    let is_back = || async { (vhost.queue_depth(REJECTED).await == 1).then_some(()) };
    daemon.process.until("it is rejected again", is_back).await;
}
