//! `tarishi send --amqp`: the same jobs, published to the broker instead of handed to the daemon.

use serde_json::json;

use super::{
    broker,
    client::Patience,
    failure::Failure,
    job::{FinishedJob, Jobs},
    output::{self, count},
    progress::Progress,
    send::SendArgs,
    settings::GlobalArgs,
    wait,
};
use crate::amqp::{AmqpError, Broker, JOBS, JobMessage, JobPublisher};

pub async fn run(args: &SendArgs, jobs: &Jobs, global: &GlobalArgs) -> Result<(), Failure> {
    let client = match args.wait {
        Some(limit) => Some((args.server.connect(global)?, limit)),
        None => None,
    };
    let (broker, _) = broker::configured(global)?;
    let progress = Progress::of(jobs.len() as u64, "publishing");
    let mut sender = Sender { broker: &broker, publisher: None, patience: Patience::default() };
    let (mut next, mut ids) = (0, Vec::new());
    while next < jobs.len() {
        let window = jobs.window(next)?;
        let message = |FinishedJob { id, body }: FinishedJob| (JobMessage::of_job(&id, body), id);
        let (messages, published): (Vec<JobMessage>, Vec<String>) = window.into_iter().map(message).unzip();
        sender.publish(&messages, &progress).await.map_err(|error| stopped(&broker, &error, jobs, next, &published[0]))?;
        next += published.len();
        progress.at(next as u64);
        for id in published {
            if args.json && client.is_none() {
                output::print_json_line(&json!({ "id": id, "queue": JOBS }))?;
            }
            if client.is_some() || jobs.len() == 1 {
                ids.push(id);
            }
        }
    }
    drop(progress);
    sender.close().await;
    if !args.json {
        output::print(&match ids.as_slice() {
            [id] => format!("published {id}: it is on the queue {JOBS}"),
            _ => format!("published {}: they are on the queue {JOBS}", count(jobs.len() as u64, "job")),
        })?;
    }
    match client {
        Some((client, limit)) => wait::run_published(&client, ids, limit, args.json).await,
        None => Ok(()),
    }
}

/// Publishes, and connects again where that may help.
struct Sender<'a> {
    broker: &'a Broker,
    publisher: Option<JobPublisher>,
    patience: Patience,
}

impl Sender<'_> {
    /// Every job has its id, so publishing again what may be there already sends nothing twice.
    async fn publish(&mut self, messages: &[JobMessage], progress: &Progress) -> Result<(), AmqpError> {
        let mut attempt = 1;
        loop {
            let Err(error) = self.publish_once(messages).await else { return Ok(()) };
            self.publisher = None;
            let may_pass = matches!(error, AmqpError::Failed { .. } | AmqpError::TimedOut { .. });
            let Some(wait) = self.patience.wait(attempt, None).filter(|_| may_pass) else { return Err(error) };
            let wait_text = humantime::format_duration(wait);
            progress.note(&format!("the broker at {}: {error}; trying again in {wait_text}", self.broker.url()));
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    async fn publish_once(&mut self, messages: &[JobMessage]) -> Result<(), AmqpError> {
        let publisher = match &mut self.publisher {
            Some(publisher) => publisher,
            none => none.insert(JobPublisher::open(self.broker).await?),
        };
        publisher.publish(messages).await
    }

    async fn close(self) {
        if let Some(publisher) = self.publisher {
            publisher.close().await;
        }
    }
}

/// Tells why nothing from `first` on, which is `id`, counts as sent, and what that leaves.
fn stopped(broker: &Broker, error: &AmqpError, jobs: &Jobs, first: usize, id: &str) -> Failure {
    let failure = broker::failed_to_publish(broker, error);
    if jobs.len() == 1 {
        return failure;
    }
    let all = count(jobs.len() as u64, "job");
    let taken = match first {
        0 => format!("none of the {all} counts as published"),
        _ => format!("the first {first} of {all} are on the queue, nothing from {id} on counts as published"),
    };
    failure.with_more_hint(&if jobs.are_repeatable {
        format!("{taken}; mend it and send the same again: what is there already is recognised by its id")
    } else {
        format!("{taken}; ids were made here: send only the rest, and a few of those may be there already")
    })
}
