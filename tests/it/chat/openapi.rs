//! The chat's part of the document of everything over HTTP: that the daemon answers so, in more cases than the document's examples have.

use std::{collections::BTreeSet, process::Command};

use reqwest::Method;
use serde_json::{Value, json};

use super::Conversing;
use crate::support::{Answer, Api, docs, token};

const FILE: &str = "schemas/openapi.json";

/// The document, and which of its operations were asked.
struct Document {
    document: Value,
    asked: BTreeSet<(String, String)>,
}

/// What the document does not name is an error: else a misspelled member would pass.
fn close(schema: &mut Value) {
    if let Some(members) = schema.as_object_mut() {
        if members.get("properties").is_some_and(Value::is_object) {
            members.entry("additionalProperties").or_insert(json!(false));
        }
        members.values_mut().for_each(close);
    } else if let Some(items) = schema.as_array_mut() {
        items.iter_mut().for_each(close);
    }
}

impl Document {
    fn load() -> Self {
        let mut document: Value = serde_json::from_slice(&std::fs::read(docs().join(FILE)).unwrap()).unwrap();
        close(&mut document);
        Self { document, asked: BTreeSet::new() }
    }

    #[track_caller]
    fn check(&self, schema: &Value, value: &Value) {
        let mut schema = schema.clone();
        schema["components"] = self.document["components"].clone();
        let validator = jsonschema::draft202012::options().should_validate_formats(true).build(&schema).unwrap();
        let problems: Vec<String> = validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(problems.is_empty(), "{problems:#?}\n{value:#}");
    }

    /// Asks for what `path` is with `id` in it, and holds both bodies against the document.
    async fn ask(&mut self, api: &Api, operation: &str, id: &Value, body: Value, status: u16) -> Value {
        let (method, path) = operation.split_once(' ').unwrap();
        let (path, query) = path.split_once('?').map_or((path, String::new()), |(path, query)| (path, format!("?{query}")));
        let place = if path.starts_with("/v1/") { path.to_owned() } else { format!("/api/v1/communications{path}") };
        let described = self.document["paths"][&place][method].clone();
        assert!(described.is_object(), "{method} {place} is not in the document");
        let asked = place.replace("{id}", &id.to_string()).replace("{user}", &id.to_string());
        let mut request = api.request(Method::from_bytes(method.to_uppercase().as_bytes()).unwrap(), &format!("{asked}{query}"));
        if !body.is_null() {
            self.check(&described["requestBody"]["content"]["application/json"]["schema"], &body);
            request = request.json(&body);
        }
        let answer = Answer::of(request).await.unwrap();
        let answered = answer.expect(status);
        match &described["responses"][status.to_string()]["content"]["application/json"]["schema"] {
            Value::Null => assert_eq!(answered, Value::Null, "{operation}"),
            schema => self.check(schema, &answered),
        }
        self.asked.insert((place, method.to_owned()));
        answered
    }
}

