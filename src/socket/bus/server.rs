//! Redis itself: how it is reached (one server, by way of sentinels, or a cluster) and what is asked of it, each with a time limit.

use std::{path::Path, sync::Arc, time::Duration};

use futures_util::{TryStreamExt as _, future::try_join_all, stream};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue,
    IntoConnectionInfo as _, ProtocolVersion, PushInfo, RedisConnectionInfo, RedisError, ServerErrorKind, TlsCertificates, TlsMode, Value,
    aio::MultiplexedConnection,
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    cluster_routing::{RoutingInfo, SingleNodeRoutingInfo},
    cmd, pipe,
    sentinel::{SentinelClientBuilder, SentinelServerType},
};
use secrecy::ExposeSecret as _;

use super::{outgoing::Message, wire::Names};
use crate::config::{BusConfig, RedisServers, RedisUrl};

/// Channels one command or pipeline subscribes to.
pub(super) const SUBSCRIBE_BATCH: usize = 1000;
/// Commands under way at once where each goes to a node of its own.
const CLUSTER_CONCURRENCY: usize = 64;

/// Why something did not work with Redis. Holds nothing of what was sent.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    #[error("{doing}: no answer within {limit:?}")]
    TimedOut { doing: &'static str, limit: Duration },
    /// It knows us and refuses: credentials, permissions.
    #[error("{doing}: refused: {reason}; check the user, the password and the permissions behind bus.url")]
    Refused { doing: &'static str, reason: String },
    #[error("{doing}: {reason}")]
    Failed { doing: &'static str, reason: String },
    #[error("the connection is lost")]
    Lost,
    #[error("there is no connection to Redis")]
    Unavailable,
    #[error("too much is remembered already")]
    Full,
    /// A file of the TLS settings.
    #[error("{key}: cannot read {path}: {reason}")]
    File { key: &'static str, path: String, reason: String },
}

impl BusError {
    fn from_redis(doing: &'static str, error: &RedisError) -> Self {
        let reason = error.to_string();
        match error.kind() {
            ErrorKind::AuthenticationFailed | ErrorKind::Server(ServerErrorKind::NoPerm) => Self::Refused { doing, reason },
            // What the library makes no kind of.
            _ if matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM")) => Self::Refused { doing, reason },
            _ => Self::Failed { doing, reason },
        }
    }

    /// Whether only a person can mend it.
    pub fn needs_a_person(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::File { .. })
    }
}

/// Hears of everything that comes without being asked for. Must not wait; always says that somebody listens.
pub(super) type OnPush = Box<dyn Fn(PushInfo) -> Result<(), ()> + Send + Sync>;

/// How to reach Redis.
#[derive(Debug)]
pub(super) struct Server {
    url: RedisUrl,
    config: BusConfig,
}

/// A connection. Clones share it; it ends with the last of them.
#[derive(Clone)]
pub(super) struct Connection {
    link: Link,
    /// With sharded pub/sub: a message goes to the nodes that hold its slot, not to all.
    is_sharded: bool,
    limit: Duration,
}

#[derive(Clone)]
enum Link {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Server {
    pub fn new(url: &RedisUrl, config: &BusConfig) -> Self {
        Self { url: url.clone(), config: config.clone() }
    }

    /// Where it is, without the password.
    pub fn url(&self) -> String {
        self.url.to_string()
    }

    /// Connects anew.
    pub async fn connect(&self, on_push: OnPush) -> Result<Connection, BusError> {
        const DOING: &str = "connecting";
        let certificates = self.certificates().await?;
        let limit = self.config.connect_timeout;
        let link = limited(limit, DOING, async {
            match &self.url.servers {
                RedisServers::One => self.connect_to_one(certificates, on_push).await.map(Link::One),
                RedisServers::Sentinel(name) => self.connect_by_sentinels(name, certificates, on_push).await.map(Link::One),
                RedisServers::Cluster => self.connect_to_cluster(certificates, on_push).await.map(Link::Cluster),
            }
        });
        let mut connection = Connection { link: link.await?, is_sharded: false, limit: self.config.call_timeout };
        connection.is_sharded = connection.knows_shards().await?;
        Ok(connection)
    }

    async fn connect_to_one(&self, certificates: TlsCertificates, on_push: OnPush) -> Result<MultiplexedConnection, RedisError> {
        let Some(server) = self.servers()?.pop() else { return Err(no_host()) };
        let client = if self.url.tls { Client::build_with_tls(server, certificates)? } else { Client::open(server)? };
        client.get_multiplexed_async_connection_with_config(&self.settings(on_push)).await
    }

    async fn connect_by_sentinels(
        &self,
        master: &str,
        certificates: TlsCertificates,
        on_push: OnPush,
    ) -> Result<MultiplexedConnection, RedisError> {
        let sentinels = self.url.hosts.iter().map(|host| self.address(host));
        let mut builder = SentinelClientBuilder::new(sentinels, master, SentinelServerType::Master)?
            .set_client_to_redis_protocol(ProtocolVersion::RESP3)
            .set_client_to_redis_db(i64::from(self.url.database));
        if let Some(user) = &self.url.user {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = &self.config.password {
            builder = builder.set_client_to_redis_password(password.expose_secret());
        }
        if let Some(password) = &self.config.sentinel_password {
            builder = builder.set_client_to_sentinel_password(password.expose_secret());
        }
        if self.url.tls {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates);
        }
        builder.build()?.get_async_connection_with_config(&self.settings(on_push)).await
    }

    async fn connect_to_cluster(&self, certificates: TlsCertificates, on_push: OnPush) -> Result<ClusterConnection, RedisError> {
        let call_timeout = self.config.call_timeout;
        let mut builder = ClusterClient::builder(self.servers()?)
            .use_protocol(ProtocolVersion::RESP3)
            .push_sender(on_push)
            .connection_timeout(self.config.connect_timeout)
            .response_timeout(call_timeout)
            .overall_response_timeout(Some(call_timeout));
        if self.url.tls {
            builder = builder.certs(certificates);
        }
        builder.build()?.get_async_connection().await
    }

    fn settings(&self, on_push: OnPush) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_push_sender(on_push)
            .set_connection_timeout(Some(self.config.connect_timeout))
            .set_response_timeout(Some(self.config.call_timeout))
    }

    fn servers(&self) -> Result<Vec<ConnectionInfo>, RedisError> {
        let mut login = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_lib_name("tarishi", env!("CARGO_PKG_VERSION"))
            .set_db(i64::from(self.url.database));
        if let Some(user) = &self.url.user {
            login = login.set_username(user);
        }
        if let Some(password) = &self.config.password {
            login = login.set_password(password.expose_secret());
        }
        let server = |host| Ok(self.address(host).into_connection_info()?.set_redis_settings(login.clone()));
        self.url.hosts.iter().map(server).collect()
    }

    fn address(&self, (host, port): &(String, u16)) -> ConnectionAddr {
        let (host, port) = (host.clone(), *port);
        if self.url.tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        }
    }

    /// Read anew for every connection: certificates are replaced while we run.
    async fn certificates(&self) -> Result<TlsCertificates, BusError> {
        let BusConfig { ca_file, client_certificate_file, client_key_file, .. } = &self.config;
        let root_cert = match ca_file {
            Some(file) if self.url.tls => Some(read("bus.ca_file", file).await?),
            _ => None,
        };
        let client_tls = match (client_certificate_file, client_key_file) {
            (Some(certificate), Some(key)) if self.url.tls => Some(ClientTlsConfig {
                client_cert: read("bus.client_certificate_file", certificate).await?,
                client_key: read("bus.client_key_file", key).await?,
            }),
            _ => None,
        };
        Ok(TlsCertificates { client_tls, root_cert })
    }
}

impl Connection {
    pub fn is_sharded(&self) -> bool {
        self.is_sharded
    }

    pub async fn ping(&self) -> Result<(), BusError> {
        self.ask("asking for a sign of life", &cmd("PING")).await
    }

    /// Publishes in order; of one channel at least.
    pub async fn publish(&self, names: &Names, messages: &[Arc<Message>]) -> Result<(), BusError> {
        let verb = if self.is_sharded { "SPUBLISH" } else { "PUBLISH" };
        let add = |to: &mut redis::Pipeline, message: &Message| {
            to.cmd(verb).arg(names.channel(&message.channel)).arg(message.payload.as_slice()).ignore();
        };
        let publishing = async {
            match self.link.clone() {
                Link::One(mut link) => {
                    let mut all = pipe();
                    for message in messages {
                        add(&mut all, message);
                    }
                    all.query_async::<()>(&mut link).await
                }
                Link::Cluster(link) => {
                    // What goes to one channel goes to one node, one after the other.
                    let mut by_channel = indexmap::IndexMap::<String, redis::Pipeline>::new();
                    for message in messages {
                        add(by_channel.entry(names.channel(&message.channel)).or_default(), message);
                    }
                    let all = by_channel.into_values().map(|pipeline| {
                        let mut link = link.clone();
                        async move { pipeline.query_async::<()>(&mut link).await }
                    });
                    try_join_all(all).await.map(|_| ())
                }
            }
        };
        limited(self.limit, "publishing", publishing).await
    }

    /// Up to [`SUBSCRIBE_BATCH`] channels at once.
    pub async fn subscribe(&self, channels: &[String]) -> Result<(), BusError> {
        let subscribing = async {
            match self.link.clone() {
                Link::One(mut link) if !self.is_sharded => link.subscribe(channels).await,
                Link::Cluster(mut link) if !self.is_sharded => link.subscribe(channels).await,
                Link::One(mut link) => one_each("SSUBSCRIBE", channels).query_async(&mut link).await,
                Link::Cluster(link) => {
                    each(channels, |channel| {
                        let mut link = link.clone();
                        async move { link.ssubscribe(channel).await }
                    })
                    .await
                }
            }
        };
        limited(self.limit, "subscribing", subscribing).await
    }

    /// Up to [`SUBSCRIBE_BATCH`] channels at once.
    pub async fn unsubscribe(&self, channels: &[String]) -> Result<(), BusError> {
        let unsubscribing = async {
            match self.link.clone() {
                Link::One(mut link) if !self.is_sharded => link.unsubscribe(channels).await,
                Link::Cluster(mut link) if !self.is_sharded => link.unsubscribe(channels).await,
                Link::One(mut link) => one_each("SUNSUBSCRIBE", channels).query_async(&mut link).await,
                Link::Cluster(link) => {
                    each(channels, |channel| {
                        let mut link = link.clone();
                        async move { link.sunsubscribe(channel).await }
                    })
                    .await
                }
            }
        };
        limited(self.limit, "unsubscribing", unsubscribing).await
    }

    /// Sets the key for `ttl`; false when it was set already.
    pub async fn set_once(&self, key: &str, ttl: Duration) -> Result<bool, BusError> {
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
        let answer: Value = self.ask("using a key once", cmd("SET").arg(key).arg(1).arg("NX").arg("PX").arg(ttl)).await?;
        Ok(answer == Value::Okay)
    }

    /// One command and its answer.
    pub async fn ask<T: FromRedisValue>(&self, doing: &'static str, command: &Cmd) -> Result<T, BusError> {
        let asking = async {
            match self.link.clone() {
                Link::One(mut link) => command.query_async(&mut link).await,
                Link::Cluster(mut link) => command.query_async(&mut link).await,
            }
        };
        limited(self.limit, doing, asking).await
    }

    /// Whether the server has sharded pub/sub: Redis from 7 on.
    async fn knows_shards(&self) -> Result<bool, BusError> {
        let question = cmd("COMMAND").arg("INFO").arg("SPUBLISH").take();
        let asking = async {
            let answer = match self.link.clone() {
                Link::One(mut link) => question.query_async(&mut link).await?,
                Link::Cluster(mut link) => link.route_command(question, RoutingInfo::SingleNode(SingleNodeRoutingInfo::Random)).await?,
            };
            Ok(matches!(answer, Value::Array(commands) if matches!(commands.first(), Some(Value::Array(_)))))
        };
        limited(self.limit, "asking what the server can do", asking).await
    }
}

/// One pipeline with one command for each channel: a channel of another slot in the same command would be refused by a cluster's node.
fn one_each(verb: &str, channels: &[String]) -> redis::Pipeline {
    let mut all = pipe();
    for channel in channels {
        all.cmd(verb).arg(channel).ignore();
    }
    all
}

async fn each<F: Future<Output = Result<(), RedisError>>>(channels: &[String], ask: impl Fn(String) -> F) -> Result<(), RedisError> {
    stream::iter(channels.iter().cloned().map(|channel| Ok(ask(channel)))).try_buffer_unordered(CLUSTER_CONCURRENCY).try_collect().await
}

async fn limited<T>(limit: Duration, doing: &'static str, call: impl Future<Output = Result<T, RedisError>>) -> Result<T, BusError> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) if error.is_timeout() => Err(BusError::TimedOut { doing, limit }),
        Ok(Err(error)) => Err(BusError::from_redis(doing, &error)),
        Err(_) => Err(BusError::TimedOut { doing, limit }),
    }
}

async fn read(key: &'static str, file: &Path) -> Result<Vec<u8>, BusError> {
    tokio::fs::read(file).await.map_err(|error| BusError::File { key, path: file.display().to_string(), reason: error.to_string() })
}

fn no_host() -> RedisError {
    (ErrorKind::InvalidClientConfig, "no host").into()
}
