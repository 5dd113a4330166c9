//! Waiting for deliveries to end: asks the daemon, ever less often, and tells what became of them.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};

use super::{
    client::{ApiError, Client, Receipt},
    failure::{Exit, Failure},
    output::{self, count},
    progress::Progress,
};

/// Between two questions about the same job.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Jobs asked about at the same time.
const ASKED_AT_ONCE: usize = 8;
/// Deliveries shown one by one.
const SHOWN_LIMIT: usize = 20;
/// Deliveries asked for at once; the daemon gives at most 500.
const PAGE: &str = "200";
/// Failures kept of one job.
const FAILURES_LIMIT: usize = 100;

#[derive(Deserialize)]
struct JobView {
    #[serde(default)]
    deliveries_total: u64,
    #[serde(default)]
    open: u64,
    #[serde(default)]
    deliveries: Vec<DeliveryView>,
    next_cursor: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct DeliveryView {
    id: String,
    channel: String,
    user_id: Option<String>,
    #[serde(default)]
    address: String,
    status: String,
    code: Option<String>,
    #[serde(default, skip_serializing)]
    attempts: serde_json::Value,
}

/// What became of a job.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    #[serde(flatten)]
    receipt: Option<Receipt>,
    /// How many deliveries ended how.
    statuses: BTreeMap<String, u64>,
    /// The first deliveries that did not reach their provider.
    failures: Vec<DeliveryView>,
    #[serde(skip)]
    shown: Vec<DeliveryView>,
}

impl Outcome {
    fn add(&mut self, delivery: DeliveryView) {
        *self.statuses.entry(delivery.status.clone()).or_default() += 1;
        if !arrived(&delivery.status) && self.failures.len() < FAILURES_LIMIT {
            self.failures.push(delivery.clone());
        }
        if self.shown.len() <= SHOWN_LIMIT {
            self.shown.push(delivery);
        }
    }
}

fn arrived(status: &str) -> bool {
    matches!(status, "sent" | "delivered")
}

/// Waits for all of `receipts`, and tells them in their order.
pub async fn run(client: &Client, receipts: Vec<Receipt>, deliveries: u64, limit: Duration, json: bool) -> Result<(), Failure> {
    wait(&Wait { client, until: Instant::now() + limit, takes_time: false }, receipts, deliveries, json).await
}

/// The same for jobs that are on the broker's queue: the daemon knows them once it has taken them from there.
pub async fn run_published(client: &Client, ids: Vec<String>, limit: Duration, json: bool) -> Result<(), Failure> {
    let receipts = ids.into_iter().map(|id| Receipt { id, ..Receipt::default() }).collect();
    wait(&Wait { client, until: Instant::now() + limit, takes_time: true }, receipts, 0, json).await
}

/// Whom to ask, and how long.
struct Wait<'a> {
    client: &'a Client,
    until: Instant,
    /// The daemon may not have a job yet.
    takes_time: bool,
}

async fn wait(wait: &Wait<'_>, receipts: Vec<Receipt>, deliveries: u64, json: bool) -> Result<(), Failure> {
    let progress = Progress::waiting(deliveries, "waiting");
    let mut outcomes = Vec::with_capacity(receipts.len());
    let mut ended = stream::iter(receipts)
        .map(async |receipt| Ok::<_, Failure>((outcome(wait, &receipt.id, &progress).await?, receipt)))
        .buffered(ASKED_AT_ONCE);
    while let Some((mut outcome, mut receipt)) = ended.try_next().await? {
        if wait.takes_time {
            receipt.deliveries = outcome.statuses.values().sum();
        }
        if json {
            outcome.receipt = Some(receipt);
            output::print_json_line(&outcome)?;
        }
        outcomes.push(outcome);
    }
    drop(ended);
    drop(progress);
    let mut totals: BTreeMap<&str, u64> = BTreeMap::new();
    for (status, number) in outcomes.iter().flat_map(|outcome| &outcome.statuses) {
        *totals.entry(status).or_default() += number;
    }
    if !json {
        output::print(&told(&outcomes, &totals))?;
    }
    let lost: u64 = totals.iter().filter(|(status, _)| !arrived(status)).map(|(_, number)| number).sum();
    if lost == 0 {
        return Ok(());
    }
    let all: u64 = totals.values().sum();
    Err(Failure::new(Exit::Failed, format!("{lost} of {} did not reach the provider", count(all, "delivery")), "the codes above say why"))
}

