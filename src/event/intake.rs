//! Jobs on their way in, and what else is asked over HTTP.

use metrics::counter;
use tracing::{error, info, warn};

use super::Event;

pub(super) fn emit_intake(event: &Event<'_>) {
    match event {
        Event::JobAccepted { job, template, deliveries, skipped, traceparent } => {
            counter!("tarishi_jobs_total", "result" => "accepted").increment(1);
            counter!("tarishi_deliveries_accepted_total").increment(u64::from(*deliveries));
            info!(%job, template, deliveries, skipped, traceparent, "job accepted");
        }
        Event::JobRepeated { job } => {
            counter!("tarishi_jobs_total", "result" => "repeated").increment(1);
            info!(%job, "job repeated: answered as before");
        }
        Event::HandlerPanicked { route } => {
            counter!("tarishi_requests_panicked_total").increment(1);
            error!(route, "request panicked: this is a bug, please report it with the lines on stderr before this one");
        }
        Event::JobRefused { code, problems } => {
            counter!("tarishi_jobs_total", "result" => *code).increment(1);
            info!(code, problems, "job refused");
        }
        Event::JobRejected { reason, message_id, problems } => {
            counter!("tarishi_jobs_total", "result" => *reason).increment(1);
            warn!(reason, message_id, problems, "job rejected: it is on the queue tarishi.rejected; see `tarishi rejected list`");
        }
        Event::JobCancelled { job, by, cancelled, too_late } => {
            counter!("tarishi_jobs_cancelled_total").increment(1);
            info!(%job, by, cancelled, too_late, "job cancelled");
        }
        Event::ContactChanged { user, by, what } => info!(user, by, what, "contact changed"),
        _ => {}
    }
}
