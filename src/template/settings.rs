//! `template.toml`: what is to be known of a template beside its parts. It may be absent.

use toml::Value;

use super::{error::nearest_hint, part::SETTINGS};
use crate::model::{ListName, Problem, TemplateName};

/// The one key there is.
const UNSUBSCRIBE: &str = "unsubscribe";

/// What the file says.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// The list its mails belong to: people may refuse them without refusing everything.
    pub unsubscribe: Option<ListName>,
}

impl Settings {
    /// Reads the file of the template `name`, noting what is wrong with it.
    pub fn read(name: &TemplateName, text: Option<&str>, problems: &mut Vec<Problem>) -> Self {
        const HINT: &str = "write it like unsubscribe = \"messages\"";
        let file = format!("{name}/{SETTINGS}");
        let mut settings = Self::default();
        let table: toml::Table = match text.unwrap_or_default().parse() {
            Ok(table) => table,
            Err(error) => {
                let line = error.span().and_then(|span| text?.get(..span.start)).map_or(1, |before| before.matches('\n').count() + 1);
                problems.push(Problem::new(format!("{file}:{line}"), format!("is not TOML: {}", error.message()), HINT));
                return settings;
            }
        };
        for (key, value) in table {
            match (key.as_str(), value) {
                (UNSUBSCRIBE, Value::String(list)) => match list.parse() {
                    Ok(list) => settings.unsubscribe = Some(list),
                    Err(reason) => {
                        let (problem, hint) = reason.split_once("; hint: ").unwrap_or((&reason, HINT));
                        problems.push(Problem::new(&file, format!("`{UNSUBSCRIBE}` is {problem}"), hint));
                    }
                },
                (UNSUBSCRIBE, _) => problems.push(Problem::new(&file, format!("`{UNSUBSCRIBE}` is not text"), HINT)),
                (unknown, _) => {
                    let problem = format!("`{}` is not known here", crate::model::cut(unknown, 80));
                    problems.push(Problem::new(&file, problem, nearest_hint(unknown, &[UNSUBSCRIBE])));
                }
            }
        }
        settings
    }
}
