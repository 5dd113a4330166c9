//! `tarishi status`: one look at the running daemon.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::{
    failure::Failure,
    output::{self, Paint},
    server::ServerArgs,
    settings::GlobalArgs,
};
use crate::model::{Status, Timestamp};

const AFTER_HELP: &str = "\
Examples:
  tarishi status
  watch -n 2 tarishi status
  tarishi status --json | jq '.lanes[] | {channel, queued}'

Exit codes: 0 the daemon answered, ready or not; 4 it cannot be reached; 5 it refused.";

#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct StatusArgs {
    /// Print the daemon's own JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StatusView {
    version: String,
    mode: String,
    uptime_seconds: f64,
    ready: bool,
    reasons: Vec<String>,
    captures: Vec<String>,
    sockets: u64,
    accepted: u64,
    purged: u64,
    broker: Option<LinkView>,
    events: Option<EventsView>,
    bus: Option<BusView>,
    templates: TemplatesView,
    lanes: Vec<LaneView>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TemplatesView {
    refused: Option<RefusedView>,
}

#[derive(Debug, Deserialize)]
struct RefusedView {
    since: Timestamp,
    problems: Vec<ProblemView>,
}

#[derive(Debug, Deserialize)]
struct ProblemView {
    path: String,
    problem: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LaneView {
    channel: String,
    queued: u64,
    in_memory: u64,
    sending: u64,
    concurrency: u64,
    next_due_at: Option<Timestamp>,
    providers: Vec<ProviderView>,
    statuses: BTreeMap<String, u64>,
}

#[derive(Debug, Deserialize)]
struct LinkView {
    connected: bool,
    since: Timestamp,
    host: Option<String>,
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct EventsView {
    #[serde(flatten)]
    link: LinkView,
    pending: u64,
    dropped: u64,
}

#[derive(Debug, Deserialize)]
struct BusView {
    url: String,
    connected: bool,
    since: Timestamp,
    reason: Option<String>,
    waiting: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ProviderView {
    name: String,
    breaker: String,
    reason: Option<String>,
}

pub async fn run(args: &StatusArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let client = args.server.connect(global)?;
    if args.json {
        return output::print_json(&client.get::<Value>(&["v1", "status"]).await?);
    }
    let status: StatusView = client.get(&["v1", "status"]).await?;
    output::print(&told(&status, Timestamp::now(), Paint::stdout()))
}

fn told(status: &StatusView, now: Timestamp, paint: Paint) -> String {
    let ready = if status.ready { paint.green("ready") } else { paint.red("not ready") };
    let uptime = Duration::try_from_secs_f64(status.uptime_seconds).unwrap_or_default();
    let version = output::safe(&status.version);
    let mut lines = vec![format!("tarishi {version}, mode {}, up {}: {ready}", output::safe(&status.mode), output::rough(uptime))];
    lines.extend(status.reasons.iter().map(|reason| format!("  {}", output::safe(reason))));
    if !status.captures.is_empty() {
        let captured = output::safe(&status.captures.join(", "));
        lines.push(format!("{} {captured}: captured by the outbox, nothing reaches anybody", paint.yellow("note:")));
    }
    if let Some(refused) = &status.templates.refused {
        let since = output::rough(now.since(refused.since));
        lines.push(format!("{} refused {since} ago, the ones loaded before go on:", paint.red("templates:")));
        let problem = |found: &ProblemView| format!("  {}: {}", output::safe(&found.path), output::safe(&found.problem));
        lines.extend(refused.problems.iter().map(problem));
    }
    lines.extend(status.broker.as_ref().map(|broker| format!("broker: {}", link(broker, now, paint))));
    lines.extend(status.events.as_ref().map(|events| {
        let dropped = if events.dropped == 0 { String::new() } else { format!(", {} dropped", events.dropped) };
        format!("events: {}, {} pending{dropped}", link(&events.link, now, paint), events.pending)
    }));
    lines.extend(status.bus.as_ref().map(|bus| {
        let host = bus.connected.then(|| bus.url.clone());
        let view = LinkView { connected: bus.connected, since: bus.since, host, reason: bus.reason.clone() };
        format!("bus: {}, {} waiting", link(&view, now, paint), bus.waiting)
    }));
    lines.push(format!("{} accepted, {} purged, {} sockets open", status.accepted, status.purged, status.sockets));
    lines.push(String::new());
    lines.push(output::table(
        &["channel", "#queued", "#in memory", "#sending", "#at most", "next due", "providers"],
        status.lanes.iter().map(|lane| {
            vec![
                lane.channel.clone(),
                lane.queued.to_string(),
                lane.in_memory.to_string(),
                lane.sending.to_string(),
                lane.concurrency.to_string(),
                lane.next_due_at.map_or_else(|| "-".to_owned(), |due| due_in(due, now)),
                lane.providers.iter().map(provider).collect::<Vec<_>>().join(", "),
            ]
        }),
    ));
    lines.push(String::new());
    let statuses: Vec<&str> = Status::ALL.into_iter().map(Status::as_str).collect();
    let headings: Vec<String> = std::iter::once("channel".to_owned()).chain(statuses.iter().map(|status| format!("#{status}"))).collect();
    lines.push(output::table(
        &headings.iter().map(String::as_str).collect::<Vec<_>>(),
        status.lanes.iter().map(|lane| {
            let numbers = statuses.iter().map(|status| lane.statuses.get(*status).copied().unwrap_or(0).to_string());
            std::iter::once(lane.channel.clone()).chain(numbers).collect()
        }),
    ));
    lines.join("\n")
}

/// `connected to rabbit:5672 for 2h`, or why not.
fn link(link: &LinkView, now: Timestamp, paint: Paint) -> String {
    let since = output::rough(now.since(link.since));
    match (link.connected, &link.host, &link.reason) {
        (true, Some(host), _) => format!("connected to {} for {since}", output::safe(host)),
        (_, _, Some(reason)) => format!("{} for {since}: {}", paint.red("not connected"), output::safe(reason)),
        _ => paint.red("not connected"),
    }
}

fn due_in(due: Timestamp, now: Timestamp) -> String {
    if due <= now { "now".to_owned() } else { format!("in {}", output::rough(due.since(now))) }
}

/// `smtp`, or `smtp (open: too many failures)` when its breaker keeps it away.
fn provider(view: &ProviderView) -> String {
    match (view.breaker.as_str(), &view.reason) {
        ("" | "closed", _) => view.name.clone(),
        (breaker, None) => format!("{} (breaker {breaker})", view.name),
        (breaker, Some(reason)) => format!("{} (breaker {breaker}: {reason})", view.name),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_broker_is_told_where_there_is_one() {
        #[track_caller]
        fn check(members: serde_json::Value, expected: &[&str]) {
            let status = serde_json::from_value(members).unwrap();
            let told = told(&status, Timestamp::from_millis(7_200_000), Paint::OFF);
            let lines: Vec<&str> = told.lines().filter(|line| line.starts_with("broker") || line.starts_with("events")).collect();
            assert_eq!(lines, expected);
        }
        check(json!({}), &[]);
        let up = json!({ "connected": true, "since": "1970-01-01T00:00:00Z", "host": "rabbit:5672", "reason": null });
        let down = json!({ "connected": false, "since": "1970-01-01T01:00:00Z", "host": null, "reason": "connecting: refused", "pending": 7, "dropped": 2 });
        check(
            json!({ "broker": up, "events": down }),
            &["broker: connected to rabbit:5672 for 2h", "events: not connected for 1h: connecting: refused, 7 pending, 2 dropped"],
        );
    }

    #[test]
    fn the_bus_is_told_where_there_is_one() {
        let status = serde_json::from_value(json!({ "bus": {
            "url": "redis://r:6379", "connected": true, "since": "1970-01-01T00:00:00Z", "sharded": true, "reason": null, "waiting": 3
        }}));
        let told = told(&status.unwrap(), Timestamp::from_millis(7_200_000), Paint::OFF);
        assert!(told.contains("\nbus: connected to redis://r:6379 for 2h, 3 waiting\n"), "{told}");
    }

    #[test]
    fn reads_at_a_glance() {
        let status = serde_json::from_value(json!({
            "version": "0.1.0", "mode": "run", "uptime_seconds": 7384, "ready": false, "reasons": ["the store cannot be written"],
            "captures": ["email"], "sockets": 1, "accepted": 120, "purged": 0, "later": true,
            "lanes": [{
                "channel": "email", "queued": 12, "in_memory": 3, "sending": 1, "concurrency": 256, "ended_total": 107,
                "next_due_at": "2026-01-15T10:31:30Z", "providers": [{ "name": "outbox", "breaker": "open", "reason": "6 of 10 failed" }],
                "statuses": { "queued": 12, "sending": 1, "sent": 107 }
            }, { "channel": "sms", "next_due_at": null, "providers": [{ "name": "outbox", "breaker": "closed", "reason": null }] }]
        }));
        let told = told(&status.unwrap(), "2026-01-15T10:30:00Z".parse().unwrap(), Paint::OFF);
        assert_eq!(
            told,
            "\
tarishi 0.1.0, mode run, up 2h 3m: not ready
  the store cannot be written
note: email: captured by the outbox, nothing reaches anybody
120 accepted, 0 purged, 1 sockets open

channel  queued  in memory  sending  at most  next due   providers
email        12          3        1      256  in 1m 30s  outbox (breaker open: 6 of 10 failed)
sms           0          0        0        0  -          outbox

channel  queued  sending  sent  delivered  failed  expired  cancelled  suppressed
email        12        1   107          0       0        0          0           0
sms           0        0     0          0       0        0          0           0"
        );
    }
}
