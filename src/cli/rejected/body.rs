//! What is in the body of a rejected message, as far as it can be made out: the ids of its jobs, and something to look at. Pure.

use std::{borrow::Cow, fmt::Write as _, io::Read as _};

use flate2::read::MultiGzDecoder;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, value::RawValue};

use super::super::output;
use crate::amqp::Rejected;

/// Bytes shown of what is no text.
const SHOWN_BYTES: usize = 4096;
const BYTES_PER_LINE: usize = 16;

/// Reads bodies, none beyond a limit.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Bytes that come out of a compressed body.
    limit: u64,
}

/// The job, or the event around it, as far as it names itself.
#[derive(Deserialize)]
struct Named<'a> {
    #[serde(default)]
    id: Option<Value>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

impl Reader {
    pub const fn new(limit: u64) -> Self {
        Self { limit }
    }

    /// The ids of the jobs in it: those in the body, or the one beside it.
    pub fn ids(&self, message: &Rejected) -> Vec<String> {
        let body = self.plain(message);
        let is_event = message.content_type().is_some_and(|kind| kind.to_ascii_lowercase().starts_with("application/cloudevents"));
        let (in_body, of_event) = if is_event { ids_in_event(&body) } else { (ids_in(&body), None) };
        if !in_body.is_empty() {
            return in_body;
        }
        let beside = || message.text("cloudEvents:id").or_else(|| message.text("cloudEvents_id"));
        message.message_id().map(str::to_owned).or(of_event).or_else(beside).into_iter().collect()
    }

    /// The body without its compression, as it is when that does not come off.
    fn plain<'m>(&self, message: &'m Rejected) -> Cow<'m, [u8]> {
        self.decompressed(message).map_or(Cow::Borrowed(&message.body), Cow::Owned)
    }

    /// What is inside a gzip body.
    pub fn decompressed(&self, message: &Rejected) -> Option<Vec<u8>> {
        let encoding = message.content_encoding()?.trim().to_ascii_lowercase();
        if !matches!(encoding.as_str(), "gzip" | "x-gzip") {
            return None;
        }
        let mut plain = Vec::new();
        MultiGzDecoder::new(message.body.as_slice()).take(self.limit.saturating_add(1)).read_to_end(&mut plain).ok()?;
        (plain.len() as u64 <= self.limit).then_some(plain)
    }

    /// Something to look at: JSON laid out, text, or bytes.
    pub fn shown(&self, message: &Rejected) -> String {
        let body = self.plain(message);
        match std::str::from_utf8(&body) {
            Ok(text) if is_json(text) => output::safe(&laid_out(text)),
            Ok(text) => output::safe(text),
            Err(_) => bytes(&body),
        }
    }

    /// The body if it is JSON, every digit as it was written.
    pub fn json(&self, message: &Rejected) -> Option<Box<RawValue>> {
        serde_json::from_slice(&self.plain(message)).ok()
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

fn ids_in(body: &[u8]) -> Vec<String> {
    let is_array = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let jobs: Vec<Named<'_>> =
        if is_array { serde_json::from_slice(body).unwrap_or_default() } else { serde_json::from_slice(body).into_iter().collect() };
    jobs.into_iter().filter_map(|job| text(job.id)).collect()
}

/// Of the jobs in an event, and the event's own.
fn ids_in_event(body: &[u8]) -> (Vec<String>, Option<String>) {
    match serde_json::from_slice::<Named<'_>>(body) {
        Ok(event) => (event.data.map(|data| ids_in(data.get().as_bytes())).unwrap_or_default(), text(event.id)),
        Err(_) => (Vec::new(), None),
    }
}

