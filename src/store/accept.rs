//! Writing jobs and making their deliveries.

use std::{collections::HashMap, sync::Arc};

use rusqlite::{OptionalExtension, params};
use serde_json::Value;

use super::{
    Begin, Lease, LiveItem, LiveStored, Store, StoreError,
    live::{ROWS_PER_ITEM, store_begun},
    tx::Tx,
    writer::{Committing, Urgency},
};
use crate::model::{
    Address, Channel, Code, DeliveryKey, Envelope, Locale, Priority, Recipient, Skipped, Status, Stream, TimeZone, Timestamp, UserId,
};

/// A job checked and expanded, ready to be written.
#[derive(Debug)]
pub struct NewJob {
    pub key: [u8; 12],
    pub body_hash: [u8; 32],
    pub envelope: Arc<Envelope>,
    /// The envelope as it is stored: written out here, so that the writer need not.
    pub document: String,
    pub accepted_at: Timestamp,
    pub skipped: Vec<Skipped>,
    /// Deliveries in all, by channel.
    pub planned: Vec<(Channel, u32)>,
    pub deliveries: NewDeliveries,
}

/// The deliveries of a new job.
#[derive(Debug)]
pub enum NewDeliveries {
    /// All of them, as rows in accept's own commit.
    Rows(Vec<NewDelivery>),
    /// Too many for one commit: the [`Plan`] they are made from in later ones, as JSON.
    Later(String),
}

/// What a large job's deliveries are made from: recipients already completed from contacts, so that making them is pure.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Plan {
    pub recipients: Vec<Recipient>,
    /// As the job asked; empty means all of `available`.
    pub channels: Vec<Channel>,
    /// What the template had parts for when the job was accepted: a template that changes meanwhile changes no ordinal.
    pub available: Vec<Channel>,
    pub push_topic: Option<String>,
    pub push_condition: Option<String>,
    pub priority: Priority,
    pub due_at: Timestamp,
    /// By the channel's number.
    pub expires_at: Vec<Timestamp>,
}

impl Plan {
    /// Reads what an earlier version may have written: addresses need not be such as we would take today.
    fn from_stored(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text).or_else(|_| {
            let mut document: Value = serde_json::from_str(text)?;
            let recipients = document.get_mut("recipients").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default();
            let recipients = recipients.into_iter().map(Recipient::from_stored).collect::<serde_json::Result<_>>()?;
            Ok(Self { recipients, ..serde_json::from_value(document)? })
        })
    }
}

/// One delivery to write.
#[derive(Clone, Debug)]
pub struct NewDelivery {
    pub channel: Channel,
    pub priority: Priority,
    pub user_id: Option<UserId>,
    pub address: Address,
    pub locale: Option<Locale>,
    pub timezone: Option<TimeZone>,
    /// The kind of mail it is, for those who refuse that kind.
    pub list: Option<Arc<str>>,
    pub due_at: Timestamp,
    pub expires_at: Timestamp,
    pub placement: Placement,
}

/// Where a new delivery goes the moment it is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Into the store alone, for a lane to claim when due.
    Waiting,
    /// Into its lane's memory, where room is reserved.
    Leased,
    /// Into a free slot: its first attempt is recorded in the same commit. Unless its address is suppressed: then that is recorded.
    Sending { provider: &'static str },
    /// Into its stream: a live notification, in JSON, whose first attempt begins and ends in the same commit.
    Stored { provider: &'static str, stream: Stream, notification: Arc<str> },
}

/// What became of each job offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Written: the job's row.
    New { num: i64, begun: Begun },
    /// Known already, with the same body.
    Repeat { deliveries: u32, skipped: Vec<Skipped> },
}

/// What became of deliveries whose first attempt was to begin in the commit that made them. All else of it has begun.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    /// The ordinals of those whose address is suppressed, ascending.
    pub suppressed: Vec<u32>,
    /// Live notifications that are in their streams and `sent`, in order.
    pub stored: Vec<LiveStored>,
}

/// The places, in their group, of jobs whose id is known with another body. Nothing of the group was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflicts(pub Vec<usize>);

