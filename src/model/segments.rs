//! How many segments a text takes: what carriers count and charge (3GPP TS 23.038, 23.040).
//!
//! One character outside the GSM alphabet makes the whole text UCS-2. What is joined on the handset is parted here as phones part it: no
//! escape sequence and no surrogate pair is split over two segments.

use serde::Serialize;

/// Units of one segment: alone, and where it is one of several (the rest is the header that joins them).
const GSM: (usize, usize) = (160, 153);
const UCS2: (usize, usize) = (70, 67);
/// The basic alphabet beyond ASCII letters, digits and space.
const GSM_BASIC: &str = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ!\"#¤%&'()*+,-./:;<=>?¡ÄÖÑÜ§¿äöñüà";
/// Behind an escape: two units each.
const GSM_EXTENSION: &str = "\u{c}^{}\\[~]|€";

/// How a text goes over the air.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    Gsm7,
    Ucs2,
}

/// What a text takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Segments {
    pub encoding: Encoding,
    /// Septets, or UTF-16 units.
    pub units: usize,
    pub count: usize,
}

/// Counts the segments of `text`.
pub fn count(text: &str) -> Segments {
    let counted = |encoding, units: fn(char) -> usize, (single, joined)| {
        let total = text.chars().map(units).sum();
        let count = if total <= single { 1 } else { parted(text.chars().map(units), joined) };
        Segments { encoding, units: total, count }
    };
    if text.chars().all(|c| gsm_units(c) > 0) {
        counted(Encoding::Gsm7, gsm_units, GSM)
    } else {
        counted(Encoding::Ucs2, char::len_utf16, UCS2)
    }
}

/// How many units fit into one of `count` segments.
pub fn room(encoding: Encoding, count: usize) -> usize {
    let (single, joined) = match encoding {
        Encoding::Gsm7 => GSM,
        Encoding::Ucs2 => UCS2,
    };
    if count > 1 { joined } else { single }
}

/// Septets that `c` takes, which are none when the alphabet does not have it.
fn gsm_units(c: char) -> usize {
    match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | ' ' => 1,
        c if GSM_BASIC.contains(c) => 1,
        c if GSM_EXTENSION.contains(c) => 2,
        _ => 0,
    }
}

fn parted(units: impl Iterator<Item = usize>, room: usize) -> usize {
    let (mut count, mut used) = (1, 0);
    for unit in units {
        if used + unit > room {
            count += 1;
            used = 0;
        }
        used += unit;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, encoding: Encoding, units: usize, expected: usize) {
        assert_eq!(count(text), Segments { encoding, units, count: expected }, "{text:.20}…");
    }

    #[test]
    fn segments_are_counted_at_every_edge() {
        use Encoding::{Gsm7, Ucs2};
        check("", Gsm7, 0, 1);
        for (length, expected) in [(160, 1), (161, 2), (306, 2), (307, 3), (459, 3), (460, 4), (1600, 11)] {
            check(&"a".repeat(length), Gsm7, length, expected);
        }
        for (length, expected) in [(70, 1), (71, 2), (134, 2), (135, 3), (201, 3), (202, 4)] {
            check(&"Ж".repeat(length), Ucs2, length, expected);
        }
    }

    #[test]
    fn some_characters_take_two_units_and_are_not_split() {
        use Encoding::{Gsm7, Ucs2};
        check(&"€".repeat(80), Gsm7, 160, 1);
        check(&"€".repeat(81), Gsm7, 162, 2);
        check(&format!("{}€{}", "a".repeat(152), "a".repeat(10)), Gsm7, 164, 2);
        // The escape would be the 153rd unit: it moves to the next segment, and so does what follows.
        check(&format!("{}€{}", "a".repeat(152), "a".repeat(152)), Gsm7, 306, 3);
        check(&"😀".repeat(35), Ucs2, 70, 1);
        check(&"😀".repeat(36), Ucs2, 72, 2);
        check(&"😀".repeat(67), Ucs2, 134, 3);
        check("👩\u{200d}👧", Ucs2, 5, 1);
    }

    #[test]
    fn one_smart_quote_makes_all_of_it_ucs2() {
        check("Juma\u{2019}s flat", Encoding::Ucs2, 11, 1);
        check("Juma's flat", Encoding::Gsm7, 11, 1);
        check("a`b", Encoding::Ucs2, 3, 1);
    }
}
