//! Schedules across hours, midnights and weeks, against a search minute by minute.

use super::Schedule;
use carreto_error::Kind;
use jiff::civil::{DateTime, date};
use jiff::{Span, tz::TimeZone};
use proptest::prelude::*;

const M: u64 = 1 << 20;

fn schedule(text: &str) -> Schedule {
    text.parse().unwrap()
}

/// 2026-01-05 is a Monday.
fn monday(days: i8, hour: i8, minute: i8) -> DateTime {
    date(2026, 1, 5 + days).at(hour, minute, 30, 0)
}

#[test]
fn one_rate_for_always() {
    for (text, rate) in [("off", None), ("0", None), ("10M", Some(10 * M)), (" 512 ", Some(M / 2))]
    {
        let one = schedule(text);
        assert_eq!(one.rate_at(monday(3, 4, 5)), rate, "{text}");
        assert_eq!(one.next_change(monday(3, 4, 5)), None);
        assert_eq!(schedule(&one.to_string()), one);
    }
    assert_eq!(Schedule::unlimited().rate_at(monday(0, 0, 0)), None);
    assert_eq!(schedule("Mon-03:00,1M").rate_at(monday(0, 0, 0)), Some(M));
}

#[test]
fn a_day_and_its_midnight() {
    let day = schedule("08:00,1M 20:00,off");
    for (hour, minute, rate) in [
        (0, 0, None),
        (7, 59, None),
        (8, 0, Some(M)),
        (19, 59, Some(M)),
        (20, 0, None),
        (23, 59, None),
    ] {
        assert_eq!(day.rate_at(monday(2, hour, minute)), rate, "{hour}:{minute}");
    }
    let (at, rate) = day.next_change(monday(6, 23, 30)).unwrap();
    assert_eq!((at, rate), (date(2026, 1, 12).at(8, 0, 0, 0), Some(M)));
    let (at, rate) = day.next_change(monday(0, 8, 0)).unwrap();
    assert_eq!((at, rate), (date(2026, 1, 5).at(20, 0, 0, 0), None));

    let night = schedule("18:00,512k;12:00,10M;08:00,off");
    assert_eq!(night.rate_at(monday(0, 0, 1)), Some(M / 2));
    assert_eq!(night.rate_at(monday(0, 12, 1)), Some(10 * M));
}

#[test]
fn a_week_as_rclone_has_it() {
    let week = schedule("Mon-00:00,512 Fri-23:59,10M Saturday-10:00,1M sun-20:00,off");
    for (day, hour, minute, rate) in [
        (0, 0, 0, Some(M / 2)),
        (4, 23, 58, Some(M / 2)),
        (4, 23, 59, Some(10 * M)),
        (5, 9, 59, Some(10 * M)),
        (5, 10, 0, Some(M)),
        (6, 19, 59, Some(M)),
        (6, 20, 0, None),
        (7, 0, 0, Some(M / 2)),
    ] {
        assert_eq!(week.rate_at(monday(day, hour, minute)), rate, "{day} {hour}:{minute}");
    }
    let mixed = schedule("Mon-00:00,512 12:00,1M Sun-20:00,off");
    let spelled = "Mon-00:00,512 Mon-12:00,1M Tue-12:00,1M Wed-12:00,1M Thu-12:00,1M \
                   Fri-12:00,1M Sat-12:00,1M Sun-12:00,1M Sun-20:00,off";
    assert_eq!(mixed, schedule(spelled));
    assert_eq!(schedule(&mixed.to_string()), mixed);
}

#[test]
fn summer_time_is_the_clocks() {
    let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
    let day = schedule("02:30,1M 03:30,off");
    let at = |text: &str| {
        let instant: jiff::Timestamp = text.parse().unwrap();
        day.rate_at(instant.to_zoned(zone.clone()).datetime())
    };
    // 2026-03-29: 02:00 is 03:00, so 02:30 is skipped, and its rate holds from 03:00 on.
    assert_eq!(at("2026-03-29T00:59:59Z"), None);
    assert_eq!(at("2026-03-29T01:00:00Z"), Some(M));
    assert_eq!(at("2026-03-29T01:30:00Z"), None);
    // 2026-10-25: 03:00 is 02:00, so 02:30 comes twice.
    assert_eq!(at("2026-10-25T00:30:00Z"), Some(M));
    assert_eq!(at("2026-10-25T01:00:00Z"), None);
    assert_eq!(at("2026-10-25T01:30:00Z"), Some(M));
}

#[test]
fn in_a_configuration() {
    #[derive(serde::Deserialize)]
    struct Config {
        bandwidth: Schedule,
    }
    let config: Config = toml::from_str("bandwidth = '08:00,1M 20:00,off'").unwrap();
    assert_eq!(config.bandwidth, schedule("08:00,1M 20:00,off"));
    let error = toml::from_str::<Config>("bandwidth = '08:00 1M'").err().unwrap();
    assert!(error.to_string().contains("HH:MM,RATE"), "{error}");
}

#[test]
fn what_is_refused() {
    for bad in [
        "",
        " ; ",
        "bad",
        "08:00",
        "8:00,1M",
        "24:00,1M",
        "08:60,1M",
        "08:00,x",
        "Foo-08:00,1M",
        "08:00,1M,2M",
        "08:00,1M 10M",
        "1M 2M",
        "08:00,1M 08:00,2M",
        "Mon-08:00,1M 08:00,2M",
        "+8:00,1M",
        "10M:1M",
        "-08:00,1M",
        "Mon-Tue-08:00,1M",
    ] {
        let error = bad.parse::<Schedule>().unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{bad}");
    }
    assert!("08:00,1M ".repeat(1000).parse::<Schedule>().is_err());
}

proptest! {
    #[test]
    fn any_text_is_an_answer(text in ".{0,40}", more in "[0-9MonTue:,. kKMGoff;-]{0,40}") {
        let _ = text.parse::<Schedule>();
        if let Ok(good) = more.parse::<Schedule>() {
            prop_assert_eq!(good.to_string().parse::<Schedule>().unwrap(), good);
        }
    }

    #[test]
    fn changes_are_where_a_search_finds_them(
        entries in prop::collection::btree_map((0..7_u8, 0..24_u8, 0..60_u8), 0..3_u64, 2..6),
        start in 0..7 * 24 * 60_i64,
    ) {
        let days = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
        let texts: Vec<_> = entries
            .iter()
            .map(|((d, h, m), rate)| format!("{}-{h:02}:{m:02},{rate}", days[usize::from(*d)]))
            .collect();
        let week = schedule(&texts.join(" "));
        let start = monday(0, 0, 0).checked_add(Span::new().minutes(start)).unwrap();
        let now = week.rate_at(start);
        let found = (1..=7 * 24 * 60)
            .map(|n| start.checked_add(Span::new().minutes(n)).unwrap())
            .find(|time| week.rate_at(*time) != now)
            .map(|time| (time.with().second(0).build().unwrap(), week.rate_at(time)));
        prop_assert_eq!(week.next_change(start), found);
    }
}
