//! `schema.json`: what a template's data has to be, as JSON Schema (2020-12). It may be absent.
//!
//! Problems name the place in the data and what the schema says of it, and never a value.

use std::collections::BTreeSet;

use jsonschema::{ValidationError, Validator, error::ValidationErrorKind};
use serde_json::{Map, Value};

use crate::model::{self, Problem};

/// The file of a template that holds it.
pub(super) const SCHEMA: &str = "schema.json";
/// Most problems told of one job's data.
const LISTED_LIMIT: usize = 20;
const SCHEMA_HINT: &str = "see the template's schema.json";
/// Longest name from the data that a path shows, in bytes.
const NAME_LIMIT: usize = 80;

#[derive(Debug)]
pub(super) struct Schema {
    validator: Validator,
    declared: BTreeSet<String>,
}

impl Schema {
    /// Reads the schema in `file`.
    pub fn read(file: &str, text: &str) -> Result<Self, Problem> {
        const HINT: &str = "it is a JSON Schema of the data: { \"type\": \"object\", \"required\": [\"name\"], \"properties\": { … } }";
        let schema: Value = serde_json::from_str(text)
            .map_err(|error| Problem::new(format!("{file}:{}", error.line()), format!("is not JSON: {error}"), HINT))?;
        if !schema.is_object() {
            return Err(Problem::new(file, "is not a JSON object", HINT));
        }
        let validator = jsonschema::draft202012::options().should_validate_formats(true).build(&schema).map_err(|error| {
            if matches!(error.kind(), ValidationErrorKind::Referencing(_)) {
                let hint = "put what it refers to into the same file, below $defs";
                return Problem::new(file, "refers to something that is not in it, and nothing is fetched from elsewhere", hint);
            }
            let place = error.instance_path().to_string();
            let place = if place.is_empty() { String::new() } else { format!(" at {place}") };
            Problem::new(file, format!("is not a JSON Schema{place}: {error}"), HINT)
        })?;
        let declared = schema["properties"].as_object().into_iter().flat_map(Map::keys).cloned().collect();
        Ok(Self { validator, declared })
    }

    /// The names it has properties for.
    pub fn declared(&self) -> &BTreeSet<String> {
        &self.declared
    }

    /// What is wrong with `data`, with paths that start with `root`.
    pub fn check(&self, root: &str, data: &Map<String, Value>) -> Vec<Problem> {
        let data = Value::Object(data.clone());
        self.validator.iter_errors(&data).flat_map(|error| problems(root, &data, &error)).take(LISTED_LIMIT).collect()
    }
}

/// One, but of an object that has more than it may: that is one for each member.
fn problems(root: &str, data: &Value, error: &ValidationError<'_>) -> Vec<Problem> {
    use ValidationErrorKind as Kind;
    let path = path(root, data, error.instance_path().as_str());
    match error.kind() {
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            let told = |name: &String| {
                Problem::new(member(&path, name), "is not known to the template", "remove it, or name it in the template's schema.json")
            };
            unexpected.iter().map(told).collect()
        }
        _ => vec![problem(&path, error)],
    }
}

fn problem(path: &str, error: &ValidationError<'_>) -> Problem {
    use ValidationErrorKind as Kind;
    let told = |problem: String, hint: &str| Problem::new(path, problem, hint);
    match error.kind() {
        Kind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            Problem::new(member(path, name), "is missing", "add it to the data: the template's schema.json requires it")
        }
        Kind::Type { kind } => told(format!("has the wrong type: {}", types(kind)), "write it as the template's schema.json has it"),
        Kind::Enum { options } => {
            told("is none of the values allowed".to_owned(), &format!("one of {}", model::cut(&options.to_string(), 200)))
        }
        Kind::Constant { expected_value } => {
            told("is not the value allowed".to_owned(), &format!("write {}", model::cut(&expected_value.to_string(), 200)))
        }
        Kind::Minimum { limit } => told(format!("is less than {limit}"), SCHEMA_HINT),
        Kind::Maximum { limit } => told(format!("is more than {limit}"), SCHEMA_HINT),
        Kind::ExclusiveMinimum { limit } => told(format!("is not more than {limit}"), SCHEMA_HINT),
        Kind::ExclusiveMaximum { limit } => told(format!("is not less than {limit}"), SCHEMA_HINT),
        Kind::MultipleOf { multiple_of } => told(format!("is no multiple of {multiple_of}"), SCHEMA_HINT),
        Kind::MinLength { limit } => told(format!("is shorter than {limit} characters"), SCHEMA_HINT),
        Kind::MaxLength { limit } => told(format!("is longer than {limit} characters"), SCHEMA_HINT),
        Kind::MinItems { limit } => told(format!("has fewer than {limit} elements"), SCHEMA_HINT),
        Kind::MaxItems { limit } => told(format!("has more than {limit} elements"), SCHEMA_HINT),
        Kind::MinProperties { limit } => told(format!("has fewer than {limit} members"), SCHEMA_HINT),
        Kind::MaxProperties { limit } => told(format!("has more than {limit} members"), SCHEMA_HINT),
        Kind::UniqueItems => told("has an element twice".to_owned(), "each may be there once"),
        Kind::Pattern { pattern } => told(format!("does not match the pattern {}", model::cut(pattern, 200)), SCHEMA_HINT),
        Kind::Format { format } => told(format!("is not written as {format}"), SCHEMA_HINT),
        other => told(format!("breaks the rule `{}` of the template's schema.json", other.keyword()), SCHEMA_HINT),
    }
}

