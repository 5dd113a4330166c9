//! The suppression list as a CSV file: what one daemon writes another reads, and what other providers write with little change.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    ops::ControlFlow,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde_json::json;

use super::{
    super::{
        failure::{Exit, Failure},
        output::{self, count},
        progress::Progress,
        settings::GlobalArgs,
    },
    Done, EntryView, ExportArgs, ImportArgs, NewEntry, PAGE, Pages, put,
};
use crate::{
    cli::client::Client,
    model::{ListName, Problem, SuppressionKey, SuppressionReason, Timestamp, channel_of_address, cut, nearest_hint},
};

/// The columns, in the order they are written in.
const COLUMNS: [&str; 5] = ["channel", "address", "list", "reason", "expires_at"];
/// Largest file read, in bytes.
const FILE_LIMIT: u64 = 1 << 30;
/// Bad lines that are told by name; whoever wrote the file has enough to do.
const TOLD_LIMIT: usize = 100;

/// A file read: the entries in force, and what is wrong with the rest.
#[derive(Debug, Default)]
struct Contents {
    entries: Vec<NewEntry>,
    /// Lines that are over already.
    over: u64,
    problems: Vec<Problem>,
}

pub(super) async fn import(args: &ImportArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let text = read(&args.file)?;
    let mut contents = from_csv(&text, Timestamp::now())
        .map_err(|problems| Failure::new(Exit::Failed, "that is not a suppression list", "").with_problems(problems))?;
    let bad = contents.problems.len() as u64;
    if bad > 0 {
        let message = format!("{} bad, of {}", count(bad, "line"), contents.entries.len() as u64 + contents.over + bad);
        let more = if contents.problems.len() > TOLD_LIMIT { "these are the first; " } else { "" };
        contents.problems.truncate(TOLD_LIMIT);
        if !args.skip_bad {
            let hint = format!("{more}nothing was imported; mend them, or leave them out with --skip-bad");
            return Err(Failure::new(Exit::Failed, message, hint).with_problems(contents.problems));
        }
        output::note(&format!("note: {message}; {more}left out"));
        contents.problems.iter().for_each(|problem| output::note(&output::safe(&format!("  {problem}"))));
    }
    let client = args.server.connect(global)?;
    let progress = Progress::of(contents.entries.len() as u64, "importing");
    let (mut done, mut imported) = (Done::default(), 0);
    for entries in contents.entries.chunks(PAGE) {
        let so_far = |failure: Failure| {
            failure
                .with_more_hint(&format!("{} imported before that; import the file again, a repeat is harmless", count(imported, "entry")))
        };
        done.add(put(&client, entries).await.map_err(so_far)?);
        imported += entries.len() as u64;
        progress.at(imported);
    }
    drop(progress);
    if args.json {
        return output::print_json_line(
            &json!({ "added": done.added, "changed": done.changed, "kept": done.kept, "over": contents.over, "bad": bad }),
        );
    }
    let over = if contents.over > 0 { format!(", {} over already and left out", contents.over) } else { String::new() };
    output::print(&format!("{}{over}", done.told()))
}

pub(super) async fn export(args: &ExportArgs, client: &Client) -> Result<(), Failure> {
    let mut file = match &args.file {
        None => None,
        Some(path) => Some((path, Draft::beside(path).map_err(|error| unwritable(path, &error))?)),
    };
    let mut pages = Pages::new(client, &args.filter, None);
    let mut written = 0;
    let mut rows = to_csv(None)?;
    while let Some(page) = pages.next(PAGE).await? {
        written += page.len() as u64;
        rows.extend(to_csv(Some(&page))?);
        match &mut file {
            Some((path, draft)) => draft.file.write_all(&rows).map_err(|error| unwritable(path, &error))?,
            None => {
                if output::print_bytes(&rows)? == ControlFlow::Break(()) {
                    return Ok(());
                }
            }
        }
        rows.clear();
    }
    if let Some((path, draft)) = file {
        draft.publish().map_err(|error| unwritable(path, &error))?;
        output::note(&format!("{} written to {}", count(written, "entry"), path.display()));
    }
    Ok(())
}

/// A file that gets its name once all of it is written: what has the name is whole, and what was there before stays until then. Others
/// may not read it.
struct Draft {
    file: File,
    /// Where it is written and what it becomes; absent when that is no file, a pipe for one.
    paths: Option<(PathBuf, PathBuf)>,
}

