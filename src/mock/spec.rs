//! The providers' published specifications, compiled once, to hold requests against.
//!
//! What schemas cannot say is checked beside each provider's answers.

use std::collections::HashMap;

use jsonschema::{ValidationError, Validator, error::ValidationErrorKind};
use serde_json::{Map, Value};

const SENDGRID: &str = include_str!("../../tests/fixtures/providers/sendgrid-mail-send.patched.json");
const SENDGRID_REQUEST: &str = "#/components/requestBodies/PostMailSend/content/application~1json/schema";
const TWILIO: &str = include_str!("../../tests/fixtures/providers/twilio-messages.patched.json");
const TWILIO_REQUEST: &str =
    "#/paths/~12010-04-01~1Accounts~1{AccountSid}~1Messages.json/post/requestBody/content/application~1x-www-form-urlencoded/schema";
const FCM: &str = include_str!("../../tests/fixtures/providers/fcm-v1.openapi.json");
const FCM_REQUEST: &str = "#/components/schemas/SendMessageRequestStrict";

/// A request body's schema.
pub(super) struct Spec(Validator);

/// The first thing wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// Where, its steps joined by points: `personalizations.0.to.0.email`. A missing or unknown member is a step of its own.
    pub field: String,
    pub kind: BrokenKind,
    /// In the words of the validator.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BrokenKind {
    Missing,
    Unknown,
    TooLong,
    Other,
}

/// All that is held against requests.
pub(super) struct Specs {
    pub sendgrid: Spec,
    pub twilio: Spec,
    pub fcm: Spec,
    /// What the fields of Twilio's form are, where that is not text.
    twilio_fields: HashMap<String, FieldKind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldKind {
    Boolean,
    Number,
    List,
}

impl Specs {
    pub fn compile() -> Self {
        let twilio = document(TWILIO);
        let properties = twilio.pointer(&format!("{}/properties", &TWILIO_REQUEST[1..])).and_then(Value::as_object);
        let twilio_fields = properties.into_iter().flatten().filter_map(|(name, schema)| {
            let kind = match schema["type"].as_str()? {
                "boolean" => FieldKind::Boolean,
                "integer" | "number" => FieldKind::Number,
                "array" => FieldKind::List,
                _ => return None,
            };
            Some((name.clone(), kind))
        });
        Self {
            twilio_fields: twilio_fields.collect(),
            sendgrid: Spec::new(closed(document(SENDGRID)), SENDGRID_REQUEST),
            twilio: Spec::new(twilio, TWILIO_REQUEST),
            fcm: Spec::new(closed(document(FCM)), FCM_REQUEST),
        }
    }

    /// Twilio's form as the schema sees it: numbers, flags and lists where it says so. What is repeated and no list counts once, the last.
    pub fn twilio_form(&self, pairs: &[(String, String)]) -> Map<String, Value> {
        let mut form = Map::new();
        for (name, text) in pairs {
            let value = match (self.twilio_fields.get(name), text.as_str()) {
                (Some(FieldKind::List), _) => {
                    if let Some(Value::Array(list)) = form.get_mut(name) {
                        list.push(text.as_str().into());
                        continue;
                    }
                    Value::Array(vec![text.as_str().into()])
                }
                (Some(FieldKind::Boolean), "true" | "True") => true.into(),
                (Some(FieldKind::Boolean), "false" | "False") => false.into(),
                (Some(FieldKind::Number), text) => text.parse::<i64>().map_or_else(|_| Value::from(text), Value::from),
                _ => text.as_str().into(),
            };
            form.insert(name.clone(), value);
        }
        form
    }
}

impl Spec {
    /// `pointer` leads to the schema in an `OpenAPI` document, whose other parts it may refer to.
    fn new(document: Value, pointer: &str) -> Self {
        let Value::Object(mut schema) = document else { unreachable!("a document is an object") };
        schema.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
        // A reference is a URI, in which braces do not stand as they are.
        schema.insert("$ref".to_owned(), pointer.replace('{', "%7B").replace('}', "%7D").into());
        let built = jsonschema::draft202012::options().should_validate_formats(true).build(&Value::Object(schema));
        Self(built.expect("the documents are compiled in, and a test compiles their schemas"))
    }

    pub fn check(&self, body: &Value) -> Result<(), Broken> {
        if self.0.is_valid(body) {
            return Ok(());
        }
        // What a schema within says is closer to the point than that none of several fits.
        let mut found: Vec<Broken> = self.0.iter_errors(body).map(|error| broken(&error)).collect();
        found.sort_by_key(|broken| broken.kind == BrokenKind::Other);
        Err(found.into_iter().next().unwrap_or_else(|| Broken::new("", "invalid")))
    }
}

impl Broken {
    /// A rule that is in no schema.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), kind: BrokenKind::Other, message: message.into() }
    }
}

