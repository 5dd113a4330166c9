//! `tarishi events`: what becomes of deliveries, as the daemon tells it on the broker.

use std::ops::ControlFlow;

use backon::BackoffBuilder as _;
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    broker,
    failure::{Exit, Failure},
    job,
    output::{self, Paint, count},
    settings::GlobalArgs,
};
use crate::{
    amqp::{AmqpError, Broker, Listener, Pattern, waits},
    model::{Channel, Status, mask},
};

const AFTER_HELP: &str = "\
Examples:
  tarishi events tail
  tarishi events tail --status failed,expired";
const TAIL_AFTER_HELP: &str = "\
Examples:
  tarishi events tail                             everything, until Ctrl-C
  tarishi events tail --channel email --status failed,expired
  tarishi events tail --job order-8841 --count 7
  tarishi events tail --json | jq -r '.data.user_id'

It listens on the broker, so it works while the daemon is down, and shows what happens from now on. The daemon tells it only with `amqp.events.enabled = true`, and only the statuses in `amqp.events.statuses`.

Without --channel and --status everything is shown: deliveries, finished jobs (job.finished) and addresses that do not exist any more (address.gone). --channel leaves out finished jobs, which have none; --status leaves out all but deliveries. An event that does not say its user, template or job is not shown where that is asked for.

When the broker goes away it is connected to again, and what was told meanwhile is missed. Who reads slowly misses the oldest of more than 100000 events.

Addresses are masked, but not with --json, which prints the events as they are (CloudEvents), one per line.

Exit codes: 0 ended by Ctrl-C, --count or whoever reads the output; 2 usage; 3 configuration; 4 not reached; 5 refused, or no events there.";

#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct EventsArgs {
    #[command(subcommand)]
    command: EventsCommand,
}

#[derive(Subcommand, Clone, Debug)]
enum EventsCommand {
    /// Show events as they happen
    #[command(after_help = TAIL_AFTER_HELP)]
    Tail(TailArgs),
}

#[derive(Args, Clone, Debug, Default)]
struct TailArgs {
    /// Only these channels (repeatable, or with commas)
    #[arg(long, short, value_name = "CHANNEL", value_delimiter = ',', value_parser = job::channels())]
    channel: Vec<Channel>,
    /// Only deliveries that take these statuses (repeatable, or with commas)
    #[arg(long, short, value_name = "STATUS", value_delimiter = ',', value_parser = job::statuses())]
    status: Vec<Status>,
    /// Only this user's
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// Only what this template says
    #[arg(long, value_name = "NAME")]
    template: Option<String>,
    /// Only this job's
    #[arg(long, value_name = "ID")]
    job: Option<String>,
    /// End after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print the events as they are, one per line
    #[arg(long)]
    json: bool,
}

/// An event, as far as a line of it goes.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EventView {
    r#type: String,
    time: String,
    data: DataView,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DataView {
    job_id: Option<String>,
    channel: Option<String>,
    status: Option<String>,
    user_id: Option<String>,
    template: Option<String>,
    address: Option<String>,
    code: Option<String>,
    deliveries: u64,
    statuses: std::collections::BTreeMap<String, u64>,
}

pub async fn run(args: &EventsArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let EventsCommand::Tail(args) = &args.command;
    let (broker, _) = broker::configured(global)?;
    let no_signal = |error| Failure::new(Exit::Failed, format!("signals cannot be waited for: {error}"), "");
    let mut terminated = signal(SignalKind::terminate()).map_err(no_signal)?;
    tokio::select! {
        ended = tail(args, &broker) => ended,
        _ = tokio::signal::ctrl_c() => Ok(()),
        _ = terminated.recv() => Ok(()),
    }
}

async fn tail(args: &TailArgs, broker: &Broker) -> Result<(), Failure> {
    let patterns = patterns(&args.channel, &args.status);
    let mut shown = 0;
    let mut listener = Listener::open(broker, &patterns).await.map_err(|error| not_there(broker, &error))?;
    loop {
        let error = match show(args, &mut listener, &mut shown).await? {
            ControlFlow::Break(()) => {
                listener.close().await;
                return Ok(());
            }
            ControlFlow::Continue(error) => error,
        };
        output::note(&format!("note: the connection to the broker is lost ({error}); connecting again"));
        let mut waits = waits().build();
        listener = loop {
            tokio::time::sleep(waits.next().unwrap_or_default()).await;
            match Listener::open(broker, &patterns).await {
                Ok(listener) => break listener,
                // It is back, and only a person can help.
                Err(error) if error.needs_a_person() || matches!(error, AmqpError::Absent { .. }) => return Err(not_there(broker, &error)),
                Err(_) => {}
            }
        };
        output::note("note: connected again; what was told meanwhile is missed");
    }
}

