//! What clients of both generations say on a conversation's socket, and what they are told.

use std::sync::{Arc, Mutex};

use aws_lc_rs::hmac;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use tarishi::model::ConversationId;
use tokio_tungstenite::tungstenite::{self, Message};

use super::Conversing;
use crate::{
    live::Client,
    support::{Daemon, StoreFile},
};

impl Client {
    /// The next frame that is not of who is there: those come when they come, and some twice.
    pub async fn heard(&mut self) -> Value {
        loop {
            let frame = self.next().await;
            if frame["type"] != "user_status" {
                return frame;
            }
        }
    }

    pub async fn say(&mut self, text: &str) {
        self.send(&json!({ "type": "message", "content": text })).await;
    }

    /// Says something, and reads on until it is told of it: whoever it is told to has all that was before it.
    async fn mark(&mut self, text: &str) -> Value {
        self.say(text).await;
        self.up_to_text(text).await.pop().unwrap()
    }

    /// Frames up to and including the message with this text.
    async fn up_to_text(&mut self, text: &str) -> Vec<Value> {
        let mut frames = Vec::new();
        loop {
            frames.push(self.next().await);
            let last = frames.last().unwrap();
            if last["type"] == "message" && last["message"]["text"] == text {
                return frames;
            }
        }
    }

    /// Waits to be told that `user` is there, or is not.
    pub async fn sees(&mut self, user: i64, is_online: bool) {
        let wanted = json!({ "type": "user_status", "user_id": user, "is_online": is_online });
        while self.next().await != wanted {}
    }
}

async fn chatting() -> (Conversing, ConversationId) {
    let conversing = Conversing::new();
    let id = conversing.converse(&[("1", "Asha"), ("2", "Juma")]).await;
    (conversing, id)
}

/// Asha and Juma, with the socket of an existing client each.
async fn both(daemon: &Daemon, id: ConversationId) -> (Client, Client) {
    let mut asha = Client::chat(daemon, id, "1").await;
    let juma = Client::chat(daemon, id, "2").await;
    asha.sees(2, true).await;
    (asha, juma)
}

fn kinds(frames: &[Value]) -> Vec<&str> {
    frames.iter().map(|frame| frame["type"].as_str().unwrap()).collect()
}

