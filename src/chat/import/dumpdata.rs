//! What `manage.py dumpdata` writes: one JSON array, or with `--format jsonl` one object a line. Neither is held in memory.

use std::{
    fmt,
    io::{BufRead, Read},
};

use serde::{
    Deserialize, Deserializer as _,
    de::{SeqAccess, Visitor},
};
use serde_json::{Map, Value, value::RawValue};

use super::{ImportError, source::Intake};

#[derive(Deserialize)]
struct Object {
    model: String,
    #[serde(default)]
    pk: Value,
    fields: Box<RawValue>,
}

/// One array of all objects.
pub(super) fn read_array(reader: impl Read, intake: &mut Intake<'_>) -> Result<(), ImportError> {
    let mut failed = None;
    let mut json = serde_json::Deserializer::from_reader(reader);
    let read = json.deserialize_seq(Objects { intake, failed: &mut failed }).and_then(|()| json.end());
    match (failed, read) {
        (Some(error), _) => Err(error),
        (None, Err(error)) => Err(not_json(&error)),
        (None, Ok(())) => Ok(()),
    }
}

/// One object a line.
pub(super) fn read_lines(reader: impl BufRead, intake: &mut Intake<'_>) -> Result<(), ImportError> {
    for object in serde_json::Deserializer::from_reader(reader).into_iter::<Object>() {
        take(object.map_err(|error| not_json(&error))?, intake)?;
    }
    Ok(())
}

fn not_json(error: &serde_json::Error) -> ImportError {
    ImportError::source(format!("not what `manage.py dumpdata` writes: {error}; hint: dump with `--format json` or `--format jsonl`"))
}

struct Objects<'i, 'c> {
    intake: &'i mut Intake<'c>,
    /// Why it was stopped, when not by JSON.
    failed: &'i mut Option<ImportError>,
}

impl<'de> Visitor<'de> for Objects<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        while let Some(object) = sequence.next_element::<Object>()? {
            if let Err(error) = take(object, self.intake) {
                *self.failed = Some(error);
                return Err(serde::de::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}

fn take(object: Object, intake: &mut Intake<'_>) -> Result<(), ImportError> {
    // Its table, unless the model says otherwise; that, a dump does not tell.
    let table = object.model.to_lowercase().replacen('.', "_", 1);
    let Some(kind) = intake.chosen.kind_of(&table) else { return Ok(()) };
    let mut row: Map<String, Value> = serde_json::from_str(object.fields.get()).map_err(|error| not_json(&error))?;
    if let Some((field, _)) = row.iter().find(|(name, value)| value.is_array() && matches!(name.as_str(), "user" | "agent" | "sender")) {
        let told = format!("{} names its `{field}` by natural key", object.model);
        return Err(ImportError::source(told + ", and ids are kept; hint: dump without --natural-foreign"));
    }
    if object.pk.is_null() {
        let told = format!("{} has no pk; hint: dump without --natural-primary", object.model);
        return Err(ImportError::source(told));
    }
    row.insert("id".to_owned(), object.pk);
    intake.row(kind, &table, row)
}
