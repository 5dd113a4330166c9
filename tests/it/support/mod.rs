//! What the end-to-end tests stand on: the real binary in a folder of its own, its log, its API.
//!
//! Nothing here waits by the clock: it waits for a line in the daemon's log or for the process to end, and asks again when one comes.

mod api;
mod broker;
mod browser;
mod clouds;
mod command;
mod contract;
mod daemon;
mod load;
mod mail_server;
mod postgres;
mod process;
mod proxy;
mod rabbit;
mod redis;
mod store_file;
mod stranger;
mod tls;
mod tokens;
mod tools;

use std::path::PathBuf;

use serde_json::{Value, json};

pub use self::{
    api::{Answer, Api, problems},
    broker::{Broker, Certificates, Vhost},
    browser::Browser,
    clouds::{CARRIERS, Clouds},
    command::Commands,
    contract::{Contract, docs},
    daemon::{Daemon, Setup, own_host},
    load::{Figures, Producers},
    mail_server::MailServer,
    postgres::Postgres,
    process::{PATIENCE, Process, until},
    proxy::Proxy,
    rabbit::{Fate, Message, Rabbit, persistent, text},
    redis::Redis,
    store_file::StoreFile,
    stranger::Stranger,
    tls::{Certificate, connect, connect_tls},
    tokens::{KeyServer, Mood, Signer, claims},
    tools::{node, python},
};

/// Signs the tokens of the tests' users.
pub const SECRET: &str = "a secret that only these tests know, long enough";

/// HTTP clients want to know how TLS is done, even where they use none. Once for the process.
pub fn install_cryptography() {
    static PROVIDER: std::sync::Once = std::sync::Once::new();
    PROVIDER.call_once(|| rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap());
}

/// Whether the long forms were asked for: `tests/run --long`.
pub fn is_long() -> bool {
    std::env::var_os("TARISHI_LONG").is_some_and(|value| value == "1")
}

/// The repository's own templates.
pub fn templates() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "templates"].iter().collect()
}

/// A token that opens `user`'s sockets.
pub fn token(user: &str) -> String {
    let lifetime = std::time::Duration::from_hours(1);
    let now = tarishi::model::Timestamp::now();
    tarishi::socket::sign_development_token(&SECRET.into(), None, &user.parse().unwrap(), lifetime, now)
}

/// A recipient with an address on every channel, all of them the user's own.
pub fn recipient(user: &str) -> Value {
    let digits: u32 = user.bytes().fold(0, |sum, byte| (sum * 31 + u32::from(byte)) % 1_000_000);
    json!({
        "user_id": user,
        "email": format!("{user}@people.example"),
        "phone": format!("+255700{digits:06}"),
        "push_tokens": [format!("device-of-{user}")],
    })
}

/// A job of the `generic` template.
pub fn job(id: &str, to: &[Value], channels: &[&str]) -> Value {
    json!({
        "id": id,
        "template": "generic",
        "to": to,
        "channels": channels,
        "data": { "title": format!("About {id}"), "message": "Habari ya leo" },
    })
}
