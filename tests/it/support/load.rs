//! Producers that hand in jobs until each has been acknowledged, whatever happens to the daemon meanwhile, and the checker that holds
//! what they were promised against what became of it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};

use super::{Answer, Api, Daemon, Fate, Rabbit, Setup, StoreFile, job, persistent, process::PATIENCE, recipient};

/// How long a producer waits for word of a daemon before it tries again.
const TRY_AGAIN: Duration = Duration::from_millis(10);
/// How long the opening of a connection to the broker may take.
const OPENING: Duration = Duration::from_secs(10);
/// Channels that the outbox stands in for: each of their messages is a line in its record.
const RECORDED: [&str; 3] = ["email", "sms", "push"];

/// What was handed in and acknowledged: by job id, how many deliveries the acknowledgement spoke of.
type Acknowledged = BTreeMap<String, u64>;

/// Producers at work.
pub struct Producers {
    acknowledged: Arc<Mutex<Acknowledged>>,
    requests: AtomicU32,
    working: JoinSet<()>,
    count: watch::Sender<usize>,
    daemon: watch::Sender<Option<SocketAddr>>,
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub jobs: usize,
    pub deliveries: usize,
    /// Messages beyond the first of their delivery.
    pub duplicates: u64,
    pub unknown_outcomes: u64,
}

impl Producers {
    pub fn new() -> Self {
        Self {
            acknowledged: Arc::default(),
            requests: AtomicU32::new(0),
            working: JoinSet::new(),
            count: watch::Sender::new(0),
            daemon: watch::Sender::new(None),
        }
    }

    /// Where they send to from now on.
    pub fn use_daemon(&self, daemon: &Daemon) {
        self.daemon.send_replace(Some(daemon.admin));
    }

    /// Sends these requests one after the other, each a job or an array of them, as one producer.
    pub fn start(&mut self, bodies: Vec<Value>) {
        self.requests.fetch_add(u32::try_from(bodies.len()).unwrap(), Ordering::Relaxed);
        let (acknowledged, count, daemon) = (self.acknowledged.clone(), self.count.clone(), self.daemon.subscribe());
        self.working.spawn(async move {
            for body in bodies {
                hand_in(&body, &acknowledged, daemon.clone()).await;
                count.send_modify(|count| *count += 1);
            }
        });
    }

    /// One producer's mix of single jobs, arrays and, when asked, a job of so many recipients. Ids start with `name`.
    pub fn start_mix(&mut self, name: &str, requests: usize, large: Option<usize>) {
        let mut bodies: Vec<Value> = (0..requests).map(|number| mixed(&format!("{name}-{number}"), number)).collect();
        if let Some(recipients) = large {
            let to: Vec<Value> = (0..recipients).map(|number| recipient(&format!("{name}-of-many-{number}"))).collect();
            bodies.insert(requests / 3, job(&format!("{name}-large"), &to, &["email"]));
        }
        self.start(bodies);
    }

    /// Publishes jobs to the broker as one producer, one after the other, each until the broker has confirmed it. What is confirmed counts
    /// as acknowledged.
    pub fn start_amqp(&mut self, url: &str, name: &str, jobs: usize) {
        const CHANNELS: [&str; 2] = ["email", "live"];
        self.requests.fetch_add(u32::try_from(jobs).unwrap(), Ordering::Relaxed);
        let (acknowledged, count, url, name) = (self.acknowledged.clone(), self.count.clone(), url.to_owned(), name.to_owned());
        self.working.spawn(async move {
            let mut rabbit = None;
            for number in 0..jobs {
                let id = format!("{name}-{number}");
                let body = job(&id, &[recipient(&format!("user-{}", number % 50))], &CHANNELS).to_string().into_bytes();
                publish(&mut rabbit, &url, &body).await;
                acknowledged.lock().unwrap().insert(id, CHANNELS.len() as u64);
                count.send_modify(|count| *count += 1);
            }
        });
    }

    /// Requests acknowledged so far.
    pub fn done(&self) -> usize {
        *self.count.borrow()
    }

    /// Requests in all.
    pub fn wanted(&self) -> usize {
        self.requests.load(Ordering::Relaxed) as usize
    }

    /// Waits until so many requests have been acknowledged, or all of them.
    pub async fn acknowledged(&self, requests: usize) {
        let wanted = requests.min(self.wanted());
        let mut count = self.count.subscribe();
        let reached = tokio::time::timeout(PATIENCE, count.wait_for(|count| *count >= wanted)).await;
        assert!(reached.is_ok(), "{} of {wanted} requests acknowledged within {PATIENCE:?}", self.done());
    }

    /// Waits until every request has been acknowledged.
    pub async fn finish(&mut self) {
        let all = async {
            while let Some(ended) = self.working.join_next().await {
                ended.unwrap();
            }
        };
        let finished = tokio::time::timeout(PATIENCE, all).await;
        assert!(finished.is_ok(), "{} of {} requests acknowledged within {PATIENCE:?}", self.done(), self.wanted());
    }