#[track_caller]
fn expect_error(frame: &Value, code: &str, message: &str) {
    assert_eq!((&frame["type"], &frame["code"], &frame["message"]), (&json!("error"), &json!(code), &json!(message)), "{frame}");
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
async fn existing_clients_are_told_what_they_know() {
    let (mut conversing, id) = chatting().await;
    let daemon = conversing.start().await;
    let mut asha = Client::chat(&daemon, id, "1").await;
    assert_eq!(asha.next().await, json!({ "type": "user_status", "user_id": 2, "is_online": false }));
    let mut juma = Client::chat(&daemon, id, "2").await;
    assert_eq!(juma.next().await, json!({ "type": "user_status", "user_id": 1, "is_online": true }));
    assert_eq!(asha.next().await, json!({ "type": "user_status", "user_id": 2, "is_online": true }));
    // Both names, trimmed, the type left out.
    asha.send(&json!({ "type": "message", "content": "  Habari?\n" })).await;
    let frame = asha.heard().await;
    let (created_at, epoch) = (frame["message"]["created_at"].clone(), frame["epoch"].clone());
    assert!(created_at.as_str().unwrap().ends_with('Z') && epoch.is_string(), "{frame}");
    let expected = json!({
        "type": "message",
        "message": {
            "id": 1, "conversation": id, "sender_id": 1, "sender": 1, "sender_name": "Asha", "content": "Habari?", "text": "Habari?",
            "attachments": [], "is_read": false, "read_at": null, "reply_to": null, "is_deleted": false, "created_at": created_at,
            "edited_at": null, "deleted_at": null,
        },
        "seq": 1,
        "epoch": epoch,
    });
    assert_eq!(frame, expected);
    assert_eq!(juma.heard().await, expected);
    juma.send(&json!({ "text": "Nzuri" })).await;
    let frame = asha.heard().await;
    assert_eq!((&frame["message"]["content"], &frame["message"]["sender_id"]), (&json!("Nzuri"), &json!(2)), "{frame}");
    assert_eq!(juma.heard().await, frame);
    asha.send(&json!({ "type": "typing", "is_typing": true })).await;
    assert_eq!(juma.heard().await, json!({ "type": "typing", "user_id": 1, "username": "Asha", "is_typing": true }));
    juma.send(&json!({ "type": "read", "message_id": 1 })).await;
    // The typist was not told of it: this is next.
    let mut receipt = asha.heard().await;
    assert!(receipt["read_at"].is_string(), "{receipt}");
    receipt.as_object_mut().unwrap().remove("read_at");
    assert_eq!(receipt, json!({ "type": "read_receipt", "message_id": 1, "user_id": 2 }));
    // Backwards, and to what is not there: nothing.
    for message in [1, 99] {
        juma.send(&json!({ "type": "read", "message_id": message })).await;
    }
    for nothing in [json!({ "type": "message", "content": " \n" }), json!({ "type": "message" }), json!({ "type": "dance", "with": 3 })] {
        asha.send(&nothing).await;
    }
    for bad in ["{", "[]", "7", ""] {
        asha.send_raw(Message::text(bad)).await;
        expect_error(&asha.heard().await, "invalid", "Invalid JSON: send one object per frame.");
    }
    asha.send(&json!({ "type": "message", "content": 7 })).await;
    assert_eq!(asha.heard().await["code"], "invalid");
    asha.mark("Still here").await;
    drop((asha, juma));
    daemon.terminate().await;
    assert_eq!(StoreFile::open(&conversing.setup.store_path()).number("SELECT count(*) FROM messages"), 3);
}

#[tokio::test]
async fn newer_clients_are_told_more_and_older_ones_pass_over_it() {
    let (mut conversing, id) = chatting().await;
    let daemon = conversing.start().await;
    let mut juma = Client::chat(&daemon, id, "2").await;
    let (mut asha, hello) = Client::chat_v1(&daemon, id, "1", "").await;
    let (mut tab, _) = Client::chat_v1(&daemon, id, "1", "").await;
    let expected = json!({
        "type": "hello", "user_id": 1, "session": hello["session"], "conversation": id, "seq": 0, "epoch": hello["epoch"], "unread": 0,
        "participants": [{ "id": 2, "username": "Juma", "is_online": true, "read_to": null }],
        "ping_interval_ms": 25000, "token_expires_at": hello["token_expires_at"],
    });
    assert_eq!(hello, expected);
    asha.send(&json!({ "type": "message", "content": "Bei gani?", "client_id": "a" })).await;
    let first = asha.heard().await;
    assert_eq!((&first["message"]["client_id"], &first["message"]["id"]), (&json!("a"), &json!(1)), "{first}");
    assert_eq!(tab.heard().await, first);
    // Again: the first one, for whoever asked, and nothing for the others.
    asha.send(&json!({ "type": "message", "content": "Bei gani??", "client_id": "a" })).await;
    assert_eq!(asha.heard().await, first);
    juma.heard().await;
    juma.send(&json!({ "type": "read", "message_id": 1 })).await;
    for client in [&mut asha, &mut tab, &mut juma] {
        assert_eq!(client.heard().await["type"], "read_receipt");
    }
    asha.send(&json!({ "type": "edit", "message_id": 1, "content": "Bei gani leo?" })).await;
    for client in [&mut asha, &mut tab] {
        let edited = client.heard().await;
        assert_eq!(
            (&edited["type"], &edited["seq"], &edited["message"]["text"]),
            (&json!("message_edited"), &json!(2), &json!("Bei gani leo?"))
        );
        assert!(edited["message"]["edited_at"].is_string() && edited["message"]["is_read"] == true, "{edited}");
    }
    // Somebody else's.
    juma.send(&json!({ "type": "edit", "message_id": 1, "content": "?" })).await;
    expect_error(&juma.heard().await, "forbidden", "Only its sender may change a message.");
    juma.send(&json!({ "type": "delete", "message_id": 1 })).await;
    expect_error(&juma.heard().await, "forbidden", "Only its sender may change a message.");
    juma.send(&json!({ "type": "message", "content": "Juu", "reply_to": 1 })).await;
    let reply = juma.heard().await;
    assert_eq!((&reply["seq"], &reply["message"]["reply_to"], &reply["type"]), (&json!(3), &json!(1), &json!("message")));
    for client in [&mut asha, &mut tab] {
        assert_eq!(client.heard().await, reply);
        assert_eq!(client.heard().await, json!({ "type": "unread", "count": 1 }));
    }
    asha.send(&json!({ "type": "hide", "message_id": 2 })).await;
    for client in [&mut asha, &mut tab] {
        assert_eq!(client.heard().await, json!({ "type": "message_hidden", "message_id": 2 }));
        assert_eq!(client.heard().await, json!({ "type": "unread", "count": 0 }));
    }
    asha.send(&json!({ "type": "delete", "message_id": 1 })).await;
    let deleted = asha.heard().await;
    assert_eq!((&deleted["type"], &deleted["seq"]), (&json!("message_deleted"), &json!(4)));
    assert_eq!((&deleted["message"]["text"], &deleted["message"]["is_deleted"]), (&json!(""), &json!(true)));
    assert!(!deleted.to_string().contains("Bei"), "{deleted}");
    asha.send(&json!({ "type": "edit", "message_id": 1, "content": "!" })).await;
    expect_error(&asha.heard().await, "conflict", "This message is deleted.");
    asha.send(&json!({ "type": "message", "content": "!", "reply_to": 77, "client_id": "b" })).await;
    let error = asha.heard().await;
    expect_error(&error, "invalid", "`reply_to` is no message of this conversation.");
    assert_eq!(error["client_id"], "b");
    asha.send(&json!({ "type": "token", "token": crate::support::token("1") })).await;
    assert_eq!(asha.heard().await["type"], "token");
    let last = asha.mark("Basi").await;
    assert_eq!(last["seq"], 5);
    // The older client was told the messages, and neither edit nor deletion; nor that it was missing something.
    assert_eq!(juma.heard().await, last);
    asha.send(&json!({ "type": "token", "token": crate::support::token("2") })).await;
    assert_eq!(asha.close_code().await, 4403);
}

#[tokio::test]
async fn who_takes_no_part_is_not_let_in() {
    let (mut conversing, id) = chatting().await;
    let daemon = conversing.start().await;
    assert_eq!(refused(Client::try_chat(&daemon, id, "3", "").await), 403);
    assert_eq!(refused(Client::try_chat(&daemon, ConversationId(id.0 + 1), "1", "").await), 403);
    for path in ["abc", "0", "-1", "99999999999999999999"] {
        let path = format!("/ws/chat/{path}/?token={}", crate::support::token("1"));
        assert_eq!(refused(Client::try_open_at(&daemon, &path, None).await), 403, "{path}");
    }
    assert_eq!(refused(Client::try_open_at(&daemon, &format!("/ws/chat/{id}/"), None).await), 403);
    for conversation in [id, ConversationId(id.0 + 1)] {
        let mut stranger = Client::try_chat(&daemon, conversation, "3", "&v=1").await.unwrap();
        assert_eq!(stranger.next_or_close().await, Err(4403));
    }
    // Without the slash as well.
    let path = format!("/ws/chat/{id}?token={}", crate::support::token("1"));
    Client::try_open_at(&daemon, &path, None).await.unwrap().mark("Here").await;
}

#[tokio::test]
async fn a_connection_says_ten_messages_in_ten_seconds() {
    let (mut conversing, id) = chatting().await;
    let daemon = conversing.start().await;
    let (mut asha, mut juma) = both(&daemon, id).await;
    for number in 1..=10 {
        asha.say(&format!("{number}")).await;
    }
    asha.send(&json!({ "type": "message", "content": "11", "client_id": "eleven" })).await;
    let frames = asha.up_to("error").await;
    let error = frames.last().unwrap();
    assert_eq!((&error["code"], &error["client_id"]), (&json!("rate_limited"), &json!("eleven")), "{error}");
    let told = error["message"].as_str().unwrap();
    let seconds = told.strip_prefix("Rate limit exceeded. Please wait ").and_then(|rest| rest.strip_suffix(" seconds."));
    assert!((1..=10).contains(&seconds.unwrap().parse::<u64>().unwrap()), "{told}");
    // The socket goes on, and another has its own.
    juma.mark("Mine").await;
    let told = asha.up_to_text("Mine").await;
    assert!(!kinds(&told).contains(&"error"));
    drop((asha, juma));
    daemon.terminate().await;
    assert_eq!(StoreFile::open(&conversing.setup.store_path()).number("SELECT count(*) FROM messages WHERE sender = '1'"), 10);
}

#[tokio::test]
async fn a_user_has_one_pace_over_all_connections() {
    let (conversing, id) = chatting().await;
    let mut conversing = conversing.with("chat.user_messages_burst", "3").with("chat.user_messages_window", "1h");
    let daemon = conversing.start().await;
    let mut phone = Client::chat(&daemon, id, "1").await;
    let mut laptop = Client::chat(&daemon, id, "1").await;
    phone.mark("One").await;
    laptop.mark("Two").await;
    phone.mark("Three").await;
    laptop.say("Four").await;
    let frames = laptop.up_to("error").await;
    assert_eq!(frames.last().unwrap()["code"], "rate_limited");
    let told = frames.last().unwrap()["message"].as_str().unwrap();
    assert!(told.starts_with("Rate limit exceeded. Please wait "), "{told}");
    let mut juma = Client::chat(&daemon, id, "2").await;
    juma.mark("Mine").await;
}

#[tokio::test]
async fn typing_is_told_now_and_then_to_the_others_and_ends_by_itself() {
    let (conversing, id) = chatting().await;
    let mut conversing = conversing.with("chat.typing_interval", "500ms").with("chat.typing_expiry", "900ms");
    let daemon = conversing.start().await;
    let (mut asha, mut juma) = both(&daemon, id).await;
    let mut tab = Client::chat(&daemon, id, "1").await;
    for _ in 0..20 {
        asha.send(&json!({ "type": "typing", "is_typing": true })).await;
    }
    let typing = |is_typing: bool| json!({ "type": "typing", "user_id": 1, "username": "Asha", "is_typing": is_typing });
    assert_eq!(juma.heard().await, typing(true));
    // One of twenty; the next is that it is over.
    assert_eq!(juma.heard().await, typing(false));
    juma.mark("Well?").await;
    for client in [&mut asha, &mut tab] {
        assert!(!kinds(&client.up_to_text("Well?").await).contains(&"typing"));
    }
    asha.send(&json!({ "type": "typing" })).await;
    assert_eq!(asha.heard().await["code"], "invalid");
}

#[tokio::test]
async fn who_has_one_of_two_tabs_open_is_there() {
    let (mut conversing, id) = chatting().await;
    let daemon = conversing.start().await;
    let (asha, mut juma) = both(&daemon, id).await;
    let mut tab = Client::chat(&daemon, id, "1").await;
    juma.sees(1, true).await;
    asha.close().await;
    // Longer than the grace: an interval of typing takes as long as it takes.
    let gone = json!({ "type": "user_status", "user_id": 1, "is_online": false });
    tab.send(&json!({ "type": "typing", "is_typing": true })).await;
    let mut told = juma.up_to("typing").await;
    told.extend(juma.up_to("typing").await);
    assert_eq!(told.last().unwrap()["is_typing"], false);
    assert!(!told.contains(&gone), "{told:?}");
    tab.close().await;
    juma.sees(1, false).await;
    let _asha = Client::chat(&daemon, id, "1").await;
    juma.sees(1, true).await;
}

#[tokio::test]
async fn a_reconnect_within_the_grace_is_not_told() {
    let (conversing, id) = chatting().await;
    let mut conversing = conversing.with("socket.presence_grace", "1h");
    let daemon = conversing.start().await;
    let (asha, mut juma) = both(&daemon, id).await;
    asha.close().await;
    let mut asha = Client::chat(&daemon, id, "1").await;
    asha.mark("Back").await;
    let told = juma.up_to_text("Back").await;
    assert!(!told.contains(&json!({ "type": "user_status", "user_id": 1, "is_online": false })), "{told:?}");
}

#[tokio::test]
async fn attachments_are_where_and_what_they_may_be() {
    let (conversing, id) = chatting().await;
    let mut conversing = conversing.with("chat.attachment_hosts", "[\"cdn.example.com\"]");
    let daemon = conversing.start().await;
    let (mut asha, mut juma) = both(&daemon, id).await;
    let good = json!({ "url": "https://cdn.example.com/a.jpg", "content_type": "image/jpeg", "size": 1000, "name": "a.jpg" });
    asha.send(&json!({ "type": "message", "attachments": [good] })).await;
    let frame = juma.heard().await;
    assert_eq!((&frame["message"]["attachments"], &frame["message"]["text"]), (&json!([good]), &json!("")), "{frame}");
    asha.heard().await;
    let mut refused = async |changes: &Value, expected: &str| {
        let mut attachment = good.clone();
        for (name, value) in changes.as_object().unwrap() {
            attachment[name] = value.clone();
        }
        asha.send(&json!({ "type": "message", "content": "Look", "attachments": [good, attachment] })).await;
        expect_error(&asha.heard().await, "invalid", expected);
    };
    let elsewhere = "`attachments[1]`: its URL is not where attachments may be.";
    refused(&json!({ "url": "https://evil.example/a.jpg" }), elsewhere).await;
    refused(&json!({ "url": "javascript:alert(1)" }), elsewhere).await;
    refused(&json!({ "content_type": "text/html" }), "`attachments[1]`: files of type \"text/html\" are not taken.").await;
    refused(&json!({ "size": 1_u64 << 40 }), "`attachments[1]`: it is larger than 25.0 MiB.").await;
    refused(&json!({ "name": "a\nb" }), "`attachments[1]`: its name has at most 200 bytes, and no control characters.").await;
    asha.mark("Done").await;
    assert_eq!(juma.heard().await["message"]["text"], "Done");
}

/// Signatures, and the bodies they are of.
type Questions = Arc<Mutex<Vec<(String, Bytes)>>>;

/// An operator's service that is asked before messages are stored.
struct Asked {
    url: String,
    questions: Questions,
}

impl Asked {
    async fn start() -> Self {
        let questions = Questions::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let app = Router::new().route("/", post(Self::answer)).with_state(questions.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, questions }
    }

    async fn answer(State(questions): State<Questions>, headers: HeaderMap, body: Bytes) -> Response {
        let question: Value = serde_json::from_slice(&body).unwrap();
        let signature = headers.get("x-tarishi-signature").map(|value| value.to_str().unwrap().to_owned());
        questions.lock().unwrap().push((signature.unwrap_or_default(), body));
        let answer = match question["text"].as_str().unwrap() {
            "rude" => json!({ "action": "refuse", "message": "Be kind." }),
            "worse" => json!({ "action": "refuse" }),
            "phone 0712" => json!({ "action": "rewrite", "text": "phone ****" }),
            "empty" => json!({ "action": "rewrite", "text": " " }),
            "silence" => std::future::pending().await,
            "broken" => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            "nonsense" => return "<html>".into_response(),
            "fine" => return StatusCode::NO_CONTENT.into_response(),
            _ => json!({ "action": "allow" }),
        };
        answer.to_string().into_response()
    }
}

#[tokio::test]
async fn a_hook_lets_through_refuses_and_rewrites() {
    let (conversing, id) = chatting().await;
    let hook = Asked::start().await;
    let mut conversing = conversing.with("chat.hook.url", &hook.url).with("chat.hook.on_failure", "closed").with("chat.hook.timeout", "1s");
    let secret = conversing.secret_file("hook.secret", "a shared secret\n");
    conversing.setup.set("chat.hook.secret_file", &secret.display());
    let daemon = conversing.start().await;
    let (mut asha, mut juma) = both(&daemon, id).await;
    for (said, stored) in [("fine", "fine"), ("hello", "hello"), ("phone 0712", "phone ****")] {
        asha.say(said).await;
        assert_eq!(asha.heard().await["message"]["text"], stored);
        assert_eq!(juma.heard().await["message"]["text"], stored);
    }
    let unavailable = ("unavailable", "Messages cannot be checked right now. Please try again later.");
    for (said, (code, message)) in [
        ("rude", ("refused", "Be kind.")),
        ("worse", ("refused", "This message was not accepted.")),
        ("empty", ("invalid", "The message is empty.")),
        ("silence", unavailable),
        ("broken", unavailable),
        ("nonsense", unavailable),
    ] {
        asha.say(said).await;
        expect_error(&asha.heard().await, code, message);
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"a shared secret");
    for (signature, body) in hook.questions.lock().unwrap().iter() {
        let tag = signature.strip_prefix("sha256=").unwrap();
        let tag: Vec<u8> = (0..tag.len()).step_by(2).map(|at| u8::from_str_radix(&tag[at..at + 2], 16).unwrap()).collect();
        hmac::verify(&key, body, &tag).unwrap();
    }
    let question: Value = serde_json::from_slice(&hook.questions.lock().unwrap()[0].1).unwrap();
    assert_eq!(question, json!({ "event": "message", "conversation": id, "sender": "1", "text": "fine", "attachments": [] }));
    assert_eq!(daemon.metric("tarishi_chat_hook_total{result=\"failed\"}").await, 3);
    assert_eq!(daemon.metric("tarishi_chat_hook_total{result=\"refused\"}").await, 2);
    drop((asha, juma));
    daemon.terminate().await;
    assert_eq!(StoreFile::open(&conversing.setup.store_path()).number("SELECT count(*) FROM messages"), 3);
}

#[tokio::test]
async fn a_hook_that_is_silent_may_let_everything_through() {
    let (conversing, id) = chatting().await;
    let hook = Asked::start().await;
    let mut conversing =
        conversing.with("chat.hook.url", &hook.url).with("chat.hook.on_failure", "open").with("chat.hook.timeout", "500ms");
    let daemon = conversing.start().await;
    let mut asha = Client::chat(&daemon, id, "1").await;
    for said in ["silence", "broken", "nonsense", "fine"] {
        asha.mark(said).await;
    }
    asha.say("rude").await;
    expect_error(&asha.heard().await, "refused", "Be kind.");
}

#[tokio::test]
async fn a_tampered_message_is_shown_as_such_and_breaks_nothing_else() {
    let (mut conversing, id) = chatting().await;
    let daemon = conversing.start().await;
    let mut asha = Client::chat(&daemon, id, "1").await;
    for text in ["The price is 100", "The price is 900", "Agreed"] {
        asha.mark(text).await;
    }
    drop(asha);
    daemon.terminate().await;
    let sealed = StoreFile::open(&conversing.setup.store_path()).texts("SELECT sealed FROM messages").join(" ");
    assert!(!sealed.contains("price"), "{sealed}");
    // A whole text of the same conversation under the same key, and yet not this message's.
    conversing.behind_its_back("UPDATE messages SET sealed = (SELECT sealed FROM messages WHERE id = 1) WHERE id = 2");
    let daemon = conversing.start().await;
    for _ in 0..2 {
        let (mut asha, _) = Client::chat_v1(&daemon, id, "1", "&since=0").await;
        let told = asha.up_to("recovered").await;
        let messages: Vec<&Value> = told.iter().filter(|frame| frame["type"] == "message").map(|frame| &frame["message"]).collect();
        let texts: Vec<&str> = messages.iter().map(|message| message["text"].as_str().unwrap()).collect();
        assert_eq!(texts, ["The price is 100", "[message cannot be shown]", "Agreed"]);
        assert_eq!((&messages[1]["tampered"], messages[0].get("tampered")), (&json!(true), None));
    }
    assert_eq!(daemon.metric("tarishi_chat_tampered_total").await, 2);
    let errors = daemon.process.events().into_iter().filter(|event| event["level"] == "ERROR").count();
    assert_eq!(errors, 1, "once for a message");
    Client::chat(&daemon, id, "2").await.mark("And on").await;
}
