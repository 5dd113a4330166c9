//! Recipients as the command line gives them: `--to 42,email=…`, or a CSV or JSON Lines file.

use std::{collections::BTreeSet, fs, path::Path, str::FromStr};

use super::failure::{Exit, Failure};
use crate::model::{Problem, Recipient, UserId, cut, decode_all, nearest_hint};

/// What may be given of a recipient, besides the id; also the columns of a CSV file.
const MEMBERS: [&str; 5] = ["email", "phone", "push", "locale", "timezone"];
/// The column that names the user, and another name for `push`, as jobs have it.
const USER_COLUMN: &str = "user_id";
const PUSH_TOKENS_COLUMN: &str = "push_tokens";
/// Largest recipients file read, in bytes.
const FILE_LIMIT: u64 = 1 << 30;
/// Problems of one file that are told; whoever wrote it has enough to do.
const TOLD_LIMIT: usize = 20;

/// Reads `USER[,email=…,phone=…,push=…,locale=…,timezone=…]`.
pub fn parse(text: &str) -> Result<Recipient, String> {
    let mut parts = text.split(',');
    let user_id = parts.next().unwrap_or_default().parse::<UserId>().map_err(|reason| with_hint(&reason))?;
    let mut recipient = nobody_else(user_id);
    for part in parts {
        let (name, value) = part.split_once('=').ok_or_else(|| format!("`{part}` has no `=`; write it like email=asha@example.com"))?;
        set(&mut recipient, name, value).map_err(|reason| format!("{name}: {}", with_hint(&reason)))?;
    }
    Ok(recipient)
}

fn nobody_else(user_id: UserId) -> Recipient {
    Recipient { user_id, email: None, phone: None, push_tokens: Vec::new(), locale: None, timezone: None }
}

fn set(recipient: &mut Recipient, name: &str, value: &str) -> Result<(), String> {
    fn once<T: FromStr<Err = String>>(place: &mut Option<T>, value: &str) -> Result<(), String> {
        if place.replace(value.parse()?).is_some() { Err("given twice; hint: name another --to".to_owned()) } else { Ok(()) }
    }
    match name {
        "email" => once(&mut recipient.email, value),
        "phone" => once(&mut recipient.phone, value),
        "locale" => once(&mut recipient.locale, value),
        "timezone" => once(&mut recipient.timezone, value),
        "push" | PUSH_TOKENS_COLUMN => {
            recipient.push_tokens.push(value.parse()?);
            Ok(())
        }
        other => Err(format!("unknown; hint: {}", nearest_hint(other, &MEMBERS))),
    }
}

/// The model's reasons carry their hint after a `; hint: `; here they are one sentence.
fn with_hint(reason: &str) -> String {
    reason.replacen("; hint: ", "; ", 1)
}

/// Reads a file of recipients: CSV with a heading line, or one JSON object per line, by its name.
pub fn read(path: &Path) -> Result<Vec<Recipient>, Failure> {
    let unreadable = |error: std::io::Error| Failure::unreadable(path, &error);
    if fs::metadata(path).map_err(unreadable)?.len() > FILE_LIMIT {
        return Err(Failure::new(Exit::Failed, format!("{} is larger than 1 GiB", path.display()), "split it"));
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let is = |extension: &str| path.extension().is_some_and(|given| given.eq_ignore_ascii_case(extension));
    let read = if is("csv") {
        from_csv(&text)
    } else if is("jsonl") || is("ndjson") {
        from_json_lines(&text)
    } else {
        let message = format!("{} is neither .csv nor .jsonl", path.display());
        return Err(Failure::usage(message, "name it by what it holds: CSV with a heading line, or a JSON object per line"));
    };
    match read {
        Ok(recipients) if recipients.is_empty() => Err(Failure::new(Exit::Failed, format!("{} names nobody", path.display()), "")),
        Ok(recipients) => Ok(recipients),
        Err(mut problems) => {
            let message = format!("{} is not a list of recipients", path.display());
            let hint = if problems.len() > TOLD_LIMIT { "and more; these are the first" } else { "" };
            problems.truncate(TOLD_LIMIT);
            Err(Failure::new(Exit::Failed, message, hint).with_problems(problems))
        }
    }
}

fn from_csv(text: &str) -> Result<Vec<Recipient>, Vec<Problem>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let columns = reader.headers().map_err(|error| vec![csv_problem(&error)])?.clone();
    check_columns(&columns)?;
    let (mut recipients, mut problems) = (Vec::new(), Vec::new());
    for record in reader.records() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                problems.push(csv_problem(&error));
                continue;
            }
        };
        let line = record.position().map_or(0, csv::Position::line);
        match from_record(&columns, &record) {
            Ok(recipient) => recipients.push(recipient),
            Err((column, reason)) => {
                let (problem, hint) = reason.split_once("; hint: ").unwrap_or((&reason, ""));
                problems.push(Problem::new(format!("line {line}, {column}"), problem, hint));
            }
        }
    }
    if problems.is_empty() { Ok(recipients) } else { Err(problems) }
}

