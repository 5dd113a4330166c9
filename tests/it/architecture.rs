//! Holds the shape of the source: who may use whom, and the rules of style that a compiler does not check.
//!
//! The checks read text, not types: comments and literals are blanked first, test code is set apart. Each is a function from made-up or
//! real sources to complaints, so that the second half of this file can show that each of them is able to complain.

use std::{fs, path::Path, process::Command};

/// Lines a file may have without its tests.
const LINES_LIMIT: usize = 500;

/// Layers from the bottom up. A module may use those strictly below its own.
const LAYERS: [&[&str]; 12] = [
    &["model"],
    &["config", "event", "retry", "intake::expand", "intake::decode", "intake::schema", "openapi", "template"],
    &["store"],
    &["socket", "amqp"],
    &["channel"],
    &["lane"],
    &["accept"],
    &["intake", "feed", "live", "chat", "webhook"],
    &["admin", "mock"],
    &["daemon"],
    &["cli"],
    &["main"],
];

/// Where errors may lose their type.
const MAY_USE_ANYHOW: [&str; 3] = ["main", "cli", "daemon"];

/// A source file: its path below the repository, and its text.
#[derive(Clone)]
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// The module this file is, as path segments: `src/lane/mod.rs` is `lane`.
    fn module(&self) -> Vec<&str> {
        let inner = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        let mut segments: Vec<&str> = inner.split('/').collect();
        if segments.last() == Some(&"mod") {
            segments.pop();
        }
        segments
    }

    /// A file that is nothing but a test module.
    fn is_test(&self) -> bool {
        self.path.starts_with("tests/") || self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }
}

// What is read.

/// `text` with comments, strings and characters blanked, every line where it was.
fn blanked(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let Some(end) = literal_end(&chars, at) else {
            out.push(chars[at]);
            at += 1;
            continue;
        };
        out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    out
}

/// Where the comment or literal that begins here ends.
fn literal_end(chars: &[char], at: usize) -> Option<usize> {
    let rest = &chars[at..];
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let follows_word = at > 0 && is_word(chars[at - 1]);
    match rest {
        ['/', '/', ..] => Some(rest.iter().position(|c| *c == '\n').map_or(chars.len(), |length| at + length)),
        ['/', '*', ..] => {
            let length = rest.windows(2).skip(2).position(|pair| pair == ['*', '/']);
            Some(length.map_or(chars.len(), |length| at + length + 4))
        }
        ['r', '"' | '#', ..] if !follows_word => {
            let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
            if rest.get(1 + hashes) != Some(&'"') {
                return None;
            }
            let closing: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
            let length = rest[2 + hashes..].windows(hashes + 1).position(|end| end == closing);
            Some(length.map_or(chars.len(), |length| at + 2 + hashes + length + hashes + 1))
        }
        ['"', ..] => {
            let mut end = at + 1;
            while end < chars.len() && chars[end] != '"' {
                end += if chars[end] == '\\' { 2 } else { 1 };
            }
            Some((end + 1).min(chars.len()))
        }
        ['\'', '\\', ..] => rest[3..].iter().position(|c| *c == '\'').map(|length| at + 3 + length + 1),
        ['\'', _, '\'', ..] => Some(at + 3),
        _ => None,
    }
}

/// Blanked source, parted: what is compiled into the daemon, and what only tests see.
fn parted(source: &Source) -> (String, String) {
    let text = blanked(&source.text);
    if source.is_test() {
        return (String::new(), text);
    }
    let (mut shipped, mut tests) = (String::new(), String::new());
    let mut rest = text.as_str();
    while let Some(at) = rest.find("#[cfg(test)]") {
        shipped.push_str(&rest[..at]);
        let end = at + item_end(&rest[at..]);
        tests.push_str(&rest[at..end]);
        rest = &rest[end..];
    }
    shipped.push_str(rest);
    (shipped, tests)
}

/// Where the item ends that begins here: at its `;`, or at the brace that closes it.
fn item_end(text: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            ';' if depth == 0 => return at + 1,
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    text.len()
}

