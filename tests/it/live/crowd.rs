//! Many clients, each of which holds every `seq` it is told against the one before, while the daemon is killed, restarted, frozen and cut off.
//!
//! They come back by themselves, as `docs/live.md` says they should. In the end each must have been told everything in its streams, once.

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::{net::TcpStream, task::JoinSet};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, Message, protocol::WebSocketConfig},
};

use crate::support::{Daemon, PATIENCE, Producers, Proxy, Redis, Setup, is_long, job, recipient, token, until};

/// Of the stream that is the user's own.
const OWN: &str = "";
const EVERYONE: &str = "*";
const CITIES: [&str; 4] = ["city.dar", "city.arusha", "city.mwanza", "city.dodoma"];
/// Producers at once, and jobs in one request of theirs.
const PRODUCERS: usize = 4;
const JOBS_AT_ONCE: usize = 10;
/// Of so many jobs one is for a city, and of so many one for everyone.
const ONE_FOR_A_CITY: usize = 10;
const ONE_FOR_EVERYONE: usize = 40;
/// How long a client waits before it tries again, where nobody told it, in milliseconds.
const TRY_AGAIN_MS: std::ops::Range<u64> = 50..250;
/// The library's own buffer is 128 KiB for each client.
const READ_BUFFER_SIZE: usize = 1024;

/// What a client has been told.
#[derive(Default)]
struct Seen {
    epoch: Option<String>,
    /// How far it is in each of its streams.
    places: BTreeMap<String, i64>,
    /// Titles, each of which is one notification's alone.
    titles: HashSet<String>,
    /// Since when it is connected and has what it missed; absent while it is not.
    caught_up: Option<Instant>,
    connections: u32,
    /// What should not have been.
    problems: Vec<String>,
}

struct Member {
    user: String,
    token: String,
    city: &'static str,
    seen: Mutex<Seen>,
}

/// Whether a connection is to be kept.
enum Go {
    On,
    Away,
}

impl Member {
    fn new(number: usize) -> Self {
        // Every third user has two clients.
        let user = format!("{}", 1000 + number - number / 4);
        Self { token: token(&user), user, city: CITIES[number % CITIES.len()], seen: Mutex::default() }
    }

    fn streams(&self) -> [&str; 3] {
        [OWN, EVERYONE, self.city]
    }

    /// Connects again and again, for as long as it is let.
    async fn live(self: Arc<Self>, address: SocketAddr) {
        loop {
            let retry_after = self.follow(address).await;
            self.seen.lock().unwrap().caught_up = None;
            let pause = retry_after.unwrap_or_else(|| Duration::from_millis(fastrand::u64(TRY_AGAIN_MS)));
            let _ = tokio::time::timeout(pause, std::future::pending::<()>()).await;
        }
    }

    /// One connection from its beginning to its end, and how long to wait then, where the daemon said so.
    async fn follow(&self, address: SocketAddr) -> Option<Duration> {
        let (mut socket, mut recovering) = self.connect(address).await?;
        let mut retry_after = None;
        while let Some(Ok(message)) = socket.next().await {
            let Message::Text(text) = message else { continue };
            let frame: Value = serde_json::from_str(&text).unwrap();
            if frame["type"] == "restarting" {
                retry_after = frame["retry_after_ms"].as_u64().map(Duration::from_millis);
            }
            if let Go::Away = self.take(&frame, &mut recovering) {
                return Some(Duration::ZERO);
            }
        }
        retry_after
    }

