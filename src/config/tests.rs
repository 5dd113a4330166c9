//! The configuration as a whole: layers, and everything wrong at once.

use std::fs;

use super::*;

/// Sources that read `text` as the file, and `env`.
pub(super) fn sources(text: &str, env: &[(&str, &str)]) -> Sources {
    let table = text.parse::<Table>().expect("the test's TOML");
    let overrides = table.into_iter().collect();
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Sources { env, overrides, ..Sources::default() }
}

pub(super) fn defaults() -> Config {
    load(&Sources::default()).expect("the defaults are good")
}

/// One line of configuration, and what is said about it; nothing when it is good.
#[track_caller]
pub(super) fn check_line(line: &str, expected: &[&str]) {
    let problems = load(&sources(line, &[])).err().unwrap_or_default();
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(told, expected, "{line}");
}

/// A line that is refused, with this in what is said.
#[track_caller]
pub(super) fn refused(line: &str, part: &str) {
    let problems = load(&sources(line, &[])).expect_err(line);
    assert!(problems.iter().any(|problem| problem.to_string().contains(part)), "{line}: {problems:?}");
}

/// A file with `text`, and `env` over it.
#[track_caller]
fn check(text: &str, env: &[(&str, &str)], expected: &[&str]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    let told = match load(&Sources { file: Some(file.path().to_owned()), ..sources("", env) }) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(|problem| problem.to_string().replace(file.path().to_str().unwrap(), "FILE")).collect(),
    };
    assert_eq!(told, expected);
}

#[test]
fn the_defaults_alone_are_good() {
    let config = defaults();
    assert_eq!(config.public.base_url, "http://127.0.0.1:8000");
    assert_eq!(config.channel.get(crate::model::Channel::Sms).concurrency, 64);
    assert_eq!(config.channel.email.retry.steps.len(), 6);
    assert_eq!(config.channel.live.providers, ["sockets"]);
    assert_eq!(config.intake.job_limit.as_u64(), 4 << 20);
}

#[test]
fn everything_wrong_is_told_at_once() {
    check(
        r#"
            [store]
            ulr = "sqlite:x"
            readers = "two"
            lease = "60"
            [amqp]
            url = "amqp://user:password@host"
            [chanel.email]
            rate = 5
            [channel.email]
            on_unknown = "retry"
            retry.steps = ["30s", "soon"]
            [chat]
            enabled = "yes"
            encryption_key = "x"
            [[auth.jwt.keys]]
            algorithm = "HS256"
            public_key_file = "x"
            [[auth.jwt.keys]]
            algorithm = "RS257"
            [intake]
            job_limit = "4 MB!"
        "#,
        &[("TARISHI__STORE__ULR", "sqlite:y"), ("TARISHI__LOG__FORMAT", "xml"), ("TARISHI_CONFIG", "not ours to judge"), ("HOME", "/")],
        &[
            "TARISHI__STORE__ULR: unknown key `ULR` (hint: did you mean `URL`?)",
            "auth.jwt.keys[1].algorithm: not a known value: `RS257` (hint: did you mean `RS256`?)",
            "chanel: unknown member `chanel` (hint: did you mean `channel`?)",
            "channel.email.on_unknown: not a known value: `retry` (hint: known here: resend, fail)",
            "channel.email.retry.steps[1]: not a duration (hint: write it with its unit, such as \"30s\", \"2m\" or \"1h 30m\")",
            "chat.enabled: invalid type: string \"yes\" (hint: write true or false, without quotes)",
            "chat.encryption_key: unknown member `encryption_key` (hint: did you mean `encryption_keys_file`?)",
            "intake.job_limit: not a size (hint: write it with its unit, such as \"64 KiB\" or \"4 MiB\")",
            "log.format: not a known value: `xml`, set by TARISHI__LOG__FORMAT (hint: known here: auto, pretty, json)",
            "store.lease: not a duration (hint: write it with its unit, such as \"30s\", \"2m\" or \"1h 30m\")",
            "store.readers: invalid type: string \"two\" (hint: write a whole number, without quotes)",
            "store.ulr: unknown member `ulr` (hint: did you mean `url`?)",
        ],
    );
}

