//! Reading again, without a restart, what may be read again: the certificate of `public.tls` and the templates.

use std::{path::Path, sync::Arc, time::Duration};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Problems, load_templates};
use crate::{
    config::Config,
    event::{Event, emit},
    model::{Problem, Timestamp},
    socket::Tls,
    template::Shelf,
};

/// Files are written in bursts: they are read once nothing has changed for so long.
const QUIET: Duration = Duration::from_millis(100);
/// The longest that changes without end put it off.
const QUIET_LIMIT: Duration = Duration::from_secs(2);

/// Reads both each time somebody asks, and the templates each time their files change, where `are_watched`.
pub(super) async fn reload(
    asked: Arc<Notify>,
    changed: Arc<Notify>,
    config: Arc<Config>,
    tls: Option<Arc<Tls>>,
    shelf: Arc<Shelf>,
    are_watched: bool,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = asked.notified() => reload_certificate(tls.clone()).await,
            () = changed.notified() => settled(&changed).await,
            () = stop.cancelled() => return,
        }
        reload_templates(&config, &shelf, are_watched).await;
    }
}

async fn reload_certificate(tls: Option<Arc<Tls>>) {
    let Some(tls) = tls else { return };
    match tokio::task::spawn_blocking(move || tls.reload()).await {
        Ok(Ok(())) => emit(&Event::CertificateReloaded),
        Ok(Err(problem)) => emit(&Event::CertificateRefused { reason: &problem.to_string() }),
        Err(failed) => emit(&Event::CertificateRefused { reason: &failed.to_string() }),
    }
}

async fn reload_templates(config: &Arc<Config>, shelf: &Shelf, are_watched: bool) {
    let loading = config.clone();
    let loaded = match tokio::task::spawn_blocking(move || load_templates(&loading)).await {
        Ok(loaded) => loaded.map_err(|Problems(problems)| problems),
        Err(failed) => Err(vec![Problem::new("templates", format!("reading them failed inside the daemon: {failed}"), "please report it")]),
    };
    match &loaded {
        Ok(templates) => emit(&Event::TemplatesReloaded { templates: templates.list().count() }),
        Err(problems) => emit(&Event::TemplatesRefused { problems, are_watched }),
    }
    shelf.put(loaded, Timestamp::now());
}

/// Resolves once nothing changes any more.
async fn settled(changed: &Notify) {
    let quiet = async { while tokio::time::timeout(QUIET, changed.notified()).await.is_ok() {} };
    // However long it goes on.
    let _ = tokio::time::timeout(QUIET_LIMIT, quiet).await;
}

/// Has `changed` told whenever something below `folder` is written, until what is returned is dropped.
pub(super) fn watch(folder: &Path, changed: Arc<Notify>) -> Option<RecommendedWatcher> {
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading them is an event too, and would have them read again for ever.
        if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
            changed.notify_one();
        }
    });
    let watching = watcher.and_then(|mut watcher| watcher.watch(folder, RecursiveMode::Recursive).map(|()| watcher));
    watching.inspect_err(|error| emit(&Event::TemplatesNotWatched { error: &error.to_string() })).ok()
}
