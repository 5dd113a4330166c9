//! The ways to hand in jobs that producers copy from `docs/enqueue/`, each run as it stands there.

use std::{collections::BTreeMap, path::PathBuf};

use lapin::types::AMQPValue;
use serde_json::json;

use crate::support::{Contract, Daemon, Fate, Process, Rabbit, Setup, Vhost, docs, node, persistent, python, text, until};

const JOBS: &str = "tarishi.jobs";
/// Gets what the exchange gets.
const COPY: &str = "a copy";
/// Nobody listens there.
const NOBODY: &str = "127.0.0.1:9";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Pika,
    Django,
    Amqplib,
    Lapin,
    Curl,
}

impl Client {
    /// Hands in a job of this id.
    fn start(self, id: &str, variables: &[(&str, &str)]) -> Process {
        let mut env: BTreeMap<String, String> = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let example = |name: &str| docs().join("enqueue").join(name).display().to_string();
        match self {
            Self::Pika => python(&[example("python_pika.py"), id.to_owned()], &env),
            Self::Django => {
                env.insert("PYTHONPATH".to_owned(), example(""));
                let project = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/django_project.py");
                python(&[project.to_owned(), id.to_owned()], &env)
            }
            Self::Amqplib => node(&[example("node_amqplib.js"), id.to_owned()], &env),
            Self::Lapin => Process::start(rust_example("rust_lapin"), &[id.to_owned()], &env, &docs()),
            Self::Curl => Process::start(example("curl.sh"), &[id.to_owned()], &env, &docs()),
        }
    }

    /// The same, to its end: whether it says that all is well, and what else it says.
    async fn run(self, id: &str, variables: &[(&str, &str)]) -> (bool, String) {
        let process = self.start(id, variables);
        let ended = process.end().await;
        let said = process.lines().join("\n");
        assert!(matches!(ended.code, Some(0 | 1 | 22)), "{self:?}: {ended:?}\n{said}");
        (ended.code == Some(0), said)
    }
}

/// Built with the tests.
fn rust_example(name: &str) -> PathBuf {
    // target/release/deps/it-…
    let tests = std::env::current_exe().unwrap();
    tests.ancestors().nth(2).unwrap().join("examples").join(name)
}

async fn started(vhost: &Vhost) -> (Setup, Daemon) {
    let mut setup = Setup::new().with("amqp.url", &vhost.url());
    let daemon = setup.start().await;
    daemon.process.until("it consumes", async || (daemon.api.get("/readyz").await.status == 200).then_some(())).await;
    (setup, daemon)
}

/// Waits for a job that somebody else hands in, and for its end.
async fn finished(daemon: &Daemon, id: &str) {
    let there = async || (daemon.api.get(&format!("/v1/jobs/{id}")).await.status == 200).then_some(());
    daemon.process.until("the job arrives", there).await;
    daemon.finished(id).await;
}

/// What it publishes is as the contract says, and becomes a job; twice the same is one.
async fn check_arrives(client: Client) {
    let vhost = Vhost::new();
    let (setup, daemon) = started(&vhost).await;
    let rabbit = Rabbit::connect(&vhost.url()).await;
    rabbit.declare(COPY, &[]).await;
    rabbit.bind(COPY, JOBS, "#").await;
    for _ in 0..2 {
        let (good, said) = client.run("order-1", &[("TARISHI_AMQP_URL", &vhost.url())]).await;
        assert!(good && said.ends_with("order-1"), "{said}");
        let message = rabbit.get(COPY).await.expect("what is confirmed is there");
        Contract::load().check_message("job", &message);
        assert_eq!((message.routing_key.as_str(), &message.json()["id"]), ("job", &json!("order-1")));
        assert_eq!(message.properties.message_id().as_ref().unwrap().as_str(), "order-1");
        assert_eq!(message.properties.content_type().as_ref().unwrap().as_str(), "application/json");
    }
    finished(&daemon, "order-1").await;
    until("both are acknowledged", async || (vhost.queue_depth(JOBS).await == 0).then_some(())).await;
    assert_eq!(vhost.queue_depth("tarishi.rejected").await, 0);
    let mails = setup.record().into_values().filter(|(_, channel)| channel == "email").map(|(times, _)| times).sum::<u64>();
    assert_eq!(mails, 1);
    assert_eq!(vhost.queue_depth(COPY).await, 0, "something that was rolled back, or published twice");
}

/// When the job is not on its way it says so.
async fn check_notices(client: Client) {
    let run = async |url: &str| client.run("order-1", &[("TARISHI_AMQP_URL", url)]).await;
    let (good, said) = run(&format!("amqp://guest:guest@{NOBODY}/")).await;
    assert!(!good, "without a broker: {said}");

    let vhost = Vhost::new();
    let rabbit = Rabbit::connect(&vhost.url()).await;
    let (good, said) = run(&vhost.url()).await;
    assert!(!good && said.contains("NOT_FOUND"), "without the exchange: {said}");

    rabbit.declare_exchange(JOBS).await;
    let (good, said) = run(&vhost.url()).await;
    let tells = said.contains("no queue takes it") || said.contains("UnroutableError");
    assert!(!good && tells, "without the queue: {said}");

    rabbit.declare(JOBS, &[("x-max-length", AMQPValue::LongInt(0)), ("x-overflow", text("reject-publish"))]).await;
    rabbit.bind(JOBS, JOBS, "#").await;
    let is_full = async || (rabbit.publish("", JOBS, persistent(), b"").await == Fate::Refused).then_some(());
    until("the queue is full", is_full).await;
    let (good, said) = run(&vhost.url()).await;
    assert!(!good, "with a full queue: {said}");
}

#[tokio::test]
async fn from_python() {
    check_arrives(Client::Pika).await;
    check_notices(Client::Pika).await;
}

#[tokio::test]
async fn from_django() {
    check_arrives(Client::Django).await;
    check_notices(Client::Django).await;
}

#[tokio::test]
async fn from_node() {
    check_arrives(Client::Amqplib).await;
    check_notices(Client::Amqplib).await;
}

#[tokio::test]
async fn from_rust() {
    check_arrives(Client::Lapin).await;
    check_notices(Client::Lapin).await;
}

#[tokio::test]
async fn from_django_over_http_when_the_broker_is_down() {
    let mut setup = Setup::new();
    let daemon = setup.start().await;
    let url = format!("amqp://guest:guest@{NOBODY}/");
    let (good, said) =
        Client::Django.run("order-1", &[("TARISHI_AMQP_URL", &url), ("TARISHI_URL", &format!("http://{}", daemon.admin))]).await;
    assert!(good && said.contains("not confirmed by the broker"), "{said}");
    finished(&daemon, "order-1").await;
    assert_eq!(daemon.api.get("/v1/jobs/order-1-undone").await.status, 404);
}

#[tokio::test]
async fn from_a_shell() {
    let mut setup = Setup::new();
    let daemon = setup.start().await;
    let url = format!("http://{}", daemon.admin);
    for repeated in [false, true] {
        let (good, said) = Client::Curl.run("order-1", &[("TARISHI_URL", &url)]).await;
        assert!(good && said.contains(&format!("\"repeated\":{repeated}")), "{said}");
    }
    finished(&daemon, "order-1").await;
    let (good, said) = Client::Curl.run(" ", &[("TARISHI_URL", &url)]).await;
    assert!(!good && said.contains("$.id"), "what is wrong with it is shown: {said}");
}
