//! A change of keys: through the running daemon, offline, and interrupted.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use rusqlite::Connection;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tarishi::{
    chat::seal::ChatKeys,
    model::{ChatBody, ConversationId, MessageId},
};

use crate::support::{Commands, Setup, StoreFile};

/// More than one step.
const MESSAGES: i64 = 1250;
/// Among them what nobody opens.
const TAMPERED: [i64; 3] = [2, 700, MESSAGES];

/// A store with messages under the old key, in the place where the commands and the daemon look.
struct Rotating {
    setup: Setup,
    old: SecretString,
    new: SecretString,
}

impl Rotating {
    async fn prepare(tampered: &[i64]) -> Self {
        let mut rotating = Self { setup: Setup::new(), old: ChatKeys::new_key(), new: ChatKeys::new_key() };
        rotating.use_keys(&[&rotating.old.clone()]);
        rotating.setup.start().await.terminate().await;
        let keys = ChatKeys::new(std::slice::from_ref(&rotating.old)).unwrap();
        let store = Connection::open(rotating.setup.store_path()).unwrap();
        store
            .execute("INSERT INTO conversations (id, metadata, event, created_at, updated_at) VALUES (7, '{}', ?1, 1, 1)", [MESSAGES])
            .unwrap();
        for id in 1..=MESSAGES {
            // Somebody with the database, and without the keys, has put another row's text here.
            let sealed_for = if tampered.contains(&id) { id + 10_000 } else { id };
            let body = ChatBody { text: format!("message {id}"), attachments: Vec::new() };
            let sealed = keys.seal(ConversationId(7), MessageId(sealed_for), &body);
            let row = (id, sealed);
            store
                .execute(
                    "INSERT INTO messages (id, conversation, event, sender, sealed, created_at) VALUES (?1, 7, ?1, 'asha', ?2, 1)",
                    row,
                )
                .unwrap();
        }
        rotating
    }

    fn use_keys(&mut self, keys: &[&SecretString]) {
        let file = self.setup.folder().join("chat.keys");
        let text = keys.iter().map(|key| key.expose_secret()).collect::<Vec<_>>().join("\n");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        self.setup.set("chat.encryption_keys_file", &file.display());
    }

    fn commands(&self) -> Commands {
        let folder: &Path = self.setup.folder();
        Commands::new()
            .with("TARISHI__CHAT__ENCRYPTION_KEYS_FILE", &folder.join("chat.keys").display().to_string())
            .with("TARISHI__STORE__URL", &format!("sqlite:{}", self.setup.store_path().display()))
    }

    /// How many messages the new key alone opens.
    fn opened_by_new(&self) -> usize {
        let keys = ChatKeys::new(std::slice::from_ref(&self.new)).unwrap();
        let rows = StoreFile::open(&self.setup.store_path()).texts("SELECT id || ' ' || sealed FROM messages");
        let opens = |row: &&String| {
            let (id, sealed) = row.split_once(' ').unwrap();
            let id: i64 = id.parse().unwrap();
            keys.open(ConversationId(7), MessageId(id), sealed).is_ok_and(|body| body.text == format!("message {id}"))
        };
        rows.iter().filter(opens).count()
    }
}

fn told(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_seals_everything_anew() {
    let mut rotating = Rotating::prepare(&[]).await;
    rotating.use_keys(&[&rotating.new.clone(), &rotating.old.clone()]);
    let daemon = rotating.setup.start().await;
    let commands = rotating.commands();
    let server = format!("http://{}", daemon.admin);
    let done = told(&commands.run(&["chat", "rotate-keys", "--json", "--server", &server]).await.out());
    assert_eq!(done, json!({ "resealed": MESSAGES, "already": 0, "tampered": [] }));
    let again = told(&commands.run(&["chat", "rotate-keys", "--json", "--server", &server]).await.out());
    assert_eq!(again, json!({ "resealed": 0, "already": MESSAGES, "tampered": [] }));
    assert_eq!(daemon.events("chat keys rotated: what they open is sealed with the first").len(), 2);
    daemon.terminate().await;
    assert_eq!(rotating.opened_by_new(), usize::try_from(MESSAGES).unwrap());
    let positions = StoreFile::open(&rotating.setup.store_path()).number("SELECT count(*) FROM meta WHERE key = 'chat_rotation'");
    assert_eq!(positions, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_it_goes_on_where_it_was_interrupted() {
    let mut rotating = Rotating::prepare(&TAMPERED).await;
    rotating.use_keys(&[&rotating.new.clone(), &rotating.old.clone()]);
    let commands = rotating.commands();
    // After the first step's texts; then, with these found done and that noted, after the second's and before that is noted.
    for (commit, done) in [("store-after-commit:1", 499), ("store-before-commit:3", 998)] {
        let ran = rotating.commands().with("TARISHI_ABORT_AT", commit).run(&["chat", "rotate-keys", "--offline"]).await;
        assert_eq!(ran.code, None, "{}", ran.errors);
        assert_eq!(rotating.opened_by_new(), done, "{commit}");
    }
    let ran = commands.run(&["chat", "rotate-keys", "--offline", "--json"]).await;
    ran.failed(1, &["2 messages are tampered, and left as before: 700, 1250"]);
    assert_eq!(told(&ran.text()), json!({ "resealed": MESSAGES - 1001, "already": 499, "tampered": [700, MESSAGES] }));
    assert_eq!(rotating.opened_by_new(), usize::try_from(MESSAGES).unwrap() - TAMPERED.len());

    let ran = commands.run(&["chat", "rotate-keys", "--offline"]).await;
    ran.failed(1, &["3 messages are tampered, and left as before: 2, 700, 1250"]);
    assert_eq!(ran.text(), format!("0 messages sealed anew; {} had the first key already\n", MESSAGES - 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_chat_there_is_nothing_to_rotate() {
    let mut setup = Setup::new();
    let daemon = setup.start().await;
    let server = format!("http://{}", daemon.admin);
    let ran = Commands::new().run(&["chat", "rotate-keys", "--server", &server]).await;
    ran.failed(5, &["there is no chat here", "chat.encryption_keys_file"]);
    daemon.terminate().await;
    let offline = Commands::new().run(&["chat", "rotate-keys", "--offline"]).await;
    offline.failed(3, &["there is no key to seal messages with", "tarishi chat new-key"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_that_is_on_without_a_key_does_not_start() {
    let mut setup = Setup::new().with("chat.enabled", "true");
    let (process, ended) = setup.try_start(&[]).await.err().unwrap();
    assert_eq!(ended.code, Some(3));
    let said = process.lines().join("\n");
    assert!(said.contains("chat: is on, and there is no key to seal messages with") && said.contains("tarishi chat new-key"), "{said}");
}
