//! Revoked tokens, kept for as long as any of them could live. Who looks at them for each token is `socket`, in memory.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Store, StoreError, tx::Tx, writer::Urgency};
use crate::model::{Revocation, Revoked, Timestamp};

/// Revocations one page may hold.
pub const REVOCATIONS_PAGE_LIMIT: usize = 1000;

const COLUMNS: &str = "id, user_id, jti, reason, revoked_by, revoked_at";

/// A revocation to be made.
#[derive(Clone, Debug)]
pub struct NewRevocation {
    pub what: Revoked,
    pub reason: Option<String>,
    /// Who does it.
    pub by: String,
}

/// Which revocations to list, the latest first.
#[derive(Clone, Debug, Default)]
pub struct RevocationFilter {
    pub what: Option<Revoked>,
    /// The last one of the page before.
    pub before: Option<i64>,
    pub limit: usize,
}

impl Store {
    /// Revokes from this moment on. Done again, it covers up to the later moment, and keeps its id.
    pub async fn revoke(&self, new: NewRevocation) -> Result<Revocation, StoreError> {
        self.writer.write(Urgency::Normal, 1, move |tx| put(tx, &new)).await
    }

    /// Takes a revocation back; gives it, or `None` when there is none with this id.
    pub async fn unrevoke(&self, id: i64) -> Result<Option<Revocation>, StoreError> {
        self.writer
            .write(Urgency::Normal, 1, move |tx| {
                let sql = format!("DELETE FROM revocations WHERE id = ?1 RETURNING {COLUMNS}");
                tx.connection.prepare_cached(&sql)?.query_row([id], read_row).optional()
            })
            .await
    }

    /// A page of them.
    pub async fn revocations(&self, filter: RevocationFilter) -> Result<Vec<Revocation>, StoreError> {
        self.read(move |connection| Ok(list(connection, &filter)?)).await
    }

    /// All that are in force, for whoever looks at them in memory.
    pub async fn revocations_in_force(&self) -> Result<Vec<Revocation>, StoreError> {
        let since = Timestamp::now().saturating_sub(self.settings.revocation_retention).as_millis();
        self.read(move |connection| {
            let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM revocations WHERE revoked_at >= ?1"))?;
            Ok(statement.query_map([since], read_row)?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }
}

fn put(tx: &Tx<'_>, new: &NewRevocation) -> rusqlite::Result<Revocation> {
    let (column, user, jti) = columns(&new.what);
    let sql = format!(
        "INSERT INTO revocations (user_id, jti, reason, revoked_by, revoked_at) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT ({column}) WHERE {column} IS NOT NULL DO UPDATE
         SET reason = coalesce(excluded.reason, reason), revoked_by = excluded.revoked_by,
             revoked_at = max(revoked_at, excluded.revoked_at)
         RETURNING {COLUMNS}"
    );
    tx.connection.prepare_cached(&sql)?.query_row(params![user, jti, new.reason, new.by, tx.now.as_millis()], read_row)
}

fn list(connection: &Connection, filter: &RevocationFilter) -> rusqlite::Result<Vec<Revocation>> {
    let mut sql = format!("SELECT {COLUMNS} FROM revocations WHERE id < ?1");
    let before = filter.before.unwrap_or(i64::MAX);
    if let Some(what) = &filter.what {
        let (column, user, jti) = columns(what);
        sql = format!("{sql} AND {column} = ?2");
        return connection.prepare_cached(&sql)?.query_map(params![before, user.or(jti)], read_row)?.collect();
    }
    sql.push_str(" ORDER BY id DESC LIMIT ?2");
    connection.prepare_cached(&sql)?.query_map(params![before, filter.limit], read_row)?.collect()
}

/// Removes those past their retention, up to `limit`.
pub(super) fn purge_in(tx: &Tx<'_>, since: i64, limit: usize) -> rusqlite::Result<u64> {
    let gone = tx
        .connection
        .prepare_cached("DELETE FROM revocations WHERE id IN (SELECT id FROM revocations WHERE revoked_at < ?1 LIMIT ?2)")?
        .execute(params![since, limit])?;
    Ok(gone as u64)
}

fn columns(what: &Revoked) -> (&'static str, Option<&str>, Option<&str>) {
    match what {
        Revoked::UserId(user) => ("user_id", Some(user.as_str()), None),
        Revoked::Jti(jti) => ("jti", None, Some(jti)),
    }
}

fn read_row(row: &Row<'_>) -> rusqlite::Result<Revocation> {
    let user: Option<String> = row.get(1)?;
    let what = match user {
        Some(user) => Revoked::UserId(user.parse().map_err(|reason: String| {
            rusqlite::Error::FromSqlConversionFailure(
                1,
                rusqlite::types::Type::Text,
                Box::<dyn std::error::Error + Send + Sync>::from(reason),
            )
        })?),
        None => Revoked::Jti(row.get(2)?),
    };
    Ok(Revocation { id: row.get(0)?, what, reason: row.get(3)?, revoked_by: row.get(4)?, revoked_at: Timestamp::from_millis(row.get(5)?) })
}
