//! `docs/moving-from-django-channels.md`, as far as a program can follow it.

use std::{collections::BTreeMap, fs};

use crate::support::{Setup, docs, python};

/// What is at hand in a Django view.
const BEFORE: &str = r#"
import requests
from types import SimpleNamespace

user = SimpleNamespace(id=42, email="asha@example.com")
sender = SimpleNamespace(name="Juma")
message = SimpleNamespace(id=7, preview="Is the flat still free?", conversation_id=3)
"#;

/// The page's block of Python that calls `requests`, without its indentation.
fn snippet() -> String {
    let page = fs::read_to_string(docs().join("moving-from-django-channels.md")).unwrap();
    let blocks = page.split("```python\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let block = blocks.into_iter().find(|block| block.contains("requests.post")).expect("the page shows a request");
    let margin = block.len() - block.trim_start().len();
    block.lines().map(|line| line.get(margin..).unwrap_or_default().to_owned() + "\n").collect()
}

#[tokio::test]
async fn the_call_that_replaces_the_service_is_taken_and_repeated_for_nothing() {
    let mut setup = Setup::new();
    let daemon = setup.start().await;
    let folder = tempfile::tempdir().unwrap();
    let shown = snippet();
    let address = "http://127.0.0.1:8001";
    assert!(shown.contains(address), "{shown}");
    let call = shown.replace(address, &format!("http://{}", daemon.admin));
    let script = folder.path().join("view.py");
    fs::write(&script, format!("{BEFORE}{call}{call}")).unwrap();
    let process = python(&[script.display().to_string()], &BTreeMap::new());
    assert_eq!(process.end().await.code, Some(0), "{:?}", process.lines());
    let job = daemon.finished("message-7").await;
    let mut sent: Vec<&str> = job["deliveries"].as_array().unwrap().iter().map(|each| each["channel"].as_str().unwrap()).collect();
    sent.sort_unstable();
    assert_eq!(sent, ["email", "live"], "nothing is known of a device: {job:#}");
    assert_eq!(daemon.api.get("/v1/status").await.expect(200)["accepted"], 2, "the repeat sent nothing");
}
