//! The commands that speak to the broker themselves, through the built binary, against a real broker and mostly without a daemon.

mod events;
mod rejected;
mod send;

use lapin::{BasicProperties, types::FieldTable};
use serde_json::json;
use tarishi::{
    amqp::{self, Purpose},
    config,
};

use crate::support::{Commands, Rabbit, Vhost, persistent, text};

const JOBS: &str = "tarishi.jobs";
const REJECTED: &str = "tarishi.rejected";
const EVENTS: &str = "tarishi.events";

/// A virtual host of its own with all that the daemon declares, a connection there, and commands that use it.
async fn declared() -> (Vhost, Rabbit, Commands) {
    let vhost = Vhost::new();
    let rabbit = Rabbit::connect(&vhost.url()).await;
    let overrides = vec![("amqp.url".to_owned(), vhost.url().into())];
    let config = config::load(&config::Sources { overrides, ..config::Sources::default() }).unwrap();
    let broker = amqp::Broker::new(&config.amqp, "test").unwrap();
    let (connection, _) = broker.connect(Purpose::Command).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    amqp::declare_jobs(&broker, &channel).await.unwrap();
    amqp::declare_events(&broker, &channel).await.unwrap();
    connection.close(200, "done".into()).await.unwrap();
    let commands = Commands::with_broker(&vhost.url());
    (vhost, rabbit, commands)
}

/// What the daemon writes on what it rejects.
fn rejected(reason: &str, at: &str) -> BasicProperties {
    let problems = json!([
        { "path": "$.to[0].email", "problem": "not an address", "hint": "write it like asha@example.com" },
        { "path": "$.colour", "problem": "unknown member", "hint": "" },
    ]);
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("tarishi-reason", reason),
        ("tarishi-problem", "not an address"),
        ("tarishi-path", "$.to[0].email"),
        ("tarishi-hint", "write it like asha@example.com"),
        ("tarishi-problems", &problems.to_string()),
        ("tarishi-rejected-at", at),
        ("tarishi-exchange", JOBS),
        ("tarishi-routing-key", "order.shipped"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ] {
        headers.insert(name.into(), text(value));
    }
    persistent().with_headers(headers)
}

#[tokio::test]
async fn without_a_broker_they_say_what_to_set() {
    let commands = Commands::new();
    for arguments in [
        &["send", "--amqp", "--template", "generic", "--to", "42"][..],
        &["events", "tail"],
        &["rejected", "list"],
        &["rejected", "show", "1"],
        &["rejected", "requeue", "--all"],
        &["rejected", "purge", "--all", "--yes"],
    ] {
        commands.run(arguments).await.failed(3, &["the configuration names no broker", "hint: set `amqp.url`"]);
    }
}

#[tokio::test]
async fn a_broker_that_is_not_there_or_does_not_let_us_in_is_told() {
    let nobody = Commands::with_broker("amqp://guest:secret@127.0.0.1:1/");
    for arguments in [&["rejected", "list"][..], &["events", "tail"]] {
        let ran = nobody.run(arguments).await;
        ran.failed(4, &["the broker at amqp://guest:***@127.0.0.1:1/%2F: connecting", "Connection refused", "amqp.url"]);
        assert!(!ran.errors.contains("secret") && ran.errors.lines().count() == 2, "{}", ran.errors);
    }
    let vhost = Vhost::new();
    let stranger = Commands::with_broker(&vhost.url().replace("guest:guest", "guest:wrong"));
    stranger.run(&["rejected", "list"]).await.failed(5, &["ACCESS_REFUSED", "check the user"]);
}

#[tokio::test]
async fn what_was_never_declared_is_told_with_who_declares_it() {
    let vhost = Vhost::new();
    let commands = Commands::with_broker(&vhost.url());
    for arguments in [&["list"][..], &["show", "1"], &["requeue", "--all"], &["purge", "--all", "--yes"]] {
        let ran = commands.run(&[&["rejected"], arguments].concat()).await;
        ran.failed(5, &["there is no queue of rejected messages", "has a daemon run with [amqp]?"]);
    }
    commands.run(&["events", "tail"]).await.failed(5, &["there are no events", "amqp.events.enabled"]);
    let sent = commands.run(&["send", "--amqp", "--template", "generic", "--to", "42"]).await;
    sent.failed(5, &["there is no queue for jobs", "is the daemon running with [amqp]? it declares the queue tarishi.jobs"]);
}
