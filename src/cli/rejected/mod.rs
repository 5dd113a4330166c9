//! `tarishi rejected`: what came over the broker and was no job.
//!
//! Each look is a pass over the queue, up to the number of messages that were there when it began. Nothing but what is needed is kept of
//! a message; what is not taken away goes back when the pass ends, or when the process does.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use clap::{Args, Subcommand, builder::PossibleValuesParser};

use super::{
    broker,
    failure::{Exit, Failure},
    progress::Progress,
    settings::GlobalArgs,
};
use crate::{
    amqp::{AmqpError, Broker, Place, REASONS, Rejected, RejectedQueue},
    config::Config,
    model::Timestamp,
};

mod body;
mod choice;
mod look;
mod show;
mod take;

use body::Reader;
use choice::{Choice, Key, Keys};

const AFTER_HELP: &str = "\
Examples:
  tarishi rejected list
  tarishi rejected show order-8841
  tarishi rejected requeue --reason killed_worker
  tarishi rejected purge --older-than 7d";
const LIST_AFTER_HELP: &str = "\
Examples:
  tarishi rejected list
  tarishi rejected list --reason invalid --limit 1000
  tarishi rejected list --json | jq -r .id

In the order in which they were rejected, the newest at the end. Numbers count from the oldest: when one is taken away, those after it change. Ids do not. Reading takes nothing away. What somebody else is reading or requeueing at the moment is not shown.

Reasons: ours, and of what the broker itself gave up `expired` (in the queue), `delivery_limit`, `maxlen` or `rejected`; `unknown` where none is told.

Exit codes: 0 done; 1 failed; 3 configuration; 4 not reached; 5 refused, or there is no such queue.";
const SHOW_AFTER_HELP: &str = "\
Examples:
  tarishi rejected show order-8841
  tarishi rejected show 1                       the oldest
  tarishi rejected show 1 --raw > job.json      the bytes as they came

Of several with the same id it shows the newest. Digits are a number; write id=8841 for an id that is one. A gzip body is shown as what is inside, and --raw leaves it as it is.

Exit codes: 0 done; 1 there is none, or failed; 3 configuration; 4 not reached; 5 refused, or there is no such queue.";
const REQUEUE_AFTER_HELP: &str = "\
Examples:
  tarishi rejected requeue order-8841 order-8842
  tarishi rejected requeue --reason killed_worker
  tarishi rejected requeue --all --json

What was chosen is published again as it was, to tarishi.jobs, and taken from here once the broker has it there. What is rejected again meanwhile comes after what was here at the beginning, and is left alone.

Nothing is lost when this is interrupted. At worst a message is then in both queues: its job's id is known by then, so it is sent once.

Digits are a number of the list; write id=8841 for an id that is one.

Exit codes: 0 done; 1 some of those named are not there, or failed; 2 usage; 3 configuration; 4 not reached; 5 refused, or there is no such queue.";
const PURGE_AFTER_HELP: &str = "\
Examples:
  tarishi rejected purge order-8841
  tarishi rejected purge --reason malformed --older-than 7d
  tarishi rejected purge --all --yes

What was chosen is removed for good, after a question that --yes answers. What arrives meanwhile is left alone. The age counts from when a message was rejected; one that does not say when is of no age.

Nothing is removed when this is interrupted before its end.

Digits are a number of the list; write id=8841 for an id that is one.

Exit codes: 0 done; 1 some of those named are not there, not confirmed, or failed; 2 usage; 3 configuration; 4 not reached; 5 refused, or there is no such queue.";

#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct RejectedArgs {
    #[command(subcommand)]
    command: RejectedCommand,
}

#[derive(Subcommand, Clone, Debug)]
enum RejectedCommand {
    /// List what is there
    #[command(after_help = LIST_AFTER_HELP)]
    List(ListArgs),
    /// Show everything about one
    #[command(after_help = SHOW_AFTER_HELP)]
    Show(ShowArgs),
    /// Publish some of it again, for the daemon to take once more
    #[command(after_help = REQUEUE_AFTER_HELP)]
    Requeue(RequeueArgs),
    /// Remove some of it for good
    #[command(after_help = PURGE_AFTER_HELP)]
    Purge(PurgeArgs),
}

