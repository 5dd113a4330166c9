//! How fast jobs are accepted and deliveries finished, beside a bound measured in the same run.
//!
//! The daemon runs as it ships, with the outbox as its provider; jobs come over HTTP on loopback from this process, on the same machine.
//! The bound is a bare loop that writes the same rows in groups of the size the daemon's commits had, with the same settings of SQLite.
//!
//! `cargo bench --bench throughput -- [--seconds 5] [--backlog 1000000]`

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rusqlite::{Connection, params};
use serde_json::Value;
use tarishi::store::{Store, StoreSettings, SuppressionExpiry};

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Connections that post at once.
const CONNECTIONS: u64 = 64;
/// Jobs in one array.
const ARRAY: u64 = 100;

fn main() -> Fallible<()> {
    let options = Options::parse();
    println!("after each run of the daemon two of the bound, their mean shown; rates per second, the ratio is daemon to bound\n");
    println!("{:<28}{:>12}{:>12}{:>14}{:>12}{:>8}", "", "accepted", "finished", "per commit", "bound", "ratio");
    for (name, array, connections) in [("one job per request", 1, CONNECTIONS), ("arrays of 100", ARRAY, 8)] {
        let measured = measure(array, connections, options.seconds)?;
        println!(
            "{name:<28}{:>12.0}{:>12.0}{:>14.1}{:>12.0}{:>8.2}",
            measured.accepted,
            measured.finished,
            measured.group,
            measured.bound,
            measured.finished / measured.bound
        );
    }
    idle_and_latency()?;
    if let Some(deliveries) = options.backlog {
        backlog(deliveries)?;
    }
    Ok(())
}

struct Options {
    seconds: u64,
    backlog: Option<u64>,
}

impl Options {
    /// Whatever else cargo passes is ignored.
    fn parse() -> Self {
        let arguments: Vec<String> = std::env::args().collect();
        let value = |name: &str| {
            let place = arguments.iter().position(|argument| argument == name)?;
            arguments.get(place + 1)?.parse().ok()
        };
        Self { seconds: value("--seconds").unwrap_or(5), backlog: value("--backlog") }
    }
}

struct Measured {
    accepted: f64,
    finished: f64,
    /// Deliveries in one commit of the daemon, on average.
    group: f64,
    bound: f64,
}

fn measure(array: u64, connections: u64, seconds: u64) -> Fallible<Measured> {
    let daemon = Daemon::start(&[])?;
    let before = daemon.status()?;
    let started = Instant::now();
    let posted = post_for(&daemon.admin, array, connections, Duration::from_secs(seconds))?;
    let accepting = started.elapsed();
    daemon.wait_finished(posted)?;
    let finishing = started.elapsed();
    let commits = as_f64(daemon.status()?["commits"].as_u64().unwrap_or(1) - before["commits"].as_u64().unwrap_or(0));
    drop(daemon);
    // Each delivery is in two commits: its accept and its outcome.
    let group = as_f64(posted) * 2.0 / commits;
    let bound = f64::midpoint(bound(group, posted)?, bound(group, posted)?);
    Ok(Measured { accepted: as_f64(posted) / accepting.as_secs_f64(), finished: as_f64(posted) / finishing.as_secs_f64(), group, bound })
}

/// Posts jobs of one delivery each from `connections` threads for `duration`; says how many were accepted.
fn post_for(admin: &str, array: u64, connections: u64, duration: Duration) -> Fallible<u64> {
    let stop = Arc::new(AtomicBool::new(false));
    let ids = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..connections)
        .map(|_| {
            let (stop, ids, mut client) = (stop.clone(), ids.clone(), Client::connect(admin));
            std::thread::spawn(move || -> Fallible<u64> {
                let client = client.as_mut().map_err(|error| error.to_string())?;
                let mut accepted = 0;
                while !stop.load(Ordering::Relaxed) {
                    let jobs: Vec<String> = (0..array).map(|_| job(ids.fetch_add(1, Ordering::Relaxed))).collect();
                    let body = if array == 1 { jobs.concat() } else { format!("[{}]", jobs.join(",")) };
                    client.post("/v1/jobs", &body)?;
                    accepted += array;
                }
                Ok(accepted)
            })
        })
        .collect();
    std::thread::sleep(duration);
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().map(|thread| thread.join().map_err(|_| "a client panicked")?).sum()
}

fn job(number: u64) -> String {
    format!(
        r#"{{"id":"bench-{number}","template":"generic","channels":["email"],"to":[{{"user_id":{number},"email":"u{number}@example.com"}}],"data":{{"title":"Habari","message":"Is the flat still free?"}}}}"#
    )
}

