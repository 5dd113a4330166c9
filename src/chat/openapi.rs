//! What the chat takes and answers over HTTP, as OpenAPI 3.1: the schemas from the types themselves, the rest beside them.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{
    backend::{ConversationMaking, ConversationRecord, ParticipantsChange, SystemNotice},
    conversations::ConversationShown,
    rest::{BlockView, Editing, ErrorView, Marked, Marking, ROOT, SendRequest, StartRequest, UnreadCount},
    view::MessageView,
};
use crate::model::UserId;

/// Which listener has a route.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Listener {
    Public,
    Admin,
}

/// One method of one path, as far as it is told so far.
struct Operation {
    listener: Listener,
    path: String,
    method: &'static str,
    /// `path` with other words: a name for generated clients.
    id: &'static str,
    summary: &'static str,
    query: &'static [(&'static str, &'static str, &'static str)],
    body: Option<Value>,
    answers: Vec<(u16, &'static str, Option<Value>)>,
}

impl Operation {
    fn public(method: &'static str, path: &str, id: &'static str, summary: &'static str) -> Self {
        Self { path: format!("{ROOT}/{path}/"), ..Self::admin(method, path, id, summary) }.on(Listener::Public)
    }

    fn admin(method: &'static str, path: &str, id: &'static str, summary: &'static str) -> Self {
        let path = format!("/v1/{path}");
        Self { listener: Listener::Admin, path, method, id, summary, query: &[], body: None, answers: Vec::new() }
    }

    fn on(self, listener: Listener) -> Self {
        Self { listener, ..self }
    }

    /// Parameters of the query: name, type, meaning.
    fn asks(self, query: &'static [(&'static str, &'static str, &'static str)]) -> Self {
        Self { query, ..self }
    }

    fn takes(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }

    fn answers(mut self, status: u16, meaning: &'static str, body: Value) -> Self {
        self.answers.push((status, meaning, Some(body)));
        self
    }

    fn answers_nothing(mut self, status: u16, meaning: &'static str) -> Self {
        self.answers.push((status, meaning, None));
        self
    }

    fn document(self) -> Value {
        let is_public = self.listener == Listener::Public;
        let mut parameters: Vec<Value> = in_path(&self.path)
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": parameter_schema(name) }))
            .collect();
        parameters.extend(
            self.query
                .iter()
                .map(|(name, kind, meaning)| json!({ "name": name, "in": "query", "description": meaning, "schema": { "type": kind } })),
        );
        if self.id == "makeConversation" {
            parameters.push(json!({
                "name": "Idempotency-Key", "in": "header", "description": "The same as `key`.", "schema": { "type": "string" },
            }));
        }
        let mut responses = Map::new();
        for (status, meaning, body) in self.answers {
            let mut response = json!({ "description": meaning });
            if let Some(schema) = body {
                response["content"] = json!({ "application/json": { "schema": schema } });
            }
            responses.insert(status.to_string(), response);
        }
        let refused = if is_public { "Refused" } else { "Problem" };
        responses.insert("default".to_owned(), json!({ "$ref": format!("#/components/responses/{refused}") }));
        let security = if is_public { json!([{ "user": [] }]) } else { json!([{}, { "key": [] }]) };
        let mut operation = json!({
            "operationId": self.id,
            "summary": self.summary,
            "tags": [if is_public { "public" } else { "admin" }],
            "security": security,
            "responses": responses,
        });
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        if let Some(schema) = self.body {
            let required = self.id != "markConversationRead";
            operation["requestBody"] = json!({ "required": required, "content": { "application/json": { "schema": schema } } });
        }
        operation
    }
}

