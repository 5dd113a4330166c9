//! What is wrong with a document, all of it at once.
//!
//! [`decode_all`] is the one way documents become types here (jobs, contacts, configuration): serde stops at the first error, so each
//! offending value is noted, taken out, and the rest is read again.

use std::fmt::Write as _;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use super::text::is_broken;

/// More problems than this are not listed: whoever sent them has enough to do.
const LISTED_LIMIT: usize = 50;
/// Longest name shown that a sender made up, in bytes.
const SHOWN_NAME: usize = 80;

/// One thing wrong: where, what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Problem {
    /// JSON path (RFC 9535) in a document (`$.to[0].email`), key path in the configuration (`store.url`).
    pub path: String,
    pub problem: String,
    pub hint: String,
}

impl Problem {
    pub fn new(path: impl Into<String>, problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { path: on_one_line(path.into()), problem: on_one_line(problem.into()), hint: hint.into() }
    }

    /// Of a document that is not JSON.
    pub fn not_json(error: &serde_json::Error) -> Self {
        let message = error.to_string();
        let problem = message.split(" at line ").next().unwrap_or(&message);
        Self::new("$", format!("not JSON: {problem}"), format!("look at line {}, column {}", error.line(), error.column()))
    }

    /// Of a parameter in a query, as serde tells it: `limit: invalid digit found in string`.
    pub fn of_parameter(message: &str) -> Self {
        for (prefix, what) in [("unknown field `", "unknown parameter"), ("duplicate field `", "given twice")] {
            if let Some((_, rest)) = message.split_once(prefix) {
                let name = rest.split('`').next().unwrap_or_default();
                let shown = super::cut(name, SHOWN_NAME);
                let (problem, hint) = match what {
                    "given twice" => (what.to_owned(), "give it once".to_owned()),
                    _ => (format!("{what} `{shown}`"), nearest_hint(name, &known(rest))),
                };
                return Self::new(shown, problem, hint);
            }
        }
        let (name, problem) = message.split_once(": ").unwrap_or(("?", message));
        let (problem, hint) = match problem {
            "cannot parse integer from empty string" => ("empty", "leave it out, or give it a number"),
            "invalid digit found in string" => ("not a whole number", "digits alone, such as 20"),
            "number too large to fit in target type" | "number too small to fit in target type" => ("out of range", "a smaller number"),
            "provided string was not `true` or `false`" => ("neither `true` nor `false`", "write one of them"),
            other => return Self::new(super::cut(name, SHOWN_NAME), super::cut(other, 200), "see /openapi.json for what it takes"),
        };
        Self::new(super::cut(name, SHOWN_NAME), problem, hint)
    }
}

/// The names that serde says it expected.
fn known(message: &str) -> Vec<&str> {
    message.split("expected").nth(1).unwrap_or_default().split('`').skip(1).step_by(2).collect()
}

/// With what breaks or turns around a line written out, as names that strangers made up may have it.
fn on_one_line(text: String) -> String {
    if !text.chars().any(is_broken) {
        return text;
    }
    text.chars().map(|c| if is_broken(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.problem)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, " (hint: {})", self.hint) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// Reads `document` as a `T`, or says everything that is wrong with it. `root` starts every path (`$` for JSON, empty for configuration).
///
/// # Errors
/// Every problem found, at most 50, in the order they were met.
pub fn decode_all<T: DeserializeOwned>(document: Value, root: &str) -> Result<T, Vec<Problem>> {
    let mut document = document;
    let mut problems = Vec::new();
    // What was taken out: `(path of the array or object, step)`, to number array elements as the sender sees them.
    let mut removed: Vec<Vec<Step>> = Vec::new();
    loop {
        let error = match serde_path_to_error::deserialize::<_, T>(&document) {
            Ok(value) if problems.is_empty() => return Ok(value),
            Ok(_) => return Err(problems),
            Err(error) => error,
        };
        let message = error.inner().to_string();
        let mut steps = steps(error.path());
        let (problem, hint) = explain(&message);
        let missing = backticked(&message, "missing field `");
        let unknown = backticked(&message, "unknown field `");
        if let Some(field) = unknown
            && steps.last() != Some(&Step::Key(field.clone()))
        {
            steps.push(Step::Key(field));
        }
        let original = as_sent(&steps, &removed);
        let already_told = missing.as_ref().is_some_and(|field| {
            let mut member = original.clone();
            member.push(Step::Key(field.clone()));
            removed.contains(&member)
        });
        if !already_told {
            problems.push(Problem::new(written(root, &original), problem, hint));
        }
        if problems.len() >= LISTED_LIMIT || !remove(&mut document, &steps) {
            return Err(problems);
        }
        removed.push(original);
    }
}

fn steps(path: &Path) -> Vec<Step> {
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Map { key } => Some(Step::Key(key.clone())),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect()
}

/// The path in the document as it was sent: array indexes move up by what was taken out before them.
fn as_sent(steps: &[Step], removed: &[Vec<Step>]) -> Vec<Step> {
    let mut sent: Vec<Step> = Vec::with_capacity(steps.len());
    for step in steps {
        sent.push(match step {
            Step::Key(key) => Step::Key(key.clone()),
            Step::Index(index) => {
                let mut gone: Vec<usize> = removed
                    .iter()
                    .filter_map(|path| match path.split_last() {
                        Some((Step::Index(gone), parent)) if *parent == sent[..] => Some(*gone),
                        _ => None,
                    })
                    .collect();
                gone.sort_unstable();
                Step::Index(gone.iter().fold(*index, |at, gone| if *gone <= at { at + 1 } else { at }))
            }
        });
    }
    sent
}

fn written(root: &str, steps: &[Step]) -> String {
    let mut path = root.to_owned();
    for step in steps {
        match step {
            Step::Index(index) => {
                // Writing to a string cannot fail.
                let _ = write!(path, "[{index}]");
            }
            Step::Key(key) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(&super::cut(key, SHOWN_NAME));
            }
        }
    }
    path
}