fn text(value: Option<Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// JSON with a line per member. Of what was written only the white space changes: numbers keep every digit, members their order.
fn laid_out(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    let mut chars = json.chars().peekable();
    while let Some(character) = chars.next() {
        if in_string {
            out.push(character);
            in_string = is_escaped || character != '"';
            is_escaped = character == '\\' && !is_escaped;
            continue;
        }
        match character {
            ' ' | '\n' | '\r' | '\t' => {}
            '{' | '[' => {
                while chars.next_if(char::is_ascii_whitespace).is_some() {}
                out.push(character);
                if let Some(closing) = chars.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(closing);
                } else {
                    depth += 1;
                    new_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(character);
            }
            ',' => {
                out.push(',');
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            other => {
                out.push(other);
                in_string = other == '"';
            }
        }
    }
    out
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

/// The first bytes, in hexadecimal and as far as they are letters.
fn bytes(body: &[u8]) -> String {
    let mut out = String::new();
    for (line, bytes) in body[..body.len().min(SHOWN_BYTES)].chunks(BYTES_PER_LINE).enumerate() {
        let hexadecimal: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let letters: String = bytes.iter().map(|byte| if matches!(byte, b' '..=b'~') { char::from(*byte) } else { '.' }).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{:08x}  {:47}  |{letters}|", line * BYTES_PER_LINE, hexadecimal.join(" "));
    }
    if body.len() > SHOWN_BYTES {
        let _ = writeln!(out, "and {} bytes more; --raw writes all of them", body.len() - SHOWN_BYTES);
    }
    out.truncate(out.trim_end().len());
    out
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use lapin::BasicProperties;

    use super::*;

    const READER: Reader = Reader::new(1000);

    fn message(body: &[u8], properties: BasicProperties) -> Rejected {
        Rejected::of_bytes(body, properties)
    }

    #[track_caller]
    fn check_ids(body: &str, properties: BasicProperties, expected: &[&str]) {
        assert_eq!(READER.ids(&message(body.as_bytes(), properties)), expected, "{body}");
    }

    #[test]
    fn ids_are_found_where_they_are() {
        let plain = BasicProperties::default;
        let with_id = || plain().with_message_id("beside".into());
        check_ids(r#"{"id":"a"}"#, with_id(), &["a"]);
        check_ids(r#" [{"id":"a"},{"x":1},{"id":"b"}]"#, with_id(), &["a", "b"]);
        check_ids(r#"{"x":1}"#, with_id(), &["beside"]);
        check_ids(r#"{"id":7}"#, with_id(), &["beside"]);
        check_ids(r#"{"id":"a""#, with_id(), &["beside"]);
        check_ids("[1, 2]", plain(), &[]);
        check_ids("", plain(), &[]);
        let event = || plain().with_content_type("application/cloudevents+json; charset=utf-8".into());
        check_ids(r#"{"id":"e","data":{"id":"a"}}"#, event(), &["a"]);
        check_ids(r#"{"id":"e","data":{}}"#, event(), &["e"]);
        check_ids(r#"{"id":"e","data":{}}"#, event().with_message_id("beside".into()), &["beside"]);
    }

    #[test]
    fn gzip_comes_off_within_the_limit() {
        let gzip = |text: &str| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(text.as_bytes()).unwrap();
            message(&encoder.finish().unwrap(), BasicProperties::default().with_content_encoding("gzip".into()))
        };
        assert_eq!(READER.ids(&gzip(r#"{"id":"a"}"#)), ["a"]);
        assert_eq!(READER.shown(&gzip(r#"{"id":"a"}"#)), "{\n  \"id\": \"a\"\n}");
        assert!(READER.decompressed(&gzip(&"x".repeat(1001))).is_none());
        let broken = message(b"no gzip", BasicProperties::default().with_content_encoding("gzip".into()));
        assert_eq!(READER.shown(&broken), "no gzip");
    }

    #[track_caller]
    fn check_shown(body: &[u8], expected: &str) {
        assert_eq!(READER.shown(&message(body, BasicProperties::default())), expected);
    }

    #[test]
    fn bodies_are_shown_as_what_they_are() {
        check_shown(
            br#"{"b": 12345678901234567890.10,"a":[ ],"c":["x,}\"{",{}],"d":{ "e":null}}"#,
            "{\n  \"b\": 12345678901234567890.10,\n  \"a\": [],\n  \"c\": [\n    \"x,}\\\"{\",\n    {}\n  ],\n  \"d\": {\n    \"e\": null\n  }\n}",
        );
        check_shown(br#""\\""#, r#""\\""#);
        check_shown(b"not { JSON\x1b[2J", "not { JSON[2J");
        check_shown(b"", "");
        check_shown(b"caf\xe9", "00000000  63 61 66 e9                                      |caf.|");
        let long = READER.shown(&message(&[0xff; 5000], BasicProperties::default()));
        assert!(long.ends_with("\nand 904 bytes more; --raw writes all of them"), "{long}");
    }
}
