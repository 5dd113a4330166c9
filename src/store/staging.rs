//! Rows of another system, put in order on the disk before they are taken over: its dumps have them in whatever order they come.
//!
//! A database of its own that SQLite removes with its last use. Blocks; for a command, not for the daemon.

use rusqlite::{Connection, OptionalExtension, params};

use super::StoreError;

/// Kept in memory of it, in KiB; the rest is on the disk.
const CACHE_KIB: i32 = 64 << 10;

/// The rows. Kinds and what a row says are its user's.
pub struct Staging {
    connection: Connection,
}

impl Staging {
    /// An empty one.
    ///
    /// # Errors
    /// There is no room for it where temporary files go (`SQLITE_TMPDIR`, `TMPDIR`).
    pub fn new() -> Result<Self, StoreError> {
        // Without a name it is a temporary file of SQLite's.
        let connection = Connection::open("")?;
        connection.execute_batch(&format!(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -{CACHE_KIB};
             CREATE TABLE staged (kind INTEGER NOT NULL, id INTEGER NOT NULL, owner TEXT NOT NULL, row TEXT NOT NULL,
                PRIMARY KEY (kind, id)) STRICT, WITHOUT ROWID;
             CREATE TABLE names (kind INTEGER NOT NULL, id TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (kind, id)) STRICT, WITHOUT ROWID;
             BEGIN;"
        ))?;
        Ok(Self { connection })
    }

    /// Adds a row; false when there is one with this id. `owner` is whom it is counted for by [`Self::newest_of_each`].
    pub fn put(&self, kind: u8, id: i64, owner: &str, row: &str) -> Result<bool, StoreError> {
        let mut insert =
            self.connection.prepare_cached("INSERT INTO staged (kind, id, owner, row) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING")?;
        Ok(insert.execute(params![kind, id, owner, row])? > 0)
    }

    /// Notes what something is called.
    pub fn put_name(&self, kind: u8, id: &str, name: &str) -> Result<(), StoreError> {
        let mut insert = self.connection.prepare_cached("INSERT INTO names (kind, id, name) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")?;
        insert.execute(params![kind, id, name])?;
        Ok(())
    }

    /// What it is called, where that is known.
    pub fn name(&self, kind: u8, id: &str) -> Result<Option<String>, StoreError> {
        let mut select = self.connection.prepare_cached("SELECT name FROM names WHERE kind = ?1 AND id = ?2")?;
        Ok(select.query_row(params![kind, id], |row| row.get(0)).optional()?)
    }

    pub fn count(&self, kind: u8) -> Result<u64, StoreError> {
        let mut select = self.connection.prepare_cached("SELECT count(*) FROM staged WHERE kind = ?1")?;
        Ok(select.query_row([kind], |row| row.get(0))?)
    }

    /// One row.
    pub fn get(&self, kind: u8, id: i64) -> Result<Option<String>, StoreError> {
        let mut select = self.connection.prepare_cached("SELECT row FROM staged WHERE kind = ?1 AND id = ?2")?;
        Ok(select.query_row(params![kind, id], |row| row.get(0)).optional()?)
    }

    /// The rows that follow, by id.
    pub fn page(&self, kind: u8, after: i64, limit: usize) -> Result<Vec<(i64, String)>, StoreError> {
        let mut select = self.connection.prepare_cached("SELECT id, row FROM staged WHERE kind = ?1 AND id > ?2 ORDER BY id LIMIT ?3")?;
        let rows = select.query_map(params![kind, after, limit], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Removes all but the newest `limit` rows of each owner; says how many went.
    pub fn newest_of_each(&self, kind: u8, limit: u32) -> Result<u64, StoreError> {
        let removed = self.connection.execute(
            "DELETE FROM staged WHERE kind = ?1 AND id IN (SELECT id FROM
                (SELECT id, row_number() OVER (PARTITION BY owner ORDER BY id DESC) AS place FROM staged WHERE kind = ?1) WHERE place > ?2)",
            params![kind, limit],
        )?;
        Ok(removed as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_in_order() {
        let staging = Staging::new().unwrap();
        for id in [5, 1, 9, 7, 3] {
            assert!(staging.put(1, id, if id < 6 { "a" } else { "b" }, &format!("row {id}")).unwrap());
        }
        assert!(!staging.put(1, 5, "a", "another").unwrap());
        assert!(staging.put(2, 5, "a", "of another kind").unwrap());
        let ids = |after, limit| staging.page(1, after, limit).unwrap().into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        assert_eq!((ids(0, 3), ids(5, 3)), (vec![1, 3, 5], vec![7, 9]));
        assert_eq!(staging.get(1, 5).unwrap().as_deref(), Some("row 5"));
        assert_eq!(staging.newest_of_each(1, 2).unwrap(), 1);
        assert_eq!((ids(0, 9), staging.count(2).unwrap()), (vec![3, 5, 7, 9], 1));
        staging.put_name(1, "7", "Asha").unwrap();
        assert_eq!((staging.name(1, "7").unwrap().as_deref(), staging.name(1, "8").unwrap()), (Some("Asha"), None));
    }
}