impl Draft {
    fn beside(path: &Path) -> io::Result<Self> {
        if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
            return Ok(Self { file: OpenOptions::new().write(true).open(path)?, paths: None });
        }
        // The file a link leads to is meant, not the link.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_string_lossy().into_owned();
        let draft = path.with_file_name(format!(".{name}.{}", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        Ok(Self { file, paths: Some((draft, path)) })
    }

    fn publish(mut self) -> io::Result<()> {
        let Some((draft, path)) = &self.paths else { return Ok(()) };
        self.file.sync_all()?;
        fs::rename(draft, path)?;
        self.paths = None;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some((draft, _)) = &self.paths {
            // Nothing more can be done about one that stays.
            let _ = fs::remove_file(draft);
        }
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("{} cannot be written: {error}", path.display()), "check the folder, and the disk")
}

/// The heading, or the lines of these entries.
fn to_csv(entries: Option<&[EntryView]>) -> Result<Vec<u8>, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Failed, format!("an entry cannot be written as CSV: {error}"), "");
    let mut writer = csv::Writer::from_writer(Vec::new());
    match entries {
        None => writer.write_record(COLUMNS).map_err(|error| failed(&error))?,
        Some(entries) => {
            for entry in entries {
                let list = entry.list.as_deref().unwrap_or_default();
                let expires_at = entry.expires_at.map(|moment| moment.to_string()).unwrap_or_default();
                let cells = [&entry.channel, &entry.address, list, &entry.reason, &expires_at];
                writer.write_record(cells).map_err(|error| failed(&error))?;
            }
        }
    }
    writer.into_inner().map_err(|error| failed(&error))
}

fn read(path: &Path) -> Result<String, Failure> {
    let unreadable = |error: io::Error| Failure::unreadable(path, &error);
    let read = if path == Path::new("-") {
        read_whole(io::stdin().lock(), FILE_LIMIT)
    } else {
        File::open(path).and_then(|file| read_whole(file, FILE_LIMIT))
    };
    read.map_err(unreadable)?.ok_or_else(|| Failure::new(Exit::Failed, format!("{} is larger than 1 GiB", path.display()), "split it"))
}

/// All there is to read; `None` when it is more than `limit` bytes. The first part of a list is not the list.
fn read_whole(from: impl io::Read, limit: u64) -> io::Result<Option<String>> {
    let mut text = Vec::new();
    from.take(limit + 1).read_to_end(&mut text)?;
    if text.len() as u64 > limit {
        return Ok(None);
    }
    String::from_utf8(text).map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Reads lines, good and bad; an error when the heading is wrong and no line means anything.
fn from_csv(text: &str, now: Timestamp) -> Result<Contents, Vec<Problem>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let columns = reader.headers().map_err(|error| vec![csv_problem(&error)])?.clone();
    check_columns(&columns)?;
    let mut contents = Contents::default();
    for record in reader.records() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                contents.problems.push(csv_problem(&error));
                continue;
            }
        };
        let line = record.position().map_or(0, csv::Position::line);
        match entry(&columns, &record) {
            Ok(entry) if entry.expires_at.is_some_and(|until| until <= now) => contents.over += 1,
            Ok(entry) => contents.entries.push(entry),
            Err((column, reason)) => {
                let (problem, hint) = reason.split_once("; hint: ").unwrap_or((&reason, ""));
                contents.problems.push(Problem::new(format!("line {line}, {column}"), problem, hint));
            }
        }
    }
    Ok(contents)
}