#[test]
fn rules_across_fields_are_told_at_once_too() {
    check(
        "admin.listen = '0.0.0.0:8000'\nchannel.sms.providers = ['sockets']\n[[auth.jwt.keys]]\nalgorithm = 'HS256'\njwks_url = 'https://x'",
        &[("TARISHI__CHANNEL__EMAIL", "{ concurrency = 0 }")],
        &[
            "admin.listen: the same address and port as `public.listen` (hint: give it a port of its own, such as 127.0.0.1:8001)",
            "admin.listen: reachable from other machines, and there are no keys to protect it (hint: add an [[admin.api_keys]], or listen \
             on 127.0.0.1)",
            "channel.email.concurrency: out of bounds, set by TARISHI__CHANNEL__EMAIL (hint: between 1 and 10000000)",
            "channel.sms.providers[0]: `sockets` does not carry sms (hint: one of twilio, outbox; outbox captures instead of sending)",
            "auth.jwt.keys[0].jwks_url: HS256 is checked with a secret (hint: use `secret_file`, or the algorithm of the key: RS256, ES256 or \
             EdDSA)",
        ],
    );
}

#[test]
fn later_sources_win() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "store.readers = 3\nstore.lease = '30s'\nstore.retention = '1d'\nchannel.email.retry.steps = ['1s']").unwrap();
    let config = load(&Sources {
        file: Some(file.path().to_owned()),
        overrides: vec![("store.retention".to_owned(), "3d".into())],
        ..sources("", &[("TARISHI__STORE__LEASE", "45s"), ("TARISHI__STORE__RETENTION", "2d")])
    })
    .unwrap();
    let days = |duration: std::time::Duration| duration.as_secs() / 86400;
    assert_eq!((config.store.readers, config.store.lease.as_secs(), days(config.store.retention)), (3, 45, 3));
    assert_eq!((config.store.group_commit_limit, config.channel.email.retry.steps.len()), (4096, 1));
}

#[test]
fn the_wrong_kind_is_told_in_words_of_toml() {
    check(
        "templates.path = 3\npublic.base_url = 5\nadmin.hosts = 'x'\nbreaker.failure_ratio = 'half'\nlog = 'info'\nstore.readers = -1",
        &[],
        &[
            "admin.hosts: invalid type: string \"x\" (hint: write a list, such as [\"one\", \"two\"])",
            "breaker.failure_ratio: invalid type: string \"half\" (hint: write a number, without quotes)",
            "log: invalid type: string \"info\" (hint: expected a table)",
            "public.base_url: invalid type: integer `5` (hint: write text in quotes)",
            "store.readers: invalid value: integer `-1` (hint: write a whole number, without quotes)",
            "templates.path: invalid type: integer `3` (hint: write text in quotes)",
        ],
    );
}

#[test]
fn overrides_must_name_keys() {
    let sources = Sources { overrides: vec![("store.reader".to_owned(), 3.into())], ..Sources::default() };
    let problems = load(&sources).unwrap_err();
    assert_eq!(problems[0].to_string(), "store.reader: unknown key `reader` (hint: did you mean `readers`?)");
}

#[test]
fn broken_files_are_told_with_line_and_column() {
    check(
        "[store]\nurl = sqlite:x",
        &[("TARISHI__STORE__ULR", "x")],
        &[
            "FILE:2:7: not TOML: string values must be quoted, expected literal string (hint: see https://toml.io)",
            "TARISHI__STORE__ULR: unknown key `ULR` (hint: did you mean `URL`?)",
        ],
    );
    check("store = 5", &[], &["store: invalid type: integer `5` (hint: expected a table)"]);
    let missing = Sources { file: Some("/nowhere/tarishi.toml".into()), ..Sources::default() };
    let problems = load(&missing).unwrap_err();
    assert_eq!((problems.len(), problems[0].path.as_str()), (1, "/nowhere/tarishi.toml"));
    assert!(problems[0].hint.starts_with("check the path"));
}

#[test]
fn the_effective_configuration_can_be_read_again() {
    let config =
        load(&sources("channel.email.rate = 7\nintake.data_limit = '1500 B'\nprovider.outbox.record_file = '/tmp/x'", &[])).unwrap();
    let written = config.to_toml_masked();
    assert!(written.contains("inbox_retention = \"90d\""), "{written}");
    assert!(written.contains("steps = [\"30s\", \"2m\", "), "{written}");
    let again = load(&sources(&written, &[])).unwrap();
    assert_eq!(again.to_toml_masked(), written);
    assert_eq!((again.channel.email.rate, again.intake.data_limit.as_u64()), (Some(7), 1500));
}
