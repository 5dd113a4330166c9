//! What lies over the defaults: the file, then the environment, then the command line. Reading and naming only; nothing is checked here
//! but that the keys exist.

use std::{fs, path::Path};

use serde_json::Value;
use toml::Table;

use super::{Sources, keys};
use crate::model::Problem;

/// What every variable of ours starts with; also what separates its parts.
const PREFIX: &str = "TARISHI__";
const SEPARATOR: &str = "__";

/// One value, for one key.
pub(super) struct Layer {
    pub keys: Vec<String>,
    pub value: toml::Value,
    /// The environment variable it came from, to name in problems.
    pub variable: Option<String>,
}

/// The configuration file's table.
pub(super) fn file(path: &Path) -> Result<Table, Problem> {
    let shown = path.display();
    let text = fs::read_to_string(path).map_err(|error| {
        Problem::new(shown.to_string(), format!("cannot be read: {error}"), "check the path and that this user may read it")
    })?;
    text.parse::<Table>().map_err(|error| {
        let (line, column) = position(&text, error.span().map_or(0, |span| span.start));
        Problem::new(
            format!("{shown}:{line}:{column}"),
            format!("not TOML: {}", error.message().replace('\n', "; ")),
            "see https://toml.io",
        )
    })
}

/// Line and column, counted from 1 and in characters, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

/// Environment, then overrides, in the order they win.
pub(super) fn above_the_file(sources: &Sources, schema: &Value) -> (Vec<Layer>, Vec<Problem>) {
    let ours = sources.env.iter().filter_map(|(name, value)| Some((name, name.strip_prefix(PREFIX)?, value)));
    let variables = ours.map(|(name, keys, value)| variable(name, keys, value, schema));
    let overrides = sources.overrides.iter().map(|(path, value)| {
        let keys: Vec<String> = path.split('.').map(str::to_owned).collect();
        keys::find(schema, &keys, path, str::to_owned)?;
        Ok(Layer { keys, value: value.clone(), variable: None })
    });
    let (mut layers, mut problems) = (Vec::new(), Vec::new());
    for layer in variables.chain(overrides) {
        match layer {
            Ok(layer) => layers.push(layer),
            Err(problem) => problems.push(problem),
        }
    }
    (layers, problems)
}

fn variable(name: &str, keys: &str, value: &str, schema: &Value) -> Result<Layer, Problem> {
    let keys: Vec<String> = keys.split(SEPARATOR).map(str::to_lowercase).collect();
    let node = keys::find(schema, &keys, name, str::to_uppercase)?;
    Ok(Layer { keys, value: read_value(name, value, node)?, variable: Some(name.to_owned()) })
}

/// TOML or a bare string, whichever the key takes: `1` is a number for `readers`, and text for `audience`.
fn read_value(name: &str, text: &str, node: &Value) -> Result<toml::Value, Problem> {
    let bare = || toml::Value::String(text.to_owned());
    let parsed = text.trim().parse::<toml::Value>();
    if keys::takes(node, "string") {
        let is_taken = |value: &toml::Value| value.is_str() || value.is_array() && keys::takes(node, "array");
        return Ok(parsed.ok().filter(is_taken).unwrap_or_else(bare));
    }
    // A broken list is not a bare string; quoting it in the complaint could quote a secret.
    for (kind, what, hint) in
        [("array", "a TOML list", "write it like [\"one\", \"two\"]"), ("object", "a TOML table", "write it like { key = 1 }")]
    {
        if parsed.is_err() && keys::takes(node, kind) {
            return Err(Problem::new(name, format!("not {what}"), hint));
        }
    }
    Ok(parsed.unwrap_or_else(|_| bare()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, value: &str, expected: Result<&str, &str>) {
        let keys = name.strip_prefix(PREFIX).unwrap();
        match (variable(name, keys, value, &keys::schema()), expected) {
            (Ok(layer), Ok(toml)) => assert_eq!(layer.value, toml.parse::<toml::Value>().unwrap()),
            (Err(problem), Err(told)) => assert_eq!(problem.to_string(), told),
            (Ok(layer), Err(_)) => panic!("taken as {:?}", layer.value),
            (Err(problem), Ok(_)) => panic!("{problem}"),
        }
    }

    #[test]
    fn values_are_toml_or_bare_strings() {
        check("TARISHI__STORE__URL", "sqlite:/x", Ok("'sqlite:/x'"));
        check("TARISHI__PUBLIC__BASE_URL", "http://x", Ok("'http://x'"));
        check("TARISHI__PUBLIC__BASE_URL", "\"http://x\"", Ok("'http://x'"));
        check("TARISHI__PUBLIC__LISTEN", "[::1]:8000", Ok("'[::1]:8000'"));
        check("TARISHI__PUBLIC__LISTEN", "['[::1]:8000', 'unix:/x']", Ok("['[::1]:8000', 'unix:/x']"));
        check("TARISHI__PUBLIC__SOCKET_MODE", "0600", Ok("'0600'"));
        check("TARISHI__STORE__LEASE", "30s", Ok("'30s'"));
        check("TARISHI__STORE__READERS", "4", Ok("4"));
        check("TARISHI__STORE__READERS", "four", Ok("'four'"));
        check("TARISHI__AUTH__JWT__AUDIENCE", "4", Ok("'4'"));
        check("TARISHI__PROVIDER__OUTBOX__CHAOS", "0.1", Ok("0.1"));
        check("TARISHI__PROVIDER__OUTBOX__RECORD_FILE", "/tmp/outbox.jsonl", Ok("'/tmp/outbox.jsonl'"));
        check("TARISHI__CHANNEL__EMAIL__ON_UNKNOWN", "fail", Ok("'fail'"));
        check("TARISHI__CHANNEL__EMAIL__RATE", "5", Ok("5"));
        check("TARISHI__CHANNEL__EMAIL__PROVIDERS", "[\"outbox\"]", Ok("['outbox']"));
        check("TARISHI__CHANNEL__EMAIL", "{ concurrency = 5 }", Ok("{ concurrency = 5 }"));
        check("TARISHI__LOG__FORMAT", "json", Ok("'json'"));
    }

    #[test]
    fn bad_variables_are_told_by_name() {
        check("TARISHI__STORE__ULR", "sqlite:x", Err("TARISHI__STORE__ULR: unknown key `ULR` (hint: did you mean `URL`?)"));
        check("TARISHI__STOER__URL", "x", Err("TARISHI__STOER__URL: unknown key `STOER` (hint: did you mean `STORE`?)"));
        check(
            "TARISHI__STORE__URL__PATH",
            "x",
            Err("TARISHI__STORE__URL__PATH: `store.url` has no keys below it (hint: give it one value)"),
        );
        check(
            "TARISHI__CHANNEL__EMAIL__PROVIDERS",
            "outbox",
            Err("TARISHI__CHANNEL__EMAIL__PROVIDERS: not a TOML list (hint: write it like [\"one\", \"two\"])"),
        );
        check(
            "TARISHI__AUTH__JWT__KEYS",
            "[{ secret = hush }]",
            Err("TARISHI__AUTH__JWT__KEYS: not a TOML list (hint: write it like [\"one\", \"two\"])"),
        );
    }

    #[test]
    fn positions_count_from_one() {
        assert_eq!(position("a = 1\nb = é?", 0), (1, 1));
        assert_eq!(position("a = 1\nb = é?", 12), (2, 6));
    }
}
