//! The rules no type holds: bounds, forms of texts, and what must fit together. Also brings texts into the one form the daemon compares.

use std::{collections::HashSet, fmt::Display, ops::RangeInclusive, time::Duration};

use bytesize::ByteSize;
use reqwest::Url;
use tracing_subscriber::EnvFilter;

use super::{AmqpConfig, ChannelConfig, Config, IntakeConfig, OutboxConfig, StoreConfig, units};
use crate::model::{Channel, PhoneNumber, Problem, nearest_hint};

/// Beyond this a count is a slip of the finger.
const COUNT_LIMIT: u64 = 10_000_000;
/// Ten years: longer durations overflow some calendar, and no one waits.
const DURATION_LIMIT: Duration = Duration::from_hours(10 * 365 * 24);
/// Above what any one of these may take of a machine's memory.
const SIZE_LIMIT: ByteSize = ByteSize::gib(64);
/// More readers than this wait for the disk, not for each other.
const READERS_LIMIT: u64 = 64;
/// `serde_json` reads no deeper than 128 levels, and a job's `data` is not its outermost.
const NESTING_LIMIT: u64 = 100;
/// Quorum queues take no more.
const PREFETCH_LIMIT: u64 = 2000;
/// AMQP counts heartbeats in whole seconds.
const HEARTBEAT_LEAST: Duration = Duration::from_secs(1);
const HEARTBEAT_MOST: Duration = Duration::from_mins(10);
/// Longest alphanumeric SMS sender (3GPP TS 23.040, section 9.1.2.5).
const SMS_SENDER_LIMIT: usize = 11;

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// A number, or a name of up to 11 letters and digits.
pub(super) fn is_sms_sender(name: &str) -> bool {
    let is_name = name.len() <= SMS_SENDER_LIMIT
        && name.bytes().any(|byte| byte.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b' ');
    is_name || name.parse::<PhoneNumber>().is_ok()
}

/// Who can carry a channel.
const fn carriers(channel: Channel) -> &'static [&'static str] {
    match channel {
        Channel::Email => &["sendgrid", "smtp", "outbox"],
        Channel::Sms => &["twilio", "outbox"],
        Channel::Push => &["fcm", "outbox"],
        Channel::Live => &["sockets"],
    }
}

/// Normalises `config`, and says everything that is wrong with it.
pub(super) fn check(config: &mut Config) -> Vec<Problem> {
    normalise(config);
    let mut found = Found::default();
    found.public(&config.public);
    found.admin(&config.admin, &config.public);
    found.store(&config.store);
    found.bus(&config.bus);
    found.socket(&config.socket);
    found.count("live.replay_limit", config.live.replay_limit);
    found.count("live.topics_per_connection", config.live.topics_per_connection);
    found.chat(&config.chat);
    found.intake(&config.intake);
    found.amqp(&config.amqp);
    found.auth(&config.auth);
    for channel in Channel::ALL {
        found.channel(channel, config.channel.get(channel));
    }
    found.share("breaker.failure_ratio", config.breaker.failure_ratio);
    if config.breaker.failure_ratio == 0.0 {
        found.refuse("breaker.failure_ratio", "0 would never let a provider work", "write a share above 0, such as 0.5");
    }
    found.count("breaker.minimum_calls", config.breaker.minimum_calls);
    found.duration("breaker.window", config.breaker.window);
    found.duration("breaker.open", config.breaker.open);
    found.outbox(&config.provider.outbox);
    found.accounts(config);
    found.duration("suppressions.bounced", config.suppressions.bounced);
    found.duration("suppressions.unregistered", config.suppressions.unregistered);
    found.url("templates.link_base_url", &config.templates.link_base_url);
    found.text("templates.path", &config.templates.path.to_string_lossy());
    if config.templates.fuel == 0 {
        found.refuse("templates.fuel", "must be at least 1", "leave it out for the default");
    }
    found.size("templates.output_limit", config.templates.output_limit);
    if config.templates.sms_segments_limit == 0 {
        found.refuse("templates.sms_segments_limit", "must be at least 1", "leave it out for the default");
    }
    found.size("templates.push_size_limit", config.templates.push_size_limit);
    found.size("templates.email_clip_warning", config.templates.email_clip_warning);
    found.log_level(&config.log.level);
    found.duration_or_zero("shutdown.drain", config.shutdown.drain);
    found.problems
}