/// What accept answers for each group of jobs offered; an error when it takes none at present.
pub type Answers = Result<Vec<Result<Vec<Accepted>, Conflicts>>, StoreError>;

/// A large job taken up by the expander.
#[derive(Debug)]
pub struct Expansion {
    pub job: i64,
    pub envelope: Arc<Envelope>,
    pub plan: Plan,
    pub made: u32,
    pub planned: u32,
}

/// What one step of a large job did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Made; and what became of those that were to begin at once.
    Made { begun: Begun },
    /// Made as cancelled, whatever their placement: the job was cancelled meanwhile, and its lanes get nothing.
    MadeCancelled,
    /// The cursor is elsewhere: somebody else made these, or the job is gone.
    Moved,
}

impl Store {
    /// Hands `groups` to the writer: each whole or not at all, all of them in one commit; a group sees what those before it wrote. The
    /// answer has one for each group, in order.
    ///
    /// # Errors
    /// The store cannot be written, or it takes no jobs until events are published. Conflicts are an answer, not an error.
    pub async fn accept_all(&self, groups: Arc<Vec<Vec<NewJob>>>, lease: Lease) -> Result<Committing<Answers>, StoreError> {
        let rows = groups.iter().flatten().map(|job| 1 + job.row_count()).sum();
        let (idempotency_retention, inbox_limit) = (self.settings.idempotency_retention, self.settings.inbox_limit);
        self.writer
            .enqueue(Urgency::Normal, rows, move |tx| {
                if tx.is_closed_by_events() {
                    return Ok(Err(StoreError::EventsFull));
                }
                let terms = Terms { remembered_since: tx.now.saturating_sub(idempotency_retention), lease, inbox_limit };
                let accepted = groups.iter().map(|jobs| insert_group(tx, jobs, &terms)).collect::<rusqlite::Result<_>>()?;
                fail::fail_point!("accept-before-commit");
                Ok(Ok(accepted))
            })
            .await
    }

    /// The oldest large job that has deliveries still to make.
    pub async fn next_expansion(&self) -> Result<Option<Expansion>, StoreError> {
        self.read(|connection| {
            let row = connection
                .prepare_cached(
                    "SELECT e.job, e.plan, j.envelope, j.made, j.planned FROM expansions e JOIN jobs j ON j.num = e.job ORDER BY e.job LIMIT 1",
                )?
                .query_row((), |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?, row.get(3)?, row.get(4)?))
                })
                .optional()?;
            let Some((job, plan, envelope, made, planned)) = row else { return Ok(None) };
            let unreadable = |error: serde_json::Error| StoreError::Read(format!("job row {job}: {error}"));
            let plan = Plan::from_stored(&plan).map_err(unreadable)?;
            let envelope = Arc::new(serde_json::from_str(&envelope).map_err(unreadable)?);
            Ok(Some(Expansion { job, envelope, plan, made, planned }))
        })
        .await
    }

    /// Makes `deliveries`, which start at ordinal `from`, behind everything else in the writer's queue.
    pub async fn make_deliveries(
        &self,
        job: i64,
        from: u32,
        deliveries: Vec<NewDelivery>,
        collapse_key: Option<String>,
        lease: Lease,
    ) -> Result<Step, StoreError> {
        let step = u32::try_from(deliveries.len()).unwrap_or(u32::MAX);
        let inbox_limit = self.settings.inbox_limit;
        self.writer
            .write(Urgency::Background, deliveries.len(), move |tx| {
                let cancelled_at = tx
                    .connection
                    .prepare_cached("UPDATE jobs SET made = made + ?3 WHERE num = ?1 AND made = ?2 RETURNING cancelled_at")?
                    .query_row((job, from, step), |row| row.get::<_, Option<i64>>(0))
                    .optional()?;
                let Some(cancelled_at) = cancelled_at else { return Ok(Step::Moved) };
                let rows = Rows { job, from, deliveries: &deliveries, collapse_key: collapse_key.as_deref(), lease, inbox_limit };
                let made = if cancelled_at.is_some() {
                    insert_deliveries(tx, rows, Collapse::Nobody)?;
                    super::cancel::cancel_from(tx, job, from)?;
                    Step::MadeCancelled
                } else {
                    let begun = insert_deliveries(tx, rows, Collapse::Older)?;
                    collapse_into_newer(tx, rows)?;
                    Step::Made { begun }
                };
                tx.connection
                    .prepare_cached("DELETE FROM expansions WHERE job = ?1 AND (SELECT made = planned FROM jobs WHERE num = ?1)")?
                    .execute([job])?;
                fail::fail_point!("expansion-before-commit");
                Ok(made)
            })
            .await
    }
}

