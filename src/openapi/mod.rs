//! The builder of our OpenAPI 3.1 document. Each module with routes says beside them what they take and answer; schemas come from the
//! types themselves. Nothing here knows a route.

mod operation;

use std::collections::{BTreeMap, BTreeSet};

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

pub use self::operation::{Listener, Operation, Parameters, Refusal};
use crate::model::Problem;

/// Where schemas are kept in the document.
const DEFINITIONS: &str = "/components/schemas";
/// What the daemon answered to the examples, by operation. A test asks again, and holds these and the new answers against the schemas.
const ANSWERS: &str = include_str!("answers.json");

/// Collects the schemas of types: what is read and what is written may differ, as a member with a default is always written.
#[derive(Debug)]
pub struct Schemas {
    answers: SchemaGenerator,
    requests: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = DEFINITIONS.into();
            settings.meta_schema = None;
        });
        Self { answers: settings.clone().for_serialize().into_generator(), requests: settings.into_generator() }
    }

    /// Of a type that is answered.
    pub fn answer<T: JsonSchema>(&mut self) -> Value {
        self.answers.subschema_for::<T>().to_value()
    }

    /// Of a type that is sent to us.
    pub fn request<T: JsonSchema>(&mut self) -> Value {
        self.requests.subschema_for::<T>().to_value()
    }

    /// Of all types, and the names under which requests find theirs where answers have another of the same name.
    fn definitions(mut self) -> (Map<String, Value>, BTreeMap<String, String>) {
        let (mut definitions, requests) = (self.answers.take_definitions(true), self.requests.take_definitions(true));
        let renamed: BTreeMap<String, String> = requests
            .iter()
            .filter(|(name, schema)| definitions.get(*name).is_some_and(|answered| answered != *schema))
            .map(|(name, _)| (format!("#{DEFINITIONS}/{name}"), format!("{name}Sent")))
            .collect();
        for (name, mut schema) in requests {
            let place = format!("#{DEFINITIONS}/{name}");
            rename(&mut schema, &renamed);
            definitions.insert(renamed.get(&place).cloned().unwrap_or(name), schema);
        }
        (definitions, renamed)
    }
}

/// Points references to the names that requests' schemas have.
fn rename(schema: &mut Value, renamed: &BTreeMap<String, String>) {
    match schema {
        Value::Object(members) => {
            if let Some(Value::String(place)) = members.get_mut("$ref")
                && let Some(name) = renamed.get(place)
            {
                *place = format!("#{DEFINITIONS}/{name}");
            }
            members.values_mut().for_each(|member| rename(member, renamed));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, renamed)),
        _ => {}
    }
}

/// Says what some routes take and answer.
pub type Describe = fn(&mut Schemas) -> Vec<Operation>;

/// The document of these routes.
pub fn document(describe: &[Describe]) -> Value {
    let mut schemas = Schemas::new();
    let operations: Vec<Operation> = describe.iter().flat_map(|describe| describe(&mut schemas)).collect();
    let (problem, problems) = (schemas.answer::<ProblemDetails>(), schemas.answer::<Vec<Problem>>());
    let (definitions, renamed) = schemas.definitions();
    let answers: Map<String, Value> = serde_json::from_str(ANSWERS).unwrap_or_default();
    let mut tags: Vec<&str> = Vec::new();
    let mut paths = Map::new();
    for operation in operations {
        if !tags.contains(&operation.tag()) {
            tags.push(operation.tag());
        }
        let (path, method) = (operation.path().to_owned(), operation.method());
        paths.entry(path).or_insert_with(|| json!({}))[method] = operation.document(&answers, &renamed);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tarishi",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0 OR MIT" },
            "description": DESCRIPTION,
        },
        "servers": [{ "url": "/" }],
        "tags": tags.iter().map(|tag| json!({ "name": tag })).collect::<Vec<_>>(),
        "paths": paths,
        "components": {
            "schemas": definitions,
            "responses": responses(&problem, &problems),
            "securitySchemes": {
                "user": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "A user's token." },
                "ticket": { "type": "apiKey", "in": "query", "name": "ticket", "description": "A ticket of POST /v1/tickets: for one use." },
                "key": { "type": "http", "scheme": "bearer", "description": "An API key, where `admin.api_keys` has any." },
            },
        },
    })
}

