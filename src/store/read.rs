//! What operators and producers ask: jobs, deliveries, the audit. Every query reads a bounded number of rows.

use rusqlite::{OptionalExtension, Row, params};
use serde::Serialize;

use super::{Store, StoreError, callbacks::confirmation};
use crate::model::{Address, Channel, DeliveryId, DeliveryKey, JobId, Priority, Skipped, Status, Timestamp, mask};

/// Deliveries one page may hold.
pub const PAGE_LIMIT: usize = 500;
/// Rows one listing looks at before it hands out a cursor, however few matched: keeps every query flat.
const SCAN_LIMIT: usize = 5000;

/// Jobs are numbered in nearly the order they were accepted in; by how many places that may be off.
const REORDER_LIMIT: usize = 1000;

/// A job as operators see it.
#[derive(Clone, Debug, Serialize, schemars::JsonSchema)]
#[schemars(rename = "JobRecord")]
pub struct JobView {
    #[serde(skip)]
    pub num: i64,
    pub id: String,
    pub status: JobStatus,
    pub template: Option<String>,
    pub accepted_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    /// Deliveries in all, those not made yet included.
    pub deliveries_total: u32,
    /// Of those, queued or sending.
    pub open: u32,
    pub deliveries: Vec<DeliveryView>,
    pub skipped: Vec<Skipped>,
    /// Where the next page of deliveries starts.
    pub next_cursor: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// Some delivery is queued or sending.
    Running,
    Finished,
    /// Cancelled; attempts under way may still end as sent.
    Cancelled,
}

/// A delivery as operators see it: the address masked.
#[derive(Clone, Debug, Serialize, schemars::JsonSchema)]
#[schemars(rename = "DeliveryRecord")]
pub struct DeliveryView {
    #[serde(skip)]
    pub key: DeliveryKey,
    pub id: DeliveryId,
    pub job_id: String,
    pub template: Option<String>,
    pub channel: Channel,
    pub user_id: Option<String>,
    pub address: String,
    pub status: Status,
    pub code: Option<String>,
    pub provider: Option<String>,
    pub provider_id: Option<String>,
    pub priority: Priority,
    pub attempts: Attempts,
    pub accepted_at: Timestamp,
    pub updated_at: Timestamp,
    /// When the next attempt is due; absent once none will follow.
    pub next_at: Option<Timestamp>,
    pub expires_at: Timestamp,
    /// What became of it later, the first time of each.
    #[serde(flatten)]
    pub confirmed: Confirmations,
    #[serde(skip)]
    attempt_at: Option<Timestamp>,
}

/// What became of a message after it was sent, as far as its provider has told us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Confirmations {
    pub delivered_at: Option<Timestamp>,
    pub opened_at: Option<Timestamp>,
    pub clicked_at: Option<Timestamp>,
}

/// How many attempts were recorded, or each of them.
#[derive(Clone, Debug, Serialize, schemars::JsonSchema)]
#[serde(untagged)]
pub enum Attempts {
    Count(u32),
    List(Vec<AttemptView>),
}

/// One call to one provider.
#[derive(Clone, Debug, Serialize, schemars::JsonSchema)]
#[schemars(rename = "Attempt")]
pub struct AttemptView {
    pub number: u32,
    pub provider: Option<String>,
    pub started_at: Timestamp,
    /// Absent while it is under way.
    pub finished_at: Option<Timestamp>,
    pub outcome: Option<String>,
    pub code: Option<String>,
    pub detail: Option<String>,
    pub provider_id: Option<String>,
}

/// Which deliveries to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct DeliveryFilter {
    pub status: Option<Status>,
    pub channel: Option<Channel>,
    pub user: Option<String>,
    pub template: Option<String>,
    /// Accepted at or after this moment.
    pub since: Option<Timestamp>,
    /// Where an earlier page ended.
    pub cursor: Option<DeliveryKey>,
    pub limit: usize,
}

/// One page of a listing.
#[derive(Clone, Debug)]
pub struct DeliveryPage {
    pub deliveries: Vec<DeliveryView>,
    /// Present when there may be more; a page can be short, even empty, and still have one.
    pub next_cursor: Option<DeliveryKey>,
}

const COLUMNS: &str =
    "d.job, d.ordinal, j.key, j.id, j.template, d.channel, d.user_id, d.address, d.status, d.code, d.provider, d.provider_id,
                       d.priority, d.attempts, j.accepted_at, d.updated_at, d.due_at, d.expires_at, d.attempt_at";