    /// Opens a socket; says of how many streams it will be told what it missed.
    async fn connect(&self, address: SocketAddr) -> Option<(WebSocketStream<TcpStream>, usize)> {
        let (position, streams) = {
            let seen = self.seen.lock().unwrap();
            match &seen.epoch {
                None => (format!("&topic={}", self.city), 0),
                Some(epoch) => {
                    let [own, everyone, city] = self.streams().map(|stream| seen.places[stream]);
                    let topics = format!("&topic={EVERYONE}%3D{everyone}&topic={}%3D{city}", self.city);
                    (format!("&since={own}&epoch={epoch}{topics}"), self.streams().len())
                }
            }
        };
        let url = format!("ws://{address}/ws/notifications/?v=1&token={}{position}", self.token);
        let opening = async {
            let stream = TcpStream::connect(address).await.map_err(tungstenite::Error::Io)?;
            let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_SIZE);
            client_async_with_config(url, stream, Some(config)).await
        };
        match tokio::time::timeout(PATIENCE, opening).await {
            Ok(Ok((socket, _))) => {
                self.seen.lock().unwrap().connections += 1;
                Some((socket, streams))
            }
            // It says that it is on its way out.
            Ok(Err(tungstenite::Error::Http(response))) if response.status() == 503 => None,
            Ok(Err(tungstenite::Error::Http(response))) => self.complain(format!("refused with {}", response.status())),
            // Nobody is there, or it broke off.
            Ok(Err(_)) => None,
            Err(_) => self.complain("no answer in time".to_owned()),
        }
    }

    fn complain<T>(&self, problem: String) -> Option<T> {
        self.seen.lock().unwrap().problems.push(problem);
        None
    }

    fn take(&self, frame: &Value, recovering: &mut usize) -> Go {
        let mut seen = self.seen.lock().unwrap();
        let topic = frame["topic"].as_str().unwrap_or(OWN);
        match frame["type"].as_str().unwrap() {
            "hello" => {
                let epoch = frame["epoch"].as_str().unwrap();
                if seen.epoch.is_none() {
                    seen.epoch = Some(epoch.to_owned());
                    seen.places.insert(OWN.to_owned(), frame["seq"].as_i64().unwrap());
                    for topic in frame["topics"].as_array().unwrap() {
                        seen.places.insert(topic["topic"].as_str().unwrap().to_owned(), topic["seq"].as_i64().unwrap());
                    }
                    assert!(self.streams().iter().all(|stream| seen.places.contains_key(*stream)), "{frame}");
                    seen.caught_up = Some(Instant::now());
                } else if seen.epoch.as_deref() != Some(epoch) {
                    seen.problems.push(format!("another epoch: {frame}"));
                }
            }
            "notification" => {
                let seq = frame["seq"].as_i64().unwrap();
                let expected = seen.places[topic] + 1;
                if seq != expected {
                    let what = if seq < expected { "doubled" } else { "missed" };
                    seen.problems.push(format!("{what}: {seq} of {topic:?} where {expected} should be"));
                }
                seen.places.insert(topic.to_owned(), seq);
                let title = frame["title"].as_str().unwrap().to_owned();
                if let Some(title) = seen.titles.replace(title) {
                    seen.problems.push(format!("doubled: {title:?}"));
                }
            }
            "recovered" => {
                if frame["recovered"] != true || frame["to"].as_i64() != seen.places.get(topic).copied() {
                    let places = format!("{:?}", seen.places);
                    seen.problems.push(format!("not recovered from {places}: {frame}"));
                }
                *recovering -= 1;
                if *recovering == 0 {
                    seen.caught_up = Some(Instant::now());
                }
            }
            // Something was lost on the way: it comes after another connect.
            "ping" if frame["seq"].as_i64().is_some_and(|seq| seq > seen.places[OWN]) => return Go::Away,
            "error" => seen.problems.push(frame.to_string()),
            _ => {}
        }
        Go::On
    }
}

/// Clients at work, and producers for them.
struct Crowd {
    members: Vec<Arc<Member>>,
    living: JoinSet<()>,
    producers: Producers,
    /// How many notifications each stream is to have; the users' own by user.
    wanted: BTreeMap<String, i64>,
    jobs: usize,
}

/// What a fault leaves behind.
struct Aftermath {
    /// It is ready.
    daemon: Daemon,
    /// No connection from before this moment is left.
    all_cut_at: Option<Instant>,
}

impl Crowd {
    /// Connects so many clients here, and waits until they are.
    async fn gather(size: usize, daemon: &Daemon, address: SocketAddr) -> Self {
        let members: Vec<_> = (0..size).map(|number| Arc::new(Member::new(number))).collect();
        let mut living = JoinSet::new();
        for member in &members {
            living.spawn(member.clone().live(address));
        }
        let producers = Producers::new();
        producers.use_daemon(daemon);
        let crowd = Self { members, living, producers, wanted: BTreeMap::new(), jobs: 0 };
        crowd.caught_up(None).await;
        crowd
    }

    /// Has so many requests handed in; returns at once.
    fn produce(&mut self, requests: usize) {
        for _ in 0..PRODUCERS {
            let bodies = (0..requests / PRODUCERS).map(|_| json!((0..JOBS_AT_ONCE).map(|_| self.next_job()).collect::<Vec<_>>())).collect();
            self.producers.start(bodies);
        }
    }

