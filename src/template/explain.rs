//! What the engine says went wrong, in words that help: what it was, and what to write in its place. Never a value of the data.

use minijinja::ErrorKind;

use super::{
    engine::LAYOUTS,
    error::{nearest, nearest_hint},
};

/// The filters there are: minijinja's, as far as they are turned on, and ours. The engine lists none itself.
const FILTERS: &str = "abs attr batch bool capitalize chain count d default dictsort e escape first float format groupby indent int items \
                       join last length lines list lower map max min pprint reject rejectattr replace reverse round safe select \
                       selectattr slice sort split string sum title tojson trim unique upper urlencode zip \
                       currency date datetime link number plural relative time";
/// The tests there are that have a word for a name.
const TESTS: &str = "boolean defined divisibleby endingwith eq equalto escaped even false filter float ge greaterthan gt in int integer \
                     iterable le lessthan lower lt mapping ne none number odd safe sameas sequence startingwith string test true \
                     undefined upper";
const FILTER_PAGES: &str = "see docs/templates.md for ours, and https://docs.rs/minijinja/latest/minijinja/filters for the others";
const TESTS_PAGE: &str = "see https://docs.rs/minijinja/latest/minijinja/tests";

/// The problem and the hint for an error of `kind`; `detail` is what the engine says beside it, and `functions` are those there are.
pub(super) fn told(kind: ErrorKind, detail: Option<&str>, functions: &[&str]) -> (String, String) {
    let detail = detail.unwrap_or_default();
    let between = |before: &str| detail.strip_prefix(before).and_then(|rest| rest.strip_suffix(" is unknown"));
    let (problem, hint) = match kind {
        ErrorKind::UnknownFilter => {
            let name = between("filter ").unwrap_or("?");
            return (format!("there is no filter `{name}`"), meant(name, FILTERS.split(' '), FILTER_PAGES));
        }
        ErrorKind::UnknownTest => {
            let name = between("test ").unwrap_or("?");
            return (format!("there is no test `{name}`"), meant(name, TESTS.split(' '), TESTS_PAGE));
        }
        ErrorKind::UnknownFunction => {
            let name = between("").unwrap_or("?");
            let hint = format!("import it before: {{% from \"{LAYOUTS}/pieces.html\" import {name} %}}");
            let problem = format!("there is no function or macro `{name}` here");
            return (problem, meant(name, functions.iter().copied(), &hint));
        }
        ErrorKind::UnknownMethod => {
            let named = detail.rsplit_once(" has no method named ").map_or_else(|| "such".to_owned(), |(_, name)| format!("`{name}`"));
            return (format!("a value has no method {named}"), "use a filter: {{ name | upper }}, {{ list | length }}".to_owned());
        }
        ErrorKind::InvalidOperation if detail.contains("recursion limit") => {
            ("goes into itself too deep", "look for a file that includes itself, or a macro that calls itself")
        }
        ErrorKind::InvalidOperation => {
            return (operation(detail), "compare with sample.json what it holds; `~` joins texts, `| int` makes a number".to_owned());
        }
        ErrorKind::TooManyArguments => {
            let named = detail.strip_prefix("unknown keyword argument ").map(|name| name.trim_matches('\''));
            match named {
                Some(name) => return (format!("there is no argument `{name}` here"), FILTER_PAGES.to_owned()),
                None => ("more is in the parentheses than this takes", FILTER_PAGES),
            }
        }
        ErrorKind::MissingArgument => ("something has to be in the parentheses and is not", FILTER_PAGES),
        ErrorKind::BadSerialization => ("a value cannot be written here", "write its members one by one: {{ place.city }}"),
        ErrorKind::NonPrimitive | ErrorKind::NonKey => ("a value cannot be the name of a member", "use a text or a whole number"),
        ErrorKind::CannotUnpack => ("a list has another number of elements than there are names for them", "write one name for each"),
        ErrorKind::UnknownBlock => ("no layout has this block", "name a block of the layout that is extended, or remove it"),
        ErrorKind::BadEscape => ("a text has an escape that is not known", "write \\n, \\t, \\\" or \\\\"),
        ErrorKind::SyntaxError => ("is no Jinja", SYNTAX),
        ErrorKind::BadInclude | ErrorKind::EvalBlock => ("what it includes cannot be rendered", "look at the file that it names"),
        _ => return (kind.to_string(), "see docs/templates.md for what templates can do".to_owned()),
    };
    (problem.to_owned(), hint.to_owned())
}

/// What to do about source that cannot be read.
pub(super) const SYNTAX: &str = "the syntax is Jinja's: {{ name }}, {% if name %}…{% endif %}";

fn meant<'a>(given: &str, known: impl Iterator<Item = &'a str>, otherwise: &str) -> String {
    let known: Vec<&str> = known.collect();
    match nearest(given, known.iter().copied()) {
        Some(_) => nearest_hint(given, &known),
        None => otherwise.to_owned(),
    }
}