const DESCRIPTION: &str = "Everything the daemon answers over HTTP, on both of its listeners; `x-listener` says which. The public one is for \
                           signed-in users, their apps, and providers that call back; the admin one for backends and operators. Errors are \
                           problem details (RFC 9457) with a `code` for programs. Routes below `/api/v1/communications/` keep the errors that \
                           clients of the replaced system read, `{\"error\", \"code\"}`, and are there without their last slash too.";

/// Problem details, as the schema has them. What is sent is made by the intake, which is above this module.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "described, never made")]
struct ProblemDetails {
    /// What the status means.
    title: String,
    status: u16,
    /// What went wrong, for people.
    detail: String,
    /// A short word for programs.
    code: String,
    /// Everything that is wrong with what was sent.
    #[schemars(default)]
    problems: Vec<Problem>,
}

fn responses(problem: &Value, problems: &Value) -> Value {
    let retry_after = json!({ "Retry-After": { "description": "Seconds to wait.", "schema": { "type": "integer" } } });
    let refused = json!({
        "type": "object",
        "required": ["error", "code"],
        "properties": {
            "error": { "type": "string" },
            "code": { "type": "string" },
            "problems": problems,
        },
    });
    json!({
        "Problem": {
            "description": "It was not done: problem details (RFC 9457). 503 and 429 come with `Retry-After`.",
            "headers": retry_after,
            "content": { "application/problem+json": { "schema": problem } },
        },
        "Refused": {
            "description": "It was not done: 400 invalid, 401, 403 forbidden, 404 not found, 409 conflict, 413 too large, 415 not JSON or \
                            compressed, 422 not readable, 429 with `Retry-After`, 503.",
            "headers": retry_after,
            "content": { "application/json": { "schema": refused } },
        },
        "Page": {
            "description": "It was not done; a page says why.",
            "content": { "text/html": { "schema": { "type": "string" } } },
        },
    })
}

/// Takes out the schemas that nothing in the document leads to.
pub fn keep_used_schemas(document: &mut Value) {
    let mut used = BTreeSet::new();
    let mut waiting = vec![document["paths"].clone(), document["components"]["responses"].clone()];
    while let Some(next) = waiting.pop() {
        match next {
            Value::Object(members) => {
                let name = members.get("$ref").and_then(Value::as_str).and_then(|place| place.strip_prefix("#/components/schemas/"));
                if let Some(name) = name
                    && used.insert(name.to_owned())
                {
                    waiting.push(document["components"]["schemas"][name].clone());
                }
                waiting.extend(members.into_iter().map(|(_, member)| member));
            }
            Value::Array(items) => waiting.extend(items),
            _ => {}
        }
    }
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        schemas.retain(|name, _| used.contains(name));
    }
}

pub fn list_of(item: &Value) -> Value {
    json!({ "type": "array", "items": item })
}

/// A page of a listing that goes on with `next_cursor`.
pub fn page_of(name: &str, item: &Value) -> Value {
    json!({
        "type": "object",
        "required": [name, "next_cursor"],
        "properties": { name: list_of(item), "next_cursor": { "type": ["string", "null"] } },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is looked at")]
    struct Thing {
        #[schemars(default)]
        number: u8,
        inner: Option<Box<Thing>>,
    }

    #[test]
    fn what_is_read_and_what_is_written_have_schemas_of_their_own() {
        let mut schemas = Schemas::new();
        schemas.answer::<Thing>();
        let mut sent = schemas.request::<Thing>();
        let (definitions, renamed) = schemas.definitions();
        rename(&mut sent, &renamed);
        assert_eq!(sent["$ref"], "#/components/schemas/ThingSent");
        assert!(definitions.contains_key("Thing"));
        assert_eq!(definitions["ThingSent"]["properties"]["inner"]["anyOf"][0]["$ref"], sent["$ref"]);
    }

    #[test]
    fn recorded_answers_can_be_read() {
        assert!(serde_json::from_str::<Map<String, Value>>(ANSWERS).is_ok());
    }
}
