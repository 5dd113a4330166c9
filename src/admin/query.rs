//! Query strings to types, every problem at once.

use std::{collections::BTreeMap, str::FromStr};

use crate::{
    intake::problem_details::ProblemDetails,
    model::{Problem, nearest_hint},
};

/// The parameters of one request. Each is taken by name; what is left at the end is unknown.
pub struct Parameters {
    given: BTreeMap<String, String>,
    known: Vec<&'static str>,
    problems: Vec<Problem>,
}

impl Parameters {
    pub fn new(given: BTreeMap<String, String>) -> Self {
        Self { given, known: Vec::new(), problems: Vec::new() }
    }

    /// A parameter, parsed; absent when missing, empty or wrong.
    pub fn take<T: FromStr<Err = String>>(&mut self, name: &'static str) -> Option<T> {
        self.known.push(name);
        let text = self.given.remove(name).filter(|text| !text.is_empty())?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(reason) => {
                let (problem, hint) = reason.split_once("; hint: ").unwrap_or((&reason, ""));
                self.problems.push(Problem::new(name, problem, hint));
                None
            }
        }
    }

    /// A number of rows from 1 to `most`.
    pub fn take_limit(&mut self, default: usize, most: usize) -> usize {
        self.known.push("limit");
        let Some(text) = self.given.remove("limit") else { return default };
        match text.parse() {
            Ok(limit) if (1..=most).contains(&limit) => limit,
            _ => {
                self.problems.push(Problem::new("limit", "not a number of rows", format!("1 to {most}")));
                default
            }
        }
    }

    /// # Errors
    /// Whatever was wrong, and every parameter nobody took.
    pub fn finish(mut self) -> Result<(), ProblemDetails> {
        for name in self.given.keys() {
            let problem = format!("unknown parameter `{}`", crate::model::cut(name, 80));
            self.problems.push(Problem::new(crate::model::cut(name, 80), problem, nearest_hint(name, &self.known)));
        }
        if self.problems.is_empty() { Ok(()) } else { Err(ProblemDetails::invalid(self.problems)) }
    }
}
