//! Jobs to send: from a file as they are, or made from options. Every one gets an id, so that sending it again sends nothing twice.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use clap::{Args, builder::PossibleValuesParser, builder::TypedValueParser as _};
use serde_json::{Map, Value, value::RawValue};

use super::{
    failure::{Exit, Failure},
    recipient,
};
use crate::model::{Channel, Job, JobId, Priority, Recipient, Status, TemplateName, Timestamp, Topic, Version};

/// Largest input read, in bytes.
const INPUT_LIMIT: u64 = 1 << 30;
/// Recipients put into one job made here (`intake.recipients_limit`).
const RECIPIENTS_PER_JOB: usize = 10_000;
/// Jobs in one request (`intake.array_limit`), and their bytes, well below `intake.request_limit`.
const BATCH_JOBS: usize = 1000;
const BATCH_BYTES: usize = 8 << 20;
/// Jobs on their way to the broker at once, within the same bytes.
const WINDOW_JOBS: usize = 256;

/// A job, option by option.
#[derive(Args, Clone, Debug, Default)]
#[group(id = "options", multiple = true, conflicts_with = "file")]
pub struct JobArgs {
    /// Template to render
    #[arg(long, short, value_name = "NAME", help_heading = "A job from options")]
    pub template: Option<TemplateName>,
    /// Who to tell: a user id, then what the job brings of email=, phone=, push=, locale=, timezone= (repeatable)
    #[arg(long, value_name = "USER[,email=…]", value_parser = recipient::parse, help_heading = "A job from options")]
    pub to: Vec<Recipient>,
    /// File of recipients: .csv whose first line names the columns (`user_id`, `email`, `phone`, `push_tokens`, `locale`, `timezone`), or .jsonl
    #[arg(long, value_name = "FILE", help_heading = "A job from options")]
    pub recipients_file: Option<PathBuf>,
    /// Channels to use, all the template has when none is named (repeatable, or with commas)
    #[arg(long, short, value_name = "CHANNEL", value_delimiter = ',', value_parser = channels(), help_heading = "A job from options")]
    pub channel: Vec<Channel>,
    /// What the template is rendered with: name=text, name:=JSON, or @FILE with a JSON object (repeatable; later ones win)
    #[arg(long, short, value_name = "NAME=TEXT", help_heading = "A job from options")]
    pub data: Vec<String>,
    /// How soon it goes out when a channel is busy
    #[arg(long, value_name = "PRIORITY", value_parser = priorities(), help_heading = "A job from options")]
    pub priority: Option<Priority>,
    /// Not before this moment: RFC 3339, or from now on, as in 10m
    #[arg(long, value_name = "WHEN", value_parser = moment, help_heading = "A job from options")]
    pub send_at: Option<Timestamp>,
    /// No attempt after this moment: RFC 3339, or from now on
    #[arg(long, value_name = "WHEN", value_parser = moment, help_heading = "A job from options")]
    pub expires_at: Option<Timestamp>,
    /// A newer job with the same key takes the place of an older one still queued, per user and channel
    #[arg(long, value_name = "KEY", help_heading = "A job from options")]
    pub collapse_key: Option<String>,
    /// The job's id, which makes it safe to send again; made when missing
    #[arg(long, value_name = "ID", help_heading = "A job from options")]
    pub id: Option<JobId>,
    /// Live stream to publish to, instead of --to
    #[arg(long, value_name = "TOPIC", help_heading = "A job from options")]
    pub topic: Option<Topic>,
    /// FCM topic to push to, without /topics/
    #[arg(long, value_name = "TOPIC", help_heading = "A job from options")]
    pub push_topic: Option<String>,
    /// FCM condition over topics to push to
    #[arg(long, value_name = "CONDITION", help_heading = "A job from options")]
    pub push_condition: Option<String>,
    /// Your own words, kept with the job (repeatable)
    #[arg(long, value_name = "NAME=TEXT", help_heading = "A job from options")]
    pub metadata: Vec<String>,
}

pub fn channels() -> impl clap::builder::TypedValueParser<Value = Channel> {
    PossibleValuesParser::new(Channel::ALL.map(Channel::as_str)).try_map(|text| text.parse::<Channel>())
}

pub fn statuses() -> impl clap::builder::TypedValueParser<Value = Status> {
    PossibleValuesParser::new(Status::ALL.map(Status::as_str)).try_map(|text| text.parse::<Status>())
}

