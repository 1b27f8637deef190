//! Sizes and durations as people write and read them.

use std::time::Duration;

/// Parses `10M`, `10MiB` (both 10 × 2^20), `10MB` (10 × 10^6), `512`; an ending `/s` is allowed.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let plain = text.trim().trim_end_matches("/s");
    let split = plain.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(plain.len());
    let (number, unit) = plain.split_at(split);
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is not a size"))?;
    let factor = unit_factor(unit.trim()).ok_or_else(|| {
        format!("unknown unit {unit:?}; use K, M, G or T (powers of 1024) or KB, MB, GB, TB")
    })?;
    let bytes = number * factor;
    // 2^63 keeps the conversion exact enough and below the type's end.
    if !(0.0..9.2e18).contains(&bytes) {
        return Err(format!("{text:?} is out of range"));
    }
    Ok(whole(bytes))
}

/// The nearest whole number; numbers outside the type become its ends.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, which is what a display and a checked size want"
)]
pub(crate) fn whole(number: f64) -> u64 {
    number.round() as u64
}

fn unit_factor(unit: &str) -> Option<f64> {
    let binary = |power| Some(1024_f64.powi(power));
    let decimal = |power| Some(1000_f64.powi(power));
    match unit.to_ascii_lowercase().as_str() {
        "" | "b" => Some(1.0),
        "k" | "kib" => binary(1),
        "m" | "mib" => binary(2),
        "g" | "gib" => binary(3),
        "t" | "tib" => binary(4),
        "kb" => decimal(1),
        "mb" => decimal(2),
        "gb" => decimal(3),
        "tb" => decimal(4),
        _ => None,
    }
}

/// Parses `90`, `90s`, `1.5m`, `2h`, `1d` and sums such as `1h30m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration; use for example 90s, 10m or 2h");
    let mut rest = text.trim();
    let mut seconds = 0.0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..end].parse().map_err(|_| wrong())?;
        let unit_end =
            rest[end..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |n| end + n);
        seconds += number
            * match rest[end..unit_end].trim() {
                "ms" => 0.001,
                "" | "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86400.0,
                _ => return Err(wrong()),
            };
        rest = &rest[unit_end..];
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// `1.5 GiB`, or bytes below 1 KiB.
pub(crate) fn show_size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 || unit == "TiB" {
            let digits = usize::from(unit != "B" && value.fract() != 0.0);
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{bytes} B")
}

/// `1h02m`, `3m10s` or `4.2s`.
pub(crate) fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, _) => format!("{:.1}s", duration.as_secs_f64()),
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases = [
            ("0", 0),
            ("512", 512),
            ("10M", 10 << 20),
            ("10MiB", 10 << 20),
            ("10MB", 10_000_000),
            ("1.5G", 3 << 29),
            ("10m/s", 10 << 20),
            ("2T", 2 << 40),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "-1", "1X", "1e3", "99999999T", "nan"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations() {
        let cases = [("90", 90_000), ("1.5m", 90_000), ("1h30m", 5_400_000), ("250ms", 250)];
        for (text, millis) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "x", "1x", "-1s", "h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shown() {
        assert_eq!(show_size(1023), "1023 B");
        assert_eq!(show_size(10 << 30), "10 GiB");
        assert_eq!(show_size((3 << 30) / 2), "1.5 GiB");
        assert_eq!(show_duration(Duration::from_mins(62)), "1h02m");
        assert_eq!(show_duration(Duration::from_secs(190)), "3m10s");
        assert_eq!(show_duration(Duration::from_millis(4200)), "4.2s");
    }
}
