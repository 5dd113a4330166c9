//! Conversations over HTTP, as clients of the replaced system know them.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::Conversing;
use crate::{
    live::Client,
    support::{Answer, Api, Daemon, token},
};

fn api(daemon: &Daemon, user: &str) -> Api {
    daemon.public_api().with_bearer(&token(user)).below("/api/v1/communications")
}

fn ids(list: &Value) -> Vec<i64> {
    list.as_array().unwrap().iter().map(|item| item["id"].as_i64().unwrap()).collect()
}

/// Starts a conversation of 42 with `other`.
async fn start(daemon: &Daemon, other: i64) -> i64 {
    api(daemon, "42").post("/conversations/start_conversation/", &json!({ "agent_id": other })).await.expect(201)["id"].as_i64().unwrap()
}

async fn send(api: &Api, conversation: i64, text: &str) -> i64 {
    let sent = api.post(&format!("/conversations/{conversation}/send_message/"), &json!({ "text": text })).await.expect(201);
    sent["id"].as_i64().unwrap()
}

#[tokio::test]
async fn two_people_about_one_thing_have_one_conversation() {
    let mut conversing = Conversing::new();
    let daemon = conversing.start().await;
    daemon.api.put("/v1/users/43", &json!({ "name": "Juma" })).await.expect(200);
    let (asha, juma) = (api(&daemon, "42"), api(&daemon, "43"));
    let about = json!({ "agent_id": 43, "agent_name": "The boss", "property_id": 8841, "property_title": "A flat by the sea" });
    let made = asha.post("/conversations/start_conversation/", &about).await.expect(201);
    assert_eq!((&made["user"], &made["agent"]), (&json!(42), &json!(43)));
    // A known name goes before what another user says.
    assert_eq!((&made["other_participant"]["id"], &made["other_participant"]["username"]), (&json!(43), &json!("Juma")));
    assert_eq!((&made["property"], &made["property_title"]), (&json!(8841), &json!("A flat by the sea")));
    assert_eq!((&made["last_message"], &made["unread_count"], &made["is_active"]), (&Value::Null, &json!(0), &json!(true)));
    for (who, again) in [
        (&asha, json!({ "user_id": "43", "property_id": "8841" })),
        (&juma, json!({ "user_id": 42, "property_id": 8841 })),
        (&juma, json!({ "participants": [{ "user_id": 42 }], "property_id": "8841" })),
    ] {
        let found = who.post("/conversations/", &again).await.expect(200);
        assert_eq!((&found["id"], &found["user"]), (&made["id"], &json!(42)), "{again}");
    }
    let other = asha.post("/conversations/", &json!({ "agent_id": 43 })).await.expect(201);
    assert_ne!(other["id"], made["id"]);
    let group = json!({ "participants": [{ "user_id": 43 }, { "user_id": 44, "name": "Neema" }] });
    let many = asha.post("/conversations", &group).await.expect(201);
    assert_eq!(many["participants"].as_array().unwrap().len(), 3);
    assert_ne!(asha.post("/conversations", &group).await.expect(201)["id"], many["id"]);
}

