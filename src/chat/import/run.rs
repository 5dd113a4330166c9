//! The taking over: in the order of ids, some hundred rows a commit, and what was not taken over put aside.
//!
//! How far it came is kept in the commits themselves, a batch behind: the batch that a crash interrupts is given again, and what is known
//! is passed over.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    ImportError, Kind, Staged,
    convert::{self, Refused},
    text::Form,
};
use crate::{
    chat::seal::ChatKeys,
    model::{MessageId, Timestamp},
    store::{Imported, ImportedMessage, Staging, Store},
};

/// Rows in one commit.
const BATCH: usize = 500;

/// How it is done.
pub struct Import<'a> {
    pub staged: &'a Staged,
    pub keys: &'a ChatKeys,
    /// The replaced system's.
    pub old: Option<&'a ChatKeys>,
    /// `None` only looks.
    pub store: Option<&'a Store>,
    /// How long, and how many, inboxes keep.
    pub inbox_retention: Duration,
    pub inbox_limit: u32,
    pub listed_file: &'a Path,
}

/// What became of the rows of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    pub source: u64,
    /// Here now, those of an earlier run included.
    pub imported: u64,
    /// Not taken over, each with its reason.
    pub listed: u64,
    /// Notifications older than inboxes keep, or beyond what they hold.
    #[serde(skip_serializing_if = "is_zero")]
    pub past: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's `skip_serializing_if` calls it with a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Counted {
    /// Whether every row is accounted for.
    pub const fn is_balanced(&self) -> bool {
        self.source == self.imported + self.listed + self.past
    }
}

/// A row that was not taken over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listed {
    pub table: String,
    pub id: i64,
    pub why: String,
    /// Its text looks sealed, and none of the old keys opens it.
    pub unreadable: bool,
}

/// How it went.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub conversations: Counted,
    pub messages: Counted,
    pub notifications: Counted,
    /// How the texts that this run has read were stored; deleted messages have none.
    pub texts: BTreeMap<&'static str, u64>,
    /// Notifications that got a new id, because an inbox has theirs.
    pub renumbered: u64,
    pub listed: Vec<Listed>,
    /// An earlier run of the same source was gone on with.
    pub resumed: bool,
}

impl Report {
    pub fn is_balanced(&self) -> bool {
        [self.conversations, self.messages, self.notifications].iter().all(Counted::is_balanced)
    }
}

/// As it is kept in the store.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Position {
    source: String,
    conversations: i64,
    messages: i64,
}

impl Position {
    const fn is_begun(&self) -> bool {
        self.conversations > 0 || self.messages > 0
    }
}

impl Import<'_> {
    /// Takes over what there is. `on_step` hears how many rows of how many are done.
    ///
    /// # Errors
    /// The store cannot be read or written, or the file for what is not taken over.
    pub async fn run(&self, on_step: &mut dyn FnMut(u64, u64)) -> Result<Report, ImportError> {
        let staging = &self.staged.staging;
        let count = |kind: Kind| staging.count(kind.as_number());
        let mut report = Report::default();
        report.conversations.source = count(Kind::Conversation)?;
        report.messages.source = count(Kind::Message)?;
        report.notifications.source = count(Kind::Notification)?;
        let total = report.conversations.source + report.messages.source + report.notifications.source;
        let start = self.start().await?;
        report.resumed = start.is_begun();
        let aside = if self.store.is_some() { Some(Aside::open(self.listed_file, &start, &self.staged.tables)?) } else { None };
        let mut work = Work { import: self, report, aside, position: start, done: 0, total, on_step };
        work.report.listed = work.aside.as_mut().map(|aside| std::mem::take(&mut aside.kept)).unwrap_or_default();
        work.conversations().await?;
        work.messages().await?;
        work.notifications().await?;
        work.check().await?;
        if let Some(store) = self.store {
            store.end_chat_import().await?;
        }
        Ok(work.report)
    }

    /// Where an earlier run of this very source has come.
    async fn start(&self) -> Result<Position, ImportError> {
        let kept = match self.store {
            Some(store) => store.chat_import_progress().await?,
            None => None,
        };
        let kept = kept.and_then(|kept| serde_json::from_str::<Position>(&kept).ok());
        let anew = || Position { source: self.staged.fingerprint.clone(), ..Position::default() };
        Ok(kept.filter(|position| position.source == self.staged.fingerprint).unwrap_or_else(anew))
    }

    fn table(&self, kind: Kind) -> &str {
        self.staged.tables.get(&kind).map_or(kind.as_str(), String::as_str)
    }
}

struct Work<'a> {
    import: &'a Import<'a>,
    report: Report,
    aside: Option<Aside>,
    position: Position,
    done: u64,
    total: u64,
    on_step: &'a mut dyn FnMut(u64, u64),
}

