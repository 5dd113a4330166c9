//! What one connection may do, and what becomes of those that do more.

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::{Client, notify, refused, with_short_drain};
use crate::support::{Setup, token};

#[tokio::test]
async fn a_connection_that_talks_too_much_is_closed() {
    let mut setup = Setup::new().with("socket.messages_per_second", "1").with("socket.messages_burst", "5");
    let daemon = setup.start().await;
    let (mut client, _) = Client::open_v1(&daemon, "42", "").await;
    for _ in 0..6 {
        client.send(&json!({ "type": "ping" })).await;
    }
    assert_eq!(client.close_code().await, 4429);
    // Control frames count too.
    let (mut client, _) = Client::open_v1(&daemon, "42", "").await;
    for _ in 0..6 {
        client.send_raw(Message::Ping("x".into())).await;
    }
    assert_eq!(client.close_code().await, 4429);
    let metrics = daemon.api.get("/metrics").await.text;
    assert!(metrics.contains("tarishi_sockets_ended_total{reason=\"too_many_messages\"} 2"), "{metrics}");
}

#[tokio::test]
async fn whoever_asks_is_told_how_far_it_is() {
    let mut setup = Setup::new().with("socket.ping_interval", "50ms");
    let daemon = setup.start().await;
    let mut client = Client::try_open(&daemon, &format!("?v=1&token={}", token("42")), None).await.unwrap();
    notify(&daemon, "one", "42").await;
    assert_eq!(client.next_ping().await["seq"], 1);
    let older = Client::open(&daemon, "43").await;
    older.expect_control_ping().await;
}

#[tokio::test]
async fn a_message_beyond_the_limit_closes_its_connection() {
    let mut setup = Setup::new().with("socket.message_limit", "1 KiB");
    let daemon = setup.start().await;
    let mut client = Client::open(&daemon, "42").await;
    client.send_raw(Message::text("x".repeat(2048))).await;
    assert_eq!(client.close_code().await, 1009);
}

#[tokio::test]
async fn a_token_is_replaced_in_place() {
    let mut setup = Setup::new();
    let daemon = setup.start().await;
    let (mut client, _) = Client::open_v1(&daemon, "42", "").await;
    client.send(&json!({ "type": "token", "token": token("42") })).await;
    assert!(client.next_of("token").await["expires_at"].is_string());
    client.send(&json!({ "type": "token", "token": "nonsense" })).await;
    assert_eq!(client.next_of("error").await["code"], "bad_token");
    notify(&daemon, "still-here", "42").await;
    client.next_of("notification").await;
    client.send(&json!({ "type": "token", "token": token("43") })).await;
    assert_eq!(client.close_code().await, 4403);
}

#[tokio::test]
async fn nobody_is_let_in_during_a_drain() {
    let mut setup = with_short_drain().with("shutdown.drain", "20s");
    let daemon = setup.start().await;
    let (_held, _) = Client::open_v1(&daemon, "42", "").await;
    daemon.process.signal("TERM");
    daemon.process.find_line(|line| line.contains("draining").then_some(())).await.unwrap();
    assert_eq!(refused(Client::try_open(&daemon, &format!("?token={}", token("42")), None).await), 503);
    let answer = daemon.public_api().get(&format!("/sse/notifications?token={}", token("42"))).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, "retry: 2000\n\n"), "any other status would be the last word to a browser");
    daemon.process.kill().await;
}
