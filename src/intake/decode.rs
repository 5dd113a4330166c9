//! Bytes to jobs: limits first, then the document, then the rules across its members. Every problem at once. Pure.

use std::borrow::Cow;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    config::IntakeConfig,
    model::{Channel, Job, JobId, Problem, decode_all},
};

/// Members of `data` that templates are given by us.
const PUSH_CONDITION_LIMIT: usize = 1024;
/// Most members `metadata` may have, and bytes of each name and value.
const METADATA_LIMIT: usize = 50;
const METADATA_VALUE_LIMIT: usize = 500;

/// A job that decoded, with what makes it the same job again.
#[derive(Clone, Debug)]
pub struct Decoded {
    pub job: Job,
    pub id: JobId,
    /// SHA-256 over the received document in canonical JSON (RFC 8785), its id left out when it came from elsewhere.
    pub body_hash: [u8; 32],
    /// W3C Trace Context, from beside the document.
    pub traceparent: Option<String>,
    /// The JSON path of the job in what was sent: `$`, in an array `$[3]`.
    pub root: Cow<'static, str>,
}

/// Why a request's body holds no jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Larger than a limit allows: 413.
    TooLarge { what: &'static str, limit: u64, key: &'static str },
    /// Not JSON at all, or nested too deep to look at.
    Malformed(Problem),
    /// A job that nothing could recognise when it comes again, and nothing else wrong.
    MissingId(Vec<Problem>),
    /// Everything that is wrong with it.
    Invalid(Vec<Problem>),
}

/// Where ids come from when a job brings none.
#[derive(Clone, Copy, Debug)]
pub enum MissingId<'a> {
    /// This one, as given beside the document. Only for a single job.
    Given(&'a JobId),
    /// One is made.
    Make,
    /// Nowhere: the job is refused.
    Refuse,
}

/// A body that is one job or an array of jobs.
#[derive(Clone, Debug)]
pub struct DecodedBody {
    pub jobs: Vec<Decoded>,
    /// An array was sent, so an array is answered.
    pub is_array: bool,
}

/// Reads one job, or an array of jobs all of which must be good.
pub fn decode_body(body: &[u8], limits: &IntakeConfig, missing_id: MissingId<'_>) -> Result<DecodedBody, Refused> {
    decode_document(parse(body, limits)?, "$", body.len(), limits, missing_id)
}

/// Reads `body` as JSON that is not nested too deep.
pub fn parse(body: &[u8], limits: &IntakeConfig) -> Result<Value, Refused> {
    check_nesting(body, limits.nesting_limit)?;
    serde_json::from_slice(body).map_err(|error| Refused::Malformed(Problem::not_json(&error)))
}

/// Reads one job, or an array of them, which stands at `root` in a body of `size` bytes.
pub fn decode_document(
    document: Value,
    root: &str,
    size: usize,
    limits: &IntakeConfig,
    missing_id: MissingId<'_>,
) -> Result<DecodedBody, Refused> {
    match document {
        Value::Array(documents) => decode_array(documents, root, limits),
        document => {
            if size as u64 > limits.job_limit.as_u64() {
                return Err(Refused::TooLarge { what: "the job", limit: limits.job_limit.as_u64(), key: "intake.job_limit" });
            }
            let decoded = decode_job(document, root, limits, missing_id)?;
            Ok(DecodedBody { jobs: vec![decoded], is_array: false })
        }
    }
}

fn decode_array(documents: Vec<Value>, root: &str, limits: &IntakeConfig) -> Result<DecodedBody, Refused> {
    if documents.is_empty() {
        return Err(Refused::Invalid(vec![Problem::new(root, "an empty array", "send at least one job")]));
    }
    if documents.len() > limits.array_limit {
        let problem = format!("{} jobs in one request", documents.len());
        let hint = format!("send at most {} (intake.array_limit)", limits.array_limit);
        return Err(Refused::Invalid(vec![Problem::new(root, problem, hint)]));
    }
    let mut jobs: Vec<Decoded> = Vec::with_capacity(documents.len());
    let (mut problems, mut without_id) = (Vec::new(), 0);
    let mut places = std::collections::HashMap::new();
    for (place, document) in documents.into_iter().enumerate() {
        let path = format!("{root}[{place}]");
        match decode_job(document, &path, limits, MissingId::Refuse) {
            Err(Refused::MissingId(found)) => {
                without_id += found.len();
                problems.extend(found);
            }
            Err(Refused::Invalid(found)) => problems.extend(found),
            Err(other) => return Err(other),
            Ok(decoded) => {
                if let Some(first) = places.insert(decoded.id.clone(), place) {
                    let problem = format!("the same id as {root}[{first}]");
                    problems.push(Problem::new(format!("{path}.id"), problem, "in an array every job needs its own id"));
                }
                jobs.push(decoded);
            }
        }
    }
    match problems.len() {
        0 => Ok(DecodedBody { jobs, is_array: true }),
        all if all == without_id => Err(Refused::MissingId(problems)),
        _ => Err(Refused::Invalid(problems)),
    }
}

