//! How far a moment is from now, in the unit a person would say it in.

use chrono::DateTime;

use super::moment;
use crate::model::{TimeZone, Timestamp};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// Distances below this are "just now".
const NOW_LIMIT: i64 = 45;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Minute,
    Hour,
    Day,
    Month,
    Year,
}

/// Negative counts are past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Distance {
    Now,
    /// Between dates, which have no time.
    Days(i64),
    Time(Unit, i64),
}

/// From `now` to the moment or the date that `text` names.
pub(super) fn distance(text: &str, now: Timestamp, timezone: TimeZone) -> Option<Distance> {
    let now = DateTime::from_timestamp_millis(now.as_millis())?;
    if let Some(date) = moment::read_date(text) {
        let days = (date - now.with_timezone(&timezone.as_tz()).date_naive()).num_days();
        return Some(if days.abs() < 30 { Distance::Days(days) } else { in_time(days * DAY) });
    }
    let moment = DateTime::parse_from_rfc3339(text.trim()).ok()?;
    Some(in_time((moment.to_utc() - now).num_seconds()))
}

/// In the largest unit of which there is one, to the nearest whole.
fn in_time(seconds: i64) -> Distance {
    let distance = seconds.abs();
    let whole = |unit: i64| (distance + unit / 2) / unit;
    let (unit, count) = if distance < NOW_LIMIT {
        return Distance::Now;
    } else if whole(MINUTE) < 60 {
        (Unit::Minute, whole(MINUTE))
    } else if whole(HOUR) < 24 {
        (Unit::Hour, whole(HOUR))
    } else if whole(DAY) < 30 {
        (Unit::Day, whole(DAY))
    } else if whole(DAY) < 365 {
        // A twelfth of a year, so that eleven and a half of them are not a year.
        (Unit::Month, (distance * 12 / (365 * DAY)).clamp(1, 11))
    } else {
        (Unit::Year, distance / (365 * DAY))
    };
    Distance::Time(unit, count.max(1) * seconds.signum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Distance) {
        let now = "2026-01-15T20:30:00Z".parse().expect("valid");
        let timezone = "Africa/Dar_es_Salaam".parse().expect("valid");
        assert_eq!(distance(text, now, timezone), Some(expected), "{text}");
    }

    #[test]
    fn moments_are_told_in_the_largest_unit() {
        check("2026-01-15T20:30:44Z", Distance::Now);
        check("2026-01-15T20:29:16Z", Distance::Now);
        check("2026-01-15T20:30:45Z", Distance::Time(Unit::Minute, 1));
        check("2026-01-15T20:29:00Z", Distance::Time(Unit::Minute, -1));
        check("2026-01-15T21:29:29Z", Distance::Time(Unit::Minute, 59));
        check("2026-01-15T21:29:30Z", Distance::Time(Unit::Hour, 1));
        check("2026-01-16T02:30:00+03:00", Distance::Time(Unit::Hour, 3));
        check("2026-01-16T20:00:00Z", Distance::Time(Unit::Day, 1));
        check("2026-01-13T20:30:00Z", Distance::Time(Unit::Day, -2));
        check("2026-02-15T20:30:00Z", Distance::Time(Unit::Month, 1));
        check("2026-12-31T20:30:00Z", Distance::Time(Unit::Month, 11));
        check("2027-01-15T20:30:00Z", Distance::Time(Unit::Year, 1));
        check("2016-01-15T20:30:00Z", Distance::Time(Unit::Year, -10));
    }

    #[test]
    fn dates_are_told_in_days_of_the_reader() {
        check("2026-01-15", Distance::Days(0));
        check("2026-01-16", Distance::Days(1));
        check("2026-01-14", Distance::Days(-1));
        check("2026-02-20", Distance::Time(Unit::Month, 1));
    }

    #[test]
    fn anything_else_is_no_distance() {
        for bad in ["", "tomorrow", "2026-13-01", "2026-1-1", "2026-01-15T10:30:00", "1768500000"] {
            assert_eq!(distance(bad, Timestamp::default(), "UTC".parse().expect("valid")), None, "{bad}");
        }
    }
}