#[tokio::test]
async fn messages_are_sent_once_listed_both_ways_and_marked_read() {
    let mut conversing = Conversing::new().with("chat.user_messages_burst", "100").with("chat.user_messages_window", "1s");
    let daemon = conversing.start().await;
    let (asha, juma) = (api(&daemon, "42"), api(&daemon, "43"));
    let id = start(&daemon, 43).await;
    let mut socket = Client::chat(&daemon, id.to_string().parse().unwrap(), "43").await;
    let place = format!("/conversations/{id}");
    let first = asha.post(&format!("{place}/send_message/"), &json!({ "content": " Habari ", "client_id": "c1" })).await.expect(201);
    assert_eq!((&first["content"], &first["text"], &first["sender_id"]), (&json!("Habari"), &json!("Habari"), &json!(42)));
    let again = asha.post(&format!("{place}/send_message"), &json!({ "text": "Other", "client_id": "c1" })).await.expect(200);
    assert_eq!(again, first);
    assert_eq!(socket.next_of("message").await["message"]["id"], first["id"]);
    socket.expect_silence().await;
    let mut sent = vec![first["id"].as_i64().unwrap()];
    for number in 2..=5 {
        sent.push(send(&asha, id, &format!("message {number}")).await);
    }

    let list = async |query: &str| juma.get(&format!("{place}/messages/{query}")).await.expect(200);
    assert_eq!(ids(&list("").await), sent);
    assert_eq!(ids(&list("?limit=2").await), sent[3..]);
    assert_eq!(ids(&list(&format!("?limit=2&before={}", sent[3])).await), sent[1..3]);
    assert_eq!(ids(&list(&format!("?limit=2&after={}", sent[1])).await), sent[2..4]);
    let page = list("?page=2&page_size=2").await;
    assert_eq!((&page["count"], ids(&page["results"])), (&json!(5), sent[1..3].to_vec()));
    assert!(page["next"].as_str().unwrap().contains("page=3") && page["previous"].as_str().unwrap().contains("page=1"), "{page}");
    juma.get(&format!("{place}/messages/?page=9")).await.expect(404);
    let newest = list(&format!("?cursor=&limit=3&token={}", token("43"))).await;
    assert_eq!(ids(&newest["results"]), sent[2..]);
    let next = newest["next"].as_str().unwrap();
    assert!(!next.contains("token"), "{next}");
    let older = daemon.public_api().with_bearer(&token("43")).get(next).await.expect(200);
    assert_eq!((ids(&older["results"]), &older["next"]), (sent[..2].to_vec(), &Value::Null));

    assert_eq!(juma.get("/conversations/unread_count/").await.expect(200), json!({ "unread_count": 5 }));
    let read = juma.post(&format!("/messages/{}/mark_read/", sent[1]), &json!({})).await.expect(200);
    assert_eq!(read, json!({ "message_id": sent[1], "unread_count": 3 }));
    assert_eq!(socket.next_of("read_receipt").await["message_id"], sent[1]);
    let seen = asha.get(&format!("/messages/{}/", sent[1])).await.expect(200);
    assert!(seen["is_read"] == true && seen["read_at"].is_string(), "{seen}");
    assert_eq!(asha.get(&format!("/messages/{}/", sent[2])).await.expect(200)["is_read"], false);
    juma.post(&format!("{place}/mark_read/"), &json!({ "message_id": 999 })).await.expect(404);
    // Without a body, as existing clients ask.
    let all = Answer::of(juma.request(Method::POST, &format!("{place}/mark_read/"))).await.unwrap().expect(200);
    assert_eq!(all, json!({ "message_id": sent[4], "unread_count": 0 }));
    let shown = juma.get(&format!("{place}/")).await.expect(200);
    let newest = &shown["last_message"];
    assert_eq!((&newest["id"], &newest["text"], &newest["is_read"]), (&json!(sent[4]), &json!("message 5"), &json!(true)));
    assert_eq!((&newest["sender_id"], &shown["other_participant"]["is_online"]), (&json!(42), &json!(false)));
    assert_eq!(asha.get(&place).await.expect(200)["other_participant"]["is_online"], true);
}

#[tokio::test]
async fn messages_are_changed_and_deleted_by_who_sent_them() {
    let mut conversing = Conversing::new();
    let daemon = conversing.start().await;
    let (asha, juma) = (api(&daemon, "42"), api(&daemon, "43"));
    let id = start(&daemon, 43).await;
    let message = send(&asha, id, "Habari").await;
    let place = format!("/messages/{message}");
    let edited = asha.patch(&format!("{place}/"), &json!({ "text": "Habari yako" })).await.expect(200);
    assert!(edited["content"] == "Habari yako" && edited["edited_at"].is_string(), "{edited}");
    assert_eq!(asha.put(&place, &edited).await.expect(200)["text"], "Habari yako");
    assert_eq!(juma.patch(&place, &json!({ "text": "Nzuri" })).await.expect(403)["code"], "forbidden");
    assert_eq!(juma.delete(&place).await.status, 403);
    asha.patch(&place, &json!({})).await.expect(400);
    asha.patch(&place, &json!({ "text": " " })).await.expect(400);
    for _ in 0..2 {
        assert_eq!(juma.delete(&format!("{place}?for=me")).await.status, 204);
    }
    juma.get(&place).await.expect(404);
    assert_eq!(juma.get(&format!("/conversations/{id}/messages/")).await.expect(200), json!([]));
    assert_eq!(asha.get(&place).await.expect(200)["text"], "Habari yako");
    asha.delete(&format!("{place}?for=them")).await.expect(400);
    for _ in 0..2 {
        assert_eq!(asha.delete(&place).await.status, 204);
    }
    let gone = asha.get(&place).await.expect(200);
    assert_eq!((&gone["is_deleted"], &gone["text"]), (&json!(true), &json!("")));
    assert_eq!(asha.patch(&place, &json!({ "text": "x" })).await.expect(409)["code"], "conflict");
}

