//! The rules of each language, made once and kept.
//!
//! ICU4X's formatters stay on the thread that made them, so each thread that renders has its own; making one costs microseconds.

use std::{
    cell::{OnceCell, RefCell},
    collections::HashMap,
    rc::Rc,
};

use chrono::{Datelike as _, NaiveDateTime, Timelike as _};
use icu_datetime::{
    DateTimeFormatter, DateTimeFormatterPreferences,
    fieldsets::{
        E, T, YMD, YMDE,
        enums::{CompositeDateTimeFieldSet, DateAndTimeFieldSet, DateFieldSet, TimeFieldSet},
    },
    input::{Date, DateTime, Time},
    preferences::{CalendarAlgorithm, HourCycle},
};
use icu_decimal::DecimalFormatter;
use icu_plurals::{PluralCategory, PluralRules};

use super::{
    CATEGORIES, currency,
    moment::Style,
    number::Number,
    relative::{Distance, Unit},
    words::Words,
};
use crate::model::Locale;

/// Languages kept on one thread. More than that come from data that was made up; they then make each other's anew.
const KEPT_LIMIT: usize = 32;
/// Languages whose readers expect 10:30 and 22:30, whatever their region. CLDR gives `sw` so, and American habits to `en`.
const ON_24_HOURS: [&str; 2] = ["en", "sw"];

type MomentFormatter = DateTimeFormatter<CompositeDateTimeFieldSet>;

thread_local! {
    static KEPT: RefCell<HashMap<Locale, Rc<Formats>>> = RefCell::default();
}

/// Calls `use_them` with the rules of `locale`.
pub(super) fn with<R>(locale: &Locale, use_them: impl FnOnce(&Formats) -> R) -> R {
    let formats = KEPT.with_borrow_mut(|kept| {
        if let Some(formats) = kept.get(locale) {
            return Rc::clone(formats);
        }
        if kept.len() >= KEPT_LIMIT {
            kept.clear();
        }
        let formats = Rc::new(Formats::new(locale));
        kept.insert(locale.clone(), Rc::clone(&formats));
        formats
    });
    use_them(&formats)
}

fn written(formatter: &MomentFormatter, moment: &NaiveDateTime) -> Option<String> {
    let part = |number: u32| u8::try_from(number).ok();
    let date = Date::try_new_iso(moment.year(), part(moment.month())?, part(moment.day())?).ok()?;
    let time = Time::try_new(part(moment.hour())?, part(moment.minute())?, part(moment.second())?, 0).ok()?;
    Some(formatter.format(&DateTime { date, time }).to_string())
}

/// One language's rules, each made when it is first asked for; `None` where ICU4X has none, which its fallback to the root rules out.
pub(super) struct Formats {
    locale: icu_locale_core::Locale,
    words: &'static Words,
    dates: [OnceCell<Option<MomentFormatter>>; Style::COUNT],
    datetimes: [OnceCell<Option<MomentFormatter>>; Style::COUNT],
    time: OnceCell<Option<MomentFormatter>>,
    weekday: OnceCell<Option<MomentFormatter>>,
    number: OnceCell<Option<DecimalFormatter>>,
    plural: OnceCell<Option<PluralRules>>,
}

impl Formats {
    fn new(locale: &Locale) -> Self {
        let locale = icu_locale_core::Locale::try_from_str(locale.as_str()).expect("ours is a locale too");
        Self {
            words: Words::of(locale.id.language.as_str()),
            locale,
            dates: Default::default(),
            datetimes: Default::default(),
            time: OnceCell::new(),
            weekday: OnceCell::new(),
            number: OnceCell::new(),
            plural: OnceCell::new(),
        }
    }

    pub fn date(&self, style: Style, moment: &NaiveDateTime) -> Option<String> {
        if style == Style::Full && self.joins_weekday() {
            return Some(format!("{}, {}", self.weekday(moment)?, self.date(Style::Long, moment)?));
        }
        let formatter = self.dates[style as usize].get_or_init(|| {
            self.moment_formatter(CompositeDateTimeFieldSet::Date(match style {
                Style::Short => DateFieldSet::YMD(YMD::short()),
                Style::Medium => DateFieldSet::YMD(YMD::medium()),
                Style::Long => DateFieldSet::YMD(YMD::long()),
                Style::Full => DateFieldSet::YMDE(YMDE::long()),
            }))
        });
        written(formatter.as_ref()?, moment)
    }

