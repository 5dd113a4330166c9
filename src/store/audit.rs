//! The check of the first promise: nothing accepted is unaccounted for.

use rusqlite::Connection;
use serde::Serialize;

use super::{Store, StoreError};
use crate::model::{Channel, Status};

/// What was accepted, beside where it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Audit {
    pub balanced: bool,
    pub accepted: i64,
    pub purged: i64,
    /// Rows by status, unmade deliveries of large jobs counted as queued.
    pub statuses: Vec<StatusTotal>,
    /// Planned deliveries of large jobs that are not rows yet.
    pub unmade: i64,
    /// Attempts whose outcome is unknown: the ones that may have reached somebody twice.
    pub unknown_outcomes: i64,
    /// Every disagreement found, in words.
    pub disagreements: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct StatusTotal {
    pub status: Status,
    pub deliveries: i64,
}

impl Store {
    /// Counts every row; takes seconds on millions.
    pub async fn audit(&self) -> Result<Audit, StoreError> {
        self.read(|connection| Ok(audit(connection)?)).await
    }
}

fn audit(connection: &Connection) -> rusqlite::Result<Audit> {
    // One snapshot for all the sums.
    let snapshot = connection.unchecked_transaction()?;
    let one = |sql: &str| snapshot.query_row(sql, (), |row| row.get::<_, i64>(0));
    let accepted = one("SELECT value FROM counters WHERE name = 'accepted'")?;
    let purged = one("SELECT value FROM counters WHERE name = 'purged'")?;
    let unmade = one("SELECT coalesce(sum(planned - made), 0) FROM jobs JOIN expansions ON num = job")?;
    let unknown_outcomes = one("SELECT count(*) FROM attempts WHERE outcome = 'unknown'")?;
    let mut disagreements = Vec::new();
    let mut statuses = Vec::new();
    for status in Status::ALL {
        let rows: i64 = snapshot.query_row("SELECT count(*) FROM deliveries WHERE status = ?1", [status.as_number()], |row| row.get(0))?;
        statuses.push(StatusTotal { status, deliveries: rows + if status == Status::Queued { unmade } else { 0 } });
    }
    let total: i64 = statuses.iter().map(|total| total.deliveries).sum();
    if accepted != total + purged {
        disagreements.push(format!(
            "{accepted} accepted, but {total} in the store and {purged} purged: {} unaccounted for",
            accepted - total - purged
        ));
    }
    for total in &statuses {
        let counted: i64 = snapshot.query_row(
            "SELECT coalesce(sum(value), 0) FROM status_counts WHERE status = ?1",
            [total.status.as_number()],
            |row| row.get(0),
        )?;
        if counted != total.deliveries {
            disagreements.push(format!("{}: the counter says {counted}, the rows {}", total.status, total.deliveries));
        }
    }
    for (what, sql) in [
        (
            "jobs whose count of open deliveries is wrong",
            "SELECT count(*) FROM jobs j WHERE j.open <> j.planned - j.made
             + (SELECT count(*) FROM deliveries d WHERE d.job = j.num AND d.status <= 1)",
        ),
        ("finished jobs with open deliveries, or the reverse", "SELECT count(*) FROM jobs WHERE (finished_at IS NULL) <> (open > 0)"),
        (
            "jobs with unmade deliveries and no plan to make them",
            "SELECT count(*) FROM jobs WHERE made < planned AND num NOT IN (SELECT job FROM expansions)",
        ),
        ("deliveries without their job", "SELECT count(*) FROM deliveries WHERE job NOT IN (SELECT num FROM jobs)"),
        (
            "live deliveries sent without an inbox row",
            "SELECT count(*) FROM deliveries d LEFT JOIN inbox_users u ON u.user_id = d.user_id
             WHERE d.channel = 3 AND d.status IN (2, 3) AND d.user_id IS NOT NULL AND d.collapse_key IS NULL
             AND NOT EXISTS (SELECT 1 FROM inbox i WHERE i.job = d.job AND i.ordinal = d.ordinal)
             AND d.attempt_at > coalesce(u.floor_at, 0)",
        ),
        (
            "live deliveries to a topic sent without a row there",
            "SELECT count(*) FROM deliveries d LEFT JOIN topics t ON t.topic = d.address
             WHERE d.channel = 3 AND d.status IN (2, 3) AND d.user_id IS NULL AND d.collapse_key IS NULL
             AND NOT EXISTS (SELECT 1 FROM topic_items i WHERE i.job = d.job AND i.ordinal = d.ordinal)
             AND d.attempt_at > coalesce(t.floor_at, 0)",
        ),
    ] {
        let found = one(sql)?;
        if found != 0 {
            disagreements.push(format!("{found} {what}"));
        }
    }
    debug_assert_eq!(Channel::Live.as_number(), 3);
    Ok(Audit { balanced: disagreements.is_empty(), accepted, purged, statuses, unmade, unknown_outcomes, disagreements })
}