/// What became of a job, once all of it has ended.
async fn outcome(wait: &Wait<'_>, id: &str, progress: &Progress) -> Result<Outcome, Failure> {
    let Wait { client, until, takes_time } = *wait;
    let (mut pause, mut seen, mut is_known) = (FIRST_PAUSE, 0, !takes_time);
    loop {
        let open = match page(client, id, None, progress).await {
            Err(error) if !is_known && error.is_not_found() => None,
            Err(error) => return Err(error.into()),
            Ok(job) => {
                if !is_known {
                    progress.longer(job.deliveries_total);
                    is_known = true;
                }
                let ended = job.deliveries_total.saturating_sub(job.open);
                progress.add(ended.saturating_sub(seen));
                seen = ended.max(seen);
                if job.open == 0 {
                    return read(client, id, job, progress).await;
                }
                Some(job.open)
            }
        };
        if Instant::now() >= until {
            return Err(not_in_time(id, open));
        }
        tokio::time::sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// `open` deliveries have not ended; `None`: the daemon has not taken the job.
fn not_in_time(id: &str, open: Option<u64>) -> Failure {
    let (message, hint) = match open {
        Some(open) => (
            format!("{} of job {id} have not ended in time", count(open, "delivery")),
            "the daemon goes on with them; see `tarishi status`, or wait longer with --wait=1h",
        ),
        None => (
            format!("the daemon has not accepted job {id} in time"),
            "it waits on the queue tarishi.jobs (does the daemon run, with the same [amqp]?) or was rejected: see `tarishi rejected list`",
        ),
    };
    Failure::new(Exit::Failed, message, hint)
}

/// Reads how a job's deliveries ended, from its first page on.
async fn read(client: &Client, id: &str, first: JobView, progress: &Progress) -> Result<Outcome, Failure> {
    let (mut outcome, mut next) = (Outcome::default(), first);
    loop {
        next.deliveries.into_iter().for_each(|delivery| outcome.add(delivery));
        let Some(cursor) = next.next_cursor else { return Ok(outcome) };
        next = page(client, id, Some(&cursor), progress).await?;
    }
}

async fn page(client: &Client, id: &str, cursor: Option<&str>, progress: &Progress) -> Result<JobView, ApiError> {
    let query: Vec<(&str, &str)> = [("limit", PAGE)].into_iter().chain(cursor.map(|cursor| ("cursor", cursor))).collect();
    client.get_patiently(&["v1", "jobs", id], &query, |why| progress.note(why)).await
}

fn told(outcomes: &[Outcome], totals: &BTreeMap<&str, u64>) -> String {
    let numbers: Vec<String> = totals.iter().map(|(status, number)| format!("{number} {status}")).collect();
    let summary = if numbers.is_empty() { "no deliveries".to_owned() } else { numbers.join(", ") };
    let shown: Vec<&DeliveryView> = outcomes.iter().flat_map(|outcome| &outcome.shown).take(SHOWN_LIMIT + 1).collect();
    // All of them when they are few, else those that need a look.
    let rows =
        if shown.len() <= SHOWN_LIMIT { shown } else { outcomes.iter().flat_map(|outcome| &outcome.failures).take(SHOWN_LIMIT).collect() };
    if rows.is_empty() {
        return summary;
    }
    let table = output::table(
        &["channel", "user", "address", "status", "code", "#attempts"],
        rows.into_iter().map(|delivery| {
            vec![
                delivery.channel.clone(),
                delivery.user_id.clone().unwrap_or_default(),
                delivery.address.clone(),
                delivery.status.clone(),
                delivery.code.clone().unwrap_or_default(),
                attempts(&delivery.attempts).to_string(),
            ]
        }),
    );
    format!("{table}\n{summary}")
}

/// How many attempts, given as a number or one by one.
fn attempts(given: &serde_json::Value) -> u64 {
    given.as_array().map_or_else(|| given.as_u64().unwrap_or(0), |attempts| attempts.len() as u64)
}

#[cfg(test)]
mod tests {
    use axum::{Router, extract::Query, routing::get};
    use serde_json::json;

    use super::{super::client::tests::impatient, *};

    fn delivery(number: u64, status: &str) -> serde_json::Value {
        json!({ "id": number.to_string(), "channel": "email", "user_id": "42", "address": "a***@e***.com", "status": status,
                "code": null, "provider": "outbox", "attempts": [{ "number": 1 }], "next_at": null })
    }

    async fn client(pages: fn(Option<&str>) -> serde_json::Value) -> Client {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = impatient(&format!("http://{}", listener.local_addr().unwrap()), None);
        let page =
            move |Query(query): Query<BTreeMap<String, String>>| async move { pages(query.get("cursor").map(String::as_str)).to_string() };
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/v1/jobs/{id}", get(page))).await });
        client
    }

    fn receipts() -> Vec<Receipt> {
        vec![Receipt { id: "a/b".to_owned(), deliveries: 3, repeated: false, skipped: Vec::new(), skipped_total: 0 }]
    }

    #[tokio::test]
    async fn reads_all_pages_and_fails_when_something_did_not_arrive() {
        let client = client(|cursor| {
            let (deliveries, next) = match cursor {
                None => (vec![delivery(0, "sent"), delivery(1, "failed")], Some("2")),
                Some(_) => (vec![delivery(2, "delivered")], None),
            };
            json!({ "id": "a/b", "status": "finished", "deliveries_total": 3, "open": 0, "deliveries": deliveries, "next_cursor": next })
        });
        let failure = run(&client.await, receipts(), 3, Duration::from_secs(5), true).await.unwrap_err();
        assert_eq!(failure, Failure::new(Exit::Failed, "1 of 3 deliveries did not reach the provider", "the codes above say why"));
    }

    #[tokio::test]
    async fn waiting_ends() {
        let client = client(
            |_| json!({ "id": "a/b", "status": "running", "deliveries_total": 3, "open": 2, "deliveries": [], "next_cursor": null }),
        );
        let failure = run(&client.await, receipts(), 3, Duration::ZERO, false).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Failed);
    }

    #[test]
    fn few_deliveries_are_shown_and_many_counted() {
        let mut outcome = Outcome::default();
        outcome.add(serde_json::from_value(delivery(0, "sent")).unwrap());
        let totals = BTreeMap::from([("sent", 1)]);
        assert_eq!(
            told(&[outcome], &totals),
            "channel  user  address        status  code  attempts\nemail    42    a***@e***.com  sent                 1\n1 sent"
        );
        let mut outcome = Outcome::default();
        (0..30).for_each(|number| outcome.add(serde_json::from_value(delivery(number, "sent")).unwrap()));
        assert_eq!(told(&[outcome], &BTreeMap::from([("sent", 30)])), "30 sent");
    }
}