impl NewJob {
    fn row_count(&self) -> usize {
        match &self.deliveries {
            NewDeliveries::Rows(rows) => {
                rows.iter().map(|row| if matches!(row.placement, Placement::Stored { .. }) { ROWS_PER_ITEM } else { 1 }).sum()
            }
            NewDeliveries::Later(_) => 1,
        }
    }

    fn planned_count(&self) -> u32 {
        self.planned.iter().map(|(_, count)| count).sum()
    }
}

/// What accept goes by in one commit.
struct Terms {
    /// Ids of purged jobs accepted since then are remembered.
    remembered_since: Timestamp,
    lease: Lease,
    inbox_limit: u32,
}

/// All of `jobs` or none.
fn insert_group(tx: &mut Tx<'_>, jobs: &[NewJob], terms: &Terms) -> rusqlite::Result<Result<Vec<Accepted>, Conflicts>> {
    let known = known_of_all(tx, jobs, terms.remembered_since)?;
    let conflicts: Vec<usize> =
        known.iter().enumerate().filter(|(_, known)| matches!(known, Known::Conflict)).map(|(place, _)| place).collect();
    if !conflicts.is_empty() {
        return Ok(Err(Conflicts(conflicts)));
    }
    let mut accepted = Vec::with_capacity(jobs.len());
    for (job, known) in jobs.iter().zip(known) {
        accepted.push(match known {
            Known::Repeat { deliveries, skipped } => Accepted::Repeat { deliveries, skipped },
            Known::New | Known::Conflict => {
                let (num, begun) = insert_job(tx, job, terms)?;
                Accepted::New { num, begun }
            }
        });
    }
    Ok(Ok(accepted))
}

enum Known {
    New,
    Repeat { deliveries: u32, skipped: Vec<Skipped> },
    Conflict,
}

/// A job offered twice in one array is a repeat of itself, or a conflict with itself.
fn known_of_all(tx: &Tx<'_>, jobs: &[NewJob], remembered_since: Timestamp) -> rusqlite::Result<Vec<Known>> {
    let mut first_of: HashMap<[u8; 12], &NewJob> = HashMap::with_capacity(jobs.len());
    jobs.iter()
        .map(|job| match first_of.insert(job.key, job) {
            None => known(tx, job, remembered_since),
            Some(first) if first.body_hash == job.body_hash && first.envelope.id == job.envelope.id => {
                Ok(Known::Repeat { deliveries: first.planned_count(), skipped: first.skipped.clone() })
            }
            Some(_) => Ok(Known::Conflict),
        })
        .collect()
}

fn known(tx: &Tx<'_>, job: &NewJob, remembered_since: Timestamp) -> rusqlite::Result<Known> {
    let stored = tx
        .connection
        .prepare_cached("SELECT body_hash, planned, skipped, id FROM jobs WHERE key = ?1")?
        .query_row([job.key], |row| {
            Ok((row.get::<_, [u8; 32]>(0)?, row.get(1)?, row.get::<_, Option<String>>(2)?, row.get::<_, String>(3)?))
        })
        .optional()?;
    if let Some((hash, deliveries, skipped, id)) = stored {
        if hash != job.body_hash || id != job.envelope.id.as_str() {
            return Ok(Known::Conflict);
        }
        let skipped = skipped.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
        return Ok(Known::Repeat { deliveries, skipped });
    }
    let remembered = tx
        .connection
        .prepare_cached("SELECT body_hash, planned FROM remembered WHERE key = ?1 AND accepted_at >= ?2")?
        .query_row((job.key, remembered_since.as_millis()), |row| Ok((row.get::<_, [u8; 32]>(0)?, row.get(1)?)))
        .optional()?;
    Ok(match remembered {
        None => Known::New,
        Some((hash, deliveries)) if hash == job.body_hash => Known::Repeat { deliveries, skipped: Vec::new() },
        Some(_) => Known::Conflict,
    })
}

