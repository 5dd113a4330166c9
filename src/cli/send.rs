//! `tarishi send`: hands jobs to the running daemon, or to the broker for it, and can wait for what becomes of them.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use uuid::Uuid;

use super::{
    client::{ApiError, Client, Receipt},
    failure::{Exit, Failure},
    job::{Batch, JobArgs, Jobs},
    output::{self, count},
    progress::Progress,
    send_amqp,
    server::ServerArgs,
    settings::GlobalArgs,
    wait,
};

const AFTER_HELP: &str = "\
Examples:
  tarishi send --template new_message --to 42,email=asha@example.com --data @message.json
  tarishi send --template generic --to 42 --channel live,push --data @notice.json --wait
  tarishi send --template generic --recipients-file people.csv --data @news.json --id newsletter-7
  tarishi send order.json                       one job, an array of jobs, or JSON Lines
  my-export | tarishi send - --json             receipts as JSON Lines, one per job
  tarishi send job.json --repeat 10000 --wait   load: the ids get -1 to -10000
  tarishi send order.json --amqp                puts it on the broker's queue, also while the daemon is down

Every job is sent with an id, so that asking again is safe: 429, 503 and a daemon that restarts are waited for, about half a minute. Give ids of your own to make the whole command safe to run again: what is known already is not sent twice.

--amqp publishes to the exchange tarishi.jobs of the broker in [amqp] of the configuration, one message per job, and counts as sent what the broker has confirmed. Whether a job is a good one turns out when the daemon takes it: what it does not take is in `tarishi rejected list`. With --wait the daemon is asked for what became of them.

Exit codes: 0 accepted, and with --wait all sent; 1 failed, or not all sent; 2 usage; 4 daemon or broker not reached; 5 refused.";

#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct SendArgs {
    /// File with one job, an array of jobs, or one job per line; - is standard input
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub job: JobArgs,
    /// Send every job N times, with -1 to -N after its id
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub repeat: Option<u32>,
    /// Wait until every delivery has ended, at most so long
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "10m", value_parser = humantime::parse_duration)]
    pub wait: Option<Duration>,
    /// Publish to the broker instead of asking the daemon
    #[arg(long)]
    pub amqp: bool,
    /// Print receipts as JSON Lines, one per job
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: ServerArgs,
}

pub async fn run(args: &SendArgs, global: &GlobalArgs) -> Result<(), Failure> {
    if args.amqp && args.wait.is_none() && args.server.is_given() {
        let hint = "with --amqp the jobs go to the broker in [amqp] of the configuration; only --wait asks the daemon";
        return Err(Failure::usage("--server and --api-key-file have no meaning with --amqp", hint));
    }
    let jobs = jobs(args)?;
    if args.amqp {
        return send_amqp::run(args, &jobs, global).await;
    }
    let client = args.server.connect(global)?;
    let handed = hand_over(&client, &jobs, args).await?;
    if !args.json {
        output::print(&handed.told())?;
    }
    match args.wait {
        Some(limit) => wait::run(&client, handed.kept, handed.totals.deliveries, limit, args.json).await,
        None => Ok(()),
    }
}

fn jobs(args: &SendArgs) -> Result<Jobs, Failure> {
    let run = Uuid::now_v7().to_string();
    match &args.file {
        Some(file) => Jobs::read(file, run, args.repeat),
        None if args.job.template.is_some() => Jobs::from_options(args.job.clone(), run, args.repeat),
        None if !args.job.to.is_empty() || args.job.recipients_file.is_some() => {
            Err(Failure::usage("there is nothing to say", "name a template with --template NAME; see `tarishi template list`"))
        }
        None if !io::stdin().is_terminal() => Jobs::read(Path::new("-"), run, args.repeat),
        None => Err(Failure::usage("there is no job to send", "name a file, or --template and --to; see `tarishi send --help`")),
    }
}

/// What came of handing over.
#[derive(Default)]
struct Handed {
    totals: Totals,
    /// The receipts that are needed again: of a lone job, and to wait for.
    kept: Vec<Receipt>,
}

#[derive(Default)]
struct Totals {
    jobs: u64,
    repeated: u64,
    deliveries: u64,
    skipped: u64,
    /// By channel and reason, as far as they were listed.
    reasons: BTreeMap<(String, String), u64>,
}

impl Totals {
    fn add(&mut self, receipt: &Receipt) {
        self.jobs += 1;
        self.repeated += u64::from(receipt.repeated);
        self.deliveries += receipt.deliveries;
        self.skipped += receipt.skipped_total.max(receipt.skipped.len() as u64);
        for skipped in &receipt.skipped {
            *self.reasons.entry((skipped.channel.clone(), skipped.reason.clone())).or_default() += 1;
        }
    }
}

async fn hand_over(client: &Client, jobs: &Jobs, args: &SendArgs) -> Result<Handed, Failure> {
    let progress = Progress::of(jobs.len() as u64, "sending");
    let mut handed = Handed::default();
    let mut next = 0;
    while next < jobs.len() {
        let batch = jobs.batch(next)?;
        let body = batch.body.clone();
        let receipts = client.post_jobs(body, |why| progress.note(why)).await.map_err(|error| stopped(error, jobs, &batch))?;
        if receipts.len() != batch.jobs.len() {
            let message = format!("{} were sent and {} answered", count(batch.jobs.len() as u64, "job"), receipts.len());
            return Err(Failure::new(Exit::Failed, message, "is the daemon of this version? see `tarishi status`"));
        }
        for receipt in receipts {
            handed.totals.add(&receipt);
            if args.json && args.wait.is_none() {
                output::print_json_line(&receipt)?;
            }
            if args.wait.is_some() || jobs.len() == 1 {
                handed.kept.push(receipt);
            }
        }
        next = batch.jobs.end;
        progress.at(next as u64);
    }
    Ok(handed)
}