/// The daemon's own schema in a file that nobody else has open, with the daemon's settings of SQLite.
fn bare_store(folder: &std::path::Path) -> Fallible<Connection> {
    let path = folder.join("bare.db");
    let settings = StoreSettings {
        path: path.clone(),
        readers: 1,
        group_commit_limit: 4096,
        retention: Duration::from_hours(1),
        idempotency_retention: Duration::from_hours(1),
        inbox_retention: Duration::from_hours(1),
        inbox_limit: 1000,
        events: None,
        suppression_expiry: SuppressionExpiry { bounced: Duration::from_hours(1), unregistered: Duration::from_hours(1) },
        revocation_retention: Duration::from_hours(1),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        Store::open(settings)?.close().await;
        Ok::<(), tarishi::store::StoreError>(())
    })?;
    let connection = Connection::open(path)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -16384; PRAGMA wal_autocheckpoint = 4000;",
    )?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// The same rows by a bare loop: accept's and the outcome's, in commits of `group` deliveries. Says deliveries per second.
fn bound(group: f64, deliveries: u64) -> Fallible<f64> {
    let folder = tempfile::tempdir()?;
    let mut connection = bare_store(folder.path())?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a group is a small positive number")]
    let group = group.round().max(1.0) as u64;
    let started = Instant::now();
    let mut done = 0;
    while done < deliveries {
        let last = (done + group).min(deliveries);
        let accept = connection.transaction()?;
        for number in done..last {
            insert_job(&accept, number)?;
        }
        accept.commit()?;
        let outcome = connection.transaction()?;
        for number in done..last {
            record_sent(&outcome, i64::try_from(number)? + 1)?;
        }
        outcome.commit()?;
        done = last;
    }
    Ok(as_f64(deliveries) / started.elapsed().as_secs_f64())
}

fn insert_job(connection: &Connection, number: u64) -> Fallible<()> {
    const DOCUMENT: &str = r#"{"id":"bench-100000","template":"generic","data":{"message":"Is the flat still free?","title":"Habari"}}"#;
    // As random as the hash it stands for, so that the index is as hard to fill.
    let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
    connection
        .prepare_cached(
            "INSERT INTO jobs (key, id, body_hash, envelope, template, planned, made, open, skipped, accepted_at, finished_at)
             VALUES (?1, ?2, ?3, ?4, 'generic', 1, 1, 1, NULL, ?5, NULL)",
        )?
        .execute(params![[&mixed[..], &mixed[..4]].concat(), format!("bench-{number}"), [7_u8; 32], DOCUMENT, 1_700_000_000_000_i64])?;
    connection
        .prepare_cached(
            "INSERT INTO deliveries (job, ordinal, channel, priority, user_id, address, status, attempts, due_at, expires_at,
                                     lease_owner, lease_until, provider, attempt_at, updated_at)
             VALUES (?1, 0, 0, 1, ?2, ?3, 1, 1, ?4, ?4, 1, ?4, 'outbox', ?4, ?4)",
        )?
        .execute(params![connection.last_insert_rowid(), number.to_string(), format!("u{number}@example.com"), 1_700_000_000_000_i64])?;
    Ok(())
}

fn record_sent(connection: &Connection, job: i64) -> Fallible<()> {
    let now = 1_700_000_000_001_i64;
    connection
        .prepare_cached("INSERT INTO attempts (job, ordinal, number, provider, started_at, finished_at, outcome, provider_id) VALUES (?1, 0, 1, 'outbox', ?2, ?2, 'sent', '1')")?
        .execute((job, now))?;
    connection
        .prepare_cached("UPDATE deliveries SET status = 2, provider_id = '1', due_at = ?2, lease_owner = 0, updated_at = ?2 WHERE job = ?1 AND ordinal = 0")?
        .execute((job, now))?;
    connection.prepare_cached("UPDATE jobs SET open = 0, finished_at = ?2 WHERE num = ?1")?.execute((job, now))?;
    Ok(())
}

/// What it costs when nothing happens, and how long one job waits when little does.
fn idle_and_latency() -> Fallible<()> {
    const SAMPLES: usize = 2000;
    let daemon = Daemon::start(&[])?;
    let cpu = daemon.cpu_ticks()?;
    std::thread::sleep(Duration::from_secs(10));
    let ticks = daemon.cpu_ticks()? - cpu;
    println!("\nidle for 10 s: {:.1} MiB resident, {ticks} clock ticks of CPU", daemon.resident_mib()?);
    let mut client = Client::connect(&daemon.admin)?;
    let mut accepts = Vec::with_capacity(SAMPLES);
    for number in 0..SAMPLES as u64 {
        let body = job(number);
        let started = Instant::now();
        client.post("/v1/jobs", &body)?;
        accepts.push(started.elapsed());
        // Low load: the next one comes when this one is long done.
        std::thread::sleep(Duration::from_millis(2));
    }
    drop(daemon);
    let commits = bare_commits(SAMPLES)?;
    let (accept, commit) = (Percentiles::of(accepts), Percentiles::of(commits));
    println!(
        "accept at low load: p50 {:?}, p99 {:?}; a bare commit of the same rows: p50 {:?}, p99 {:?}",
        accept.p50, accept.p99, commit.p50, commit.p99
    );
    println!(
        "in commits: p50 {:.1}, p99 {:.1}",
        accept.p50.as_secs_f64() / commit.p50.as_secs_f64(),
        accept.p99.as_secs_f64() / commit.p99.as_secs_f64()
    );
    Ok(())
}

