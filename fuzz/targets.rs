//! What is fuzzed, and what must hold whatever comes in. The tests include this file and run it with made-up input at every test run;
//! `fuzz/run` has libFuzzer look for worse.

use std::{path::Path, sync::LazyLock};

use serde_json::Value;
use tarishi::{
    config::{self, Config},
    intake::decode::{MissingId, Refused, decode_body},
    model::{Body, Channel, Problem, Timestamp, is_broken, plain},
    template::{Limits, LocaleDefaults, Preview, Templates},
};

/// Bytes of one rendered part. Small, so that running into it is tried too.
const OUTPUT_LIMIT: usize = 64 * 1024;
/// Bytes a problem may have: it ends up in an answer and in logs, whatever was sent.
const PROBLEM_LIMIT: usize = 2048;

static CONFIG: LazyLock<Config> = LazyLock::new(|| config::load(&config::Sources::default()).expect("the defaults are good"));

static NOW: LazyLock<Timestamp> = LazyLock::new(|| "2026-01-15T10:30:00Z".parse().expect("a moment"));

/// The templates that are shipped, and one that puts everything a template can do to all there is.
static TEMPLATES: LazyLock<[Templates; 2]> = LazyLock::new(|| {
    let limits = Limits { fuel: 50_000, output: OUTPUT_LIMIT, sms_segments: 10, push_bytes: 4096, email_clip_bytes: 102 * 1024 };
    let load = |path: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|above| above.join(path)).find(|path| path.is_dir());
        let defaults = LocaleDefaults { locale: "en".parse().expect("a language"), timezone: "UTC".parse().expect("a time zone") };
        Templates::load(&path.expect("is part of the repository"), "https://app.example.com", defaults, limits).expect("are good")
    };
    [load("templates"), load("fuzz/templates")]
});

/// Bytes that a producer sent: jobs, or every reason why not, in words that are fit for a log.
pub fn decode(bytes: &[u8]) {
    let limits = &CONFIG.intake;
    for missing_id in [MissingId::Make, MissingId::Refuse] {
        match decode_body(bytes, limits, missing_id) {
            Ok(body) => {
                assert!(!body.jobs.is_empty() && body.jobs.len() <= limits.array_limit);
                let again = decode_body(bytes, limits, missing_id).expect("was good a moment ago");
                for (one, other) in body.jobs.iter().zip(&again.jobs) {
                    assert_eq!(one.body_hash, other.body_hash, "the same bytes are the same job");
                }
            }
            Err(Refused::Malformed(problem)) => check_problem(&problem),
            Err(Refused::Invalid(problems) | Refused::MissingId(problems)) => {
                assert!(!problems.is_empty(), "refused without a reason");
                problems.iter().for_each(check_problem);
            }
            Err(Refused::TooLarge { .. }) => {}
        }
    }
}

fn check_problem(problem: &Problem) {
    let told = problem.to_string();
    assert!(told.len() <= PROBLEM_LIMIT, "{} bytes of problem", told.len());
    assert!(problem.path.starts_with('$'), "{told:?} names no member");
    assert!(!told.chars().any(is_broken), "{told:?} breaks the line it is told in");
}

/// Data of a job, as JSON or as a text to put into every member of the sample. The first three bytes say what is rendered.
pub fn render(bytes: &[u8]) {
    let Some(([which, channel, locale], rest)) = bytes.split_first_chunk() else { return };
    let Ok(rest) = std::str::from_utf8(rest) else { return };
    for templates in TEMPLATES.iter() {
        let all: Vec<_> = templates.list().collect();
        let info = &all[usize::from(*which) % all.len()];
        let data = match serde_json::from_str(rest) {
            Ok(Value::Object(data)) => data,
            _ => info.sample.iter().map(|(name, _)| (name.clone(), rest.into())).collect(),
        };
        let channels: Vec<Channel> = info.channels.iter().collect();
        let locales = [None, Some("sw"), Some("sw-TZ"), Some("ar")];
        let locale = locales[usize::from(*locale) % locales.len()];
        let preview = Preview {
            data,
            locale: locale.map(|tag| tag.parse().expect("a language")),
            timezone: Some("Africa/Dar_es_Salaam".parse().expect("a time zone")),
        };
        check_body(templates.preview(info.name, channels[usize::from(*channel) % channels.len()], &preview, *NOW));
    }
}

fn check_body(rendered: Result<Body, Problem>) {
    let body = match rendered {
        Ok(body) => body,
        Err(error) => {
            let told = error.to_string();
            assert!(told.len() <= PROBLEM_LIMIT && !told.chars().any(is_broken), "{told:?}");
            return;
        }
    };
    let parts: Vec<&str> = match &body {
        Body::Email(mail) => {
            assert!(!mail.subject.chars().any(is_broken), "{:?}", mail.subject);
            [Some(mail.subject.as_str()), mail.html.as_deref(), mail.text.as_deref()].into_iter().flatten().collect()
        }
        Body::Sms(sms) => vec![&sms.text],
        Body::Push(push) => vec![&push.title, &push.body],
        Body::Live(notification) => vec![&notification.title, &notification.message],
    };
    for part in parts {
        assert!(!part.trim().is_empty(), "an empty part");
        assert!(part.len() <= OUTPUT_LIMIT, "{} bytes", part.len());
        assert_eq!(plain(part), part, "something invisible came through");
    }
    if let Body::Email(mail) = &body {
        let html = mail.html.as_deref().unwrap_or_default();
        assert!(!html.contains("<script") && !html.contains("=\"javascript:"), "{html}");
    }
}
