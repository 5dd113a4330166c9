//! The wire contract: that `docs/asyncapi.yaml` is good in the eyes of its own parser and agrees with itself, with the schema of jobs, and
//! with what really goes over the wire.

use std::{collections::BTreeMap, process::Command};

use lapin::types::FieldTable;
use serde_json::{Value, json};

use crate::support::{Contract, Rabbit, Setup, Vhost, docs, job, node, persistent, recipient, text, until};

#[test]
fn the_schema_of_jobs_is_the_one_the_program_prints() {
    let printed = Command::new(env!("CARGO_BIN_EXE_tarishi")).args(["schema", "job"]).output().unwrap();
    let kept = std::fs::read(docs().join("schemas/job.json")).unwrap();
    assert!(printed.stdout == kept, "out of date: tarishi schema job > docs/schemas/job.json");
}

#[tokio::test]
async fn the_document_is_good_asyncapi() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/validate_asyncapi.js");
    let process = node(&[script.to_owned(), Contract::path().display().to_string()], &BTreeMap::new());
    let ended = process.end().await;
    let told = process.lines();
    assert_eq!(ended.code, Some(0), "{told:#?}");
    // The parser has news of a later version of AsyncAPI, and nothing else to say.
    let complaints: Vec<&String> = told.iter().filter(|line| line.starts_with("error: ") || line.starts_with("warning: ")).collect();
    assert!(complaints.is_empty(), "{told:#?}");
    assert_eq!(told.last().unwrap(), "5 operations, 7 messages");
}

#[test]
fn its_examples_are_as_it_says() {
    let contract = Contract::load();
    for (name, message) in contract.at("/components/messages").as_object().unwrap() {
        let examples = message["examples"].as_array().unwrap();
        assert!(!examples.is_empty(), "{name}");
        for example in examples {
            for part in ["payload", "headers"] {
                if let Some(value) = example.get(part) {
                    contract.check(&format!("/components/messages/{name}/{part}"), value);
                }
            }
        }
    }
    // And it can say no.
    assert!(!contract.problems("/components/messages/job/payload", &json!({ "id": "1", "templte": "generic" })).is_empty());
    assert!(!contract.problems("/components/messages/jobs/payload", &json!([job("", &[recipient("1")], &[])])).is_empty());
    let mut event = contract.at("/components/messages/delivery/examples/0/payload").clone();
    event["data"]["address"] = "asha@example.com".into();
    assert_eq!(contract.problems("/components/messages/delivery/payload", &event).len(), 1);
}

#[tokio::test]
async fn what_the_daemon_publishes_is_as_it_says() {
    let contract = Contract::load();
    let vhost = Vhost::new();
    let mut setup = Setup::new().with_quick_retries().with("amqp.url", &vhost.url()).with("amqp.events.enabled", "true");
    let rabbit = Rabbit::connect(&vhost.url()).await;
    let mut events = rabbit.listen("tarishi.events", "#").await;
    let daemon = setup.start().await;
    daemon.process.until("it consumes", async || (daemon.api.get("/readyz").await.status == 200).then_some(())).await;

    let mut headers = FieldTable::default();
    headers.insert("traceparent".into(), text("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
    headers.insert("shop".into(), text("dar"));
    let mut good = job("order-1", &[recipient("42")], &["email", "sms", "push", "live"]);
    good["metadata"] = json!({ "tenant": "smartdalali" });
    contract.check("/components/messages/job/payload", &good);
    let body = good.to_string().into_bytes();
    rabbit.publish("tarishi.jobs", "job", persistent().with_headers(headers.clone()), &body).await.taken();
    let finished = events.find(|message| {
        let event = message.json();
        assert_eq!(event["traceparent"], "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        assert_eq!(event["data"]["metadata"], good["metadata"]);
        if message.routing_key == "job.finished" {
            contract.check_message("jobFinished", message);
            return Some(event);
        }
        contract.check_message("delivery", message);
        let data = &event["data"];
        assert_eq!(message.routing_key, format!("delivery.{}.{}", data["channel"].as_str().unwrap(), data["status"].as_str().unwrap()));
        None
    });
    assert_eq!(finished.await["data"]["statuses"], json!({ "sent": 4 }));

    let mut bad = good;
    bad["templte"] = json!("generic");
    let properties = persistent().with_headers(headers).with_message_id("order-2".into()).with_expiration("600000".into());
    rabbit.publish("tarishi.jobs", "job", properties, bad.to_string().as_bytes()).await.taken();
    let rejected = rabbit.next("tarishi.rejected").await;
    contract.check_message("rejected", &rejected);
    assert_eq!(rejected.json(), bad);
    let expected: [(&str, Value); 6] = [
        ("tarishi-reason", json!("invalid")),
        ("tarishi-path", json!("$.templte")),
        ("tarishi-hint", json!("did you mean `template`?")),
        ("tarishi-exchange", json!("tarishi.jobs")),
        ("tarishi-routing-key", json!("job")),
        ("shop", json!("dar")),
    ];
    for (name, value) in expected {
        assert_eq!(rejected.headers.get(name), Some(&value), "{name}");
    }
    until("both are acknowledged", async || (vhost.queue_depth("tarishi.jobs").await == 0).then_some(())).await;
}
