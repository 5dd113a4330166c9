//! `.env` files as python-dotenv and django-environ read them: `NAME=value` lines, `export` before them, quotes, comments.

use std::collections::BTreeMap;

use crate::model::Problem;

/// Bytes of one value; a longer one is the wrong file.
const VALUE_LIMIT: usize = 64 << 10;

/// Variables by name. Their values are never shown.
#[derive(Default)]
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    pub fn of_environment() -> Self {
        Self(std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect())
    }

    /// A value, unless it is missing or blank.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }
}

/// Reads a file; of a variable that is there twice, the later one counts. Problems name lines, never what is on them.
pub fn read(text: &str) -> Result<Variables, Vec<Problem>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut variables, mut problems) = (BTreeMap::new(), Vec::new());
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
                variables.insert(name.to_owned(), value);
            }
        }
    }
    if problems.is_empty() { Ok(Variables(variables)) } else { Err(problems) }
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
        let variables = read(text).unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
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
            let problems = read(text).err().unwrap();
            assert_eq!(problems[0].path, place, "{text}");
            assert!(!format!("{problems:?}").contains("secretword"), "{problems:?}");
        }
    }
}
