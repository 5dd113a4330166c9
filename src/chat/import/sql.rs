//! What `pg_dump` writes as plain SQL: COPY sections, and INSERT statements for those who asked for them. Statements are not understood
//! beyond that, only told apart; one line or one statement is held in memory at a time.

use std::{collections::HashMap, io::BufRead};

use serde_json::{Map, Value};

use super::{ImportError, Kind, source::Intake};

/// Bytes of one statement or one row: PostgreSQL's own limit for a field is a gigabyte, and nobody chats so much.
const LENGTH_LIMIT: usize = 64 << 20;

/// Reads a dump to its end.
pub(super) fn read(mut reader: impl BufRead, intake: &mut Intake<'_>) -> Result<(), ImportError> {
    let mut lines = Lines { reader: &mut reader, number: 0 };
    let (mut statement, mut state) = (String::new(), State::Plain);
    // Of tables whose INSERT statements do not name them.
    let mut created: HashMap<String, Vec<String>> = HashMap::new();
    while let Some(line) = lines.next()? {
        // psql's own commands stand between statements.
        if statement.trim().is_empty() && line.starts_with('\\') {
            continue;
        }
        let mut rest = line.as_str();
        while let Some(end) = scan(rest, &mut state) {
            statement.push_str(&rest[..end]);
            rest = &rest[end + 1..];
            let done = std::mem::take(&mut statement);
            let at = lines.number;
            take(done.trim(), &mut lines, intake, &mut created).map_err(|error| at_line(error, at))?;
        }
        if !matches!(state, State::Plain) || !rest.trim().is_empty() {
            statement.push_str(rest);
            statement.push('\n');
        }
        if statement.len() > LENGTH_LIMIT {
            return Err(ImportError::source(format!("line {}: a statement without an end", lines.number)));
        }
    }
    Ok(())
}

fn at_line(error: ImportError, number: u64) -> ImportError {
    match error {
        ImportError::Source(told) if !told.starts_with("line ") => ImportError::Source(format!("line {number}: {told}")),
        other => other,
    }
}

struct Lines<'r, R> {
    reader: &'r mut R,
    number: u64,
}

impl<R: BufRead> Lines<'_, R> {
    fn next(&mut self) -> Result<Option<String>, ImportError> {
        let mut line = Vec::new();
        let length = self.reader.read_until(b'\n', &mut line).map_err(|error| ImportError::source(format!("cannot be read: {error}")))?;
        self.number += 1;
        if length == 0 {
            return Ok(None);
        }
        if length > LENGTH_LIMIT {
            return Err(ImportError::source(format!("line {}: too long", self.number)));
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        let told = |_| ImportError::source(format!("line {}: not UTF-8; hint: dump with `pg_dump --encoding=UTF8`", self.number));
        String::from_utf8(line).map(Some).map_err(told)
    }
}

/// Where in a statement the reader is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Plain,
    /// In `'…'`; with backslashes that escape or without.
    Text(bool),
    Name,
    /// In `$tag$…$tag$`.
    Dollar(String),
    Comment,
}

/// Goes through a line; the place of the `;` that ends a statement in it, if there is one.
fn scan(line: &str, state: &mut State) -> Option<usize> {
    let bytes = line.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let (byte, rest) = (bytes[at], &line.as_bytes()[at..]);
        let mut step = 1;
        match state {
            State::Plain => match byte {
                b';' => return Some(at),
                b'\'' => *state = State::Text(at > 0 && matches!(bytes[at - 1], b'E' | b'e')),
                b'"' => *state = State::Name,
                b'-' if rest.starts_with(b"--") => return None,
                b'/' if rest.starts_with(b"/*") => *state = State::Comment,
                b'$' => {
                    let tag = line[at + 1..].split('$').next().unwrap_or_default();
                    let is_tag = tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && line[at + 1..].contains('$');
                    if is_tag {
                        step = tag.len() + 2;
                        *state = State::Dollar(format!("${tag}$"));
                    }
                }
                _ => {}
            },
            State::Text(escapes) => match byte {
                b'\\' if *escapes => step = 2,
                // Two of them are one in the text: out, and in again.
                b'\'' if rest.starts_with(b"''") => step = 2,
                b'\'' => *state = State::Plain,
                _ => {}
            },
            State::Name if byte == b'"' => *state = State::Plain,
            State::Dollar(tag) if rest.starts_with(tag.as_bytes()) => {
                step = tag.len();
                *state = State::Plain;
            }
            State::Comment if rest.starts_with(b"*/") => {
                step = 2;
                *state = State::Plain;
            }
            State::Name | State::Dollar(_) | State::Comment => {}
        }
        at += step;
    }
    None
}

