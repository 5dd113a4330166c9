//! What the daemon does beside its work: purging, folding metrics, marking what sockets took, feeding the watchdog.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    event::{Event, emit},
    model::{DeliveryKey, Timestamp},
    socket::{Authenticator, Bus, Control, Ending, Identity, ListenerCounters},
    store::{Purged, Store},
};

/// How many live deliveries one commit marks, at most.
const DELIVERED_BATCH: usize = 1000;
/// How long a delivery may wait for others to be marked with it. Marked at once, each would cost a commit that jobs wait for.
const DELIVERED_DELAY: Duration = Duration::from_millis(50);
/// How often old rows are looked for.
const PURGE_INTERVAL: Duration = Duration::from_hours(1);
/// How often it is said, at most, that a listener turns connections away.
const REFUSALS_INTERVAL: Duration = Duration::from_secs(10);
/// How often the metrics' recorder folds its samples.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(30);

/// Removes rows past their retention, a step at a time.
pub(super) async fn purge(store: Store, authenticator: Arc<Authenticator>, stop: CancellationToken) {
    loop {
        let mut total = Purged::default();
        while !stop.is_cancelled() {
            match store.purge_step().await {
                Ok(purged) if purged.is_empty() => break,
                Ok(purged) => total.add(purged),
                Err(error) => {
                    emit(&Event::StoreFailed { doing: "purging; trying again later", error: &error.to_string() });
                    break;
                }
            }
        }
        authenticator.revocations().forget_old(Timestamp::now());
        if !total.is_empty() {
            emit(&Event::StorePurged { jobs: total.jobs, deliveries: total.deliveries, inbox_items: total.inbox_items });
        }
        tokio::select! {
            () = tokio::time::sleep(PURGE_INTERVAL) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Folds metrics, and says once when the store stops or starts to be writable.
pub(super) async fn keep_house(metrics: PrometheusHandle, store: Store, stop: CancellationToken) {
    let mut was_writable = true;
    let mut folded_at = Instant::now();
    loop {
        tokio::select! {
            () = store.writability_changed(was_writable) => {}
            () = tokio::time::sleep(UPKEEP_INTERVAL) => {}
            () = stop.cancelled() => return,
        }
        let is_writable = store.is_writable();
        match (was_writable, is_writable) {
            (true, false) => emit(&Event::StoreUnwritable { error: &store.last_error() }),
            (false, true) => emit(&Event::StoreWritable),
            _ => {}
        }
        was_writable = is_writable;
        if folded_at.elapsed() >= UPKEEP_INTERVAL {
            metrics.run_upkeep();
            folded_at = Instant::now();
        }
    }
}

/// Says when a listener turns somebody away: at once, and then not every time, which would be a flood of its own.
pub(super) async fn tell_of_refusals(listener: &'static str, counters: Arc<ListenerCounters>, stop: CancellationToken) {
    let mut told = [0; 3];
    loop {
        tokio::select! {
            () = counters.refused() => {}
            () = stop.cancelled() => return,
        }
        let now = [&counters.over_limit, &counters.over_address_limit, &counters.proxy_refused].map(|count| count.load(Ordering::Relaxed));
        if now == told {
            continue;
        }
        let [over_limit, over_address_limit, proxy_refused] = std::array::from_fn(|index| now[index] - told[index]);
        emit(&Event::ConnectionsRefused { listener, over_limit, over_address_limit, proxy_refused });
        told = now;
        tokio::select! {
            () = tokio::time::sleep(REFUSALS_INTERVAL) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Marks live deliveries that sockets have taken, in bulk. Once `stop` says that no more are taken, it ends with the last of them.
pub(super) async fn mark_delivered(store: Store, mut delivered: mpsc::Receiver<DeliveryKey>, stop: CancellationToken) {
    let mut keys = Vec::new();
    loop {
        tokio::select! {
            biased;
            taken = delivered.recv_many(&mut keys, DELIVERED_BATCH) => {
                if taken == 0 {
                    return;
                }
            }
            () = stop.cancelled() => return,
        }
        if keys.len() < DELIVERED_BATCH {
            tokio::select! {
                () = tokio::time::sleep(DELIVERED_DELAY) => {}
                () = stop.cancelled() => {}
            }
        }
        while keys.len() < DELIVERED_BATCH
            && let Ok(key) = delivered.try_recv()
        {
            keys.push(key);
        }
        keys.sort_unstable();
        keys.dedup();
        if let Err(error) = store.mark_delivered(std::mem::take(&mut keys)).await {
            emit(&Event::StoreFailed { doing: "marking live deliveries; they stay `sent` until seen", error: &error.to_string() });
        }
    }
}

/// Does what other daemons have done for all: refuses tokens that were revoked there, and closes what they have opened here.
pub(super) async fn heed_controls(bus: Bus, authenticator: Arc<Authenticator>, store: Store, stop: CancellationToken) {
    let mut controls = bus.controls();
    loop {
        let control = tokio::select! {
            control = controls.next() => control,
            () = stop.cancelled() => return,
        };
        let revocations = match control {
            None => return,
            // The chat's.
            Some(Control::MembershipChanged { .. }) => continue,
            Some(Control::Revoked(revocation)) => vec![revocation],
            Some(Control::Missed) => match store.revocations_in_force().await {
                Ok(revocations) => revocations,
                Err(error) => {
                    emit(&Event::StoreFailed { doing: "reading the revocations; known ones stay in force", error: &error.to_string() });
                    continue;
                }
            },
        };
        for revocation in &revocations {
            authenticator.revocations().add(revocation.clone());
        }
        let is_meant = |identity: &Identity| revocations.iter().any(|revocation| identity.is_covered_by(revocation));
        bus.hub().close_where(is_meant, Ending::Revoked);
    }
}

/// Tells systemd that the runtime turns and the writer lives.
pub(super) async fn feed_watchdog(store: Store, interval: Duration, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            }
            () = store.writer_ended() => return,
            () = stop.cancelled() => return,
        }
    }
}
