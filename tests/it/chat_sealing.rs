//! Sealed messages between this crate and Python's `cryptography`, which sealed those of the replaced system.

use std::{collections::BTreeMap, path::PathBuf};

use secrecy::ExposeSecret as _;
use tarishi::{
    chat::seal::ChatKeys,
    model::{ChatBody, ConversationId, MessageId},
};

use crate::support::python;

const CONVERSATION: ConversationId = ConversationId(7);
const MESSAGE: MessageId = MessageId(123);
const TEXT: &str = "Je, nyumba bado ipo? 🏠 \"ndiyo\"";

/// What `tests/tools/fernet.py` says to these arguments.
async fn fernet(arguments: &[&str]) -> String {
    let script: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/tools/fernet.py"].iter().collect();
    let arguments: Vec<String> = std::iter::once(script.to_str().unwrap()).chain(arguments.iter().copied()).map(str::to_owned).collect();
    let process = python(&arguments, &BTreeMap::new());
    assert_eq!(process.end().await.code, Some(0), "{:?}", process.lines());
    process.lines().join("\n")
}

fn inside(conversation: ConversationId, message: MessageId, text: &str) -> String {
    serde_json::json!({ "c": conversation, "m": message, "t": text }).to_string()
}

#[tokio::test]
async fn what_python_seals_is_read_here() {
    let key = ChatKeys::new_key();
    let keys = ChatKeys::new(&[ChatKeys::new_key(), key.clone()]).unwrap();
    let sealed = fernet(&["encrypt", key.expose_secret(), &inside(CONVERSATION, MESSAGE, TEXT)]).await;
    assert_eq!(keys.open(CONVERSATION, MESSAGE, &sealed).unwrap().text, TEXT);
    assert!(keys.open(CONVERSATION, MessageId(124), &sealed).is_err());
    let theirs = fernet(&["encrypt", key.expose_secret(), TEXT]).await;
    assert_eq!(keys.decrypt(&theirs).as_deref(), Some(TEXT.as_bytes()));
    assert!(keys.open(CONVERSATION, MESSAGE, &theirs).is_err(), "it holds no ids");
}

#[tokio::test]
async fn what_is_sealed_here_is_read_by_python() {
    let key = ChatKeys::new_key();
    let keys = ChatKeys::new(std::slice::from_ref(&key)).unwrap();
    let body = ChatBody { text: TEXT.to_owned(), attachments: Vec::new() };
    let read = fernet(&["decrypt", key.expose_secret(), &keys.seal(CONVERSATION, MESSAGE, &body)]).await;
    let expected: serde_json::Value = serde_json::from_str(&inside(CONVERSATION, MESSAGE, TEXT)).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&read).unwrap(), expected);
}

/// Python generates keys that are ours, and takes those generated here.
#[tokio::test]
async fn keys_are_the_same_to_both() {
    let theirs = fernet(&["generate"]).await;
    let keys = ChatKeys::new(&[theirs.as_str().into()]).unwrap();
    let sealed = keys.seal(CONVERSATION, MESSAGE, &ChatBody::default());
    assert_eq!(fernet(&["decrypt", &theirs, &sealed]).await, r#"{"c":7,"m":123,"t":""}"#);
}
