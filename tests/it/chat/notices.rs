//! Notices for who was away: from an unread message to a job, once, whatever happens in between.

use serde_json::{Value, json};
use tarishi::{
    model::ConversationId,
    store::{ParticipantChange, Store},
};

use super::{CRASH_POINTS, Conversing};
use crate::{
    crash::full_pipe,
    live::Client,
    support::{Daemon, StoreFile, job, recipient, templates, until},
};

const SIGABRT: i32 = 6;

/// A chat whose notices are due after so long, and a conversation of Asha, Juma and Neema.
async fn chatting(notify_after: &str) -> (Conversing, ConversationId) {
    let conversing =
        Conversing::new().with("chat.notify_after", notify_after).with("chat.notify_channels", "[\"live\", \"push\", \"email\"]");
    let id = conversing.converse(&[("1", "Asha"), ("2", "Juma"), ("3", "Neema")]).await;
    (conversing, id)
}

/// An address on every channel, where the job is to look for it.
async fn introduce(daemon: &Daemon, user: &str) {
    let contact = json!({
        "name": "Juma",
        "email": format!("{user}@people.example"),
        "push_tokens": [{ "token": format!("device-of-{user}"), "platform": "android" }],
    });
    daemon.api.put(&format!("/v1/users/{user}"), &contact).await.expect(200);
}

async fn say(client: &mut Client, text: &str) -> Value {
    client.send(&json!({ "type": "message", "content": text })).await;
    loop {
        let frame = client.next_of("message").await;
        if frame["message"]["text"] == text {
            return frame["message"].clone();
        }
    }
}

/// Waits for the job of a notice.
async fn noticed(daemon: &Daemon, job: &str) -> Value {
    let found = async || {
        let answer = daemon.api.get(&format!("/v1/jobs/{job}")).await;
        (answer.status == 200 && answer.body["open"] == 0).then_some(answer.body)
    };
    until(&format!("the notice {job} is sent"), found).await
}

async fn is_job(daemon: &Daemon, job: &str) -> bool {
    daemon.api.get(&format!("/v1/jobs/{job}")).await.status == 200
}

async fn change(store: &Store, id: ConversationId, user: &str, change: ParticipantChange) {
    store.set_participant(id, user.parse().unwrap(), change, |_| ()).await.unwrap().unwrap();
}

#[tokio::test]
async fn who_was_away_is_told_of_the_newest_message_and_of_how_many_there_are() {
    let (mut conversing, id) = chatting("2s").await;
    let daemon = conversing.start().await;
    introduce(&daemon, "2").await;
    let mut asha = Client::chat(&daemon, id, "1").await;
    let mut neema = Client::chat(&daemon, id, "3").await;
    let first = say(&mut asha, "Is it free?").await["id"].clone();
    say(&mut asha, "Hello?").await;
    say(&mut asha, "<b>Karibu</b> & welcome").await;
    let mut inbox = Client::open(&daemon, "2").await;
    let job = noticed(&daemon, &format!("chat-{id}-2-{first}")).await;
    assert_eq!(job["template"], "new_message", "{job}");
    let mut channels: Vec<&str> =
        job["deliveries"].as_array().unwrap().iter().map(|delivery| delivery["channel"].as_str().unwrap()).collect();
    channels.sort_unstable();
    assert_eq!(channels, ["email", "live", "push"], "{job}");
    let live = inbox.next().await;
    assert_eq!(live["message"], "<b>Karibu</b> & welcome", "{live}");
    assert_eq!((&live["title"], &live["data"]["unread_count"]), (&json!("New message from Asha"), &json!(3)), "{live}");
    assert_eq!((&live["related_object_id"], &live["related_object_type"]), (&json!(id), &json!("conversation")), "{live}");
    let mail = daemon.api.get("/v1/outbox?user=2&channel=email").await.expect(200)["messages"][0].clone();
    let html = daemon.api.get(&format!("/v1/outbox/{}/html", mail["id"])).await.text;
    assert!(html.contains("&lt;b&gt;Karibu&lt;") && !html.contains("<b>Karibu"), "{html}");
    // Who has it open is not told so.
    neema.next_of("message").await;
    assert!(!is_job(&daemon, &format!("chat-{id}-3-{first}")).await);
    // As long as it is unread, more messages are no news.
    say(&mut asha, "Still there?").await;
    assert_eq!(daemon.metric("tarishi_chat_notices_total{result=\"made\"}").await, 1);
    drop((asha, neema, inbox));
    daemon.terminate().await;
    let store = StoreFile::open(&conversing.setup.store_path());
    assert_eq!(store.texts("SELECT user_id || ' ' || job_id FROM notify"), [format!("2 chat-{id}-2-{first}")]);
}