/// Shows events until there have been enough, nobody reads any more, or the connection is gone.
async fn show(args: &TailArgs, listener: &mut Listener, shown: &mut u64) -> Result<ControlFlow<(), AmqpError>, Failure> {
    let paint = Paint::stdout();
    loop {
        let body = match listener.next().await {
            Ok(body) => body,
            Err(error) => return Ok(ControlFlow::Continue(error)),
        };
        let Ok(event) = serde_json::from_slice::<EventView>(&body) else {
            output::note("note: there was a message that is no event of tarishi's");
            continue;
        };
        if !args.takes(&event) {
            continue;
        }
        let line = if args.json { one_line(&body) } else { event.told(paint) };
        *shown += 1;
        if output::print_to_reader(&line)?.is_break() || args.count == Some(*shown) {
            return Ok(ControlFlow::Break(()));
        }
    }
}

fn not_there(broker: &Broker, error: &AmqpError) -> Failure {
    match error {
        AmqpError::Absent { .. } => {
            let hint = "has a daemon run with `amqp.events.enabled = true`? it declares the exchange tarishi.events";
            Failure::new(Exit::Refused, format!("there are no events at {}: {error}", broker.url()), hint)
        }
        other => broker::failed(broker, other),
    }
}

/// What the broker is to send: as little as these filters allow.
fn patterns(channels: &[Channel], statuses: &[Status]) -> Vec<Pattern> {
    if channels.is_empty() && statuses.is_empty() {
        return vec![Pattern::everything()];
    }
    let any = |given: Vec<&'static str>| if given.is_empty() { vec![None] } else { given.into_iter().map(Some).collect() };
    let names: Vec<Option<&str>> = any(channels.iter().map(|channel| channel.as_str()).collect());
    let statuses: Vec<Option<&str>> = any(statuses.iter().map(|status| status.as_str()).collect());
    let mut patterns: Vec<Pattern> =
        names.iter().flat_map(|channel| statuses.iter().map(|status| Pattern::deliveries(*channel, *status))).collect();
    if statuses == [None] {
        patterns.push(Pattern::gone_addresses());
    }
    patterns
}

impl TailArgs {
    /// What the broker does not filter: it knows nothing of what is in an event.
    fn takes(&self, event: &EventView) -> bool {
        let is = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        let EventView { data, .. } = event;
        let channel_fits = || data.channel.as_deref().is_some_and(|channel| self.channel.iter().any(|one| one.as_str() == channel));
        (self.channel.is_empty() || channel_fits())
            && is(&self.user, &data.user_id)
            && is(&self.template, &data.template)
            && is(&self.job, &data.job_id)
    }
}

impl EventView {
    /// `2026-01-15T10:30:00.123Z  email  failed  order-1  42  bounced`
    fn told(&self, paint: Paint) -> String {
        let data = &self.data;
        let word = data.status.as_deref().unwrap_or_else(|| self.r#type.rsplit('.').next().unwrap_or_default());
        let or_none = |field: &Option<String>| plain(field.as_deref().unwrap_or("-"));
        let mut fields = vec![
            format!("{:24}", plain(&self.time)),
            format!("{:5}", or_none(&data.channel)),
            // Padded first: a colour is no width.
            coloured(paint, word, &format!("{:10}", plain(word))),
            or_none(&data.job_id),
            or_none(&data.user_id),
        ];
        fields.extend(data.address.as_deref().map(|address| plain(&mask(address))));
        fields.extend(data.code.as_deref().map(plain));
        if self.r#type == "tarishi.job.finished" {
            let numbers: Vec<String> = data.statuses.iter().map(|(status, number)| format!("{number} {status}")).collect();
            fields.push(plain(&format!("{}: {}", count(data.deliveries, "delivery"), numbers.join(", "))));
        }
        fields.join("  ")
    }
}

/// Harmless, and on one line.
fn plain(field: &str) -> String {
    output::safe(field).replace(['\n', '\t'], " ")
}

fn coloured(paint: Paint, status: &str, text: &str) -> String {
    match status {
        "sent" | "delivered" => paint.green(text),
        "failed" | "expired" => paint.red(text),
        "cancelled" | "suppressed" | "gone" => paint.yellow(text),
        "finished" => paint.cyan(text),
        _ => paint.dim(text),
    }
}

/// An event as JSON on one line. It is as it came unless somebody spread it over several.
fn one_line(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    if !text.contains(['\n', '\r']) {
        return text.to_owned();
    }
    // Between JSON's tokens a line end is white space, and within its strings there is none.
    serde_json::from_str::<&RawValue>(text).map_or_else(|_| text.to_owned(), |raw| raw.get().replace(['\n', '\r'], " "))
}
