//! Why a command ends without success, how a person is told, and which exit code a script sees.

use std::{fmt::Write as _, process::ExitCode};

use super::output::{self, Paint};
use crate::{daemon::Problems, model::Problem, store::StoreError};

/// What a script sees. Documented in `tarishi --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Failed = 1,
    Usage = 2,
    Configuration = 3,
    Unreachable = 4,
    Refused = 5,
    Unbalanced = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command that did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub exit: Exit,
    message: String,
    hint: String,
    problems: Vec<Problem>,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: hint.into(), problems: Vec::new() }
    }

    /// A failure told by someone whose hints follow `; hint: `.
    pub fn told(exit: Exit, message: &str) -> Self {
        let (message, hint) = message.split_once("; hint: ").unwrap_or((message, ""));
        Self::new(exit, message, hint)
    }

    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message, hint)
    }

    /// A file of the user's that cannot be read.
    pub fn unreadable(file: &std::path::Path, error: &std::io::Error) -> Self {
        let hint = "check the path and that this user may read it";
        Self::new(Exit::Failed, format!("{} cannot be read: {error}", file.display()), hint)
    }

    /// What is wrong with the configuration or the templates, all of it.
    pub fn configuration(what: &str, problems: Vec<Problem>) -> Self {
        let message = match problems.len() {
            1 => format!("{what} has a problem"),
            count => format!("{what} has {count} problems"),
        };
        Self::new(Exit::Configuration, message, "").with_problems(problems)
    }

    pub fn with_problems(self, problems: Vec<Problem>) -> Self {
        Self { problems, ..self }
    }

    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: hint.into(), ..self }
    }

    /// The same with one more thing to know.
    pub fn with_more_hint(self, more: &str) -> Self {
        let hint = [self.hint.as_str(), more].into_iter().filter(|hint| !hint.is_empty()).collect::<Vec<_>>().join("; ");
        Self { hint, ..self }
    }

    pub fn print(&self) {
        output::note(&self.text(Paint::stderr()));
    }

    fn text(&self, paint: Paint) -> String {
        let mut text = format!("{} {}", paint.red("error:"), output::safe(&self.message));
        for problem in &self.problems {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n  {}", output::safe(&problem.to_string()));
        }
        if !self.hint.is_empty() {
            let _ = write!(text, "\n{} {}", paint.bold("hint:"), output::safe(&self.hint));
        }
        text
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::told(Exit::Failed, &error.to_string())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<Problems>() {
            Ok(Problems(problems)) => Self::configuration("what the daemon starts with", problems),
            Err(error) => Self::told(Exit::Failed, &format!("{error:#}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(failure: &Failure, expected: &str) {
        assert_eq!(failure.text(Paint::OFF), expected);
    }

    #[test]
    fn says_what_is_wrong_and_what_to_do() {
        check(&Failure::usage("no job", "name a file"), "error: no job\nhint: name a file");
        check(&Failure::new(Exit::Failed, "it broke", ""), "error: it broke");
        check(&Failure::told(Exit::Failed, "held by another; hint: stop it"), "error: held by another\nhint: stop it");
        check(&Failure::told(Exit::Failed, "a line\u{1b}[2Jand more"), "error: a line[2Jand more");
        let problems = vec![Problem::new("store.url", "empty", "give it a value"), Problem::new("log.level", "empty", "")];
        check(
            &Failure::configuration("the configuration", problems),
            "error: the configuration has 2 problems\n  store.url: empty (hint: give it a value)\n  log.level: empty",
        );
    }

    #[test]
    fn exit_codes_are_as_documented() {
        for (exit, code) in [
            (Exit::Failed, "1 "),
            (Exit::Usage, "2 "),
            (Exit::Configuration, "3 "),
            (Exit::Unreachable, "4 "),
            (Exit::Refused, "5 "),
            (Exit::Unbalanced, "6 "),
        ] {
            assert!(super::super::AFTER_HELP.contains(&format!("\n  {code}")), "{exit:?} is not in --help");
            assert_eq!(format!("{} ", exit as u8), code);
        }
    }
}
