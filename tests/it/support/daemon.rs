//! The real daemon, started in a folder and on a loopback address of its own, and started again after whatever ended it.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Display,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU8, Ordering},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    api::{Answer, Api},
    process::{Ended, Process},
};

/// How to start a daemon. Outlives the daemons it starts, and keeps what they leave on disk.
pub struct Setup {
    folder: TempDir,
    command: Vec<String>,
    env: BTreeMap<String, String>,
}

/// A daemon that is ready.
pub struct Daemon {
    pub process: Process,
    pub public: SocketAddr,
    pub admin: SocketAddr,
    pub api: Api,
}

impl Setup {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("tarishi-").tempdir().unwrap();
        let host = own_host();
        let mut env = BTreeMap::new();
        let mut set = |key: &str, value: String| env.insert(format!("TARISHI__{key}"), value);
        // The same after a restart, and below the ports that the system gives out to whoever asks for any.
        set("PUBLIC__LISTEN", format!("{host}:18000"));
        set("ADMIN__LISTEN", format!("{host}:18001"));
        set("STORE__URL", "sqlite:tarishi.db".to_owned());
        set("TEMPLATES__PATH", super::templates().display().to_string());
        set("PROVIDER__OUTBOX__RECORD_FILE", folder.path().join("record.jsonl").display().to_string());
        set("AUTH__JWT__KEYS", format!("[{{ algorithm = \"HS256\", secret = \"{}\" }}]", super::SECRET));
        Self { folder, command: vec!["run".to_owned(), "--log-format".to_owned(), "json".to_owned()], env }
    }

    /// Sets a key of the configuration, by its path: `channel.email.concurrency`.
    pub fn with(mut self, key: &str, value: &(impl Display + ?Sized)) -> Self {
        self.set(key, value);
        self
    }

    pub fn set(&mut self, key: &str, value: &(impl Display + ?Sized)) {
        self.env.insert(format!("TARISHI__{}", key.replace('.', "__").to_uppercase()), value.to_string());
    }

    /// Where the daemon's public listener will be.
    pub fn public_url(&self) -> String {
        format!("http://{}", self.env["TARISHI__PUBLIC__LISTEN"])
    }

    /// So many messages from the broker at once.
    pub fn with_prefetch(&mut self, messages: u16) -> &mut Self {
        self.set("amqp.prefetch", &messages);
        self
    }

    /// Retries without waiting, so that what a crash left is resolved at once.
    pub fn with_quick_retries(mut self) -> Self {
        for channel in ["email", "sms", "push", "live"] {
            self.set(&format!("channel.{channel}.retry.steps"), "[\"1ms\"]");
        }
        self
    }

    /// Another command than `run`.
    pub fn with_command(mut self, arguments: &[&str]) -> Self {
        self.command = arguments.iter().map(ToString::to_string).collect();
        self
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn store_path(&self) -> PathBuf {
        self.folder.path().join("tarishi.db")
    }

    /// Starts a daemon and waits until it is ready.
    pub async fn start(&mut self) -> Daemon {
        match self.try_start(&[]).await {
            Ok(daemon) => daemon,
            Err((process, ended)) => panic!("it did not become ready: {ended:?}\n{}", process.lines().join("\n")),
        }
    }

    /// Starts one with further variables; an error when it ends before it is ready.
    pub async fn try_start(&mut self, variables: &[(&str, &str)]) -> Result<Daemon, (Process, Ended)> {
        let process = self.spawn(variables);
        let listening = process.find_line(listening).await;
        let ready = match listening {
            Ok(_) => process.find_line(|line| line.contains("\"daemon ready\"").then_some(())).await,
            Err(ref ended) => Err(ended.clone()),
        };
        match (listening, ready) {
            (Ok((public, admin)), Ok(())) => Ok(Daemon { process, public, admin, api: Api::new(format!("http://{admin}")) }),
            (_, Err(ended)) | (Err(ended), _) => Err((process, ended)),
        }
    }

    /// Starts the process and waits for nothing.
    pub fn spawn(&self, variables: &[(&str, &str)]) -> Process {
        let mut env = self.env.clone();
        env.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Process::start(env!("CARGO_BIN_EXE_tarishi"), &self.command, &env, self.folder.path())
    }

    /// What a provider would have accepted: every delivery id, with how often and on which channel.
    pub fn record(&self) -> HashMap<String, (u64, String)> {
        let text = std::fs::read_to_string(self.folder.path().join("record.jsonl")).unwrap_or_default();
        let mut record = HashMap::new();
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let channel = line["channel"].as_str().unwrap().to_owned();
            record.entry(line["delivery_id"].as_str().unwrap().to_owned()).or_insert((0, channel)).0 += 1;
        }
        record
    }
}

impl Daemon {
    /// The listener for users.
    pub fn public_api(&self) -> Api {
        Api::new(format!("http://{}", self.public))
    }

    /// Waits until no delivery is queued or sending. A daemon that dies meanwhile is never drained: whoever expects that waits for both.
    pub async fn drained(&self) {
        self.process
            .until("every delivery has ended", async || {
                let asked = Answer::of(self.api.request(reqwest::Method::GET, "/v1/status")).await;
                let status = asked.ok()?.expect(200);
                let lanes = status["lanes"].as_array().unwrap();
                lanes.iter().all(|lane| lane["queued"] == 0 && lane["sending"] == 0).then_some(())
            })
            .await;
    }

    /// Waits until a job is finished, and gives it with the first page of its deliveries.
    pub async fn finished(&self, job: &str) -> Value {
        self.job_when(job, |job| job["open"] == 0).await
    }

    /// Waits until a job is as `wanted`.
    pub async fn job_when(&self, job: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.process
            .until(&format!("the job {job} is as wanted"), async || {
                let found = self.api.get(&format!("/v1/jobs/{job}")).await.expect(200);
                wanted(&found).then_some(found)
            })
            .await
    }

    /// Every delivery of a job, page after page.
    pub async fn deliveries(&self, job: &str) -> Vec<Value> {
        let (mut deliveries, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.api.get(&format!("/v1/jobs/{job}?limit=500{cursor}")).await.expect(200);
            deliveries.extend(page["deliveries"].as_array().unwrap().iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return deliveries,
            }
        }
    }

    /// Asks it to end, and waits until it has.
    pub async fn terminate(&self) -> Ended {
        self.process.signal("TERM");
        self.process.end().await
    }

    /// The value of a metric, by its name with its labels; 0 before there is any.
    pub async fn metric(&self, name: &str) -> u64 {
        let told = self.api.get("/metrics").await;
        let value = told.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// Waits until a metric has this value.
    pub async fn metric_is(&self, name: &str, value: u64) {
        let what = format!("{name} is {value}");
        self.process.until(&what, async || (self.metric(name).await == value).then_some(())).await;
    }

    /// Events of this name in its log, in order.
    pub fn events(&self, name: &str) -> Vec<Value> {
        self.process.events().into_iter().filter(|event| event["message"] == name).collect()
    }
}

/// The addresses in `daemon started`.
fn listening(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let event: Value = serde_json::from_str(line).ok().filter(|event: &Value| event["message"] == "daemon started")?;
    let address = |member: &str| event[member].as_str().unwrap().split(", ").find_map(|address| address.parse().ok()).unwrap();
    Some((address("public"), address("admin")))
}

/// A loopback address nobody else on this machine uses at the moment: a request to a daemon that is down reaches nobody.
pub fn own_host() -> String {
    static LAST: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    format!("127.{}.{high}.{low}", LAST.fetch_add(1, Ordering::Relaxed) + 1)
}