fn take<R: BufRead>(
    statement: &str,
    lines: &mut Lines<'_, R>,
    intake: &mut Intake<'_>,
    created: &mut HashMap<String, Vec<String>>,
) -> Result<(), ImportError> {
    // Comments stand before what they are about.
    let statement = statement.lines().skip_while(|line| line.trim().is_empty() || line.trim_start().starts_with("--"));
    let statement = statement.collect::<Vec<_>>().join("\n");
    if let Some(rest) = statement.strip_prefix("COPY ") {
        return copy(rest, lines, intake);
    }
    if let Some(rest) = statement.strip_prefix("INSERT INTO ") {
        return insert(rest, intake, created);
    }
    if let Some(rest) = statement.strip_prefix("CREATE TABLE ") {
        let (table, columns) = Words::new(rest).table_and_names();
        if let Some(kind) = intake.chosen.kind_of(&table) {
            intake.table(kind, &table, &columns)?;
            created.insert(table, columns);
        }
    }
    Ok(())
}

/// `public.t (a, b) FROM stdin`, and the rows that follow.
fn copy<R: BufRead>(head: &str, lines: &mut Lines<'_, R>, intake: &mut Intake<'_>) -> Result<(), ImportError> {
    if !head.trim_end().ends_with("FROM stdin") {
        return Ok(());
    }
    let (table, columns) = Words::new(head).table_and_names();
    let kind = intake.chosen.kind_of(&table);
    if let Some(kind) = kind {
        intake.table(kind, &table, &columns)?;
    }
    loop {
        let Some(line) = lines.next()? else {
            return Err(ImportError::source(format!("the rows of {table} have no end: the dump is cut off")));
        };
        if line == "\\." {
            return Ok(());
        }
        if let Some(kind) = kind {
            let row = copied(&line, &columns).ok_or_else(|| {
                ImportError::source(format!("line {}: a row of {table} that has not {} columns", lines.number, columns.len()))
            })?;
            intake.row(kind, &table, row).map_err(|error| at_line(error, lines.number))?;
        }
    }
}

/// A line of COPY's text format.
pub(super) fn copied<S: AsRef<str>>(line: &str, columns: &[S]) -> Option<Map<String, Value>> {
    let values: Vec<&str> = line.split('\t').collect();
    let value = |text: &str| if text == "\\N" { Value::Null } else { Value::String(unescaped(text)) };
    (values.len() == columns.len())
        .then(|| columns.iter().zip(values).map(|(column, text)| (column.as_ref().to_owned(), value(text))).collect())
}