fn check_columns(columns: &csv::StringRecord) -> Result<(), Vec<Problem>> {
    let unknown = columns.iter().filter(|column| !COLUMNS.contains(column));
    let mut problems: Vec<Problem> = unknown
        .map(|column| Problem::new("line 1", format!("unknown column `{}`", cut(column, 80)), nearest_hint(column, &COLUMNS)))
        .collect();
    if !columns.iter().any(|column| column == "address") {
        let hint = format!("begin with a line that names the columns, such as {}", COLUMNS.join(","));
        problems.push(Problem::new("line 1", "no column `address`", hint));
    }
    if columns.iter().collect::<BTreeSet<_>>().len() < columns.len() {
        problems.push(Problem::new("line 1", "two columns of the same name", "remove one of them"));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn given<T: FromStr<Err = String>>(name: &'static str, cell: Option<&str>) -> Result<Option<T>, (&'static str, String)> {
    cell.map(str::parse).transpose().map_err(|told| (name, told))
}

/// An empty cell is one not given.
fn entry(columns: &csv::StringRecord, record: &csv::StringRecord) -> Result<NewEntry, (&'static str, String)> {
    let cell =
        |name: &str| columns.iter().zip(record.iter()).find(|(column, cell)| *column == name && !cell.is_empty()).map(|(_, cell)| cell);
    let address =
        cell("address").ok_or_else(|| ("address", "is missing; hint: an email address, a phone number or a push token".to_owned()))?;
    let channel = given("channel", cell("channel"))?.unwrap_or_else(|| channel_of_address(address));
    let list: Option<ListName> = given("list", cell("list"))?;
    let reason = given("reason", cell("reason"))?.unwrap_or(SuppressionReason::Manual);
    let expires_at = given("expires_at", cell("expires_at"))?;
    let key = SuppressionKey::new(channel, address, list).map_err(|told| ("address", told))?;
    Ok(NewEntry { key, reason, expires_at })
}

fn csv_problem(error: &csv::Error) -> Problem {
    let line = error.position().map_or_else(|| "somewhere".to_owned(), |position| format!("line {}", position.line()));
    let problem = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => format!("{len} cells where the heading has {expected_len}"),
        _ => error.to_string(),
    };
    Problem::new(line, problem, "put cells that hold a comma in double quotes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_768_473_000_000);

    #[track_caller]
    fn problems(text: &str) -> Vec<String> {
        let problems = match from_csv(text, NOW) {
            Ok(contents) => contents.problems,
            Err(problems) => problems,
        };
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_written_reads_back() {
        let view = |list: Option<&str>, expires_at: Option<&str>| EntryView {
            channel: "email".to_owned(),
            address: "a,b\"@example.com".replace([',', '"'], ""),
            list: list.map(str::to_owned),
            reason: "bounced".to_owned(),
            expires_at: expires_at.map(|moment| moment.parse().unwrap()),
            ..EntryView::default()
        };
        let entries = [view(None, None), view(Some("messages"), Some("2036-01-15T10:30:00.250Z"))];
        let text = [to_csv(None).unwrap(), to_csv(Some(&entries)).unwrap()].concat();
        let contents = from_csv(std::str::from_utf8(&text).unwrap(), NOW).unwrap();
        assert!(contents.problems.is_empty() && contents.entries.len() == 2);
        for (entry, view) in contents.entries.iter().zip(entries) {
            assert_eq!(entry.key.list.as_ref().map(ListName::as_str), view.list.as_deref());
            assert_eq!((entry.key.address.as_str(), entry.expires_at), (view.address.as_str(), view.expires_at));
            assert_eq!(entry.reason, SuppressionReason::Bounced);
        }
    }

    #[test]
    fn part_of_a_list_is_none() {
        assert_eq!(read_whole(&b"address"[..], 7).unwrap().as_deref(), Some("address"));
        assert_eq!(read_whole(&b"address\n"[..], 7).unwrap(), None);
        assert!(read_whole(&b"\xff"[..], 7).is_err());
    }

    #[test]
    fn a_file_has_its_name_when_it_is_whole() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.csv");
        fs::write(&path, "before").unwrap();
        let mut draft = Draft::beside(&path).unwrap();
        draft.file.write_all(b"half").unwrap();
        drop(draft);
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        let link = folder.path().join("link.csv");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let mut draft = Draft::beside(&link).unwrap();
        draft.file.write_all(b"whole").unwrap();
        draft.publish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(Draft::beside(folder.path()).is_err());
        assert!(Draft::beside("/dev/null".as_ref()).unwrap().paths.is_none());
    }

    #[test]
    fn little_has_to_be_given() {
        let contents = from_csv("\u{feff}address, expires_at\r\nAsha@Example.com,\r\n+255712345678,2020-01-01T00:00:00Z\r\n", NOW).unwrap();
        assert_eq!((contents.entries.len(), contents.over), (1, 1));
        let expected = SuppressionKey::new(crate::model::Channel::Email, "asha@example.com", None).unwrap();
        assert_eq!(contents.entries[0], NewEntry { key: expected, reason: SuppressionReason::Manual, expires_at: None });
    }

    #[test]
    fn every_bad_line_is_told() {
        assert_eq!(
            problems("adress,why\nasha@example.com,\n"),
            [
                "line 1: unknown column `adress` (hint: did you mean `address`?)",
                "line 1: unknown column `why` (hint: known here: channel, address, list, reason, expires_at)",
                "line 1: no column `address` (hint: begin with a line that names the columns, such as channel,address,list,reason,expires_at)",
            ]
        );
        assert_eq!(
            problems(
                "channel,address,list,reason\nemail,nobody,,\nfax,a@b.example,,\n,,,\n,a@b.example,Big List,\n,a@b.example,,tired\nlive,42,,\nsms\n"
            ),
            [
                "line 2, address: not an email address: it has no @ (hint: write one plain address like asha@example.com)",
                "line 3, channel: no such channel (hint: one of email, sms, push, live)",
                "line 4, address: is missing (hint: an email address, a phone number or a push token)",
                "line 5, list: not the name of a list (hint: 1 to 40 lower-case letters, digits, _ and -, such as messages)",
                "line 6, reason: no such reason (hint: one of bounced, unregistered, unsubscribed, opted_out, complained, manual)",
                "line 7, address: live has no addresses: whoever has an inbox has a user id (hint: email, sms or push)",
                "line 8: 1 cells where the heading has 4 (hint: put cells that hold a comma in double quotes)",
            ]
        );
    }
}
