//! Two nodes of one deployment, each with sockets of its own, over a real Redis.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use governor::Quota;
use secrecy::SecretString;
use serde_json::json;
use tarishi::{
    chat::{self, Chat, seal::ChatKeys},
    config::{self, Sources},
    model::ConversationId,
    socket::{
        AuthSettings, Authenticator, Bus, Endpoint, Gate, JwtKeySettings, JwtSettings, JwtVerifier, ListenerSettings, OriginPolicy,
        Revocations, SessionSettings, Sessions, serve,
    },
    store::{NewConversation, NewParticipant, ParticipantChange, Store},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    bus::node::{Fixture, Node},
    live::Client,
    support::{PATIENCE, Redis, SECRET, token},
};

/// A node with a chat and a listener.
struct ChatNode {
    node: Node,
    chat: Arc<Chat>,
    address: SocketAddr,
    stop: CancellationToken,
}

impl ChatNode {
    async fn start(fixture: &Fixture, redis: &Redis, key: &SecretString) -> Self {
        let node = fixture.node(&redis.url()).await;
        let (stop, store) = (CancellationToken::new(), fixture.store());
        for worker in node.bus.hub().fan_out(&stop) {
            tokio::spawn(worker);
        }
        let mut config = config::load(&Sources::default()).unwrap().chat;
        config.encryption_keys = vec![key.clone()];
        let authenticator = authenticator(&store, node.bus.clone());
        let gate = Gate::new(authenticator.clone(), OriginPolicy::new(&[], None), node.bus.hub().clone(), sessions(&stop));
        let (chat, beside) = chat::open(store, node.bus.clone(), gate, authenticator, config).unwrap();
        tokio::spawn(beside.run(stop.clone()));
        let endpoint = Endpoint::bind(&"127.0.0.1:0".parse().unwrap(), 0).await.unwrap();
        let address = endpoint.address().unwrap().tcp().unwrap();
        let router = chat::router(chat.clone(), OriginPolicy::default());
        let settings = ListenerSettings::direct(PATIENCE, PATIENCE, 100, Arc::default());
        tokio::spawn(serve(vec![endpoint], router.into(), settings, stop.clone(), TaskTracker::new()));
        Self { node, chat, address, stop }
    }

    async fn open(&self, id: ConversationId, user: &str, more: &str) -> Result<Client, tokio_tungstenite::tungstenite::Error> {
        Client::try_open_on(self.address, &format!("/ws/chat/{id}/?token={}{more}", token(user)), None).await
    }

    async fn client(&self, id: ConversationId, user: &str) -> Client {
        self.open(id, user, "").await.unwrap()
    }

    async fn leave(&self, id: ConversationId, user: &str) {
        self.chat.change_part(&user.parse().unwrap(), id, ParticipantChange::Leave).await.unwrap();
    }
}

