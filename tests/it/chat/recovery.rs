//! What was missed comes first, in order and whole, whatever the connection was lost by.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tarishi::model::ConversationId;
use tokio::{net::TcpStream, task::JoinSet};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message},
};

use super::Conversing;
use crate::{
    live::Client,
    support::{Daemon, PATIENCE, StoreFile, is_long, token, until},
};

/// How long a client waits before it tries again, in milliseconds.
const TRY_AGAIN_MS: std::ops::Range<u64> = 20..120;

/// The event numbers of frames that have a place.
fn events(frames: &[Value]) -> Vec<i64> {
    frames.iter().filter(|frame| frame["type"] != "recovered").filter_map(|frame| frame["seq"].as_i64()).collect()
}

#[tokio::test]
async fn what_was_missed_comes_first_and_says_from_where_to_where() {
    let mut conversing = Conversing::new().with("chat.replay_limit", "6").with("chat.messages_burst", "100");
    let id = conversing.converse(&[("1", "Asha"), ("2", "Juma")]).await;
    let daemon = conversing.start().await;
    let (mut asha, hello) = Client::chat_v1(&daemon, id, "1", "").await;
    let epoch = hello["epoch"].as_str().unwrap().to_owned();
    let mut juma = Client::chat(&daemon, id, "2").await;
    for number in 1..=4 {
        asha.say(&number.to_string()).await;
        assert_eq!(asha.heard().await["seq"], number);
    }
    asha.send(&json!({ "type": "edit", "message_id": 2, "content": "two" })).await;
    asha.send(&json!({ "type": "delete", "message_id": 3 })).await;
    assert_eq!(events(&asha.up_to("message_deleted").await), [5, 6]);
    juma.send(&json!({ "type": "hide", "message_id": 4 })).await;
    juma.send(&json!({ "type": "read", "message_id": 4 })).await;
    asha.next_of("read_receipt").await;
    let (mut back, hello) = Client::chat_v1(&daemon, id, "1", &format!("&since=1&epoch={epoch}")).await;
    assert_eq!((&hello["seq"], &hello["participants"][0]["read_to"]), (&json!(6), &json!(4)));
    let told = back.up_to("recovered").await;
    assert_eq!(events(&told), [2, 3, 4, 5, 6]);
    let told: Vec<&Value> = told.iter().filter(|frame| frame["seq"].is_number() || frame["type"] == "recovered").collect();
    // As they are by now: what is deleted is told nowhere.
    let shown: Vec<(&str, &str)> =
        told[..5].iter().map(|frame| (frame["type"].as_str().unwrap(), frame["message"]["text"].as_str().unwrap())).collect();
    assert_eq!(shown, [("message", "two"), ("message", ""), ("message", "4"), ("message_edited", "two"), ("message_deleted", "")]);
    assert_eq!((&told[2]["message"]["is_read"], told[2]["message"]["read_at"].is_string()), (&json!(true), true));
    assert_eq!(*told[5], json!({ "type": "recovered", "recovered": true, "from": 1, "to": 6, "epoch": epoch }));
    // And on from there.
    asha.say("5").await;
    assert_eq!(back.heard().await["seq"], 7);
    // What one has hidden is a hole for them.
    let (mut juma, _) = Client::chat_v1(&daemon, id, "2", "&since=2").await;
    let told = juma.up_to("recovered").await;
    assert_eq!((events(&told), &told.last().unwrap()["to"]), (vec![3, 5, 6, 7], &json!(7)));
    // Nothing missed is recovered too.
    let (mut nothing, _) = Client::chat_v1(&daemon, id, "1", "&since=7").await;
    let told = nothing.up_to("recovered").await;
    assert_eq!((events(&told), &told.last().unwrap()["recovered"]), (vec![], &json!(true)));
    // Another history, from the future, and longer ago than is told again.
    for position in ["&since=7&epoch=another", "&since=8", "&since=0"] {
        let (mut lost, _) = Client::chat_v1(&daemon, id, "1", position).await;
        let told = lost.up_to("recovered").await;
        assert_eq!(events(&told), [0; 0], "{position}");
        assert_eq!(*told.last().unwrap(), json!({ "type": "recovered", "recovered": false, "seq": 7, "epoch": epoch }), "{position}");
    }
    for position in ["&since=-1", "&since=seven"] {
        let mut bad = Client::try_chat(&daemon, id, "1", position).await.unwrap();
        assert_eq!(bad.next_or_close().await, Err(4400), "{position}");
    }
    asha.say("6").await;
    assert_eq!(nothing.heard().await["seq"], 8);
}

