//! A week of limits.

use super::rate;
use carreto_error::{Error, Kind, Result};
use jiff::Span;
use jiff::civil::{DateTime, Weekday};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Minutes of a day.
const DAY: u16 = 24 * 60;
/// Minutes of a week.
const WEEK: u16 = 7 * DAY;
/// Bytes of a text, at most.
const TEXT_LIMIT: usize = 4096;

/// Limits in bytes per second by the local time of the week.
///
/// The text is what rclone takes for `--bwlimit`: one rate for always (`10M`, `off`), or entries
/// of a time and the rate from then on, divided by white space or semicolons:
/// `08:00,512k 12:00,10M 18:00,off`. A time may begin with a day, `Mon-00:00,512`; without one it
/// is every day's. Before the first entry of the week its last one holds. Rates count bytes per
/// second with suffixes that are powers of 1024, and KiB per second without a suffix; 0 means
/// `off`, which is no limit. Unlike in rclone, two entries for the same minute are an error, and
/// there is no pair of rates for the two directions: only what the agent sends is limited.
///
/// Times are those of the clock on the wall: when summer time begins or ends, what the clock skips
/// is skipped and what it shows twice holds twice.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Schedule {
    /// By minute of the week, Monday 00:00 being 0; never two of a minute. Empty: no limit.
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    minute: u16,
    /// `None`: no limit.
    rate: Option<u64>,
}

impl Schedule {
    /// No limit at any time.
    pub fn unlimited() -> Self {
        Self::default()
    }

    /// `rate` bytes per second at any time; `None` or 0 is no limit.
    pub fn constant(rate: Option<u64>) -> Self {
        Self { entries: vec![Entry { minute: 0, rate: rate.filter(|rate| *rate > 0) }] }
    }

    /// Bytes per second that are allowed at `time`, `None` for no limit.
    pub fn rate_at(&self, time: DateTime) -> Option<u64> {
        let now = minute_of(time);
        let past = self.entries.partition_point(|entry| entry.minute <= now);
        let current = past.checked_sub(1).and_then(|index| self.entries.get(index));
        current.or(self.entries.last()).and_then(|entry| entry.rate)
    }

    /// When after `time` another rate holds, and which; `None` when it never changes.
    pub fn next_change(&self, time: DateTime) -> Option<(DateTime, Option<u64>)> {
        let (now, current) = (minute_of(time), self.rate_at(time));
        let first = self.entries.partition_point(|entry| entry.minute <= now);
        let (before, after) = self.entries.split_at(first);
        let next = after.iter().chain(before).find(|entry| entry.rate != current)?;
        let wait = (next.minute + WEEK - now) % WEEK;
        let minute = time.date().at(time.hour(), time.minute(), 0, 0);
        let start = minute.checked_add(Span::new().minutes(i64::from(wait))).ok()?;
        Some((start, next.rate))
    }

    fn of_entries(mut entries: Vec<Entry>) -> Result<Self> {
        entries.sort_by_key(|entry| entry.minute);
        for pair in entries.windows(2) {
            if pair[0].minute == pair[1].minute {
                let time = Time(pair[0].minute);
                return Err(refusal(format!("two rates begin at {time}, expected one")));
            }
        }
        Ok(Self { entries })
    }
}

fn minute_of(time: DateTime) -> u16 {
    let day = u16::from(time.weekday().to_monday_zero_offset().unsigned_abs());
    let hour = u16::from(time.hour().unsigned_abs());
    day * DAY + hour * 60 + u16::from(time.minute().unsigned_abs())
}

impl FromStr for Schedule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.len() > TEXT_LIMIT {
            return Err(refusal(format!("it has {} bytes, at most {TEXT_LIMIT}", text.len())));
        }
        let words = || text.split([' ', '\t', '\n', '\r', ';']).filter(|word| !word.is_empty());
        match (words().next(), words().nth(1)) {
            (None, _) => Err(refusal("it is empty, expected a rate or `off`".to_owned())),
            (Some(word), None) if !word.contains(',') => Ok(Self::constant(rate::parse(word)?)),
            _ => {
                let mut entries = Vec::new();
                words().try_for_each(|word| parse_entry(word, &mut entries))?;
                Self::of_entries(entries)
            }
        }
    }
}

impl TryFrom<String> for Schedule {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Schedule> for String {
    fn from(schedule: Schedule) -> Self {
        schedule.to_string()
    }
}

fn parse_entry(word: &str, entries: &mut Vec<Entry>) -> Result<()> {
    let bad = || {
        let start: String = word.chars().take(40).collect();
        refusal(format!("the entry is {start:?}, expected HH:MM,RATE or Mon-HH:MM,RATE"))
    };
    let (time, rate) = word.split_once(',').ok_or_else(bad)?;
    let rate = rate::parse(rate)?;
    let (day, time) = match time.split_once('-') {
        Some((day, time)) => (Some(parse_day(day).ok_or_else(bad)?), time),
        None => (None, time),
    };
    let minute = parse_time(time).ok_or_else(bad)?;
    let days = day.map_or(0..7, |day| day..day + 1);
    entries.extend(days.map(|day| Entry { minute: day * DAY + minute, rate }));
    Ok(())
}

/// The days from Monday on.
fn parse_day(text: &str) -> Option<u16> {
    let lower = text.to_ascii_lowercase();
    let names = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
    let index = names.iter().position(|name| lower == *name || lower == name[..3])?;
    u16::try_from(index).ok()
}

fn parse_time(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str, end: u16| {
        let plain = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|number| plain && *number < end)
    };
    Some(number(hour, 24)? * 60 + number(minute, 60)?)
}

/// A minute of the week as text.
struct Time(u16);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let day = i8::try_from(self.0 / DAY).ok().map(Weekday::from_monday_zero_offset);
        let name = match day {
            Some(Ok(Weekday::Monday)) => "Mon",
            Some(Ok(Weekday::Tuesday)) => "Tue",
            Some(Ok(Weekday::Wednesday)) => "Wed",
            Some(Ok(Weekday::Thursday)) => "Thu",
            Some(Ok(Weekday::Friday)) => "Fri",
            Some(Ok(Weekday::Saturday)) => "Sat",
            _ => "Sun",
        };
        write!(f, "{name}-{:02}:{:02}", self.0 % DAY / 60, self.0 % 60)
    }
}

impl fmt::Display for Schedule {
    /// A text that parses to the same schedule, with a day in each entry.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = |rate: Option<u64>| rate.map_or("off".to_owned(), |rate| format!("{rate}B"));
        match self.entries.as_slice() {
            [] => f.write_str("off"),
            [only] => f.write_str(&rate(only.rate)),
            entries => {
                for (index, entry) in entries.iter().enumerate() {
                    let space = if index == 0 { "" } else { " " };
                    write!(f, "{space}{},{}", Time(entry.minute), rate(entry.rate))?;
                }
                Ok(())
            }
        }
    }
}

fn refusal(detail: String) -> Error {
    Error::new(Kind::Usage, detail)
        .during("read the bandwidth limit")
        .remedied_by("write for example `10M`, `off` or `08:00,1M 20:00,off`")
}
