//! A source's rows, put in order on the disk.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{
    Choice, Chosen, ImportError, Kind,
    convert::{text, whole},
    dumpdata, postgres, sql,
};
use crate::store::Staging;

/// What a custom-format dump of `pg_dump` begins with.
const CUSTOM_FORMAT: &[u8] = b"PGDMP";
const BUFFER: usize = 1 << 20;

/// Where the rows are.
#[derive(Clone)]
pub enum Source {
    /// Made by `manage.py dumpdata` (JSON or JSONL) or `pg_dump` (plain).
    File(PathBuf),
    /// The running database; `ca_file` has who signed its certificate, where that is nobody the system trusts.
    Postgres {
        url: String,
        /// Where the URL has none.
        password: Option<String>,
        ca_file: Option<PathBuf>,
    },
}

/// A source in order.
pub struct Staged {
    pub staging: Staging,
    /// Where each kind of rows was found.
    pub tables: BTreeMap<Kind, String>,
    /// Columns that are there and mean nothing to us, by table.
    pub ignored: BTreeMap<String, BTreeSet<String>>,
    /// Names the source, to know it again.
    pub fingerprint: String,
}

/// Reads all of `source`. `on_read` hears how many bytes were read, and of how many, where that is known.
///
/// # Errors
/// It cannot be read, or is not what it should be; with table and column.
pub async fn stage(source: &Source, chosen: &Chosen, on_read: &mut dyn FnMut(u64, u64)) -> Result<Staged, ImportError> {
    let mut intake = Intake::new(chosen)?;
    let (name, fingerprint) = match source {
        Source::File(path) => {
            let size = read_file(path, &mut intake, on_read)?;
            let whole = path.canonicalize().unwrap_or_else(|_| path.clone());
            (path.display().to_string(), format!("{}:{size}", whole.display()))
        }
        Source::Postgres { url, password, ca_file } => {
            let name = postgres::read(url, password.as_deref(), ca_file.as_deref(), &mut intake, on_read).await?;
            (name.clone(), name)
        }
    };
    let hash = Sha256::digest(fingerprint.as_bytes());
    intake.finish(&name, hash[..8].iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}")))
}

fn read_file(path: &Path, intake: &mut Intake<'_>, on_read: &mut dyn FnMut(u64, u64)) -> Result<u64, ImportError> {
    let unreadable = |error: io::Error| ImportError::source(format!("{} cannot be read: {error}", path.display()));
    let file = File::open(path).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    let mut reader = BufReader::with_capacity(BUFFER, Watched { inner: file, read: 0, size, on_read });
    let start = reader.fill_buf().map_err(unreadable)?;
    if start.starts_with(CUSTOM_FORMAT) {
        let told = format!("{} is a dump in pg_dump's custom format", path.display());
        return Err(ImportError::source(told + "; hint: make it plain with `pg_restore -f dump.sql FILE`, or dump with `pg_dump -Fp`"));
    }
    if start.starts_with(&[0x1f, 0x8b]) {
        return Err(ImportError::source(format!("{} is compressed; hint: gunzip it first", path.display())));
    }
    match start.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None => return Err(ImportError::source(format!("{} is empty", path.display()))),
        Some(b'[') => dumpdata::read_array(reader, intake),
        Some(b'{') => dumpdata::read_lines(reader, intake),
        Some(_) => sql::read(reader, intake),
    }
    .map_err(|error| match error {
        ImportError::Source(told) => ImportError::Source(format!("{}: {told}", path.display())),
        other => other,
    })?;
    Ok(size)
}

/// Tells how much was read.
struct Watched<'a, R> {
    inner: R,
    read: u64,
    size: u64,
    on_read: &'a mut dyn FnMut(u64, u64),
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.read += length as u64;
        (self.on_read)(self.read, self.size);
        Ok(length)
    }
}

/// Takes rows in, whatever they come from.
pub(super) struct Intake<'c> {
    pub chosen: &'c Chosen,
    staging: Staging,
    choices: HashMap<String, Choice>,
    tables: BTreeMap<Kind, String>,
}

impl<'c> Intake<'c> {
    pub fn new(chosen: &'c Chosen) -> Result<Self, ImportError> {
        Ok(Self { chosen, staging: Staging::new()?, choices: HashMap::new(), tables: BTreeMap::new() })
    }

    /// There is such a table, with these columns. Without rows it is there all the same.
    pub fn table(&mut self, kind: Kind, table: &str, columns: &[String]) -> Result<(), ImportError> {
        if !self.choices.contains_key(table) {
            self.choices.insert(table.to_owned(), Choice::of(kind, table, columns, self.chosen)?);
            self.tables.entry(kind).or_insert_with(|| table.to_owned());
        }
        Ok(())
    }

    /// Where in a table's rows what is wanted is, once [`Self::table`] has been told of it.
    pub fn choice(&self, table: &str) -> Option<&Choice> {
        self.choices.get(table)
    }

    /// Takes one row in.
    pub fn row(&mut self, kind: Kind, table: &str, mut row: Map<String, Value>) -> Result<(), ImportError> {
        if !self.choices.contains_key(table) {
            let columns: Vec<String> = row.keys().cloned().collect();
            self.table(kind, table, &columns)?;
        }
        let Some(choice) = self.choices.get(table) else { return Ok(()) };
        let row = choice.take(&mut row);
        match kind {
            Kind::User => self.name(kind, &row, &user_name(&row)),
            Kind::Property => self.name(kind, &row, &text(&row, "title").unwrap_or_default()),
            Kind::Conversation | Kind::Message | Kind::Notification => {
                let id = whole(&row, "id").ok().flatten().filter(|id| *id > 0);
                let Some(id) = id else {
                    let found = text(&row, "id").unwrap_or_default();
                    let told = format!("table {table} has a row with `{}` as its id", crate::model::cut(&found, 40));
                    return Err(ImportError::source(told + ": ids are kept, and have to be whole numbers from 1"));
                };
                let owner = text(&row, "user").unwrap_or_default();
                if !self.staging.put(kind.as_number(), id, &owner, &Value::Object(row).to_string())? {
                    return Err(ImportError::source(format!("table {table} has two rows with the id {id}")));
                }
                Ok(())
            }
        }
    }

    fn name(&self, kind: Kind, row: &Map<String, Value>, name: &str) -> Result<(), ImportError> {
        if let Some(id) = text(row, "id").filter(|_| !name.is_empty()) {
            self.staging.put_name(kind.as_number(), &id, name)?;
        }
        Ok(())
    }

    fn finish(self, source: &str, fingerprint: String) -> Result<Staged, ImportError> {
        if let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.is_required() && !self.tables.contains_key(kind)) {
            let told = format!("{source} has no table {}", self.chosen.tables_of(kind).join(", nor "));
            let hint = format!("dump it too, or say what it is called with --map {}=TABLE", kind.as_str());
            return Err(ImportError::source(format!("{told}; hint: {hint}")));
        }
        let ignored = self.choices.into_iter().filter(|(_, choice)| !choice.ignored.is_empty());
        let ignored = ignored.map(|(table, choice)| (table, choice.ignored)).collect();
        Ok(Staged { staging: self.staging, tables: self.tables, ignored, fingerprint })
    }
}

/// As clients of the replaced system saw them: by user name.
fn user_name(row: &Map<String, Value>) -> String {
    let part = |name| text(row, name).unwrap_or_default().trim().to_owned();
    let username = part("username");
    if username.is_empty() { format!("{} {}", part("first_name"), part("last_name")).trim().to_owned() } else { username }
}