fn types(kind: &jsonschema::error::TypeKind) -> String {
    match kind {
        jsonschema::error::TypeKind::Single(one) => format!("{one} is expected"),
        jsonschema::error::TypeKind::Multiple(several) => {
            format!("one of {} is expected", several.into_iter().map(|one| one.to_string()).collect::<Vec<_>>().join(", "))
        }
    }
}

/// A JSON pointer into `data` as a JSON path (RFC 9535).
fn path(root: &str, data: &Value, pointer: &str) -> String {
    let (mut path, mut here) = (root.to_owned(), Some(data));
    for step in pointer.split('/').skip(1) {
        let name = step.replace("~1", "/").replace("~0", "~");
        if let Some(Value::Array(elements)) = here {
            path = format!("{path}[{name}]");
            here = name.parse::<usize>().ok().and_then(|place| elements.get(place));
        } else {
            path = member(&path, &name);
            here = here.and_then(|here| here.get(&name));
        }
    }
    path
}

fn member(path: &str, name: &str) -> String {
    let is_plain = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let name = model::cut(name, NAME_LIMIT);
    if is_plain { format!("{path}.{name}") } else { format!("{path}[{}]", Value::from(name)) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(schema: &Value, data: &Value, expected: &[&str]) {
        let schema = Schema::read("t/schema.json", &schema.to_string()).expect("a schema");
        let problems = schema.check("$.data", data.as_object().expect("an object"));
        assert_eq!(problems.iter().map(|problem| format!("{}: {}", problem.path, problem.problem)).collect::<Vec<_>>(), expected);
        assert!(problems.iter().all(|problem| !problem.hint.is_empty() && !problem.to_string().contains("secret")), "{problems:?}");
    }

    #[test]
    fn problems_name_places_and_no_values() {
        let schema = json!({
            "type": "object",
            "required": ["name"],
            "additionalProperties": false,
            "properties": {
                "name": {"type": "string", "maxLength": 3},
                "n": {"type": ["integer", "null"], "minimum": 1},
                "kind": {"enum": ["a", "b"]},
                "items": {"type": "array", "items": {"type": "object", "required": ["a b"]}},
                "code": {"type": "string", "pattern": "^[0-9]+$"},
                "when": {"type": "string", "format": "date-time"},
            },
        });
        check(&schema, &json!({"name": "a", "n": 1, "items": []}), &[]);
        check(&schema, &json!({}), &["$.data.name: is missing"]);
        check(&schema, &json!({"name": "secret"}), &["$.data.name: is longer than 3 characters"]);
        check(&schema, &json!({"name": "a", "n": 0}), &["$.data.n: is less than 1"]);
        check(&schema, &json!({"name": "a", "kind": "secret"}), &["$.data.kind: is none of the values allowed"]);
        check(&schema, &json!({"name": "a", "code": "secret"}), &["$.data.code: does not match the pattern ^[0-9]+$"]);
        check(&schema, &json!({"name": "a", "items": [{"a b": 1}, {}]}), &["$.data.items[1][\"a b\"]: is missing"]);
        check(
            &schema,
            &json!({"name": "a", "x": "secret", "y z": 1}),
            &["$.data.x: is not known to the template", "$.data[\"y z\"]: is not known to the template"],
        );
        check(&schema, &json!({"name": "a", "when": "2026-01-15T10:30:00+03:00"}), &[]);
        check(&schema, &json!({"name": "a", "when": "secret"}), &["$.data.when: is not written as date-time"]);
        check(&schema, &json!({"name": 7}), &["$.data.name: has the wrong type: string is expected"]);
    }

    #[test]
    fn a_bad_schema_is_told() {
        let told = |text: &str| Schema::read("t/schema.json", text).err().map(|problem| format!("{}: {}", problem.path, problem.problem));
        assert!(told("{\n\"a\"").is_some_and(|told| told.starts_with("t/schema.json:2: is not JSON")));
        assert_eq!(told("[]").as_deref(), Some("t/schema.json: is not a JSON object"));
        let bad = told(r#"{"properties": {"a": {"type": "strnig"}}}"#).unwrap_or_default();
        assert!(bad.starts_with("t/schema.json: is not a JSON Schema at /properties/a/type"), "{bad}");
        let remote = told(r#"{"$ref": "https://example.com/x.json"}"#).unwrap_or_default();
        assert_eq!(remote, "t/schema.json: refers to something that is not in it, and nothing is fetched from elsewhere");
    }
}
