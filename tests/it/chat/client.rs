//! A daemon with a chat, conversations in its store, and clients of their sockets.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use rusqlite::Connection;
use secrecy::ExposeSecret as _;
use serde_json::{Map, Value, json};
use tarishi::{
    chat::seal::ChatKeys,
    model::ConversationId,
    store::{NewConversation, NewParticipant, Store, StoreSettings},
};
use tokio_tungstenite::tungstenite;

use crate::{
    fixture::{Backend as _, Sqlite},
    live::Client,
    support::{Daemon, Setup, token},
};

/// Somebody who takes part: an id, and the name that others see.
pub type Member<'a> = (&'a str, &'a str);

/// How to start a daemon that has a chat. Conversations are put into its store while it does not run.
pub struct Conversing {
    pub setup: Setup,
}

impl Conversing {
    pub fn new() -> Self {
        let setup = Setup::new().with("socket.presence_grace", "100ms").with("shutdown.drain", "200ms");
        let mut conversing = Self { setup };
        let file = conversing.secret_file("chat.keys", ChatKeys::new_key().expose_secret());
        conversing.setup.set("chat.encryption_keys_file", &file.display());
        conversing
    }

    /// A file that only its owner reads.
    pub fn secret_file(&self, name: &str, text: &str) -> PathBuf {
        let file = self.setup.folder().join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        file
    }

    /// Sets a key of the configuration.
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.setup.set(key, value);
        self
    }

    pub async fn start(&mut self) -> Daemon {
        self.setup.start().await
    }

    /// Makes a conversation of these; only while no daemon runs.
    pub async fn converse(&self, members: &[Member<'_>]) -> ConversationId {
        self.in_store(async |store| {
            let participant =
                |(id, name): &Member<'_>| NewParticipant { user_id: id.parse().unwrap(), name: Some((*name).to_owned()), role: None };
            let new = NewConversation {
                key: None,
                body_hash: [0; 32],
                created_by: None,
                participants: members.iter().map(participant).collect(),
                property_id: Some(json!(8841)),
                property_title: Some("A flat by the sea".to_owned()),
                metadata: Map::new(),
            };
            store.create_conversation(new).await.unwrap().unwrap().conversation.conversation.id
        })
        .await
    }

    /// Does something with the store; only while no daemon runs.
    pub async fn in_store<T>(&self, work: impl AsyncFnOnce(&Store) -> T) -> T {
        let store = Store::open(StoreSettings { path: self.setup.store_path(), ..Sqlite::create().settings() }).unwrap();
        let done = work(&store).await;
        store.close().await;
        done
    }
}

impl Conversing {
    /// Does this to its database, as somebody who has the file; only while no daemon runs.
    pub fn behind_its_back(&self, sql: &str) {
        Connection::open(self.setup.store_path()).unwrap().execute_batch(sql).unwrap();
    }
}

impl Client {
    /// Opens a conversation's socket with more in its query.
    pub async fn try_chat(daemon: &Daemon, conversation: ConversationId, user: &str, more: &str) -> Result<Self, tungstenite::Error> {
        Self::try_open_at(daemon, &format!("/ws/chat/{conversation}/?token={}{more}", token(user)), None).await
    }

    /// As an existing client does. It has been told of everybody else when this resolves.
    pub async fn chat(daemon: &Daemon, conversation: ConversationId, user: &str) -> Self {
        Self::try_chat(daemon, conversation, user, "").await.unwrap()
    }

    /// As a client that knows our frames, with more in its query. Gives the hello too.
    pub async fn chat_v1(daemon: &Daemon, conversation: ConversationId, user: &str, more: &str) -> (Self, Value) {
        let mut client = Self::try_chat(daemon, conversation, user, &format!("&v=1{more}")).await.unwrap();
        let hello = client.next().await;
        assert_eq!(hello["type"], "hello", "{hello}");
        (client, hello)
    }
}
