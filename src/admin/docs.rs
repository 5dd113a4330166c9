//! The OpenAPI document as JSON and as a page for people: made once, nothing in it from elsewhere, and no script.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use minijinja::syntax::SyntaxConfig;
use serde_json::{Map, Value, json};

use super::{AdminState, openapi};
use crate::template::convert;

static DOCUMENT: LazyLock<String> = LazyLock::new(|| openapi::document().to_string());
static PUBLIC_DOCUMENT: LazyLock<String> = LazyLock::new(|| openapi::public_document().to_string());
static PAGE: LazyLock<Option<String>> = LazyLock::new(|| page(&openapi::document()).ok());

const SCHEMAS: &str = "#/components/schemas/";

pub(super) fn router() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/openapi.json", get(async || answer("application/json", &DOCUMENT)))
        .route("/docs", get(async || answer("text/html; charset=utf-8", PAGE.as_deref().unwrap_or_default())))
        .route("/docs.css", get(async || answer("text/css; charset=utf-8", include_str!("docs/docs.css"))))
}

/// The public listener's half of the document.
pub fn public_router() -> Router {
    Router::new().route("/openapi.json", get(async || answer("application/json", &PUBLIC_DOCUMENT)))
}

fn answer(content_type: &'static str, content: &'static str) -> Response {
    ([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-cache")], content).into_response()
}

/// The page of a document.
fn page(document: &Value) -> Result<String, minijinja::Error> {
    let mut environment = minijinja::Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.add_template("docs.html", include_str!("docs/docs.html"))?;
    let names = document["tags"].as_array().into_iter().flatten().filter_map(|tag| tag["name"].as_str());
    let groups: Vec<Value> = names.map(|name| json!({ "name": name, "operations": operations(document, name) })).collect();
    let schemas: Vec<Value> = members(&document["components"]["schemas"])
        .map(|(name, schema)| {
            json!({
                "name": name,
                "description": schema["description"],
                "kind": kind(schema),
                "fields": fields(schema),
            })
        })
        .collect();
    let context = json!({ "info": document["info"], "groups": groups, "schemas": schemas });
    environment.get_template("docs.html")?.render(convert(&context))
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

/// What stands under one heading, in the order of the paths.
fn operations(document: &Value, tag: &str) -> Vec<Value> {
    let mut found = Vec::new();
    for (path, methods) in members(&document["paths"]) {
        for (method, operation) in members(methods).filter(|(_, operation)| operation["tags"][0] == tag) {
            found.push(json!({
                "id": operation["operationId"],
                "method": method.to_uppercase(),
                "path": path,
                "listener": operation["x-listener"],
                "summary": operation["summary"],
                "security": security(&operation["security"]),
                "parameters": operation["parameters"].as_array().into_iter().flatten().map(parameter).collect::<Vec<_>>(),
                "body": contents(&operation["requestBody"]["content"]).next(),
                "body_required": operation["requestBody"]["required"],
                "answers": members(&operation["responses"])
                    .filter(|(status, _)| *status != "default")
                    .map(|(status, answer)| {
                        json!({ "status": status, "meaning": answer["description"], "content": contents(&answer["content"]).next() })
                    })
                    .collect::<Vec<_>>(),
                "refusal": operation["responses"]["default"]["$ref"].as_str().and_then(|place| place.rsplit('/').next()),
            }));
        }
    }
    found
}

fn security(ways: &Value) -> &'static str {
    match ways.as_array().and_then(|ways| ways.last()) {
        Some(way) if way.get("ticket").is_some() => "a user's token, or a ticket",
        Some(way) if way.get("user").is_some() => "a user's token",
        Some(way) if way.get("key").is_some() => "an API key, where there are any",
        _ => "anybody",
    }
}

fn parameter(parameter: &Value) -> Value {
    json!({
        "name": parameter["name"],
        "place": parameter["in"],
        "kind": kind(&parameter["schema"]),
        "required": parameter["required"] == true,
        "description": parameter["description"],
        "example": parameter.get("example").map(|example| example.as_str().map_or_else(|| example.to_string(), str::to_owned)),
    })
}

fn contents(content: &Value) -> impl Iterator<Item = Value> {
    members(content).map(|(media_type, content)| {
        let example = content.get("example").map(|example| match example {
            Value::String(text) => text.clone(),
            other => serde_json::to_string_pretty(other).unwrap_or_default(),
        });
        json!({ "media_type": media_type, "kind": kind(&content["schema"]), "fields": fields(&content["schema"]), "example": example })
    })
}

/// The members of an object, where the schema is one itself.
fn fields(schema: &Value) -> Vec<Value> {
    let is_required = |name: &str| schema["required"].as_array().is_some_and(|required| required.iter().any(|known| known == name));
    members(&schema["properties"])
        .map(|(name, member)| {
            json!({
                "name": name,
                "kind": kind(member),
                "required": is_required(name),
                "description": member["description"],
            })
        })
        .collect()
}

/// What a schema takes, in words; parts that are schemas of their own lead there.
fn kind(schema: &Value) -> Vec<Value> {
    let words = |text: &str| vec![json!({ "text": text })];
    if let Some(name) = schema["$ref"].as_str().and_then(|place| place.strip_prefix(SCHEMAS)) {
        return vec![json!({ "text": name, "schema": name })];
    }
    for any in ["oneOf", "anyOf"] {
        if let Some(cases) = schema[any].as_array() {
            return joined(cases.iter().map(kind), " or ");
        }
    }
    if let Some(cases) = schema["enum"].as_array() {
        return words(&cases.iter().map(Value::to_string).collect::<Vec<_>>().join(" or "));
    }
    if let Some(only) = schema.get("const") {
        return words(&only.to_string());
    }
    if schema["type"] == "array" {
        return words("array of ").into_iter().chain(kind(&schema["items"])).collect();
    }
    let format = schema["format"].as_str().filter(|format| *format == "date-time").map(|_| " (date and time)").unwrap_or_default();
    match &schema["type"] {
        Value::String(kind) => words(&format!("{kind}{format}")),
        Value::Array(kinds) => words(&kinds.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or ")),
        _ => words("anything"),
    }
}

fn joined(parts: impl Iterator<Item = Vec<Value>>, between: &str) -> Vec<Value> {
    let mut all = Vec::new();
    for part in parts {
        if !all.is_empty() {
            all.push(json!({ "text": between }));
        }
        all.extend(part);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_every_operation_and_loads_nothing_from_elsewhere() {
        let document = openapi::document();
        let page = page(&document).unwrap();
        for (path, methods) in members(&document["paths"]) {
            for (_, operation) in members(methods) {
                let anchor = format!("id=\"{}\"", operation["operationId"].as_str().unwrap());
                assert_eq!(page.matches(&anchor).count(), 1, "{path}: {anchor}");
            }
        }
        assert!(!page.contains("<script") && !page.contains("src=\"http") && !page.contains("url("), "something from elsewhere");
        for (name, _) in members(&document["components"]["schemas"]) {
            assert!(page.contains(&format!("id=\"schema-{name}\"")), "{name}");
        }
    }

    #[test]
    fn kinds_are_told_in_words() {
        let told = |schema: Value| kind(&schema).iter().filter_map(|part| part["text"].as_str().map(str::to_owned)).collect::<String>();
        assert_eq!(told(json!({ "type": "array", "items": { "$ref": "#/components/schemas/Job" } })), "array of Job");
        assert_eq!(
            told(json!({ "anyOf": [{ "type": "string", "format": "date-time" }, { "type": "null" }] })),
            "string (date and time) or null"
        );
        assert_eq!(told(json!({ "enum": ["a", "b"] })), "\"a\" or \"b\"");
        assert_eq!(told(json!({ "type": ["integer", "null"] })), "integer or null");
        assert_eq!(told(json!({})), "anything");
    }
}
