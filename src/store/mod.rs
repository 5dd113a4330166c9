//! The store: the schema and every query. It obeys; what to do is decided elsewhere.
//!
//! SQLite in WAL mode with `synchronous = FULL`: one thread writes, in group commits ([`writer`]), a few connections read. One process
//! holds the file, by a lock beside it.

mod accept;
mod attempt;
mod audit;
mod callbacks;
mod cancel;
mod chat;
mod checkpoint;
mod claim;
mod contact;
mod error;
mod events;
mod heads;
mod inbox;
mod inbox_import;
mod live;
mod pending;
mod purge;
mod read;
mod revocations;
mod staging;
mod suppressions;
mod suspects;
mod tx;
mod writer;

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, OptionalExtension};
use tokio::sync::Semaphore;

pub use self::{
    accept::{Accepted, Answers, Begun, Conflicts, Expansion, NewDeliveries, NewDelivery, NewJob, Placement, Plan, Step},
    attempt::{Begin, Gate, Record, Recorded},
    audit::{Audit, StatusTotal},
    callbacks::{Applied, Callback, Moved, Report, SuppressedAddress},
    cancel::Cancelled,
    chat::{
        AddRefused, BLOCKS_LIMIT, BlockAdded, CONVERSATIONS_PAGE_LIMIT, ChangeRefused, ChatCounts, ChatHead, ChatReplay,
        ConversationCursor, ConversationFilter, ConversationPage, ConversationView, Created, Deleted, Imported, ImportedConversation,
        ImportedMessage, ImportedParticipant, KeyConflict, MESSAGES_PAGE_LIMIT, MessageCursor, MessageHidden, MessagePage, NewConversation,
        NewMessage, NewParticipant, NotifyDue, ParticipantChange, Read, Reseal, SealedMessage, SendRefused, Sent, Unread,
    },
    claim::{Claimed, Interrupted},
    error::StoreError,
    events::{ClosedToJobs, EventSettings},
    heads::Head,
    inbox::{CHANGE_LIMIT, Changed, Chosen, INBOX_LIST_LIMIT, ITEMS_PAGE_LIMIT, InboxFilter, InboxPage, ItemChange, Replay},
    inbox_import::{ImportedNotification, ImportedNotifications},
    live::{LiveItem, LiveStored},
    pending::{EventKind, EventPage, PendingEvent},
    purge::Purged,
    read::{AttemptView, Attempts, Confirmations, DeliveryFilter, DeliveryPage, DeliveryView, JobStatus, JobView, PAGE_LIMIT},
    revocations::{NewRevocation, REVOCATIONS_PAGE_LIMIT, RevocationFilter},
    staging::Staging,
    suppressions::{
        NewSuppression, SUPPRESSIONS_PAGE_LIMIT, Suppressed, SuppressionExpiry, SuppressionFilter, SuppressionPage, SuppressionView,
    },
    tx::Counts,
    writer::Committing,
};
use self::{
    checkpoint::Checkpointer,
    events::EventLog,
    heads::HeadReader,
    suppressions::SuppressionList,
    writer::{Memory, Writer},
};
use crate::model::{Channel, Status, Timestamp};

mod migrations {
    refinery::embed_migrations!("src/store/migrations");
}

/// Pages in the log after which a commit moves them into the database itself, should [`checkpoint`] be behind.
const CHECKPOINT_PAGES: u32 = 16_000;
/// The log is cut back to this size after a checkpoint.
const LOG_LIMIT_BYTES: u32 = 64 << 20;
/// Page cache of the writer, in KiB; of each reader, a quarter.
const CACHE_KIB: i32 = 16 << 10;