/// What one client has done and was told.
#[derive(Default)]
struct Seen {
    epoch: Option<String>,
    reached: i64,
    /// Of messages: each once.
    client_ids: HashSet<String>,
    /// How many of its own it was told of.
    said: usize,
    edited: usize,
    /// The last of its own that it was told of.
    last_own: Option<i64>,
    connections: usize,
    problems: Vec<String>,
}

/// One who says so many messages, each until it is told of it, and corrects every third.
struct Speaker {
    user: String,
    conversation: ConversationId,
    messages: usize,
    seen: Mutex<Seen>,
}

type Socket = WebSocketStream<TcpStream>;

impl Speaker {
    fn is_done(&self) -> bool {
        let seen = self.seen.lock().unwrap();
        seen.said == self.messages && seen.edited == self.messages / 3
    }

    fn complain(&self, problem: String) {
        self.seen.lock().unwrap().problems.push(problem);
    }

    /// Connects again and again, for as long as it is let.
    async fn live(self: Arc<Self>, address: SocketAddr) {
        loop {
            if let Some(socket) = self.connect(address).await {
                // Broken off is as good as closed.
                let _ = self.follow(socket).await;
            }
            let pause = Duration::from_millis(fastrand::u64(TRY_AGAIN_MS));
            let _ = tokio::time::timeout(pause, std::future::pending::<()>()).await;
        }
    }

    async fn connect(&self, address: SocketAddr) -> Option<Socket> {
        let position = {
            let seen = self.seen.lock().unwrap();
            format!("&since={}{}", seen.reached, seen.epoch.as_ref().map(|epoch| format!("&epoch={epoch}")).unwrap_or_default())
        };
        let url = format!("ws://{address}/ws/chat/{}/?token={}{position}", self.conversation, token(&self.user));
        let stream = TcpStream::connect(address).await.ok()?;
        match tokio::time::timeout(PATIENCE, client_async(url, stream)).await {
            Ok(Ok((socket, _))) => {
                self.seen.lock().unwrap().connections += 1;
                Some(socket)
            }
            // It says that it is on its way out, or is gone.
            Ok(Err(tungstenite::Error::Http(response))) if response.status() != 503 => {
                self.complain(format!("refused with {}", response.status()));
                None
            }
            Ok(Err(_)) => None,
            Err(_) => {
                self.complain("no answer in time".to_owned());
                None
            }
        }
    }

    async fn follow(&self, mut socket: Socket) -> Result<(), tungstenite::Error> {
        let mut is_recovered = false;
        while let Some(message) = socket.next().await {
            let Message::Text(text) = message? else { continue };
            let frame: Value = serde_json::from_str(&text).unwrap();
            let is_answered = self.take(&frame);
            let recovers_now = frame["type"] == "recovered";
            is_recovered |= recovers_now;
            if is_recovered
                && (recovers_now || is_answered)
                && let Some(next) = self.next()
            {
                socket.send(Message::text(next.to_string())).await?;
            }
        }
        Ok(())
    }

    fn client_id(&self, number: usize) -> String {
        format!("{}-{number}", self.user)
    }

    /// What to say next, or again.
    fn next(&self) -> Option<Value> {
        let seen = self.seen.lock().unwrap();
        if seen.edited < seen.said / 3 {
            let message = seen.last_own?;
            return Some(json!({ "type": "edit", "message_id": message, "content": "corrected" }));
        }
        let number = seen.said + 1;
        let client_id = self.client_id(number);
        (number <= self.messages).then(|| json!({ "type": "message", "content": client_id, "client_id": client_id }))
    }

    /// Whether it is what was waited for.
    fn take(&self, frame: &Value) -> bool {
        let mut seen = self.seen.lock().unwrap();
        let kind = frame["type"].as_str().unwrap();
        match kind {
            "hello" => {
                let epoch = frame["epoch"].as_str().unwrap().to_owned();
                if *seen.epoch.get_or_insert(epoch.clone()) != epoch {
                    seen.problems.push(format!("another epoch: {frame}"));
                }
                false
            }
            "message" | "message_edited" => {
                let event = frame["seq"].as_i64().unwrap();
                let message = &frame["message"];
                let client_id = message["client_id"].as_str().unwrap().to_owned();
                let is_own = message["sender"] == self.user.parse::<i64>().unwrap();
                if event != seen.reached + 1 {
                    let expected = seen.reached + 1;
                    seen.problems.push(format!("{event} where {expected} should be: {frame}"));
                }
                seen.reached = event;
                if kind == "message_edited" {
                    seen.edited += usize::from(is_own);
                    return is_own;
                }
                if !seen.client_ids.insert(client_id.clone()) {
                    seen.problems.push(format!("doubled: {frame}"));
                }
                let is_answer = is_own && client_id == self.client_id(seen.said + 1);
                if is_answer {
                    seen.said += 1;
                    seen.last_own = message["id"].as_i64();
                } else if is_own {
                    seen.problems.push(format!("not what was said: {frame}"));
                }
                is_answer
            }
            "recovered" if frame["recovered"] != true || frame["to"] != seen.reached => {
                let reached = seen.reached;
                seen.problems.push(format!("not recovered from {reached}: {frame}"));
                false
            }
            "error" => {
                seen.problems.push(frame.to_string());
                false
            }
            _ => false,
        }
    }
}

