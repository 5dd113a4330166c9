//! What a template sees: the job's data under its own names, and a few names of ours.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
};

use minijinja::{
    Value,
    value::{Enumerator, Object},
};
use serde_json::Value as Json;

use super::locale::{LocaleDefaults, READER, Reader};
use crate::model::{Delivery, Envelope, Locale, TemplateName, TimeZone, Timestamp, UserId, plain};

/// Names that are always defined and hide members of the data. What is not known of a delivery is the empty text.
pub(super) const RESERVED: [&str; 6] = ["user_id", "locale", "timezone", "link_base_url", "job_id", "template"];

/// The root a template's names are looked up in.
///
/// It shares the job with the delivery instead of copying it. Texts and numbers are converted when a template asks for them; lists and
/// objects are too, and then kept, so that a loop does not convert them once a turn.
pub(super) struct Context {
    job: Arc<Envelope>,
    user_id: Option<UserId>,
    locale: Option<Locale>,
    timezone: Option<TimeZone>,
    link_base_url: Arc<str>,
    nested: BTreeMap<String, OnceLock<Value>>,
    /// Whom formats are for, made when a filter first asks.
    reader: OnceLock<Value>,
    locale_defaults: LocaleDefaults,
    now: Timestamp,
}

impl Context {
    pub fn new(delivery: &Delivery, link_base_url: &Arc<str>, locale_defaults: &LocaleDefaults, now: Timestamp) -> Self {
        let nested = delivery
            .job
            .data
            .iter()
            .filter(|(_, value)| value.is_array() || value.is_object())
            .map(|(name, _)| (name.clone(), OnceLock::new()))
            .collect();
        Self {
            job: Arc::clone(&delivery.job),
            user_id: delivery.user_id.clone(),
            locale: delivery.locale.clone(),
            timezone: delivery.timezone,
            link_base_url: Arc::clone(link_base_url),
            nested,
            reader: OnceLock::new(),
            locale_defaults: locale_defaults.clone(),
            now,
        }
    }
}

impl Context {
    fn read_by(&self) -> Reader {
        self.locale_defaults.reader(self.locale.as_ref(), self.timezone, self.now)
    }
}

impl Object for Context {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        let reserved = match key {
            "user_id" => self.user_id.as_ref().map(UserId::as_str),
            "locale" => self.locale.as_ref().map(Locale::as_str),
            "timezone" => self.timezone.map(TimeZone::as_str),
            "link_base_url" => Some(&*self.link_base_url),
            "job_id" => Some(self.job.id.as_str()),
            "template" => self.job.template.as_ref().map(TemplateName::as_str),
            READER => return Some(self.reader.get_or_init(|| Value::from_object(self.read_by())).clone()),
            _ => {
                let value = self.job.data.get(key)?;
                return Some(match self.nested.get(key) {
                    Some(kept) => kept.get_or_init(|| convert(value)).clone(),
                    None => convert(value),
                });
            }
        };
        Some(reserved.unwrap_or_default().into())
    }

    /// Names are looked up, never listed: `debug()` in a template has nothing to print.
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::NonEnumerable
    }
}

/// Without the data, so that no log can hold it.
impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

/// JSON as templates read it. Recursion is bounded by the depth at which `serde_json` stops reading (128).
pub fn convert(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(truth) => Value::from(*truth),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => Value::from(number.as_f64()),
        },
        // Said by anybody at all, perhaps, and now among words of ours.
        Json::String(text) => Value::from(plain(text).as_ref()),
        Json::Array(elements) => elements.iter().map(convert).collect(),
        Json::Object(members) => {
            let members = members.iter().map(|(name, value)| (Value::from(plain(name).as_ref()), convert(value)));
            Value::from_object(members.collect::<BTreeMap<Value, Value>>())
        }
    }
}