fn priorities() -> impl clap::builder::TypedValueParser<Value = Priority> {
    PossibleValuesParser::new(Priority::ALL.map(Priority::as_str)).try_map(|text| text.parse::<Priority>())
}

/// An RFC 3339 moment, or a time from now.
pub fn moment(text: &str) -> Result<Timestamp, String> {
    moment_at(text, Timestamp::now())
}

fn moment_at(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    match (text.parse(), humantime::parse_duration(text)) {
        (Ok(moment), _) => Ok(moment),
        (_, Ok(wait)) => Ok(now.saturating_add(wait)),
        _ => Err("neither a moment like 2026-01-15T10:30:00Z nor a time from now like 10m".to_owned()),
    }
}

impl JobArgs {
    /// The jobs these options mean: one, or as many as a long file of recipients takes.
    pub fn into_jobs(self, run: &str) -> Result<Vec<Job>, Failure> {
        let mut recipients = self.to;
        if let Some(file) = &self.recipients_file {
            recipients.extend(recipient::read(file)?);
        }
        let job = Job {
            v: Version,
            id: self.id,
            template: self.template,
            content: None,
            to: Vec::new(),
            topic: self.topic,
            push_topic: self.push_topic,
            push_condition: self.push_condition,
            channels: self.channel,
            data: data(&self.data)?,
            priority: self.priority,
            send_at: self.send_at,
            expires_at: self.expires_at,
            collapse_key: self.collapse_key,
            metadata: metadata(&self.metadata)?,
        };
        if recipients.len() <= RECIPIENTS_PER_JOB {
            return Ok(vec![Job { to: recipients, ..job }]);
        }
        // The same file and id make the same jobs with the same ids, so this too may be sent again.
        let base = job.id.as_ref().map_or(run, JobId::as_str).to_owned();
        let parts = (1..).zip(recipients.chunks(RECIPIENTS_PER_JOB));
        parts
            .map(|(number, part)| {
                let id =
                    format!("{base}-{number}").parse().map_err(|reason: String| Failure::told(Exit::Usage, &format!("--id: {reason}")))?;
                let first = Job { id: Some(id), to: part.to_vec(), ..job.clone() };
                // A push topic is told once, not once per part.
                Ok(if number == 1 { first } else { Job { push_topic: None, push_condition: None, ..first } })
            })
            .collect()
    }
}

/// Reads `--data`: `name=text`, `name:=JSON` and `@FILE`, later ones over earlier ones.
pub fn data(given: &[String]) -> Result<Map<String, Value>, Failure> {
    let mut data = Map::new();
    for one in given {
        if let Some(file) = one.strip_prefix('@') {
            data.extend(object_file(Path::new(file))?);
        } else if let Some((name, json)) = one.split_once(":=").filter(|(name, _)| !name.contains('=')) {
            let value = serde_json::from_str(json).map_err(|error| {
                Failure::usage(format!("--data {name}:= is not followed by JSON: {error}"), format!("write {name}=… for text"))
            })?;
            data.insert(name.to_owned(), value);
        } else if let Some((name, text)) = one.split_once('=') {
            data.insert(name.to_owned(), text.into());
        } else {
            return Err(Failure::usage(format!("--data `{one}` has no `=`"), "write name=text, name:=JSON or @FILE"));
        }
    }
    Ok(data)
}

/// The JSON object in a file.
pub fn object_file(file: &Path) -> Result<Map<String, Value>, Failure> {
    let text = fs::read(file).map_err(|error| Failure::unreadable(file, &error))?;
    serde_json::from_slice(&text)
        .map_err(|error| Failure::new(Exit::Failed, format!("{} does not hold a JSON object: {error}", file.display()), ""))
}

fn metadata(given: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let pairs = given.iter().map(|one| match one.split_once('=') {
        Some((name, text)) => Ok((name.to_owned(), text.to_owned())),
        None => Err(Failure::usage(format!("--metadata `{one}` has no `=`"), "write name=text")),
    });
    pairs.collect()
}

/// Jobs, each put into its final form only when its turn comes.
#[derive(Debug)]
pub struct Jobs {
    documents: Vec<Box<RawValue>>,
    /// What made ids begin with.
    run: String,
    repeat: Option<u32>,
    /// Whether sending the same again would be recognised: no id had to be made.
    pub are_repeatable: bool,
}

