//! `tarishi run`, and what it shares with `dev`: the runtime, the log and the signals.

use std::{sync::Arc, time::Duration};

use clap::Args;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;

use super::{
    VERSION,
    failure::{Exit, Failure},
    log,
    settings::{self, GlobalArgs},
};
use crate::{
    channel::Provider,
    config::{Config, Sources},
    daemon::{self, Mode, Options, Ready},
    model::PerChannel,
};

/// What still runs when the daemon has returned gets this long; all that matters is written by then.
const REMAINS_TIMEOUT: Duration = Duration::from_secs(1);

const AFTER_HELP: &str = "\
Examples:
  tarishi run
  tarishi run --config /etc/tarishi/tarishi.toml --log-format json
  TARISHI__ADMIN__LISTEN=127.0.0.1:9001 tarishi run

Signals:
  SIGTERM, SIGINT  take nothing more, finish what is under way, stop; again: stop at once
  SIGHUP           read the templates and the certificate of public.tls again, not the configuration; what is broken
                   leaves the old ones in use

Nothing accepted is lost either way: what was not finished goes on after the next start.

Exit codes: 0 stopped as asked, 1 failed, 3 configuration or templates.";

#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct RunArgs {}

/// What signals ask of the daemon: its two ways to end, and to read again what may change.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    pub shutdown: CancellationToken,
    pub now: CancellationToken,
    pub reload: Arc<Notify>,
}

pub fn run(global: &GlobalArgs) -> Result<(), Failure> {
    let config = settings::load(&global.sources())?;
    settings::check_templates_folder(&config)?;
    log::start(config.log.format, &config.log.level)?;
    until_stopped(|stop| serve(config, Mode::Run, stop, |_| {}))
}

/// `tarishi run`, configured by the environment alone, with providers of whoever embeds it.
pub fn run_with(providers: PerChannel<Vec<Arc<dyn Provider>>>) -> Result<(), Failure> {
    let config = settings::load(&Sources { env: std::env::vars().collect(), ..Sources::default() })?;
    log::start(config.log.format, &config.log.level)?;
    let options = Options { mode: Mode::Run, version: VERSION, providers };
    until_stopped(async |stop: Stop| Ok(Box::pin(daemon::run(config, options, stop.shutdown, stop.now, stop.reload, |_| {})).await?))
}

pub async fn serve(config: Config, mode: Mode, stop: Stop, on_ready: impl FnOnce(Ready) + Send) -> Result<(), Failure> {
    let options = Options { mode, version: VERSION, providers: PerChannel::default() };
    Box::pin(daemon::run(config, options, stop.shutdown, stop.now, stop.reload, on_ready)).await?;
    Ok(())
}

/// Runs `daemon` on all cores, with signals turned into [`Stop`].
pub fn until_stopped<F: Future<Output = Result<(), Failure>>>(daemon: impl FnOnce(Stop) -> F) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(Exit::Failed, format!("the runtime cannot start: {error}"), "");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(failed)?;
    let ended = runtime.block_on(async {
        let signals = Signals::listen().map_err(failed)?;
        let stop = Stop::default();
        tokio::select! {
            ended = daemon(stop.clone()) => ended,
            never = signals.watch(&stop) => match never {},
        }
    });
    runtime.shutdown_timeout(REMAINS_TIMEOUT);
    ended
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn watch(mut self, stop: &Stop) -> std::convert::Infallible {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => stop.asked(),
                _ = self.interrupt.recv() => stop.asked(),
                _ = self.hangup.recv() => stop.reload.notify_one(),
            }
        }
    }
}

impl Stop {
    /// First: finish what is under way. Again: do not wait for it.
    fn asked(&self) {
        if self.shutdown.is_cancelled() { self.now.cancel() } else { self.shutdown.cancel() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_signal_does_not_wait() {
        let stop = Stop::default();
        stop.asked();
        assert!(stop.shutdown.is_cancelled() && !stop.now.is_cancelled());
        stop.asked();
        assert!(stop.now.is_cancelled());
    }
}