#[tokio::test]
async fn what_is_read_muted_or_left_by_then_is_not_told() {
    let (mut conversing, id) = chatting("1h").await;
    let daemon = conversing.start().await;
    let mut asha = Client::chat(&daemon, id, "1").await;
    let first = say(&mut asha, "Is it free?").await["id"].clone();
    // Both are away: two notices wait. Juma comes, and reads.
    let mut juma = Client::chat(&daemon, id, "2").await;
    juma.send(&json!({ "type": "read", "message_id": first })).await;
    asha.next_of("read_receipt").await;
    drop((asha, juma));
    daemon.terminate().await;
    let waiting = |conversing: &Conversing| StoreFile::open(&conversing.setup.store_path()).texts("SELECT user_id FROM notify");
    assert_eq!(waiting(&conversing), ["3"]);
    conversing.in_store(async |store| change(store, id, "3", ParticipantChange::Mute).await).await;
    assert_eq!(waiting(&conversing), [""; 0]);
    // The muted one hears of nothing more; one who has left neither.
    conversing.in_store(async |store| change(store, id, "2", ParticipantChange::Leave).await).await;
    conversing.setup.set("chat.notify_after", "0s");
    let daemon = conversing.start().await;
    let mut asha = Client::chat(&daemon, id, "1").await;
    say(&mut asha, "Nobody?").await;
    drop(asha);
    daemon.terminate().await;
    assert_eq!(waiting(&conversing), [""; 0]);
    assert_eq!(StoreFile::open(&conversing.setup.store_path()).number("SELECT count(*) FROM jobs"), 0);
}

#[tokio::test]
async fn later_messages_do_not_move_its_time() {
    let (mut conversing, id) = chatting("1h").await;
    let daemon = conversing.start().await;
    let mut asha = Client::chat(&daemon, id, "1").await;
    let created_at = say(&mut asha, "Is it free?").await["created_at"].clone();
    say(&mut asha, "Hello?").await;
    drop(asha);
    daemon.terminate().await;
    let store = StoreFile::open(&conversing.setup.store_path());
    assert_eq!(store.number("SELECT count(*) FROM notify JOIN messages ON id = first_message WHERE due_at = created_at + 3600000"), 2);
    assert!(created_at.is_string());
}

#[tokio::test]
async fn what_became_due_while_nobody_was_there_is_told_at_the_start() {
    let (mut conversing, id) = chatting("1h").await;
    let daemon = conversing.start().await;
    let mut asha = Client::chat(&daemon, id, "1").await;
    let first = say(&mut asha, "Is it free?").await["id"].clone();
    drop(asha);
    daemon.process.kill().await;
    conversing.behind_its_back("UPDATE notify SET due_at = 1");
    let daemon = conversing.start().await;
    for user in ["2", "3"] {
        let job = noticed(&daemon, &format!("chat-{id}-{user}-{first}")).await;
        assert_eq!(job["deliveries"][0]["channel"], "live", "{job}");
    }
}

