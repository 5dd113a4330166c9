//! The document of everything over HTTP: that it is the one the program prints and serves, that a validator takes it, that it names what is
//! served and nothing else, and that its examples are true.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use reqwest::{
    Method,
    header::{ALLOW, CONTENT_TYPE},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    chat::Conversing,
    support::{Answer, Api, Daemon, docs, job, python, recipient},
};

const FILE: &str = "schemas/openapi.json";
const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/openapi/answers.json");
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// Every operation whose example is asked, in an order in which each finds what it needs.
const ORDER: &[&str] = &[
    "postJobs",
    "showJob",
    "listDeliveries",
    "listTemplates",
    "previewTemplate",
    "listOutbox",
    "showOutboxHtml",
    "cancelJob",
    "putUser",
    "patchUser",
    "showUser",
    "deleteUser",
    "suppress",
    "listSuppressions",
    "unsuppress",
    "revoke",
    "listRevocations",
    "takeRevocationBack",
    "status",
    "audit",
    "livez",
    "readyz",
    "metrics",
    "developmentToken",
    "openapi",
    "docs",
    "docsStyle",
    "console",
    "consoleStyle",
    "consoleScript",
    "pageScript",
    "templatesPage",
    "templatesStyle",
    "templatesScript",
    "createConversation",
    "startConversation",
    "listConversations",
    "unreadCount",
    "showConversation",
    "sendMessage",
    "listMessages",
    "showMessage",
    "editMessage",
    "replaceMessage",
    "markMessageRead",
    "markConversationRead",
    "hideConversation",
    "unhideConversation",
    "muteConversation",
    "unmuteConversation",
    "block",
    "listBlocks",
    "unblock",
    "showConversationRecord",
    "listUserConversations",
    "makeConversation",
    "changeParticipants",
    "showNotice",
    "rotateKeys",
    "openChatSocket",
    "deleteMessage",
    "takeMessageDown",
    "leaveConversation",
    "rejoinConversation",
    "makeTicket",
    "openNotificationsSocket",
    "openNotificationsEvents",
    "listInbox",
    "showInboxItem",
    "changeInbox",
    "deleteInboxItem",
    "listTopic",
    "listNotifications",
    "showNotification",
    "updateNotification",
    "replaceNotification",
    "deleteNotification",
    "registerPushToken",
    "forgetPushToken",
];
/// Their examples would need a provider's signature or a link out of a mail; `providers::callbacks` asks them.
const SIGNED: [&str; 4] = ["sendgridEvents", "twilioStatus", "askUnsubscribe", "unsubscribe"];

fn document() -> Value {
    serde_json::from_slice(&std::fs::read(docs().join(FILE)).unwrap()).unwrap()
}

/// Every operation, with its path and method.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut found = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        found.extend(methods.as_object().unwrap().iter().map(|(method, operation)| (path.clone(), method.clone(), operation.clone())));
    }
    found
}

/// With a chat, and with tokens for whoever asks.
async fn start() -> (Conversing, Daemon) {
    let mut conversing = Conversing::new();
    conversing.setup = conversing.setup.with_command(&["dev", "--log-format", "json"]);
    let daemon = conversing.start().await;
    (conversing, daemon)
}

/// A token of user 42, as `tarishi dev` gives to whoever asks.
async fn token(daemon: &Daemon) -> String {
    daemon.api.get("/v1/dev/token?user=42").await.expect(200)["token"].as_str().unwrap().to_owned()
}

#[test]
fn the_document_is_the_one_the_program_prints() {
    let printed = Command::new(env!("CARGO_BIN_EXE_tarishi")).args(["schema", "openapi"]).output().unwrap();
    let kept = std::fs::read(docs().join(FILE)).unwrap();
    assert!(printed.stdout == kept, "out of date: tarishi schema openapi > docs/{FILE}");
}

