//! Reading moments and dates, and putting them on the reader's clock.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime};

use crate::model::TimeZone;

/// How much of a date is written out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// 1/15/26
    Short,
    /// Jan 15, 2026
    Medium,
    /// January 15, 2026
    Long,
    /// Thursday, January 15, 2026
    Full,
}

impl Style {
    pub const COUNT: usize = 4;
    pub const NAMES: [&str; Self::COUNT] = ["short", "medium", "long", "full"];

    pub fn read(name: &str) -> Option<Self> {
        let index = Self::NAMES.into_iter().position(|known| known == name)?;
        Some([Self::Short, Self::Medium, Self::Long, Self::Full][index])
    }
}

/// The moment that an RFC 3339 text names, as the clocks of `timezone` show it.
pub(super) fn read(text: &str, timezone: TimeZone) -> Option<NaiveDateTime> {
    let moment = DateTime::parse_from_rfc3339(text.trim()).ok()?;
    Some(moment.with_timezone(&timezone.as_tz()).naive_local())
}

/// Like [`read`], or a date alone, which is the same everywhere.
pub(super) fn read_any(text: &str, timezone: TimeZone) -> Option<NaiveDateTime> {
    match read_date(text) {
        Some(date) => Some(date.and_time(NaiveTime::MIN)),
        None => read(text, timezone),
    }
}

/// A date as ISO 8601 writes it: `2026-01-15`.
pub(super) fn read_date(text: &str) -> Option<NaiveDate> {
    let text = text.trim();
    (text.len() == "2026-01-15".len()).then(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok())?
}