fn decode_job(document: Value, root: &str, limits: &IntakeConfig, missing_id: MissingId<'_>) -> Result<Decoded, Refused> {
    let recipients = document.get("to").and_then(Value::as_array).map_or(0, Vec::len);
    if recipients > limits.recipients_limit {
        let hint = format!("send at most {} per job (intake.recipients_limit)", limits.recipients_limit);
        return Err(Refused::Invalid(vec![Problem::new(format!("{root}.to"), format!("{recipients} recipients"), hint)]));
    }
    let is_without_id = document.is_object() && document.get("id").is_none_or(Value::is_null);
    let missing = (is_without_id && matches!(missing_id, MissingId::Refuse)).then(|| missing_id_problem(root));
    let with_missing = |mut problems: Vec<Problem>| {
        problems.splice(..0, missing.clone());
        Refused::Invalid(problems)
    };
    let body_hash = canonical_hash(&document, root).map_err(with_missing)?;
    let job: Job = decode_all(document, root).map_err(with_missing)?;
    let mut problems = Vec::new();
    check_what(&job, root, &mut problems);
    check_to_whom(&job, root, &mut problems);
    check_when_and_size(&job, root, limits, &mut problems);
    if !problems.is_empty() {
        return Err(with_missing(problems));
    }
    let id = match (&job.id, missing_id) {
        (Some(id), _) | (None, MissingId::Given(id)) => id.clone(),
        (None, MissingId::Make) => made_id(root).map_err(Refused::Invalid)?,
        (None, MissingId::Refuse) => return Err(Refused::MissingId(missing.into_iter().collect())),
    };
    let root = if root == "$" { Cow::Borrowed("$") } else { Cow::Owned(root.to_owned()) };
    Ok(Decoded { job, id, body_hash, traceparent: None, root })
}

fn missing_id_problem(root: &str) -> Problem {
    let hint = if root.ends_with(']') {
        "in an array every job needs its own id"
    } else {
        "give the job an `id`, or the message a message_id: without one a redelivery could not be recognised"
    };
    Problem::new(format!("{root}.id"), "`id` is missing", hint)
}

fn made_id(root: &str) -> Result<JobId, Vec<Problem>> {
    uuid::Uuid::now_v7().to_string().parse().map_err(|reason: String| vec![Problem::new(format!("{root}.id"), reason, "send an id")])
}

/// Numbers that RFC 8785 cannot write (beyond IEEE doubles) have no canonical form.
fn canonical_hash(document: &Value, root: &str) -> Result<[u8; 32], Vec<Problem>> {
    let canonical = serde_json_canonicalizer::to_vec(document).map_err(|error| {
        vec![Problem::new(root, format!("has no canonical form (RFC 8785): {error}"), "write large numbers as strings")]
    })?;
    Ok(Sha256::digest(canonical).into())
}

fn check_what(job: &Job, root: &str, problems: &mut Vec<Problem>) {
    match (&job.template, &job.content) {
        (None, None) => problems.push(Problem::new(root, "nothing to send", "add `template` or `content`")),
        (Some(_), Some(_)) => {
            problems.push(Problem::new(format!("{root}.content"), "both `template` and `content`", "leave out one of them"));
        }
        (None, Some(content)) => {
            for (name, text) in [("title", &content.title), ("body", &content.body)] {
                if text.trim().is_empty() {
                    problems.push(Problem::new(format!("{root}.content.{name}"), "empty", "write some text"));
                }
            }
            if content.title.len() > 255 || content.title.chars().any(char::is_control) {
                let hint = "one line of at most 255 bytes: it is a mail's subject too";
                problems.push(Problem::new(format!("{root}.content.title"), "too long, or has a control character", hint));
            }
            if content.url.as_ref().is_some_and(|url| !(url.starts_with("https://") || url.starts_with("http://"))) {
                problems.push(Problem::new(format!("{root}.content.url"), "not an http(s) URL", "write it like https://app.example.com/7"));
            }
        }
        (Some(_), None) => {}
    }
}