#[tokio::test]
async fn the_document_is_good_openapi() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/validate_openapi.py");
    let process = python(&[script.to_owned(), docs().join(FILE).display().to_string()], &BTreeMap::new());
    let ended = process.end().await;
    assert_eq!((ended.code, process.lines()), (Some(0), vec![format!("{} operations", ORDER.len() + SIGNED.len())]));
}

#[tokio::test]
async fn each_listener_tells_its_own_half() {
    let (_setup, daemon) = start().await;
    let kept = document();
    assert_eq!(daemon.api.get("/openapi.json").await.expect(200), kept);
    let public = daemon.public_api().get("/openapi.json").await.expect(200);
    let own: Vec<_> = operations(&kept).into_iter().filter(|(_, _, operation)| operation["x-listener"] != "admin").collect();
    assert_eq!(operations(&public), own);
    let used = public.to_string();
    for name in public["components"]["schemas"].as_object().unwrap().keys() {
        assert!(used.contains(&format!("\"#/components/schemas/{name}\"")), "{name} is of the other listener");
    }
}

/// The paths of every `.route(…)` of the source, those made of constants included.
fn routed() -> BTreeSet<String> {
    const ROOT: &str = "/api/v1/communications";
    let mut found = BTreeSet::new();
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            // `tarishi mock` plays others; `tarishi send --wait` has a listener only in its test.
            let text = path.display().to_string();
            if path.extension().is_none_or(|end| end != "rs") || text.contains("/src/mock/") || text.ends_with("/tests.rs") {
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            let shipped = source.split("#[cfg(test)]").next().unwrap();
            for rest in shipped.split(".route(").skip(1) {
                let argument = rest.split(',').next().unwrap().trim();
                match argument {
                    "sendgrid::PATH" => found.insert("/webhooks/sendgrid".to_owned()),
                    "twilio::PATH" => found.insert("/webhooks/twilio".to_owned()),
                    "&format!(\"{ROOT}{end}\")" => found.insert(format!("{ROOT}/notifications")),
                    "&format!(\"{ROOT}/{{id}}{end}\")" => found.insert(format!("{ROOT}/notifications/{{id}}")),
                    "&format!(\"{ROOT}/{path}\")" | "&format!(\"{ROOT}/{path}/\")" => true,
                    literal => {
                        let path = literal.strip_prefix('"').and_then(|literal| literal.strip_suffix('"'));
                        let path = path.unwrap_or_else(|| panic!("{text}: which path is {literal}?"));
                        found.insert(path.to_owned())
                    }
                };
            }
            if text.ends_with("/chat/rest/mod.rs") {
                let rows = shipped.lines().filter_map(|line| line.trim().strip_prefix("(\"")?.split_once('"'));
                found.extend(rows.map(|(path, _)| format!("{ROOT}/{path}")));
            }
        }
    }
    found
}

#[test]
fn every_route_is_in_the_document() {
    let bare = |path: &str| if path.len() > 1 { path.trim_end_matches('/').to_owned() } else { path.to_owned() };
    let documented: BTreeSet<String> = operations(&document()).iter().map(|(path, _, _)| bare(path)).collect();
    let routed: BTreeSet<String> = routed().iter().map(|path| bare(path)).collect();
    assert_eq!(routed, documented);
}

#[tokio::test]
async fn every_operation_is_served_and_no_method_beside_them() {
    let (_setup, daemon) = start().await;
    let public = daemon.public_api().with_bearer(&token(&daemon).await);
    let document = document();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let methods = methods.as_object().unwrap();
        let listener = methods.values().next().unwrap()["x-listener"].as_str().unwrap();
        let api = if listener == "public" { &public } else { &daemon.api };
        // Nothing is there by this name, so that nothing is done to it.
        let asked = path.replace("{change}", "read").replace("{topic}", "*").replace("{id}", "999999").replace("{token}", "x");
        let asked = asked.replace("{user}", "999999");
        for method in METHODS {
            // Their router takes any method and says itself that it is none for them.
            if method != "get" && path.starts_with("/ws/") || method == "get" && path.starts_with("/sse/") {
                continue;
            }
            let request = api.request(Method::from_bytes(method.to_uppercase().as_bytes()).unwrap(), &asked);
            let answer = Answer::of(request.header(CONTENT_TYPE, "application/json").body("[]")).await.unwrap();
            assert_eq!(answer.status == 405, !methods.contains_key(method), "{method} {asked}: {} {}", answer.status, answer.text);
            assert!(answer.status != 405 || answer.headers.contains_key(ALLOW), "{method} {asked}");
        }
    }
}

