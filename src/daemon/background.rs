//! What the daemon does beside its work: purging, folding metrics, marking what sockets took, feeding the watchdog.

use std::time::{Duration, Instant};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    event::{Event, emit},
    model::DeliveryKey,
    store::{Purged, Store},
};

/// How many live deliveries one commit marks.
const DELIVERED_BATCH: usize = 1000;
/// How often old rows are looked for.
const PURGE_INTERVAL: Duration = Duration::from_hours(1);
/// How often the metrics' recorder folds its samples.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(30);

/// Removes rows past their retention, a step at a time.
pub(super) async fn purge(store: Store, stop: CancellationToken) {
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

/// Marks live deliveries that sockets have taken, in bulk.
pub(super) async fn mark_delivered(store: Store, mut delivered: mpsc::Receiver<DeliveryKey>, stop: CancellationToken) {
    let mut keys = Vec::new();
    loop {
        tokio::select! {
            taken = delivered.recv_many(&mut keys, DELIVERED_BATCH) => {
                if taken == 0 {
                    return;
                }
            }
            () = stop.cancelled() => return,
        }
        keys.sort_unstable();
        keys.dedup();
        if let Err(error) = store.mark_delivered(std::mem::take(&mut keys)).await {
            emit(&Event::StoreFailed { doing: "marking live deliveries; they stay `sent` until seen", error: &error.to_string() });
        }
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
