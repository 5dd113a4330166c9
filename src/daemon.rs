//! Builds and wires everything, serves, and drains. The only module that names all the concrete types; nothing here is worth a unit test.

mod authentication;
mod background;
mod listeners;
mod providers;
mod reload;
mod sockets;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use futures_util::{StreamExt as _, stream};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    listeners::load_tls,
    providers::{Probed, account_problems, probe},
};
use self::{providers::Account, sockets::Sockets};
use crate::{
    accept::Acceptor,
    admin::{self, AdminState, DevelopmentTokens, Guard, Readiness},
    amqp::Broker,
    channel::{
        Provider,
        email::unsubscribe::UnsubscribeLinks,
        outbox::{self, Outbox},
        sms::twilio,
    },
    chat::{self, Chat},
    config::{Config, ListenAddress, TemplatesConfig},
    event::{Event, emit},
    feed::EventFeed,
    intake::{amqp::AmqpIntake, http::HttpIntake},
    lane::{Carried, Carrier, Lane},
    live,
    model::{Channel, PerChannel, Problem, Revocation, Timestamp},
    socket::{self, App, Authenticator, Bus, Endpoint, ListenerCounters, ListenerSettings, Tls},
    store::{EventSettings, Store, StoreSettings, SuppressionExpiry},
    template::{Limits, LocaleDefaults, Shelf, Templates},
    webhook::{self, WebhookSettings, WebhookState},
};

/// The listeners' names, as metrics have them.
const PUBLIC_AND_ADMIN: [&str; 2] = ["public", "admin"];
/// What is left to record outcomes in once calls have been cut off.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Interrupted attempts resolved at once at start.
const RESOLVE_CONCURRENCY: usize = 256;
/// Seconds, the bounds of the attempt histogram's buckets.
const ATTEMPT_BUCKETS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Run,
    /// With tokens for whoever asks: only ever on loopback.
    Dev,
}

impl Mode {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Dev => "dev",
        }
    }
}

#[derive(Clone)]
pub struct Options {
    pub mode: Mode,
    /// With the commit.
    pub version: &'static str,
    /// Providers of whoever embeds the daemon; they stand in place of those the configuration names for their channel.
    pub providers: PerChannel<Vec<Arc<dyn Provider>>>,
}

/// Where it listens.
#[derive(Clone, Debug)]
pub struct Ready {
    pub public: Vec<ListenAddress>,
    pub admin: SocketAddr,
}

/// What cannot be started with, each with its place and a hint.
#[derive(Debug, thiserror::Error)]
#[error("{} problem(s) found", .0.len())]
pub struct Problems(pub Vec<Problem>);

/// Loads the templates as the configuration says.
///
/// # Errors
/// Everything wrong with any template.
pub fn load_templates(config: &Config) -> Result<Templates, Problems> {
    let bytes = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
    let limits = Limits {
        fuel: config.templates.fuel,
        output: bytes(config.templates.output_limit),
        sms_segments: config.templates.sms_segments_limit,
        push_bytes: bytes(config.templates.push_size_limit),
        email_clip_bytes: bytes(config.templates.email_clip_warning),
    };
    let TemplatesConfig { path, link_base_url, default_locale, default_timezone, .. } = &config.templates;
    let locale_defaults = LocaleDefaults { locale: default_locale.clone(), timezone: *default_timezone };
    Templates::load(path, link_base_url, locale_defaults, limits).map_err(Problems)
}

/// The store's settings as the configuration says.
pub fn store_settings(config: &Config) -> StoreSettings {
    StoreSettings {
        path: config.store.sqlite_path(),
        readers: config.store.readers,
        group_commit_limit: config.store.group_commit_limit,
        retention: config.store.retention,
        idempotency_retention: config.intake.idempotency_retention,
        inbox_retention: config.store.inbox_retention,
        inbox_limit: config.store.inbox_limit,
        events: config.amqp.events.enabled.then(|| EventSettings {
            statuses: config.amqp.events.statuses.iter().copied().collect(),
            limit: config.amqp.events.limit,
            when_full: config.amqp.events.when_full,
        }),
        suppression_expiry: SuppressionExpiry { bounced: config.suppressions.bounced, unregistered: config.suppressions.unregistered },
        revocation_retention: config.auth.revocation_retention,
    }
}

