//! One method of one path.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::rename;

/// Which listener has a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    Public,
    Admin,
    Both,
}

/// How it is told that something was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Problem details (RFC 9457).
    Problem,
    /// As clients of the replaced system read it.
    Refused,
    /// A page for people.
    Page,
}

/// Name, type and meaning of each.
pub type Parameters = &'static [(&'static str, &'static str, &'static str)];

/// A media type, and the schema of what is in it.
type Content = (&'static str, Value);
/// A status, what it means, and what it brings.
type Answer = (u16, &'static str, Option<Content>);

/// One method of one path, as far as it is told so far.
#[derive(Debug)]
pub struct Operation {
    listener: Listener,
    path: String,
    method: &'static str,
    id: &'static str,
    summary: &'static str,
    tag: &'static str,
    security: Value,
    refusal: Refusal,
    query: Parameters,
    headers: Parameters,
    body: Option<Content>,
    body_may_be_left_out: bool,
    answers: Vec<Answer>,
    given: Vec<(&'static str, Value)>,
    example: Option<Value>,
}

impl Operation {
    /// On the admin listener. `id` is a name for generated clients.
    pub fn admin(method: &'static str, path: impl Into<String>, id: &'static str, summary: &'static str) -> Self {
        Self {
            listener: Listener::Admin,
            path: path.into(),
            method,
            id,
            summary,
            tag: "Daemon",
            security: json!([{}, { "key": [] }]),
            refusal: Refusal::Problem,
            query: &[],
            headers: &[],
            body: None,
            body_may_be_left_out: false,
            answers: Vec::new(),
            given: Vec::new(),
            example: None,
        }
    }

    /// On the public listener, for a signed-in user.
    pub fn public(method: &'static str, path: impl Into<String>, id: &'static str, summary: &'static str) -> Self {
        Self { listener: Listener::Public, security: json!([{ "user": [] }]), ..Self::admin(method, path, id, summary) }
    }

    pub fn on(self, listener: Listener) -> Self {
        Self { listener, ..self }
    }

    /// The heading it stands under.
    pub fn under(self, tag: &'static str) -> Self {
        Self { tag, ..self }
    }

    /// For anybody.
    pub fn open(self) -> Self {
        Self { security: json!([{}]), ..self }
    }

    /// Opens with a ticket too.
    pub fn or_ticket(self) -> Self {
        Self { security: json!([{ "user": [] }, { "ticket": [] }]), ..self }
    }

    pub fn refuses_with(self, refusal: Refusal) -> Self {
        Self { refusal, ..self }
    }

    pub fn asks(self, query: Parameters) -> Self {
        Self { query, ..self }
    }

    pub fn with_headers(self, headers: Parameters) -> Self {
        Self { headers, ..self }
    }

    pub fn takes(self, body: Value) -> Self {
        self.takes_as("application/json", body)
    }

    pub fn takes_as(self, media_type: &'static str, body: Value) -> Self {
        Self { body: Some((media_type, body)), ..self }
    }

    pub fn body_may_be_left_out(self) -> Self {
        Self { body_may_be_left_out: true, ..self }
    }

    pub fn answers(self, status: u16, meaning: &'static str, body: Value) -> Self {
        self.answers_as(status, meaning, "application/json", body)
    }

    pub fn answers_as(mut self, status: u16, meaning: &'static str, media_type: &'static str, body: Value) -> Self {
        self.answers.push((status, meaning, Some((media_type, body))));
        self
    }

    pub fn answers_text(self, status: u16, meaning: &'static str, media_type: &'static str) -> Self {
        self.answers_as(status, meaning, media_type, json!({ "type": "string" }))
    }

    pub fn answers_nothing(mut self, status: u16, meaning: &'static str) -> Self {
        self.answers.push((status, meaning, None));
        self
    }

    /// A parameter's value in the example; those of the path need one.
    pub fn given(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.given.push((name, value.into()));
        self
    }

    /// The body of the example.
    pub fn example(self, body: Value) -> Self {
        Self { example: Some(body), ..self }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn method(&self) -> &'static str {
        self.method
    }

    pub(super) fn tag(&self) -> &'static str {
        self.tag
    }

    fn parameters(&self) -> Vec<Value> {
        let in_path = in_path(&self.path).map(|name| {
            let kind = match self.value_of(name) {
                Some(Value::Number(_)) => json!({ "type": "integer", "minimum": 1 }),
                _ => json!({ "type": "string" }),
            };
            json!({ "name": name, "in": "path", "required": true, "schema": kind })
        });
        let others = [("query", self.query), ("header", self.headers)].into_iter().flat_map(|(place, parameters)| {
            parameters
                .iter()
                .map(move |(name, kind, meaning)| json!({ "name": name, "in": place, "description": meaning, "schema": { "type": kind } }))
        });
        let mut parameters: Vec<Value> = in_path.chain(others).collect();
        for parameter in &mut parameters {
            if let Some(value) = self.value_of(parameter["name"].as_str().unwrap_or_default()) {
                parameter["example"] = value.clone();
            }
        }
        parameters
    }

    fn value_of(&self, name: &str) -> Option<&Value> {
        self.given.iter().find_map(|(given, value)| (*given == name).then_some(value))
    }

    pub(super) fn document(self, recorded: &Map<String, Value>, renamed: &BTreeMap<String, String>) -> Value {
        let parameters = self.parameters();
        let mut responses = Map::new();
        for (index, (status, meaning, body)) in self.answers.into_iter().enumerate() {
            let mut response = json!({ "description": meaning });
            if let Some((media_type, schema)) = body {
                response["content"] = json!({ media_type: { "schema": schema } });
                // The example is answered as the first one says.
                if let Some(answer) = recorded.get(self.id).filter(|_| index == 0) {
                    response["content"][media_type]["example"] = answer.clone();
                }
            }
            responses.insert(status.to_string(), response);
        }
        let refusal = format!("#/components/responses/{:?}", self.refusal);
        responses.insert("default".to_owned(), json!({ "$ref": refusal }));
        let mut operation = json!({
            "operationId": self.id,
            "summary": self.summary,
            "tags": [self.tag],
            "x-listener": format!("{:?}", self.listener).to_lowercase(),
            "security": self.security,
            "responses": responses,
        });
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        if let Some((media_type, mut schema)) = self.body {
            rename(&mut schema, renamed);
            operation["requestBody"] = json!({ "required": !self.body_may_be_left_out, "content": { media_type: { "schema": schema } } });
            if let Some(example) = self.example {
                operation["requestBody"]["content"][media_type]["example"] = example;
            }
        }
        operation
    }
}

fn in_path(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}