fn broken(error: &ValidationError<'_>) -> Broken {
    let mut steps: Vec<String> = error.instance_path().as_str().split('/').skip(1).map(str::to_owned).collect();
    let kind = match error.kind() {
        ValidationErrorKind::Required { property } => {
            steps.extend(property.as_str().map(str::to_owned));
            BrokenKind::Missing
        }
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            steps.extend(unexpected.first().cloned());
            BrokenKind::Unknown
        }
        ValidationErrorKind::MaxLength { .. } => BrokenKind::TooLong,
        _ => BrokenKind::Other,
    };
    Broken { field: steps.join("."), kind, message: error.to_string() }
}

fn document(text: &str) -> Value {
    serde_json::from_str(text).expect("the documents are compiled in, and a test reads them")
}

/// The document with no unknown members where its schemas list the known ones: both services refuse them, and a schema that does not say so
/// would let a misspelled member pass.
fn closed(mut document: Value) -> Value {
    close(&mut document);
    document
}

fn close(node: &mut Value) {
    match node {
        Value::Object(members) => {
            let lists = members.get("properties").is_some_and(Value::is_object) && members.get("type").is_some_and(|kind| kind == "object");
            if lists && !members.contains_key("additionalProperties") {
                members.insert("additionalProperties".to_owned(), false.into());
            }
            members.values_mut().for_each(close);
        }
        Value::Array(elements) => elements.iter_mut().for_each(close),
        _ => {}
    }
}

#[cfg(test)]
impl Spec {
    /// The schema of an answer.
    pub fn of_answer(provider: super::Provider, pointer: &str) -> Self {
        let text = match provider {
            super::Provider::Sendgrid => SENDGRID,
            super::Provider::Twilio => TWILIO,
            _ => FCM,
        };
        // OpenAPI 3.0 has a word of its own for what may be null; null members are looked at without it.
        Self::new(document(text), pointer)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(spec: &Spec, body: &Value, expected: Option<(&str, BrokenKind)>) {
        let found = spec.check(body).err();
        assert_eq!(found.as_ref().map(|broken| (broken.field.as_str(), broken.kind)), expected, "{found:?}");
    }

    #[test]
    fn requests_are_held_against_the_published_schemas() {
        use BrokenKind::{Missing, Other, TooLong, Unknown};
        let specs = Specs::compile();
        let mail = |to: Value| json!({ "personalizations": [{ "to": to }], "from": { "email": "a@example.com" } });
        check(&specs.sendgrid, &mail(json!([{ "email": "b@example.com" }])), None);
        check(&specs.sendgrid, &mail(json!([{ "email": "nobody" }])), Some(("personalizations.0.to.0.email", Other)));
        check(
            &specs.sendgrid,
            &mail(json!([{ "mail": "b@example.com", "email": "b@example.com" }])),
            Some(("personalizations.0.to.0.mail", Unknown)),
        );
        check(&specs.sendgrid, &json!({ "personalizations": [] }), Some(("from", Missing)));
        let form = |pairs: &[(&str, &str)]| {
            let pairs: Vec<(String, String)> = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            Value::Object(specs.twilio_form(&pairs))
        };
        let good = [("To", "+255712345678"), ("From", "+15005550006"), ("Body", "x"), ("SmartEncoded", "true"), ("ValidityPeriod", "60")];
        check(&specs.twilio, &form(&good), None);
        check(&specs.twilio, &form(&good[1..]), Some(("To", Missing)));
        check(&specs.twilio, &form(&[&good[..2], &[("Body", "x".repeat(1601).as_str())]].concat()), Some(("Body", TooLong)));
        check(&specs.twilio, &form(&[&good[..3], &[("ValidityPeriod", "60s")]].concat()), Some(("ValidityPeriod", Other)));
        check(&specs.fcm, &json!({ "message": { "token": "t", "data": { "a": "b" } } }), None);
        check(&specs.fcm, &json!({ "message": { "token": "t", "data": { "a": 1 } } }), Some(("message.data.a", Other)));
        check(&specs.fcm, &json!({ "message": { "token": "t", "topic": "x" } }), Some(("message", Other)));
        check(&specs.fcm, &json!({ "message": { "token": "t", "colapseKey": "x" } }), Some(("message.colapseKey", Unknown)));
    }

    #[test]
    fn repeated_fields_are_lists_where_the_schema_says_so() {
        let pairs = ["a", "b"].map(|url| ("MediaUrl".to_owned(), url.to_owned()));
        assert_eq!(Value::Object(Specs::compile().twilio_form(&pairs)), json!({ "MediaUrl": ["a", "b"] }));
    }
}