    /// Ends `daemon` in good order once everything has ended, and holds what was promised against what became of it: nothing lost,
    /// nothing doubled but by an unknown outcome of that very delivery, nothing unaccounted for.
    pub async fn check(&mut self, setup: &Setup, daemon: &Daemon) -> Figures {
        self.finish().await;
        daemon.drained().await;
        let audit = daemon.api.get("/v1/audit").await.expect(200);
        assert_eq!(audit["balanced"], true, "{audit:#}");
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        assert_eq!(audit["accepted"].as_u64().unwrap(), acknowledged.values().sum::<u64>(), "accepted, and acknowledged");
        let mut record = setup.record();
        let mut figures = Figures { jobs: acknowledged.len(), ..Figures::default() };
        for (id, promised) in &acknowledged {
            let deliveries = daemon.deliveries(id).await;
            assert_eq!(deliveries.len() as u64, *promised, "deliveries of {id}");
            figures.deliveries += deliveries.len();
            for delivery in &deliveries {
                let (duplicates, unknown) = check_delivery(delivery, &mut record);
                figures.duplicates += duplicates;
                figures.unknown_outcomes += unknown;
            }
        }
        assert!(record.is_empty(), "messages of deliveries that were never accepted: {record:?}");
        assert_eq!(audit["unknown_outcomes"].as_u64().unwrap(), figures.unknown_outcomes, "unknown outcomes counted, and found");
        assert_eq!(daemon.terminate().await.code, Some(0));
        let store = StoreFile::open(&setup.store_path());
        store.check_integrity();
        store.check_inbox();
        figures
    }
}

/// A delivery that was promised: sent, and its messages no more than its attempts can explain. Duplicates and unknown outcomes.
#[track_caller]
fn check_delivery(delivery: &Value, record: &mut std::collections::HashMap<String, (u64, String)>) -> (u64, u64) {
    let status = delivery["status"].as_str().unwrap();
    assert!(status == "sent" || status == "delivered", "not sent: {delivery:#}");
    let outcomes =
        |wanted: &str| delivery["attempts"].as_array().unwrap().iter().filter(|attempt| attempt["outcome"] == wanted).count() as u64;
    let unknown = outcomes("unknown");
    assert_eq!(outcomes("sent"), 1, "sent once, as far as anybody knows: {delivery:#}");
    let channel = delivery["channel"].as_str().unwrap();
    if !RECORDED.contains(&channel) {
        assert_eq!(unknown, 0, "{delivery:#}");
        return (0, 0);
    }
    let Some((messages, recorded_channel)) = record.remove(delivery["id"].as_str().unwrap()) else { panic!("lost: {delivery:#}") };
    assert_eq!(recorded_channel, channel);
    assert!(messages - 1 <= unknown, "{messages} messages with {unknown} unknown outcomes: {delivery:#}");
    (messages - 1, unknown)
}

/// Sends one request until it has been acknowledged.
async fn hand_in(body: &Value, acknowledged: &Mutex<Acknowledged>, mut daemon: watch::Receiver<Option<SocketAddr>>) {
    let deadline = Instant::now() + PATIENCE;
    let mut connected: Option<(SocketAddr, Api)> = None;
    loop {
        let address = *daemon.borrow_and_update();
        if let Some(address) = address {
            let api = match connected.take() {
                Some((known, api)) if known == address => api,
                _ => Api::new(format!("http://{address}")),
            };
            let answer = Answer::of(api.request(reqwest::Method::POST, "/v1/jobs").json(body)).await;
            connected = Some((address, api));
            match answer {
                Ok(answer) if answer.status == 202 => return keep(&answer.body, body, acknowledged),
                // It said that it has not taken anything, or nobody knows whether it has: once more, under the same ids.
                Ok(answer) if matches!(answer.status, 429 | 503) => assert!(answer.headers.contains_key("retry-after")),
                Ok(answer) => panic!("{}: {}", answer.status, answer.text),
                Err(_) => {}
            }
        }
        assert!(Instant::now() < deadline, "not acknowledged within {PATIENCE:?}");
        let _ = tokio::time::timeout(TRY_AGAIN, daemon.changed()).await;
    }
}

/// Publishes one job until the broker has it, over as many connections as that takes.
async fn publish(rabbit: &mut Option<Rabbit>, url: &str, body: &[u8]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if rabbit.is_none() {
            // A broker that is on its way up may leave an opening unanswered for good.
            *rabbit = tokio::time::timeout(OPENING, Rabbit::try_connect(url)).await.ok().and_then(Result::ok);
        }
        if let Some(open) = rabbit {
            match open.try_publish("tarishi.jobs", "job", persistent(), body).await {
                Ok(Fate::Taken) => return,
                // No queue wants it while the daemon has yet to declare one.
                Ok(_) => {}
                Err(_) => *rabbit = None,
            }
        }
        assert!(Instant::now() < deadline, "the broker took no job within {PATIENCE:?}");
        let _ = tokio::time::timeout(TRY_AGAIN, std::future::pending::<()>()).await;
    }
}

/// Notes what was acknowledged, in the order it was asked for.
fn keep(answer: &Value, body: &Value, acknowledged: &Mutex<Acknowledged>) {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
    let (answers, jobs) = (list(answer), list(body));
    assert_eq!(answers.len(), jobs.len());
    let mut acknowledged = acknowledged.lock().unwrap();
    for (answer, job) in answers.iter().zip(&jobs) {
        assert_eq!(answer["id"], job["id"]);
        acknowledged.insert(job["id"].as_str().unwrap().to_owned(), answer["deliveries"].as_u64().unwrap());
    }
}

/// Mostly single jobs on every channel, and now and then an array.
fn mixed(id: &str, number: usize) -> Value {
    const ALL: [&str; 4] = ["email", "sms", "push", "live"];
    let one = |id: &str, recipients: usize| {
        let to: Vec<Value> = (0..recipients).map(|number| recipient(&format!("user-{}", number + id.len()))).collect();
        job(id, &to, &ALL)
    };
    match number % 5 {
        4 => json!((0..5).map(|place| one(&format!("{id}-{place}"), 1)).collect::<Vec<_>>()),
        recipients => one(id, recipients + 1),
    }
}