#[tokio::test]
async fn reading_cancels_what_is_still_queued() {
    let (conversing, id) = chatting("0s").await;
    let (pipe, _stuck) = full_pipe(conversing.setup.folder());
    let mut conversing = conversing
        .with("chat.notify_channels", "[\"email\"]")
        .with("channel.email.concurrency", "1")
        .with("provider.outbox.record_file", &pipe.display().to_string());
    let daemon = conversing.start().await;
    introduce(&daemon, "2").await;
    daemon.api.post("/v1/jobs", &job("stuck", &[recipient("9")], &["email"])).await.expect(202);
    daemon.job_when("stuck", |job| job["deliveries"][0]["status"] == "sending").await;
    let mut asha = Client::chat(&daemon, id, "1").await;
    let first = say(&mut asha, "Is it free?").await["id"].clone();
    daemon.metric_is("tarishi_chat_notices_total{result=\"made\"}", 2).await;
    let notice = format!("chat-{id}-2-{first}");
    daemon.job_when(&notice, |job| job["deliveries"][0]["status"] == "queued").await;
    let mut juma = Client::chat(&daemon, id, "2").await;
    juma.send(&json!({ "type": "read", "message_id": first })).await;
    daemon.job_when(&notice, |job| job["deliveries"][0]["status"] == "cancelled").await;
}

/// Whatever was being done when it died: each of them is told once, and of what is stored.
#[tokio::test]
async fn a_crash_neither_loses_a_notice_nor_makes_it_twice() {
    for point in CRASH_POINTS {
        let (mut conversing, id) = chatting("0s").await;
        let Ok(daemon) = conversing.setup.try_start(&[("TARISHI_ABORT_AT", point)]).await else { panic!("it was never ready") };
        let mut asha = Client::chat(&daemon, id, "1").await;
        asha.send(&json!({ "type": "message", "content": "Is it free?", "client_id": "a" })).await;
        assert_eq!(daemon.process.end().await.signal, Some(SIGABRT), "{point}");
        let daemon = conversing.start().await;
        let mut asha = Client::chat(&daemon, id, "1").await;
        // As clients do that had no answer.
        asha.send(&json!({ "type": "message", "content": "Is it free?", "client_id": "a" })).await;
        let first = asha.next_of("message").await["message"]["id"].clone();
        for user in ["2", "3"] {
            let job = noticed(&daemon, &format!("chat-{id}-{user}-{first}")).await;
            assert_eq!(job["deliveries"].as_array().unwrap().len(), 1, "{point}: {job}");
        }
        drop(asha);
        assert_eq!(daemon.terminate().await.code, Some(0));
        let store = StoreFile::open(&conversing.setup.store_path());
        assert_eq!(store.number("SELECT count(*) FROM messages"), 1, "{point}");
        assert_eq!(store.number("SELECT count(*) FROM jobs"), 2, "{point}");
        assert_eq!(store.number("SELECT count(*) FROM inbox"), 2, "{point}");
        assert_eq!(store.number("SELECT count(*) FROM notify WHERE job_id IS NULL"), 0, "{point}");
    }
}

#[tokio::test]
async fn without_the_template_they_are_dropped_and_that_is_said_once() {
    let (conversing, id) = chatting("0s").await;
    let folder = conversing.setup.folder().join("templates");
    for template in ["_layouts", "generic"] {
        std::fs::create_dir_all(folder.join(template)).unwrap();
        for file in std::fs::read_dir(templates().join(template)).unwrap().map(Result::unwrap) {
            if file.file_type().unwrap().is_file() {
                std::fs::copy(file.path(), folder.join(template).join(file.file_name())).unwrap();
            }
        }
    }
    let mut conversing = conversing.with("templates.path", &folder.display().to_string());
    let daemon = conversing.start().await;
    let mut asha = Client::chat(&daemon, id, "1").await;
    let first = say(&mut asha, "Is it free?").await["id"].clone();
    daemon.metric_is("tarishi_chat_notices_total{result=\"not_accepted\"}", 2).await;
    assert!(!is_job(&daemon, &format!("chat-{id}-2-{first}")).await);
    let told = daemon.events("chat notices are dropped: they cannot be made into jobs; see the template new_message");
    assert_eq!(told.len(), 1);
    assert!(told[0]["reason"].as_str().unwrap().contains("no template is called `new_message`"), "{told:?}");
}
