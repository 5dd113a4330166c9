//! Moves the write-ahead log into the database beside the writer, so that no commit waits for it.
//!
//! SQLite lets a passive checkpoint run while others read and write. Under a load that never pauses it stays a little behind and the log
//! could grow without end: past [`super::CHECKPOINT_PAGES`] the writer's own commit moves the short rest.

use std::{
    sync::mpsc::{SyncSender, sync_channel},
    thread::JoinHandle,
};

use rusqlite::Connection;

/// Rows written after which the log is moved.
const ROWS: usize = 4000;

/// The writer's handle on the thread that checkpoints. Dropping it waits for the thread to end: its connection is one to the same file.
pub(super) struct Checkpointer {
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    rows: usize,
}

impl Checkpointer {
    pub fn start(connection: Connection) -> std::io::Result<Self> {
        let (wake, woken) = sync_channel(1);
        let thread = std::thread::Builder::new().name("store-checkpoint".to_owned()).spawn(move || {
            for () in woken {
                // Busy or failing is no harm: the next one does more, and a failing disk shows in the writer's own commits.
                let _ = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", (), |_| Ok(()));
            }
        })?;
        Ok(Self { wake: Some(wake), thread: Some(thread), rows: 0 })
    }

    /// So many rows more are in the log.
    pub fn written(&mut self, rows: usize) {
        self.rows += rows;
        if self.rows >= ROWS {
            self.rows = 0;
            // Already woken is woken enough.
            let _ = self.wake.as_ref().map(|wake| wake.try_send(()));
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        drop(self.wake.take());
        if let Some(thread) = self.thread.take() {
            // It only panics with SQLite itself, and then has nothing to say.
            let _ = thread.join();
        }
    }
}