fn check_to_whom(job: &Job, root: &str, problems: &mut Vec<Problem>) {
    let to_push = job.push_topic.is_some() || job.push_condition.is_some();
    if job.topic.is_some() {
        check_topic(job, to_push, root, problems);
    } else if job.to.is_empty() && !to_push {
        problems.push(Problem::new(format!("{root}.to"), "nobody to tell", "add at least one recipient, such as {\"user_id\": \"42\"}"));
    }
    let push_asked = job.channels.is_empty() || job.channels.contains(&Channel::Push);
    for (name, given) in [("push_topic", job.push_topic.is_some()), ("push_condition", job.push_condition.is_some())] {
        if given && !push_asked {
            problems.push(Problem::new(format!("{root}.{name}"), "`channels` has no push", "add \"push\" to `channels`"));
        }
    }
    if let Some(topic) = &job.push_topic
        && !((1..=900).contains(&topic.len()) && topic.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~%".contains(&byte)))
    {
        let hint = "letters, digits and -_.~% only, without /topics/";
        problems.push(Problem::new(format!("{root}.push_topic"), "not an FCM topic name", hint));
    }
    if job.push_condition.as_ref().is_some_and(|condition| condition.is_empty() || condition.len() > PUSH_CONDITION_LIMIT) {
        let hint = "write it like 'flats' in topics && 'dar' in topics";
        problems.push(Problem::new(format!("{root}.push_condition"), "empty or too long", hint));
    }
}

/// A topic stands instead of `to`, and is on `live` alone.
fn check_topic(job: &Job, to_push: bool, root: &str, problems: &mut Vec<Problem>) {
    if !job.to.is_empty() {
        let hint = "send the topic as a job of its own";
        problems.push(Problem::new(format!("{root}.topic"), "both `topic` and `to`", hint));
    }
    if !job.channels.is_empty() && !job.channels.contains(&Channel::Live) {
        problems.push(Problem::new(format!("{root}.topic"), "`channels` has no live", "add \"live\" to `channels`"));
    }
    let reaches = |channel: &Channel| *channel == Channel::Live || (*channel == Channel::Push && to_push);
    if let Some(place) = job.channels.iter().position(|channel| !reaches(channel)) {
        let hint = "a live topic reaches sockets; name the users in `to` for the other channels";
        problems.push(Problem::new(format!("{root}.channels[{place}]"), "not a topic's channel", hint));
    }
}

fn check_when_and_size(job: &Job, root: &str, limits: &IntakeConfig, problems: &mut Vec<Problem>) {
    if let (Some(send_at), Some(expires_at)) = (job.send_at, job.expires_at)
        && expires_at <= send_at
    {
        problems.push(Problem::new(format!("{root}.expires_at"), "not after `send_at`", "choose a later moment"));
    }
    let data = serde_json::to_vec(&job.data).map_or(0, |data| data.len() as u64);
    if data > limits.data_limit.as_u64() {
        let hint = format!("at most {} (intake.data_limit); send a link instead", limits.data_limit);
        problems.push(Problem::new(format!("{root}.data"), format!("{data} bytes"), hint));
    }
    if job.collapse_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > 255 || key.chars().any(char::is_control)) {
        let hint = "1 to 255 bytes without control characters, such as conversation-7";
        problems.push(Problem::new(format!("{root}.collapse_key"), "not a collapse key", hint));
    }
    let metadata_size = |text: &String| text.len() > METADATA_VALUE_LIMIT;
    if job.metadata.len() > METADATA_LIMIT || job.metadata.iter().any(|(name, value)| metadata_size(name) || metadata_size(value)) {
        let hint = format!("at most {METADATA_LIMIT} members of at most {METADATA_VALUE_LIMIT} bytes each");
        problems.push(Problem::new(format!("{root}.metadata"), "too large", hint));
    }
}

