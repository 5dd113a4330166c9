//! The store's file as it lies on disk once its daemon has ended.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

/// An open store file, for looking only.
pub struct StoreFile(Connection);

impl StoreFile {
    pub fn open(path: &Path) -> Self {
        Self(Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap())
    }

    /// The one number a query asks for.
    #[track_caller]
    pub fn number(&self, query: &str) -> i64 {
        self.0.query_row(query, (), |row| row.get(0)).unwrap()
    }

    /// The one column of text that a query asks for.
    #[track_caller]
    pub fn texts(&self, query: &str) -> Vec<String> {
        let mut statement = self.0.prepare(query).unwrap();
        statement.query_map((), |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    /// Invariant G of the inbox: every user's items are numbered without a gap, and each live delivery that was sent is exactly one.
    #[track_caller]
    pub fn check_inbox(&self) {
        let gaps =
            self.number("SELECT count(*) FROM (SELECT user_id FROM inbox GROUP BY user_id HAVING max(seq) <> count(*) OR min(seq) <> 1)");
        assert_eq!(gaps, 0, "users with gaps in their inbox");
        let doubled = self.number("SELECT count(*) FROM (SELECT job FROM inbox GROUP BY job, ordinal HAVING count(*) > 1)");
        assert_eq!(doubled, 0, "inbox items written twice");
        let (items, sent) = (
            self.number("SELECT count(*) FROM inbox"),
            self.number("SELECT count(*) FROM deliveries WHERE channel = 3 AND status IN (2, 3)"),
        );
        assert_eq!(items, sent, "inbox items and live deliveries sent");
        assert_eq!(self.number("SELECT count(*) FROM (SELECT 1 FROM inbox_users u WHERE u.seq <> (SELECT max(seq) FROM inbox i WHERE i.user_id = u.user_id))"), 0);
    }

    /// The file is whole.
    #[track_caller]
    pub fn check_integrity(&self) {
        let told: String = self.0.query_row("PRAGMA integrity_check", (), |row| row.get(0)).unwrap();
        assert_eq!(told, "ok");
    }
}
