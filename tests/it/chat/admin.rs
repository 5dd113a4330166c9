//! What a backend and operators do with the chat.

use serde_json::json;

use super::Conversing;
use crate::{
    live::Client,
    support::{Daemon, Setup, problems, token},
};

/// The log tells what was done, and nothing else of the kind.
async fn expect_operated(daemon: &Daemon, expected: &[&str]) {
    let operated = || {
        let events = daemon.process.events().into_iter().filter(|event| event["message"] == "chat operated on");
        events.map(|event| format!("{} by {}", event["what"].as_str().unwrap(), event["by"].as_str().unwrap())).collect::<Vec<_>>()
    };
    daemon.process.until("all of it is in the log", async || (operated().len() >= expected.len()).then_some(())).await;
    assert_eq!(operated(), expected.iter().map(|what| format!("{what} by loopback")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_backend_makes_a_conversation_once() {
    let mut conversing = Conversing::new();
    let daemon = conversing.start().await;
    let admin = &daemon.api;
    let making = json!({
        "key": "order-8841",
        "participants": [{ "user_id": 42, "name": "Asha", "role": "user" }, { "user_id": "43", "name": "Juma", "role": "agent" }],
        "property_id": "8841", "property_title": "A flat by the sea", "metadata": { "order": 7 },
    });
    let made = admin.post("/v1/conversations", &making).await.expect(201);
    assert_eq!((&made["property_id"], &made["metadata"], &made["key"]), (&json!(8841), &json!({ "order": 7 }), &json!("order-8841")));
    assert_eq!(admin.post("/v1/conversations", &making).await.expect(200), made);
    let mut keyless = making.clone();
    keyless.as_object_mut().unwrap().remove("key");
    assert_eq!(admin.with_header("idempotency-key", "order-8841").post("/v1/conversations", &keyless).await.expect(200), made);
    let mut other = making.clone();
    other["property_title"] = json!("Another flat");
    admin.post("/v1/conversations", &other).await.expect_problem(409, "key_conflict");
    let refused = admin.with_header("idempotency-key", "other").post("/v1/conversations", &making).await.expect_problem(422, "invalid");
    assert!(problems(&refused)[0].starts_with("$.key"), "{refused}");
    let refused =
        admin.post("/v1/conversations", &json!({ "participants": [{ "user": 1 }], "propertyid": 1 })).await.expect_problem(422, "invalid");
    assert!(problems(&refused).len() >= 2, "{refused}");

    let id = made["id"].as_i64().unwrap();
    assert_eq!(admin.get(&format!("/v1/conversations/{id}")).await.expect(200), made);
    admin.get("/v1/conversations/999").await.expect_problem(404, "not_found");
    admin.get("/v1/conversations/x").await.expect_problem(422, "invalid");
    let second = admin.post("/v1/conversations", &keyless).await.expect(201);
    let listed = admin.get("/v1/conversations?user_id=42&limit=1").await.expect(200);
    assert_eq!(listed["conversations"], json!([second]));
    let cursor = listed["next_cursor"].as_str().unwrap();
    let listed = admin.get(&format!("/v1/conversations?user_id=42&cursor={cursor}")).await.expect(200);
    assert_eq!(listed, json!({ "conversations": [made], "next_cursor": null }));
    admin.get("/v1/conversations").await.expect_problem(422, "invalid");
    expect_operated(&daemon, &["conversation made"; 2]).await;
}

#[tokio::test]
async fn operators_change_who_takes_part_and_what_stays() {
    let mut conversing = Conversing::new().with("chat.participants_limit", "3");
    let id = conversing.converse(&[("42", "Asha"), ("43", "Juma")]).await;
    let daemon = conversing.start().await;
    let users = |user: &str| daemon.public_api().with_bearer(&token(user)).below("/api/v1/communications");
    let place = format!("/v1/conversations/{id}");
    let mut asha = Client::chat(&daemon, id, "42").await;
    let mut juma = Client::chat(&daemon, id, "43").await;
    daemon.api.post(&format!("{place}/notify"), &json!({ "message": "Karibuni", "severity": "warning" })).await.expect(202);
    for client in [&mut asha, &mut juma] {
        let shown = client.next_of("notification").await;
        assert_eq!(shown, json!({ "type": "notification", "message": "Karibuni", "severity": "warning" }));
    }
    daemon.api.post("/v1/conversations/999/notify", &json!({ "message": "x" })).await.expect_problem(404, "not_found");
    daemon.api.post(&format!("{place}/notify"), &json!({ "message": " " })).await.expect_problem(422, "invalid");

    let change = json!({ "add": [{ "user_id": 44, "name": "Neema" }], "remove": [43], "rename": [{ "user_id": 42, "name": "Asha M" }] });
    let path = format!("{place}/participants");
    daemon.api.patch(&path, &json!({ "add": [{ "user_id": 44 }, { "user_id": 45 }] })).await.expect_problem(409, "conversation_full");
    daemon.api.patch(&path, &json!({ "rename": [{ "user_id": 99, "name": "x" }] })).await.expect_problem(422, "invalid");
    for _ in 0..2 {
        let changed = daemon.api.patch(&path, &change).await.expect(200);
        let present: Vec<_> = changed["participants"].as_array().unwrap().iter().filter(|one| one["left_at"].is_null()).collect();
        assert_eq!(present.iter().map(|one| &one["name"]).collect::<Vec<_>>(), [&json!("Asha M"), &json!("Neema")]);
    }
    assert_eq!(juma.close_code().await, 4403);
    // Who was removed does not come back by themselves; who is added again is in.
    users("43").post(&format!("/conversations/{id}/rejoin/"), &json!({})).await.expect(404);
    let anew = users("43").post("/conversations/", &json!({ "user_id": 42, "property_id": 8841 })).await.expect(201);
    assert_ne!(anew["id"], json!(id));
    daemon.api.patch(&path, &json!({ "add": [{ "user_id": 43 }] })).await.expect(200);
    users("43").get(&format!("/conversations/{id}/")).await.expect(200);

    let sent = users("44").post(&format!("/conversations/{id}/send_message/"), &json!({ "text": "Matusi" })).await.expect(201);
    let message = sent["id"].as_i64().unwrap();
    for _ in 0..2 {
        assert_eq!(daemon.api.delete(&format!("/v1/messages/{message}")).await.status, 204);
    }
    daemon.api.delete("/v1/messages/999").await.expect_problem(404, "not_found");
    assert_eq!(users("42").get(&format!("/messages/{message}/")).await.expect(200)["is_deleted"], true);
    let expected = ["notice shown", "participants changed", "participants changed", "participants changed", "message deleted"];
    expect_operated(&daemon, &expected).await;
}

#[tokio::test]
async fn without_a_chat_it_says_so() {
    let mut setup = Setup::new();
    let daemon = setup.start().await;
    daemon.api.post("/v1/conversations", &json!({ "participants": [{ "user_id": 1 }] })).await.expect_problem(409, "chat_off");
    daemon.api.get("/v1/conversations?user_id=1").await.expect_problem(409, "chat_off");
    daemon.api.get("/v1/conversations/1").await.expect_problem(409, "chat_off");
    daemon.api.patch("/v1/conversations/1/participants", &json!({})).await.expect_problem(409, "chat_off");
    daemon.api.post("/v1/conversations/1/notify", &json!({ "message": "x" })).await.expect_problem(409, "chat_off");
    daemon.api.delete("/v1/messages/1").await.expect_problem(409, "chat_off");
    daemon.public_api().with_bearer(&token("42")).get("/api/v1/communications/conversations/").await.expect(404);
}
