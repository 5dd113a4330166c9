//! Health and metrics.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use metrics::{counter, gauge};
use serde_json::json;

use super::AdminState;
use crate::{lane::BreakerState, model::Status, socket::Ending};

/// The process answers.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// Whether to send work here: 200 or 503. Channels that only capture are named, ready or not.
pub(super) async fn readyz(State(state): State<Arc<AdminState>>) -> Response {
    let reasons = state.reasons();
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let note = (!state.captures.is_empty()).then_some("the channels under `captures` have only the outbox: they send nothing");
    // No reason to send work elsewhere: the others are without it too, and what is stored is found by reading.
    let is_alone = state.bus.status().is_some_and(|bus| !bus.connected);
    let degraded = is_alone.then_some("no connection to the bus: sockets hear of what other daemons send only within a ping interval");
    let body = json!({ "ready": reasons.is_empty(), "reasons": reasons, "captures": state.captures, "note": note, "degraded": degraded });
    (status, Json(body)).into_response()
}

/// Prometheus' text format.
pub(super) async fn metrics(State(state): State<Arc<AdminState>>) -> Response {
    let counts = state.store.counts();
    for (channel, lane) in state.lanes.iter() {
        for status in Status::ALL {
            let labels = [("channel", channel.as_str()), ("status", status.as_str())];
            #[expect(clippy::cast_precision_loss, reason = "Prometheus knows only doubles")]
            gauge!("tarishi_deliveries", &labels).set(counts.get(channel, status) as f64);
        }
        let lane = lane.status();
        gauge!("tarishi_lane_in_memory", "channel" => channel.as_str()).set(small(lane.in_memory));
        gauge!("tarishi_lane_in_flight", "channel" => channel.as_str()).set(small(lane.in_flight));
        for provider in lane.providers {
            let open = f64::from(u8::from(provider.breaker != BreakerState::Closed));
            gauge!("tarishi_breaker_open", "channel" => channel.as_str(), "provider" => provider.name).set(open);
        }
    }
    count_sockets(&state);
    measure_broker(&state);
    measure_bus(&state);
    #[expect(clippy::cast_precision_loss, reason = "Prometheus knows only doubles")]
    gauge!("tarishi_suppressions").set(state.store.suppression_count() as f64);
    gauge!("tarishi_sockets").set(small(state.bus.hub().connections()));
    gauge!("tarishi_ready").set(f64::from(u8::from(state.reasons().is_empty())));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.metrics.render()).into_response()
}

fn measure_broker(state: &AdminState) {
    let connected = |is: bool| f64::from(u8::from(is));
    if let Some(amqp) = &state.amqp {
        let status = amqp.status();
        gauge!("tarishi_broker_connected", "link" => "jobs").set(connected(status.link.connected));
        gauge!("tarishi_amqp_unacknowledged").set(small(status.unacknowledged));
    }
    if let Some(feed) = &state.feed {
        gauge!("tarishi_broker_connected", "link" => "events").set(connected(feed.status().connected));
        #[expect(clippy::cast_precision_loss, reason = "Prometheus knows only doubles")]
        gauge!("tarishi_events_pending").set(state.store.events_pending() as f64);
        counter!("tarishi_events_dropped_total").absolute(u64::try_from(state.store.events_dropped()).unwrap_or(0));
    }
}

fn measure_bus(state: &AdminState) {
    let (Some(status), Some((counters, hinted, dropped))) = (state.bus.status(), state.bus.counters()) else { return };
    let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
    gauge!("tarishi_bus_connected").set(f64::from(u8::from(status.connected)));
    gauge!("tarishi_bus_waiting").set(small(status.waiting));
    gauge!("tarishi_bus_subscriptions").set(small(usize::try_from(load(&counters.subscriptions)).unwrap_or(usize::MAX)));
    counter!("tarishi_bus_published_total").absolute(load(&counters.published));
    counter!("tarishi_bus_received_total").absolute(load(&counters.received));
    counter!("tarishi_bus_unreadable_total").absolute(load(&counters.unreadable));
    counter!("tarishi_bus_hinted_total").absolute(hinted);
    counter!("tarishi_bus_dropped_total").absolute(dropped);
    counter!("tarishi_bus_healed_total").absolute(load(&counters.healed));
    counter!("tarishi_bus_connected_total").absolute(load(&counters.connected));
}

fn count_sockets(state: &AdminState) {
    let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
    let sessions = &state.sessions;
    counter!("tarishi_sockets_opened_total").absolute(load(&sessions.opened));
    counter!("tarishi_sockets_refused_total").absolute(load(&sessions.refused));
    counter!("tarishi_sockets_deliveries_unreported_total").absolute(load(&sessions.unreported));
    for ending in Ending::ALL {
        counter!("tarishi_sockets_ended_total", "reason" => ending.as_str()).absolute(sessions.ended(ending));
    }
    for (listener, counters) in &state.listeners {
        counter!("tarishi_connections_accepted_total", "listener" => *listener).absolute(load(&counters.accepted));
        counter!("tarishi_connections_over_limit_total", "listener" => *listener).absolute(load(&counters.over_limit));
        counter!("tarishi_connections_over_address_limit_total", "listener" => *listener).absolute(load(&counters.over_address_limit));
        counter!("tarishi_connections_accept_errors_total", "listener" => *listener).absolute(load(&counters.accept_errors));
        counter!("tarishi_connections_proxy_refused_total", "listener" => *listener).absolute(load(&counters.proxy_refused));
        counter!("tarishi_connections_tls_failed_total", "listener" => *listener).absolute(load(&counters.tls_failed));
        counter!("tarishi_connections_header_timeouts_total", "listener" => *listener).absolute(load(&counters.header_timeouts));
        counter!("tarishi_requests_body_timeouts_total", "listener" => *listener).absolute(load(&counters.body_timeouts));
    }
}

fn small(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