#[tokio::test]
async fn everybody_has_their_own_part_in_a_conversation() {
    let mut conversing = Conversing::new();
    let daemon = conversing.start().await;
    let (asha, juma) = (api(&daemon, "42"), api(&daemon, "43"));
    let mut made = Vec::new();
    for other in 43..=45 {
        made.push(start(&daemon, other).await);
    }
    send(&asha, made[0], "Habari").await;
    let newest_first = [made[0], made[2], made[1]];
    assert_eq!(ids(&asha.get("/conversations/").await.expect(200)), newest_first);
    let page = asha.get("/conversations/?page=2&page_size=2").await.expect(200);
    assert_eq!((&page["count"], ids(&page["results"]), &page["next"]), (&json!(3), newest_first[2..].to_vec(), &Value::Null));
    let first = asha.get("/conversations/?cursor=&page_size=2").await.expect(200);
    assert_eq!((ids(&first["results"]), &first["previous"]), (newest_first[..2].to_vec(), &Value::Null));
    let rest = daemon.public_api().with_bearer(&token("42")).get(first["next"].as_str().unwrap()).await.expect(200);
    assert_eq!(ids(&rest["results"]), newest_first[2..]);
    asha.get("/conversations/?cursor=x").await.expect(400);
    asha.get("/conversations/?page=3&page_size=2").await.expect(404);

    let place = format!("/conversations/{}", made[0]);
    assert_eq!(juma.post(&format!("{place}/mute/"), &json!({})).await.expect(200)["muted"], true);
    assert_eq!(juma.post(&format!("{place}/unmute/"), &json!({})).await.expect(200)["muted"], false);
    assert_eq!(juma.post(&format!("{place}/hide/"), &json!({})).await.expect(200)["hidden"], true);
    assert_eq!(juma.get("/conversations/").await.expect(200), json!([]));
    assert_eq!(ids(&juma.get("/conversations/?hidden=true").await.expect(200)), made[..1]);
    send(&asha, made[0], "Uko?").await;
    assert_eq!(ids(&juma.get("/conversations/").await.expect(200)), made[..1]);
    assert_eq!(juma.post(&format!("{place}/unhide"), &json!({})).await.expect(200)["hidden"], false);

    let mut socket = Client::chat(&daemon, made[0].to_string().parse().unwrap(), "43").await;
    assert_eq!(juma.delete(&format!("{place}/")).await.status, 204);
    assert_eq!(socket.close_code().await, 4403);
    for (method, path) in [(Method::GET, ""), (Method::GET, "/messages"), (Method::POST, "/hide"), (Method::DELETE, "")] {
        let answer = Answer::of(juma.request(method, &format!("{place}{path}/"))).await.unwrap().expect(404);
        assert_eq!(answer, json!({ "error": "Conversation not found.", "code": "not_found" }));
    }
    assert_eq!(asha.get(&place).await.expect(200)["other_participant"]["has_left"], true);
    assert_eq!(juma.post(&format!("{place}/rejoin/"), &json!({})).await.expect(200)["unread_count"], 0);
    assert_eq!(ids(&juma.get(&format!("{place}/messages/")).await.expect(200)).len(), 2);
    // Somebody who never took part cannot tell it from one that is not there.
    let stranger = api(&daemon, "99");
    assert_eq!(stranger.get(&place).await.expect(404), stranger.get("/conversations/9999/").await.expect(404));
    stranger.post(&format!("{place}/rejoin/"), &json!({})).await.expect(404);
    stranger.post(&format!("{place}/send_message/"), &json!({ "text": "Hodi" })).await.expect(404);
    stranger.get("/messages/1/").await.expect(404);
}

