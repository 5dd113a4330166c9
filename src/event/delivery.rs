//! What becomes of deliveries, their attempts and the providers that carry them.

use metrics::{counter, histogram};
use tracing::{error, info, warn};

use super::Event;
use crate::model::{Code, Delivery, JobId, Outcome};

pub(super) fn emit_delivery(event: &Event<'_>) {
    match event {
        Event::DeliverySent { delivery, provider, attempt, started_at, finished_at } => {
            let seconds = finished_at.since(*started_at).as_secs_f64();
            counter!("tarishi_attempts_total", "channel" => delivery.channel.as_str(), "provider" => *provider, "outcome" => "sent", "code" => "")
                .increment(1);
            histogram!("tarishi_attempt_seconds", "channel" => delivery.channel.as_str(), "provider" => *provider).record(seconds);
            let (job, user, to) = parties(delivery);
            info!(%job, delivery = %delivery.id, channel = %delivery.channel, user, to, provider, attempt, "delivery sent");
        }
        Event::DeliveryRetried { delivery, provider, attempt, outcome, next_at } => {
            count_failed(delivery, provider, outcome);
            let (job, user, to) = parties(delivery);
            let code = outcome.code().map_or("", Code::as_str);
            let detail = outcome.detail().unwrap_or_default();
            info!(%job, delivery = %delivery.id, channel = %delivery.channel, user, to, provider, attempt, outcome = outcome.as_str(), code, detail, %next_at, "delivery retried");
        }
        Event::DeliveryFailedOver { delivery, provider, next, attempt, outcome } => {
            count_failed(delivery, provider, outcome);
            let (job, user, to) = parties(delivery);
            let code = outcome.code().map_or("", Code::as_str);
            let detail = outcome.detail().unwrap_or_default();
            info!(%job, delivery = %delivery.id, channel = %delivery.channel, user, to, provider, attempt, outcome = outcome.as_str(), code, detail, next, "delivery goes to the next provider");
        }
        Event::DeliveryEnded { delivery, attempt, status, code, detail } => {
            let code = code.map_or("", Code::as_str);
            counter!("tarishi_deliveries_given_up_total", "channel" => delivery.channel.as_str(), "status" => status.as_str(), "code" => code)
                .increment(1);
            let (job, user, to) = parties(delivery);
            warn!(%job, delivery = %delivery.id, channel = %delivery.channel, user, to, attempt, %status, code, detail, "delivery given up");
        }
        Event::DeliveryLost { delivery } => {
            counter!("tarishi_leases_lost_total", "channel" => delivery.channel.as_str()).increment(1);
            info!(job = %delivery.job.id, delivery = %delivery.id, channel = %delivery.channel, "delivery left alone: cancelled, collapsed or taken by somebody else");
        }
        Event::DeliverySuppressed { delivery } => {
            counter!("tarishi_deliveries_suppressed_total", "channel" => delivery.channel.as_str()).increment(1);
            let (job, user, to) = parties(delivery);
            info!(%job, delivery = %delivery.id, channel = %delivery.channel, user, to, "delivery suppressed: the address is on the suppression list");
        }
        Event::DeliveryUnreadable { id, reason } => error!(delivery = %id, reason, "delivery does not read back from the store; failed"),
        Event::OutcomeLate { delivery, attempt, lifted } => {
            counter!("tarishi_outcomes_late_total", "channel" => delivery.channel.as_str()).increment(1);
            warn!(job = %delivery.job.id, delivery = %delivery.id, attempt, lifted, "outcome came late; kept on its own attempt");
        }
        Event::AttemptsInterrupted { count } => warn!(count, "attempts of an earlier run have no outcome; resolved as unknown"),
        Event::BreakerOpened { provider, channel, reason, needs_a_person } => {
            counter!("tarishi_breaker_opened_total", "channel" => channel.as_str(), "provider" => *provider).increment(1);
            if *needs_a_person {
                error!(provider, %channel, reason, "provider paused: it refuses our credentials or set-up; see `tarishi check --probe`");
            } else {
                warn!(provider, %channel, reason, "breaker opened: the provider is left alone for a while");
            }
        }
        Event::PaceLowered { provider, channel, rate } => {
            counter!("tarishi_pace_lowered_total", "channel" => channel.as_str(), "provider" => *provider).increment(1);
            info!(provider, %channel, rate, "pace lowered: the provider asks for fewer a second");
        }
        Event::PlatformRefused { provider, channel, reason } => {
            counter!("tarishi_platform_refused_total", "channel" => channel.as_str(), "provider" => *provider).increment(1);
            error!(provider, %channel, reason, "a platform refuses the credentials the provider has for it; what is for it waits");
        }
        Event::BreakerClosed { provider, channel } => info!(provider, %channel, "breaker closed"),
        _ => {}
    }
}

/// An attempt that was not `sent`.
pub fn count_failed(delivery: &Delivery, provider: &'static str, outcome: &Outcome) {
    let code = outcome.code().map_or("", Code::as_str);
    counter!("tarishi_attempts_total", "channel" => delivery.channel.as_str(), "provider" => provider, "outcome" => outcome.as_str(), "code" => code)
        .increment(1);
}

fn parties(delivery: &Delivery) -> (&JobId, &str, String) {
    (&delivery.job.id, delivery.user_id.as_ref().map_or("", |user| user.as_str()), delivery.address.masked())
}
