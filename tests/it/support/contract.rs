//! The wire contract, `docs/asyncapi.yaml`, to hold real messages against.

use std::path::{Path, PathBuf};

use jsonschema::{Retrieve, Uri};
use lapin::BasicProperties;
use serde_json::{Map, Value, json};

use super::Message;

const DOCUMENT: &str = "asyncapi.yaml";
/// Where `docs/` would lie if references went over the network.
const BASE: &str = "https://tarishi.invalid/";

/// The document, references unresolved.
pub struct Contract(Value);

impl Contract {
    pub fn load() -> Self {
        Self(document(DOCUMENT).unwrap())
    }

    pub fn path() -> PathBuf {
        docs().join(DOCUMENT)
    }

    /// What a JSON pointer leads to, for instance `/components/messages`.
    #[track_caller]
    pub fn at(&self, pointer: &str) -> &Value {
        self.0.pointer(pointer).unwrap_or_else(|| panic!("{DOCUMENT} has no {pointer}"))
    }

    /// `value` is good in the eyes of the schema at `pointer`.
    #[track_caller]
    pub fn check(&self, pointer: &str, value: &Value) {
        let problems = self.problems(pointer, value);
        assert!(problems.is_empty(), "against {pointer}: {problems:?}\n{value:#}");
    }

    /// What is wrong with `value` in the eyes of the schema at `pointer`.
    #[track_caller]
    pub fn problems(&self, pointer: &str, value: &Value) -> Vec<String> {
        self.at(pointer);
        let schema = json!({ "$ref": format!("{BASE}{DOCUMENT}#{pointer}") });
        let validator = jsonschema::draft202012::options().with_retriever(Docs).should_validate_formats(true).build(&schema).unwrap();
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect()
    }

    /// A message that went over the wire is one of this name below `components.messages`: payload, headers and properties.
    #[track_caller]
    pub fn check_message(&self, name: &str, message: &Message) {
        let specified = format!("/components/messages/{name}");
        let members = self.at(&specified).as_object().unwrap();
        if members.contains_key("payload") {
            self.check(&format!("{specified}/payload"), &message.json());
        }
        if members.contains_key("headers") {
            self.check(&format!("{specified}/headers"), &Value::Object(message.headers.clone().into_iter().collect()));
        }
        self.check(&format!("{specified}/x-amqp-properties"), &json_of(&message.properties));
    }
}

/// Reads references to files in `docs/`.
struct Docs;

impl Retrieve for Docs {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        document(uri.as_str().strip_prefix(BASE).ok_or("not ours")?)
    }
}

/// A file in `docs/`. JSON is YAML as well.
fn document(name: &str) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
    Ok(serde_saphyr::from_str(&std::fs::read_to_string(docs().join(name))?)?)
}

pub fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// Properties that are there, by their names in AMQP. Headers are told apart.
fn json_of(properties: &BasicProperties) -> Value {
    let mut members = Map::new();
    for (name, value) in [
        ("content_type", properties.content_type()),
        ("content_encoding", properties.content_encoding()),
        ("correlation_id", properties.correlation_id()),
        ("reply_to", properties.reply_to()),
        ("expiration", properties.expiration()),
        ("message_id", properties.message_id()),
        ("type", properties.kind()),
        ("user_id", properties.user_id()),
        ("app_id", properties.app_id()),
    ] {
        members.extend(value.as_ref().map(|value| (name.to_owned(), value.as_str().into())));
    }
    for (name, value) in [("delivery_mode", properties.delivery_mode()), ("priority", properties.priority())] {
        members.extend(value.map(|value| (name.to_owned(), value.into())));
    }
    members.extend(properties.timestamp().map(|value| ("timestamp".to_owned(), value.into())));
    Value::Object(members)
}
