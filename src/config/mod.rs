//! The configuration: `config/default.toml`, then the operator's file, the environment and the command line over it, checked as a whole
//! before anything starts.
//!
//! Everything wrong is told at once, with its key path and what to write instead. It reads files (the configuration, secrets) and
//! nothing else: whether a folder exists or a port is free is for whoever uses it.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Table;

mod accounts;
mod address;
mod amqp;
mod auth;
mod bus;
mod chat;
mod check;
mod keys;
mod layers;
mod listener;
mod mailbox;
mod provider;
mod secret;
mod sections;
#[cfg(test)]
mod tests;
mod units;

pub use address::{ClientAddressHeader, ListenAddress, TrustedProxy, reachable};
pub use amqp::{AmqpConfig, BrokerUrl, EventsConfig, WhenFull};
pub use auth::{Algorithm, Algorithms, AuthConfig, JwtConfig, JwtKey, KeySource};
pub use bus::{BusConfig, BusUrl, RedisServers, RedisUrl};
pub use chat::{AttachmentHost, ChatConfig, ChatHookConfig, OnHookFailure, read_fernet_keys, read_secret};
pub use keys::schema;
pub use mailbox::{lettre_address, mailbox};
pub use provider::{
    FcmConfig, OutboxConfig, ProviderConfig, SendGridConfig, SmtpConfig, SmtpTls, SmtpUrl, TwilioConfig, VelocityConfig, is_loopback,
    webhook_key,
};
pub use secret::Secrets;
pub use sections::{
    AdminConfig, ApiKey, BreakerConfig, ChannelConfig, ChannelsConfig, IntakeConfig, LiveConfig, LogConfig, LogFormat, OnUnknown,
    PublicConfig, RetryConfig, Scope, ShutdownConfig, SocketConfig, StoreConfig, SuppressionsConfig, TemplatesConfig, TlsConfig,
};

use crate::model::{Problem, decode_all};

/// The file that is read when it exists and no other is named.
pub const DEFAULT_PATH: &str = "config/tarishi.toml";
/// Every key with its default and its meaning.
pub const DEFAULT_TOML: &str = include_str!("../../config/default.toml");

/// Where configuration comes from, besides the defaults; later fields win. No `Debug`: the environment may hold secrets.
#[derive(Clone, Default)]
pub struct Sources {
    pub file: Option<PathBuf>,
    /// The whole environment: `TARISHI__…` is taken from it, and `CREDENTIALS_DIRECTORY` for secrets that are systemd credentials.
    pub env: Vec<(String, String)>,
    /// From the command line, by key path: `store.url`.
    pub overrides: Vec<(String, toml::Value)>,
    /// Takes short JWT secrets.
    pub development: bool,
    /// Which secrets are fetched: who does not use one need not be allowed to read it.
    pub secrets: Secrets,
}

/// Everything an operator can set.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(title = "Tarishi configuration")]
pub struct Config {
    pub public: PublicConfig,
    pub socket: SocketConfig,
    pub live: LiveConfig,
    pub chat: ChatConfig,
    pub admin: AdminConfig,
    pub store: StoreConfig,
    pub bus: BusConfig,
    pub intake: IntakeConfig,
    pub amqp: AmqpConfig,
    pub auth: AuthConfig,
    pub channel: ChannelsConfig,
    pub breaker: BreakerConfig,
    pub provider: ProviderConfig,
    pub suppressions: SuppressionsConfig,
    pub templates: TemplatesConfig,
    pub log: LogConfig,
    pub shutdown: ShutdownConfig,
}

impl Config {
    /// The effective configuration as a file would say it, with `***` for secrets.
    #[expect(clippy::missing_panics_doc, reason = "it cannot fail: all of it has been TOML")]
    pub fn to_toml_masked(&self) -> String {
        toml::to_string(self).expect("every value came from TOML")
    }
}

/// Reads and checks everything.
///
/// # Errors
/// Every problem there is. When the file itself cannot be read, only that and what else can be told without it.
pub fn load(sources: &Sources) -> Result<Config, Vec<Problem>> {
    let (layers, mut problems) = layers::above_the_file(sources, &schema());
    let mut table = defaults_table();
    match sources.file.as_deref().map(layers::file).transpose() {
        Ok(file) => merge(&mut table, file.unwrap_or_default()),
        Err(problem) => {
            problems.insert(0, problem);
            return Err(problems);
        }
    }
    for layer in &layers {
        merge(&mut table, nested(&layer.keys, layer.value.clone()));
    }

    let decoded = decode_all::<Config>(document(toml::Value::Table(table)), "").and_then(|mut config| {
        let mut problems = check::check(&mut config);
        problems.extend(secret::resolve(&mut config, sources));
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    });
    if let Err(found) = &decoded {
        problems.extend(found.iter().cloned().map(secret::without_quotes).map(|problem| with_variable(in_words_of_toml(problem), &layers)));
    }
    match decoded {
        Ok(config) if problems.is_empty() => Ok(config),
        _ => Err(problems),
    }
}

fn defaults_table() -> Table {
    DEFAULT_TOML.parse().expect("config/default.toml is TOML, which a test holds")
}

/// Lays `over` over `base`: tables merge, all else replaces.
fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(over)) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn nested(keys: &[String], value: toml::Value) -> Table {
    let Some((last, parents)) = keys.split_last() else { return Table::new() };
    let innermost = Table::from_iter([(last.clone(), value)]);
    parents.iter().rev().fold(innermost, |table, key| Table::from_iter([(key.clone(), toml::Value::Table(table))]))
}

/// The same in JSON's terms. What JSON lacks becomes text, for the check to refuse.
fn document(value: toml::Value) -> serde_json::Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) if number.is_finite() => number.into(),
        toml::Value::Float(number) => number.to_string().into(),
        toml::Value::Boolean(flag) => flag.into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(elements) => elements.into_iter().map(document).collect(),
        toml::Value::Table(members) => members.into_iter().map(|(key, value)| (key, document(value))).collect(),
    }
}

/// serde expects Rust's types; an operator writes TOML.
fn in_words_of_toml(problem: Problem) -> Problem {
    let hint = match problem.hint.as_str() {
        "expected usize" | "expected u32" | "expected u64" => "write a whole number, without quotes",
        "expected f64" => "write a number, without quotes",
        "expected a string" | "expected path string" => "write text in quotes",
        "expected a boolean" => "write true or false, without quotes",
        "expected a sequence" => "write a list, such as [\"one\", \"two\"]",
        _ => return problem,
    };
    Problem { hint: hint.to_owned(), ..problem }
}

/// Names the environment variable that a problem's value came from: nobody finds it in a file.
fn with_variable(problem: Problem, layers: &[layers::Layer]) -> Problem {
    let within = |layer: &&layers::Layer| match problem.path.strip_prefix(&layer.keys.join(".")) {
        Some(rest) => rest.is_empty() || rest.starts_with(['.', '[']),
        None => false,
    };
    match layers.iter().rfind(within).and_then(|layer| layer.variable.as_deref()) {
        Some(variable) => Problem { problem: format!("{}, set by {variable}", problem.problem), ..problem },
        None => problem,
    }
}