#[tokio::test]
async fn the_daemon_answers_as_the_document_says() {
    let mut conversing = Conversing::new().with("chat.attachment_hosts", "[\"files.example.com\"]");
    let daemon = conversing.start().await;
    let (asha, juma) = (daemon.public_api().with_bearer(&token("42")), daemon.public_api().with_bearer(&token("43")));
    let (admin, none, null) = (&daemon.api, &json!(0), Value::Null);
    let mut document = Document::load();
    let start = json!({ "agent_id": 43, "agent_name": "Juma", "property_id": "8841", "property_title": "A flat by the sea" });
    let id = document.ask(&asha, "post /conversations/start_conversation/", none, start.clone(), 201).await["id"].clone();
    document.ask(&asha, "post /conversations/", none, start, 200).await;
    let saying = json!({
        "content": "Habari", "client_id": "c1",
        "attachments": [{ "url": "https://files.example.com/a.png", "content_type": "image/png", "size": 7, "name": "a.png" }],
    });
    let message = document.ask(&asha, "post /conversations/{id}/send_message/", &id, saying.clone(), 201).await["id"].clone();
    document.ask(&asha, "post /conversations/{id}/send_message/", &id, saying, 200).await;
    for listing in ["get /conversations/", "get /conversations/?page=1", "get /conversations/?cursor=&hidden=false"] {
        document.ask(&juma, listing, none, null.clone(), 200).await;
    }
    document.ask(&juma, "get /conversations/unread_count/", none, null.clone(), 200).await;
    document.ask(&juma, "get /conversations/{id}/", &id, null.clone(), 200).await;
    document.ask(&juma, "get /conversations/{id}/messages/", &id, null.clone(), 200).await;
    document.ask(&juma, "get /conversations/{id}/messages/?page=1", &id, null.clone(), 200).await;
    document.ask(&juma, "get /messages/{id}/", &message, null.clone(), 200).await;
    document.ask(&juma, "post /messages/{id}/mark_read/", &message, null.clone(), 200).await;
    document.ask(&juma, "post /conversations/{id}/mark_read/", &id, json!({ "message_id": message }), 200).await;
    document.ask(&asha, "patch /messages/{id}/", &message, json!({ "text": "Habari yako" }), 200).await;
    document.ask(&asha, "put /messages/{id}/", &message, json!({ "content": "Habari za leo" }), 200).await;
    document.ask(&juma, "delete /messages/{id}/?for=me", &message, null.clone(), 204).await;
    for change in ["hide", "unhide", "mute", "unmute"] {
        document.ask(&juma, &format!("post /conversations/{{id}}/{change}/"), &id, null.clone(), 200).await;
    }
    document.ask(&juma, "delete /conversations/{id}/", &id, null.clone(), 204).await;
    document.ask(&juma, "post /conversations/{id}/rejoin/", &id, null.clone(), 200).await;
    document.ask(&juma, "post /blocks/", none, json!({ "user_id": 42 }), 201).await;
    document.ask(&juma, "post /blocks/", none, json!({ "user_id": "42" }), 200).await;
    document.ask(&juma, "get /blocks/", none, null.clone(), 200).await;
    document.ask(&juma, "delete /blocks/{user}/", &json!(42), null.clone(), 204).await;

    let making =
        json!({ "key": "order-1", "participants": [{ "user_id": "42" }, { "user_id": 44, "name": "Neema" }], "metadata": { "order": 1 } });
    let made = document.ask(admin, "post /v1/conversations", none, making.clone(), 201).await["id"].clone();
    document.ask(admin, "post /v1/conversations", none, making, 200).await;
    document.ask(admin, "get /v1/conversations?user_id=42", none, null.clone(), 200).await;
    document.ask(admin, "get /v1/conversations/{id}", &id, null.clone(), 200).await;
    let change = json!({ "add": [{ "user_id": "43" }], "remove": ["44"], "rename": [{ "user_id": 42, "name": "Asha" }] });
    document.ask(admin, "patch /v1/conversations/{id}/participants", &made, change, 200).await;
    document.ask(admin, "post /v1/conversations/{id}/notify", &made, json!({ "message": "Karibu", "severity": "success" }), 202).await;
    document.ask(admin, "delete /v1/messages/{id}", &message, null.clone(), 204).await;
    document.ask(admin, "post /v1/chat/rotate-keys", none, json!({}), 200).await;

    let refused = asha.get("/api/v1/communications/conversations/999/").await.expect(404);
    document.check(&document.document["components"]["responses"]["Refused"]["content"]["application/json"]["schema"], &refused);
    let problem = admin.post("/v1/conversations", &json!({ "participants": [] })).await.expect_problem(422, "invalid");
    document.check(&document.document["components"]["responses"]["Problem"]["content"]["application/problem+json"]["schema"], &problem);
    let described: BTreeSet<(String, String)> = document.document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| methods.as_object().unwrap().iter().map(move |(method, operation)| (path, method, operation)))
        .filter(|(path, _, operation)| operation["tags"][0].as_str().unwrap().starts_with("Chat") && !path.starts_with("/ws/"))
        .map(|(path, method, _)| (path.clone(), method.clone()))
        .collect();
    assert_eq!(document.asked, described, "not asked, or not described");
}

/// The commands of the documentation, each with what it says that they print.
fn examples() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(docs().join("chat.md")).unwrap();
    let mut examples: Vec<(String, String)> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(command) = line.strip_prefix("$ curl ") else {
            if line.starts_with('{')
                && let Some((_, printed)) = examples.last_mut()
            {
                line.clone_into(printed);
            }
            continue;
        };
        let mut command = format!("curl {command}");
        while let Some(begun) = command.strip_suffix('\\') {
            command = format!("{begun} {}", lines.next().unwrap().trim());
        }
        examples.push((command, String::new()));
    }
    examples
}

#[tokio::test]
async fn the_examples_of_the_documentation_are_true() {
    let mut conversing = Conversing::new();
    let daemon = conversing.start().await;
    let examples = examples();
    assert_eq!(examples.len(), 7, "{examples:?}");
    for (command, expected) in examples {
        let here = command
            .replace("localhost:8000", &daemon.public.to_string())
            .replace("localhost:8001", &daemon.admin.to_string())
            .replace("$TOKEN", &token("42"));
        let output = Command::new("sh").args(["-c", &here]).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{command}: {printed}");
        let mut rest = printed.as_str();
        for part in expected.split('…') {
            let (_, after) = rest.split_once(part).unwrap_or_else(|| panic!("{command}: no {part} in {printed}"));
            rest = after;
        }
    }
}