impl Store {
    /// A job and the page of its deliveries that starts at ordinal `from`.
    pub async fn job(&self, id: &JobId, from: u32, limit: usize) -> Result<Option<JobView>, StoreError> {
        let key = DeliveryId::job_key(id);
        self.read(move |connection| {
            // Of one moment: an attempt is not under way and over at once.
            let snapshot = connection.unchecked_transaction()?;
            let job = snapshot
                .prepare_cached(
                    "SELECT num, id, template, accepted_at, finished_at, planned, open, skipped, cancelled_at FROM jobs WHERE key = ?1",
                )?
                .query_row([key], read_job)
                .optional()?;
            let Some(mut job) = job else { return Ok(None) };
            let mut deliveries: Vec<DeliveryView> = snapshot
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM deliveries d CROSS JOIN jobs j ON j.num = d.job WHERE d.job = ?1 AND d.ordinal >= ?2 ORDER BY d.ordinal LIMIT ?3"
                ))?
                .query_map(params![job.num, from, limit + 1], read_view)?
                .collect::<rusqlite::Result<_>>()?;
            if deliveries.len() > limit {
                job.next_cursor = deliveries.pop().map(|next| next.key.ordinal.to_string());
            }
            for delivery in &mut deliveries {
                delivery.attempts = Attempts::List(read_attempts(&snapshot, delivery)?);
                delivery.confirmed = read_confirmations(&snapshot, delivery)?;
            }
            job.deliveries = deliveries;
            Ok(Some(job))
        })
        .await
    }

    /// Deliveries that match `filter`, newest first.
    pub async fn deliveries(&self, filter: DeliveryFilter) -> Result<DeliveryPage, StoreError> {
        self.read(move |connection| {
            let snapshot = connection.unchecked_transaction()?;
            Ok(list(&snapshot, &filter)?)
        })
        .await
    }
}

fn list(connection: &rusqlite::Connection, filter: &DeliveryFilter) -> rusqlite::Result<DeliveryPage> {
    let oldest = match filter.since {
        None => 0,
        Some(since) => connection
            .prepare_cached(
                "SELECT min(num) FROM (SELECT num FROM jobs INDEXED BY jobs_accepted WHERE accepted_at >= ?1 ORDER BY accepted_at LIMIT ?2)",
            )?
            .query_row(params![since.as_millis(), REORDER_LIMIT], |row| row.get::<_, Option<i64>>(0))?
            .unwrap_or(i64::MAX),
    };
    let before = filter.cursor.unwrap_or(DeliveryKey { job: i64::MAX, ordinal: u32::MAX });
    let mut statement = connection.prepare_cached(&listing(filter))?;
    let driver = filter.user.as_deref().or(filter.template.as_deref());
    let mut rows = statement.query(params![oldest, before.job, before.ordinal, SCAN_LIMIT, driver])?;
    let mut page = DeliveryPage { deliveries: Vec::new(), next_cursor: None };
    let mut scanned = 0;
    while let Some(row) = rows.next()? {
        scanned += 1;
        let view = read_view(row)?;
        let key = view.key;
        if matches(&view, filter) {
            page.deliveries.push(view);
        }
        if page.deliveries.len() >= filter.limit || scanned == SCAN_LIMIT {
            page.next_cursor = Some(key);
            break;
        }
    }
    for view in &mut page.deliveries {
        view.confirmed = read_confirmations(connection, view)?;
    }
    Ok(page)
}

/// The listing's SQL: the narrowest index leads, the rest is checked row by row. Each form walks its index in (job, ordinal) order.
fn listing(filter: &DeliveryFilter) -> String {
    let range = "d.job >= ?1 AND (d.job, d.ordinal) < (?2, ?3)";
    let newest = "ORDER BY d.job DESC, d.ordinal DESC LIMIT ?4";
    let from = |index: &str| format!("SELECT {COLUMNS} FROM deliveries d {index} CROSS JOIN jobs j ON j.num = d.job WHERE {range}");
    match (&filter.user, filter.status, &filter.template) {
        (Some(_), ..) => format!("{} AND d.user_id = ?5 {newest}", from("INDEXED BY deliveries_user")),
        (None, Some(status @ (Status::Queued | Status::Sending)), _) => {
            format!("{} AND d.status <= 1 AND d.status = {} AND ?5 IS ?5 {newest}", from("INDEXED BY deliveries_open"), status.as_number())
        }
        (None, Some(status), _) if status.as_number() >= Status::Failed.as_number() => {
            format!("{} AND d.status >= 4 AND d.status = {} AND ?5 IS ?5 {newest}", from("INDEXED BY deliveries_lost"), status.as_number())
        }
        (None, _, Some(_)) => format!(
            "SELECT {COLUMNS} FROM jobs j INDEXED BY jobs_template CROSS JOIN deliveries d ON d.job = j.num
             WHERE j.template = ?5 AND j.num >= ?1 AND j.num <= ?2 AND (d.job, d.ordinal) < (?2, ?3) ORDER BY j.num DESC, d.ordinal DESC LIMIT ?4"
        ),
        (None, ..) => format!("{} AND ?5 IS NULL {newest}", from("")),
    }
}