impl Work<'_> {
    fn staging(&self) -> &Staging {
        &self.import.staged.staging
    }

    async fn conversations(&mut self) -> Result<(), ImportError> {
        let mut after = self.position.conversations;
        loop {
            let page = self.staging().page(Kind::Conversation.as_number(), after, BATCH)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            (self.position.conversations, after) = (after, *last);
            let mut batch = Vec::with_capacity(page.len());
            for (id, text) in &page {
                let row = parsed(text);
                match convert::conversation(*id, &row, self.staging())? {
                    Ok(conversation) => batch.push(conversation),
                    Err(why) => self.list(Kind::Conversation, *id, &why, row)?,
                }
            }
            if let Some(store) = self.import.store {
                self.sync()?;
                let imported = store.import_conversations(batch, Some(self.progress())).await?;
                self.list_conflicts(Kind::Conversation, &imported)?;
            }
            self.step(page.len());
        }
    }

    async fn messages(&mut self) -> Result<(), ImportError> {
        let mut after = self.position.messages;
        loop {
            let page = self.staging().page(Kind::Message.as_number(), after, BATCH)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            (self.position.messages, after) = (after, *last);
            let mut batch = Vec::with_capacity(page.len());
            for (id, text) in &page {
                let row = parsed(text);
                match convert::message(*id, &row, self.import.old, self.import.keys) {
                    Ok((message, form)) => {
                        batch.push(self.with_known_reply(message)?);
                        *self.report.texts.entry(form_name(form)).or_default() += 1;
                    }
                    Err(why) => self.list(Kind::Message, *id, &why, row)?,
                }
            }
            if let Some(store) = self.import.store {
                self.sync()?;
                let imported = store.import_messages(batch, Some(self.progress())).await?;
                self.list_conflicts(Kind::Message, &imported)?;
            }
            self.step(page.len());
        }
    }

    /// A reply to what is not in the same conversation, or not there, is a reply to nothing.
    fn with_known_reply(&self, mut message: ImportedMessage) -> Result<ImportedMessage, ImportError> {
        if let Some(MessageId(first)) = message.reply_to {
            let first = self.staging().get(Kind::Message.as_number(), first)?;
            let conversation = first.and_then(|first| convert::whole(&parsed(&first), "conversation").ok().flatten());
            message.reply_to = message.reply_to.filter(|_| conversation == Some(message.conversation.0));
        }
        Ok(message)
    }

    /// From the first one every time: whether they are known is found without opening anything.
    async fn notifications(&mut self) -> Result<(), ImportError> {
        let kind = Kind::Notification.as_number();
        let beyond = self.staging().newest_of_each(kind, self.import.inbox_limit)?;
        self.report.notifications.past += beyond;
        self.done += beyond;
        let oldest = Timestamp::now().saturating_sub(self.import.inbox_retention);
        let mut after = 0;
        loop {
            let page = self.staging().page(kind, after, BATCH)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = *last;
            let mut batch = Vec::with_capacity(page.len());
            for (id, text) in &page {
                let row = parsed(text);
                match convert::notification(*id, &row) {
                    Ok(notification) if notification.created_at < oldest => self.report.notifications.past += 1,
                    Ok(notification) => batch.push(notification),
                    Err(why) => self.list(Kind::Notification, *id, &why, row)?,
                }
            }
            self.report.notifications.imported += match self.import.store {
                Some(store) => {
                    self.sync()?;
                    let imported = store.import_notifications(batch).await?;
                    self.report.renumbered += imported.renumbered;
                    imported.added + imported.known
                }
                None => batch.len() as u64,
            };
            self.step(page.len());
        }
    }

    /// Counts by what is in the store, not by what was sent there.
    async fn check(&mut self) -> Result<(), ImportError> {
        for kind in [Kind::Conversation, Kind::Message] {
            let listed: std::collections::HashSet<i64> =
                self.report.listed.iter().filter(|row| row.table == self.import.table(kind)).map(|row| row.id).collect();
            let (mut after, mut here) = (0, 0);
            loop {
                let page = self.staging().page(kind.as_number(), after, BATCH)?;
                let Some((last, _)) = page.last() else { break };
                after = *last;
                let ids: Vec<i64> = page.into_iter().map(|(id, _)| id).filter(|id| !listed.contains(id)).collect();
                here += ids.len() as u64;
                if let Some(store) = self.import.store {
                    let (conversations, messages) = if kind == Kind::Message { (Vec::new(), ids) } else { (ids, Vec::new()) };
                    let (no_conversations, no_messages) = store.not_imported(conversations, messages).await?;
                    here -= (no_conversations.len() + no_messages.len()) as u64;
                }
            }
            let counted = if kind == Kind::Message { &mut self.report.messages } else { &mut self.report.conversations };
            (counted.imported, counted.listed) = (here, listed.len() as u64);
        }
        let table = self.import.table(Kind::Notification);
        self.report.notifications.listed = self.report.listed.iter().filter(|row| row.table == table).count() as u64;
        Ok(())
    }

    fn list(&mut self, kind: Kind, id: i64, why: &Refused, row: Map<String, Value>) -> Result<(), ImportError> {
        let unreadable = matches!(why, Refused::Unreadable(_));
        let listed = Listed { table: self.import.table(kind).to_owned(), id, why: why.told().to_owned(), unreadable };
        if let Some(aside) = &mut self.aside {
            aside.put(&listed, row)?;
        }
        self.report.listed.push(listed);
        Ok(())
    }

    fn list_conflicts(&mut self, kind: Kind, imported: &Imported) -> Result<(), ImportError> {
        let conflicts = imported.conflicts.iter().map(|id| (*id, "its id is taken here by another one"));
        let orphans = imported.orphans.iter().map(|id| (id.0, "its conversation is not here"));
        let found: Vec<(i64, &str)> = conflicts.chain(orphans).collect();
        for (id, why) in found {
            let row = self.staging().get(kind.as_number(), id)?.map(|text| parsed(&text)).unwrap_or_default();
            self.list(kind, id, &Refused::Row(why.to_owned()), row)?;
        }
        Ok(())
    }

    fn progress(&self) -> String {
        json!(self.position).to_string()
    }

    /// What is put aside is on the disk before the position that passes it by.
    fn sync(&mut self) -> Result<(), ImportError> {
        self.aside.as_mut().map_or(Ok(()), Aside::sync)
    }

    fn step(&mut self, rows: usize) {
        fail::fail_point!("chat-import-batch");
        self.done += rows as u64;
        (self.on_step)(self.done, self.total);
    }
}

