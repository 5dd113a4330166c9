//! Why a delivery cannot be rendered. The texts name files, lines, names and limits, and never hold a value of the data, which may
//! be personal: they end up in logs and in the store.

use std::fmt;

use thiserror::Error;

use crate::model::{Channel, Code, Problem, TemplateName};

/// Why a delivery cannot be rendered. Trying again changes nothing: the template, the data or the job has to change.
#[derive(Debug, Error)]
pub enum RenderError {
    #[error("no template is named `{name}`; {hint}")]
    TemplateMissing { name: TemplateName, hint: String },
    #[error("the template `{template}` has no part for {channel}")]
    PartMissing { template: TemplateName, channel: Channel },
    #[error("the job names neither a template nor content")]
    NothingToRender,
    #[error("a delivery on {channel} has another channel's address")]
    AddressMismatch { channel: Channel },
    #[error(transparent)]
    Failed(#[from] Fault),
}

impl RenderError {
    pub const fn code(&self) -> Code {
        match self {
            Self::TemplateMissing { .. } | Self::PartMissing { .. } | Self::NothingToRender => Code::TEMPLATE_MISSING,
            Self::AddressMismatch { .. } | Self::Failed(_) => Code::RENDER_FAILED,
        }
    }
}

/// What is wrong in one part: where, what, and what to do.
#[derive(Debug, PartialEq, Eq, Error)]
pub struct Fault {
    /// The file from the templates folder on, or the job's member (`content.title`).
    file: String,
    line: Option<usize>,
    problem: String,
    hint: String,
}

impl Fault {
    pub(super) fn new(file: &str, problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: None, problem: problem.into(), hint: hint.into() }
    }

    pub(super) fn at(self, line: Option<usize>) -> Self {
        Self { line, ..self }
    }

    pub(super) fn into_problem(self) -> Problem {
        Problem::new(self.place(), self.problem, self.hint)
    }

    fn place(&self) -> String {
        match self.line {
            Some(line) => format!("{}:{line}", self.file),
            None => self.file.clone(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place(), self.problem)
    }
}

/// The known name closest to `given`, when it is close enough to have been meant.
pub(super) fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, name) = known.map(|name| (strsim::damerau_levenshtein(given, name), name)).min()?;
    (distance <= 1 + name.len() / 3).then_some(name)
}

/// `did you mean …?`, or the list of what is known.
pub(super) fn nearest_hint(given: &str, known: &[&str]) -> String {
    match nearest(given, known.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("known here: {}", known.join(", ")),
    }
}