/// One request's worth.
#[derive(Debug)]
pub struct Batch {
    pub body: String,
    /// Which jobs these are, counted from 0.
    pub jobs: std::ops::Range<usize>,
}

/// One job, in the form in which it is sent.
#[derive(Debug)]
pub struct FinishedJob {
    pub id: String,
    pub body: String,
}

impl Jobs {
    pub fn from_options(options: JobArgs, run: String, repeat: Option<u32>) -> Result<Self, Failure> {
        let are_repeatable = options.id.is_some();
        let to_raw = |job| serde_json::value::to_raw_value(&job).map_err(|error| Failure::new(Exit::Failed, error.to_string(), ""));
        let documents = options.into_jobs(&run)?.into_iter().map(to_raw).collect::<Result<_, _>>()?;
        Ok(Self { documents, run, repeat, are_repeatable })
    }

    /// Reads one job, an array of them, or one per line, to the end before anything is sent: a broken file sends nothing.
    pub fn read(file: &Path, run: String, repeat: Option<u32>) -> Result<Self, Failure> {
        let (name, input): (Cow<'_, str>, Box<dyn io::Read>) = if file == Path::new("-") {
            ("standard input".into(), Box::new(io::stdin().lock()))
        } else {
            let opened = fs::File::open(file).map_err(|error| Failure::unreadable(file, &error))?;
            (file.display().to_string().into(), Box::new(opened))
        };
        let mut text = Vec::new();
        input.take(INPUT_LIMIT + 1).read_to_end(&mut text).map_err(|error| Failure::unreadable(file, &error))?;
        if text.len() as u64 > INPUT_LIMIT {
            return Err(Failure::new(Exit::Failed, format!("{name} is larger than 1 GiB"), "send it in parts"));
        }
        Ok(Self::new(documents(&text, &name)?, run, repeat))
    }

    fn new(documents: Vec<Box<RawValue>>, run: String, repeat: Option<u32>) -> Self {
        let has_id = |document: &RawValue| members(document).is_ok_and(|members| members.get("id").is_some_and(|id| id.get() != "null"));
        let are_repeatable = documents.iter().all(|document| has_id(document));
        Self { documents, run, repeat, are_repeatable }
    }

    pub fn len(&self) -> usize {
        self.documents.len() * self.repeat.unwrap_or(1) as usize
    }

    /// What the job at `index` is called in the input, for problems.
    pub const fn place(&self, index: usize) -> usize {
        index % self.documents.len()
    }

    /// The jobs from `first` on, as many as go into one request. A lone job is no array.
    pub fn batch(&self, first: usize) -> Result<Batch, Failure> {
        let (mut bodies, mut bytes) = (Vec::new(), 0);
        for index in first..self.len().min(first + BATCH_JOBS) {
            let FinishedJob { body, .. } = self.finished(index)?;
            bytes += body.len() + 1;
            if bytes > BATCH_BYTES && !bodies.is_empty() {
                break;
            }
            bodies.push(body);
        }
        let jobs = first..first + bodies.len();
        let body = if self.len() == 1 { bodies.concat() } else { format!("[{}]", bodies.join(",")) };
        Ok(Batch { body, jobs })
    }

    /// The jobs from `first` on, one by one, as many as are worth waiting for at once.
    pub fn window(&self, first: usize) -> Result<Vec<FinishedJob>, Failure> {
        let (mut jobs, mut bytes) = (Vec::new(), 0);
        for index in first..self.len().min(first + WINDOW_JOBS) {
            let job = self.finished(index)?;
            bytes += job.body.len();
            if bytes > BATCH_BYTES && !jobs.is_empty() {
                break;
            }
            jobs.push(job);
        }
        Ok(jobs)
    }

    /// The job at `index` with its id. What needs no id is sent byte for byte as it was written.
    fn finished(&self, index: usize) -> Result<FinishedJob, Failure> {
        let place = self.place(index);
        let document = &self.documents[place];
        let mut with_id = members(document).map_err(|error| not_a_job(place, &error.to_string()))?;
        let given = match with_id.get("id").map(|id| serde_json::from_str::<Option<String>>(id.get())) {
            Some(Err(_)) => return Err(not_a_job(place, "its `id` is not text")),
            given => given.and_then(Result::unwrap_or_default),
        };
        let made = || if self.documents.len() == 1 { self.run.clone() } else { format!("{}-{}", self.run, place + 1) };
        let id = match (given, self.repeat) {
            (Some(id), None) => return Ok(FinishedJob { id, body: document.get().to_owned() }),
            (None, None) => made(),
            (given, Some(_)) => format!("{}-{}", given.unwrap_or_else(made), index / self.documents.len() + 1),
        };
        let id_json = serde_json::value::to_raw_value(&id).map_err(|error| not_a_job(place, &error.to_string()))?;
        with_id.insert("id".into(), &id_json);
        let body = serde_json::to_string(&with_id).map_err(|error| not_a_job(place, &error.to_string()))?;
        Ok(FinishedJob { id, body })
    }
}