/// The job's row, and what became of those that were to begin at once.
fn insert_job(tx: &mut Tx<'_>, job: &NewJob, terms: &Terms) -> rusqlite::Result<(i64, Begun)> {
    let planned = job.planned_count();
    let made = match &job.deliveries {
        NewDeliveries::Rows(rows) => rows.len(),
        NewDeliveries::Later(_) => 0,
    };
    let skipped = if job.skipped.is_empty() { None } else { Some(to_json(&job.skipped)?) };
    tx.connection
        .prepare_cached(
            "INSERT INTO jobs (key, id, body_hash, envelope, template, planned, made, open, skipped, accepted_at, finished_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?6, ?8, ?9, CASE WHEN ?6 = 0 THEN ?9 END)",
        )?
        .execute(params![
            job.key,
            job.envelope.id.as_str(),
            job.body_hash,
            job.document,
            job.envelope.template.as_ref().map(crate::model::TemplateName::as_str),
            planned,
            made,
            skipped,
            job.accepted_at.as_millis(),
        ])?;
    let num = tx.connection.last_insert_rowid();
    for (channel, count) in &job.planned {
        tx.count_accepted(*channel, i64::from(*count));
    }
    let begun = match &job.deliveries {
        NewDeliveries::Rows(deliveries) => {
            let Terms { lease, inbox_limit, .. } = *terms;
            let collapse_key = job.envelope.collapse_key.as_deref();
            let rows = Rows { job: num, from: 0, deliveries, collapse_key, lease, inbox_limit };
            insert_deliveries(tx, rows, Collapse::Older)?
        }
        NewDeliveries::Later(plan) => {
            tx.connection.prepare_cached("INSERT INTO expansions (job, plan) VALUES (?1, ?2)")?.execute((num, plan))?;
            Begun::default()
        }
    };
    if planned == 0 {
        tx.tell_finished(num)?;
    }
    Ok((num, begun))
}

/// Deliveries of one job that become rows, from ordinal `from` on.
#[derive(Clone, Copy)]
struct Rows<'a> {
    job: i64,
    from: u32,
    deliveries: &'a [NewDelivery],
    collapse_key: Option<&'a str>,
    lease: Lease,
    inbox_limit: u32,
}

/// What new rows do to older ones with their collapse key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Collapse {
    /// Take their place.
    Older,
    /// Leave them alone and wait: they are cancelled before they begin.
    Nobody,
}