/// Depth is checked on the bytes, before anything is built from them.
fn check_nesting(body: &[u8], limit: usize) -> Result<(), Refused> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > limit {
            let hint = format!("at most {limit} lists and objects inside each other (intake.nesting_limit)");
            return Err(Refused::Malformed(Problem::new("$", "nested too deep", hint)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config;

    fn limits() -> IntakeConfig {
        config::load(&config::Sources::default()).unwrap().intake
    }

    #[track_caller]
    fn check(body: &str, expected: &[&str]) {
        let found: Vec<String> = match decode_body(body.as_bytes(), &limits(), MissingId::Make) {
            Ok(_) => Vec::new(),
            Err(Refused::Malformed(problem)) => vec![problem.to_string()],
            Err(Refused::Invalid(problems) | Refused::MissingId(problems)) => problems.iter().map(ToString::to_string).collect(),
            Err(Refused::TooLarge { what, .. }) => vec![format!("{what} too large")],
        };
        assert_eq!(found, expected, "{}", crate::model::cut(body, 200));
    }

    #[test]
    fn good_bodies() {
        check(r#"{"template":"generic","to":[{"user_id":42}]}"#, &[]);
        check(
            r#"[{"id":"a","template":"generic","to":[{"user_id":42}]},{"id":"b","content":{"title":"T","body":"B"},"to":[{"user_id":1}]}]"#,
            &[],
        );
        check(r#"{"content":{"title":"T","body":"B"},"push_topic":"city.dar"}"#, &[]);
    }

    #[test]
    fn bodies_that_are_no_documents() {
        check("", &["$: not JSON: EOF while parsing a value (hint: look at line 1, column 0)"]);
        check("{\"to\":}", &["$: not JSON: expected value (hint: look at line 1, column 7)"]);
        check(
            &"[".repeat(1_000_000),
            &["$: nested too deep (hint: at most 32 lists and objects inside each other (intake.nesting_limit))"],
        );
        check(
            "\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"",
            &["$: invalid type: string \"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\" (hint: expected struct Job)"],
        );
        assert!(decode_body(b"{\"template\":\"\xff\"}", &limits(), MissingId::Make).is_err());
        check(&format!("{{\"template\":\"{}\"}}", "a".repeat(5 << 20)), &["the job too large"]);
    }

    #[test]
    fn rules_across_members() {
        check(
            "{}",
            &[
                "$: nothing to send (hint: add `template` or `content`)",
                "$.to: nobody to tell (hint: add at least one recipient, such as {\"user_id\": \"42\"})",
            ],
        );
        check(
            r#"{"template":"generic","content":{"title":"","body":" "},"topic":"city.dar","to":[{"user_id":1}],"channels":["email"]}"#,
            &[
                "$.content: both `template` and `content` (hint: leave out one of them)",
                "$.topic: both `topic` and `to` (hint: send the topic as a job of its own)",
                "$.topic: `channels` has no live (hint: add \"live\" to `channels`)",
                "$.channels[0]: not a topic's channel (hint: a live topic reaches sockets; name the users in `to` for the other channels)",
            ],
        );
        check(
            r#"{"template":"generic","to":[{"user_id":1}],"channels":["email"],"push_topic":"/topics/x","send_at":"2026-01-02T00:00:00Z","expires_at":"2026-01-01T00:00:00Z"}"#,
            &[
                "$.push_topic: `channels` has no push (hint: add \"push\" to `channels`)",
                "$.push_topic: not an FCM topic name (hint: letters, digits and -_.~% only, without /topics/)",
                "$.expires_at: not after `send_at` (hint: choose a later moment)",
            ],
        );
        let large = json!({"template": "generic", "to": [{"user_id": 1}], "data": {"x": "y".repeat(70_000)}}).to_string();
        check(&large, &["$.data: 70008 bytes (hint: at most 64.0 KiB (intake.data_limit); send a link instead)"]);
        let many = json!({"template": "generic", "to": vec![json!({"user_id": 1}); 10_001]}).to_string();
        check(&many, &["$.to: 10001 recipients (hint: send at most 10000 per job (intake.recipients_limit))"]);
    }

    #[test]
    fn arrays_are_all_or_nothing_and_name_the_index() {
        check("[]", &["$: an empty array (hint: send at least one job)"]);
        check(
            r#"[{"id":"a","template":"generic","to":[{"user_id":1}]},{"template":"generic"},{"id":"a","template":"generic","to":[{"user_id":1}]},{"id":"c","to":[{"user_id":1,"email":"x"}]}]"#,
            &[
                "$[1].id: `id` is missing (hint: in an array every job needs its own id)",
                "$[1].to: nobody to tell (hint: add at least one recipient, such as {\"user_id\": \"42\"})",
                "$[2].id: the same id as $[0] (hint: in an array every job needs its own id)",
                "$[3].to[0].email: not an email address: it has no @ (hint: write one plain address like asha@example.com)",
            ],
        );
    }

    #[test]
    fn the_same_body_is_the_same_however_it_is_written() {
        let hash = |body: &str| decode_body(body.as_bytes(), &limits(), MissingId::Make).unwrap().jobs[0].body_hash;
        let one = hash(r#"{"id":"a","template":"generic","to":[{"user_id":42}],"data":{"n":1.0,"b":2}}"#);
        assert_eq!(one, hash(r#"{ "data":{"b":2,"n":1}, "to":[ {"user_id":42} ], "template":"generic", "id":"a" }"#));
        assert_ne!(one, hash(r#"{"id":"a","template":"generic","to":[{"user_id":43}],"data":{"n":1.0,"b":2}}"#));
    }
}