#[tokio::test]
async fn who_is_blocked_starts_nothing_and_says_nothing() {
    let mut conversing = Conversing::new();
    let daemon = conversing.start().await;
    let (asha, juma) = (api(&daemon, "42"), api(&daemon, "43"));
    let id = start(&daemon, 43).await;
    assert_eq!(juma.post("/blocks/", &json!({ "user_id": 42 })).await.expect(201), json!({ "user_id": 42 }));
    juma.post("/blocks", &json!({ "user_id": "42" })).await.expect(200);
    juma.post("/blocks/", &json!({ "user_id": 43 })).await.expect(400);
    juma.post("/blocks/", &json!({})).await.expect(422);
    assert_eq!(juma.get("/blocks/").await.expect(200), json!([{ "user_id": 42 }]));
    for (who, other) in [(&asha, 43), (&juma, 42)] {
        let refused = who.post(&format!("/conversations/{id}/send_message/"), &json!({ "text": "Habari" })).await.expect(403);
        assert_eq!(refused["code"], "forbidden");
        who.post("/conversations/", &json!({ "user_id": other, "property_id": 7 })).await.expect(403);
    }
    assert_eq!(juma.delete("/blocks/42/").await.status, 204);
    juma.delete("/blocks/42/").await.expect(404);
    send(&asha, id, "Habari").await;
}

#[tokio::test]
async fn bad_requests_and_too_many_are_told_so() {
    let mut conversing = Conversing::new().with("chat.user_messages_burst", "3").with("chat.user_messages_window", "1h");
    let daemon = conversing.start().await;
    let asha = api(&daemon, "42");
    for body in
        [json!({}), json!({ "agent_id": 42 }), json!({ "agent_id": 43, "property_id": [] }), json!({ "user_id": 43, "agent_id": 44 })]
    {
        let answer = asha.post("/conversations/", &body).await.expect(400);
        assert!(answer["error"].is_string() && answer["code"] == "invalid", "{answer}");
    }
    asha.post("/conversations/", &json!({ "agent_id": [] })).await.expect(422);
    let id = start(&daemon, 43).await;
    let place = format!("/conversations/{id}");
    assert_eq!(
        asha.post(&format!("{place}/send_message/"), &json!({ "text": "x".repeat(600 << 10) })).await.expect(413)["code"],
        "too_large"
    );
    asha.post(&format!("{place}/send_message/"), &json!({ "text": 7 })).await.expect(422);
    asha.post(&format!("{place}/send_message/"), &json!({ "text": "Habari", "reply_to": 999 })).await.expect(400);
    asha.get(&format!("{place}/messages/?before=1&after=2")).await.expect(400);
    asha.get(&format!("{place}/messages/?before=x")).await.expect(400);
    let garbled = asha.request(Method::POST, &format!("{place}/mark_read/")).body("{");
    assert_eq!(Answer::of(garbled).await.unwrap().expect(422)["code"], "malformed");
    send(&asha, id, "Habari").await;
    let too_many = asha.post(&format!("{place}/send_message/"), &json!({ "text": "Uko?" })).await;
    let wait: u64 = too_many.header("retry-after").parse().unwrap();
    let told = too_many.expect(429);
    assert_eq!(told, json!({ "error": format!("Rate limit exceeded. Please wait {wait} seconds."), "code": "rate_limited" }));
    assert!(Duration::from_secs(wait) <= Duration::from_mins(20), "{wait}");
    daemon.public_api().get("/api/v1/communications/conversations/").await.expect(401);
}

#[tokio::test]
async fn pages_of_allowed_origins_may_use_all_of_it() {
    let mut conversing = Conversing::new().with("public.allowed_origins", "[\"https://app.example.com\"]");
    let daemon = conversing.start().await;
    for path in [
        "/api/v1/communications/conversations/",
        "/api/v1/communications/conversations/7/send_message/",
        "/api/v1/communications/messages/7",
        "/api/v1/communications/blocks/7/",
        "/api/v1/communications/notifications/",
        "/api/v1/communications/notifications/7",
        "/api/v1/communications/push_tokens/",
        "/v1/inbox",
        "/v1/inbox/items/7",
        "/v1/topics/news/items",
    ] {
        for (origin, allowed) in [("https://app.example.com", "https://app.example.com"), ("https://evil.example", "")] {
            let page = daemon.public_api().with_header("origin", origin);
            let asks = page.request(Method::OPTIONS, path).header("access-control-request-method", "POST");
            let permission = Answer::of(asks).await.unwrap();
            assert_eq!(
                (permission.status == 204, permission.header("access-control-allow-origin")),
                (!allowed.is_empty(), allowed),
                "{path}"
            );
            // What is refused can be read too.
            let refused = page.get(path).await;
            assert_eq!(refused.header("access-control-allow-origin"), allowed, "{path}");
        }
    }
    let page = api(&daemon, "42").with_header("origin", "https://app.example.com");
    let made = page.post("/conversations/", &json!({ "agent_id": 43 })).await;
    assert_eq!(made.header("access-control-allow-origin"), "https://app.example.com");
    made.expect(201);
}