/// One job of one delivery per commit, by the bare loop.
fn bare_commits(samples: usize) -> Fallible<Vec<Duration>> {
    let folder = tempfile::tempdir()?;
    let mut connection = bare_store(folder.path())?;
    let mut commits = Vec::with_capacity(samples);
    for number in 0..samples as u64 {
        let started = Instant::now();
        let transaction = connection.transaction()?;
        insert_job(&transaction, number)?;
        transaction.commit()?;
        commits.push(started.elapsed());
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(commits)
}

/// Memory over a backlog: a lane that may hardly send, and more and more waiting for it.
fn backlog(deliveries: u64) -> Fallible<()> {
    let daemon = Daemon::start(&[("TARISHI__CHANNEL__EMAIL__RATE", "1")])?;
    let mut client = Client::connect(&daemon.admin)?;
    let mut posted = 0;
    println!("\nbacklog of {deliveries}: resident MiB at");
    while posted < deliveries {
        let recipients: Vec<String> =
            (posted..posted + 10_000).map(|number| format!(r#"{{"user_id":{number},"email":"u{number}@example.com"}}"#)).collect();
        let body = format!(
            r#"{{"id":"backlog-{posted}","template":"generic","channels":["email"],"to":[{}],"data":{{"title":"T","message":"M"}}}}"#,
            recipients.join(",")
        );
        client.post("/v1/jobs", &body)?;
        posted += 10_000;
        if posted % (deliveries / 5).max(10_000) == 0 {
            println!("  {posted:>9}: {:.1}", daemon.resident_mib()?);
        }
    }
    Ok(())
}

struct Percentiles {
    p50: Duration,
    p99: Duration,
}

impl Percentiles {
    fn of(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        Self { p50: samples[samples.len() / 2], p99: samples[samples.len() * 99 / 100] }
    }
}

/// The daemon as it ships, in a folder of its own, stopped when dropped.
struct Daemon {
    child: Child,
    admin: String,
    _folder: tempfile::TempDir,
}

impl Daemon {
    fn start(env: &[(&str, &str)]) -> Fallible<Self> {
        let folder = tempfile::tempdir()?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_tarishi"))
            .args(["run", "--log-format", "json"])
            .current_dir(folder.path())
            .env("TARISHI__PUBLIC__LISTEN", "127.0.0.1:0")
            .env("TARISHI__ADMIN__LISTEN", "127.0.0.1:0")
            .env("TARISHI__STORE__URL", "sqlite:bench.db")
            .env("TARISHI__TEMPLATES__PATH", concat!(env!("CARGO_MANIFEST_DIR"), "/templates"))
            .envs(env.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stderr.take().ok_or("no stderr")?).lines();
        let mut admin = None;
        for line in lines.by_ref() {
            let line: Value = serde_json::from_str(&line?)?;
            admin = admin.or_else(|| line["admin"].as_str().map(str::to_owned));
            if line["message"] == "daemon ready" {
                break;
            }
        }
        // Its log is read and thrown away, as by a service manager.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, admin: admin.ok_or("the daemon did not say where it listens")?, _folder: folder })
    }

    fn status(&self) -> Fallible<Value> {
        Ok(serde_json::from_slice(&Client::connect(&self.admin)?.get("/v1/status")?)?)
    }

    fn wait_finished(&self, deliveries: u64) -> Fallible<()> {
        loop {
            let status = self.status()?;
            let sent: u64 = status["lanes"].as_array().into_iter().flatten().filter_map(|lane| lane["statuses"]["sent"].as_u64()).sum();
            if sent >= deliveries {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn resident_mib(&self) -> Fallible<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }

    fn cpu_ticks(&self) -> Fallible<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The cheapest HTTP client there can be, so that the daemon is what is measured.
struct Client {
    stream: BufReader<TcpStream>,
    host: String,
}

impl Client {
    fn connect(address: &str) -> Fallible<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), host: address.to_owned() })
    }

    fn post(&mut self, path: &str, body: &str) -> Fallible<Vec<u8>> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.host,
            body.len()
        );
        self.call(request.as_bytes())
    }

    fn get(&mut self, path: &str) -> Fallible<Vec<u8>> {
        self.call(format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host).as_bytes())
    }

    fn call(&mut self, request: &[u8]) -> Fallible<Vec<u8>> {
        self.stream.get_mut().write_all(request)?;
        let mut status = String::new();
        self.stream.read_line(&mut status)?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line)?;
            if line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        if status.contains(" 200 ") || status.contains(" 202 ") {
            Ok(body)
        } else {
            Err(format!("{status}{}", String::from_utf8_lossy(&body)).into())
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]
fn as_f64(count: u64) -> f64 {
    count as f64
}
