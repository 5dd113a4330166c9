//! Amounts of money: which sign stands before them, and how many decimals they have.
//!
//! The form is CLDR's for `en` and `sw` alike: sign, a space that does not break, amount, and a minus before all of it. The shillings
//! and the franc of East Africa have the signs that CLDR gives them where they are spent (`en-TZ`, `en-KE`, `en-UG`, `en-RW`);
//! everything else has its ISO 4217 code, which CLDR writes in the same place (`¤¤`) and which nobody takes for another country's
//! dollar.

use super::{FormatError, Number};

/// Signs of CLDR 48, `localeNames/currencies` of the locales above.
const SIGNS: [(&str, &str); 4] = [("KES", "Ksh"), ("RWF", "RF"), ("TZS", "TSh"), ("UGX", "USh")];
/// Currencies without a smaller unit (ISO 4217, list one, column "minor unit" 0).
const WHOLE: [&str; 17] =
    ["BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF"];
/// Currencies whose smaller unit exists on paper: whole amounts are written without it (CLDR `currencyData`, `cashDigits` 0; `KES` by
/// the habit of its shops).
const WHOLE_BY_HABIT: [&str; 2] = ["KES", "TZS"];
/// ISO 4217, "minor unit" 3.
const IN_THOUSANDTHS: [&str; 7] = ["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"];

/// An ISO 4217 code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Code<'a>(&'a str);

impl<'a> Code<'a> {
    pub fn read(text: Option<&'a str>) -> Result<Self, FormatError> {
        const HINT: &str = "write it like currency(\"TZS\")";
        match text {
            Some(code) if code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_uppercase()) => Ok(Self(code)),
            Some(_) => Err(FormatError::new("`currency` has a code that is not one of ISO 4217", HINT)),
            None => Err(FormatError::new("`currency` has no code of ISO 4217", HINT)),
        }
    }

    pub fn symbol(self) -> &'a str {
        SIGNS.into_iter().find(|(code, _)| *code == self.0).map_or(self.0, |(_, sign)| sign)
    }

    /// `amount` with the decimals that this currency has.
    pub fn amount(self, amount: &Number) -> Number {
        let digits = match self.0 {
            code if WHOLE.contains(&code) => 0,
            code if WHOLE_BY_HABIT.contains(&code) && amount.is_whole() => 0,
            code if IN_THOUSANDTHS.contains(&code) => 3,
            _ => 2,
        };
        amount.rounded(digits)
    }
}