/// Writes the rows; says what became of those whose attempt would begin here. All others meet the list of suppressed addresses at the
/// gate.
fn insert_deliveries(tx: &mut Tx<'_>, rows: Rows<'_>, effect: Collapse) -> rusqlite::Result<Begun> {
    let Rows { job, from, deliveries, collapse_key, lease, .. } = rows;
    let connection = tx.connection;
    let mut insert = connection.prepare_cached(
        "INSERT INTO deliveries (job, ordinal, channel, priority, user_id, address, locale, timezone, collapse_key,
                                 status, attempts, due_at, expires_at, lease_owner, lease_until, provider, attempt_at, updated_at, code)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)",
    )?;
    let mut begun = Begun::default();
    for (ordinal, delivery) in (from..).zip(deliveries) {
        if let (Some(key), Some(user), Collapse::Older) = (collapse_key, &delivery.user_id, effect) {
            collapse(tx, job, delivery.channel, user, key)?;
        }
        let placement = if effect == Collapse::Nobody { &Placement::Waiting } else { &delivery.placement };
        let address = delivery.address.as_stored();
        let (status, attempts, provider, code) = match placement {
            Placement::Waiting | Placement::Leased => (Status::Queued, 0, None, None),
            _ if tx.suppressed_for(delivery.channel, &address, delivery.list.as_deref())?.is_some() => {
                begun.suppressed.push(ordinal);
                (Status::Suppressed, 0, None, Some(Code::SUPPRESSED.as_str()))
            }
            Placement::Sending { provider } | Placement::Stored { provider, .. } => (Status::Sending, 1, Some(*provider), None),
        };
        let (owner, until) = match placement {
            _ if status == Status::Suppressed => (0, 0),
            Placement::Waiting => (0, 0),
            Placement::Leased | Placement::Sending { .. } | Placement::Stored { .. } => (lease.owner, lease.until.as_millis()),
        };
        insert.execute(params![
            job,
            ordinal,
            delivery.channel.as_number(),
            delivery.priority.as_number(),
            delivery.user_id.as_ref().map(UserId::as_str),
            address,
            delivery.locale.as_ref().map(Locale::as_str),
            delivery.timezone.map(TimeZone::as_str),
            collapse_key,
            status.as_number(),
            attempts,
            delivery.due_at.as_millis(),
            delivery.expires_at.as_millis(),
            owner,
            until,
            provider,
            provider.map(|_| tx.now.as_millis()),
            tx.now.as_millis(),
            code,
        ])?;
        let key = DeliveryKey { job, ordinal };
        tx.tell_made(key)?;
        if status != Status::Queued {
            tx.count_moved(key, delivery.channel, Status::Queued, status)?;
        }
        if let (Placement::Stored { provider, stream, notification }, Status::Sending) = (placement, status) {
            let item = LiveItem {
                begin: Begin { key, channel: delivery.channel, attempts: 0, provider, list: None },
                stream: stream.clone(),
                notification: notification.clone(),
                collapse_key: collapse_key.map(str::to_owned),
            };
            begun.stored.push(store_begun(tx, &item, tx.now, rows.inbox_limit)?);
        }
    }
    Ok(begun)
}

/// Cancels what an older job still has queued under the same collapse key for this user and channel.
fn collapse(tx: &mut Tx<'_>, job: i64, channel: Channel, user: &UserId, key: &str) -> rusqlite::Result<()> {
    let older: Vec<DeliveryKey> = tx
        .connection
        .prepare_cached(
            "UPDATE deliveries SET status = 6, code = ?5, lease_owner = 0, updated_at = ?6
             WHERE status = 0 AND collapse_key = ?1 AND user_id = ?2 AND channel = ?3 AND job < ?4 RETURNING job, ordinal",
        )?
        .query_map(params![key, user.as_str(), channel.as_number(), job, Code::COLLAPSED.as_str(), tx.now.as_millis()], |row| {
            Ok(DeliveryKey { job: row.get(0)?, ordinal: row.get(1)? })
        })?
        .collect::<rusqlite::Result<_>>()?;
    for older in older {
        tx.count_moved(older, channel, Status::Queued, Status::Cancelled)?;
    }
    Ok(())
}

/// A large job's deliveries are made late: those that a newer job has overtaken meanwhile begin as collapsed.
fn collapse_into_newer(tx: &mut Tx<'_>, rows: Rows<'_>) -> rusqlite::Result<()> {
    let Some(key) = rows.collapse_key else { return Ok(()) };
    let overtaken: Vec<(u32, i64)> = tx
        .connection
        .prepare_cached(
            "UPDATE deliveries SET status = 6, code = ?4, lease_owner = 0, updated_at = ?5
             WHERE job = ?1 AND ordinal >= ?2 AND status = 0 AND EXISTS (
                SELECT 1 FROM deliveries n INDEXED BY deliveries_collapse
                WHERE n.status = 0 AND n.collapse_key = ?3 AND n.user_id = deliveries.user_id AND n.channel = deliveries.channel AND n.job > ?1)
             RETURNING ordinal, channel",
        )?
        .query_map(params![rows.job, rows.from, key, Code::COLLAPSED.as_str(), tx.now.as_millis()], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (ordinal, channel) in overtaken {
        if let Some(channel) = Channel::from_number(channel) {
            tx.count_moved(DeliveryKey { job: rows.job, ordinal }, channel, Status::Queued, Status::Cancelled)?;
        }
    }
    Ok(())
}

fn to_json<T: serde::Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}
