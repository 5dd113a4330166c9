//! The Autobahn test suite's fuzzing client against our sessions.
//!
//! It wants a server that says back what it is told: such a protocol is put on top of the daemon's own accept loop, upgrade and sessions.
//!
//! | Cases | |
//! |---|---|
//! | 1 to 7, 10 | always |
//! | 9: messages of up to 8 MiB | in the long form |
//! | 12, 13: compression | never: the daemon does not offer it |
//! | 1.2, 9.2, 9.4, 9.6, 9.8: in binary | never: no session says anything in binary. `wire.rs` has the lengths |
//! | 9.1.6: 16 MiB at once | never: with its head that is beyond what a session would ever write |

use std::{collections::BTreeMap, future::ready, net::SocketAddr, num::NonZeroU32, sync::Arc, time::Duration};

use axum::{Router, extract::Request, response::Response, routing::any};
use governor::Quota;
use serde_json::Value;
use tarishi::{
    model::{Place, Stream, Timestamp},
    socket::{
        AuthSettings, Authenticator, Bus, Endpoint, Frame, Gate, Hub, HubLimits, JwtKeySettings, JwtSettings, JwtVerifier,
        ListenerSettings, OriginPolicy, Protocol, Reaction, Revocations, SessionCounters, SessionSettings, Sessions, Step, Work, serve,
    },
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::support::{SECRET, is_long, python, token};

/// Cases of each form, so that none is lost without a word.
const CASES: usize = 239;
const CASES_OF_LARGE_MESSAGES: usize = 26;
/// The largest message of the suite's.
const MESSAGE_LIMIT: usize = 16 * 1024 * 1024;
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/autobahn.py");

/// Says every text back.
struct Echo;

impl Protocol for Echo {
    type Done = ();

    fn open(&mut self) -> Work<()> {
        Box::pin(ready(()))
    }

    fn receive(&mut self, text: &str) -> Reaction<()> {
        Reaction::Say(Frame::new(text.to_owned()))
    }

    fn catch_up(&mut self, _: &Stream, _: i64) -> Work<()> {
        Box::pin(ready(()))
    }

    fn finish(&mut self, (): ()) -> Vec<Step> {
        Vec::new()
    }

    fn ping(&self, _: &[Place]) -> Option<Frame> {
        None
    }

    fn farewell(&self, _: Duration) -> Option<Frame> {
        None
    }
}

async fn echo_server() -> SocketAddr {
    let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
    let many = Quota::per_second(NonZeroU32::MAX);
    let settings = SessionSettings {
        ping_interval: Duration::from_hours(1),
        pong_timeout: Duration::from_hours(1),
        close_timeout: Duration::from_secs(3),
        drain: Duration::ZERO,
        message_limit: MESSAGE_LIMIT,
        messages: many,
    };
    let (delivered, _) = mpsc::channel(1);
    let sessions = Sessions::new(settings, delivered, Arc::<SessionCounters>::default(), shutdown.clone(), tracker.clone());
    let limits = HubLimits {
        connections: 1000,
        connections_per_user: 1000,
        topics_per_connection: 0,
        send_queue_limit: 2 * MESSAGE_LIMIT,
        send_queue_frames: 10_000,
    };
    let settings = JwtSettings::of(vec![JwtKeySettings::hs256(None, &SECRET.into())]);
    let verifier = JwtVerifier::new(&settings, Arc::new(Revocations::new(Duration::ZERO, []))).unwrap();
    let origins = OriginPolicy::default();
    let settings = AuthSettings {
        cookie: None,
        origins: origins.clone(),
        ticket_lifetime: Duration::ZERO,
        ticket_key: fernet::Fernet::generate_key().into(),
    };
    let hub = Hub::new(limits);
    let authenticator = Arc::new(Authenticator::new(verifier, settings, Bus::memory(hub.clone())));
    let gate = Arc::new(Gate::new(authenticator, origins, hub, sessions));
    let connect = async move |request: Request| -> Response {
        let (mut parts, _) = request.into_parts();
        match gate.admit(&mut parts, false, Timestamp::now()).await {
            Ok(admission) => admission.start(Echo, |_, _| String::new()),
            Err(refused) => refused,
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let timeout = Duration::from_mins(1);
    let settings = ListenerSettings::direct(timeout, timeout, 1000, Arc::default());
    tokio::spawn(serve(vec![Endpoint::Tcp(listener)], Router::new().route("/", any(connect)).into(), settings, shutdown, tracker));
    address
}

/// Plays the cases and says how many there were.
async fn play(include: &str, exclude: &str) -> usize {
    let url = format!("ws://{}/?token={}", echo_server().await, token("42"));
    let arguments = [SCRIPT, &url, include, exclude].map(str::to_owned);
    let fuzzer = python(&arguments, &BTreeMap::new());
    let ended = fuzzer.end().await;
    assert_eq!(ended.code, Some(0), "{}", fuzzer.lines().join("\n"));
    let results = fuzzer.events();
    let is_good = |result: &&Value| {
        let among = |member: &str, good: &[&str]| good.contains(&result[member].as_str().unwrap());
        among("behavior", &["OK", "NON-STRICT", "INFORMATIONAL"]) && among("close", &["OK", "INFORMATIONAL"])
    };
    let bad: Vec<&Value> = results.iter().filter(|result| !is_good(result)).collect();
    assert!(bad.is_empty(), "{} of {}: {bad:#?}", bad.len(), results.len());
    results.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_autobahn_suite_finds_nothing() {
    assert_eq!(play("*", "1.2.*,9.*,12.*,13.*").await, CASES);
    if is_long() {
        assert_eq!(play("9.*", "9.1.6,9.2.*,9.4.*,9.6.*,9.8.*").await, CASES_OF_LARGE_MESSAGES);
    }
}
