//! The chat of a real Django project on a real PostgreSQL, taken over in every way there is.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tarishi::{
    chat::seal::ChatKeys,
    model::{ConversationId, MessageId},
};
use tempfile::TempDir;

use crate::support::{Commands, Postgres, Process, StoreFile, is_long, python};

const SECRET_KEY: &str = "django-insecure-only-these-tests-know-it";
/// Messages that the project seals with a key that nobody has any more.
const UNREADABLE: [i64; 2] = [50, 53];

/// Enough for several commits.
fn messages() -> i64 {
    if is_long() { 100_000 } else { 1200 }
}

/// What the project says in message `number`.
fn said(number: i64) -> String {
    format!("Ujumbe {number}: \"nyumba\" 'ipo'?\n\t\\N \\. {} 🏠", number * number)
}

/// The replaced system, and what is needed to take it over.
struct Replaced {
    postgres: Postgres,
    folder: TempDir,
    keys: ChatKeys,
}

impl Replaced {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = (ChatKeys::new_key(), ChatKeys::new_key());
        private(&folder.path().join("ours.keys"), ours.expose_secret());
        private(&folder.path().join("old.keys"), theirs.expose_secret());
        private(&folder.path().join("django.secret"), SECRET_KEY);
        let replaced = Self { postgres: Postgres::start().await, folder, keys: ChatKeys::new(&[ours]).unwrap() };
        replaced.django(&["fill", &messages().to_string(), SECRET_KEY, theirs.expose_secret()]).await;
        replaced
    }

    async fn django(&self, arguments: &[&str]) {
        let script: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/tools/django_chat.py"].iter().collect();
        let arguments: Vec<String> =
            std::iter::once(script.to_str().unwrap()).chain(arguments.iter().copied()).map(str::to_owned).collect();
        let process = python(&arguments, &self.postgres.env());
        assert_eq!(process.end().await.code, Some(0), "{:?}", process.lines());
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    async fn dumpdata(&self, format: &str) -> String {
        let file = self.file(&format!("dump.{format}"));
        self.django(&["dumpdata", format, &file]).await;
        file
    }

    async fn pg_dump(&self, name: &str, arguments: &[&str]) -> String {
        let file = self.file(name);
        self.postgres.client("pg_dump", &[arguments, &["-f", &file]].concat()).await;
        file
    }

    /// Commands of a new daemon, whose store does not exist yet.
    fn taker(&self) -> Taker<'_> {
        let store = tempfile::tempdir().unwrap();
        let commands = Commands::new()
            .with("TARISHI__CHAT__ENCRYPTION_KEYS_FILE", &self.file("ours.keys"))
            .with("TARISHI__STORE__URL", &format!("sqlite:{}/tarishi.db", store.path().display()));
        Taker { replaced: self, commands, store }
    }
}

struct Taker<'r> {
    replaced: &'r Replaced,
    commands: Commands,
    store: TempDir,
}