/// Tells why `batch` was not taken, in terms of what was given, and what that leaves.
fn stopped(error: ApiError, jobs: &Jobs, batch: &Batch) -> Failure {
    let first = batch.jobs.start;
    let error = match error {
        ApiError::Refused(mut refusal) => {
            if jobs.len() > 1 {
                for told in &mut refusal.problems {
                    told.path = path_in_input(&told.path, |index| jobs.place(first + index));
                }
            }
            ApiError::Refused(refusal)
        }
        other => other,
    };
    let failure = Failure::from(error);
    if first == 0 {
        return failure;
    }
    let taken = format!("the first {first} of {} were accepted before that", count(jobs.len() as u64, "job"));
    failure.with_hint(if jobs.are_repeatable {
        format!("{taken}; mend it and send the same again: those are recognised by their ids")
    } else {
        format!("{taken}, with ids made here: send only the rest, or they are sent twice")
    })
}

/// `$[3].to` with the job's place in the input instead of in its request.
fn path_in_input(path: &str, place: impl Fn(usize) -> usize) -> String {
    let split = path.strip_prefix("$[").and_then(|rest| rest.split_once(']'));
    match split.and_then(|(index, rest)| Some((index.parse().ok()?, rest))) {
        Some((index, rest)) => format!("$[{}]{rest}", place(index)),
        None => path.to_owned(),
    }
}

impl Handed {
    fn told(&self) -> String {
        let totals = &self.totals;
        let mut lines = match self.kept.as_slice() {
            [receipt] if receipt.repeated => {
                vec![format!("known already: {}, {}; nothing is sent again", receipt.id, count(receipt.deliveries, "delivery"))]
            }
            [receipt] => vec![format!("accepted {}: {}", receipt.id, count(receipt.deliveries, "delivery"))],
            _ => {
                let repeated = match totals.repeated {
                    0 => String::new(),
                    repeated => format!("; {repeated} of the jobs known already, nothing is sent again for them"),
                };
                vec![format!("accepted {}: {}{repeated}", count(totals.jobs, "job"), count(totals.deliveries, "delivery"))]
            }
        };
        lines.extend(skipped(totals, &self.kept));
        lines.join("\n")
    }
}

/// `  skipped 3: sms, no address: 2; push, no template part: 1`, and who when that is short.
fn skipped(totals: &Totals, kept: &[Receipt]) -> Option<String> {
    const NAMED: usize = 3;
    if totals.skipped == 0 {
        return None;
    }
    let users = |channel: &str, reason: &str| {
        let matching = kept.iter().flat_map(|receipt| &receipt.skipped).filter(|one| one.channel == channel && one.reason == reason);
        let users: Vec<&str> = matching.filter_map(|one| one.user_id.as_deref()).collect();
        if users.is_empty() || users.len() > NAMED { String::new() } else { format!(" (user {})", users.join(", ")) }
    };
    let reasons = totals
        .reasons
        .iter()
        .map(|((channel, reason), number)| format!("{channel}, {}: {number}{}", reason.replace('_', " "), users(channel, reason)));
    let listed: u64 = totals.reasons.values().sum();
    let rest = (listed < totals.skipped).then(|| format!("not listed: {}", totals.skipped - listed));
    let reasons: Vec<String> = reasons.chain(rest).collect();
    Some(format!("  skipped {}: {}", totals.skipped, reasons.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::{super::client::SkippedView, *};

    fn receipt(id: &str, repeated: bool, skipped: &[(&str, &str, &str)]) -> Receipt {
        let view = |(user, channel, reason): &(&str, &str, &str)| SkippedView {
            user_id: Some((*user).to_owned()),
            channel: (*channel).to_owned(),
            reason: (*reason).to_owned(),
        };
        Receipt {
            id: id.to_owned(),
            deliveries: 2,
            repeated,
            skipped: skipped.iter().map(view).collect(),
            skipped_total: skipped.len() as u64,
        }
    }

    #[track_caller]
    fn check(receipts: Vec<Receipt>, expected: &str) {
        let mut handed = Handed::default();
        for receipt in &receipts {
            handed.totals.add(receipt);
        }
        if receipts.len() == 1 {
            handed.kept = receipts;
        }
        assert_eq!(handed.told(), expected);
    }

    #[test]
    fn receipts_read_as_sentences() {
        check(vec![receipt("a", false, &[])], "accepted a: 2 deliveries");
        check(vec![receipt("a", true, &[])], "known already: a, 2 deliveries; nothing is sent again");
        check(
            vec![receipt("a", false, &[("42", "sms", "no_address"), ("43", "sms", "no_address"), ("42", "push", "no_template_part")])],
            "accepted a: 2 deliveries\n  skipped 3: push, no template part: 1 (user 42); sms, no address: 2 (user 42, 43)",
        );
        check(
            vec![receipt("a", false, &[("42", "sms", "no_address")]), receipt("b", true, &[])],
            "accepted 2 jobs: 4 deliveries; 1 of the jobs known already, nothing is sent again for them\n  skipped 1: sms, no address: 1",
        );
        let many = Receipt { skipped_total: 900, ..receipt("a", false, &[("42", "sms", "no_address")]) };
        check(vec![many], "accepted a: 2 deliveries\n  skipped 900: sms, no address: 1 (user 42); not listed: 899");
    }

    #[test]
    fn problems_are_placed_in_the_input() {
        let place = |index: usize| 2000 + index;
        assert_eq!(path_in_input("$[3].to[0]", place), "$[2003].to[0]");
        assert_eq!(path_in_input("$", place), "$");
        assert_eq!(path_in_input("$.to", place), "$.to");
    }
}