impl Drop for ChatNode {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn authenticator(store: &Store, bus: Bus) -> Arc<Authenticator> {
    let hour = Duration::from_hours(1);
    let settings = JwtSettings::of(vec![JwtKeySettings::hs256(None, &SECRET.into())]);
    let verifier = JwtVerifier::new(&settings, Arc::new(Revocations::new(hour, Vec::new()))).unwrap();
    let origins = OriginPolicy::new(&[], None);
    let settings = AuthSettings { cookie: None, origins, ticket_lifetime: hour, ticket_key: store.ticket_key().clone() };
    Arc::new(Authenticator::new(verifier, settings, bus))
}

fn sessions(stop: &CancellationToken) -> Sessions {
    let settings = SessionSettings {
        ping_interval: Duration::from_hours(1),
        pong_timeout: Duration::from_mins(1),
        close_timeout: Duration::from_secs(5),
        drain: Duration::ZERO,
        message_limit: 64 << 10,
        messages: Quota::per_second(1000.try_into().unwrap()),
    };
    let (delivered, _) = tokio::sync::mpsc::channel(1);
    Sessions::new(settings, delivered, Arc::default(), stop.clone(), TaskTracker::new())
}

/// A store, Redis, two nodes, and a conversation of Asha and Juma.
async fn two() -> (Fixture, Redis, [ChatNode; 2], ConversationId) {
    let redis = Redis::start().await;
    let fixture = Fixture::new();
    let key = ChatKeys::new_key();
    let nodes = [ChatNode::start(&fixture, &redis, &key).await, ChatNode::start(&fixture, &redis, &key).await];
    let participant = |(id, name): (&str, &str)| NewParticipant { user_id: id.parse().unwrap(), name: Some(name.to_owned()), role: None };
    let new = NewConversation {
        key: None,
        body_hash: [0; 32],
        created_by: None,
        participants: [("1", "Asha"), ("2", "Juma")].map(participant).to_vec(),
        property_id: None,
        property_title: None,
        metadata: serde_json::Map::new(),
    };
    let created = fixture.store().create_conversation(new).await.unwrap().unwrap();
    (fixture, redis, nodes, created.conversation.conversation.id)
}

#[tokio::test(flavor = "multi_thread")]
async fn people_on_different_nodes_talk() {
    let (_fixture, _redis, [a, b], id) = two().await;
    let mut asha = a.client(id, "1").await;
    let mut juma = b.client(id, "2").await;
    asha.sees(2, true).await;
    juma.sees(1, true).await;
    for (number, text) in (1..).zip(["Habari?", "Upo?"]) {
        asha.say(text).await;
        let frame = asha.heard().await;
        assert_eq!((&frame["seq"], &frame["message"]["text"]), (&json!(number), &json!(text)), "{frame}");
        assert_eq!(juma.heard().await, frame);
    }
    juma.send(&json!({ "type": "typing", "is_typing": true })).await;
    assert_eq!(asha.heard().await, json!({ "type": "typing", "user_id": 2, "username": "Juma", "is_typing": true }));
    juma.send(&json!({ "type": "read", "message_id": 2 })).await;
    let receipt = asha.heard().await;
    assert_eq!((&receipt["type"], &receipt["message_id"]), (&json!("read_receipt"), &json!(2)), "{receipt}");
    assert_eq!(juma.heard().await, receipt);
    juma.say("Nipo").await;
    assert_eq!(juma.heard().await["seq"], 3);
    assert_eq!(asha.heard().await["seq"], 3);
    // Closing one of two tabs, on whatever node, is not going away.
    let tab = a.client(id, "2").await;
    juma.close().await;
    asha.say("Sawa").await;
    asha.heard().await;
    tab.close().await;
    asha.sees(2, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_is_out_on_every_node() {
    let (_fixture, mut redis, [a, b], id) = two().await;
    let (mut here, mut there) = (a.client(id, "1").await, b.client(id, "1").await);
    let mut juma = b.client(id, "2").await;
    juma.say("Habari?").await;
    for client in [&mut here, &mut there, &mut juma] {
        assert_eq!(client.heard().await["seq"], 1);
    }
    a.leave(id, "1").await;
    assert_eq!(here.close_code().await, 4403);
    assert_eq!(there.close_code().await, 4403);
    for node in [&a, &b] {
        assert!(node.open(id, "1", "").await.is_err());
        assert_eq!(node.open(id, "1", "&v=1").await.unwrap().next_or_close().await, Err(4403));
    }
    juma.say("Asha?").await;
    assert_eq!(juma.heard().await["seq"], 2);
    // And when nobody could be told: as soon as that is known.
    redis.kill();
    a.node.unlinked().await;
    b.node.unlinked().await;
    a.leave(id, "2").await;
    redis.start_again().await;
    assert_eq!(juma.close_code().await, 4403);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_while_the_nodes_are_apart_is_told_when_they_are_not() {
    let (_fixture, mut redis, [a, b], id) = two().await;
    let mut asha = a.client(id, "1").await;
    let mut juma = b.client(id, "2").await;
    asha.say("One").await;
    assert_eq!(juma.heard().await["seq"], 1);
    redis.kill();
    a.node.unlinked().await;
    b.node.unlinked().await;
    for text in ["Two", "Three"] {
        asha.say(text).await;
    }
    for seq in 1..=3 {
        assert_eq!(asha.heard().await["seq"], seq);
    }
    redis.start_again().await;
    for (seq, text) in [(2, "Two"), (3, "Three")] {
        let frame = juma.heard().await;
        assert_eq!((&frame["seq"], &frame["message"]["text"]), (&json!(seq), &json!(text)), "{frame}");
    }
}