/// Every path of our own crate that `source` names outside its tests, as segments from the crate's root.
fn used_paths(source: &Source) -> Vec<Vec<String>> {
    let (text, _) = parted(source);
    let mut found = Vec::new();
    let roots: &[&str] = if source.module() == ["main"] { &["crate::", "tarishi::"] } else { &["crate::"] };
    for root in roots {
        for (at, _) in text.match_indices(root) {
            let is_start = !text[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ':'));
            if is_start {
                read_tree(&text[at + root.len()..], &mut Vec::new(), &mut found);
            }
        }
    }
    for (at, _) in text.match_indices("super::") {
        let before = &text[..at];
        if before.ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ':')) {
            continue;
        }
        let ups = text[at..].split("super::").take_while(|part| part.is_empty()).count();
        let module = source.module();
        let mut base: Vec<String> = module[..module.len().saturating_sub(ups)].iter().map(ToString::to_string).collect();
        read_tree(&text[at + ups * "super::".len()..], &mut base, &mut found);
    }
    found
}

/// Reads the rest of a path or use tree into whole paths; says how much it read.
fn read_tree(text: &str, base: &mut Vec<String>, found: &mut Vec<Vec<String>>) -> usize {
    let depth = base.len();
    let mut at = 0;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        if text[at..].starts_with('{') {
            at += 1;
            while let Some(c) = text[at..].chars().next() {
                match c {
                    '}' => {
                        at += 1;
                        break;
                    }
                    ',' => at += 1,
                    c if c.is_whitespace() => at += c.len_utf8(),
                    _ => at += read_tree(&text[at..], base, found).max(1),
                }
            }
            break;
        }
        let word: String = text[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        at += word.len();
        if !word.is_empty() && word != "self" {
            base.push(word);
        }
        if text[at..].starts_with("::") {
            at += 2;
            continue;
        }
        found.push(base.clone());
        // `as name` belongs to the path that it renames.
        if let Some(renamed) = text[at..].trim_start().strip_prefix("as ") {
            let name = renamed.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').count();
            at = text.len() - renamed.trim_start().len() + name;
        }
        break;
    }
    base.truncate(depth);
    at
}

// What is checked.

/// The unit of [`LAYERS`] that a module path belongs to, and its layer.
fn unit<S: AsRef<str>>(path: &[S]) -> Option<(usize, &'static str)> {
    let belongs =
        |unit: &str| unit.split("::").enumerate().all(|(place, segment)| path.get(place).is_some_and(|one| one.as_ref() == segment));
    let all = LAYERS.iter().enumerate().flat_map(|(layer, units)| units.iter().map(move |unit| (layer, *unit)));
    all.filter(|(_, unit)| belongs(unit)).max_by_key(|(_, unit)| unit.len())
}

fn check_dependencies(source: &Source) -> Vec<String> {
    let module = source.module();
    if source.is_test() || module == ["lib"] {
        return Vec::new();
    }
    let Some((layer, own)) = unit(&module) else {
        return vec![format!("{}: in no layer; give it one in LAYERS", source.path)];
    };
    let mut complaints = Vec::new();
    for path in used_paths(source) {
        let complain = |why: &str| format!("{}: uses {}: {why}", source.path, path.join("::"));
        let Some((used_layer, used)) = unit(&path) else {
            // A file's way to its own children and siblings, or an item of the root of its own module.
            if path.first().map(String::as_str) != module.first().copied() {
                complaints.push(complain("in no layer"));
            }
            continue;
        };
        let is_pure_intake = |unit: &str| unit.starts_with("intake::");
        let is_sibling_allowed = layer == 1 && (used == "config" || (is_pure_intake(own) && is_pure_intake(used)));
        // `pub use` and `super` inside one folder are its own business; the pure parts of intake see none of the rest.
        if used == own {
            continue;
        }
        if used_layer > layer {
            complaints.push(complain("a layer above"));
        } else if used_layer == layer && !is_sibling_allowed {
            complaints.push(complain("a sibling"));
        } else if own == "channel" && used == "store" {
            complaints.push(complain("a provider sees nothing of the store"));
        } else if own == "channel" && used == "socket" {
            let is_live = module.get(1) == Some(&"live");
            if !is_live || !matches!(path.get(1).map(String::as_str), Some("Bus" | "Frame")) {
                complaints.push(complain("only channel/live sees the bus, and nothing else of the sockets"));
            }
        }
    }
    complaints
}

