//! What happens to the store.

use metrics::counter;
use tracing::{error, info};

use super::Event;

pub(super) fn emit_store(event: &Event<'_>) {
    match event {
        Event::StoreUnwritable { error } => {
            error!(error, "store cannot be written: intake stops until it can; check disk space and permissions");
        }
        Event::StoreWritable => info!("store can be written again"),
        Event::StoreFailed { doing, error } => error!(doing, error, "store failed"),
        Event::StorePurged { jobs, deliveries, inbox_items } => {
            counter!("tarishi_deliveries_purged_total").increment(*deliveries);
            info!(jobs, deliveries, inbox_items, "store purged");
        }
        _ => {}
    }
}