    fn next_job(&mut self) -> Value {
        self.jobs += 1;
        let id = format!("crowd-{}", self.jobs);
        let topic = if self.jobs.is_multiple_of(ONE_FOR_EVERYONE) {
            EVERYONE
        } else if self.jobs.is_multiple_of(ONE_FOR_A_CITY) {
            CITIES[fastrand::usize(0..CITIES.len())]
        } else {
            let user = self.members[fastrand::usize(0..self.members.len())].user.clone();
            let job = job(&id, &[recipient(&user)], &["live"]);
            *self.wanted.entry(user).or_default() += 1;
            return job;
        };
        *self.wanted.entry(topic.to_owned()).or_default() += 1;
        super::topics::to_topic(&id, topic)
    }

    /// Lets a fault happen in the middle of so many requests, and waits until every client has everything. Gives the time from the daemon being ready
    /// until the last client had caught up, where the fault had cut their connections.
    async fn endure(
        &mut self,
        requests: usize,
        daemon: Daemon,
        fault: impl AsyncFnOnce(Daemon) -> Aftermath,
    ) -> (Daemon, Option<Duration>) {
        let before = self.producers.done();
        self.produce(requests);
        self.producers.acknowledged(before + requests / 3).await;
        let Aftermath { daemon, all_cut_at } = fault(daemon).await;
        let ready = Instant::now();
        self.producers.use_daemon(&daemon);
        let last = self.caught_up(all_cut_at).await;
        let took = all_cut_at.map(|_| last.saturating_duration_since(ready));
        self.producers.finish().await;
        self.complete().await;
        (daemon, took)
    }

    /// Waits until every client is connected and has what it missed, each since after this moment. Gives when the last one had.
    async fn caught_up(&self, after: Option<Instant>) -> Instant {
        until("every client has caught up", async || {
            let mut last = None;
            for member in &self.members {
                let seen = member.seen.lock().unwrap();
                assert!(seen.problems.is_empty(), "user {}: {:#?}", member.user, seen.problems);
                let caught_up = seen.caught_up.filter(|at| after.is_none_or(|after| *at > after))?;
                last = last.max(Some(caught_up));
            }
            last
        })
        .await
    }

    /// Waits until every client has all that was ever sent to it, and not one thing more.
    async fn complete(&self) {
        until("every client has everything", async || {
            for member in &self.members {
                let seen = member.seen.lock().unwrap();
                assert!(seen.problems.is_empty(), "user {}: {:#?}", member.user, seen.problems);
                for stream in member.streams() {
                    let wanted = self.wanted.get(if stream == OWN { member.user.as_str() } else { stream }).copied().unwrap_or(0);
                    let has = seen.places[stream];
                    assert!(has <= wanted, "user {}: {has} of {wanted} in {stream:?}", member.user);
                    if has < wanted {
                        return None;
                    }
                }
                // From the first on, and each another.
                assert_eq!(i64::try_from(seen.titles.len()).unwrap(), seen.places.values().sum::<i64>());
            }
            Some(())
        })
        .await;
    }

    /// Sends them away. Gives how many notifications they were told, and how often they connected.
    async fn disperse(mut self) -> (usize, u32) {
        self.living.shutdown().await;
        self.members.iter().fold((0, 0), |(told, connections), member| {
            let seen = member.seen.lock().unwrap();
            (told + seen.titles.len(), connections + seen.connections)
        })
    }
}

fn size() -> usize {
    if is_long() { 5000 } else { 200 }
}