fn normalise(config: &mut Config) {
    for url in [&mut config.public.base_url, &mut config.templates.link_base_url] {
        url.truncate(url.trim_end_matches('/').len());
    }
    config.chat.attachment_types.iter_mut().for_each(|media_type| media_type.make_ascii_lowercase());
    config.admin.hosts.iter_mut().for_each(|host| host.make_ascii_lowercase());
    config.admin.api_keys.iter_mut().for_each(|key| key.sha256.make_ascii_lowercase());
}

/// The problems so far, and the ways to find more.
#[derive(Default)]
pub(super) struct Found {
    problems: Vec<Problem>,
}

impl Found {
    pub(super) fn refuse(&mut self, path: impl Into<String>, problem: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(Problem::new(path, problem, hint));
    }

    fn store(&mut self, store: &StoreConfig) {
        let path = store.sqlite_path();
        let path = path.to_string_lossy();
        if !store.url.starts_with("sqlite:") {
            self.other_engine("store.url", &store.url, "postgres", "sqlite:PATH", "sqlite:var/tarishi.db");
        } else if path.is_empty() || path.ends_with('/') || path == ":memory:" {
            self.refuse(
                "store.url",
                "names no file, and accepted work must outlive the process",
                "write it like \"sqlite:var/tarishi.db\"",
            );
        } else if path.contains('?') {
            self.refuse("store.url", "takes no settings after `?`", "write it like \"sqlite:var/tarishi.db\"");
        }
        self.within("store.readers", store.readers, 1..=READERS_LIMIT);
        self.count("store.group_commit_limit", store.group_commit_limit);
        self.duration("store.lease", store.lease);
        self.duration("store.retention", store.retention);
        self.duration("store.inbox_retention", store.inbox_retention);
        self.count("store.inbox_limit", store.inbox_limit as usize);
    }

    /// A URL of an engine we do not have. The URL is not quoted: it may carry a password.
    fn other_engine(&mut self, path: &str, url: &str, planned: &str, form: &str, example: &str) {
        match url.split_once(':') {
            Some((scheme, _)) if scheme.starts_with(planned) => {
                self.refuse(path, format!("{scheme}: is not built into this version"), format!("use {form}, such as \"{example}\""));
            }
            _ => self.refuse(
                path,
                format!("does not begin with `{}`", form.trim_end_matches("PATH")),
                format!("write it like \"{example}\""),
            ),
        }
    }

    fn intake(&mut self, intake: &IntakeConfig) {
        self.duration("intake.idempotency_retention", intake.idempotency_retention);
        self.count("intake.recipients_limit", intake.recipients_limit);
        self.count("intake.array_limit", intake.array_limit);
        self.within("intake.nesting_limit", intake.nesting_limit, 1..=NESTING_LIMIT);
        let rising = [
            ("intake.data_limit", intake.data_limit),
            ("intake.job_limit", intake.job_limit),
            ("intake.request_limit", intake.request_limit),
            ("intake.in_flight_limit", intake.in_flight_limit),
        ];
        for (path, size) in rising {
            self.size(path, size);
        }
        for pair in rising.windows(2) {
            let [(inner_path, inner), (outer_path, outer)] = pair else { continue };
            if inner > outer {
                let least = units::size::written(*inner);
                self.refuse(*outer_path, format!("smaller than `{inner_path}`"), format!("at least \"{least}\", or lower `{inner_path}`"));
            }
        }
    }