impl Taker<'_> {
    fn arguments(&self, source: &str, more: &[&str]) -> Vec<String> {
        let mut arguments: Vec<String> = ["chat", "import", source, "--json"].map(str::to_owned).into();
        for (option, file) in [("--old-keys-file", "old.keys"), ("--secret-key-file", "django.secret")] {
            arguments.extend([option.to_owned(), self.replaced.file(file)]);
        }
        arguments.extend(["--listed-file".to_owned(), self.listed_file().display().to_string()]);
        arguments.extend(more.iter().map(ToString::to_string));
        arguments
    }

    fn listed_file(&self) -> PathBuf {
        self.store.path().join("listed.jsonl")
    }

    /// Takes over; what it reports.
    async fn import(&self, source: &str, more: &[&str], code: i32) -> Value {
        let arguments = self.arguments(source, more);
        let ran = self.commands.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await;
        assert_eq!(ran.code, Some(code), "{}{}", ran.text(), ran.errors);
        serde_json::from_str(&ran.text()).unwrap()
    }

    /// Everything that can be read is here, once, in order, under our key.
    fn check_store(&self) {
        let store = StoreFile::open(&self.store.path().join("tarishi.db"));
        let rows = store.texts(
            "SELECT json_object('id', id, 'c', conversation, 'sealed', sealed, 'sender', sender, 'reply_to', reply_to, 'deleted', deleted_at)
             FROM messages ORDER BY id",
        );
        let mut expected = (1..=messages()).filter(|id| !UNREADABLE.contains(id));
        for row in rows {
            let row: Value = serde_json::from_str(&row).unwrap();
            let number = expected.next().unwrap();
            assert_eq!((&row["id"], &row["c"]), (&json!(number), &json!(number % 7 + 1)));
            assert_eq!(row["sender"], if number % 2 == 1 { "8".to_owned() } else { (number % 7 + 1).to_string() });
            assert_eq!(row["reply_to"], if number % 11 == 0 && number > 7 { json!(number - 7) } else { Value::Null }, "{number}");
            let (conversation, message) = (ConversationId(number % 7 + 1), MessageId(number));
            let sealed = row["sealed"].as_str().unwrap();
            assert_eq!(row["deleted"].is_null(), !sealed.is_empty());
            if sealed.is_empty() {
                assert_eq!(number % 10, 0);
            } else {
                assert_eq!(self.replaced.keys.open(conversation, message, sealed).unwrap().text, said(number));
            }
        }
        assert_eq!(expected.next(), None);
        let disorder =
            "SELECT count(*) FROM (SELECT event, row_number() OVER (PARTITION BY conversation ORDER BY id) AS place FROM messages)
                        WHERE event <> place";
        assert_eq!(store.number(disorder), 0, "events are numbered in the order of ids, without gaps");
        let names = store.texts("SELECT name FROM participants WHERE conversation = 5 ORDER BY user_id");
        assert_eq!(names, ["user5", "user8"]);
        assert_eq!(store.number("SELECT count(*) FROM participants WHERE hidden_at IS NOT NULL"), 2);
        // The first half was read by everybody.
        let unread = (messages() / 2 + 1..=messages()).filter(|id| id % 10 != 0).count();
        assert_eq!(store.number("SELECT sum(unread) FROM participants"), i64::try_from(unread).unwrap());
        assert_eq!(store.number("SELECT count(*) FROM inbox"), 19);
        assert_eq!(store.number("SELECT count(*) FROM inbox WHERE id = -job AND id BETWEEN 2 AND 20"), 19, "ids are kept");
        assert_eq!(store.number("SELECT count(*) FROM inbox WHERE read_at IS NOT NULL"), 6);
        assert_eq!(store.number("SELECT sum(unread) FROM inbox_users"), 13);
        assert_eq!(store.number("SELECT count(*) FROM meta WHERE key = 'chat_import_progress'"), 0);
        store.check_integrity();
    }

    fn check_report(told: &Value) {
        let (all, unreadable) = (messages(), i64::try_from(UNREADABLE.len()).unwrap());
        let report = &told["report"];
        assert_eq!(told["balanced"], true);
        assert_eq!(report["conversations"], json!({ "source": 7, "imported": 7, "listed": 0 }));
        assert_eq!(report["messages"], json!({ "source": all, "imported": all - unreadable, "listed": unreadable }));
        assert_eq!(report["notifications"], json!({ "source": 20, "imported": 19, "listed": 0, "past": 1 }));
        let listed: Vec<i64> = report["listed"].as_array().unwrap().iter().map(|row| row["id"].as_i64().unwrap()).collect();
        assert_eq!(listed, UNREADABLE);
    }

    fn check_listed_file(&self) {
        let text = fs::read_to_string(self.listed_file()).unwrap();
        let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows.iter().map(|row| row["id"].as_i64().unwrap()).collect::<Vec<_>>(), UNREADABLE);
        assert!(rows[0]["why"].as_str().unwrap().contains("none of the old keys opens its text"), "{rows:?}");
        assert!(rows[0]["row"]["text"].as_str().unwrap().starts_with("gAAAAA"), "{rows:?}");
        assert_eq!(fs::metadata(self.listed_file()).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

fn private(file: &Path, text: &str) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_source_gives_the_same_chat() {
    let replaced = Replaced::start().await;
    let ca_file = replaced.postgres.ca_file().display().to_string();
    let sources = [
        (replaced.dumpdata("json").await, Vec::new(), "communications_message", "spam_score"),
        (replaced.dumpdata("jsonl").await, Vec::new(), "communications_message", "spam_score"),
        (replaced.pg_dump("copy.sql", &[]).await, Vec::new(), "public.communications_message", "spam_score"),
        (
            replaced.pg_dump("insert.sql", &["--inserts", "--rows-per-insert=50"]).await,
            Vec::new(),
            "public.communications_message",
            "spam_score",
        ),
        (replaced.postgres.url(), vec!["--ca-file", &ca_file], "communications_message", "spam_score"),
    ];
    for (source, more, table, ignored) in sources {
        let taker = replaced.taker();
        let looked = taker.import(&source, &[more.as_slice(), &["--dry-run", "--skip-unreadable"]].concat(), 0).await;
        Taker::check_report(&looked);
        assert!(!taker.store.path().join("tarishi.db").exists() && !taker.listed_file().exists(), "a dry run writes nothing");
        let told = taker.import(&source, &more, 1).await;
        Taker::check_report(&told);
        assert_eq!(told["ignored_columns"][table], json!([ignored]), "{source}");
        let texts = &told["report"]["texts"];
        assert!(["base64_token", "token", "plain", "deleted"].iter().all(|form| texts[form].as_u64().unwrap() > 50), "{texts}");
        taker.check_store();
        taker.check_listed_file();
        // Once more: nothing is doubled.
        let again = taker.import(&source, &[more.as_slice(), &["--skip-unreadable"]].concat(), 0).await;
        Taker::check_report(&again);
        taker.check_store();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_it_goes_on() {
    let replaced = Replaced::start().await;
    let dump = replaced.pg_dump("copy.sql", &[]).await;
    let taker = replaced.taker();
    let arguments = taker.arguments(&dump, &[]);
    // Conversations are the first batch.
    for batch in ["chat-import-batch:3", "store-after-commit:2", "store-before-commit:2", "chat-import-batch:1"] {
        let commands = Commands::new()
            .with("TARISHI__CHAT__ENCRYPTION_KEYS_FILE", &replaced.file("ours.keys"))
            .with("TARISHI__STORE__URL", &format!("sqlite:{}/tarishi.db", taker.store.path().display()))
            .with("TARISHI_ABORT_AT", batch);
        let ran = commands.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await;
        assert_eq!(ran.code, None, "{batch}: {}{}", ran.text(), ran.errors);
    }
    let told = taker.import(&dump, &[], 1).await;
    assert_eq!(told["report"]["resumed"], true);
    let read: u64 = told["report"]["texts"].as_object().unwrap().values().map(|number| number.as_u64().unwrap()).sum();
    assert!(read < u64::try_from(messages()).unwrap() - 2, "what was done is not done again: {read}");
    Taker::check_report(&told);
    taker.check_store();
    taker.check_listed_file();
}

/// SIGKILL at whatever moment it is.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_goes_on() {
    let replaced = Replaced::start().await;
    let dump = replaced.dumpdata("json").await;
    let taker = replaced.taker();
    for size in [1, 100_000, 300_000] {
        let process: Process = taker.commands.start(&taker.arguments(&dump, &[]).iter().map(String::as_str).collect::<Vec<_>>());
        let written = || ["tarishi.db", "tarishi.db-wal"].iter().map(|file| length(&taker.store.path().join(file))).sum::<u64>();
        process.until("something is written", async || (written() > size || process.has_ended().is_some()).then_some(())).await;
        process.kill().await;
    }
    Taker::check_report(&taker.import(&dump, &[], 1).await);
    taker.check_store();
}

fn length(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |metadata| metadata.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_keys_are_told_and_may_come_later() {
    let replaced = Replaced::start().await;
    let taker = replaced.taker();
    let dump = replaced.dumpdata("json").await;
    let ran = taker.commands.run(&["chat", "import", &dump]).await;
    ran.failed(1, &["rows not taken over", "--old-keys-file or --secret-key-file"]);
    assert!(ran.text().contains("its text is sealed, and no old keys were given"), "{}", ran.text());
    let key = replaced.file("old.keys");
    taker.commands.run(&["chat", "import", &dump, "--old-keys-file", &key]).await.failed(1, &["rows not taken over", "run it again"]);
    let told = taker.import(&dump, &[], 1).await;
    Taker::check_report(&told);

    private(&replaced.folder.path().join("bad.keys"), "no key");
    let bad = taker.commands.run(&["chat", "import", &dump, "--old-keys-file", &replaced.file("bad.keys")]).await;
    bad.failed(3, &["line 1 is not a key"]);
}

#[tokio::test]
async fn what_cannot_be_taken_over_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let file = folder.path().join(name);
        private(&file, text);
        file.display().to_string()
    };
    let keys = file("keys", ChatKeys::new_key().expose_secret());
    let commands = Commands::new().with("TARISHI__CHAT__ENCRYPTION_KEYS_FILE", &keys);
    let check = async |arguments: &[&str], code: i32, parts: &[&str]| {
        commands.run(&[&["chat", "import"], arguments].concat()).await.failed(code, parts);
    };
    check(&["/nowhere/dump.json"], 1, &["/nowhere/dump.json cannot be read"]).await;
    check(&[&file("a", "[{\"model\": 5}]")], 1, &["not what `manage.py dumpdata` writes"]).await;
    check(&[&file("b", "[]")], 1, &["has no table communications_conversation", "--map conversation=TABLE"]).await;
    check(&["x", "--map", "message.colour=red"], 2, &["a message has no `colour` here"]).await;
    check(&["postgres://nobody@127.0.0.1:1/none"], 1, &["cannot be reached"]).await;
    check(&["postgres://:bad:url"], 1, &["not the URL of a PostgreSQL database"]).await;
    let natural = r#"[{"model":"communications.message","pk":1,"fields":{"conversation":1,"sender":["asha"],"text":"x","created_at":"2024-01-15T10:30:00Z"}}]"#;
    check(&[&file("c", natural)], 1, &["names its `sender` by natural key", "dump without --natural-foreign"]).await;
    Commands::new().run(&["chat", "import", "x"]).await.failed(3, &["there is no key to seal messages with", "tarishi chat new-key"]);
}

#[tokio::test]
async fn a_running_daemon_keeps_its_store() {
    let mut setup = crate::support::Setup::new();
    let keys = setup.folder().join("chat.keys");
    private(&keys, ChatKeys::new_key().expose_secret());
    setup.set("chat.encryption_keys_file", &keys.display());
    let store = setup.store_path();
    let daemon = setup.start().await;
    let commands = Commands::new()
        .with("TARISHI__CHAT__ENCRYPTION_KEYS_FILE", &keys.display().to_string())
        .with("TARISHI__STORE__URL", &format!("sqlite:{}", store.display()));
    let ran = commands.run(&["chat", "import", "x"]).await;
    ran.failed(1, &["is held by a running daemon", "stop it while the chat is taken over"]);
    let ran = commands.run(&["chat", "rotate-keys", "--offline"]).await;
    ran.failed(1, &["is held by a running daemon", "leave --offline away"]);
    daemon.terminate().await;
}