fn matches(view: &DeliveryView, filter: &DeliveryFilter) -> bool {
    filter.status.is_none_or(|status| view.status == status)
        && filter.since.is_none_or(|since| view.accepted_at >= since)
        && filter.channel.is_none_or(|channel| view.channel == channel)
        && filter.template.as_ref().is_none_or(|template| view.template.as_ref() == Some(template))
}

fn read_job(row: &Row<'_>) -> rusqlite::Result<JobView> {
    let open: u32 = row.get(6)?;
    let finished_at: Option<i64> = row.get(4)?;
    let cancelled_at: Option<i64> = row.get(8)?;
    let skipped: Option<String> = row.get(7)?;
    Ok(JobView {
        num: row.get(0)?,
        id: row.get(1)?,
        status: match (cancelled_at, open) {
            (Some(_), _) => JobStatus::Cancelled,
            (None, 0) => JobStatus::Finished,
            (None, _) => JobStatus::Running,
        },
        template: row.get(2)?,
        accepted_at: Timestamp::from_millis(row.get(3)?),
        finished_at: finished_at.map(Timestamp::from_millis),
        deliveries_total: row.get(5)?,
        open,
        deliveries: Vec::new(),
        skipped: skipped.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default(),
        next_cursor: None,
    })
}

fn read_view(row: &Row<'_>) -> rusqlite::Result<DeliveryView> {
    let unknown = |column: usize| rusqlite::Error::IntegralValueOutOfRange(column, row.get(column).unwrap_or(-1));
    let key = DeliveryKey { job: row.get(0)?, ordinal: row.get(1)? };
    let channel = Channel::from_number(row.get(5)?).ok_or_else(|| unknown(5))?;
    let status = Status::from_number(row.get(8)?).ok_or_else(|| unknown(8))?;
    let address: String = row.get(7)?;
    Ok(DeliveryView {
        key,
        id: DeliveryId::new(row.get(2)?, key.ordinal),
        job_id: row.get(3)?,
        template: row.get(4)?,
        channel,
        user_id: row.get(6)?,
        address: Address::from_stored(channel, &address).map_or_else(|_| mask(&address), |address| address.masked()),
        status,
        code: row.get(9)?,
        provider: row.get(10)?,
        provider_id: row.get(11)?,
        priority: Priority::from_number(row.get(12)?).ok_or_else(|| unknown(12))?,
        attempts: Attempts::Count(row.get(13)?),
        accepted_at: Timestamp::from_millis(row.get(14)?),
        updated_at: Timestamp::from_millis(row.get(15)?),
        next_at: (status == Status::Queued).then_some(Timestamp::from_millis(row.get(16)?)),
        expires_at: Timestamp::from_millis(row.get(17)?),
        confirmed: Confirmations::default(),
        attempt_at: row.get::<_, Option<i64>>(18)?.map(Timestamp::from_millis),
    })
}

fn read_confirmations(connection: &rusqlite::Connection, delivery: &DeliveryView) -> rusqlite::Result<Confirmations> {
    let mut confirmed = Confirmations::default();
    let mut statement = connection.prepare_cached("SELECT kind, at FROM confirmations WHERE job = ?1 AND ordinal = ?2")?;
    let mut rows = statement.query((delivery.key.job, delivery.key.ordinal))?;
    while let Some(row) = rows.next()? {
        let at = Some(Timestamp::from_millis(row.get(1)?));
        match row.get(0)? {
            confirmation::DELIVERED => confirmed.delivered_at = at,
            confirmation::OPENED => confirmed.opened_at = at,
            confirmation::CLICKED => confirmed.clicked_at = at,
            _ => {}
        }
    }
    if delivery.channel == Channel::Live && delivery.status == Status::Delivered {
        // Nobody calls back about it: it was written to a socket, and nothing happens to it afterwards.
        confirmed.delivered_at = Some(delivery.updated_at);
    }
    Ok(confirmed)
}