    fn amqp(&mut self, amqp: &AmqpConfig) {
        self.within("amqp.prefetch", amqp.prefetch, 1..=PREFETCH_LIMIT);
        self.bounded("amqp.heartbeat", (HEARTBEAT_LEAST..=HEARTBEAT_MOST).contains(&amqp.heartbeat), "1s", "10m");
        self.duration("amqp.connect_timeout", amqp.connect_timeout);
        self.duration("amqp.call_timeout", amqp.call_timeout);
        self.count("amqp.events.limit", amqp.events.limit);
        for (index, host) in amqp.hosts.iter().enumerate() {
            let (name, port) = host.rsplit_once(':').map_or((host.as_str(), None), |(name, port)| (name, Some(port)));
            let is_name = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || matches!(c, '/' | '@'));
            if !is_name || port.is_some_and(|port| port.parse::<u16>().is_err()) {
                self.refuse(format!("amqp.hosts[{index}]"), "not a host or host:port", "write it like \"rabbit-2.internal:5672\"");
            }
        }
        if amqp.events.statuses.is_empty() {
            self.refuse("amqp.events.statuses", "empty", "name some, or set `amqp.events.enabled = false`");
        }
        if amqp.events.enabled && amqp.url.is_none() {
            self.refuse("amqp.events.enabled", "there is no broker to publish to", "set `amqp.url`");
        }
        if amqp.client_certificate_file.is_some() != amqp.client_key_file.is_some() {
            let hint = "set both `client_certificate_file` and `client_key_file`, or neither";
            self.refuse("amqp", "a client certificate and its key go together", hint);
        }
        let uses_tls = amqp.url.as_ref().is_none_or(super::BrokerUrl::is_tls);
        let tls_keys = [("ca_file", &amqp.ca_file), ("client_certificate_file", &amqp.client_certificate_file)];
        for (key, _) in tls_keys.into_iter().filter(|(_, file)| !uses_tls && file.is_some()) {
            self.refuse(format!("amqp.{key}"), "has no meaning without TLS", "write the URL with amqps://");
        }
    }

    fn channel(&mut self, channel: Channel, config: &ChannelConfig) {
        let path = |key: &str| format!("channel.{channel}.{key}");
        self.providers(channel, &config.providers);
        self.count(&path("concurrency"), config.concurrency);
        self.count(&path("queue"), config.queue);
        if let Some(rate) = config.rate {
            self.count(&path("rate"), rate);
        }
        self.duration(&path("expires"), config.expires);
        self.duration(&path("call_timeout"), config.call_timeout);
        if config.retry.steps.is_empty() {
            self.refuse(path("retry.steps"), "empty", "write at least one wait, such as [\"30s\"]");
        }
        for (index, step) in config.retry.steps.iter().enumerate() {
            self.duration(&path(&format!("retry.steps[{index}]")), *step);
        }
        self.count(&path("retry.attempts"), config.retry.attempts);
    }

    fn providers(&mut self, channel: Channel, providers: &[String]) {
        let path = format!("channel.{channel}.providers");
        let own = carriers(channel);
        let hint = match channel {
            Channel::Live => "write [\"sockets\"]".to_owned(),
            Channel::Email | Channel::Sms | Channel::Push => format!("one of {}; outbox captures instead of sending", own.join(", ")),
        };
        if providers.is_empty() {
            self.refuse(&path, "empty: nobody would carry it", &hint);
        }
        self.unique(providers.iter().map(|name| Some(name.as_str())), |index| format!("{path}[{index}]"));
        for (index, name) in providers.iter().enumerate() {
            let at = format!("{path}[{index}]");
            if own.contains(&name.as_str()) {
                continue;
            }
            if Channel::ALL.into_iter().any(|other| carriers(other).contains(&name.as_str())) {
                self.refuse(at, format!("`{name}` does not carry {channel}"), &hint);
            } else {
                self.refuse(at, format!("unknown provider `{}`", crate::model::cut(name, 80)), nearest_hint(name, own));
            }
        }
    }

    fn outbox(&mut self, outbox: &OutboxConfig) {
        self.within("provider.outbox.keep", outbox.keep, 0..=COUNT_LIMIT);
        self.share("provider.outbox.chaos", outbox.chaos);
        self.sender("provider.outbox.from", &outbox.from);
        if !is_sms_sender(&outbox.sms_from) {
            let hint = "write a phone number like +255712345678, or up to 11 letters and digits";
            self.refuse("provider.outbox.sms_from", "not an SMS sender", hint);
        }
        if outbox.record_file.as_ref().is_some_and(|file| file.as_os_str().is_empty()) {
            self.refuse("provider.outbox.record_file", "empty", "name a file, or leave it out");
        }
    }

    fn log_level(&mut self, level: &str) {
        let hint = "write it like \"info\" or \"info,tarishi::store=debug\"";
        if level.trim().is_empty() {
            self.refuse("log.level", "empty", hint);
        } else if EnvFilter::builder().parse(level).is_err() {
            self.refuse("log.level", "not a log level", hint);
        }
        // To the parser a lone word that is no level is a module with everything on: `inof` would log nothing.
        for word in level.split(',').map(str::trim).filter(|word| word.bytes().all(|byte| byte.is_ascii_alphanumeric())) {
            if !word.is_empty() && !LEVELS.iter().any(|known| word.eq_ignore_ascii_case(known)) {
                self.refuse("log.level", format!("`{word}` is not a level"), nearest_hint(&word.to_lowercase(), &LEVELS));
            }
        }
    }

    pub(super) fn url(&mut self, path: &str, text: &str) {
        let after_scheme = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        let is_web = after_scheme.is_some_and(|rest| !rest.starts_with('/'));
        let is_plain = !text.contains(|c: char| c.is_whitespace() || matches!(c, '@' | '?' | '#'));
        let good = is_web && is_plain && Url::parse(text).is_ok();
        if !good {
            self.refuse(path, "not an http(s) URL without user, query and fragment", "write it like \"https://notify.example.com\"");
        }
    }

    pub(super) fn text(&mut self, path: &str, text: &str) {
        if text.trim().is_empty() {
            self.refuse(path, "empty", "give it a value");
        }
    }

    pub(super) fn unique<'a>(&mut self, values: impl Iterator<Item = Option<&'a str>>, path: impl Fn(usize) -> String) {
        let mut seen = HashSet::new();
        for (index, value) in values.enumerate() {
            if value.is_some_and(|value| !seen.insert(value)) {
                self.refuse(path(index), "the same as an earlier one", "remove one of them");
            }
        }
    }

    pub(super) fn count(&mut self, path: &str, count: impl TryInto<u64>) {
        self.within(path, count, 1..=COUNT_LIMIT);
    }

    pub(super) fn within(&mut self, path: &str, count: impl TryInto<u64>, range: RangeInclusive<u64>) {
        let inside = count.try_into().is_ok_and(|count| range.contains(&count));
        self.bounded(path, inside, range.start(), range.end());
    }

    pub(super) fn share(&mut self, path: &str, share: f64) {
        self.bounded(path, (0.0..=1.0).contains(&share), 0, 1);
    }

    pub(super) fn size(&mut self, path: &str, size: ByteSize) {
        self.bounded(path, size > ByteSize(0) && size <= SIZE_LIMIT, "1 B", units::size::written(SIZE_LIMIT));
    }

    pub(super) fn duration(&mut self, path: &str, duration: Duration) {
        self.bounded(path, !duration.is_zero() && duration <= DURATION_LIMIT, "1ms", "3650d");
    }

    pub(super) fn duration_or_zero(&mut self, path: &str, duration: Duration) {
        self.bounded(path, duration <= DURATION_LIMIT, "0s", "3650d");
    }

    pub(super) fn bounded(&mut self, path: &str, inside: bool, least: impl Display, most: impl Display) {
        if !inside {
            self.refuse(path, "out of bounds", format!("between {least} and {most}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{
        load,
        tests::{check_line as check, refused, sources},
    };

    #[test]
    fn zero_and_too_much_are_out_of_bounds() {
        check("channel.email.concurrency = 0", &["channel.email.concurrency: out of bounds (hint: between 1 and 10000000)"]);
        check("store.readers = 65", &["store.readers: out of bounds (hint: between 1 and 64)"]);
        check("store.lease = '0s'", &["store.lease: out of bounds (hint: between 1ms and 3650d)"]);
        check("store.retention = '20y'", &["store.retention: out of bounds (hint: between 1ms and 3650d)"]);
        check("public.send_queue_limit = '0 B'", &["public.send_queue_limit: out of bounds (hint: between 1 B and 64 GiB)"]);
        check("breaker.failure_ratio = 1.5", &["breaker.failure_ratio: out of bounds (hint: between 0 and 1)"]);
        check("channel.sms.rate = 0", &["channel.sms.rate: out of bounds (hint: between 1 and 10000000)"]);
        check("channel.sms.retry.steps = ['1s', '0s']", &["channel.sms.retry.steps[1]: out of bounds (hint: between 1ms and 3650d)"]);
        refused("channel.push.queue = 0", "channel.push.queue: out of bounds");
        refused("channel.push.retry.attempts = 0", "channel.push.retry.attempts: out of bounds");
        refused("channel.push.retry.steps = []", "channel.push.retry.steps: empty");
        refused("intake.nesting_limit = 0", "intake.nesting_limit: out of bounds");
        refused("breaker.failure_ratio = 0", "0 would never let a provider work");
        refused("provider.outbox.chaos = nan", "provider.outbox.chaos: ");
        refused("provider.outbox.chaos = -0.1", "provider.outbox.chaos: out of bounds");
        refused("templates.fuel = 0", "templates.fuel: must be at least 1");
        check("channel.email.expires = '45d'", &[]);
        check("shutdown.drain = '0s'", &[]);
        check("provider.outbox.chaos = 1", &[]);
    }

    #[test]
    fn urls_lose_their_trailing_slash() {
        let config = load(&sources("public.base_url = 'https://x.example/notify/'\ntemplates.link_base_url = 'http://y//'", &[])).unwrap();
        assert_eq!((config.public.base_url.as_str(), config.templates.link_base_url.as_str()), ("https://x.example/notify", "http://y"));
        refused("public.base_url = 'notify.example.com'", "public.base_url: not an http(s) URL");
        refused("public.base_url = 'https://x.example/?a=1'", "public.base_url: not an http(s) URL");
        refused("public.base_url = 'https:///x.example'", "public.base_url: not an http(s) URL");
        refused("templates.link_base_url = 'ftp://x.example'", "templates.link_base_url: not an http(s) URL");
    }

    #[test]
    fn engines_we_do_not_have_are_told_without_their_passwords() {
        check(
            "store.url = 'postgres://user:password@host/db'",
            &["store.url: postgres: is not built into this version (hint: use sqlite:PATH, such as \"sqlite:var/tarishi.db\")"],
        );
        check("store.url = 'tarishi.db'", &["store.url: does not begin with `sqlite:` (hint: write it like \"sqlite:var/tarishi.db\")"]);
        refused("store.url = 'sqlite:'", "store.url: names no file");
        refused("store.url = 'sqlite::memory:'", "store.url: names no file");
        refused("store.url = 'sqlite:a.db?mode=ro'", "store.url: takes no settings");
        refused("bus.url = 'memory:x'", "bus.url: nothing may follow");
        refused("bus.url = 'nats:'", "bus.url: does not begin with memory:");
    }

    #[test]
    fn limits_hold_each_other() {
        check(
            "intake.job_limit = '32 MiB'",
            &["intake.request_limit: smaller than `intake.job_limit` (hint: at least \"32 MiB\", or lower `intake.job_limit`)"],
        );
        refused("intake.in_flight_limit = '1 MiB'", "intake.in_flight_limit: smaller than `intake.request_limit`");
    }

    #[test]
    fn brokers_are_written_as_they_are_used() {
        check("amqp.url = 'amqp://tarishi:secret@rabbit/'\namqp.events.enabled = true", &[]);
        check(
            "amqp.url = 'rabbit'",
            &[
                "amqp.url: does not begin with amqp:// or amqps:// (hint: write it like \"amqp://tarishi@rabbit.internal:5672/vhost\", or amqps:// for TLS)",
            ],
        );
        check("amqp.events.enabled = true", &["amqp.events.enabled: there is no broker to publish to (hint: set `amqp.url`)"]);
        check("amqp.prefetch = 0", &["amqp.prefetch: out of bounds (hint: between 1 and 2000)"]);
        check("amqp.hosts = ['rabbit:port']", &["amqp.hosts[0]: not a host or host:port (hint: write it like \"rabbit-2.internal:5672\")"]);
        refused("amqp.events.statuses = []", "amqp.events.statuses: empty");
        refused("amqp.url = 'amqp://rabbit'\namqp.ca_file = 'ca.pem'", "amqp.ca_file: has no meaning without TLS");
        refused("amqp.url = 'amqps://rabbit'\namqp.client_key_file = 'a.key'", "amqp: a client certificate and its key go together");
        refused("amqp.password_file = 'none'\namqp.password_credential = 'none'", "amqp: has more than one password");
    }

    #[test]
    fn providers_are_those_there_are() {
        check(
            "channel.email.providers = ['sockets', 'outbox']",
            &[
                "channel.email.providers[0]: `sockets` does not carry email (hint: one of sendgrid, smtp, outbox; outbox captures instead of sending)",
            ],
        );
        check(
            "channel.sms.providers = ['sockets']",
            &["channel.sms.providers[0]: `sockets` does not carry sms (hint: one of twilio, outbox; outbox captures instead of sending)"],
        );
        check(
            "channel.live.providers = ['outbox']",
            &["channel.live.providers[0]: `outbox` does not carry live (hint: write [\"sockets\"])"],
        );
        check(
            "channel.push.providers = []",
            &["channel.push.providers: empty: nobody would carry it (hint: one of fcm, outbox; outbox captures instead of sending)"],
        );
        check(
            "channel.push.providers = ['outbox', 'outbox']",
            &["channel.push.providers[1]: the same as an earlier one (hint: remove one of them)"],
        );
        check(
            "channel.push.providers = ['outbx']",
            &["channel.push.providers[0]: unknown provider `outbx` (hint: did you mean `outbox`?)"],
        );
    }

    #[test]
    fn senders_are_addresses() {
        refused("provider.outbox.from = 'nobody'", "provider.outbox.from: not a sender address");
        check("provider.outbox.from = 'tarishi@example.com'", &[]);
        check("provider.outbox.sms_from = 'Tarishi'", &[]);
        refused("provider.outbox.sms_from = '0712345678'", "provider.outbox.sms_from: not an SMS sender");
        refused("provider.outbox.sms_from = 'Tarishi Notifications'", "provider.outbox.sms_from: not an SMS sender");
    }

    #[test]
    fn log_levels_are_levels() {
        check("log.level = 'info,tarishi::store=debug,hyper=off'", &[]);
        check("log.level = 'INFO'", &[]);
        check("log.level = 'inof'", &["log.level: `inof` is not a level (hint: did you mean `info`?)"]);
        refused("log.level = 'tarishi=loud'", "log.level: not a log level");
        refused("log.level = ''", "log.level: empty");
    }
}