/// How to open and keep a store.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    pub path: PathBuf,
    pub readers: usize,
    /// Rows one commit may take.
    pub group_commit_limit: usize,
    /// How long finished jobs are kept.
    pub retention: Duration,
    /// How long the ids of purged jobs are remembered, counted from accept.
    pub idempotency_retention: Duration,
    pub inbox_retention: Duration,
    /// Items kept per inbox and topic; the oldest go.
    pub inbox_limit: u32,
    /// `None` writes no events.
    pub events: Option<EventSettings>,
    pub suppression_expiry: SuppressionExpiry,
    pub revocation_retention: Duration,
}

/// Who holds a delivery, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The incarnation: how many times this store has been opened for work.
    pub owner: i64,
    pub until: Timestamp,
}

/// The open store. Clones share it.
#[derive(Clone)]
pub struct Store {
    writer: Writer,
    readers: Arc<Readers>,
    heads: HeadReader,
    counts: Arc<Counts>,
    events: Arc<EventLog>,
    suppressions: Arc<SuppressionList>,
    unsubscribe_key: secrecy::SecretString,
    ticket_key: secrecy::SecretString,
    settings: Arc<StoreSettings>,
    owner: i64,
    epoch: Arc<str>,
    /// Whether there may be any contact at all: without one, accept need not look.
    has_contacts: Arc<AtomicBool>,
    ending: Arc<Ending>,
}

/// Ends the writer with the last clone of the store, so that what was queued is written and the file let go.
struct Ending {
    writer: Writer,
    heads: HeadReader,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.writer.close();
        self.heads.close();
    }
}