/// Backslashes as COPY's output and `E'…'` have them.
fn unescaped(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text.chars());
    while let Some(next) = rest.next() {
        if next != '\\' {
            out.push(next);
            continue;
        }
        match rest.next() {
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('v') => out.push('\u{b}'),
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

/// `public.t (a, b) VALUES (1, 'x'), (2, 'y')`.
fn insert(rest: &str, intake: &mut Intake<'_>, created: &HashMap<String, Vec<String>>) -> Result<(), ImportError> {
    let mut words = Words::new(rest);
    let table = words.name();
    let Some(kind) = intake.chosen.kind_of(&table) else { return Ok(()) };
    let named = words.names();
    let columns = if named.is_empty() { created.get(&table) } else { Some(&named) };
    let Some(columns) = columns else {
        let told = format!("rows of {table} do not name their columns");
        return Err(ImportError::source(told + "; hint: dump with `pg_dump --column-inserts`, or without --data-only"));
    };
    intake.table(kind, &table, columns)?;
    let not_values = || ImportError::source(format!("an INSERT into {table} that does not read"));
    words.skip_word("OVERRIDING SYSTEM VALUE");
    if !words.skip_word("VALUES") {
        return Err(not_values());
    }
    loop {
        let values = words.values().ok_or_else(not_values)?;
        if values.len() != columns.len() {
            return Err(ImportError::source(format!("a row of {table} that has not {} columns", columns.len())));
        }
        take_row(intake, kind, &table, columns, values)?;
        if !words.skip_word(",") {
            return Ok(());
        }
    }
}

fn take_row(intake: &mut Intake<'_>, kind: Kind, table: &str, columns: &[String], values: Vec<Value>) -> Result<(), ImportError> {
    intake.row(kind, table, columns.iter().cloned().zip(values).collect())
}

/// The little of SQL's words that is needed.
struct Words<'s> {
    text: &'s str,
}

impl<'s> Words<'s> {
    fn new(text: &'s str) -> Self {
        Self { text }
    }

    fn trim(&mut self) {
        self.text = self.text.trim_start();
    }

    /// Goes past `word`, if that is what comes.
    fn skip_word(&mut self, word: &str) -> bool {
        self.trim();
        let found = self.text.strip_prefix(word);
        self.text = found.unwrap_or(self.text);
        found.is_some()
    }

    /// A name, perhaps quoted, perhaps with its schema; without quotes.
    fn name(&mut self) -> String {
        self.trim();
        let (mut name, mut is_quoted) = (String::new(), false);
        let mut end = self.text.len();
        for (at, next) in self.text.char_indices() {
            match next {
                '"' => is_quoted = !is_quoted,
                next if !is_quoted && (next.is_whitespace() || matches!(next, '(' | ')' | ',' | ';')) => {
                    end = at;
                    break;
                }
                next => name.push(next),
            }
        }
        self.text = &self.text[end..];
        name
    }

    /// `(a, "b", c)`, or nothing when something else comes. Of a table's definition, the names of its columns.
    fn names(&mut self) -> Vec<String> {
        let mut names = Vec::new();
        if !self.skip_word("(") {
            return names;
        }
        loop {
            self.trim();
            let is_quoted = self.text.starts_with('"');
            let name = self.name();
            let is_rule = !is_quoted && matches!(name.as_str(), "CONSTRAINT" | "PRIMARY" | "UNIQUE" | "CHECK" | "FOREIGN" | "EXCLUDE");
            if !name.is_empty() && !is_rule {
                names.push(name);
            }
            if !self.skip_to_next() {
                return names;
            }
        }
    }

    /// To what follows the next `,` on this level; false at the `)` that ends it.
    fn skip_to_next(&mut self) -> bool {
        let (mut depth, mut quote) = (0_usize, None);
        for (at, next) in self.text.char_indices() {
            match (quote, next) {
                (Some(open), next) if next == open => quote = None,
                (None, '\'' | '"') => quote = Some(next),
                (None, '(') => depth += 1,
                (None, ')' | ',') if depth == 0 => {
                    self.text = &self.text[at + 1..];
                    return next == ',';
                }
                (None, ')') => depth -= 1,
                (Some(_) | None, _) => {}
            }
        }
        self.text = "";
        false
    }

    fn table_and_names(&mut self) -> (String, Vec<String>) {
        self.skip_word("IF NOT EXISTS");
        let table = self.name();
        (table, self.names())
    }

    /// `(1, 'it''s', NULL, '{}'::jsonb)`.
    fn values(&mut self) -> Option<Vec<Value>> {
        let mut values = Vec::new();
        if !self.skip_word("(") {
            return None;
        }
        loop {
            self.trim();
            let escapes = self.text.strip_prefix(['E', 'e']).filter(|rest| rest.starts_with('\''));
            self.text = escapes.unwrap_or(self.text);
            values.push(match self.text.strip_prefix('\'') {
                Some(rest) => self.quoted(rest, escapes.is_some())?,
                None => match self.name().as_str() {
                    "" => return None,
                    word if word.eq_ignore_ascii_case("null") => Value::Null,
                    word => Value::String(word.split("::").next().unwrap_or(word).to_owned()),
                },
            });
            // A cast may stand between.
            if !self.skip_to_next() {
                return Some(values);
            }
        }
    }

    /// The text after its opening quote.
    fn quoted(&mut self, rest: &'s str, escapes: bool) -> Option<Value> {
        let (bytes, mut at) = (rest.as_bytes(), 0);
        loop {
            match bytes.get(at)? {
                b'\\' if escapes => at += 2,
                b'\'' if bytes.get(at + 1) == Some(&b'\'') => at += 2,
                b'\'' => break,
                _ => at += 1,
            }
        }
        self.text = &rest[at + 1..];
        let text = rest[..at].replace("''", "'");
        Some(Value::String(if escapes { unescaped(&text) } else { text }))
    }
}

#[cfg(test)]
mod tests;
