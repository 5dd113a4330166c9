//! How often the processing of one suspicious message has begun without ending, across crashes of the process.

use super::{Store, StoreError, writer::Urgency};

impl Store {
    /// Counts one more try for this suspect, durably before it returns; says how many have begun by now, 1 for the first.
    pub async fn begin_alone(&self, key: [u8; 32]) -> Result<u32, StoreError> {
        self.writer
            .write(Urgency::Normal, 1, move |tx| {
                tx.connection
                    .prepare_cached(
                        "INSERT INTO suspects (key, tries, at) VALUES (?1, 1, ?2)
                         ON CONFLICT (key) DO UPDATE SET tries = tries + 1, at = excluded.at RETURNING tries",
                    )?
                    .query_row((key, tx.now.as_millis()), |row| row.get(0))
            })
            .await
    }

    /// Forgets a suspect: its processing has ended, well or badly.
    pub async fn end_alone(&self, key: [u8; 32]) -> Result<(), StoreError> {
        self.writer
            .write(Urgency::Normal, 1, move |tx| {
                tx.connection.prepare_cached("DELETE FROM suspects WHERE key = ?1")?.execute([key])?;
                Ok(())
            })
            .await
    }
}