/// Takes out what `steps` name; false when there is nothing there to take out.
fn remove(document: &mut Value, steps: &[Step]) -> bool {
    let Some((last, parents)) = steps.split_last() else { return false };
    let mut at = document;
    for step in parents {
        let next = match step {
            Step::Key(key) => at.get_mut(key.as_str()),
            Step::Index(index) => at.get_mut(*index),
        };
        match next {
            Some(next) => at = next,
            None => return false,
        }
    }
    match (last, at) {
        (Step::Key(key), Value::Object(members)) => members.remove(key).is_some(),
        (Step::Index(index), Value::Array(elements)) if *index < elements.len() => {
            elements.remove(*index);
            true
        }
        _ => false,
    }
}

/// Splits serde's message into what is wrong and what to do.
fn explain(message: &str) -> (String, String) {
    if let Some((problem, hint)) = message.split_once("; hint: ") {
        return (problem.to_owned(), hint.to_owned());
    }
    if let Some(field) = backticked(message, "missing field `") {
        return (format!("`{field}` is missing"), format!("add `{field}`"));
    }
    for (prefix, what) in [("unknown field `", "unknown member"), ("unknown variant `", "not a known value:")] {
        if let Some(given) = backticked(message, prefix) {
            return (format!("{what} `{}`", super::cut(&given, SHOWN_NAME)), nearest_hint(&given, &known(message)));
        }
    }
    match message.split_once(", expected ") {
        Some((problem, expected)) => (super::cut(problem, 200), format!("expected {expected}")),
        None => (super::cut(message, 200), String::new()),
    }
}

/// `did you mean …?` when something close is known, else the list.
pub(crate) fn nearest_hint(given: &str, known: &[&str]) -> String {
    let nearest = known.iter().map(|name| (strsim::damerau_levenshtein(given, name), *name)).min();
    match nearest {
        Some((distance, name)) if distance <= 1 + name.len() / 3 => format!("did you mean `{name}`?"),
        Some(_) if known.len() <= 20 => format!("known here: {}", known.join(", ")),
        _ => "leave it out".to_owned(),
    }
}

fn backticked(message: &str, prefix: &str) -> Option<String> {
    message.strip_prefix(prefix)?.split('`').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Job;
    use super::*;

    #[track_caller]
    fn check(document: Value, expected: &[&str]) {
        let problems = match decode_all::<Job>(document, "$") {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(problems, expected);
    }

    #[test]
    fn a_good_job_has_no_problems() {
        check(json!({"v": 1, "template": "generic", "to": [{"user_id": 42}]}), &[]);
    }

    #[test]
    fn all_problems_are_told_at_once_with_paths_as_sent() {
        check(
            json!({
                "v": 2,
                "templte": "generic",
                "to": [{"user_id": "1", "email": "nobody"}, {"email": "a@example.com"}, {"user_id": "3", "phone": "0712", "emial": "x"}],
                "channels": ["fax", "email", "telex", "push"],
                "priority": "urgent",
                "send_at": "tomorrow",
            }),
            &[
                "$.channels[0]: not a known value: `fax` (hint: known here: email, sms, push, live)",
                "$.channels[2]: not a known value: `telex` (hint: known here: email, sms, push, live)",
                "$.priority: not a known value: `urgent` (hint: known here: high, normal, low)",
                "$.send_at: not an RFC 3339 date and time (hint: write it like 2026-01-15T10:30:00Z)",
                "$.templte: unknown member `templte` (hint: did you mean `template`?)",
                "$.to[0].email: not an email address: it has no @ (hint: write one plain address like asha@example.com)",
                "$.to[1]: `user_id` is missing (hint: add `user_id`)",
                "$.to[2].emial: unknown member `emial` (hint: did you mean `email`?)",
                "$.to[2].phone: not an E.164 phone number (hint: write it like +255712345678)",
                "$.v: version 2 is not known here (hint: write 1)",
            ],
        );
    }

    #[test]
    fn a_bad_required_member_is_told_once() {
        check(
            json!({"to": [{"user_id": ""}], "template": "generic"}),
            &["$.to[0].user_id: not a user id (hint: 1 to 255 bytes without control characters or outer spaces, such as \"42\")"],
        );
    }

    #[test]
    fn the_wrong_kind_of_document_is_told() {
        check(json!("hello"), &["$: invalid type: string \"hello\" (hint: expected struct Job)"]);
        check(json!({"to": {}}), &["$.to: invalid type: map (hint: expected a sequence)"]);
    }
}