/// Builds, serves and drains. `shutdown` begins the drain; `stop_now` cuts it short; `reload` has files read again that may change.
/// `on_ready` is called once both listeners serve.
///
/// # Errors
/// It could not start, or the store failed beyond repair.
pub async fn run(
    config: Config,
    options: Options,
    shutdown: CancellationToken,
    stop_now: CancellationToken,
    reload: Arc<Notify>,
    on_ready: impl FnOnce(Ready) + Send,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let templates = Arc::new(Shelf::new(load_templates(&config)?, Timestamp::now()));
    let tls = load_tls(&config)?.map(Arc::new);
    let (public, admin, ready) = listeners::bind(&config).await?;
    let settings = store_settings(&config);
    let store = tokio::task::spawn_blocking(move || Store::open(settings)).await??;
    let Options { mode, version, .. } = options;
    let revocations = store.revocations_in_force().await.context("reading the revocations")?;
    let daemon = Daemon::build(config, options, templates, store, revocations, ready.clone(), started)?;
    emit(&Event::DaemonStarted {
        version,
        mode: mode.as_str(),
        public: &ready.public.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        admin: &ready.admin.to_string(),
        store: &daemon.config.store.url,
    });
    daemon.warn();
    daemon.resolve_interrupted().await?;
    Box::pin(daemon.authenticator.verifier().load_keys()).await;
    let _watcher = daemon.heed_changes(reload, tls.clone());
    daemon.start(public, admin, tls);
    daemon.readiness.serve();
    emit(&Event::DaemonReady);
    // Nobody listens unless systemd started us.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    on_ready(ready);
    let failed = tokio::select! {
        () = shutdown.cancelled() => false,
        () = daemon.store.writer_ended() => true,
    };
    if failed {
        emit(&Event::StoreFailed { doing: "writing: the writer has ended", error: "see the lines before" });
        bail!("the store's writer has ended; nothing that was acknowledged is lost");
    }
    daemon.drain(stop_now).await;
    Ok(())
}

