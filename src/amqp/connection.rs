//! Connecting: the brokers in turn, TLS, our name, and a time limit on everything.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use lapin::{
    Connection, ConnectionProperties,
    tcp::{OwnedIdentity, OwnedTLSConfig},
    uri::AMQPUri,
};
use secrecy::ExposeSecret as _;

use super::AmqpError;
use crate::config::AmqpConfig;

/// AMQP's reply code for an end without an error.
pub(super) const CLOSED_NORMALLY: u16 = 200;

/// What a connection is for: part of its name on the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Consume,
    Reject,
    Publish,
    Command,
}

impl Purpose {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Consume => "jobs",
            Self::Reject => "rejected",
            Self::Publish => "events",
            Self::Command => "command",
        }
    }
}

/// How to reach the broker. Clones share which of its hosts answered last.
#[derive(Clone)]
pub struct Broker(Arc<Inner>);

struct Inner {
    uris: Vec<AMQPUri>,
    config: AmqpConfig,
    version: &'static str,
    /// Where the next connection is tried first.
    next: AtomicUsize,
}

impl Broker {
    /// `None` when the configuration names no broker.
    pub fn new(config: &AmqpConfig, version: &'static str) -> Option<Self> {
        let url = config.url.as_ref()?;
        let mut first = url.uri().clone();
        // Whole seconds: the configuration's check holds that.
        first.query.heartbeat = Some(u16::try_from(config.heartbeat.as_secs()).unwrap_or(u16::MAX));
        if let Some(password) = &config.password {
            password.expose_secret().clone_into(&mut first.authority.userinfo.password);
        }
        let more = config.hosts.iter().map(|host| {
            let mut uri = first.clone();
            let (name, port) = host.rsplit_once(':').map_or((host.as_str(), None), |(name, port)| (name, port.parse().ok()));
            name.clone_into(&mut uri.authority.host);
            uri.authority.port = port.unwrap_or_else(|| url.default_port());
            uri
        });
        let uris: Vec<AMQPUri> = std::iter::once(first.clone()).chain(more).collect();
        let next = AtomicUsize::new(fastrand::usize(0..uris.len()));
        Some(Self(Arc::new(Inner { uris, config: config.clone(), version, next })))
    }

    /// Where it is, without the password.
    pub fn url(&self) -> String {
        self.0.config.url.as_ref().map_or_else(String::new, ToString::to_string)
    }

    /// A new connection to the first host that takes it, and that host.
    pub async fn connect(&self, purpose: Purpose) -> Result<(Connection, String), AmqpError> {
        let mut last = None;
        for _ in 0..self.0.uris.len() {
            let place = self.0.next.load(Ordering::Relaxed) % self.0.uris.len();
            let uri = &self.0.uris[place];
            match self.connect_to(uri, purpose).await {
                Ok(connection) => return Ok((connection, format!("{}:{}", uri.authority.host, uri.authority.port))),
                Err(error) => {
                    // Whoever else just failed here has moved it on already.
                    let _ = self.0.next.compare_exchange(place, place + 1, Ordering::Relaxed, Ordering::Relaxed);
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or(AmqpError::Failed { doing: "connecting", reason: "no host".to_owned() }))
    }

    async fn connect_to(&self, uri: &AMQPUri, purpose: Purpose) -> Result<Connection, AmqpError> {
        const DOING: &str = "connecting";
        let limit = self.0.config.connect_timeout;
        let name = format!("tarishi {} {} on {}", self.0.version, purpose.as_str(), host_name());
        let properties = ConnectionProperties::default()
            .with_connection_name(name.into())
            .with_client_property("product".into(), "Tarishi".into())
            .with_client_property("version".into(), self.0.version.into());
        let runtime = lapin::runtime::default_runtime().map_err(|error| AmqpError::from_lapin(DOING, &error))?;
        let connecting = Connection::connect_uri_with_config(uri.clone(), properties, self.tls().await?, runtime);
        limited(limit, DOING, connecting).await
    }

    /// Read anew for every connection: certificates are replaced while we run.
    async fn tls(&self) -> Result<OwnedTLSConfig, AmqpError> {
        let AmqpConfig { ca_file, client_certificate_file, client_key_file, .. } = &self.0.config;
        let cert_chain = match ca_file {
            Some(file) => Some(read("amqp.ca_file", file).await?),
            None => None,
        };
        let identity = match (client_certificate_file, client_key_file) {
            (Some(certificate), Some(key)) => Some(OwnedIdentity::PKCS8 {
                pem: read("amqp.client_certificate_file", certificate).await?.into_bytes(),
                key: read("amqp.client_key_file", key).await?.into_bytes(),
            }),
            _ => None,
        };
        Ok(OwnedTLSConfig { identity, cert_chain })
    }

    /// Says goodbye, so that the broker does not log a client that went away. That nothing answers any more is as good.
    pub async fn close(&self, connection: &Connection) {
        let _ = self.call("closing", connection.close(CLOSED_NORMALLY, "done".into())).await;
    }

    /// Runs one call to the broker within `amqp.call_timeout`.
    pub async fn call<T>(&self, doing: &'static str, call: impl Future<Output = lapin::Result<T>>) -> Result<T, AmqpError> {
        limited(self.0.config.call_timeout, doing, call).await
    }
}

async fn limited<T>(limit: Duration, doing: &'static str, call: impl Future<Output = lapin::Result<T>>) -> Result<T, AmqpError> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(|error| AmqpError::from_lapin(doing, &error)),
        Err(_) => Err(AmqpError::TimedOut { doing, limit }),
    }
}

async fn read(key: &'static str, file: &Path) -> Result<String, AmqpError> {
    tokio::fs::read_to_string(file).await.map_err(|error| AmqpError::File {
        key,
        path: file.display().to_string(),
        reason: error.to_string(),
    })
}

/// As the system says it; only for the connection's name.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}