fn parsed(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).expect("staged rows are objects, written by us")
}

const fn form_name(form: Option<Form>) -> &'static str {
    match form {
        None => "deleted",
        Some(Form::Plain) => "plain",
        Some(Form::Token) => "token",
        Some(Form::Wrapped) => "base64_token",
    }
}

/// The file with the rows that were not taken over, one JSON object a line.
struct Aside {
    path: PathBuf,
    /// Made with the first line.
    file: Option<File>,
    is_dirty: bool,
    /// Lines of the interrupted run, as far as it came.
    kept: Vec<Listed>,
}

impl Aside {
    fn open(path: &Path, start: &Position, tables: &BTreeMap<Kind, String>) -> Result<Self, ImportError> {
        let mut aside = Self { path: path.to_owned(), file: None, is_dirty: false, kept: Vec::new() };
        if !start.is_begun() {
            return Ok(aside);
        }
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(aside),
            Err(error) => return Err(aside.failed(error)),
        };
        let is_past = |listed: &Listed| {
            let up_to = |kind: Kind, position: i64| tables.get(&kind) == Some(&listed.table) && listed.id <= position;
            up_to(Kind::Conversation, start.conversations) || up_to(Kind::Message, start.messages)
        };
        for line in text.lines() {
            let Ok(mut row) = serde_json::from_str::<Map<String, Value>>(line) else { continue };
            let original = row.remove("row");
            let Ok(listed) = serde_json::from_value::<Listed>(Value::Object(row)) else { continue };
            if is_past(&listed) {
                let original = original.and_then(|row| row.as_object().cloned()).unwrap_or_default();
                aside.put(&listed, original)?;
                aside.kept.push(listed);
            }
        }
        aside.sync()?;
        Ok(aside)
    }

    /// It may hold what people wrote: readable by its owner alone.
    fn put(&mut self, listed: &Listed, row: Map<String, Value>) -> Result<(), ImportError> {
        if self.file.is_none() {
            let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path);
            self.file = Some(opened.map_err(|error| self.failed(error))?);
        }
        let mut line = serde_json::to_value(listed).expect("names and numbers are JSON");
        line["row"] = Value::Object(row);
        self.is_dirty = true;
        let written = self.file.as_mut().map_or(Ok(()), |file| file.write_all(format!("{line}\n").as_bytes()));
        written.map_err(|error| self.failed(error))
    }

    fn sync(&mut self) -> Result<(), ImportError> {
        if std::mem::take(&mut self.is_dirty)
            && let Some(file) = &self.file
        {
            file.sync_data().map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    fn failed(&self, error: io::Error) -> ImportError {
        ImportError::Listed { path: self.path.display().to_string(), error }
    }
}
