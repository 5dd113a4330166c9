//! What can go wrong with the store.

use std::path::PathBuf;

use super::ClosedToJobs;

/// Why a store cannot be opened, read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing was written. It may work later: disk full, read-only, locked.
    #[error("the store cannot be written: {0}")]
    Unavailable(String),
    /// Nothing was written, and trying again changes nothing: the write itself is at fault, or a row that it read.
    #[error("the store refused a write: {0}; hint: this is a bug or a damaged row; `tarishi audit` may say more")]
    Refused(String),
    /// No job was taken: too many events are pending. Everything else is still written.
    #[error("{}", ClosedToJobs::EventsFull.as_str())]
    EventsFull,
    #[error("the store cannot be read: {0}")]
    Read(String),
    #[error("the store is closed")]
    Closed,
    #[error("{} is held by another process; hint: stop the other tarishi, or ask it through its admin listener (without --offline)", .0.display())]
    Held(PathBuf),
    #[error(
        "{path} was written by a newer tarishi (schema {found}, this one knows {known}); hint: run the newer version, or restore the backup made before the upgrade"
    )]
    Newer { path: String, found: i64, known: i64 },
    #[error("{path} is damaged: {reason}; hint: restore it from a backup; `sqlite3 {path} .recover` may save rows")]
    Damaged { path: String, reason: String },
    #[error("cannot open {path}: {reason}; hint: check that its folder exists and is writable, or set store.url")]
    Open { path: String, reason: String },
}

impl StoreError {
    pub(super) fn open(path: &std::path::Path, error: &rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{
            CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, FileLockingProtocolFailed, NoLargeFileSupport, OutOfMemory,
            PermissionDenied, ReadOnly, SystemIoFailure,
        };
        let path = path.display().to_string();
        let reason = error.to_string();
        // What surrounds the file may be put right; whatever else is wrong is in the file.
        match error.sqlite_error_code() {
            Some(
                CannotOpen
                | PermissionDenied
                | ReadOnly
                | DiskFull
                | SystemIoFailure
                | DatabaseBusy
                | DatabaseLocked
                | FileLockingProtocolFailed
                | NoLargeFileSupport
                | OutOfMemory,
            ) => Self::Open { path, reason },
            _ => Self::Damaged { path, reason },
        }
    }
}

/// Whether `error` is of one write's own making, so that the next write may well go through.
pub(super) fn is_own_fault(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{ConstraintViolation, TooBig, TypeMismatch};
    match error.sqlite_error_code() {
        // Not SQLite's: a value that does not convert, a panic.
        None => true,
        Some(code) => matches!(code, ConstraintViolation | TooBig | TypeMismatch),
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Read(error.to_string())
    }
}