fn check_columns(columns: &csv::StringRecord) -> Result<(), Vec<Problem>> {
    let known: Vec<&str> = [USER_COLUMN, PUSH_TOKENS_COLUMN].into_iter().chain(MEMBERS).collect();
    let unknown = columns.iter().filter(|column| !known.contains(column));
    let mut problems: Vec<Problem> = unknown
        .map(|column| Problem::new("line 1", format!("unknown column `{}`", cut(column, 80)), nearest_hint(column, &known)))
        .collect();
    if !columns.iter().any(|column| column == USER_COLUMN) {
        problems.push(Problem::new(
            "line 1",
            "no column `user_id`",
            "begin with a line that names the columns, such as user_id,email,phone",
        ));
    }
    if columns.iter().collect::<BTreeSet<_>>().len() < columns.len() {
        problems.push(Problem::new("line 1", "two columns of the same name", "remove one of them"));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// An empty cell is one not given. Several push tokens in one cell are separated by spaces or `;`.
fn from_record<'a>(columns: &'a csv::StringRecord, record: &csv::StringRecord) -> Result<Recipient, (&'a str, String)> {
    let cells = || columns.iter().zip(record.iter());
    let user_id = cells().find(|(column, _)| *column == USER_COLUMN).map_or("", |(_, cell)| cell);
    let mut recipient = nobody_else(user_id.parse().map_err(|reason| (USER_COLUMN, reason))?);
    for (column, cell) in cells().filter(|(column, cell)| *column != USER_COLUMN && !cell.is_empty()) {
        let is_push = matches!(column, "push" | PUSH_TOKENS_COLUMN);
        for value in
            cell.split(|character: char| is_push && (character.is_whitespace() || character == ';')).filter(|value| !value.is_empty())
        {
            set(&mut recipient, column, value).map_err(|reason| (column, reason))?;
        }
    }
    Ok(recipient)
}

fn csv_problem(error: &csv::Error) -> Problem {
    let line = error.position().map_or_else(|| "somewhere".to_owned(), |position| format!("line {}", position.line()));
    let problem = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => format!("{len} cells where the heading has {expected_len}"),
        _ => error.to_string(),
    };
    Problem::new(line, problem, "put cells that hold a comma in double quotes")
}

fn from_json_lines(text: &str) -> Result<Vec<Recipient>, Vec<Problem>> {
    let (mut recipients, mut problems) = (Vec::new(), Vec::new());
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let root = format!("line {number}, $");
        match serde_json::from_str(line) {
            Ok(document) => match decode_all::<Recipient>(document, &root) {
                Ok(recipient) => recipients.push(recipient),
                Err(found) => problems.extend(found),
            },
            Err(error) => problems.push(Problem::new(root, format!("not JSON: {error}"), "one object per line")),
        }
    }
    if problems.is_empty() { Ok(recipients) } else { Err(problems) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<serde_json::Value, &str>) {
        let parsed = parse(text).map(|recipient| serde_json::to_value(recipient).unwrap());
        assert_eq!(parsed, expected.map_err(str::to_owned));
    }

    #[test]
    fn recipients_on_the_command_line() {
        check("42", Ok(json!({ "user_id": "42" })));
        check(
            "42,email=asha@example.com,phone=+255712345678,push=a,push=b,locale=sw,timezone=Africa/Dar_es_Salaam",
            Ok(json!({ "user_id": "42", "email": "asha@example.com", "phone": "+255712345678", "push_tokens": ["a", "b"],
                       "locale": "sw", "timezone": "Africa/Dar_es_Salaam" })),
        );
        check("42,email", Err("`email` has no `=`; write it like email=asha@example.com"));
        check("42,emial=x", Err("emial: unknown; did you mean `email`?"));
        check("42,email=nobody", Err("email: not an email address: it has no @; write one plain address like asha@example.com"));
        check("42,locale=sw,locale=en", Err("locale: given twice; name another --to"));
        check("", Err("not a user id; 1 to 255 bytes without control characters or outer spaces, such as \"42\""));
    }

    #[track_caller]
    fn check_file(read: Result<Vec<Recipient>, Vec<Problem>>, expected: Result<usize, &[&str]>) {
        let told = read.map(|recipients| recipients.len()).map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(told, expected.map_err(|lines| lines.iter().map(|line| (*line).to_owned()).collect()));
    }

    #[test]
    fn recipients_in_csv() {
        check_file(from_csv("\u{feff}user_id, email ,push\r\n42,asha@example.com,a b;c\r\n\"43\",,\r\n"), Ok(2));
        assert_eq!(from_csv("user_id,push\n42,a b;c\n").unwrap()[0].push_tokens.len(), 3);
        check_file(
            from_csv("usr_id,emial\n42,x\n"),
            Err(&[
                "line 1: unknown column `usr_id` (hint: did you mean `user_id`?)",
                "line 1: unknown column `emial` (hint: did you mean `email`?)",
                "line 1: no column `user_id` (hint: begin with a line that names the columns, such as user_id,email,phone)",
            ]),
        );
        check_file(
            from_csv("user_id,email\n,a@example.com\n43,nobody\n44\n"),
            Err(&[
                "line 2, user_id: not a user id (hint: 1 to 255 bytes without control characters or outer spaces, such as \"42\")",
                "line 3, email: not an email address: it has no @ (hint: write one plain address like asha@example.com)",
                "line 4: 1 cells where the heading has 2 (hint: put cells that hold a comma in double quotes)",
            ]),
        );
    }

    #[test]
    fn recipients_in_json_lines() {
        check_file(from_json_lines("{\"user_id\":42}\n\n{\"user_id\":\"43\",\"locale\":\"sw\"}\n"), Ok(2));
        check_file(
            from_json_lines("{\"user_id\":42,\"phone\":\"07\"}\nnobody\n"),
            Err(&[
                "line 1, $.phone: not an E.164 phone number (hint: write it like +255712345678)",
                "line 2, $: not JSON: expected ident at line 1 column 2 (hint: one object per line)",
            ]),
        );
    }
}