/// The attempts with an outcome, then the one under way.
fn read_attempts(connection: &rusqlite::Connection, delivery: &DeliveryView) -> rusqlite::Result<Vec<AttemptView>> {
    let mut attempts: Vec<AttemptView> = connection
        .prepare_cached(
            "SELECT number, provider, started_at, finished_at, outcome, code, detail, provider_id FROM attempts
             WHERE job = ?1 AND ordinal = ?2 ORDER BY number",
        )?
        .query_map((delivery.key.job, delivery.key.ordinal), |row| {
            Ok(AttemptView {
                number: row.get(0)?,
                provider: row.get(1)?,
                started_at: Timestamp::from_millis(row.get(2)?),
                finished_at: Some(Timestamp::from_millis(row.get(3)?)),
                outcome: row.get(4)?,
                code: row.get(5)?,
                detail: row.get(6)?,
                provider_id: row.get(7)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    if let (Status::Sending, Attempts::Count(number), Some(started_at)) = (delivery.status, &delivery.attempts, delivery.attempt_at) {
        attempts.push(AttemptView {
            number: *number,
            provider: delivery.provider.clone(),
            started_at,
            finished_at: None,
            outcome: None,
            code: None,
            detail: None,
            provider_id: None,
        });
    }
    Ok(attempts)
}

#[cfg(test)]
mod tests {
    use rusqlite::{Connection, StatementStatus};

    use super::*;

    /// A store of `jobs` jobs of one delivery each: one in a thousand lost, one in ten thousand open, two users, two templates.
    fn filled(jobs: u32) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(include_str!("migrations/V1__initial.sql")).unwrap();
        connection.execute_batch(include_str!("migrations/V3__providers.sql")).unwrap();
        connection
            .execute_batch(&format!(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {jobs})
                 INSERT INTO jobs (key, id, body_hash, envelope, template, planned, made, open, accepted_at)
                 SELECT CAST(printf('%012d', i) AS BLOB), 'job-' || i, zeroblob(32), '{{}}', iif(i % 2000 = 0, 'rare', 'generic'), 1, 1, 0, i FROM n;
                 INSERT INTO deliveries (job, ordinal, channel, priority, user_id, address, status, attempts, due_at, expires_at,
                                         lease_owner, lease_until, updated_at)
                 SELECT num, 0, 0, 1, iif(num % 3000 = 0, 'rare', 'often'), 'a@example.com',
                        iif(num % 10000 = 0, 0, iif(num % 1000 = 0, 4, 2)), 1, num, num, 0, 0, num FROM jobs;"
            ))
            .unwrap();
        connection
    }

    /// Steps of SQLite's machine that one page takes.
    fn steps(connection: &Connection, filter: &DeliveryFilter) -> i32 {
        let page = list(connection, filter).unwrap();
        assert!(page.deliveries.len() <= filter.limit);
        let statement = connection.prepare_cached(&listing(filter)).unwrap();
        statement.reset_status(StatementStatus::VmStep)
    }

    #[test]
    fn a_page_costs_the_same_however_much_there_is() {
        let (small, large) = (filled(20_000), filled(200_000));
        let base = DeliveryFilter { limit: 100, ..DeliveryFilter::default() };
        let user = |user: &str| Some(user.to_owned());
        for filter in [
            base.clone(),
            DeliveryFilter { status: Some(Status::Sent), ..base.clone() },
            DeliveryFilter { status: Some(Status::Failed), ..base.clone() },
            DeliveryFilter { status: Some(Status::Queued), ..base.clone() },
            DeliveryFilter { status: Some(Status::Delivered), ..base.clone() },
            DeliveryFilter { channel: Some(Channel::Sms), ..base.clone() },
            DeliveryFilter { user: user("often"), ..base.clone() },
            DeliveryFilter { user: user("rare"), status: Some(Status::Failed), ..base.clone() },
            DeliveryFilter { user: user("nobody"), ..base.clone() },
            DeliveryFilter { template: user("generic"), ..base.clone() },
            DeliveryFilter { template: user("rare"), status: Some(Status::Sent), ..base.clone() },
            DeliveryFilter { since: Some(Timestamp::from_millis(19_000)), ..base.clone() },
            DeliveryFilter { cursor: Some(DeliveryKey { job: 10_000, ordinal: 0 }), ..base.clone() },
        ] {
            let (few, many) = (steps(&small, &filter), steps(&large, &filter));
            // A rare match is looked for in a bounded number of rows; both stores have more than that.
            assert!(many <= few * 2 + 30_000, "{filter:?}: {few} steps in the small store, {many} in one ten times as large");
        }
    }
}
