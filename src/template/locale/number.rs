//! Numbers without rounding surprises: decimals as they were written, never by way of binary fractions.

use icu_decimal::input::Decimal;
use minijinja::{Value, value::ValueKind};

use super::FormatError;

/// Longest number, in characters: what no amount or count reaches, and no template should print.
const LENGTH_LIMIT: usize = 40;
/// Most decimals that may be asked for.
const DIGITS_LIMIT: i16 = 10;

/// A decimal number, and what of it is written.
#[derive(Clone, Debug)]
pub(super) struct Number(Decimal);

impl Number {
    /// A number, or text that is one: `-1250.50`. A fraction has the digits that JSON gave it.
    pub fn read(value: &Value) -> Option<Self> {
        match value.kind() {
            ValueKind::String => Self::parse(value.as_str()?.trim()),
            ValueKind::Number if value.is_integer() => Self::parse(&value.to_string()),
            // The shortest text that reads as the same number.
            ValueKind::Number => Self::parse(&f64::try_from(value.clone()).ok()?.to_string()),
            _ => None,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = match text.strip_prefix('-').unwrap_or(text).split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (text.strip_prefix('-').unwrap_or(text), None),
        };
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let is_number = text.len() <= LENGTH_LIMIT && digits(whole) && fraction.is_none_or(digits);
        let mut decimal = is_number.then(|| Decimal::try_from_str(text).ok())??;
        decimal.absolute.trim_start();
        Some(Self(without_negative_zero(decimal)))
    }

    pub fn as_decimal(&self) -> &Decimal {
        &self.0
    }

    /// With exactly so many decimals, halves away from zero, as people round.
    pub fn rounded(&self, digits: i16) -> Self {
        let mut decimal = self.0.clone();
        if decimal.absolute.digit_at(-digits - 1) >= 5 {
            decimal.absolute.expand(-digits);
        } else {
            decimal.absolute.trunc(-digits);
        }
        decimal.absolute.pad_end(-digits);
        Self(without_negative_zero(decimal))
    }

    /// Whether nothing but zeros is behind the point.
    pub fn is_whole(&self) -> bool {
        self.0.absolute.is_zero() || self.0.absolute.nonzero_magnitude_end() >= 0
    }

    /// Whether it is below zero, and how far from it.
    pub fn split_sign(self) -> (bool, Self) {
        let mut absolute = self.0;
        let sign = std::mem::replace(&mut absolute.sign, Decimal::default().sign);
        (sign != absolute.sign, Self(absolute))
    }
}

impl From<u64> for Number {
    fn from(number: u64) -> Self {
        Self(Decimal::from(number))
    }
}

fn without_negative_zero(mut decimal: Decimal) -> Decimal {
    if decimal.absolute.is_zero() {
        decimal.sign = Decimal::default().sign;
    }
    decimal
}

/// How many decimals `digits=` asks for.
pub(super) fn digits(value: &Value) -> Result<i16, FormatError> {
    let digits = i16::try_from(value.clone()).ok().filter(|digits| (0..=DIGITS_LIMIT).contains(digits));
    digits.ok_or_else(|| {
        FormatError::new("`number` has `digits` it cannot write", format!("write a number from 0 to {DIGITS_LIMIT}: digits=2"))
    })
}
