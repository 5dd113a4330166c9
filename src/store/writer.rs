//! The one thread that writes, and its group commit.
//!
//! A batch is whatever gathered while the last commit ran; when nothing waits, a write starts at once. A write that fails takes nobody
//! with it: the batch is rolled back and its writes run again one by one. A write that panics is a write that fails.

use std::{
    collections::VecDeque,
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    StoreError,
    checkpoint::Checkpointer,
    error::is_own_fault,
    events::EventLog,
    suppressions::SuppressionList,
    tx::{Counts, Tx},
};
use crate::model::Timestamp;

/// Writes that may wait for the writer; beyond it, callers wait for a place.
const QUEUE_LIMIT: usize = 8192;
/// Full commits after which the background has its turn all the same: a large job must not wait for ever behind small ones.
const PASSED_OVER_LIMIT: u32 = 16;
/// How often an unwritable store is tried while nothing else wants to write.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// One write waiting for its commit.
trait Write: Send {
    /// Runs inside the transaction; may run twice, the first time rolled back.
    fn apply(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()>;
    /// Rows it is expected to touch.
    fn rows(&self) -> usize;
    fn finish(self: Box<Self>, committed: Result<(), &StoreError>);
}

struct Pending<T, F, N> {
    run: F,
    rows: usize,
    value: Option<T>,
    on_commit: N,
    reply: oneshot::Sender<Result<T, StoreError>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl<T, F, N> Write for Pending<T, F, N>
where
    T: Send,
    F: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send,
    N: FnOnce(&T) + Send,
{
    fn apply(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        self.value = Some((self.run)(tx)?);
        Ok(())
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn finish(self: Box<Self>, committed: Result<(), &StoreError>) {
        let Self { value, on_commit, reply, .. } = *self;
        let answer = match (committed, value) {
            (Ok(()), Some(value)) => {
                // It is committed whatever becomes of the note; the panic's own message has been printed.
                let _ = catch_unwind(AssertUnwindSafe(|| on_commit(&value)));
                Ok(value)
            }
            (Err(error), _) => Err(error.clone()),
            (Ok(()), None) => Err(StoreError::Closed),
        };
        // The caller may have gone; what it asked for is done all the same.
        let _ = reply.send(answer);
    }
}

#[derive(Default)]
struct Queues {
    normal: VecDeque<Box<dyn Write>>,
    /// Taken one per commit, behind everything else: steps of large jobs, purge.
    background: VecDeque<Box<dyn Write>>,
    /// Full commits in a row that left the background waiting.
    passed_over: u32,
    closed: bool,
}

struct Shared {
    queues: Mutex<Queues>,
    filled: Condvar,
    places: Arc<Semaphore>,
    /// Why the last commit failed; `None` when it did not.
    failure: watch::Sender<Option<Arc<str>>>,
    memory: Memory,
    commits: AtomicI64,
    /// Cancelled when the writer's thread ends.
    ended: CancellationToken,
}

/// What is kept in memory of what the commits have written, and told by each of them.
#[derive(Clone)]
pub(super) struct Memory {
    pub counts: Arc<Counts>,
    pub events: Arc<EventLog>,
    pub suppressions: Arc<SuppressionList>,
}

/// Where a write stands in the writer's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    Normal,
    Background,
}

/// The async side of the writer thread.
#[derive(Clone)]
pub(super) struct Writer(Arc<Shared>);

/// A write that is with the writer; await it for its commit.
pub struct Committing<T>(oneshot::Receiver<Result<T, StoreError>>);

impl<T> Committing<T> {
    pub async fn committed(self) -> Result<T, StoreError> {
        self.0.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Writer {
    /// Starts the thread. It keeps `held` until its connection is closed: nobody else may open the file before.
    pub fn start(
        connection: Connection,
        checkpointer: Checkpointer,
        memory: Memory,
        rows_per_commit: usize,
        held: File,
    ) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let shared = Arc::new(Shared {
            queues: Mutex::default(),
            filled: Condvar::new(),
            places: Arc::new(Semaphore::new(QUEUE_LIMIT)),
            failure: watch::Sender::new(None),
            memory,
            commits: AtomicI64::new(0),
            ended: CancellationToken::new(),
        });
        let writer = Self(shared.clone());
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
            shared.run(connection, checkpointer, rows_per_commit);
            drop(held);
        })?;
        Ok((writer, thread))
    }

    /// Hands `run` to the writer, waiting for a place in its queue. `run` may be run twice (the first time rolled back).
    pub async fn enqueue<T, F>(&self, urgency: Urgency, rows: usize, run: F) -> Result<Committing<T>, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        self.enqueue_noted(urgency, rows, run, |_| ()).await
    }

    /// [`Self::enqueue`], and once it is durable, `on_commit` is called on the writer's thread, in the order of the commits: it takes note,
    /// and keeps nobody waiting.
    pub async fn enqueue_noted<T, F, N>(&self, urgency: Urgency, rows: usize, run: F, on_commit: N) -> Result<Committing<T>, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
        N: FnOnce(&T) + Send + 'static,
    {
        let place = match urgency {
            Urgency::Normal => Some(self.0.places.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?),
            Urgency::Background => None,
        };
        let (reply, answer) = oneshot::channel();
        let write = Box::new(Pending { run, rows, value: None, on_commit, reply, _place: place });
        let mut queues = self.0.lock();
        if queues.closed {
            return Err(StoreError::Closed);
        }
        match urgency {
            Urgency::Normal => queues.normal.push_back(write),
            Urgency::Background => queues.background.push_back(write),
        }
        drop(queues);
        self.0.filled.notify_one();
        Ok(Committing(answer))
    }