fn setup() -> Setup {
    // All of them come from one address.
    let limit = 2 * size();
    Setup::new().with("live.public_topics", "[\"city.*\"]").with("shutdown.drain", "2s").with("public.max_connections_per_address", &limit)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_misses_and_doubles_nothing_when_the_daemon_dies_and_comes_back() {
    let rounds = if is_long() { 5 } else { 1 };
    let requests = if is_long() { 120 } else { 48 };
    let mut setup = setup();
    let mut daemon = setup.start().await;
    let mut crowd = Crowd::gather(size(), &daemon, daemon.public).await;
    let (mut after_kills, mut after_restarts) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let took;
        (daemon, took) = crowd
            .endure(requests, daemon, async |daemon| {
                assert_eq!(daemon.process.kill().await.signal, Some(9));
                let all_cut_at = Some(Instant::now());
                Aftermath { daemon: setup.start().await, all_cut_at }
            })
            .await;
        after_kills.extend(took);
        let took;
        (daemon, took) = crowd
            .endure(requests, daemon, async |daemon| {
                assert_eq!(daemon.terminate().await.code, Some(0));
                let all_cut_at = Some(Instant::now());
                Aftermath { daemon: setup.start().await, all_cut_at }
            })
            .await;
        after_restarts.extend(took);
    }
    daemon.drained().await;
    let audit = daemon.api.get("/v1/audit").await.expect(200);
    assert_eq!((&audit["balanced"], audit["accepted"].as_u64()), (&json!(true), Some(crowd.jobs as u64)), "{audit}");
    let jobs = crowd.jobs;
    let (told, connections) = crowd.disperse().await;
    println!(
        "{} clients: {jobs} jobs told {told} times over {connections} connections, none missed, none doubled; \
         the last had caught up {after_kills:.1?} after kills, {after_restarts:.1?} after restarts",
        size()
    );
}

/// Faults that the daemon lives through, and its store with it. Those of the bus belong here too: whatever happens there, each is an
/// [`Aftermath`] of the same daemon in which no connection has to be cut.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_misses_and_doubles_nothing_when_the_daemon_is_frozen_or_cut_off() {
    const FROZEN: Duration = Duration::from_millis(500);
    let requests = if is_long() { 120 } else { 48 };
    let mut setup = setup();
    let mut daemon = setup.start().await;
    let proxy = Proxy::start(daemon.public).await;
    let mut crowd = Crowd::gather(size(), &daemon, proxy.address()).await;
    (daemon, _) = crowd
        .endure(requests, daemon, async |daemon| {
            daemon.process.signal("STOP");
            assert!(tokio::time::timeout(FROZEN, daemon.api.get("/healthz")).await.is_err(), "it still answers");
            daemon.process.signal("CONT");
            Aftermath { daemon, all_cut_at: None }
        })
        .await;
    let took;
    (daemon, took) = crowd
        .endure(requests, daemon, async |daemon| {
            let all_cut_at = Some(Instant::now());
            proxy.cut();
            Aftermath { daemon, all_cut_at }
        })
        .await;
    let (jobs, took) = (crowd.jobs, took.unwrap());
    let (told, connections) = crowd.disperse().await;
    println!(
        "{} clients: {jobs} jobs told {told} times over {connections} connections, none missed, none doubled; \
         the last had caught up {took:.1?} after every connection was cut",
        size()
    );
    assert_eq!(daemon.terminate().await.code, Some(0));
}

/// Faults of the bus: connections stay, hints are lost, and every gap heals by reading the store.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_misses_and_doubles_nothing_when_the_bus_is_gone_emptied_or_slow() {
    let requests = if is_long() { 120 } else { 48 };
    let mut redis = Redis::start().await;
    let proxy = Proxy::start(redis.address()).await;
    // A lost last hint heals with the next ping.
    let mut setup = setup().with("bus.url", &format!("redis://{}", proxy.address())).with("socket.ping_interval", "2s");
    let mut daemon = setup.start().await;
    let mut crowd = Crowd::gather(size(), &daemon, daemon.public).await;
    // Stopped, and later started empty.
    (daemon, _) = crowd
        .endure(requests, daemon, async |daemon| {
            redis.kill();
            redis.start_again().await;
            Aftermath { daemon, all_cut_at: None }
        })
        .await;
    // Flushed, and its subscribers thrown out.
    (daemon, _) = crowd
        .endure(requests, daemon, async |daemon| {
            redis.ask::<()>(&["FLUSHALL"]).await;
            redis.ask::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
            Aftermath { daemon, all_cut_at: None }
        })
        .await;
    // Slow; endure's end is reached while it still is, or after it has healed.
    (daemon, _) = crowd
        .endure(requests, daemon, async |daemon| {
            proxy.slow(20_000);
            Aftermath { daemon, all_cut_at: None }
        })
        .await;
    proxy.heal();
    let (told, connections) = crowd.disperse().await;
    println!("{} clients: told {told} times over {connections} connections through a bus stopped, flushed and slow", size());
    assert_eq!(daemon.terminate().await.code, Some(0));
}