fn check_anyhow(source: &Source) -> Vec<String> {
    let may = source.module().first().is_some_and(|module| MAY_USE_ANYHOW.contains(module));
    if may || !words(&parted(source).0).any(|word| word == "anyhow") {
        return Vec::new();
    }
    vec![format!("{}: anyhow; errors are types here", source.path)]
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

fn check_length(source: &Source) -> Vec<String> {
    if source.is_test() {
        return Vec::new();
    }
    let (_, tests) = parted(source);
    let lines = source.text.lines().count() - tests.lines().count();
    if lines < LINES_LIMIT { Vec::new() } else { vec![format!("{}: {lines} lines without its tests", source.path)] }
}

fn check_opening(source: &Source) -> Vec<String> {
    if source.is_test() && !source.path.starts_with("tests/") || source.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![format!("{}: does not open with `//!`", source.path)]
}

fn check_attributes(source: &Source) -> Vec<String> {
    let text = blanked(&source.text);
    let found = ["#[allow(", "#![allow(", "#[ignore"].into_iter().filter(|attribute| text.contains(attribute));
    found.map(|attribute| format!("{}: {attribute}…; `#[expect(…, reason)]`, and no ignored tests", source.path)).collect()
}

fn check_sleeps(source: &Source) -> Vec<String> {
    let (_, tests) = parted(source);
    let found = words(&tests).find(|word| matches!(*word, "sleep" | "sleep_until" | "sleep_ms"));
    found.map(|word| format!("{}: {word} in a test; wait for a condition", source.path)).into_iter().collect()
}

/// Paths that exist where this was written and nowhere else. Put together, so that this file does not hold them.
fn check_absolute_paths(path: &str, text: &str) -> Vec<String> {
    let places = [["/wo", "rk/"], ["/ro", "ot/"], ["/tmp/", "wt"]].map(|parts| parts.concat());
    let is_absolute = |at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '~' | '}'));
    let found = places.iter().filter(|place| text.match_indices(place.as_str()).any(|(at, _)| is_absolute(at)));
    found.map(|place| format!("{path}: holds a path below {place}")).collect()
}

// The repository.

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file that is, or is about to be, part of the repository.
fn files() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git lists the repository's files");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).unwrap();
    names.split_terminator('\0').filter(|name| root().join(name).is_file()).map(str::to_owned).collect()
}

fn sources() -> Vec<Source> {
    let is_rust = |path: &str| Path::new(path).extension().is_some_and(|extension| extension == "rs");
    let rust = files().into_iter().filter(|path| is_rust(path) && (path.starts_with("src/") || path.starts_with("tests/")));
    let sources: Vec<Source> = rust.map(|path| Source { text: fs::read_to_string(root().join(&path)).unwrap(), path }).collect();
    assert!(sources.len() > 50, "only {} sources found", sources.len());
    sources
}

