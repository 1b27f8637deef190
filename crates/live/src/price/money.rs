//! Amounts without rounding errors.

use serde::{Serialize, Serializer};
use std::fmt;

/// Millionths of the unit of a currency.
const SCALE: u64 = 1_000_000;

/// An amount in millionths of a currency's unit. `Display` rounds to two digits after the point,
/// halves up; JSON has the number with up to six.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Money(u64);

impl Money {
    /// `number` units of the currency, `None` unless it is finite and 0 to 1 000 000.
    pub fn of_units(number: f64) -> Option<Self> {
        if !(0.0..=1e6).contains(&number) {
            return None;
        }
        let millionths = (number * SCALE as f64).round();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10^12")]
        Some(Self(millionths as u64))
    }

    /// Millionths of the unit.
    pub const fn millionths(self) -> u64 {
        self.0
    }

    /// `self` for each `unit` of `count`, rounded up. An amount too large for the type is its
    /// largest.
    pub(super) fn times(self, count: u128, unit: u128) -> Self {
        let amount = u128::from(self.0).saturating_mul(count).div_ceil(unit.max(1));
        Self(u64::try_from(amount).unwrap_or(u64::MAX))
    }

    /// The sum, or the largest amount.
    pub(super) fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cent = SCALE / 100;
        let cents = self.0 / cent + u64::from(self.0 % cent >= cent / 2);
        write!(f, "{}.{:02}", cents / 100, cents % 100)
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0 as f64 / SCALE as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        for (number, text) in [
            (0.0, "0.00"),
            (0.004_999, "0.00"),
            (0.005, "0.01"),
            (1.995, "2.00"),
            (1e6, "1000000.00"),
        ] {
            assert_eq!(Money::of_units(number).unwrap().to_string(), text);
        }
        for bad in [-0.01, 1e6 + 1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Money::of_units(bad), None);
        }
        let price = Money::of_units(0.09).unwrap();
        assert_eq!(serde_json::to_string(&price).unwrap(), "0.09");
        assert_eq!(price.times(3, 1).millionths(), 270_000);
        assert_eq!(price.times(1, 1_000_000).millionths(), 1);
        assert_eq!(price.times(u128::MAX, 1), Money(u64::MAX));
        assert_eq!(Money(u64::MAX).plus(price), Money(u64::MAX));
    }
}
