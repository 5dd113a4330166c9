//! How rejected messages look: a row, a line of JSON, everything. Pure.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytesize::ByteSize;
use serde::Serialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    super::output::{self, count},
    body::Reader,
};
use crate::{
    amqp::{Rejected, ToldProblem, header},
    model::{Timestamp, cut},
};

/// Bytes of a problem that fit into a row.
const PROBLEM_LIMIT: usize = 80;
/// Bytes of an id that fit into a row.
const ID_LIMIT: usize = 40;
/// Ids of one message that a list keeps.
const IDS_LIMIT: usize = 100;
/// Bytes of a header that are worth a line.
const HEADER_LIMIT: usize = 500;

pub fn table(rows: impl Iterator<Item = Vec<String>>) -> String {
    output::table(&["#number", "when", "reason", "id", "path", "problem", "#size"], rows)
}

/// What is kept of a message for a list.
pub struct Summary {
    rejected_at: Option<Timestamp>,
    reason: String,
    /// The first ones.
    ids: Vec<String>,
    ids_total: usize,
    problem: ToldProblem,
    content_type: Option<String>,
    size: usize,
}

impl Summary {
    pub fn of(message: &Rejected, ids: &[String]) -> Self {
        Self {
            rejected_at: message.rejected_at(),
            reason: message.reason(),
            ids: ids[..ids.len().min(IDS_LIMIT)].to_vec(),
            ids_total: ids.len(),
            problem: message.problems().into_iter().next().unwrap_or_default(),
            content_type: message.content_type().map(str::to_owned),
            size: message.body.len(),
        }
    }

    pub fn row(self, number: u32) -> Vec<String> {
        let more = if self.ids_total > 1 { format!(" and {} more", self.ids_total - 1) } else { String::new() };
        let id = self.ids.first().map_or_else(|| "-".to_owned(), |id| format!("{}{more}", cut(id, ID_LIMIT)));
        [
            number.to_string(),
            self.rejected_at.map_or_else(|| "-".to_owned(), |at| at.to_string()),
            self.reason,
            id,
            self.problem.path,
            cut(&self.problem.problem, PROBLEM_LIMIT),
            ByteSize(self.size as u64).to_string(),
        ]
        .map(|field| one_line(&field))
        .to_vec()
    }

    /// What a program needs to choose by.
    pub fn line(&self, number: u32) -> Value {
        json!({
            "number": number,
            "rejected_at": self.rejected_at,
            "reason": self.reason,
            "id": self.ids.first(),
            "ids": self.ids,
            "ids_total": self.ids_total,
            "path": self.problem.path,
            "problem": self.problem.problem,
            "hint": self.problem.hint,
            "content_type": self.content_type,
            "size": self.size,
        })
    }
}

/// Everything. A body that is JSON is part of it; any other is text, or else base64.
#[derive(Serialize)]
pub struct Everything {
    number: u32,
    rejected_at: Option<Timestamp>,
    reason: String,
    id: Option<String>,
    ids: Vec<String>,
    problems: Vec<ToldProblem>,
    exchange: Option<String>,
    routing_key: Option<String>,
    properties: Map<String, Value>,
    headers: Map<String, Value>,
    size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

impl Everything {
    pub fn about(message: &Rejected, number: u32, reader: &Reader) -> Self {
        let ids = reader.ids(message);
        let body = reader.json(message);
        let text = || std::str::from_utf8(&message.body).ok().map(str::to_owned);
        let body_text = if body.is_none() { text() } else { None };
        let is_binary = body.is_none() && body_text.is_none();
        Self {
            number,
            rejected_at: message.rejected_at(),
            reason: message.reason(),
            id: ids.first().cloned(),
            ids,
            problems: message.problems(),
            exchange: message.exchange(),
            routing_key: message.routing_key(),
            properties: message.properties(),
            headers: message.headers(),
            size: message.body.len(),
            body,
            body_text,
            body_base64: is_binary.then(|| BASE64_STANDARD.encode(&message.body)),
        }
    }

    /// For people.
    pub fn told(&self, message: &Rejected, reader: &Reader) -> String {
        let mut lines = Vec::new();
        // A name only before the first of its kind.
        let mut tell = |name: &str, values: Vec<String>| {
            for (place, value) in values.iter().enumerate() {
                let name = if place == 0 { name } else { "" };
                lines.push(format!("{name:13} {}", one_line(value)).trim_end().to_owned());
            }
        };
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        tell("number", vec![self.number.to_string()]);
        tell("id", vec![or_none(Some(self.ids.join(", ")).filter(|ids| !ids.is_empty()))]);
        tell("reason", vec![self.reason.clone()]);
        tell("rejected at", vec![or_none(self.rejected_at.map(|at| at.to_string()))]);
        tell("exchange", vec![or_none(self.exchange.clone())]);
        tell("routing key", vec![or_none(self.routing_key.clone())]);
        tell("problems", self.problems.iter().map(told_problem).collect());
        tell("properties", self.properties.iter().map(|(name, value)| format!("{name}: {}", shown(value))).collect());
        // What our own headers say stands above.
        let others = self.headers.iter().filter(|(name, _)| !name.starts_with(header::PREFIX));
        tell("headers", others.map(|(name, value)| format!("{name}: {}", cut(&shown(value), HEADER_LIMIT))).collect());
        let unpacked = reader.decompressed(message).map(|plain| format!(", {} unpacked", count(plain.len() as u64, "byte")));
        tell("body", vec![format!("{}{}", count(self.size as u64, "byte"), unpacked.unwrap_or_default())]);
        if self.size > 0 {
            lines.extend([String::new(), reader.shown(message)]);
        }
        lines.join("\n")
    }
}

fn told_problem(problem: &ToldProblem) -> String {
    let path = if problem.path.is_empty() { String::new() } else { format!("{}: ", problem.path) };
    let hint = if problem.hint.is_empty() { String::new() } else { format!(" (hint: {})", problem.hint) };
    format!("{path}{}{hint}", problem.problem)
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn one_line(text: &str) -> String {
    output::safe(text).replace(['\n', '\t'], " ")
}