/// What the document does not name is an error: else a misspelled member would pass. Where an object is told in parts, each part knows only
/// its own members.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            let is_object = members.get("properties").is_some_and(Value::is_object);
            let is_in_parts = ["allOf", "oneOf", "anyOf"].iter().any(|parts| members.contains_key(*parts));
            if is_object && !is_in_parts {
                members.entry("additionalProperties").or_insert(json!(false));
            }
            for (name, member) in members.iter_mut().filter(|(name, _)| *name != "example") {
                if is_object && matches!(name.as_str(), "allOf" | "oneOf" | "anyOf") {
                    member.as_array_mut().unwrap().iter_mut().for_each(|part| close(&mut part["properties"]));
                } else {
                    close(member);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

#[track_caller]
fn check(document: &Value, schema: &Value, value: &Value, what: &str) {
    let mut schema = schema.clone();
    schema["components"] = document["components"].clone();
    let validator = jsonschema::draft202012::options().should_validate_formats(true).build(&schema).unwrap();
    let problems: Vec<String> = validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(problems.is_empty(), "{what}: {problems:#?}\n{value:#}");
}

/// Asks a socket or a stream to open, and gives the status.
async fn open(daemon: &Daemon, path: &str) -> u16 {
    let mut stream = TcpStream::connect(daemon.public).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        daemon.public,
        token(daemon).await
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0, "{path}");
    }
    String::from_utf8_lossy(&head).split(' ').nth(1).unwrap().parse().unwrap()
}

/// Asks for an operation as its example has it; gives the body of the answer.
async fn ask(daemon: &Daemon, document: &Value, place: &(String, String, Value)) -> Value {
    let (path, method, operation) = place;
    let (mut asked, mut query) = (path.clone(), Vec::new());
    for parameter in operation["parameters"].as_array().into_iter().flatten().filter(|parameter| !parameter["example"].is_null()) {
        let value = parameter["example"].as_str().map_or_else(|| parameter["example"].to_string(), str::to_owned);
        match parameter["in"].as_str() {
            Some("path") => asked = asked.replace(&format!("{{{}}}", parameter["name"].as_str().unwrap()), &value),
            Some("query") => query.push(format!("{}={value}", parameter["name"].as_str().unwrap())),
            place => panic!("{path}: an example in {place:?}"),
        }
    }
    if !query.is_empty() {
        asked = format!("{asked}?{}", query.join("&"));
    }
    let (status, described) = operation["responses"].as_object().unwrap().iter().find(|(_, answer)| is_first(operation, answer)).unwrap();
    let status: u16 = status.parse().unwrap();
    if status == 101 || asked.starts_with("/sse/") {
        assert_eq!(open(daemon, &asked).await, status, "{asked}");
        return Value::Null;
    }
    let is_public = operation["x-listener"] == "public";
    let api: Api = if is_public { daemon.public_api().with_bearer(&token(daemon).await) } else { daemon.api.clone() };
    let mut request = api.request(Method::from_bytes(method.to_uppercase().as_bytes()).unwrap(), &asked);
    if let Some((media_type, body)) = operation["requestBody"]["content"].as_object().and_then(|content| content.iter().next()) {
        assert_eq!(media_type, "application/json");
        check(document, &body["schema"], &body["example"], &format!("the example of {method} {path}"));
        request = request.json(&body["example"]);
    }
    let answer = Answer::of(request).await.unwrap();
    assert_eq!(answer.status, status, "{method} {asked}: {}", answer.text);
    match described["content"].as_object().and_then(|content| content.iter().next()) {
        None => assert_eq!(answer.text, "", "{method} {asked}"),
        Some((media_type, content)) => {
            assert_eq!(answer.header("content-type").split(';').next().unwrap(), media_type, "{method} {asked}");
            if media_type == "application/json" {
                check(document, &content["schema"], &answer.body, &format!("{method} {asked}"));
                return answer.body;
            }
        }
    }
    Value::Null
}