fn in_path(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn parameter_schema(name: &str) -> Value {
    if name == "user" { json!({ "type": "string" }) } else { json!({ "type": "integer", "minimum": 1 }) }
}

/// The document.
pub fn openapi() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let (mut answers, mut requests) = (settings.clone().for_serialize().into_generator(), settings.into_generator());
    let operations = public_operations(&mut answers, &mut requests).into_iter().chain(admin_operations(&mut answers, &mut requests));
    let mut paths = Map::new();
    for operation in operations {
        let (path, method) = (operation.path.clone(), operation.method);
        paths.entry(path).or_insert_with(|| json!({}))[method] = operation.document();
    }
    let error = schema::<ErrorView<'_>>(&mut answers);
    let mut schemas = requests.take_definitions(true);
    schemas.extend(answers.take_definitions(true));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tarishi chat",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0 OR MIT" },
            "description": "Conversations over HTTP: for users on the public listener, for backends and operators on the admin listener. Every \
                            public path is there without its last slash too.",
        },
        "servers": [{ "url": "/" }],
        "tags": [
            { "name": "public", "description": "For signed-in users." },
            { "name": "admin", "description": "For backends and operators, on the admin listener." },
        ],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {
                "Refused": {
                    "description": "It was not done: 400 invalid, 401, 403 forbidden, 404 not found, 409 conflict, 422 not readable, 429 with \
                                    `Retry-After`, 503.",
                    "headers": { "Retry-After": { "description": "Seconds to wait.", "schema": { "type": "integer" } } },
                    "content": { "application/json": { "schema": error } },
                },
                "Problem": {
                    "description": "It was not done: problem details (RFC 9457). 409 `chat_off` where there is no chat.",
                    "content": { "application/problem+json": { "schema": problem() } },
                },
            },
            "securitySchemes": {
                "user": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" },
                "key": { "type": "http", "scheme": "bearer", "description": "An API key, where `admin.api_keys` has any." },
            },
        },
    })
}

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

fn list_of(item: &Value) -> Value {
    json!({ "type": "array", "items": item })
}

/// A bare array, or the envelope.
fn either_list_of(item: &Value) -> Value {
    let link = json!({ "type": ["string", "null"] });
    let envelope = json!({
        "type": "object",
        "required": ["count", "next", "previous", "results"],
        "properties": { "count": { "type": "integer" }, "next": link, "previous": link, "results": list_of(item) },
    });
    json!({ "oneOf": [list_of(item), envelope] })
}

fn problem() -> Value {
    let text = json!({ "type": "string" });
    let problem = json!({ "type": "object", "properties": { "path": text, "problem": text, "hint": text } });
    json!({
        "type": "object",
        "required": ["title", "status", "detail", "code"],
        "properties": { "title": text, "status": { "type": "integer" }, "detail": text, "code": text, "problems": list_of(&problem) },
    })
}

const PAGES: &[(&str, &str, &str)] = &[
    ("page", "integer", "A page of the envelope, from 1."),
    ("cursor", "string", "A place in the list, out of `next`; empty for its beginning. Answers with the envelope."),
    ("page_size", "integer", "Up to 200."),
    ("hidden", "boolean", "Those out of sight, instead of those in sight."),
];
const MESSAGE_PAGES: &[(&str, &str, &str)] = &[
    ("before", "integer", "The newest of those before this message."),
    ("after", "integer", "The oldest of those after this message."),
    ("limit", "integer", "Up to 200."),
    ("page", "integer", "A page of the envelope, from 1, the newest first."),
    ("cursor", "string", "A place in the list, out of `next`; empty for the newest. Answers with the envelope."),
];

