//! Words on stdout and stderr. A reader who goes away (`tarishi schema job | head -1`) is no error, and colours are for terminals.

use std::{
    io::{self, ErrorKind, IsTerminal as _, Write as _},
    ops::ControlFlow,
    time::Duration,
};

use anstyle::{AnsiColor, Style};
use comfy_table::{Cell, CellAlignment, Table};
use serde::Serialize;

use super::failure::{Exit, Failure};

/// Writes a line, or several, to stdout.
///
/// # Errors
/// stdout cannot take it, for another reason than that nobody reads it any more.
pub fn print(text: &str) -> Result<(), Failure> {
    print_to_reader(text).map(drop)
}

/// The same, for those who would go on for ever: breaks when nobody reads any more.
pub fn print_to_reader(text: &str) -> Result<ControlFlow<()>, Failure> {
    print_bytes(format!("{text}\n").as_bytes())
}

/// Writes to stdout what is there, and no line end after it.
pub fn print_bytes(bytes: &[u8]) -> Result<ControlFlow<()>, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => {
            Err(Failure::new(Exit::Failed, format!("the output cannot be written: {error}"), "check the disk that stdout goes to"))
        }
    }
}

/// As JSON for people and machines.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print(&serde_json::to_string_pretty(value).expect("what we print is JSON"))
}

/// As one line of JSON Lines.
pub fn print_json_line(value: &impl Serialize) -> Result<(), Failure> {
    print(&serde_json::to_string(value).expect("what we print is JSON"))
}

/// A line on stderr, for the person at the keyboard. When stderr is gone there is nobody to tell.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A question on stderr, with the answer to follow on the same line.
pub fn ask(question: &str) {
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "{question}").and_then(|()| stderr.flush());
}

/// Without control characters but line ends and tabs: what others wrote must not move the cursor.
pub fn safe(text: &str) -> String {
    text.chars().filter(|character| !character.is_control() || matches!(character, '\n' | '\t')).collect()
}

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub struct Paint(bool);

impl Paint {
    #[cfg(test)]
    pub const OFF: Self = Self(false);

    pub fn stdout() -> Self {
        Self(io::stdout().is_terminal() && wanted())
    }

    pub fn stderr() -> Self {
        Self(io::stderr().is_terminal() && wanted())
    }

    pub const fn is_on(self) -> bool {
        self.0
    }

    pub fn bold(self, text: &str) -> String {
        self.with(Style::new().bold(), text)
    }

    pub fn dim(self, text: &str) -> String {
        self.with(Style::new().dimmed(), text)
    }

    pub fn red(self, text: &str) -> String {
        self.with(AnsiColor::Red.on_default().bold(), text)
    }

    pub fn green(self, text: &str) -> String {
        self.with(AnsiColor::Green.on_default().bold(), text)
    }

    pub fn yellow(self, text: &str) -> String {
        self.with(AnsiColor::Yellow.on_default().bold(), text)
    }

    pub fn cyan(self, text: &str) -> String {
        self.with(AnsiColor::Cyan.on_default(), text)
    }

    fn with(self, style: Style, text: &str) -> String {
        if self.0 { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

/// Not with `NO_COLOR` (no-color.org), and not on terminals that know none.
fn wanted() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
}

/// A plain table. Columns whose heading starts with `#` hold numbers and are set to the right.
pub fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(headings.iter().map(|heading| heading.trim_start_matches('#')));
    for row in rows {
        table.add_row(row.iter().map(|text| Cell::new(safe(text))));
    }
    for (column, heading) in table.column_iter_mut().zip(headings) {
        if heading.starts_with('#') {
            column.set_cell_alignment(CellAlignment::Right);
        }
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// `2h 5m`: the two largest units, for people.
pub fn rough(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let whole = match seconds {
        0..60 => seconds,
        60..86_400 => seconds - seconds % if seconds < 3600 { 1 } else { 60 },
        _ => seconds - seconds % 3600,
    };
    humantime::format_duration(Duration::from_secs(whole)).to_string()
}

/// `1 job`, `2 jobs`, `3 deliveries`.
pub fn count(number: u64, one: &str) -> String {
    match (number, one.strip_suffix('y')) {
        (1, _) => format!("1 {one}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        _ => format!("{number} {one}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_read_as_words() {
        assert_eq!(count(1, "delivery"), "1 delivery");
        assert_eq!(count(0, "delivery"), "0 deliveries");
        assert_eq!(count(2, "job"), "2 jobs");
    }

    #[test]
    fn times_are_rough() {
        for (seconds, expected) in [(0, "0s"), (59, "59s"), (61, "1m 1s"), (3661, "1h 1m"), (90_061, "1day 1h")] {
            assert_eq!(rough(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn tables_line_up() {
        let rows = [vec!["email".to_owned(), "12".to_owned()], vec!["sms".to_owned(), "3".to_owned()]];
        assert_eq!(table(&["channel", "#queued"], rows), "channel  queued\nemail        12\nsms           3");
    }

    #[test]
    fn colours_only_when_on() {
        assert_eq!(Paint::OFF.red("x"), "x");
        assert_eq!(Paint(true).bold("x"), "\u{1b}[1mx\u{1b}[0m");
    }
}