#[track_caller]
fn hold(check: fn(&Source) -> Vec<String>) {
    let complaints: Vec<String> = sources().iter().flat_map(check).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn dependencies_point_one_way() {
    hold(check_dependencies);
}

#[test]
fn anyhow_stays_at_the_top() {
    hold(check_anyhow);
}

#[test]
fn files_are_short() {
    hold(check_length);
}

#[test]
fn modules_say_what_they_own() {
    hold(check_opening);
}

#[test]
fn lints_are_expected_and_tests_are_run() {
    hold(check_attributes);
}

#[test]
fn tests_do_not_sleep() {
    hold(check_sleeps);
}

#[test]
fn no_file_knows_where_it_was_written() {
    let mut complaints = Vec::new();
    for path in files() {
        // What is not text holds no path to read.
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        complaints.extend(check_absolute_paths(&path, &text));
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// That each check can complain, and about what.
mod checks_complain {
    use super::*;

    #[track_caller]
    fn check(rule: fn(&Source) -> Vec<String>, path: &str, text: &str, expected: &[&str]) {
        let complaints = rule(&Source::new(path, text));
        let is_expected = complaints.len() == expected.len() && complaints.iter().zip(expected).all(|(found, part)| found.contains(part));
        assert!(is_expected, "{path}: {text}\n{complaints:#?}");
    }

    #[test]
    fn about_layers() {
        check(check_dependencies, "src/retry.rs", "use crate::model::Outcome;", &[]);
        check(check_dependencies, "src/retry.rs", "use crate::store::Store;", &["uses store::Store: a layer above"]);
        check(check_dependencies, "src/model/job.rs", "use crate::config::Config;", &["a layer above"]);
        check(check_dependencies, "src/lane/mod.rs", "use crate::{channel::Provider, store::{Lease, Store}};", &[]);
        check(
            check_dependencies,
            "src/lane/mod.rs",
            "use crate::{channel::Provider, accept::{self, Acceptor}};",
            &["accept", "accept::Acceptor"],
        );
        check(check_dependencies, "src/lane/queue.rs", "fn f() { crate::daemon::run() }", &["uses daemon::run: a layer above"]);
        check(check_dependencies, "src/daemon.rs", "use crate::{accept, admin, lane as lanes, store};", &[]);
        check(check_dependencies, "src/lane/mod.rs", "use crate::{store as db, admin as top, model};", &["uses admin"]);
        check(check_dependencies, "src/store/read.rs", "use super::super::lane::Lane;", &["uses lane::Lane"]);
        check(check_dependencies, "src/retry.rs", "use super::lane::Lane;", &["uses lane::Lane"]);
        check(check_dependencies, "src/main.rs", "use tarishi::cli;", &[]);
        check(check_dependencies, "src/surprise.rs", "", &["in no layer"]);
        check(check_dependencies, "src/lane/mod.rs", "use crate::surprise::Thing;", &["in no layer"]);
    }

    #[test]
    fn about_siblings() {
        check(check_dependencies, "src/retry.rs", "use crate::config::RetryConfig;", &[]);
        check(check_dependencies, "src/retry.rs", "use crate::event::emit;", &["a sibling"]);
        check(check_dependencies, "src/template/mod.rs", "use crate::retry::judge;", &["a sibling"]);
        check(check_dependencies, "src/live/mod.rs", "use crate::chat::Room;", &["a sibling"]);
        check(check_dependencies, "src/intake/decode.rs", "use crate::intake::expand::expand; use super::schema::job;", &[]);
        check(check_dependencies, "src/intake/decode.rs", "use super::http::answer;", &["uses intake::http::answer: a layer above"]);
        check(check_dependencies, "src/intake/http.rs", "use super::decode::decode_body; use crate::accept::Acceptor;", &[]);
        check(check_dependencies, "src/config/check.rs", "use crate::event::emit;", &["a sibling"]);
    }

    #[test]
    fn about_providers() {
        check(check_dependencies, "src/channel/live.rs", "use crate::socket::{Bus, Frame};", &[]);
        check(check_dependencies, "src/channel/live.rs", "use crate::socket::{Gate, Bus};", &["uses socket::Gate"]);
        check(check_dependencies, "src/channel/sms/twilio.rs", "use crate::socket::Bus;", &["only channel/live"]);
        check(check_dependencies, "src/channel/sms/twilio.rs", "use crate::store::Store;", &["nothing of the store"]);
        check(check_dependencies, "src/channel/live.rs", "use crate::store::Store;", &["nothing of the store"]);
    }

    #[test]
    fn about_nothing_in_tests_comments_and_text() {
        let text = "//! [`crate::lane`]\n/* crate::lane */ const A: &str = \"crate::lane\"; const B: &str = r#\"crate::lane \" \"#;\n\
                    fn a<'a>(b: &'a str) -> char { '\"' }\n#[cfg(test)]\nmod tests { use crate::lane::Lane; fn f() { if true { } } }";
        check(check_dependencies, "src/retry.rs", text, &[]);
        check(check_dependencies, "src/live/tests.rs", "use crate::daemon;", &[]);
        let after = format!("{text}\nuse crate::lane::Lane;");
        check(check_dependencies, "src/retry.rs", &after, &["uses lane::Lane"]);
        check(check_dependencies, "src/retry.rs", "#[cfg(test)]\nmod tests;\nuse crate::lane;", &["uses lane"]);
    }

    #[test]
    fn about_untyped_errors() {
        check(check_anyhow, "src/lane/mod.rs", "use anyhow::Context as _;", &["anyhow"]);
        check(check_anyhow, "src/cli/send.rs", "use anyhow::Context as _;", &[]);
        check(check_anyhow, "src/daemon.rs", "fn run() -> anyhow::Result<()> {}", &[]);
        check(check_anyhow, "src/lane/mod.rs", "// anyhow would do\n#[cfg(test)]\nfn f() -> anyhow::Result<()> {}", &[]);
    }

    #[test]
    fn about_long_files() {
        let code = "fn f() {}\n".repeat(LINES_LIMIT);
        check(check_length, "src/lane/mod.rs", &code, &["500 lines without its tests"]);
        let tested = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{code}}}\n");
        check(check_length, "src/lane/mod.rs", &tested, &[]);
        check(check_length, "src/lane/tests.rs", &code, &[]);
    }

    #[test]
    fn about_modules_without_a_word() {
        check(check_opening, "src/lane/mod.rs", "use std::fmt;\n", &["does not open with"]);
        check(check_opening, "tests/it/main.rs", "mod a;\n", &["does not open with"]);
        check(check_opening, "src/lane/mod.rs", "//! The lane.\n", &[]);
        check(check_opening, "src/lane/tests.rs", "use super::*;\n", &[]);
    }

    #[test]
    fn about_attributes() {
        check(check_attributes, "src/a.rs", "#[allow(dead_code)]\nfn f() {}", &["#[allow("]);
        check(check_attributes, "src/a.rs", "#![allow(dead_code)]", &["#![allow("]);
        check(check_attributes, "tests/it/a.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}", &["#[ignore"]);
        check(check_attributes, "src/a.rs", "// never #[allow(…)]\n#[expect(dead_code, reason = \"#[allow(\")]", &[]);
    }

    #[test]
    fn about_sleeping_tests() {
        check(check_sleeps, "tests/it/a.rs", "fn f() { std::thread::sleep(SECOND) }", &["sleep in a test"]);
        check(check_sleeps, "src/lane/tests.rs", "use tokio::time::{sleep, timeout};", &["sleep in a test"]);
        check(
            check_sleeps,
            "src/a.rs",
            "#[cfg(test)]\nmod tests { async fn f() { tokio::time::sleep(SECOND).await } }",
            &["sleep in a test"],
        );
        check(check_sleeps, "src/a.rs", "async fn f() { tokio::time::sleep(SECOND).await }\n#[cfg(test)]\nmod tests {}", &[]);
    }

    #[test]
    fn about_places_of_one_machine() {
        let home = ["/ro", "ot/.cargo"].concat();
        let workplace = ["\"/wo", "rk/main\""].concat();
        let worktree = ["(/tmp/", "wt/tests)"].concat();
        for text in [home, workplace, worktree] {
            assert_eq!(check_absolute_paths("a.md", &text).len(), 1, "{text}");
        }
        for text in [["https://example.com/wo", "rk/1"].concat(), ["framewo", "rk/"].concat(), "/tmp/wild".to_owned()] {
            assert_eq!(check_absolute_paths("a.md", &text), Vec::<String>::new());
        }
    }
}