    pub fn datetime(&self, style: Style, moment: &NaiveDateTime) -> Option<String> {
        if style == Style::Full && self.joins_weekday() {
            return Some(format!("{}, {}", self.weekday(moment)?, self.datetime(Style::Long, moment)?));
        }
        let formatter = self.datetimes[style as usize].get_or_init(|| {
            self.moment_formatter(CompositeDateTimeFieldSet::DateTime(match style {
                Style::Short => DateAndTimeFieldSet::YMDT(YMD::short().with_time_hm()),
                Style::Medium => DateAndTimeFieldSet::YMDT(YMD::medium().with_time_hm()),
                Style::Long => DateAndTimeFieldSet::YMDT(YMD::long().with_time_hm()),
                Style::Full => DateAndTimeFieldSet::YMDET(YMDE::long().with_time_hm()),
            }))
        });
        written(formatter.as_ref()?, moment)
    }

    pub fn time(&self, moment: &NaiveDateTime) -> Option<String> {
        let formatter = self.time.get_or_init(|| self.moment_formatter(CompositeDateTimeFieldSet::Time(TimeFieldSet::T(T::hm()))));
        written(formatter.as_ref()?, moment)
    }

    /// CLDR's full date of `sw` is `EEEE, d MMMM y`; what ICU4X makes of the fields' pattern has the comma in another place.
    fn joins_weekday(&self) -> bool {
        self.locale.id.language.as_str() == "sw"
    }

    fn weekday(&self, moment: &NaiveDateTime) -> Option<String> {
        let formatter = self.weekday.get_or_init(|| self.moment_formatter(CompositeDateTimeFieldSet::Date(DateFieldSet::E(E::long()))));
        written(formatter.as_ref()?, moment)
    }

    fn moment_formatter(&self, fields: CompositeDateTimeFieldSet) -> Option<MomentFormatter> {
        let mut preferences = DateTimeFormatterPreferences::from(&self.locale);
        if ON_24_HOURS.contains(&self.locale.id.language.as_str()) {
            preferences.hour_cycle.get_or_insert(HourCycle::H23);
        }
        // What the data says is one calendar's, and so is what the reader's bank and bus say.
        preferences.calendar_algorithm = Some(CalendarAlgorithm::Gregory);
        DateTimeFormatter::try_new(preferences, fields).ok()
    }

    pub fn number(&self, number: &Number) -> Option<String> {
        let formatter = self.number.get_or_init(|| {
            DecimalFormatter::try_new((&self.locale).into(), icu_decimal::options::DecimalFormatterOptions::default()).ok()
        });
        Some(formatter.as_ref()?.format(number.as_decimal()).to_string())
    }

    pub fn currency(&self, amount: &Number, code: currency::Code) -> Option<String> {
        let (is_negative, amount) = code.amount(amount).split_sign();
        let sign = if is_negative { "-" } else { "" };
        Some(format!("{sign}{}\u{a0}{}", code.symbol(), self.number(&amount)?))
    }

    /// The text for `count` among those of the categories, with the number where it has a `#`.
    pub fn plural(&self, count: &Number, texts: &[Option<&str>; CATEGORIES.len()]) -> Option<String> {
        let rules = self.plural.get_or_init(|| PluralRules::try_new_cardinal((&self.locale).into()).ok());
        let category = match rules.as_ref()?.category_for(count.as_decimal()) {
            PluralCategory::Zero => 0,
            PluralCategory::One => 1,
            PluralCategory::Two => 2,
            PluralCategory::Few => 3,
            PluralCategory::Many => 4,
            PluralCategory::Other => 5,
        };
        let text = texts[category].or(texts[CATEGORIES.len() - 1])?;
        Some(if text.contains('#') { text.replace('#', &self.number(count)?) } else { text.to_owned() })
    }

    pub fn relative(&self, distance: Distance) -> Option<String> {
        let text = match distance {
            Distance::Now => self.words.now,
            Distance::Days(-1) => self.words.yesterday,
            Distance::Days(0) => self.words.today,
            Distance::Days(1) => self.words.tomorrow,
            Distance::Days(count) => match self.words.two_days.filter(|_| count.abs() == 2) {
                Some([before, after]) => {
                    if count < 0 {
                        before
                    } else {
                        after
                    }
                }
                None => return self.counted(Unit::Day, count),
            },
            Distance::Time(unit, count) => return self.counted(unit, count),
        };
        Some(text.to_owned())
    }

    fn counted(&self, unit: Unit, count: i64) -> Option<String> {
        let words = &self.words.units[unit as usize];
        let [one, other] = if count < 0 { words.past } else { words.future };
        let text = if count.unsigned_abs() == 1 { one } else { other };
        Some(text.replace('#', &self.number(&Number::from(count.unsigned_abs()))?))
    }
}
