//! The templates in use, exchanged as a whole: whoever takes them keeps one consistent set for as long as they hold it.

use std::sync::{Arc, PoisonError, RwLock};

use schemars::JsonSchema;
use serde::Serialize;

use super::Templates;
use crate::model::{Problem, Timestamp};

/// Where everybody takes the templates from. A set that does not load leaves the one before in use.
#[derive(Debug)]
pub struct Shelf(RwLock<Shelved>);

#[derive(Debug)]
struct Shelved {
    templates: Arc<Templates>,
    loaded_at: Timestamp,
    refused: Option<Refused>,
}

/// Which set is in use, for operators.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ShelfStatus {
    pub templates: usize,
    pub loaded_at: Timestamp,
    /// Absent while the files are what is in use.
    pub refused: Option<Refused>,
}

/// Newer files that cannot be used.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Refused {
    /// When they were first refused; later tries keep it.
    pub since: Timestamp,
    pub problems: Vec<Problem>,
}

impl Shelf {
    pub fn new(templates: Templates, now: Timestamp) -> Self {
        Self(RwLock::new(Shelved { templates: Arc::new(templates), loaded_at: now, refused: None }))
    }

    /// The set in use now. One piece of work takes it once.
    pub fn current(&self) -> Arc<Templates> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).templates.clone()
    }

    /// Puts what was loaded in the place of what is in use, or keeps that and what is wrong with the newer files.
    pub fn put(&self, loaded: Result<Templates, Vec<Problem>>, now: Timestamp) {
        let mut shelved = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match loaded {
            Ok(templates) => *shelved = Shelved { templates: Arc::new(templates), loaded_at: now, refused: None },
            Err(problems) => {
                let since = shelved.refused.as_ref().map_or(now, |refused| refused.since);
                shelved.refused = Some(Refused { since, problems });
            }
        }
    }

    pub fn status(&self) -> ShelfStatus {
        let shelved = self.0.read().unwrap_or_else(PoisonError::into_inner);
        ShelfStatus { templates: shelved.templates.list().count(), loaded_at: shelved.loaded_at, refused: shelved.refused.clone() }
    }
}