    pub async fn write<T, F>(&self, urgency: Urgency, rows: usize, run: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        self.enqueue(urgency, rows, run).await?.committed().await
    }

    /// Why the last commit failed; `None` when it did not.
    pub fn failure(&self) -> Option<Arc<str>> {
        self.0.failure.borrow().clone()
    }

    /// Follows [`Self::failure`].
    pub fn failures(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.0.failure.subscribe()
    }

    /// Resolves when whether the store can be written is no longer `was_writable`.
    pub async fn writability_changed(&self, was_writable: bool) {
        // The sender lives as long as the writer.
        let _ = self.0.failure.subscribe().wait_for(|failure| failure.is_none() != was_writable).await;
    }

    /// Resolves when the writer's thread has ended, whether asked to or not.
    pub async fn ended(&self) {
        self.0.ended.cancelled().await;
    }

    pub fn commits(&self) -> i64 {
        self.0.commits.load(Ordering::Relaxed)
    }

    /// Writes what waits, then ends the thread. Later writes are refused as closed.
    pub fn close(&self) {
        self.0.lock().closed = true;
        self.0.filled.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut connection: Connection, mut checkpointer: Checkpointer, rows_per_commit: usize) {
        let _refuse = RefuseAtEnd(self);
        while let Some(mut batch) = self.next_batch(rows_per_commit) {
            checkpointer.written(batch.iter().map(|write| write.rows()).sum());
            match self.commit(&mut connection, &mut batch) {
                Ok(()) => finish(batch, Ok(())),
                Err(error) if batch.len() <= 1 => finish(batch, Err(&error)),
                Err(_) => {
                    for write in batch {
                        let mut alone = vec![write];
                        let committed = self.commit(&mut connection, &mut alone);
                        finish(alone, committed.as_ref().copied());
                    }
                }
            }
        }
        drop(checkpointer);
        // Leaves one file behind instead of three; a failure costs only the next start a recovery.
        let _ = connection.execute_batch("PRAGMA optimize; PRAGMA wal_checkpoint(TRUNCATE);");
    }

    /// What gathered, up to `rows`, and at most one background write. An unwritable store is probed with an empty batch.
    fn next_batch(&self, rows: usize) -> Option<Vec<Box<dyn Write>>> {
        let mut queues = self.lock();
        while queues.normal.is_empty() && queues.background.is_empty() {
            if queues.closed {
                return None;
            }
            if self.failure.borrow().is_none() {
                queues = self.filled.wait(queues).unwrap_or_else(PoisonError::into_inner);
            } else {
                let (again, timeout) = self.filled.wait_timeout(queues, PROBE_INTERVAL).unwrap_or_else(PoisonError::into_inner);
                queues = again;
                if timeout.timed_out() {
                    return Some(Vec::new());
                }
            }
        }
        let mut batch = Vec::new();
        let mut taken = 0;
        while taken < rows {
            let Some(write) = queues.normal.pop_front() else { break };
            taken += write.rows();
            batch.push(write);
        }
        if taken < rows || queues.passed_over >= PASSED_OVER_LIMIT {
            batch.extend(queues.background.pop_front());
            queues.passed_over = 0;
        } else {
            queues.passed_over += 1;
        }
        Some(batch)
    }

    fn commit(&self, connection: &mut Connection, batch: &mut [Box<dyn Write>]) -> Result<(), StoreError> {
        let committed = self.try_commit(connection, batch);
        match committed {
            Ok(()) => {
                self.failure.send_if_modified(|failure| failure.take().is_some());
                Ok(())
            }
            // Says nothing about whether the store can be written.
            Err(error) if is_own_fault(&error) => Err(StoreError::Refused(error.to_string())),
            Err(error) => {
                let reason: Arc<str> = error.to_string().into();
                self.failure.send_if_modified(|failure| failure.replace(reason.clone()).is_none());
                Err(StoreError::Unavailable(reason.to_string()))
            }
        }
    }

    fn try_commit(&self, connection: &mut Connection, batch: &mut [Box<dyn Write>]) -> rusqlite::Result<()> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let Memory { counts, events, suppressions } = &self.memory;
        let mut tx = Tx::new(&transaction, Timestamp::now(), events, suppressions);
        if batch.is_empty() {
            // A probe has to touch the disk to mean anything: SQLite leaves a page alone whose row stays the same.
            transaction.execute(
                "INSERT INTO meta (key, value) VALUES ('probed_at', ?1) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                [tx.now.as_millis().to_string()],
            )?;
        }
        for write in batch {
            catch_unwind(AssertUnwindSafe(|| write.apply(&mut tx))).unwrap_or_else(|panic| Err(panicked(&*panic)))?;
        }
        let sums = tx.close()?;
        fail::fail_point!("store-before-commit");
        transaction.commit()?;
        fail::fail_point!("store-after-commit");
        sums.publish(counts, events, suppressions);
        self.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Nobody may wait for a writer that is gone.
    fn refuse_all(&self) {
        let mut queues = self.lock();
        queues.closed = true;
        queues.normal.clear();
        queues.background.clear();
        drop(queues);
        self.ended.cancel();
    }
}

/// Refuses what waits when the writer's thread ends, even by a panic.
struct RefuseAtEnd<'s>(&'s Shared);

impl Drop for RefuseAtEnd<'_> {
    fn drop(&mut self) {
        self.0.refuse_all();
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> rusqlite::Error {
    let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    rusqlite::Error::ToSqlConversionFailure(format!("it panicked: {}", said.unwrap_or("without a word")).into())
}

fn finish(batch: Vec<Box<dyn Write>>, committed: Result<(), &StoreError>) {
    for write in batch {
        write.finish(committed);
    }
}