/// A job's members, their values as written: numbers keep every digit.
fn members(document: &RawValue) -> serde_json::Result<BTreeMap<String, &RawValue>> {
    serde_json::from_str(document.get())
}

fn not_a_job(place: usize, why: &str) -> Failure {
    let which = if place == 0 { "the first job".to_owned() } else { format!("job {}", place + 1) };
    Failure::new(Exit::Failed, format!("{which} is no job: {why}"), "see `tarishi schema job`")
}

/// One document, or several one after the other; arrays stand for their elements.
fn documents(text: &[u8], name: &str) -> Result<Vec<Box<RawValue>>, Failure> {
    let broken = |error: serde_json::Error| Failure::new(Exit::Failed, format!("{name} is not JSON: {error}"), "nothing was sent");
    let mut documents = Vec::new();
    for document in serde_json::Deserializer::from_slice(text).into_iter::<Box<RawValue>>() {
        let document = document.map_err(broken)?;
        if document.get().starts_with('[') {
            documents.extend(serde_json::from_str::<Vec<Box<RawValue>>>(document.get()).map_err(broken)?);
        } else {
            documents.push(document);
        }
    }
    if let Some(place) = documents.iter().position(|document| !document.get().starts_with('{')) {
        return Err(not_a_job(place, &format!("{name} has something else there than an object")));
    }
    if documents.is_empty() {
        return Err(Failure::new(Exit::Failed, format!("{name} holds no job"), "give one job, an array of jobs, or one job per line"));
    }
    Ok(documents)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn jobs(text: &str, repeat: Option<u32>) -> Jobs {
        Jobs::new(documents(text.as_bytes(), "here").unwrap(), "run".to_owned(), repeat)
    }

    #[track_caller]
    fn check(text: &str, repeat: Option<u32>, expected: &str) {
        assert_eq!(jobs(text, repeat).batch(0).unwrap().body, expected);
    }

    #[test]
    fn files_hold_a_job_an_array_or_lines() {
        check(r#"{"id": "a", "n": 1.10}"#, None, r#"{"id": "a", "n": 1.10}"#);
        check(r#"[{"id":"a"}]"#, None, r#"{"id":"a"}"#);
        check("{\"id\":\"a\"}\n\n{\"id\":\"b\"}\n", None, r#"[{"id":"a"},{"id":"b"}]"#);
        check(r#"[{"id":"a"},{"id":"b"}] {"id":"c"}"#, None, r#"[{"id":"a"},{"id":"b"},{"id":"c"}]"#);
    }

    #[test]
    fn ids_are_made_and_suffixed() {
        check(r#"{"n":12345678901234567890.0}"#, None, r#"{"id":"run","n":12345678901234567890.0}"#);
        check(r#"{"id":null}"#, None, r#"{"id":"run"}"#);
        check(r#"[{"n":1},{"id":"b"}]"#, None, r#"[{"id":"run-1","n":1},{"id":"b"}]"#);
        check(r#"{"id":"a"}"#, Some(2), r#"[{"id":"a-1"},{"id":"a-2"}]"#);
        check(r#"[{"id":"a"},{}]"#, Some(2), r#"[{"id":"a-1"},{"id":"run-2-1"},{"id":"a-2"},{"id":"run-2-2"}]"#);
        assert!(jobs(r#"[{"id":"a"}]"#, None).are_repeatable);
        assert!(!jobs(r#"[{"id":"a"},{}]"#, None).are_repeatable);
    }

    #[test]
    fn batches_stay_within_count_and_bytes() {
        let many = jobs(r#"{"id":"a"}"#, Some(2500));
        assert_eq!(many.batch(0).unwrap().jobs, 0..1000);
        let last = many.batch(2000).unwrap();
        assert_eq!(last.jobs, 2000..2500);
        assert!(last.body.starts_with(r#"[{"id":"a-2001"}"#) && last.body.ends_with(r#"{"id":"a-2500"}]"#));
        let large = jobs(&json!({ "id": "a", "data": { "x": "y".repeat(3 << 20) } }).to_string(), Some(3));
        assert_eq!(large.batch(0).unwrap().jobs, 0..2);
        assert_eq!(large.batch(2).unwrap().jobs, 2..3);
        let huge = jobs(&json!({ "id": "a", "data": { "x": "y".repeat(9 << 20) } }).to_string(), Some(2));
        assert_eq!(huge.batch(0).unwrap().jobs, 0..1);
    }

    #[track_caller]
    fn check_bad(text: &str, expected: &str) {
        let failure = documents(text.as_bytes(), "here").map(|documents| Jobs::new(documents, "run".to_owned(), None));
        let failure = failure.and_then(|jobs| jobs.batch(0).map(|batch| batch.body)).unwrap_err();
        assert!(format!("{failure:?}").contains(expected), "{failure:?}");
    }

    #[test]
    fn what_is_no_job_sends_nothing() {
        check_bad("", "here holds no job");
        check_bad("[]", "here holds no job");
        check_bad("{\"id\":\"a\"}\n{\"id\":", "here is not JSON: EOF while parsing a value at line 2 column 6");
        check_bad("{\"id\":\"a\"}\n7", "job 2 is no job: here has something else there than an object");
        check_bad("{\"id\":7}", "the first job is no job: its `id` is not text");
    }

    fn options(arguments: &[&str]) -> JobArgs {
        use clap::FromArgMatches as _;
        let command = JobArgs::augment_args(clap::Command::new("send").arg(clap::Arg::new("file")).no_binary_name(true));
        JobArgs::from_arg_matches(&command.try_get_matches_from(arguments).unwrap()).unwrap()
    }

    #[test]
    fn options_make_the_job_they_say() {
        let given = options(&[
            "--template=new_message",
            "--to=42,email=asha@example.com",
            "--to=43",
            "--channel=email,live",
            "--data=sender_name=Juma",
            "--data=unread_count:=3",
            "--data=link=https://x.example/?a:=b",
            "--priority=high",
            "--send-at=2026-01-15T13:30:00+03:00",
            "--collapse-key=conversation-7",
            "--id=m-1",
            "--metadata=tenant=smartdalali",
        ]);
        let made = given.into_jobs("run").unwrap();
        assert_eq!(
            serde_json::to_value(&made).unwrap(),
            json!([{
                "v": 1, "id": "m-1", "template": "new_message", "to": [{ "user_id": "42", "email": "asha@example.com" }, { "user_id": "43" }],
                "channels": ["email", "live"], "data": { "sender_name": "Juma", "unread_count": 3, "link": "https://x.example/?a:=b" },
                "priority": "high", "send_at": "2026-01-15T10:30:00Z", "collapse_key": "conversation-7",
                "metadata": { "tenant": "smartdalali" }
            }])
        );
    }

    #[test]
    fn many_recipients_become_several_jobs() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("people.csv");
        let lines: Vec<String> = (0..20_001).map(|user| user.to_string()).collect();
        fs::write(&file, format!("user_id\n{}\n", lines.join("\n"))).unwrap();
        let mut given = options(&["--template=generic", "--push-topic=all"]);
        given.recipients_file = Some(file);
        let made = given.into_jobs("run").unwrap();
        let shape: Vec<_> = made.iter().map(|job| (job.id.as_ref().unwrap().as_str(), job.to.len(), job.push_topic.is_some())).collect();
        assert_eq!(shape, [("run-1", 10_000, true), ("run-2", 10_000, false), ("run-3", 1, false)]);
    }

    #[test]
    fn bad_data_is_wrong_usage() {
        for bad in ["name", "name:={", "name:=yes"] {
            assert_eq!(data(&[bad.to_owned()]).unwrap_err().exit, Exit::Usage, "{bad}");
        }
    }

    #[test]
    fn moments_are_dates_or_from_now() {
        let now: Timestamp = "2026-01-15T10:30:00Z".parse().unwrap();
        for (text, expected) in [("2026-01-16T00:00:00Z", "2026-01-16T00:00:00Z"), ("10m", "2026-01-15T10:40:00Z")] {
            assert_eq!(moment_at(text, now).map(|moment| moment.to_string()), Ok(expected.to_owned()));
        }
        assert!(moment_at("tomorrow", now).is_err());
    }
}
