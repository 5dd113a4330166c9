//! Reading the outbox of events, for whoever publishes them.
//!
//! A row keeps what was true at its moment; what does not change comes from the delivery and its job, which the purge leaves until their
//! events are gone.

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Store, StoreError, events::kind, writer::Urgency};
use crate::model::{Channel, DeliveryId, Status, Timestamp};

/// Rows one removal is taken to touch, when a commit is measured out.
const REMOVED_ROWS: usize = 500;

/// Events in the order they were committed in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventPage {
    pub events: Vec<PendingEvent>,
    /// Of the last row looked at, those that nothing can be told of any more included; `None` when there was none.
    pub last_seq: Option<i64>,
}

/// Something the broker has yet to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingEvent {
    pub seq: i64,
    pub at: Timestamp,
    pub job_id: String,
    pub template: Option<String>,
    pub metadata: BTreeMap<String, String>,
    pub traceparent: Option<String>,
    pub what: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A delivery took a status.
    Delivery {
        id: DeliveryId,
        channel: Channel,
        status: Status,
        user_id: Option<String>,
        code: Option<String>,
        attempts: u32,
        provider: Option<String>,
        provider_id: Option<String>,
    },
    /// None of a job's deliveries is queued or sending any more. The statuses are those of the moment of reading, and leave out what
    /// nothing is in.
    JobFinished { deliveries: u32, statuses: BTreeMap<Status, u32> },
    /// A provider has said that an address is dead. The one event that carries an address.
    AddressGone {
        id: DeliveryId,
        channel: Channel,
        address: String,
        user_id: Option<String>,
        code: Option<String>,
        provider: Option<String>,
    },
}

impl Store {
    /// Up to `limit` events after this sequence number, in order.
    pub async fn pending_events(&self, after: i64, limit: usize) -> Result<EventPage, StoreError> {
        self.read(move |connection| Ok(read_page(connection, after, limit)?)).await
    }

    /// Forgets events up to this one: the broker has them.
    pub async fn remove_events(&self, through: i64) -> Result<(), StoreError> {
        self.writer.write(Urgency::Normal, REMOVED_ROWS, move |tx| tx.remove_events(through).map(drop)).await
    }
}

/// What a job's events share.
struct SharedByJob {
    key: [u8; 12],
    id: String,
    template: Option<String>,
    planned: u32,
    told: Told,
}

/// The part of an envelope that events carry. The rest of it may be large, and is not built.
#[derive(Default, serde::Deserialize)]
struct Told {
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    traceparent: Option<String>,
}

fn read_page(connection: &Connection, after: i64, limit: usize) -> rusqlite::Result<EventPage> {
    // One snapshot for events, jobs and deliveries.
    let snapshot = connection.unchecked_transaction()?;
    let mut jobs: HashMap<i64, Option<Rc<SharedByJob>>> = HashMap::new();
    let mut page = EventPage::default();
    let mut statement = snapshot.prepare_cached(
        "SELECT e.seq, e.kind, e.job, e.ordinal, e.status, e.code, e.attempts, e.provider, e.provider_id, e.at,
                d.channel, d.user_id, d.address
         FROM pending_events e LEFT JOIN deliveries d ON d.job = e.job AND d.ordinal = e.ordinal
         WHERE e.seq > ?1 ORDER BY e.seq LIMIT ?2",
    )?;
    let mut rows = statement.query(params![after, limit])?;
    while let Some(row) = rows.next()? {
        page.last_seq = Some(row.get(0)?);
        let num: i64 = row.get(2)?;
        let job = match jobs.get(&num) {
            Some(job) => job.clone(),
            None => jobs.entry(num).or_insert(read_job(&snapshot, num)?.map(Rc::new)).clone(),
        };
        let Some(job) = job else { continue };
        let Some(what) = read_kind(&snapshot, row, num, &job)? else { continue };
        page.events.push(PendingEvent {
            seq: row.get(0)?,
            at: Timestamp::from_millis(row.get(9)?),
            job_id: job.id.clone(),
            template: job.template.clone(),
            metadata: job.told.metadata.clone(),
            traceparent: job.told.traceparent.clone(),
            what,
        });
    }
    Ok(page)
}

fn read_job(connection: &Connection, num: i64) -> rusqlite::Result<Option<SharedByJob>> {
    connection
        .prepare_cached("SELECT key, id, template, planned, envelope FROM jobs WHERE num = ?1")?
        .query_row([num], |row| {
            // What happened to a job is told even if its envelope does not read back: perhaps that is what happened.
            let told = serde_json::from_str(&row.get::<_, String>(4)?).unwrap_or_default();
            Ok(SharedByJob { key: row.get(0)?, id: row.get(1)?, template: row.get(2)?, planned: row.get(3)?, told })
        })
        .optional()
}

/// `None` for a row that nothing can be told of: its delivery is gone, or it is of a kind or channel not known here.
fn read_kind(connection: &Connection, row: &Row<'_>, num: i64, job: &SharedByJob) -> rusqlite::Result<Option<EventKind>> {
    let kind: i64 = row.get(1)?;
    if kind == kind::JOB_FINISHED {
        return Ok(Some(EventKind::JobFinished { deliveries: job.planned, statuses: read_statuses(connection, num)? }));
    }
    let (Some(ordinal), Some(channel)) = (row.get::<_, Option<u32>>(3)?, row.get::<_, Option<i64>>(10)?.and_then(Channel::from_number))
    else {
        return Ok(None);
    };
    let id = DeliveryId::new(job.key, ordinal);
    let status = row.get::<_, Option<i64>>(4)?.and_then(Status::from_number);
    Ok(match (kind, status) {
        (kind::DELIVERY, Some(status)) => Some(EventKind::Delivery {
            id,
            channel,
            status,
            user_id: row.get(11)?,
            code: row.get(5)?,
            attempts: row.get::<_, Option<u32>>(6)?.unwrap_or(0),
            provider: row.get(7)?,
            provider_id: row.get(8)?,
        }),
        (kind::ADDRESS_GONE, _) => Some(EventKind::AddressGone {
            id,
            channel,
            address: row.get(12)?,
            user_id: row.get(11)?,
            code: row.get(5)?,
            provider: row.get(7)?,
        }),
        _ => None,
    })
}

fn read_statuses(connection: &Connection, job: i64) -> rusqlite::Result<BTreeMap<Status, u32>> {
    let mut statement = connection.prepare_cached("SELECT status, count(*) FROM deliveries WHERE job = ?1 GROUP BY status")?;
    let counted = statement.query_map([job], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(counted.into_iter().filter_map(|(status, count)| Some((Status::from_number(status)?, count))).collect())
}
