//! Dates, numbers, amounts and plurals as the reader's language writes them: the filters `date`, `time`, `datetime`, `number`,
//! `currency`, `plural` and `relative`.
//!
//! The rules are CLDR's, through ICU4X, but for what stands in `words` and `currency`. A part in a language's folder formats as the
//! recipient's locale does (`sw-TZ` for a part in `sw/`); a part for everyone does so only when the recipient's language is that of
//! `templates.default_locale`, and else as the default locale, so that no message speaks two languages.

mod currency;
mod formats;
mod moment;
mod number;
mod relative;
mod words;

use std::fmt;

use chrono::NaiveDateTime;
use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, State, Value,
    value::{Kwargs, Object},
};
use thiserror::Error as ThisError;

use self::{formats::Formats, moment::Style, number::Number};
use super::{error::nearest_hint, html};
use crate::model::{Locale, TimeZone, Timestamp};

/// Where filters find their [`Reader`]: no template can write this name, and no data hides it.
pub(super) const READER: &str = " reader";
/// Plural categories of CLDR (UTS 35, part 3, section 5).
const CATEGORIES: [&str; 6] = ["zero", "one", "two", "few", "many", "other"];
const CALENDAR_HINT: &str = "give it a text such as 2026-01-15T10:30:00Z or 2026-01-15";
const MOMENT_HINT: &str = "give it a text such as 2026-01-15T10:30:00Z, with its offset from UTC";
const NUMBER_HINT: &str = "give it a number, or text such as 1250.50";

/// The language and the time zone of whoever has none of their own.
#[derive(Clone, Debug)]
pub struct LocaleDefaults {
    /// The language of the parts for everyone.
    pub locale: Locale,
    pub timezone: TimeZone,
}

impl LocaleDefaults {
    /// How to write for one recipient, at `now`.
    pub(super) fn reader(&self, locale: Option<&Locale>, timezone: Option<TimeZone>, now: Timestamp) -> Reader {
        let own = locale.unwrap_or(&self.locale);
        let is_same_language = own.fallbacks().last() == self.locale.fallbacks().last();
        let everyones = if is_same_language { own } else { &self.locale };
        Reader { own: own.clone(), everyones: everyones.clone(), timezone: timezone.unwrap_or(self.timezone), now }
    }
}

/// Whom one rendering is for, as far as formats go.
#[derive(Debug)]
pub(super) struct Reader {
    /// The language of parts in a language's folder.
    own: Locale,
    /// The language of parts for everyone.
    everyones: Locale,
    timezone: TimeZone,
    now: Timestamp,
}

/// Templates get nothing out of it.
impl Object for Reader {}

impl Reader {
    /// The language of the file `name`: `new_message/sw/email.html` lies in a language's folder, and so does `_layouts/sw/words.txt`.
    fn locale_of(&self, name: &str) -> &Locale {
        if name.bytes().filter(|byte| *byte == b'/').count() == 2 { &self.own } else { &self.everyones }
    }
}

/// Why a filter has no result. Never holds what it was given, which comes from the data.
#[derive(Debug, PartialEq, Eq, ThisError)]
#[error("{problem}")]
pub(super) struct FormatError {
    pub problem: String,
    pub hint: String,
    /// The filter that was given a name which is not defined.
    pub undefined_in: Option<&'static str>,
}

impl FormatError {
    fn new(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { problem: problem.into(), hint: hint.into(), undefined_in: None }
    }
}

impl From<FormatError> for Error {
    fn from(error: FormatError) -> Self {
        Self::new(ErrorKind::InvalidOperation, "no format").with_source(error)
    }
}

type Formatted = Result<Value, Error>;

/// Makes the filters known to `environment`.
pub(super) fn add_filters(environment: &mut Environment<'_>) {
    environment.add_filter("date", |state: &State<'_, '_>, when: &Value, style: Option<Value>, more: Kwargs| -> Formatted {
        let call = Call::new(state, "date", when, &more)?;
        let style = call.style(style.as_ref())?;
        let moment = moment::read_any(call.text(CALENDAR_HINT)?, call.reader().timezone);
        let moment = moment.ok_or_else(|| call.unusable("a date", CALENDAR_HINT))?;
        call.finish(|formats| formats.date(style, &moment))
    });
    environment.add_filter("time", |state: &State<'_, '_>, when: &Value, more: Kwargs| -> Formatted {
        let call = Call::new(state, "time", when, &more)?;
        let moment = call.moment()?;
        call.finish(|formats| formats.time(&moment))
    });
    environment.add_filter("datetime", |state: &State<'_, '_>, when: &Value, style: Option<Value>, more: Kwargs| -> Formatted {
        let call = Call::new(state, "datetime", when, &more)?;
        let style = call.style(style.as_ref())?;
        let moment = call.moment()?;
        call.finish(|formats| formats.datetime(style, &moment))
    });
    environment.add_filter("relative", |state: &State<'_, '_>, when: &Value, more: Kwargs| -> Formatted {
        let call = Call::new(state, "relative", when, &more)?;
        let reader = call.reader();
        let distance = relative::distance(call.text(CALENDAR_HINT)?, reader.now, reader.timezone);
        let distance = distance.ok_or_else(|| call.unusable("a date", CALENDAR_HINT))?;
        call.finish(|formats| formats.relative(distance))
    });
    environment.add_filter("number", |state: &State<'_, '_>, value: &Value, more: Kwargs| -> Formatted {
        let digits: Option<Value> = more.get("digits")?;
        let call = Call::new(state, "number", value, &more)?;
        let digits = digits.filter(|digits| !digits.is_undefined() && !digits.is_none());
        let digits = digits.map(|digits| number::digits(&digits)).transpose()?;
        let number = call.number()?;
        let number = digits.map_or(number.clone(), |digits| number.rounded(digits));
        call.finish(|formats| formats.number(&number))
    });
    environment.add_filter("currency", |state: &State<'_, '_>, amount: &Value, code: Option<Value>, more: Kwargs| -> Formatted {
        let call = Call::new(state, "currency", amount, &more)?;
        let code = currency::Code::read(code.as_ref().and_then(Value::as_str))?;
        let amount = call.number()?;
        call.finish(|formats| formats.currency(&amount, code))
    });
    environment.add_filter("plural", |state: &State<'_, '_>, count: &Value, more: Kwargs| -> Formatted {
        let mut texts = [const { None }; CATEGORIES.len()];
        for (text, category) in texts.iter_mut().zip(CATEGORIES) {
            *text = more.get::<Option<&str>>(category).map_err(|_| not_text(category))?;
        }
        let call = Call::new(state, "plural", count, &more)?;
        let [.., Some(_)] = texts else {
            return Err(FormatError::new("`plural` has no `other`", "write plural(one=\"# message\", other=\"# messages\")").into());
        };
        let count = call.number()?;
        call.finish(|formats| formats.plural(&count, &texts))
    });
}

