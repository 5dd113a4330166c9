//! The targets of `fuzz/` with made-up input, at every test run: no panic, and bounded memory, whatever comes in.

#[path = "../../fuzz/targets.rs"]
mod targets;

use std::fs;

use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::{Map, Value, json};

use crate::support::is_long;

/// Memory the whole of a test may take, in KiB: what one rendering or decoding may hold, and the templates themselves.
const PEAK_LIMIT: u64 = 256 * 1024;
/// What jobs and templates call things, so that made-up data is also looked at.
const NAMES: [&str; 22] = [
    "v",
    "id",
    "template",
    "content",
    "to",
    "topic",
    "channels",
    "data",
    "user_id",
    "email",
    "phone",
    "push_tokens",
    "locale",
    "title",
    "body",
    "message",
    "url",
    "text",
    "number",
    "list",
    "object",
    "sender_name",
];
/// Texts that mean something to somebody on the way.
const TEXTS: [&str; 16] = [
    "",
    "generic",
    "email",
    "42",
    "-1",
    "2026-01-15T10:30:00Z",
    "2026-13-45",
    "+255712345678",
    "asha@example.com",
    "</p><script>",
    "{{ 7 * 7 }}",
    "javascript:x",
    "a\r\nb",
    "\u{202e}x\u{2066}",
    "😀\u{200d}",
    "1e400",
];

fn check(target: fn(&[u8]), input: impl Strategy<Value = Vec<u8>>) {
    let cases = if is_long() { 200_000 } else { 2_000 };
    let mut runner = TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() });
    let result = runner.run(&input, |bytes| {
        target(&bytes);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let peak = peak_memory();
    assert!(peak <= PEAK_LIMIT, "{peak} KiB at the peak");
}

/// Most that this process has held at once, in KiB. Tests run in processes of their own.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(&TEXTS[..]).prop_map(str::to_owned),
        ".{0,40}",
        (prop::sample::select(&TEXTS[..]), 0..5_000_usize).prop_map(|(text, times)| text.repeat(times)),
    ]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![4 => prop::sample::select(&NAMES[..]).prop_map(str::to_owned), 1 => text()]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::vec((name(), inner), 0..8).prop_map(|members| members.into_iter().collect::<Map<_, _>>().into()),
        ]
    })
}

fn object() -> impl Strategy<Value = Value> {
    prop::collection::vec((name(), value()), 0..12).prop_map(|members| members.into_iter().collect::<Map<_, _>>().into())
}

/// A good job in which one thing is another.
fn nearly_a_job() -> impl Strategy<Value = Value> {
    let job = json!({
        "v": 1, "id": "order-8841-shipped", "template": "generic", "data": { "title": "a", "message": "b" }, "priority": "high",
        "to": [{ "user_id": "42", "email": "asha@example.com", "phone": "+255712345678", "push_tokens": ["t"], "locale": "sw" }],
        "channels": ["live", "push", "email"], "send_at": "2026-01-15T10:30:00Z", "collapse_key": "c", "metadata": { "tenant": "t" },
    });
    (prop::sample::select(vec!["", "/id", "/v", "/to", "/to/0", "/to/0/user_id", "/channels/1", "/data", "/send_at", "/metadata"]), value())
        .prop_map(move |(place, value)| {
            let mut job = job.clone();
            *job.pointer_mut(place).unwrap() = value;
            job
        })
}

#[test]
fn any_bytes_are_jobs_or_refused_with_reasons() {
    let bytes = |document: Value| document.to_string().into_bytes();
    let torn = (nearly_a_job(), any::<prop::sample::Index>()).prop_map(move |(job, at)| {
        let mut bytes = job.to_string().into_bytes();
        bytes.truncate(at.index(bytes.len() + 1));
        bytes
    });
    let input = prop_oneof![
        4 => nearly_a_job().prop_map(bytes),
        2 => prop::collection::vec(nearly_a_job(), 0..4).prop_map(move |jobs| bytes(jobs.into())),
        2 => object().prop_map(bytes),
        1 => torn,
        1 => prop::collection::vec(any::<u8>(), 0..2_000),
    ];
    check(targets::decode, input);
}

#[test]
fn any_data_renders_within_its_limits_or_is_refused() {
    let data = prop_oneof![3 => object().prop_map(|data| data.to_string()), 1 => text()];
    let input = (any::<[u8; 3]>(), data).prop_map(|(choice, data)| [choice.as_slice(), data.as_bytes()].concat());
    check(targets::render, input);
}