/// What was tried with values that cannot do it. Of what the engine says only that is told in which there are kinds and no values.
fn operation(detail: &str) -> String {
    const KINDS_ALONE: [&str; 4] = ["tried to use ", "cannot convert ", "value of type ", "range has "];
    if KINDS_ALONE.iter().any(|start| detail.starts_with(start)) || detail.ends_with(" is not iterable") || detail == "not iterable" {
        let told = detail.replace("not iterable", "no list to go through");
        return format!("a value is not what is needed here: {told}");
    }
    "a value is not what is needed here".to_owned()
}

/// The name that is piped into `filter` in `tag`, or into its only filter: `due` of `{{ due | date }}`.
pub(super) fn piped<'a>(tag: &'a str, filter: Option<&str>) -> Option<&'a str> {
    let is_name = |character: char| character.is_alphanumeric() || matches!(character, '_' | '.');
    let mut found = tag.match_indices('|').filter_map(|(at, _)| {
        let word = tag[at + 1..].trim_start();
        let word = &word[..word.find(|character| !is_name(character)).unwrap_or(word.len())];
        let before = tag[..at].trim_end();
        let start =
            before.rfind(|character| !is_name(character)).map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
        let name = Some(&before[start..]).filter(|name| name.starts_with(|first: char| first.is_alphabetic() || first == '_'));
        filter.is_none_or(|filter| filter == word).then_some(name)
    });
    let first = found.next()??;
    found.all(|other| other == Some(first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use minijinja::Environment;

    use super::*;

    /// What a template is told when it is rendered with one name of each kind.
    fn told_of(source: &str) -> String {
        let environment = Environment::new();
        let data = minijinja::context!(text => "secret", number => 7, list => [1, 2], map => minijinja::context!(a => 1));
        let error = environment.render_str(source, data).expect_err(source);
        let (problem, hint) = told(error.kind(), error.detail(), &["range", "dict", "namespace"]);
        assert!(!hint.is_empty() && !problem.contains("secret"), "{source}: {problem} ({hint})");
        format!("{problem} ({hint})")
    }

    #[track_caller]
    fn check(source: &str, expected: &str) {
        let told = told_of(source);
        assert!(told.starts_with(expected), "{source}: {told}");
    }

    #[test]
    fn every_kind_has_a_hint() {
        check("{{ text | uper }}", "there is no filter `uper` (did you mean `upper`?)");
        check("{{ text | shout_it_out }}", "there is no filter `shout_it_out` (see docs/templates.md for ours");
        check("{% if text is sting %}{% endif %}", "there is no test `sting` (did you mean `string`?)");
        check("{{ ragne(3) }}", "there is no function or macro `ragne` here (did you mean `range`?)");
        check("{{ second_button(3) }}", "there is no function or macro `second_button` here (import it before");
        check("{{ text.shout() }}", "a value has no method `shout` (use a filter");
        check("{{ text + number }}", "a value is not what is needed here: tried to use + operator on unsupported types string and number");
        check("{{ number / 0 }}", "a value is not what is needed here (compare with sample.json");
        check("{% for a in number %}{% endfor %}", "a value is not what is needed here: number is no list to go through");
        check("{{ text | int }}", "a value is not what is needed here");
        check("{{ text | upper(1) }}", "more is in the parentheses than this takes");
        check("{{ text | replace }}", "something has to be in the parentheses and is not");
        check("{{ list | sort(revers=true) }}", "there is no argument `revers` here");
        check("{% for a, b in list %}{% endfor %}", "a list has another number of elements than there are names for them");
        check("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "goes into itself too deep");
        check("{{ self.nothing() }}", "no layout has this block");
    }

    #[test]
    fn filters_and_tests_that_are_named_are_there() {
        let ours = ["currency", "date", "datetime", "link", "number", "plural", "relative", "time"];
        let environment = Environment::new();
        for filter in FILTERS.split(' ').filter(|filter| !ours.contains(filter)) {
            let error = environment.render_str(&format!("{{{{ 1 | {filter} }}}}"), ()).err();
            assert!(error.is_none_or(|error| error.kind() != ErrorKind::UnknownFilter), "{filter}");
        }
        for test in TESTS.split(' ') {
            let error = environment.render_str(&format!("{{{{ 1 is {test} }}}}"), ()).err();
            assert!(error.is_none_or(|error| error.kind() != ErrorKind::UnknownTest), "{test}");
        }
    }

    #[test]
    fn the_name_before_a_filter_is_found() {
        let check = |tag: &str, filter, expected| assert_eq!(piped(tag, filter), expected, "{tag}");
        check("{{ due | date }}", Some("date"), Some("due"));
        check("{{ visit.due|date(\"long\") ~ \"|\" }}", Some("date"), Some("visit.due"));
        check("{{ a | trim ~ due | date }}", Some("date"), Some("due"));
        check("{{ a | date ~ due | date }}", Some("date"), None);
        check("{{ (a ~ b) | date }}", Some("date"), None);
        check("{{ \"x\" | date }}", Some("date"), None);
        check("{{ due | upper }}", None, Some("due"));
        check("{{ a | upper ~ b | lower }}", None, None);
        check("{{ due }}", None, None);
    }
}
