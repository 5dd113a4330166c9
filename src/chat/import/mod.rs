//! Taking over the chat of the replaced Django system: its conversations, messages and notifications, from a dump or its database.
//!
//! A source ([`dumpdata`], [`sql`], [`postgres`]) gives rows in whatever order; [`columns`] finds in them what is wanted; they are put in
//! order on the disk ([`crate::store::Staging`]); [`convert`] makes ours of them, reading the texts with the old keys ([`text`]); [`run`]
//! hands them to the store, remembers how far it came, and counts at the end.

pub mod columns;
pub mod convert;
mod dumpdata;
mod postgres;
pub mod run;
mod source;
mod sql;
pub mod text;

pub use self::{
    columns::{Choice, Chosen, Kind},
    convert::old_keys,
    run::{Counted, Import, Listed, Report},
    source::{Source, Staged, stage},
};
use crate::store::StoreError;

/// Why nothing can be taken over, or no more.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Told as it is, with its hint after `; hint: `.
    #[error("{0}")]
    Source(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Where the rows that were not taken over are put.
    #[error("{path} cannot be written: {error}; hint: name another file with --listed-file")]
    Listed { path: String, error: std::io::Error },
}

impl ImportError {
    fn source(told: impl Into<String>) -> Self {
        Self::Source(told.into())
    }
}