fn not_text(category: &str) -> FormatError {
    FormatError::new(format!("`plural` has a `{category}` that is not text"), "write plural(one=\"# message\", other=\"# messages\")")
}

/// One use of a filter: what it is given, by whom, and for whom.
struct Call<'a> {
    filter: &'static str,
    given: &'a Value,
    /// An [`Reader`], which it was made sure to be.
    reader: Value,
    /// The file that uses it.
    file: &'a str,
    is_html: bool,
}

impl<'a> Call<'a> {
    /// Arguments by name have been taken out of `more` before.
    fn new(state: &'a State<'_, '_>, filter: &'static str, given: &'a Value, more: &Kwargs) -> Result<Self, Error> {
        more.assert_all_used().map_err(|_| {
            let known = match filter {
                "number" => "it takes digits=2",
                "plural" => "it takes zero, one, two, few, many and other, each with = and a text",
                _ => "it takes none",
            };
            FormatError::new(format!("`{filter}` has an argument by a name it does not know"), known)
        })?;
        let reader = state.lookup(READER).filter(|reader| reader.downcast_object_ref::<Reader>().is_some());
        let reader = reader.ok_or_else(|| FormatError::new(format!("`{filter}` does not know whom it is for"), ""))?;
        let is_html = matches!(state.auto_escape(), AutoEscape::Html);
        Ok(Self { filter, given, reader, file: state.name(), is_html })
    }

    fn reader(&self) -> &Reader {
        self.reader.downcast_object_ref().expect("it was looked at when the call was made")
    }

    fn unusable(&self, needed: &str, hint: &str) -> FormatError {
        if self.given.is_undefined() {
            let hint = "bring it in the data (and in sample.json)";
            let error = FormatError::new(format!("`{}` was given something that is not defined", self.filter), hint);
            return FormatError { undefined_in: Some(self.filter), ..error };
        }
        let given = if self.given.is_none() { "null".to_owned() } else { format!("something that is not {needed}") };
        let problem = format!("`{}` was given {given}", self.filter);
        FormatError::new(problem, hint)
    }

    fn text(&self, hint: &str) -> Result<&str, FormatError> {
        self.given.as_str().ok_or_else(|| self.unusable("a date", hint))
    }

    /// A date with its time, on the reader's clock.
    fn moment(&self) -> Result<NaiveDateTime, FormatError> {
        let text = self.text(MOMENT_HINT)?;
        moment::read(text, self.reader().timezone).ok_or_else(|| self.unusable("a date with its time", MOMENT_HINT))
    }

    fn number(&self) -> Result<Number, FormatError> {
        Number::read(self.given).ok_or_else(|| self.unusable("a number", NUMBER_HINT))
    }

    fn style(&self, named: Option<&Value>) -> Result<Style, FormatError> {
        let Some(named) = named else { return Ok(Style::Medium) };
        named.as_str().and_then(Style::read).ok_or_else(|| {
            let hint = named.as_str().map_or_else(|| nearest_hint("", &Style::NAMES), |given| nearest_hint(given, &Style::NAMES));
            FormatError::new(format!("`{}` knows no such style", self.filter), hint)
        })
    }

    /// The text as the file needs it: escaped in HTML, where its spaces do not break; elsewhere with plain spaces, since one other
    /// character makes an SMS cost twice.
    fn finish(&self, text: impl FnOnce(&Formats) -> Option<String>) -> Formatted {
        let locale = self.reader().locale_of(self.file);
        let text =
            formats::with(locale, text).ok_or_else(|| FormatError::new(format!("`{}` has no rules for this language", self.filter), ""))?;
        if self.is_html {
            return Ok(Value::from_safe_string(html::escape(&text)));
        }
        Ok(if text.is_ascii() { text } else { text.replace(['\u{a0}', '\u{202f}'], " ") }.into())
    }
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("filter", &self.filter).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
