//! `.env` files as python-dotenv and django-environ read them: `NAME=value` lines, `export` before them, quotes, comments.

use std::collections::BTreeMap;

use crate::model::Problem;

/// Bytes of one value; a longer one is the wrong file.
const VALUE_LIMIT: usize = 64 << 10;

/// Variables by name. Their values are never shown.
#[derive(Debug, Default)]
pub struct Variables {
    values: BTreeMap<String, Value>,
    /// Names that are there more than once, with the line that counts.
    pub repeated: BTreeMap<String, usize>,
}

/// What a variable holds. Shown to nobody.
#[derive(Default)]
struct Value(String);

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Variables {
    pub fn of_environment() -> Self {
        let text =
            |(name, value): (std::ffi::OsString, std::ffi::OsString)| Some((name.into_string().ok()?, Value(value.into_string().ok()?)));
        Self { values: std::env::vars_os().filter_map(text).collect(), repeated: BTreeMap::new() }
    }

    /// A value, unless it is missing or blank.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|value| value.0.trim()).filter(|value| !value.is_empty())
    }

    /// Whether it is there with nothing in it.
    pub fn is_blank(&self, name: &str) -> bool {
        self.values.contains_key(name) && self.get(name).is_none()
    }
}

/// Reads a file; of a variable that is there twice, the later one counts. Problems name lines, never what is on them.
pub fn read(bytes: &[u8]) -> Result<Variables, Vec<Problem>> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].split(|byte| *byte == b'\n').count();
        vec![Problem::new(format!("line {line}"), "not UTF-8", "save the file as UTF-8 (iconv -f LATIN1 -t UTF-8), and name a text file")]
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut variables, mut problems) = (Variables::default(), Vec::new());
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let place = format!("line {}", index + 1);
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let Some((name, rest)) = line.split_once('=') else {
            problems.push(Problem::new(place, "no `=`", "write NAME=value, or # before a remark"));
            continue;
        };
        let name = name.trim();
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            problems.push(Problem::new(place, "not a name before the `=`", "letters, digits and _"));
            continue;
        }
        let rest = rest.trim_start();
        let value = match rest.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let mut quoted = rest[1..].to_owned();
                loop {
                    if let Some(value) = unquoted(&quoted, quote) {
                        break Some(value);
                    }
                    let Some((_, next)) = lines.next() else { break None };
                    quoted.push('\n');
                    quoted.push_str(next);
                }
            }
            _ => Some(rest.split(" #").next().unwrap_or_default().trim_end().to_owned()),
        };
        match value {
            None => problems.push(Problem::new(place, format!("the quotes of `{name}` are never closed"), "close them")),
            Some(value) if value.len() > VALUE_LIMIT => {
                problems.push(Problem::new(place, format!("the value of `{name}` is too long"), format!("at most {VALUE_LIMIT} bytes")));
            }
            Some(value) => {
                if variables.values.insert(name.to_owned(), Value(value)).is_some() {
                    variables.repeated.insert(name.to_owned(), index + 1);
                }
            }
        }
    }
    if problems.is_empty() { Ok(variables) } else { Err(problems) }
}

/// What is inside, when the quote that closes it is there. Escapes count between double quotes only.
fn unquoted(text: &str, quote: char) -> Option<String> {
    let (mut value, mut chars) = (String::new(), text.chars());
    while let Some(c) = chars.next() {
        match c {
            c if c == quote => return Some(value),
            '\\' if quote == '"' => match chars.next()? {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                c @ ('\\' | '"' | '$' | '\'') => value.push(c),
                c => value.extend(['\\', c]),
            },
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let variables = read(text.as_bytes()).unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
        assert_eq!(variables.get("A").unwrap_or_default(), expected, "{text}");
    }

    #[test]
    fn values_are_read_as_django_reads_them() {
        check("A=b", "b");
        check("export A = b ", "b");
        check("\u{feff}# remark\r\n\r\nA=b\r\n", "b");
        check("A=b # remark", "b");
        check("A=b#c", "b#c");
        check("A=\"b # c\" # remark", "b # c");
        check("A='b \\n $c'", "b \\n $c");
        check("A=\"b\\nc\\\"d\"", "b\nc\"d");
        check("A=\"b\nc\"\nB=d", "b\nc");
        check("A=b=c==", "b=c==");
        check("A=b\nA=c", "c");
        check("A=", "");
        check("A=\"\"", "");
    }

    #[test]
    fn problems_name_lines_and_tell_no_values() {
        for (text, place) in [("A=b\nsecretword", "line 2"), ("A-B=secretword", "line 1"), ("\nA=\"secretword\nB=c", "line 2")] {
            let problems = read(text.as_bytes()).err().unwrap();
            assert_eq!(problems[0].path, place, "{text}");
            assert!(!format!("{problems:?}").contains("secretword"), "{problems:?}");
        }
        let problems = read(b"A=b\nB=caf\xe9").unwrap_err();
        assert_eq!((problems[0].path.as_str(), problems[0].problem.as_str()), ("line 2", "not UTF-8"));
    }

    #[test]
    fn of_a_name_that_is_there_twice_the_line_that_counts_is_known() {
        let variables = read(b"A=secretword\nB=1\n\nA=\"c\nd\"\nB=2\nB=3").unwrap();
        assert_eq!(variables.repeated.iter().collect::<Vec<_>>(), [(&"A".to_owned(), &4), (&"B".to_owned(), &7)]);
        assert!(!format!("{variables:?}").contains("secretword"));
    }
}
