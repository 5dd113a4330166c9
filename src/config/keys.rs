//! Which keys there are: the JSON Schema made from the section types.

use super::{Config, defaults_table, document};
use crate::model::{Problem, nearest_hint};
use schemars::generate::SchemaSettings;
use serde_json::Value;

/// The JSON Schema of a configuration file, made from the types: nothing is required that has a default, and the defaults are told.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Config>().to_value();
    tell_defaults(&mut schema, document(toml::Value::Table(defaults_table())));
    schema
}

fn tell_defaults(schema: &mut Value, defaults: Value) {
    let Value::Object(members) = defaults else {
        schema["default"] = defaults;
        return;
    };
    if let Some(node) = schema.as_object_mut() {
        node.remove("required");
    }
    for (name, default) in members {
        if let Some(property) = schema.get_mut("properties").and_then(|properties| properties.get_mut(&name)) {
            tell_defaults(property, default);
        }
    }
}

/// Whether the value at this place of the schema may be a `kind` (`string`, `array`, …).
pub(super) fn takes(node: &Value, kind: &str) -> bool {
    let of_type = match &node["type"] {
        Value::String(one) => one == kind,
        Value::Array(several) => several.iter().any(|one| one == kind),
        _ => false,
    };
    let alternatives = ["oneOf", "anyOf"].iter().filter_map(|key| node[*key].as_array()).flatten();
    of_type || alternatives.into_iter().any(|alternative| takes(alternative, kind))
}

/// The place in the schema that `keys` lead to, or the problem with them. `written` turns a key into what whoever named it would have
/// written, for hints.
pub(super) fn find<'a>(schema: &'a Value, keys: &[String], name: &str, written: fn(&str) -> String) -> Result<&'a Value, Problem> {
    let mut node = schema;
    for (index, key) in keys.iter().enumerate() {
        let Some(properties) = node["properties"].as_object() else {
            let problem = format!("`{}` has no keys below it", keys[..index].join("."));
            return Err(Problem::new(name, problem, "give it one value"));
        };
        let Some(property) = properties.get(key) else {
            let known: Vec<String> = properties.keys().map(|known| written(known)).collect();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            let given = written(key);
            return Err(Problem::new(name, format!("unknown key `{given}`"), nearest_hint(&given, &known)));
        };
        node = property;
    }
    Ok(node)
}

#[cfg(test)]
mod tests {
    use toml::Table;

    use super::*;
    use crate::config::DEFAULT_TOML;

    /// `default.toml` with its optional keys.
    fn with_examples() -> String {
        let lines = DEFAULT_TOML.lines().map(|line| match line.strip_prefix('#') {
            Some(example) if !example.is_empty() && !example.starts_with(' ') => example,
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    fn leaves(node: &Value, path: &str, found: &mut Vec<String>) {
        if node["items"]["properties"].is_object() {
            return leaves(&node["items"], path, found);
        }
        match node["properties"].as_object() {
            Some(properties) => properties.iter().for_each(|(name, property)| leaves(property, &format!("{path}/{name}"), found)),
            None => found.push(path.to_owned()),
        }
    }

    #[test]
    fn the_default_file_tells_every_key_and_no_other() {
        let reference = document(with_examples().parse::<Table>().unwrap().into());
        let mut every = Vec::new();
        leaves(&schema(), "", &mut every);
        assert!(every.len() > 70, "{every:?}");
        for path in every {
            let path = path.replace("/keys/", "/keys/0/").replace("/api_keys/", "/api_keys/0/");
            assert!(reference.pointer(&path).is_some(), "config/default.toml says nothing about {path}");
        }
        crate::model::decode_all::<Config>(reference, "").unwrap();
    }

    #[test]
    fn the_schema_takes_a_small_file_and_refuses_unknown_keys() {
        let schema = schema();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let valid = |text: &str| validator.is_valid(&document(text.parse::<Table>().unwrap().into()));
        assert!(valid(""));
        assert!(valid(DEFAULT_TOML));
        assert!(valid(&with_examples()));
        assert!(valid("channel.email.rate = 5"));
        assert!(!valid("channel.email.rat = 5"));
        assert!(!valid("[[auth.jwt.keys]]\nsecret = \"x\""));
        assert_eq!(schema["properties"]["store"]["properties"]["readers"]["default"], 2);
    }
}
