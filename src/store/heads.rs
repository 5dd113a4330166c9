//! Where streams stand, for whoever connects. A thread reads for all who have asked meanwhile: thousands who come back at once after a
//! restart cost a few reads, and none waits for a thread of its own.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension as _};
use tokio::sync::oneshot;

use super::{Store, StoreError};
use crate::model::Stream;

/// Questions answered from one snapshot.
const BATCH_LIMIT: usize = 1000;
/// After an answer, how long questions gather before the next: waking the thread costs more than reading. A question that comes alone
/// does not wait.
const GATHERING: Duration = Duration::from_millis(1);

/// Where a stream stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Of the newest item, or event of a conversation; 0 before the first.
    pub seq: i64,
    /// History up to here is gone.
    pub floor: i64,
    /// Of a user's inbox; 0 for anything else.
    pub unread: i64,
}

type Answer = Result<Vec<(Stream, Head)>, StoreError>;

struct Question {
    streams: Vec<Stream>,
    answer: oneshot::Sender<Answer>,
}

#[derive(Default)]
struct Asked {
    questions: Vec<Question>,
    /// The thread waits for a question, and has to be woken for it.
    is_waiting: bool,
    is_closed: bool,
}

/// The asking side of the thread.
#[derive(Clone, Default)]
pub(super) struct HeadReader(Arc<(Mutex<Asked>, Condvar)>);

impl HeadReader {
    pub fn start(connection: Connection) -> io::Result<Self> {
        let reader = Self::default();
        let asked = reader.clone();
        thread::Builder::new().name("store-heads".to_owned()).spawn(move || {
            let _ended = CloseAtEnd(&asked);
            asked.answer_all(&connection);
        })?;
        Ok(reader)
    }

    /// Whoever waits is told, and so is whoever asks from now on.
    pub fn close(&self) {
        let mut asked = self.lock();
        asked.is_closed = true;
        asked.questions.clear();
        drop(asked);
        self.0.1.notify_one();
    }

    async fn ask(&self, streams: Vec<Stream>) -> Answer {
        let (answer, answered) = oneshot::channel();
        {
            let mut asked = self.lock();
            if asked.is_closed {
                return Err(StoreError::Closed);
            }
            asked.questions.push(Question { streams, answer });
            if std::mem::take(&mut asked.is_waiting) {
                self.0.1.notify_one();
            }
        }
        answered.await.unwrap_or(Err(StoreError::Closed))
    }

    fn answer_all(&self, connection: &Connection) {
        loop {
            let batch: Vec<Question> = {
                let mut asked = self.lock();
                loop {
                    if asked.is_closed {
                        return;
                    }
                    if !asked.questions.is_empty() {
                        break;
                    }
                    asked.is_waiting = true;
                    asked = self.0.1.wait(asked).unwrap_or_else(PoisonError::into_inner);
                }
                asked.is_waiting = false;
                let count = asked.questions.len().min(BATCH_LIMIT);
                asked.questions.drain(..count).collect()
            };
            let has_taken_all = batch.len() < BATCH_LIMIT;
            answer(connection, batch);
            if has_taken_all {
                thread::sleep(GATHERING);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody waits for a thread that has ended, even by a panic.
struct CloseAtEnd<'r>(&'r HeadReader);

impl Drop for CloseAtEnd<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// All from one snapshot. A stream that many ask for is read once.
fn answer(connection: &Connection, batch: Vec<Question>) {
    let snapshot = connection.unchecked_transaction();
    let mut known = HashMap::new();
    for Question { streams, answer } in batch {
        let read = |stream: Stream| {
            let head = match (&stream, known.get(&stream)) {
                (_, Some(head)) => *head,
                (Stream::User(_) | Stream::Conversation(_), None) => self::head(connection, &stream)?,
                (Stream::Topic(_), None) => *known.entry(stream.clone()).or_insert(self::head(connection, &stream)?),
            };
            Ok((stream, head))
        };
        let heads = match &snapshot {
            Ok(_) => streams.into_iter().map(read).collect::<rusqlite::Result<_>>().map_err(StoreError::from),
            Err(error) => Err(StoreError::Read(error.to_string())),
        };
        // Whoever asked may have gone.
        let _ = answer.send(heads);
    }
}

pub(super) fn head(connection: &Connection, stream: &Stream) -> rusqlite::Result<Head> {
    let (sql, key) = match stream {
        Stream::User(user) => ("SELECT seq, floor, unread FROM inbox_users WHERE user_id = ?1", user.as_str()),
        Stream::Topic(topic) => ("SELECT seq, floor, 0 FROM topics WHERE topic = ?1", topic.as_str()),
        Stream::Conversation(id) => ("SELECT event, floor, 0 FROM conversations WHERE id = ?1", &*id.to_string()),
    };
    let found = connection
        .prepare_cached(sql)?
        .query_row([key], |row| Ok(Head { seq: row.get(0)?, floor: row.get(1)?, unread: row.get(2)? }))
        .optional()?;
    Ok(found.unwrap_or_default())
}

impl Store {
    /// Where `stream` stands.
    pub async fn stream_head(&self, stream: Stream) -> Result<Head, StoreError> {
        Ok(self.stream_heads(vec![stream]).await?.first().map(|(_, head)| *head).unwrap_or_default())
    }

    /// Where each of `streams` stands, in their order, at one moment.
    pub async fn stream_heads(&self, streams: Vec<Stream>) -> Result<Vec<(Stream, Head)>, StoreError> {
        self.heads.ask(streams).await
    }
}