/// People in one conversation, all of whom speak.
struct Talk {
    speakers: Vec<Arc<Speaker>>,
    living: JoinSet<()>,
}

impl Talk {
    fn begin(daemon: &Daemon, conversation: ConversationId, people: usize, messages: usize) -> Self {
        let speaker = |number: usize| {
            let user = (100 + number).to_string();
            Arc::new(Speaker { user, conversation, messages, seen: Mutex::default() })
        };
        let speakers: Vec<_> = (0..people).map(speaker).collect();
        let mut living = JoinSet::new();
        for speaker in &speakers {
            living.spawn(speaker.clone().live(daemon.public));
        }
        Self { speakers, living }
    }

    fn check(&self) {
        for speaker in &self.speakers {
            let seen = speaker.seen.lock().unwrap();
            assert!(seen.problems.is_empty(), "user {}: {:#?}", speaker.user, seen.problems);
        }
    }

    /// Waits until so many messages have reached somebody.
    async fn comes_to(&self, messages: usize) {
        until(&format!("{messages} messages are told"), async || {
            self.check();
            self.speakers.iter().any(|speaker| speaker.seen.lock().unwrap().client_ids.len() >= messages).then_some(())
        })
        .await;
    }

    /// Waits until everybody has said everything, and was told everything. How many events there are.
    async fn ends(&self, messages: usize) -> i64 {
        until("everybody has everything", async || {
            self.check();
            let reached = |speaker: &Arc<Speaker>| speaker.seen.lock().unwrap().reached;
            let last = self.speakers.iter().map(reached).max()?;
            let has_all = |speaker: &Arc<Speaker>| speaker.is_done() && reached(speaker) == last;
            let is_whole = self.speakers.iter().all(|speaker| speaker.seen.lock().unwrap().client_ids.len() == messages);
            (is_whole && self.speakers.iter().all(has_all)).then_some(last)
        })
        .await
    }
}

async fn talk_through_deaths(people: usize, messages: usize, rounds: usize) {
    let pace = ["chat.messages_burst", "chat.user_messages_burst"];
    let conversing = Conversing::new().with("chat.replay_limit", "100000").with("public.max_connections_per_address", "1000");
    let mut conversing = pace.into_iter().fold(conversing, |conversing, key| conversing.with(key, "100000"));
    let names: Vec<String> = (0..people).map(|number| (100 + number).to_string()).collect();
    let members: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "Somebody")).collect();
    let id = conversing.converse(&members).await;
    let mut daemon = conversing.start().await;
    let mut talk = Talk::begin(&daemon, id, people, messages);
    let total = people * messages;
    let deaths = 2 * rounds;
    for death in 1..=deaths {
        talk.comes_to(total * death / (deaths + 1)).await;
        if death % 2 == 1 {
            assert_eq!(daemon.process.kill().await.signal, Some(9));
        } else {
            assert_eq!(daemon.terminate().await.code, Some(0));
        }
        daemon = conversing.start().await;
    }
    let events = talk.ends(total).await;
    talk.living.shutdown().await;
    assert_eq!(daemon.terminate().await.code, Some(0));
    let store = StoreFile::open(&conversing.setup.store_path());
    store.check_integrity();
    assert_eq!(store.number("SELECT count(*) FROM messages"), i64::try_from(total).unwrap());
    assert_eq!(store.number("SELECT event FROM conversations"), events);
    let connections: usize = talk.speakers.iter().map(|speaker| speaker.seen.lock().unwrap().connections).sum();
    assert!(connections >= people * (deaths + 1), "nobody was cut off: this proved nothing");
    println!(
        "{people} people, {total} messages, {events} events over {connections} connections and {deaths} deaths; none missed, none doubled"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_miss_and_double_nothing_when_the_daemon_dies_and_comes_back() {
    let (messages, rounds) = if is_long() { (1000, 10) } else { (300, 1) };
    talk_through_deaths(2, messages, rounds).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_people_miss_and_double_nothing_when_the_daemon_dies_and_comes_back() {
    let (messages, rounds) = if is_long() { (200, 5) } else { (60, 1) };
    talk_through_deaths(50, messages, rounds).await;
}
