//! The three providers' clouds on one loopback port: SendGrid, Twilio, FCM and the endpoint that FCM's access tokens come from.
//!
//! It holds requests against the published specifications and the providers' own rules, answers as they would or as a script says, keeps
//! what it was sent, and calls back with real signatures. It sends nothing to anybody, and knows nothing of the daemon: it is for trying
//! things out, for tests and for benches.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
};

use tokio::sync::mpsc;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

mod answer;
mod callback;
mod control;
mod exchange;
mod fcm;
mod keys;
mod record;
mod script;
mod sendgrid;
mod server;
mod socket;
mod spec;
mod token;
mod twilio;
mod webhook;

pub use callback::CallbackName;
pub use keys::MockCredentials;
pub use record::{Answered, Counts, Request};
pub use script::{Answer, ErrorCode, Fault, Provider, Rule, Script, StatusAnswer};
pub use server::Seen;

use server::{Clouds, Shared};

/// Requests kept when nobody says otherwise.
pub const DEFAULT_KEEP: usize = 100_000;

#[derive(Clone, Debug)]
pub struct MockSettings {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    pub script: Script,
    /// Every accepted message gets its usual callbacks, unless the script says which.
    pub webhooks: bool,
    /// Where SendGrid's events go. Twilio is told with each message.
    pub webhook_url: Option<String>,
    /// Requests kept to look at; with 0 there are only counts.
    pub keep: usize,
    /// Gets every request. The mock waits for room.
    pub seen: Option<mpsc::Sender<Seen>>,
}

impl Default for MockSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            script: Script::default(),
            webhooks: false,
            webhook_url: None,
            keep: DEFAULT_KEEP,
            seen: None,
        }
    }
}

/// A mock with its port and its keys, which does not answer yet: for whoever has to know both before there is a runtime.
pub struct BoundMock {
    listener: std::net::TcpListener,
    address: SocketAddr,
    clouds: Clouds,
    settings: MockSettings,
}

/// A mock that answers. Dropped, it stops.
pub struct Mock {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: DropGuard,
}

impl BoundMock {
    /// Takes the port and makes the keys, which blocks for a good part of a second.
    ///
    /// # Errors
    /// The port cannot be had, or the keys cannot be made.
    pub fn new(settings: MockSettings) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(settings.listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let base_url = format!("http://{address}");
        let (keys, credentials) = keys::generate(&base_url)?;
        let clouds = Clouds {
            token_uri: format!("{base_url}/token"),
            credentials,
            keys,
            specs: spec::Specs::compile(),
            tokens: token::Tokens::default(),
        };
        Ok(Self { listener, address, clouds, settings })
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    pub const fn credentials(&self) -> &MockCredentials {
        &self.clouds.credentials
    }

    /// Begins to answer, on the runtime it is called on.
    ///
    /// # Errors
    /// The client for callbacks cannot be made.
    pub fn serve(self) -> io::Result<Mock> {
        let Self { listener, address, clouds, settings } = self;
        let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let (clouds, record) = (Arc::new(clouds), Arc::new(record::Record::new(settings.keep)));
        let (of_webhooks, known) = (Arc::clone(&record), Arc::clone(&clouds));
        let webhooks = webhook::Webhooks::start(settings.webhook_url, known, of_webhooks, tracker.clone(), shutdown.clone())?;
        let playing = script::Playing::default();
        playing.replace(settings.script);
        let shared = Arc::new(Shared {
            clouds,
            playing,
            record,
            connections: AtomicU64::new(0),
            webhooks,
            calls_back: settings.webhooks,
            seen: settings.seen,
            tracker: tracker.clone(),
            shutdown: shutdown.clone(),
        });
        tracker.spawn(server::serve(listener, Arc::clone(&shared)));
        Ok(Mock { address, shared, stop: shutdown.drop_guard() })
    }
}

impl Mock {
    /// Starts one.
    ///
    /// # Errors
    /// The port cannot be had, or the keys cannot be made.
    pub async fn start(settings: MockSettings) -> io::Result<Self> {
        let bound = tokio::task::spawn_blocking(|| BoundMock::new(settings)).await.map_err(io::Error::other)??;
        bound.serve()
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:8090`: the `base_url` of each provider.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn credentials(&self) -> &MockCredentials {
        &self.shared.clouds.credentials
    }

    pub fn counts(&self, provider: Provider) -> Counts {
        self.shared.record.counts(provider)
    }

    /// What is kept of a provider, or of all, after the request of this number.
    pub fn requests(&self, provider: Option<Provider>, since: u64) -> Vec<Arc<Request>> {
        self.shared.record.since(provider, since)
    }

    /// Forgets requests and counts.
    pub fn clear(&self) {
        self.shared.record.clear();
    }

    pub fn set_script(&self, script: Script) {
        self.shared.playing.replace(script);
    }

    /// Ends it and everything it has under way.
    pub async fn stop(self) {
        drop(self.stop);
        self.shared.tracker.close();
        self.shared.tracker.wait().await;
    }
}
