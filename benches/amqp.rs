//! How fast jobs go from RabbitMQ's queue to a provider over HTTP, beside a bound measured in the same run.
//!
//! The daemon runs as it ships (its own process, its log on, the store on, publishing no events), with a provider for every channel that
//! posts what the push channel composes to a double on loopback. The bound consumes the same queue with the same prefetch, posts the same
//! bytes with the same client and concurrency, acknowledges in batches of 64, and stores nothing. Broker, double and daemon share the
//! machine.
//!
//! `cargo bench --bench amqp -- [--jobs 20000] [--rounds 3] [--only NAME]`

#[path = "support/broker.rs"]
mod broker;

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use lapin::{
    BasicProperties,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions,
        QueuePurgeOptions,
    },
    types::FieldTable,
};
use tarishi::{
    amqp::{self, Broker, Purpose},
    channel::{ProbeFailure, Provider, push},
    config,
    model::{Body, Code, Message, Outcome, PerChannel, Push, PushTarget, Timestamp},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Calls to the provider at once, in the daemon and in the bound.
const CONCURRENCY: usize = 256;
const PREFETCH: u16 = 512;
/// Messages the bound acknowledges at once.
const ACK_BATCH: usize = 64;
const MESSAGE: &str = "Is the flat in Mikocheni still free, and may I see it on Saturday? ";
/// As long as FCM's are.
const TOKEN_LENGTH: usize = 152;
const PARTS: [&str; 3] = ["daemon", "bound", "double"];

fn main() -> ExitCode {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let part = std::env::var("BENCH_PART").unwrap_or_default();
    let done = match part.as_str() {
        "daemon" => return tarishi::cli::run_with(PerChannel::from_fn(|_| vec![Arc::new(HttpProvider::new()) as Arc<dyn Provider>])),
        "bound" => on_runtime(run_bound()),
        "double" => on_runtime(run_double()),
        _ => compare(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn on_runtime(part: impl Future<Output = Fallible<()>>) -> Fallible<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(part)
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

// What is compared.

/// One kind of job.
struct Case {
    name: &'static str,
    /// Jobs for each of the jobs asked for: fewer where one is much work.
    share: f64,
    /// Deliveries over HTTP of one job.
    calls: u64,
    /// Deliveries to inboxes, which need no provider.
    live: u64,
    latency: Duration,
}

const CASES: [Case; 4] = [
    Case { name: "one push, provider at 0 ms", share: 1.0, calls: 1, live: 0, latency: Duration::ZERO },
    Case { name: "one push, provider at 50 ms", share: 1.0, calls: 1, live: 0, latency: Duration::from_millis(50) },
    Case { name: "four channels", share: 0.3, calls: 3, live: 1, latency: Duration::ZERO },
    Case { name: "1 000 recipients", share: 0.002, calls: 1000, live: 0, latency: Duration::ZERO },
];

/// What one run came to.
#[derive(Clone, Copy)]
struct Measured {
    jobs_per_second: f64,
    cpu_micros_per_job: f64,
}

fn compare() -> Fallible<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let broker = broker::Broker::start()?;
    let double = Part::start("double", &[])?;
    println!(
        "{} jobs of about 1 KB a round, fewer of the larger ones; {CONCURRENCY} calls at once; median of {} rounds, each daemon then bound\n",
        options.jobs, options.rounds
    );
    println!("{:<30}{:>10}{:>10}{:>8}{:>14}{:>14}{:>8}", "", "jobs/s", "bound", "ratio", "CPU us/job", "bound", "ratio");
    for case in CASES.iter().filter(|case| options.only.as_ref().is_none_or(|only| case.name.contains(only.as_str()))) {
        let (mut daemon, mut bound) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            let jobs = as_u64(as_f64(options.jobs) * case.share).max(20);
            daemon.push(runtime.block_on(measure("daemon", case, jobs, &broker.url(), &double))?);
            bound.push(runtime.block_on(measure("bound", case, jobs, &broker.url(), &double))?);
        }
        let rate = |runs: &[Measured]| median(runs.iter().map(|run| run.jobs_per_second).collect());
        let cpu = |runs: &[Measured]| median(runs.iter().map(|run| run.cpu_micros_per_job).collect());
        println!(
            "{:<30}{:>10.0}{:>10.0}{:>8.2}{:>14.0}{:>14.0}{:>8.2}",
            case.name,
            rate(&daemon),
            rate(&bound),
            rate(&daemon) / rate(&bound),
            cpu(&daemon),
            cpu(&bound),
            cpu(&daemon) / cpu(&bound)
        );
        if !case.latency.is_zero() {
            let allowed = as_f64(CONCURRENCY as u64) / case.latency.as_secs_f64();
            println!("{:<30}{:>10.2} of the {allowed:.0} jobs/s that the concurrency allows", "", rate(&daemon) / allowed);
        }
    }
    Ok(())
}

/// Fills the queue, lets one part empty it, and says how long that took from the first call to the provider to the last.
async fn measure(part: &'static str, case: &Case, jobs: u64, url: &str, double: &Part) -> Fallible<Measured> {
    preload(url, case, jobs).await?;
    let control = reqwest::Client::new();
    let double_url = format!("http://{}", double.address);
    control.post(format!("{double_url}/reset?{}", case.latency.as_millis())).send().await?.error_for_status()?;
    let folder = tempfile::tempdir()?;
    let calls = jobs * case.calls;
    let environment = [
        ("BENCH_DOUBLE", double_url.clone()),
        ("BENCH_BODY", variable_body(&control, &double_url).await?),
        ("BENCH_CALLS", case.calls.to_string()),
        ("TARISHI__AMQP__URL", url.to_owned()),
        ("TARISHI__AMQP__PREFETCH", PREFETCH.to_string()),
        ("TARISHI__PUBLIC__LISTEN", "127.0.0.1:0".to_owned()),
        ("TARISHI__ADMIN__LISTEN", "127.0.0.1:0".to_owned()),
        ("TARISHI__LOG__FORMAT", "json".to_owned()),
        ("TARISHI__CHANNEL__SMS__CONCURRENCY", CONCURRENCY.to_string()),
        ("TARISHI__STORE__URL", format!("sqlite:{}", folder.path().join("bench.db").display())),
        ("TARISHI__TEMPLATES__PATH", concat!(env!("CARGO_MANIFEST_DIR"), "/templates").to_owned()),
    ];
    let process = Part::start(part, &environment)?;
    let state = loop {
        let state: serde_json::Value = control.get(format!("{double_url}/state")).send().await?.json().await?;
        if state["accepted"].as_u64() >= Some(calls) && depth(url).await? == 0 {
            break state;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    if part == "daemon" {
        process.wait_sent(calls + jobs * case.live).await?;
    }
    let seconds = state["seconds"].as_f64().ok_or("the double says nothing of time")?;
    let cpu = process.cpu_seconds()?;
    Ok(Measured { jobs_per_second: as_f64(jobs) / seconds, cpu_micros_per_job: cpu * 1e6 / as_f64(jobs) })
}

/// The body the daemon posted last, for the bound to post too.
async fn variable_body(control: &reqwest::Client, double_url: &str) -> Fallible<String> {
    Ok(control.get(format!("{double_url}/last")).send().await?.text().await?)
}

struct Options {
    jobs: u64,
    rounds: u64,
    only: Option<String>,
}

impl Options {
    /// Whatever else cargo passes is ignored.
    fn parse() -> Self {
        let arguments: Vec<String> = std::env::args().collect();
        let value = |name: &str| arguments.iter().position(|argument| argument == name).and_then(|place| arguments.get(place + 1)).cloned();
        let number = |name: &str, default| value(name).and_then(|text| text.parse().ok()).unwrap_or(default);
        Self { jobs: number("--jobs", 20_000), rounds: number("--rounds", 3), only: value("--only") }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn as_f64(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
fn as_u64(number: f64) -> u64 {
    number.round() as u64
}

// The broker.

fn broker_at(url: &str) -> Fallible<Broker> {
    let env = vec![("TARISHI__AMQP__URL".to_owned(), url.to_owned())];
    let config = config::load(&config::Sources { env, ..Default::default() }).map_err(|problems| format!("{problems:?}"))?;
    Ok(Broker::new(&config.amqp, "bench").ok_or("no broker")?)
}

async fn preload(url: &str, case: &Case, jobs: u64) -> Fallible<()> {
    let broker = broker_at(url)?;
    let (connection, _) = broker.connect(Purpose::Command).await?;
    let channel = connection.create_channel().await?;
    amqp::declare_jobs(&broker, &channel).await?;
    channel.queue_purge(amqp::JOBS.into(), QueuePurgeOptions::default()).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let run = RUN.fetch_add(1, Ordering::Relaxed);
    let publish = async |number: u64| {
        let body = job(case, run, number);
        let properties = BasicProperties::default().with_delivery_mode(amqp::PERSISTENT).with_content_type("application/json".into());
        let confirm =
            channel.basic_publish(amqp::JOBS.into(), "job".into(), BasicPublishOptions::default(), body.as_bytes(), properties).await?;
        confirm.await?;
        Fallible::Ok(())
    };
    let mut publishing = stream::iter(0..jobs).map(publish).buffer_unordered(1024);
    while let Some(published) = publishing.next().await {
        published?;
    }
    drop(publishing);
    connection.close(200, "done".into()).await?;
    Ok(())
}

/// Makes the ids of every run their own.
static RUN: AtomicU64 = AtomicU64::new(0);

/// Messages in the queue that nobody has taken. What is taken and not acknowledged is not counted.
async fn depth(url: &str) -> Fallible<u32> {
    let (connection, _) = broker_at(url)?.connect(Purpose::Command).await?;
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let depth = channel.queue_declare(amqp::JOBS.into(), options, FieldTable::default()).await?.message_count();
    connection.close(200, "done".into()).await?;
    Ok(depth)
}

/// About 1 KB, but for its recipients.
fn job(case: &Case, run: u64, number: u64) -> String {
    let recipient = |user: u64| {
        let token = format!("{user:0>TOKEN_LENGTH$}");
        match case.live {
            0 => format!(r#"{{"user_id":{user},"push_tokens":["{token}"]}}"#),
            _ => format!(
                r#"{{"user_id":{user},"email":"u{user}@example.com","phone":"+255{:09}","push_tokens":["{token}"]}}"#,
                700_000_000 + user % 100_000_000
            ),
        }
    };
    let (recipients, channels) = match case.live {
        0 => (case.calls, r#"["push"]"#),
        _ => (1, r#"["live","push","email","sms"]"#),
    };
    let recipients: Vec<String> = (0..recipients).map(|place| recipient(number * recipients + place)).collect();
    let message = MESSAGE.repeat(9);
    format!(
        r#"{{"id":"bench-{run}-{number}","template":"generic","channels":{channels},"to":[{}],"data":{{"title":"Habari","message":"{message}"}}}}"#,
        recipients.join(",")
    )
}

// The parts: processes of this same program.

struct Part {
    child: Child,
    /// Where it listens: the double for calls, the daemon for queries.
    address: String,
    _stdin: Option<ChildStdin>,
}

impl Part {
    fn start(part: &str, environment: &[(&str, String)]) -> Fallible<Self> {
        assert!(PARTS.contains(&part));
        let mut child = Command::new(std::env::current_exe()?)
            .env("BENCH_PART", part)
            .envs(environment.iter().map(|(name, value)| (*name, value.as_str())))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(if part == "daemon" { Stdio::piped() } else { Stdio::inherit() })
            .spawn()?;
        let mut address = String::new();
        if let Some(log) = child.stderr.take() {
            let mut lines = BufReader::new(log).lines();
            for line in lines.by_ref() {
                let line: serde_json::Value = serde_json::from_str(&line?)?;
                if let Some(admin) = line["admin"].as_str() {
                    admin.clone_into(&mut address);
                }
                if line["message"] == "daemon ready" {
                    break;
                }
            }
            // Its log is read and thrown away, as by a service manager.
            std::thread::spawn(move || lines.for_each(drop));
        } else if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut address)?;
        }
        let stdin = child.stdin.take();
        Ok(Self { child, address: address.trim().to_owned(), _stdin: stdin })
    }

    async fn wait_sent(&self, deliveries: u64) -> Fallible<()> {
        loop {
            let status: serde_json::Value = reqwest::get(format!("http://{}/v1/status", self.address)).await?.json().await?;
            let count = |lane: &serde_json::Value| lane["statuses"]["sent"].as_u64();
            if status["lanes"].as_array().into_iter().flatten().filter_map(count).sum::<u64>() >= deliveries {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// In user and kernel, since its start.
    fn cpu_seconds(&self) -> Fallible<f64> {
        const TICKS_PER_SECOND: f64 = 100.0;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        Ok(as_f64(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?) / TICKS_PER_SECOND)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// The provider, in the daemon and in the bound.

struct HttpProvider {
    client: reqwest::Client,
    url: String,
    /// For mails and SMS.
    stand_in: Push,
}

impl HttpProvider {
    fn new() -> Self {
        let client = reqwest::Client::builder().pool_max_idle_per_host(CONCURRENCY).build().unwrap_or_default();
        let stand_in = Push {
            target: PushTarget::Topic("x".repeat(TOKEN_LENGTH)),
            title: "Habari".to_owned(),
            body: MESSAGE.repeat(9),
            data: std::collections::BTreeMap::new(),
            platform: serde_json::Map::new(),
        };
        Self { client, stand_in, url: format!("{}/v1/projects/bench/messages:send", variable("BENCH_DOUBLE")) }
    }

    async fn post(&self, body: String) -> Result<serde_json::Value, reqwest::Error> {
        let request = self.client.post(&self.url).bearer_auth(TOKEN).header("content-type", "application/json").body(body);
        request.send().await?.error_for_status()?.json().await
    }
}

/// As long as a real one.
const TOKEN: &str =
    "ya29.c.b0Aaekm1KYm0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000";

#[async_trait]
impl Provider for HttpProvider {
    fn name(&self) -> &'static str {
        "http"
    }

    async fn send(&self, message: &Message) -> Outcome {
        // The same bytes, whatever the channel.
        let push = if let Body::Push(push) = &message.body { push } else { &self.stand_in };
        let body = push::compose(message, push, false, Timestamp::now()).expect("a push that FCM takes");
        let body = String::from_utf8(body).expect("JSON is UTF-8");
        match self.post(body).await {
            Ok(answer) => Outcome::Sent { provider_id: answer["name"].as_str().map(str::to_owned) },
            Err(error) => Outcome::Unknown { code: Code::TIMEOUT, detail: error.to_string() },
        }
    }

    async fn probe(&self) -> Result<(), ProbeFailure> {
        Ok(())
    }
}

/// Consume, post, acknowledge; nothing else.
async fn run_bound() -> Fallible<()> {
    println!("started");
    let provider = Arc::new(HttpProvider::new());
    let calls: usize = variable("BENCH_CALLS").parse()?;
    let body = variable("BENCH_BODY");
    let broker = broker_at(&variable("TARISHI__AMQP__URL"))?;
    let (connection, _) = broker.connect(Purpose::Consume).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let consumer = channel.basic_consume(amqp::JOBS.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default()).await?;
    let post = |(provider, body): (Arc<HttpProvider>, String)| async move { tokio::spawn(async move { provider.post(body).await }).await };
    let mut posted = consumer
        .flat_map(|delivery| {
            let tag = delivery.map_or(0, |delivery| delivery.delivery_tag);
            stream::iter((1..=calls).map(move |call| (call == calls).then_some(tag)))
        })
        .map(|last_of| {
            let posting = post((provider.clone(), body.clone()));
            async move {
                posting.await??;
                Fallible::Ok(last_of)
            }
        })
        .buffered(CONCURRENCY);
    let mut unacknowledged = 0;
    loop {
        // What is left over when nothing more comes is acknowledged too.
        let next = tokio::time::timeout(Duration::from_millis(50), posted.next()).await;
        let (tag, idle) = match next {
            Ok(Some(last_of)) => (last_of?, false),
            Ok(None) => return Ok(()),
            Err(_) => (LAST_TAG.lock().unwrap_or_else(PoisonError::into_inner).take(), true),
        };
        let Some(tag) = tag else { continue };
        unacknowledged += 1;
        if unacknowledged >= ACK_BATCH || idle {
            channel.basic_ack(tag, BasicAckOptions { multiple: true }).await?;
            (unacknowledged, *LAST_TAG.lock().unwrap_or_else(PoisonError::into_inner)) = (0, None);
        } else {
            *LAST_TAG.lock().unwrap_or_else(PoisonError::into_inner) = Some(tag);
        }
    }
}

static LAST_TAG: Mutex<Option<u64>> = Mutex::new(None);

// The double.

#[derive(Default)]
struct Double {
    accepted: AtomicU64,
    latency_ms: AtomicU64,
    times: Mutex<Option<(Instant, Instant)>>,
    last: Mutex<Vec<u8>>,
}

/// Answers as FCM does, after the latency asked for, and counts.
async fn run_double() -> Fallible<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let double = Arc::new(Double::default());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let double = double.clone();
        tokio::spawn(async move {
            // Ends with the connection.
            let _ = double.serve(stream).await;
        });
    }
}

impl Double {
    async fn serve(&self, mut stream: TcpStream) -> Fallible<()> {
        let mut buffer = Vec::with_capacity(8192);
        loop {
            let Some((line, body)) = read_request(&mut stream, &mut buffer).await? else { return Ok(()) };
            let answer = self.answer(&line, body).await;
            let response = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
            stream.write_all(response.as_bytes()).await?;
        }
    }

    async fn answer(&self, line: &str, body: Vec<u8>) -> String {
        if line.starts_with("GET /state") {
            let seconds =
                self.times.lock().unwrap_or_else(PoisonError::into_inner).map_or(0.0, |(first, last)| (last - first).as_secs_f64());
            return format!(r#"{{"accepted":{},"seconds":{seconds}}}"#, self.accepted.load(Ordering::Relaxed));
        }
        if line.starts_with("GET /last") {
            return String::from_utf8_lossy(&self.last.lock().unwrap_or_else(PoisonError::into_inner)).into_owned();
        }
        if let Some(rest) = line.strip_prefix("POST /reset?") {
            let latency = rest.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0);
            self.latency_ms.store(latency, Ordering::Relaxed);
            self.accepted.store(0, Ordering::Relaxed);
            *self.times.lock().unwrap_or_else(PoisonError::into_inner) = None;
            return "{}".to_owned();
        }
        let arrived = Instant::now();
        let latency = self.latency_ms.load(Ordering::Relaxed);
        if latency > 0 {
            tokio::time::sleep(Duration::from_millis(latency)).await;
        }
        let number = self.accepted.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        *times = Some((times.map_or(arrived, |(first, _)| first), now));
        drop(times);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = body;
        format!(r#"{{"name":"projects/bench/messages/0:1500415314455276%{number:016x}"}}"#)
    }
}

/// The request line and the body; `None` at the end of the connection.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Fallible<Option<(String, Vec<u8>)>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                if name.eq_ignore_ascii_case("content-length") { value.trim().parse::<usize>().ok() } else { None }
            });
            let whole = end + 4 + length.unwrap_or(0);
            while buffer.len() < whole {
                if stream.read_buf(buffer).await? == 0 {
                    return Ok(None);
                }
            }
            let body = buffer[end + 4..whole].to_vec();
            buffer.drain(..whole);
            return Ok(Some((head.lines().next().unwrap_or_default().to_owned(), body)));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}
