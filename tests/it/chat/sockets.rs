//! What clients of both generations say on a conversation's socket, and what they are told.

use serde_json::json;

use super::Conversing;
use crate::live::Client;

#[tokio::test]
async fn a_message_reaches_everybody_in_the_conversation() {
    let mut conversing = Conversing::new();
    let id = conversing.converse(&[("1", "Asha"), ("2", "Juma")]).await;
    let daemon = conversing.start().await;
    let mut asha = Client::chat(&daemon, id, "1").await;
    assert_eq!(asha.next().await, json!({ "type": "user_status", "user_id": 2, "is_online": false }));
    asha.send(&json!({ "type": "message", "content": " Habari " })).await;
    let frame = asha.next().await;
    assert_eq!((&frame["type"], &frame["message"]["content"]), (&json!("message"), &json!("Habari")), "{frame}");
}