struct Readers {
    idle: Mutex<Vec<Connection>>,
    places: Semaphore,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.settings.path).field("owner", &self.owner).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store, creating or upgrading it, and starts its writer. Blocks.
    ///
    /// # Errors
    /// The file is held by another process, damaged, newer than this program, or cannot be opened.
    pub fn open(settings: StoreSettings) -> Result<Self, StoreError> {
        let path = settings.path.clone();
        let failed = |error: rusqlite::Error| StoreError::open(&path, &error);
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .map_err(|error| StoreError::Open { path: path.display().to_string(), reason: error.to_string() })?;
        }
        let held = hold(&path)?;
        let mut connection = Connection::open(&path).map_err(failed)?;
        prepare(&connection, CACHE_KIB).map_err(failed)?;
        migrate(&mut connection, &path)?;
        let (owner, epoch) = begin_incarnation(&mut connection, settings.events.is_some()).map_err(failed)?;
        let has_contacts = contact::any(&connection).map_err(failed)?;
        let counts = Arc::new(read_counts(&connection).map_err(failed)?);
        let events = Arc::new(EventLog::open(&connection, settings.events.clone()).map_err(failed)?);
        let suppressions = Arc::new(SuppressionList::open(&connection, settings.suppression_expiry).map_err(failed)?);
        let unsubscribe_key = sealing_key(&connection, "unsubscribe_key").map_err(failed)?;
        let ticket_key = sealing_key(&connection, "ticket_key").map_err(failed)?;
        let readers = (0..settings.readers).map(|_| read_only(&path)).collect::<rusqlite::Result<Vec<_>>>().map_err(failed)?;
        let for_heads = read_only(&path).map_err(failed)?;
        let beside = Connection::open(&path).map_err(failed)?;
        prepare(&beside, CACHE_KIB / 4).map_err(failed)?;
        let not_started = |error: std::io::Error| StoreError::Open { path: path.display().to_string(), reason: error.to_string() };
        let heads = HeadReader::start(for_heads).map_err(not_started)?;
        let checkpointer = Checkpointer::start(beside).map_err(not_started)?;
        let memory = Memory { counts: counts.clone(), events: events.clone(), suppressions: suppressions.clone() };
        let (writer, thread) = Writer::start(connection, checkpointer, memory, settings.group_commit_limit, held).map_err(not_started)?;
        Ok(Self {
            ending: Arc::new(Ending { writer: writer.clone(), heads: heads.clone(), thread: Mutex::new(Some(thread)) }),
            writer,
            heads,
            readers: Arc::new(Readers { places: Semaphore::new(readers.len()), idle: Mutex::new(readers) }),
            counts,
            events,
            suppressions,
            unsubscribe_key,
            ticket_key,
            settings: Arc::new(settings),
            owner,
            epoch: epoch.into(),
            has_contacts: Arc::new(AtomicBool::new(has_contacts)),
        })
    }

    /// This incarnation, as leases name it.
    pub fn owner(&self) -> i64 {
        self.owner
    }

    /// A lease of this incarnation.
    pub fn lease_until(&self, until: Timestamp) -> Lease {
        Lease { owner: self.owner, until }
    }

    /// Names the store's history; changes only when a backup is restored.
    pub fn epoch(&self) -> &Arc<str> {
        &self.epoch
    }

    /// What tickets are sealed with: 32 bytes in Base64 (RFC 4648, section 5), the same for as long as this store lives.
    pub fn ticket_key(&self) -> &secrecy::SecretString {
        &self.ticket_key
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Whether the last write went through. False stops intake until one does again; [`Self::closed_to_jobs`] knows what else does.
    pub fn is_writable(&self) -> bool {
        self.writer.failure().is_none()
    }

    /// Resolves when [`Self::is_writable`] is no longer `was_writable`.
    pub async fn writability_changed(&self, was_writable: bool) {
        self.writer.writability_changed(was_writable).await;
    }

    /// Why the last write failed; empty when it did not.
    pub fn last_error(&self) -> String {
        self.writer.failure().map_or_else(String::new, |failure| failure.to_string())
    }

    /// Commits since the start.
    pub fn commits(&self) -> i64 {
        self.writer.commits()
    }

    /// Resolves when the writer has ended; before [`Self::close`] that means it has failed beyond repair.
    pub async fn writer_ended(&self) {
        self.writer.ended().await;
    }

    /// Writes what waits, ends the writer and lets go of the file.
    pub async fn close(&self) {
        self.heads.close();
        self.writer.close();
        self.writer.ended().await;
        let thread = self.ending.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // The thread has nothing left to do but fold its log away.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    /// Runs `query` on a reading connection, off the runtime's own threads.
    async fn read<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let readers = self.readers.clone();
        let place = readers.places.acquire().await.map_err(|_| StoreError::Closed)?;
        place.forget();
        let answer = tokio::task::spawn_blocking({
            let readers = self.readers.clone();
            move || {
                let give_back = GiveBack { connection: readers.take(), readers };
                query(give_back.connection.as_ref().ok_or(StoreError::Closed)?)
            }
        });
        answer.await.map_err(|panicked| StoreError::Read(panicked.to_string()))?
    }
}

impl Readers {
    fn take(&self) -> Option<Connection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

/// Returns a reader and its place, even when the query panicked.
struct GiveBack {
    connection: Option<Connection>,
    readers: Arc<Readers>,
}

impl Drop for GiveBack {
    fn drop(&mut self) {
        self.readers.idle.lock().unwrap_or_else(PoisonError::into_inner).extend(self.connection.take());
        self.readers.places.add_permits(1);
    }
}

/// Takes the lock that keeps other processes off the file. The system frees it when the process ends, however it ends.
fn hold(path: &Path) -> Result<File, StoreError> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
    let lock = opened.map_err(|error| StoreError::Open { path: path.display().to_string(), reason: error.to_string() })?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StoreError::Held(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(StoreError::Open { path: path.display().to_string(), reason: error.to_string() }),
    }
}

fn read_only(path: &Path) -> rusqlite::Result<Connection> {
    let reader = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    prepare(&reader, CACHE_KIB / 4)?;
    Ok(reader)
}

