//! Redis for tests: a child with a folder and a loopback address of its own, which may be killed, stopped and started again.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use redis::{AsyncConnectionConfig, FromRedisValue};
use tempfile::TempDir;

use super::{
    daemon::own_host,
    process::{PATIENCE, until},
};

/// Below the ports that the system gives out to whoever asks for any; the host is the child's own.
const PORT: u16 = 16379;

/// A server. Dropped, it is killed, and all of it removed.
pub struct Redis {
    address: SocketAddr,
    arguments: Vec<String>,
    /// Absent while it is killed.
    child: Option<Child>,
    /// What tests have to say to it.
    login: String,
    folder: TempDir,
}

impl Redis {
    /// Starts one that forgets everything with its end.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with further arguments.
    pub async fn start_with(arguments: &[&str]) -> Self {
        let mut redis = Self::prepare(arguments);
        redis.start_again().await;
        redis
    }

    /// Where one will be, once it is started.
    pub fn prepare(arguments: &[&str]) -> Self {
        Self::prepare_at(format!("{}:{PORT}", own_host()).parse().unwrap(), arguments)
    }

    pub fn prepare_at(address: SocketAddr, arguments: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("tarishi-redis-").tempdir().unwrap();
        let arguments = arguments.iter().map(|argument| argument.replace("FOLDER", folder.path().to_str().unwrap())).collect();
        Self { address, arguments, child: None, login: String::new(), folder }
    }

    /// Tests log in so: `user:password@`.
    pub fn with_login(mut self, login: &str) -> Self {
        login.clone_into(&mut self.login);
        self
    }

    /// Starts it, after [`Self::prepare`] or [`Self::kill`], on the same address.
    pub async fn start_again(&mut self) {
        self.spawn(&[]);
        until("Redis answers", async || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "{}", std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
            self.try_ask::<String>(&["PING"]).await.ok()
        })
        .await;
    }

    /// Starts it with what comes before the common arguments, and waits for nothing.
    pub fn spawn(&mut self, first: &[&str]) {
        let (host, port) = (self.address.ip().to_string(), self.address.port().to_string());
        let log = self.folder.path().join("log");
        let mut command = Command::new("redis-server");
        command.args(first).args(["--port", &port, "--bind", &host, "--save", "", "--appendonly", "no", "--protected-mode", "no"]);
        command.args(["--dir".as_ref(), self.folder.path().as_os_str(), "--logfile".as_ref(), log.as_os_str()]);
        // Others reach it at its own address, wherever its connections to them seem to come from.
        command.args(["--replica-announce-ip", &host, "--cluster-announce-ip", &host]);
        let child = command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        assert!(self.child.replace(child).is_none(), "it runs already");
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        end(&mut self.child.take().expect("it runs"));
    }

    /// Takes all time from it: its connections stay, and nothing answers.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("it runs").id();
        assert!(Command::new("sh").arg("-c").arg(format!("kill -{name} {pid}")).status().unwrap().success());
    }

    /// One command and its answer.
    pub async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_ask(words).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    async fn try_ask<T: FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let client = redis::Client::open(format!("redis://{}{}", self.login, self.address))?;
        // The library's own limit is half a second, which a machine full of clients does not keep.
        let settings = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        let mut connection = client.get_multiplexed_async_connection_with_config(&settings).await?;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]).query_async(&mut connection).await
    }

    /// Channels of shards with subscribers.
    pub async fn shard_channels(&self) -> Vec<String> {
        let mut channels: Vec<String> = self.ask(&["PUBSUB", "SHARDCHANNELS"]).await;
        channels.sort();
        channels
    }

    /// Subscribers of one.
    pub async fn shard_subscribers(&self, channel: &str) -> usize {
        let (_, count): (String, usize) = self.ask(&["PUBSUB", "SHARDNUMSUB", channel]).await;
        count
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.child.iter_mut().for_each(end);
    }
}

fn end(child: &mut Child) {
    // It may have ended by itself, which is an end as well.
    let _ = child.kill();
    child.wait().unwrap();
}
