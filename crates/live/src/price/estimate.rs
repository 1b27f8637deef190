//! The table and what follows from it.

use super::Money;
use carreto_error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Bytes of the gigabyte that providers charge for.
const GIGABYTE: u128 = 1_000_000_000;
/// Nanoseconds of an hour.
const HOUR: u128 = 3600 * 1_000_000_000;

/// The section `[cost]` of a configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// The code of the currency, such as `EUR`; 1 to 8 letters.
    pub currency: String,
    /// For 10^9 bytes over the network, 0 to 1 000 000.
    #[serde(default)]
    pub per_gb_transferred: f64,
    /// For an hour of the receiver and whatever else runs meanwhile, 0 to 1 000 000.
    #[serde(default)]
    pub per_hour: f64,
}

/// An amount and what it consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// The code of the currency.
    pub currency: String,
    /// For the bytes.
    pub transfer: Money,
    /// For the time.
    pub time: Money,
    /// Both.
    pub total: Money,
}

impl Prices {
    /// What `bytes` over the network during `time` will cost.
    ///
    /// # Errors
    /// `Usage` naming the field of the table and its value.
    pub fn estimate(&self, bytes: u64, time: Duration) -> Result<Estimate> {
        let letters = self.currency.bytes().all(|byte| byte.is_ascii_alphabetic());
        if self.currency.is_empty() || self.currency.len() > 8 || !letters {
            let start: String = self.currency.chars().take(20).collect();
            return Err(refusal(format!("currency is {start:?}, expected 1 to 8 letters")));
        }
        let transfer = amount("per_gb_transferred", self.per_gb_transferred)?;
        let transfer = transfer.times(u128::from(bytes), GIGABYTE);
        let time = amount("per_hour", self.per_hour)?.times(time.as_nanos(), HOUR);
        let total = transfer.plus(time);
        Ok(Estimate { currency: self.currency.clone(), transfer, time, total })
    }
}

fn amount(field: &str, number: f64) -> Result<Money> {
    Money::of_units(number)
        .ok_or_else(|| refusal(format!("{field} is {number}, expected 0 to 1000000")))
}

fn refusal(detail: String) -> Error {
    Error::new(Kind::Usage, detail)
        .during("read the prices")
        .remedied_by("correct the section [cost] of the configuration, or remove it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prices(text: &str) -> Prices {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn sums() {
        let both = prices("currency = 'EUR'\nper_gb_transferred = 0.09\nper_hour = 0.5");
        let hours = Duration::from_mins(90);
        let found = both.estimate(250_000_000_000, hours).unwrap();
        assert_eq!(found.transfer.to_string(), "22.50");
        assert_eq!(found.time.to_string(), "0.75");
        assert_eq!(found.total.to_string(), "23.25");
        let json = serde_json::to_string(&found).unwrap();
        let wanted = r#"{"currency":"EUR","transfer":22.5,"time":0.75,"total":23.25}"#;
        assert_eq!(json, wanted);
        let free = prices("currency = 'EUR'").estimate(u64::MAX, Duration::MAX).unwrap();
        assert_eq!(free.total, Money::default());
        both.estimate(u64::MAX, Duration::MAX).unwrap();
    }

    #[test]
    fn whole_numbers_are_prices() {
        let found = prices("currency = 'JPY'\nper_hour = 12").estimate(0, Duration::from_hours(2));
        assert_eq!(found.unwrap().total.to_string(), "24.00");
    }

    #[test]
    fn refused() {
        for (text, part) in [
            ("currency = ''", "currency is \"\""),
            ("currency = 'E\\u001b'", "currency is"),
            ("currency = 'EUR'\nper_hour = -1", "per_hour is -1"),
            ("currency = 'EUR'\nper_gb_transferred = nan", "per_gb_transferred is NaN"),
            ("currency = 'EUR'\nper_hour = inf", "per_hour is inf"),
        ] {
            let error = prices(text).estimate(1, Duration::from_secs(1)).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage);
            assert!(error.to_string().contains(part), "{error}");
        }
        assert!(toml::from_str::<Prices>("currency = 'EUR'\nper_gib = 1.0").is_err());
    }
}