fn prepare(connection: &Connection, cache_kib: i32) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(128);
    connection.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -{cache_kib};
         PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}; PRAGMA journal_size_limit = {LOG_LIMIT_BYTES};"
    ))
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let damaged = |reason: String| StoreError::Damaged { path: path.display().to_string(), reason };
    // All of them and their history in one transaction: by itself, refinery notes a migration down after the commit that made it, and a
    // crash in between would leave a file that no start gets past.
    let runner = migrations::migrations::runner().set_grouped(true);
    let known = runner.get_migrations().iter().map(|migration| i64::from(migration.version())).max().unwrap_or(0);
    let found: Option<i64> =
        connection.query_row("SELECT max(version) FROM refinery_schema_history", (), |row| row.get(0)).optional().unwrap_or(None).flatten();
    if let Some(found) = found
        && found > known
    {
        return Err(StoreError::Newer { path: path.display().to_string(), found, known });
    }
    match runner.run(connection) {
        Ok(_) => Ok(()),
        Err(error) => match error.kind() {
            // A full disk is not damage: nobody should reach for the backup.
            refinery::error::Kind::Connection(_, cause) if let Some(cause) = cause.downcast_ref() => Err(StoreError::open(path, cause)),
            _ => Err(damaged(error.to_string())),
        },
    }
}

/// Counts this start, makes sure every counter has its row, and voids what earlier incarnations held.
fn begin_incarnation(connection: &mut Connection, has_events: bool) -> rusqlite::Result<(i64, String)> {
    let transaction = connection.transaction()?;
    transaction.execute("INSERT INTO meta (key, value) VALUES ('epoch', ?1) ON CONFLICT DO NOTHING", [uuid::Uuid::now_v7().to_string()])?;
    let owner: String = transaction.query_row(
        "INSERT INTO meta (key, value) VALUES ('incarnation', '1')
         ON CONFLICT (key) DO UPDATE SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT) RETURNING value",
        (),
        |row| row.get(0),
    )?;
    for name in ["accepted", "purged", "events_dropped"] {
        transaction.execute("INSERT INTO counters (name, value) VALUES (?1, 0) ON CONFLICT DO NOTHING", [name])?;
    }
    for channel in Channel::ALL {
        for status in Status::ALL {
            transaction.execute(
                "INSERT INTO status_counts (channel, status, value) VALUES (?1, ?2, 0) ON CONFLICT DO NOTHING",
                (channel.as_number(), status.as_number()),
            )?;
        }
    }
    claim::void_leases(&transaction)?;
    if !has_events {
        events::drop_leftovers(&transaction)?;
    }
    let epoch = transaction.query_row("SELECT value FROM meta WHERE key = 'epoch'", (), |row| row.get(0))?;
    transaction.commit()?;
    Ok((owner.parse().unwrap_or(1), epoch))
}

/// A key to seal with (Fernet), made at the first start.
fn sealing_key(connection: &Connection, name: &str) -> rusqlite::Result<secrecy::SecretString> {
    connection.execute("INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT DO NOTHING", (name, fernet::Fernet::generate_key()))?;
    connection.query_row("SELECT value FROM meta WHERE key = ?1", [name], |row| row.get::<_, String>(0)).map(Into::into)
}

fn read_counts(connection: &Connection) -> rusqlite::Result<Counts> {
    let counts = Counts::default();
    let one = |name: &str| connection.query_row("SELECT value FROM counters WHERE name = ?1", [name], |row| row.get::<_, i64>(0));
    counts.accepted.store(one("accepted")?, std::sync::atomic::Ordering::Relaxed);
    counts.purged.store(one("purged")?, std::sync::atomic::Ordering::Relaxed);
    let mut statement = connection.prepare("SELECT channel, status, value FROM status_counts")?;
    let mut rows = statement.query(())?;
    while let Some(row) = rows.next()? {
        if let (Some(channel), Some(status)) = (Channel::from_number(row.get(0)?), Status::from_number(row.get(1)?)) {
            counts.set(channel, status, row.get(2)?);
        }
    }
    Ok(counts)
}
