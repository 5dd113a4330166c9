//! The words of `relative` in English and Swahili: CLDR 48, `dates/fields` of `en` and `sw`, but for "just now", which is "now" there.
//! Other languages get English ones until somebody who speaks them adds theirs.

use super::relative::Unit;

/// One language's words. `#` is where the number stands.
pub(super) struct Words {
    pub now: &'static str,
    pub yesterday: &'static str,
    pub today: &'static str,
    pub tomorrow: &'static str,
    /// Two days from today, before and after, where there are words for them.
    pub two_days: Option<[&'static str; 2]>,
    /// By [`Unit`].
    pub units: [Counted; Unit::Year as usize + 1],
}

/// For one, and for more.
pub(super) struct Counted {
    pub past: [&'static str; 2],
    pub future: [&'static str; 2],
}

impl Words {
    pub fn of(language: &str) -> &'static Self {
        if language == "sw" { &SWAHILI } else { &ENGLISH }
    }
}

static ENGLISH: Words = Words {
    now: "just now",
    yesterday: "yesterday",
    today: "today",
    tomorrow: "tomorrow",
    two_days: None,
    units: [
        Counted { past: ["# minute ago", "# minutes ago"], future: ["in # minute", "in # minutes"] },
        Counted { past: ["# hour ago", "# hours ago"], future: ["in # hour", "in # hours"] },
        Counted { past: ["# day ago", "# days ago"], future: ["in # day", "in # days"] },
        Counted { past: ["# month ago", "# months ago"], future: ["in # month", "in # months"] },
        Counted { past: ["# year ago", "# years ago"], future: ["in # year", "in # years"] },
    ],
};

static SWAHILI: Words = Words {
    now: "sasa hivi",
    yesterday: "jana",
    today: "leo",
    tomorrow: "kesho",
    two_days: Some(["juzi", "kesho kutwa"]),
    units: [
        Counted { past: ["dakika # iliyopita", "dakika # zilizopita"], future: ["baada ya dakika #", "baada ya dakika #"] },
        Counted { past: ["saa # iliyopita", "saa # zilizopita"], future: ["baada ya saa #", "baada ya saa #"] },
        Counted { past: ["siku # iliyopita", "siku # zilizopita"], future: ["baada ya siku #", "baada ya siku #"] },
        Counted { past: ["mwezi # uliopita", "miezi # iliyopita"], future: ["baada ya mwezi #", "baada ya miezi #"] },
        Counted { past: ["mwaka # uliopita", "miaka # iliyopita"], future: ["baada ya mwaka #", "baada ya miaka #"] },
    ],
};