/// The answer to the example: of several good ones, where something is new.
fn is_first(operation: &Value, answer: &Value) -> bool {
    let good = operation["responses"].as_object().unwrap().iter().filter(|(status, _)| status.starts_with(['1', '2']));
    good.max_by_key(|(status, _)| (*status).clone()).is_some_and(|(_, best)| best == answer)
}

#[tokio::test]
async fn the_examples_are_true() {
    let (_setup, daemon) = start().await;
    let mut document = document();
    let shown = document.clone();
    close(&mut document);
    let by_id: BTreeMap<String, (String, String, Value)> =
        operations(&document).into_iter().map(|place| (place.2["operationId"].as_str().unwrap().to_owned(), place)).collect();
    let known: BTreeSet<&str> = by_id.keys().map(String::as_str).collect();
    let asked: BTreeSet<&str> = ORDER.iter().chain(&SIGNED).copied().collect();
    assert_eq!(known, asked, "not asked, or not in the document");
    let mut recorded = serde_json::Map::new();
    for id in ORDER {
        let answer = ask(&daemon, &document, &by_id[*id]).await;
        if *id == "postJobs" {
            daemon.finished("order-8841-shipped").await;
            daemon.api.post("/v1/jobs", &job("another", &[recipient("42")], &["live"])).await.expect(202);
            daemon.finished("another").await;
        }
        if !answer.is_null() && *id != "openapi" {
            // What opens something is not shown.
            let mut answer = answer;
            for name in ["token", "ticket"].iter().filter(|_| matches!(*id, "developmentToken" | "makeTicket")) {
                if let Some(secret) = answer.get_mut(*name) {
                    *secret = json!("…");
                }
            }
            recorded.insert((*id).to_owned(), answer);
        }
    }
    if std::env::var_os("TARISHI_RECORD").is_some() {
        std::fs::write(RECORDED, format!("{}\n", serde_json::to_string_pretty(&Value::Object(recorded)).unwrap())).unwrap();
        return;
    }
    // What is shown as an answer is one of the same kind as today's.
    let mut missing = Vec::new();
    for (path, method, operation) in operations(&shown) {
        let id = operation["operationId"].as_str().unwrap();
        for (_, answer) in operation["responses"].as_object().unwrap().iter().filter(|(_, answer)| is_first(&operation, answer)) {
            match &answer["content"]["application/json"]["example"] {
                Value::Null if recorded.contains_key(id) => missing.push(id.to_owned()),
                Value::Null => {}
                example => {
                    let schema = &by_id[id].2["responses"];
                    let (_, described) = schema.as_object().unwrap().iter().find(|(_, answer)| is_first(&by_id[id].2, answer)).unwrap();
                    check(&document, &described["content"]["application/json"]["schema"], example, &format!("shown for {method} {path}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "no answer shown for {missing:?}; run this test with TARISHI_RECORD=1, then make docs/{FILE} again");
}

/// An error on our own routes, and below the older ones.
#[track_caller]
fn check_error(path: &str, answer: Answer, status: u16, code: Option<&str>) {
    assert_eq!(answer.status, status, "{path}: {}", answer.text);
    if path.starts_with("/unsubscribe/") && answer.header("content-type").starts_with("text/html") {
        return;
    }
    let found = answer.body["code"].as_str().unwrap_or_else(|| panic!("{path}: no code in {}", answer.text)).to_owned();
    assert!(code.is_none_or(|code| code == found), "{path}: {found}, not {code:?}: {}", answer.text);
    if path.starts_with("/api/v1/communications/") {
        assert_eq!(answer.header("content-type"), "application/json", "{path}");
        assert!(answer.body["error"].is_string(), "{path}: {}", answer.text);
    } else {
        answer.expect_problem(status, &found);
    }
}

#[tokio::test]
async fn every_error_is_problem_details() {
    let (_conversing, daemon) = start().await;
    let (nobody, public) = (daemon.public_api(), daemon.public_api().with_bearer(&token(&daemon).await));
    let document = document();
    let asked = |path: &str| path.replace("{change}", "read").replace("{topic}", "*").replace("{token}", "x").replace("{user}", "9");
    for (path, method, operation) in operations(&document) {
        let asked = asked(&path).replace("{id}", "999999");
        let is_public = operation["x-listener"] == "public";
        let api = if is_public { &public } else { &daemon.api };
        let method_of = |name: &str| Method::from_bytes(name.to_uppercase().as_bytes()).unwrap();
        if !path.starts_with("/ws/") {
            check_error(&asked, Answer::of(api.request(Method::TRACE, &asked)).await.unwrap(), 405, Some("method_not_allowed"));
        }
        // Nobody is signed in: sockets are refused before they are sockets, the others with 401.
        let needs_user = operation["security"][0].get("user").is_some();
        if needs_user {
            let refused = Answer::of(nobody.request(method_of(&method), &asked)).await.unwrap();
            let status = refused.status;
            assert!([401, 403, 426].contains(&status), "{method} {path}: {status}");
            check_error(&asked, refused, status, None);
        }
        // What is no JSON, and what is too much of it.
        let takes_json = operation["requestBody"]["content"].get("application/json").is_some() && !path.starts_with("/webhooks/");
        if takes_json {
            let broken = api.request(method_of(&method), &asked).header(CONTENT_TYPE, "application/json").body("{\"a\":");
            let answer = Answer::of(broken).await.unwrap();
            // Where the body does not matter, or what it is about is looked for first.
            let status = answer.status;
            if operation["operationId"] != "rotateKeys" {
                assert!([400, 404, 422].contains(&status), "{method} {path}: {status} {}", answer.text);
                check_error(&asked, answer, status, None);
            }
            let huge = api.request(method_of(&method), &asked).header(CONTENT_TYPE, "application/json").body(vec![b' '; 20 << 20]);
            // The daemon may close before all of it is sent; then nothing can be read.
            if let Ok(answer) = Answer::of(huge).await
                && operation["operationId"] != "rotateKeys"
            {
                let status = answer.status;
                assert!([404, 413].contains(&status), "{method} {path}: {status} {}", answer.text);
                check_error(&asked, answer, status, None);
            }
        }
        if !is_public && method != "get" && method != "delete" {
            let plain = api.request(method_of(&method), &asked).header(CONTENT_TYPE, "text/plain").body("{}");
            check_error(&asked, Answer::of(plain).await.unwrap(), 415, Some("not_json"));
        }
    }
    check_error("/v1/jobs/", daemon.api.get("/v1/jobs/%ff").await, 400, Some("invalid"));
    for api in [&daemon.api, &public] {
        check_error("/nothing/here", api.get("/nothing/here").await, 404, Some("not_found"));
    }
    check_error("/", daemon.api.with_header("origin", "https://evil.example").get("/v1/status").await, 403, Some("origin_not_allowed"));
    check_error("/", daemon.api.with_header("host", "evil.example").get("/v1/status").await, 421, Some("host_not_allowed"));
    check_error("/", daemon.api.get("/v1/outbox/x/html").await, 422, Some("invalid"));
    check_error("/", public.get("/v1/inbox/items/x").await, 400, Some("invalid"));
    check_error("/", public.post("/webhooks/sendgrid", &json!([])).await, 403, None);
    check_error("/", daemon.api.get("/v1/deliveries?colour=red").await, 422, Some("invalid"));
}