#[derive(Args, Clone, Debug)]
struct ListArgs {
    /// Show the newest N
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Only what was rejected for this reason
    #[arg(long, value_name = "REASON", value_parser = PossibleValuesParser::new(REASONS))]
    reason: Option<String>,
    /// Print JSON Lines, one per message
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
struct ShowArgs {
    /// Which one: a job's id, or a number of the list
    #[arg(value_name = "ID|NUMBER")]
    which: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Write the body's bytes, and nothing else
    #[arg(long, conflicts_with = "json")]
    raw: bool,
}

#[derive(Args, Clone, Debug)]
struct RequeueArgs {
    /// Which ones: a job's id, or a number of the list
    #[arg(value_name = "ID|NUMBER", conflicts_with_all = ["reason", "all"])]
    which: Vec<String>,
    /// Those that were rejected for this reason
    #[arg(long, value_name = "REASON", value_parser = PossibleValuesParser::new(REASONS), conflicts_with = "all")]
    reason: Option<String>,
    /// All that are there
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
struct PurgeArgs {
    /// Which ones: a job's id, or a number of the list
    #[arg(value_name = "ID|NUMBER", conflicts_with_all = ["reason", "older_than", "all"])]
    which: Vec<String>,
    /// Those that were rejected for this reason
    #[arg(long, value_name = "REASON", value_parser = PossibleValuesParser::new(REASONS), conflicts_with = "all")]
    reason: Option<String>,
    /// Those that were rejected longer ago than this, such as 7d
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, conflicts_with = "all")]
    older_than: Option<Duration>,
    /// All that are there
    #[arg(long)]
    all: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(args: &RejectedArgs, global: &GlobalArgs) -> Result<(), Failure> {
    match &args.command {
        RejectedCommand::List(args) => look::list(args, Pass::open(global).await?).await,
        RejectedCommand::Show(args) => look::show(args, global).await,
        RejectedCommand::Requeue(args) => {
            let choice = Choice::new(&args.which, args.reason.as_deref(), None, args.all)?;
            take::requeue(args, choice, global).await
        }
        RejectedCommand::Purge(args) => {
            let before = args.older_than.map(|age| Timestamp::now().saturating_sub(age));
            let choice = Choice::new(&args.which, args.reason.as_deref(), before, args.all)?;
            if !args.yes && !io::stdin().is_terminal() {
                return Err(Failure::usage("there is no terminal to ask on whether to remove them", "--yes removes without asking"));
            }
            take::purge(args, choice, global).await
        }
    }
}

/// One reading of the queue.
struct Pass {
    broker: Broker,
    queue: RejectedQueue,
    reader: Reader,
    /// From the first message on, while there are more.
    progress: Option<Progress>,
}

impl Pass {
    async fn open(global: &GlobalArgs) -> Result<Self, Failure> {
        let (broker, config): (Broker, Config) = broker::configured(global)?;
        let queue = RejectedQueue::open(&broker).await.map_err(|error| match error {
            AmqpError::Absent { .. } => {
                let hint = "has a daemon run with [amqp]? it declares the queue tarishi.rejected";
                Failure::new(Exit::Refused, format!("there is no queue of rejected messages at {}: {error}", broker.url()), hint)
            }
            other => broker::failed(&broker, &other),
        })?;
        Ok(Self { broker, queue, reader: Reader::new(config.intake.request_limit.as_u64()), progress: None })
    }

    async fn next(&mut self) -> Result<Option<Rejected>, Failure> {
        let next = self.queue.next().await.map_err(|error| broker::failed(&self.broker, &error));
        let progress = self.progress.get_or_insert_with(|| Progress::of(u64::from(self.queue.waiting()), "reading"));
        progress.at(u64::from(self.queue.read()));
        next
    }

    async fn remove(&mut self, place: Place) -> Result<(), Failure> {
        self.queue.remove(place).await.map_err(|error| broker::failed(&self.broker, &error))
    }

    /// Gives back what stays. How many that are, of those that were there.
    async fn close(self) -> Result<u32, Failure> {
        let left = self.queue.waiting() - self.queue.removed();
        self.queue.close().await.map_err(|error| broker::failed(&self.broker, &error))?;
        Ok(left)
    }
}

/// Finds out which messages the numbers in `choice` stand for, which takes a look at all of them: they are in no order.
async fn resolve_numbers(choice: &mut Choice, global: &GlobalArgs) -> Result<(), Failure> {
    if !choice.has_numbers() {
        return Ok(());
    }
    let mut pass = Pass::open(global).await?;
    let mut keys = Keys::default();
    while let Some(message) = pass.next().await? {
        keys.add(Key::of(&message));
    }
    pass.close().await?;
    choice.resolve_numbers(&keys.in_order());
    Ok(())
}
