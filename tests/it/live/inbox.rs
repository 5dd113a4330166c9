//! The inbox over HTTP, in our shape and in the replaced system's, and what the user's other devices hear of it.

use serde_json::{Value, json};

use super::{Client, notify};
use crate::support::{Api, Daemon, Setup, token};

fn as_user(daemon: &Daemon, user: &str) -> Api {
    daemon.public_api().with_bearer(&token(user))
}

fn ids(list: &Value) -> Vec<i64> {
    list.as_array().unwrap().iter().map(|item| item["id"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn items_are_listed_in_pages_filtered_and_changed_in_bulk() {
    let mut setup = Setup::new();
    let daemon = setup.start().await;
    let api = as_user(&daemon, "42");
    for number in 1..=5 {
        notify(&daemon, &format!("job-{number}"), "42").await;
    }
    notify(&daemon, "theirs", "43").await;
    let first = api.get("/v1/inbox?limit=2").await.expect(200);
    assert_eq!((&first["unread"], &first["seq"], first["epoch"].is_string()), (&json!(5), &json!(5), true));
    assert_eq!(first["items"][0]["title"], "About job-5");
    let cursor = first["next_cursor"].as_i64().unwrap();
    let second = api.get(&format!("/v1/inbox?limit=3&cursor={cursor}")).await.expect(200);
    assert_eq!((second["items"].as_array().unwrap().len(), &second["next_cursor"]), (3, &Value::Null));
    let oldest = second["items"][2].clone();
    let id = oldest["id"].as_i64().unwrap();

    let changed = api.post("/v1/inbox/read", &json!({ "ids": [id, 999_999] })).await.expect(200);
    assert_eq!(changed, json!({ "changed": [id], "unread": 4 }));
    assert_eq!(api.post("/v1/inbox/read", &json!({ "ids": [id] })).await.expect(200)["changed"], json!([]));
    let read = api.get(&format!("/v1/inbox/items/{id}")).await.expect(200);
    assert!(read["read_at"].is_string() && read["seen_at"].is_string(), "{read}");
    assert_eq!(ids(&api.get("/v1/inbox?unread=false").await.expect(200)["items"]), [id]);
    assert_eq!(api.get("/v1/inbox?unread=true").await.expect(200)["items"].as_array().unwrap().len(), 4);
    assert_eq!(api.post("/v1/inbox/unread", &json!({ "ids": [id] })).await.expect(200)["unread"], 5);

    assert_eq!(api.post("/v1/inbox/archive", &json!({ "up_to": 2 })).await.expect(200)["unread"], 3);
    assert_eq!(api.get("/v1/inbox").await.expect(200)["items"].as_array().unwrap().len(), 3);
    assert_eq!(api.get("/v1/inbox?archived=true").await.expect(200)["items"].as_array().unwrap().len(), 2);
    assert_eq!(api.post("/v1/inbox/unarchive", &json!({ "all": true })).await.expect(200)["unread"], 5);
    assert_eq!(api.post("/v1/inbox/seen", &json!({ "all": true })).await.expect(200)["unread"], 5);
    assert_eq!(api.post("/v1/inbox/read", &json!({ "all": true })).await.expect(200)["unread"], 0);

    assert_eq!(api.delete(&format!("/v1/inbox/items/{id}")).await.status, 204);
    assert_eq!(api.delete(&format!("/v1/inbox/items/{id}")).await.status, 404);
    api.get(&format!("/v1/inbox/items/{id}")).await.expect(404);
    // Somebody else's.
    let theirs = as_user(&daemon, "43");
    theirs.get(&format!("/v1/inbox/items/{}", id + 1)).await.expect(404);
    assert_eq!(theirs.post("/v1/inbox/read", &json!({ "ids": [id + 1] })).await.expect(200)["changed"], json!([]));
    assert_eq!(theirs.get("/v1/inbox").await.expect(200)["unread"], 1);
    // What was seen or read counts as delivered.
    assert_eq!(daemon.finished("job-3").await["deliveries"][0]["status"], "delivered");
    assert_eq!(daemon.api.get("/v1/audit").await.expect(200)["balanced"], true);
}

#[tokio::test]
async fn bad_requests_are_told_what_to_write() {
    let mut setup = Setup::new();
    let daemon = setup.start().await;
    let api = as_user(&daemon, "42");
    for body in [json!({}), json!({ "ids": [1], "all": true }), json!({ "ids": vec![1; 1001] })] {
        api.post("/v1/inbox/read", &body).await.expect_problem(400, "invalid");
    }
    api.post("/v1/inbox/read", &json!({ "ids": "all" })).await.expect_problem(422, "invalid");
    let unknown = api.post("/v1/inbox/eat", &json!({ "all": true })).await.expect_problem(404, "not_found");
    assert!(unknown["detail"].as_str().unwrap().contains("archive"));
    api.get("/v1/inbox?limit=x").await.expect(400);
    api.get("/v1/inbox?colour=red").await.expect(400);
    daemon.public_api().get("/v1/inbox").await.expect(401);
    daemon.public_api().get("/api/v1/communications/notifications/").await.expect(401);
}

#[tokio::test]
async fn existing_clients_read_the_shapes_they_know() {
    let mut setup = Setup::new();
    let daemon = setup.start().await;
    let api = as_user(&daemon, "42").below("/api/v1/communications/notifications");
    assert_eq!(api.get("/").await.expect(200), json!([]));
    for number in 1..=3 {
        notify(&daemon, &format!("job-{number}"), "42").await;
    }
    let all = api.get("/").await.expect(200);
    assert_eq!(ids(&all).len(), 3);
    let newest = &all[0];
    assert_eq!((&newest["title"], &newest["user"], &newest["is_read"]), (&json!("About job-3"), &json!(42), &json!(false)));
    for member in ["id", "message", "type", "created_at", "related_object_id", "related_object_type", "data"] {
        assert!(newest.get(member).is_some(), "{member}: {newest}");
    }
    let page = api.get("/?page=1&page_size=2").await.expect(200);
    assert_eq!((&page["count"], page["results"].as_array().unwrap().len(), &page["previous"]), (&json!(3), 2, &Value::Null));
    assert!(page["next"].as_str().unwrap().contains("page=2"), "{page}");
    let last = api.get("/?page=2&page_size=2").await.expect(200);
    assert_eq!((ids(&last["results"]), &last["next"]), (ids(&all)[2..].to_vec(), &Value::Null));
    api.get("/?page=9").await.expect(404);
    let by_cursor = api.get("/?cursor=3&page_size=1").await.expect(200);
    assert_eq!(ids(&by_cursor["results"]), ids(&all)[1..2]);

    let id = newest["id"].as_i64().unwrap();
    assert_eq!(api.put(&format!("/{id}/"), &json!({ "is_read": true })).await.expect(200)["is_read"], true);
    assert_eq!(api.get(&format!("/{id}/")).await.expect(200)["is_read"], true);
    assert_eq!(api.patch(&format!("/{id}"), &json!({ "is_read": false })).await.expect(200)["is_read"], false);
    assert_eq!(api.put("/999999/", &json!({ "is_read": true })).await.expect(404)["error"], "No such notification of yours.");
    api.put(&format!("/{id}/"), &json!({ "is_read": "x" })).await.expect(422);
    assert_eq!(api.delete(&format!("/{id}/")).await.status, 204);
    assert_eq!(ids(&api.get("").await.expect(200)).len(), 2);
}

#[tokio::test]
async fn other_devices_hear_of_every_change_at_once() {
    let mut setup = Setup::new();
    let daemon = setup.start().await;
    let (mut phone, _) = Client::open_v1(&daemon, "42", "").await;
    let (mut laptop, _) = Client::open_v1(&daemon, "42", "").await;
    let mut older = Client::open(&daemon, "42").await;
    for number in 1..=3 {
        notify(&daemon, &format!("job-{number}"), "42").await;
    }
    let mut known = Vec::new();
    for _ in 0..3 {
        known.push(phone.next_of("notification").await["id"].clone());
        laptop.next_of("unread").await;
        older.next_of("notification").await;
    }
    assert_eq!(phone.next_of("unread").await["count"], 3);
    for (kind, state, unread) in [("seen", "seen", 3), ("read", "read", 2), ("archive", "archive", 2)] {
        phone.send(&json!({ "type": kind, "id": known[0] })).await;
        for client in [&mut phone, &mut laptop] {
            let changed = client.next_of("changed").await;
            assert_eq!((&changed["state"], &changed["ids"]), (&json!(state), &json!([known[0]])));
            assert_eq!(client.next_of("unread").await["count"], unread);
        }
    }
    phone.send(&json!({ "type": "read_all" })).await;
    assert_eq!(laptop.next_of("changed").await["ids"].as_array().unwrap().len(), 2);
    assert_eq!(laptop.next_of("unread").await["count"], 0);
    as_user(&daemon, "42").delete(&format!("/v1/inbox/items/{}", known[1])).await;
    assert_eq!(laptop.next_of("changed").await["state"], "delete");
    phone.send(&json!({ "type": "read", "id": 999_999 })).await;
    let refused = phone.next_of("error").await;
    assert_eq!((&refused["code"], &refused["id"]), (&json!("not_found"), &json!(999_999)));
    // Frames of types they do not know never reach those who did not ask.
    older.expect_silence().await;
}
