//! Rates as rclone writes them.

use carreto_error::{Error, Kind, Result};

/// Units that a fraction is counted in: three digits after the point.
const FRACTION: u64 = 1000;
/// What a number without a suffix counts.
const DEFAULT_UNIT: u64 = 1024;

/// The bytes per second of `text`; `None` for `off` and 0, which mean no limit.
///
/// A number, with up to three digits after a point, and `B`, `K`, `M`, `G` or `T` for powers of
/// 1024; `Ki` and `KiB` mean the same as `K`, and no suffix means KiB.
pub(super) fn parse(text: &str) -> Result<Option<u64>> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let digits = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, suffix) = text.split_at(digits);
    let unit = unit(suffix).ok_or_else(|| refusal(text))?;
    let thousandths = thousandths(number).ok_or_else(|| refusal(text))?;
    let bytes = thousandths.checked_mul(unit).ok_or_else(|| refusal(text))?;
    if bytes == 0 {
        return Ok(None);
    }
    // A fraction of a byte is a limit too: never round one down to none.
    Ok(Some(bytes.div_ceil(FRACTION)))
}

fn unit(suffix: &str) -> Option<u64> {
    let lower = suffix.to_ascii_lowercase();
    Some(match lower.as_str() {
        "" => DEFAULT_UNIT,
        "b" => 1,
        "k" | "ki" | "kib" => 1 << 10,
        "m" | "mi" | "mib" => 1 << 20,
        "g" | "gi" | "gib" => 1 << 30,
        "t" | "ti" | "tib" => 1 << 40,
        _ => return None,
    })
}

fn thousandths(number: &str) -> Option<u64> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let given = !whole.is_empty() || !part.is_empty();
    if !given || part.len() > 3 || part.contains('.') {
        return None;
    }
    let parse = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u64>().ok() };
    let scale = 10_u64.pow(3 - u32::try_from(part.len()).ok()?);
    parse(whole)?.checked_mul(FRACTION)?.checked_add(parse(part)?.checked_mul(scale)?)
}

fn refusal(text: &str) -> Error {
    let start: String = text.chars().take(40).collect();
    let wanted = "expected a number with B, K, M, G or T (bytes per second in powers of 1024; \
                  KiB without a letter), or off";
    Error::new(Kind::Usage, format!("the rate is {start:?}, {wanted}"))
        .during("read the bandwidth limit")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (text, wanted) in [
            ("off", None),
            ("OFF", None),
            ("0", None),
            ("0.0M", None),
            ("512", Some(512 << 10)),
            ("666b", Some(666)),
            ("10M", Some(10 << 20)),
            ("1.5MiB", Some(3 << 19)),
            (".5k", Some(512)),
            ("2.g", Some(2 << 30)),
            ("1T", Some(1 << 40)),
            ("0.001B", Some(1)),
        ] {
            assert_eq!(parse(text).unwrap(), wanted, "{text}");
        }
        for bad in
            ["", ".", "x", "1X", "1.2345M", "-1", "1 M", "1.2.3", "1:2", "99999999999999999T"]
        {
            let error = parse(bad).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage);
            assert!(error.to_string().contains(bad), "{error}");
        }
    }
}
