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

/// Currencies of ISO 4217, list one, without funds, metals and tests; with those that the list lost in 2025 and 2026 (`ANG`, `BGN`), in
/// which there are still receipts.
const KNOWN: &str = "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP \
                     CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR \
                     ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT \
                     MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD \
                     SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYI UYU UZS VED \
                     VES VND VUV WST XAF XCD XCG XDR XOF XPF YER ZAR ZMW ZWG";

/// An ISO 4217 code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Code<'a>(&'a str);

impl<'a> Code<'a> {
    pub fn read(text: Option<&'a str>) -> Result<Self, FormatError> {
        const HINT: &str = "currency(\"TZS\")";
        match text {
            Some(code) if is_known(code) => Ok(Self(code)),
            Some(code) if is_known(&code.to_ascii_uppercase()) => {
                Err(FormatError::new("`currency` has a code in small letters", format!("write it in capitals: {HINT}")))
            }
            Some(_) => Err(FormatError::new("`currency` has a code that is not one of ISO 4217", format!("write it like {HINT}"))),
            None => Err(FormatError::new("`currency` has no code of ISO 4217", format!("write it like {HINT}"))),
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

fn is_known(code: &str) -> bool {
    code.len() == 3 && KNOWN.split(' ').any(|known| known == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_of_a_known_currency() {
        let named = SIGNS.into_iter().map(|(code, _)| code).chain(WHOLE).chain(WHOLE_BY_HABIT).chain(IN_THOUSANDTHS);
        assert_eq!(named.filter(|code| !is_known(code)).collect::<Vec<_>>(), [""; 0]);
        assert!(KNOWN.split(' ').is_sorted() && KNOWN.split(' ').all(|code| code.len() == 3));
    }

    #[test]
    fn codes_that_nobody_pays_in_are_refused() {
        for good in ["TZS", "USD", "ZWG"] {
            assert!(Code::read(Some(good)).is_ok(), "{good}");
        }
        for (bad, hint) in
            [("ABC", "write it like"), ("tzs", "write it in capitals"), ("XXX", "write it like"), ("TZS ", "write it like"), ("", "write")]
        {
            assert!(Code::read(Some(bad)).is_err_and(|error| error.hint.starts_with(hint)), "{bad}");
        }
        assert!(Code::read(None).is_err());
    }
}
