//! Clients that others wrote: Python's `websockets`, Node's `ws`, and a browser's own sockets and server-sent events.
//!
//! Each of the first three plays the same scene, written twice (`tests/tools/live_client.*`), and is held to the same transcript.

use axum::{Router, response::Html};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{notify, seqs, topics::announce, with_short_drain};
use crate::support::{Browser, Daemon, Process, Setup, node, python, token};

fn script(name: &str) -> String {
    format!("{}/tests/tools/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// What the scene was seen to be.
struct Transcript(Vec<Value>);

impl Transcript {
    fn has_come_to(&self, step: &str) -> bool {
        self.0.iter().any(|told| told["step"] == step)
    }

    fn frames(&self, client: &str) -> Vec<Value> {
        self.0.iter().filter(|told| told["client"] == client && told["frame"].is_object()).map(|told| told["frame"].clone()).collect()
    }

    fn types(&self, client: &str) -> Vec<String> {
        self.frames(client).iter().map(|frame| frame["type"].as_str().unwrap().to_owned()).collect()
    }

    fn close_code(&self, client: &str) -> Option<u64> {
        self.0.iter().filter(|told| told["client"] == client).find_map(|told| told["closed"].as_u64())
    }

    /// The notifications of the user's own stream, or of a topic's.
    fn notifications(&self, client: &str, topic: Option<&str>) -> Vec<i64> {
        let frames: Vec<Value> = self.frames(client).into_iter().filter(|frame| frame["topic"].as_str() == topic).collect();
        seqs(&frames)
    }

    #[track_caller]
    fn check(&self) {
        // Frames it knows, and the answer it asked for; of topics, everyone's only.
        assert_eq!(self.types("legacy"), [&["notification"; 5][..], &["pong"]].concat());
        assert_eq!(self.notifications("legacy", None), [1, 2, 3, 4]);
        assert_eq!(self.notifications("legacy", Some("*")), [1]);
        for frame in &self.frames("legacy")[..5] {
            assert_eq!((&frame["message"], &frame["severity"]), (&json!("Habari ya leo"), &json!("info")));
        }
        assert_eq!(self.types("first")[..2], ["hello", "notification"]);
        assert_eq!(self.notifications("first", None), [1]);

        let again = self.frames("again");
        assert_eq!((&again[0]["type"], &again[0]["seq"], &again[0]["unread"]), (&json!("hello"), &json!(3), &json!(3)));
        assert_eq!(self.types("again")[..5], ["hello", "notification", "notification", "recovered", "subscribed"]);
        assert_eq!((&again[3]["recovered"], &again[3]["from"], &again[3]["to"]), (&json!(true), &json!(2), &json!(3)));
        assert_eq!(self.notifications("again", None), [2, 3, 4]);
        for topic in ["city.dar", "*"] {
            assert_eq!(self.notifications("again", Some(topic)), [1], "{topic}");
        }

        let id = &self.frames("first")[1]["id"];
        for client in ["again", "other"] {
            let frames = self.frames(client);
            let changed: Vec<&Value> = frames.iter().filter(|frame| frame["type"] == "changed").collect();
            assert_eq!(changed.len(), 1, "{client}: {changed:?}");
            assert_eq!((&changed[0]["state"], &changed[0]["ids"]), (&json!("read"), &json!([id])));
            let [.., unread, pong] = &frames[..] else { panic!("{frames:?}") };
            assert_eq!((&unread["type"], &unread["count"], &pong["type"]), (&json!("unread"), &json!(3), &json!("pong")));
        }
        assert_eq!(self.types("other"), ["hello", "changed", "unread", "pong"]);

        for client in ["legacy", "first", "again", "other"] {
            assert_eq!(self.close_code(client), Some(1000), "{client}");
        }
        assert_eq!(self.close_code("stranger"), Some(4401));
    }
}

/// Does what the scene waits for, and looks at what came of it. `told` is all that the client has told so far.
async fn play(daemon: &Daemon, told: impl AsyncFn() -> Vec<Value>) {
    let come_to = async |step: &str| {
        daemon
            .process
            .until(&format!("the client has come to {step}"), async || Transcript(told().await).has_come_to(step).then_some(()))
            .await;
    };
    come_to("connected").await;
    notify(daemon, "first", "42").await;
    come_to("away").await;
    notify(daemon, "second", "42").await;
    notify(daemon, "third", "42").await;
    come_to("back").await;
    notify(daemon, "fourth", "42").await;
    announce(daemon, "dar", "city.dar").await;
    announce(daemon, "all", "*").await;
    come_to("done").await;
    Transcript(told().await).check();
}

async fn play_program(program: impl FnOnce(&str) -> Process) {
    let mut setup = with_short_drain().with("live.public_topics", "[\"city.*\"]");
    let daemon = setup.start().await;
    let process = program(&format!("ws://{}", daemon.public));
    let told = async || {
        // A program that fails has said why in its last lines.
        assert!(process.has_ended().is_none_or(|ended| ended.code == Some(0)), "{}", process.lines().join("\n"));
        process.events()
    };
    play(&daemon, told).await;
    assert_eq!(process.end().await.code, Some(0));
    assert_eq!(daemon.terminate().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_python_misses_nothing() {
    play_program(|base| python(&[script("live_client.py"), base.to_owned(), token("42")], &std::collections::BTreeMap::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_node_misses_nothing() {
    play_program(|base| node(&[script("live_client_node.js"), base.to_owned(), token("42")], &std::collections::BTreeMap::new())).await;
}

/// A web site whose pages are empty. Gives its origin.
async fn empty_site() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(async || Html("<!doctype html><link rel=\"icon\" href=\"data:,\"><title>An app</title>"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    origin
}

/// A page of a site that may connect, in a browser of its own.
async fn allowed_page(setup: &mut Setup) -> Browser {
    let origin = empty_site().await;
    setup.set("public.allowed_origins", &format!("[\"{origin}\"]"));
    let browser = Browser::open().await;
    browser.go_to(&format!("{origin}/")).await;
    browser
}

async fn told(browser: &Browser) -> Vec<Value> {
    browser.evaluate("return window.told").await.as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_misses_nothing() {
    let mut setup = with_short_drain().with("live.public_topics", "[\"city.*\"]");
    let browser = allowed_page(&mut setup).await;
    let daemon = setup.start().await;
    let scene = std::fs::read_to_string(script("live_client.js")).unwrap();
    let sockets = format!(
        r#"
        const address = "ws://{}/ws/notifications/", token = "{}";
        window.told = [];
        play({{
            anonymous: () => new WebSocket(address, ["tarishi.v1"]),
            byToken: (more) => new WebSocket(`${{address}}?token=${{token}}${{more}}`),
            byBearer: () => new WebSocket(address, ["tarishi.v1", "bearer", token]),
        }}, (told) => window.told.push(told));"#,
        daemon.public,
        token("42"),
    );
    browser.evaluate(&format!("{scene}{sockets}")).await;
    play(&daemon, async || told(&browser).await).await;
    // The same browser, on a page of another site.
    let open = format!(
        r#"
        window.told = [];
        const socket = new WebSocket("ws://{}/ws/notifications/?token={}");
        socket.onopen = () => window.told.push("opened");
        socket.onclose = (event) => window.told.push(event.code);"#,
        daemon.public,
        token("42"),
    );
    let elsewhere = empty_site().await;
    browser.go_to(&format!("{elsewhere}/")).await;
    browser.evaluate(&open).await;
    let seen = daemon.process.until("the page hears something", async || Some(told(&browser).await).filter(|told| !told.is_empty())).await;
    assert_eq!(seen, [1006], "a foreign page is refused before the handshake");
    browser.close().await;
    assert_eq!(daemon.terminate().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_goes_on_with_events_after_a_restart_by_itself() {
    let mut setup = with_short_drain().with("live.public_topics", "[\"city.*\"]");
    let browser = allowed_page(&mut setup).await;
    let daemon = setup.start().await;
    let listen = format!(
        r#"
        window.told = [];
        window.events = new EventSource("http://{}/sse/notifications?topic=city.dar&token={}");
        window.events.onmessage = (event) => window.told.push(JSON.parse(event.data));"#,
        daemon.public,
        token("42"),
    );
    browser.evaluate(&listen).await;
    let has_told = async |daemon: &Daemon, notifications: usize| {
        let count = async || told(&browser).await.iter().filter(|frame| frame["type"] == "notification").count();
        let what = format!("{notifications} notifications are in the page");
        daemon.process.until(&what, async || (count().await >= notifications).then_some(())).await;
    };
    let say = async |daemon: &Daemon, life: usize| {
        notify(daemon, &format!("own-{life}"), "42").await;
        announce(daemon, &format!("dar-{life}"), "city.dar").await;
    };
    daemon.process.until("it listens", async || (!told(&browser).await.is_empty()).then_some(())).await;
    say(&daemon, 1).await;
    has_told(&daemon, 2).await;
    let public = daemon.public;
    assert_eq!(daemon.terminate().await.code, Some(0));
    // Where the browser does not find it.
    setup.set("public.listen", &format!("{}:18002", public.ip()));
    let daemon = setup.start().await;
    say(&daemon, 2).await;
    assert_eq!(daemon.terminate().await.code, Some(0));
    setup.set("public.listen", &public);
    let daemon = setup.start().await;
    say(&daemon, 3).await;
    has_told(&daemon, 6).await;
    // What would have come twice is before this.
    say(&daemon, 4).await;
    has_told(&daemon, 8).await;
    let transcript = Transcript(told(&browser).await.into_iter().map(|frame| json!({ "client": "page", "frame": frame })).collect());
    assert_eq!(transcript.notifications("page", None), [1, 2, 3, 4]);
    assert_eq!(transcript.notifications("page", Some("city.dar")), [1, 2, 3, 4]);
    let recovered: Vec<Value> = transcript.frames("page").into_iter().filter(|frame| frame["type"] == "recovered").collect();
    assert!(recovered.iter().all(|frame| frame["recovered"] == true), "{recovered:?}");
    assert_eq!(browser.evaluate("return window.events.readyState").await, 1);
    browser.close().await;
    assert_eq!(daemon.terminate().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_come_back_during_a_drain_come_back_again() {
    let mut setup = with_short_drain().with("shutdown.drain", "20s");
    let browser = allowed_page(&mut setup).await;
    let daemon = setup.start().await;
    let (_held, _) = super::Client::open_v1(&daemon, "42", "").await;
    daemon.process.signal("TERM");
    daemon.process.find_line(|line| line.contains("draining").then_some(())).await.unwrap();
    let listen = format!(
        r#"
        window.states = [];
        window.events = new EventSource("http://{}/sse/notifications?token={}");
        window.events.onerror = (event) => window.states.push(window.events.readyState);"#,
        daemon.public,
        token("42"),
    );
    browser.evaluate(&listen).await;
    let states = daemon
        .process
        .until("an error", async || {
            let states = browser.evaluate("return window.states").await;
            (!states.as_array().unwrap().is_empty()).then_some(states)
        })
        .await;
    daemon.process.kill().await;
    assert_eq!(states[0], 0, "2 is closed for ever");
}