/// Everything that lives as long as the process.
struct Daemon {
    config: Config,
    options: Options,
    store: Store,
    lanes: PerChannel<Arc<Lane>>,
    acceptor: Acceptor,
    /// Where there is a broker.
    amqp: Option<AmqpIntake>,
    /// Where there is a broker that wants events.
    feed: Option<Arc<EventFeed>>,
    outbox: Arc<Outbox>,
    templates: Arc<Shelf>,
    links: Arc<UnsubscribeLinks>,
    sockets: Sockets,
    /// Where there is a chat.
    chat: Option<Arc<Chat>>,
    listener_counters: [(&'static str, Arc<ListenerCounters>); 2],
    authenticator: Arc<Authenticator>,
    readiness: Arc<Readiness>,
    metrics: PrometheusHandle,
    addresses: Ready,
    started: Instant,
    tracker: TaskTracker,
    /// Intake takes nothing more, and background work ends.
    stop: CancellationToken,
    /// Listeners end.
    close_listeners: CancellationToken,
}

impl Daemon {
    fn build(
        config: Config,
        options: Options,
        templates: Arc<Shelf>,
        store: Store,
        revocations: Vec<Revocation>,
        addresses: Ready,
        started: Instant,
    ) -> anyhow::Result<Self> {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let sockets = Sockets::new(&config);
        let authenticator = Arc::new(authentication::authenticator(&config, &store, sockets.bus.clone(), revocations)?);
        let chat = sockets.open_chat(&config, &store, &authenticator)?;
        let outbox = Arc::new(providers::outbox(&config)?);
        let links = Arc::new(UnsubscribeLinks::new(&config.public.base_url, store.unsubscribe_key()));
        let accounts = providers::accounts(&config, &outbox)?;
        let lanes = PerChannel::from_fn(|channel| {
            let carrier = build_carrier(&config, &options, channel, &accounts, &sockets.bus);
            let own = config.channel.get(channel).clone();
            Lane::new(channel, own, config.store.lease, carrier, store.clone(), templates.clone(), links.clone())
        });
        let acceptor =
            Acceptor::new(store.clone(), templates.clone(), lanes.clone(), config.channel.clone(), config.store.lease, stop.clone());
        let broker = Broker::new(&config.amqp, env!("CARGO_PKG_VERSION"));
        let feed = broker.clone().filter(|_| config.amqp.events.enabled);
        Ok(Self {
            amqp: broker
                .map(|broker| AmqpIntake::new(broker, acceptor.clone(), store.clone(), &config.amqp, config.intake.clone(), stop.clone())),
            feed: feed.map(|broker| Arc::new(EventFeed::new(broker, store.clone(), stop.clone()))),
            metrics: metrics_recorder()?,
            readiness: Arc::default(),
            close_listeners: CancellationToken::new(),
            config,
            options,
            store,
            authenticator,
            lanes,
            acceptor,
            outbox,
            templates,
            links,
            sockets,
            chat,
            listener_counters: PUBLIC_AND_ADMIN.map(|listener| (listener, Arc::default())),
            addresses,
            started,
            tracker,
            stop,
        })
    }

    /// Channels whose only provider captures instead of sending.
    fn captures(&self) -> Vec<Channel> {
        let captures = |channel: &Channel| {
            let named = &self.config.channel.get(*channel).providers;
            self.options.providers[*channel].is_empty() && named.iter().all(|provider| provider == outbox::NAME)
        };
        Channel::ALL.into_iter().filter(captures).collect()
    }

    /// Reads again what may change: when somebody asks, and in development when the templates' files change, until what is returned is
    /// dropped.
    fn heed_changes(&self, asked: Arc<Notify>, tls: Option<Arc<Tls>>) -> Option<impl Drop + use<>> {
        let changed = Arc::new(Notify::new());
        let watcher = matches!(self.options.mode, Mode::Dev).then(|| reload::watch(&self.config.templates.path, changed.clone())).flatten();
        let config = Arc::new(self.config.clone());
        let (templates, are_watched) = (self.templates.clone(), watcher.is_some());
        self.tracker.spawn(reload::reload(asked, changed, config, tls, templates, are_watched, self.stop.clone()));
        watcher
    }

    /// What an operator should know before relying on this process.
    fn warn(&self) {
        if self.options.mode == Mode::Run {
            for channel in self.captures() {
                emit(&Event::ChannelCaptures { channel });
            }
        }
        if !self.links.is_on() && self.templates.current().list().any(|template| template.unsubscribe.is_some()) {
            emit(&Event::NoUnsubscribeLinks);
        }
        if self.config.auth.jwt.keys.is_empty() {
            emit(&Event::NoTokensAccepted);
        }
    }

    /// Attempts that an earlier run left without an outcome, before any new one begins.
    async fn resolve_interrupted(&self) -> anyhow::Result<()> {
        let interrupted = self.store.interrupted().await.context("looking for interrupted attempts")?;
        if interrupted.is_empty() {
            return Ok(());
        }
        emit(&Event::AttemptsInterrupted { count: interrupted.len() });
        stream::iter(interrupted)
            .for_each_concurrent(RESOLVE_CONCURRENCY, async |interrupted| {
                self.lanes[interrupted.delivery.channel].resolve_interrupted(interrupted).await;
            })
            .await;
        Ok(())
    }

    fn start(&self, public: Vec<Endpoint>, admin: Endpoint, tls: Option<Arc<Tls>>) {
        for (_, lane) in self.lanes.iter() {
            self.tracker.spawn(lane.clone().run());
        }
        self.acceptor.start();
        if let Some(amqp) = &self.amqp {
            self.tracker.spawn(amqp.clone().run());
        }
        if let Some(feed) = &self.feed {
            let feed = feed.clone();
            self.tracker.spawn(async move { feed.run().await });
        }
        self.tracker.spawn(background::purge(self.store.clone(), self.authenticator.clone(), self.stop.clone()));
        self.tracker.spawn(background::keep_house(self.metrics.clone(), self.store.clone(), self.stop.clone()));
        let (authenticator, stop) = (self.authenticator.clone(), self.stop.clone());
        self.tracker.spawn(async move { authenticator.verifier().keep_keys(stop).await });
        let heeding =
            background::heed_controls(self.sockets.bus.clone(), self.authenticator.clone(), self.store.clone(), self.stop.clone());
        self.tracker.spawn(heeding);
        self.sockets.run_bus(&self.config, &self.store, &self.acceptor, &self.tracker);
        self.sockets.run_marking(&self.store);
        if let Some(interval) = sd_notify::watchdog_enabled() {
            self.tracker.spawn(background::feed_watchdog(self.store.clone(), interval / 2, self.stop.clone()));
        }
        for (listener, counters) in self.listener_counters.clone() {
            self.tracker.spawn(background::tell_of_refusals(listener, counters, self.stop.clone()));
        }
        let [public_counters, admin_counters] = self.listener_counters.clone().map(|(_, counters)| counters);
        self.serve(public, self.public_app(), listeners::public_settings(&self.config.public, tls, public_counters));
        self.serve(vec![admin], listeners::app(self.admin_router()), listeners::admin_settings(&self.config.admin, admin_counters));
    }

    fn serve(&self, endpoints: Vec<Endpoint>, app: App, settings: ListenerSettings) {
        let (shutdown, tracker) = (self.close_listeners.clone(), self.tracker.clone());
        self.tracker.spawn(socket::serve(endpoints, app, settings, shutdown, tracker));
    }

    fn public_app(&self) -> App {
        let (store, authenticator, origins) = (&self.store, &self.authenticator, authentication::origins(&self.config.public));
        let live = self.sockets.live(&self.config, store, authenticator);
        let router = live::router(live.clone(), origins.clone())
            .merge(live::push_tokens::router(store.clone(), authenticator.clone(), origins.clone()))
            .merge(live::tickets::router(authenticator.clone(), origins.clone()))
            .merge(webhook::router(self.webhook_state()))
            .merge(admin::docs::public_router());
        let router = match &self.chat {
            Some(chat) => router.merge(chat::router(chat.clone(), origins)),
            None => router,
        };
        listeners::public_app(router, &live)
    }

    fn webhook_state(&self) -> WebhookState {
        let settings = WebhookSettings {
            base_url: self.config.public.base_url.clone(),
            sendgrid_public_key: self.config.provider.sendgrid.webhook_public_key.clone(),
            twilio_auth_token: self.config.provider.twilio.token.clone(),
            twilio_pace: self.lanes[Channel::Sms].pace_of(twilio::NAME),
        };
        WebhookState::new(self.store.clone(), self.templates.clone(), self.links.clone(), settings)
    }

    fn admin_router(&self) -> axum::Router {
        let key = self.config.auth.jwt.keys.first();
        let development = match (self.options.mode, key.and_then(|key| Some((key, key.secret()?)))) {
            (Mode::Dev, Some((key, secret))) => Some(DevelopmentTokens {
                secret: secret.clone(),
                kid: key.kid.clone(),
                url: format!("{}/ws/notifications/", self.config.public.socket_base(&self.addresses.public)),
            }),
            _ => None,
        };
        let state = Arc::new(AdminState {
            store: self.store.clone(),
            lanes: self.lanes.clone(),
            templates: self.templates.clone(),
            outbox: self.outbox.clone(),
            amqp: self.amqp.clone(),
            feed: self.feed.clone(),
            authenticator: self.authenticator.clone(),
            bus: self.sockets.bus.clone(),
            chat: self.chat.clone(),
            metrics: self.metrics.clone(),
            sessions: self.sockets.counters.clone(),
            listeners: self.listener_counters.clone(),
            readiness: self.readiness.clone(),
            version: self.options.version,
            mode: self.options.mode.as_str(),
            started: self.started,
            captures: self.captures(),
            development,
        });
        let intake = HttpIntake::new(self.acceptor.clone(), self.store.clone(), self.config.intake.clone());
        admin::router(state, intake, Guard::new(&self.config.admin))
    }

    /// Not ready, nothing taken, what is under way finished, the rest given back.
    async fn drain(self, stop_now: CancellationToken) {
        let deadline = self.config.shutdown.drain;
        self.readiness.drain();
        self.stop.cancel();
        self.sockets.close();
        emit(&Event::DaemonDraining { deadline_seconds: deadline.as_secs() });
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        for (_, lane) in self.lanes.iter() {
            lane.stop();
        }
        let mut interrupted = 0;
        tokio::select! {
            () = self.idle() => {}
            () = tokio::time::sleep(deadline) => interrupted = self.abort("the drain deadline is over"),
            () = stop_now.cancelled() => interrupted = self.abort("asked to stop a second time"),
        }
        if tokio::time::timeout(LAST_WORDS, self.idle()).await.is_err() {
            emit(&Event::DaemonStopped { reason: "outcomes could not be recorded; the next start resolves them as unknown" });
        }
        let mut given_back = 0;
        for (_, lane) in self.lanes.iter() {
            given_back += lane.give_back().await;
        }
        let ended = async {
            // Until then whoever asks for a socket is told to come back, instead of finding nobody.
            self.sockets.closed().await;
            self.close_listeners.cancel();
            self.tracker.close();
            self.tracker.wait().await;
        };
        tokio::select! {
            () = ended => {}
            () = tokio::time::sleep(deadline) => {}
            () = stop_now.cancelled() => {}
        }
        self.close_listeners.cancel();
        if tokio::time::timeout(LAST_WORDS, self.sockets.marked()).await.is_err() {
            emit(&Event::StoreFailed { doing: "marking live deliveries; they stay `sent` until seen", error: "no time left" });
        }
        self.store.close().await;
        emit(&Event::DaemonDrained { interrupted, given_back });
    }

    /// Resolves when nothing is being accepted any more, then nothing is under way.
    async fn idle(&self) {
        self.acceptor.idle().await;
        for (_, lane) in self.lanes.iter() {
            lane.idle().await;
        }
    }

    fn abort(&self, reason: &str) -> usize {
        emit(&Event::DaemonStopped { reason });
        self.lanes.iter().map(|(_, lane)| lane.abort()).sum()
    }
}

fn build_carrier(config: &Config, options: &Options, channel: Channel, accounts: &HashMap<String, Account>, bus: &Bus) -> Carrier {
    if channel == Channel::Live {
        return Carrier::Sockets(bus.clone());
    }
    let carried = |(provider, pace): Account| Carried::new(provider, pace, config.breaker.clone());
    let own = &options.providers[channel];
    Carrier::Providers(if own.is_empty() {
        config.channel.get(channel).providers.iter().filter_map(|name| accounts.get(name).cloned()).map(carried).collect()
    } else {
        own.iter().map(|provider| carried((provider.clone(), Arc::default()))).collect()
    })
}

/// The process has one recorder, however many daemons a test starts in it.
fn metrics_recorder() -> anyhow::Result<PrometheusHandle> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let recorder = PrometheusBuilder::new().set_buckets(&ATTEMPT_BUCKETS)?.build_recorder();
    let handle = HANDLE.get_or_init(|| recorder.handle()).clone();
    // Another thread may have been first; then its recorder stays.
    let _ = metrics::set_global_recorder(recorder);
    Ok(handle)
}
