//! The live channel end to end: a client's own socket, the inbox behind it.

mod abuse;
mod at_once;
mod autobahn;
mod client;
mod crowd;
mod events;
mod foreign;
mod inbox;
mod limits;
mod raw;
mod recovery;
mod topics;
mod upgrade;
mod wire;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite;

pub use self::client::Client;
use crate::support::{Daemon, Setup, StoreFile, job, recipient, token};

/// Sockets are closed over half of the drain time, each at a moment of its own.
fn with_short_drain() -> Setup {
    Setup::new().with("shutdown.drain", "200ms")
}

/// Sends `user` a live notification; resolves once it is in the inbox.
pub async fn notify(daemon: &Daemon, id: &str, user: &str) {
    daemon.api.post("/v1/jobs", &job(id, &[recipient(user)], &["live"])).await.expect(202);
    daemon.finished(id).await;
}

/// The seqs of the notifications among these frames.
fn seqs(frames: &[Value]) -> Vec<i64> {
    frames.iter().filter(|frame| frame["type"] == "notification").map(|frame| frame["seq"].as_i64().unwrap()).collect()
}

#[track_caller]
fn refused(opened: Result<Client, tungstenite::Error>) -> u16 {
    match opened {
        Err(tungstenite::Error::Http(response)) => response.status().as_u16(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was let in"),
    }
}

#[tokio::test]
async fn a_notification_reaches_every_socket_of_its_user_and_no_other() {
    let mut setup = with_short_drain();
    let daemon = setup.start().await;
    let mut phone = Client::open(&daemon, "42").await;
    let mut laptop = Client::open(&daemon, "42").await;
    let mut other = Client::open(&daemon, "43").await;
    for number in 1..=3 {
        let id = format!("live-{number}");
        daemon.api.post("/v1/jobs", &job(&id, &[json!({ "user_id": 42 })], &["live"])).await.expect(202);
        let (frame, same) = (phone.next().await, laptop.next().await);
        assert_eq!(frame, same);
        assert_eq!((&frame["type"], &frame["seq"], &frame["user"]), (&json!("notification"), &json!(number), &json!(42)));
        assert_eq!((&frame["title"], &frame["message"]), (&json!(format!("About {id}")), &json!("Habari ya leo")));
        assert_eq!((&frame["is_read"], frame["epoch"].is_string()), (&json!(false), true));
        let delivered = daemon.job_when(&id, |job| job["deliveries"][0]["status"] == "delivered").await;
        assert_eq!(delivered["status"], "finished");
    }
    // Nobody connected: it waits in the inbox as sent.
    notify(&daemon, "absent", "44").await;
    assert_eq!(daemon.finished("absent").await["deliveries"][0]["status"], "sent");
    // The other user got only what is theirs, and their own numbering.
    notify(&daemon, "theirs", "43").await;
    let frame = other.next().await;
    assert_eq!((&frame["seq"], &frame["title"]), (&json!(1), &json!("About theirs")));
    phone.expect_silence().await;
    assert_eq!(daemon.api.get("/v1/status").await.expect(200)["sockets"], 3);
    assert_eq!(daemon.terminate().await.code, Some(0));
    StoreFile::open(&setup.store_path()).check_inbox();
}

#[tokio::test]
async fn the_numbering_goes_on_after_a_crash() {
    let mut setup = Setup::new();
    let mut epochs = Vec::new();
    for life in 1..=3 {
        let daemon = setup.start().await;
        let mut client = Client::open(&daemon, "42").await;
        notify(&daemon, &format!("life-{life}"), "42").await;
        let frame = client.next().await;
        assert_eq!(frame["seq"], life);
        epochs.push(frame["epoch"].clone());
        daemon.process.kill().await;
    }
    epochs.dedup();
    assert_eq!(epochs.len(), 1, "one history, one epoch");
}

#[tokio::test]
async fn only_good_tokens_and_known_pages_open_a_socket() {
    let mut setup = Setup::new().with("public.allowed_origins", "[\"https://app.example.com\"]");
    let daemon = setup.start().await;
    let good = format!("?token={}", token("42"));
    assert_eq!(refused(Client::try_open(&daemon, "", None).await), 403);
    assert_eq!(refused(Client::try_open(&daemon, "?token=nonsense", None).await), 403);
    let (head, _) = good.rsplit_once('.').unwrap();
    let forged = format!("{head}.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    assert_eq!(refused(Client::try_open(&daemon, &forged, None).await), 403);
    assert_eq!(refused(Client::try_open(&daemon, &good, Some("https://evil.example")).await), 403);
    Client::try_open(&daemon, &good, Some("https://app.example.com")).await.unwrap();
    assert!(!daemon.process.lines().iter().any(|line| line.contains(head)), "a token in the log");
}

#[tokio::test]
async fn a_daemon_that_ends_asks_its_sockets_to_come_back() {
    let mut setup = with_short_drain();
    let daemon = setup.start().await;
    let mut older = Client::open(&daemon, "42").await;
    let (mut newer, _) = Client::open_v1(&daemon, "42", "").await;
    daemon.process.signal("TERM");
    assert_eq!(older.close_code().await, 1012);
    let farewell = newer.next().await;
    assert_eq!(farewell["type"], "restarting");
    assert!(farewell["retry_after_ms"].as_u64().unwrap() <= 100, "{farewell}");
    assert_eq!(newer.close_code().await, 1012);
    older.close().await;
    newer.close().await;
    assert_eq!(daemon.process.end().await.code, Some(0));
}