fn public_operations(answers: &mut SchemaGenerator, requests: &mut SchemaGenerator) -> Vec<Operation> {
    let public = Operation::public;
    let (conversation, message) = (schema::<ConversationShown>(answers), schema::<MessageView>(answers));
    let (read, block, unread) = (schema::<Marked>(answers), schema::<BlockView>(answers), schema::<UnreadCount>(answers));
    let (start, send, edit) = (schema::<StartRequest>(requests), schema::<SendRequest>(requests), schema::<Editing>(requests));
    let own = |path: &str, id, summary| public("post", path, id, summary).answers(200, "As it is now.", conversation.clone());
    let begin = |path: &str, id| {
        let begin = public("post", path, id, "Finds the conversation of two people about a subject, or makes it.").takes(start.clone());
        begin.answers(201, "It is new.", conversation.clone()).answers(200, "It was there.", conversation.clone())
    };
    let edited = |method, id| {
        let edit = public(method, "messages/{id}", id, "Puts another text into one's own message.").takes(edit.clone());
        edit.answers(200, "As it is now.", message.clone())
    };
    let blocking = json!({ "type": "object", "required": ["user_id"], "properties": { "user_id": schema::<UserId>(requests) } });
    vec![
        public("get", "conversations", "listConversations", "One's conversations, the most active first.").asks(PAGES).answers(
            200,
            "A bare array, or with `page` or `cursor` an envelope.",
            either_list_of(&conversation),
        ),
        begin("conversations", "createConversation"),
        begin("conversations/start_conversation", "startConversation"),
        public("get", "conversations/unread_count", "unreadCount", "Unread messages over all conversations in sight.").answers(
            200,
            "How many.",
            unread,
        ),
        public("get", "conversations/{id}", "showConversation", "One of one's conversations.").answers(200, "It.", conversation.clone()),
        public("delete", "conversations/{id}", "leaveConversation", "Leaves it.").answers_nothing(204, "Left."),
        own("conversations/{id}/hide", "hideConversation", "Puts it out of sight until its next message."),
        own("conversations/{id}/unhide", "unhideConversation", "Puts it back in sight."),
        own("conversations/{id}/mute", "muteConversation", "No notices of it any more."),
        own("conversations/{id}/unmute", "unmuteConversation", "Notices again."),
        own("conversations/{id}/rejoin", "rejoinConversation", "Comes back after leaving."),
        public("get", "conversations/{id}/messages", "listMessages", "Its messages, the oldest first.").asks(MESSAGE_PAGES).answers(
            200,
            "A bare array, or with `page` or `cursor` an envelope.",
            either_list_of(&message),
        ),
        public("post", "conversations/{id}/send_message", "sendMessage", "Sends a message.")
            .takes(send)
            .answers(201, "It is stored.", message.clone())
            .answers(200, "Its `client_id` was stored before.", message.clone()),
        public("post", "conversations/{id}/mark_read", "markConversationRead", "Marks it read, up to a message or to the newest.")
            .takes(schema::<Marking>(requests))
            .answers(200, "How far it is read.", read.clone()),
        public("get", "messages/{id}", "showMessage", "A message.").answers(200, "It.", message.clone()),
        edited("patch", "editMessage"),
        edited("put", "replaceMessage"),
        public("delete", "messages/{id}", "deleteMessage", "Deletes one's own message for everyone, or hides one from oneself.")
            .asks(&[("for", "string", "`everyone` (unless said otherwise) or `me`.")])
            .answers_nothing(204, "Gone."),
        public("post", "messages/{id}/mark_read", "markMessageRead", "Marks read what came up to this message.").answers(
            200,
            "How far it is read.",
            read,
        ),
        public("get", "blocks", "listBlocks", "Whom one has blocked.").answers(200, "All of them.", list_of(&block)),
        public("post", "blocks", "block", "Blocks somebody.").takes(blocking).answers(201, "From now on.", block.clone()).answers(
            200,
            "They were.",
            block,
        ),
        public("delete", "blocks/{user}", "unblock", "Takes a block back.").answers_nothing(204, "Taken back."),
    ]
}

fn admin_operations(answers: &mut SchemaGenerator, requests: &mut SchemaGenerator) -> Vec<Operation> {
    let admin = Operation::admin;
    let record = schema::<ConversationRecord>(answers);
    let page = json!({
        "type": "object",
        "required": ["conversations", "next_cursor"],
        "properties": { "conversations": list_of(&record), "next_cursor": { "type": ["string", "null"] } },
    });
    vec![
        admin("get", "conversations", "listUserConversations", "Somebody's conversations, without what is said in them.")
            .asks(&[
                ("user_id", "string", "Whose."),
                ("hidden", "boolean", "Those they have out of sight."),
                ("cursor", "string", "Of the page before."),
                ("limit", "integer", "Up to 200."),
            ])
            .answers(200, "A page.", page),
        admin("post", "conversations", "makeConversation", "Makes a conversation for others.")
            .takes(schema::<ConversationMaking>(requests))
            .answers(201, "It is new.", record.clone())
            .answers(200, "The same key made the same before.", record.clone()),
        admin("get", "conversations/{id}", "showConversationRecord", "A conversation, without what is said in it.").answers(
            200,
            "It.",
            record.clone(),
        ),
        admin("patch", "conversations/{id}/participants", "changeParticipants", "Changes who takes part.")
            .takes(schema::<ParticipantsChange>(requests))
            .answers(200, "As it is now.", record),
        admin("post", "conversations/{id}/notify", "showNotice", "Shows a notice to who has it open.")
            .takes(schema::<SystemNotice>(requests))
            .answers_nothing(202, "It is on its way."),
        admin("delete", "messages/{id}", "takeMessageDown", "Deletes a message for everyone.").answers_nothing(204, "Gone."),
    ]
}
