//! The throttle by a paused clock.

use super::{Schedule, Throttle, WallClock};
use jiff::Span;
use jiff::civil::{DateTime, date};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

const KIB: u64 = 1 << 10;

/// A wall clock that shows `start` when it is made and goes with tokio's.
#[derive(Debug)]
struct Clock {
    start: DateTime,
    made: Instant,
}

impl WallClock for Clock {
    fn now(&self) -> DateTime {
        let passed = i64::try_from(self.made.elapsed().as_millis()).unwrap();
        self.start.checked_add(Span::new().milliseconds(passed)).unwrap()
    }
}

fn throttle(schedule: &str, hour: i8, minute: i8, second: i8) -> Throttle {
    let start = date(2026, 1, 5).at(hour, minute, second, 0);
    let clock = Arc::new(Clock { start, made: Instant::now() });
    Throttle::new(schedule.parse().unwrap(), clock)
}

fn near(found: Duration, wanted: f64) {
    let found = found.as_secs_f64();
    assert!((found - wanted).abs() <= 0.02 + wanted * 0.01, "{found} s, expected {wanted} s");
}

#[tokio::test(start_paused = true)]
async fn the_rate_is_kept() {
    let (throttle, start) = (throttle("1M", 0, 0, 0), Instant::now());
    for _ in 0..160 {
        throttle.take(64 * KIB).await;
    }
    near(start.elapsed(), 10.0);
    throttle.take(0).await;
    near(start.elapsed(), 10.0);
}

#[tokio::test(start_paused = true)]
async fn a_rest_earns_a_quarter_of_a_second() {
    let throttle = throttle("1M", 0, 0, 0);
    tokio::time::sleep(Duration::from_mins(1)).await;
    let start = Instant::now();
    throttle.take(256 * KIB).await;
    near(start.elapsed(), 0.0);
    throttle.take(512 * KIB).await;
    near(start.elapsed(), 0.5);
}

#[tokio::test(start_paused = true)]
async fn no_limit_no_wait() {
    let (throttle, start) = (throttle("off", 0, 0, 0), Instant::now());
    throttle.take(u64::MAX).await;
    assert_eq!((start.elapsed(), throttle.rate()), (Duration::ZERO, None));
}

#[tokio::test(start_paused = true)]
async fn a_change_takes_effect_while_waiting() {
    // 10 s at 1 KiB/s, then as fast as it can.
    let (throttle, start) = (throttle("08:00,1k 20:00,off", 19, 59, 50), Instant::now());
    assert_eq!(throttle.rate(), Some(KIB));
    throttle.take(1 << 40).await;
    assert!(start.elapsed() >= Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(start.elapsed() <= Duration::from_millis(10_260), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_limit_begins_at_its_time() {
    let (throttle, start) = (throttle("08:00,1M 20:00,off", 7, 59, 59), Instant::now());
    throttle.take(1 << 40).await;
    near(start.elapsed(), 0.0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    throttle.take(4 << 20).await;
    // What was free before earns at most one burst.
    assert!(start.elapsed() >= Duration::from_millis(3750), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn another_schedule_reaches_those_who_wait() {
    let (throttle, start) = (throttle("1B", 0, 0, 0), Instant::now());
    let waiting = tokio::spawn({
        let throttle = throttle.clone();
        async move { throttle.take(1 << 30).await }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    throttle.set_schedule(Schedule::unlimited());
    waiting.await.unwrap();
    assert!(start.elapsed() <= Duration::from_millis(5260), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_trickle_trickles() {
    let (throttle, start) = (throttle("2B", 0, 0, 0), Instant::now());
    throttle.take(20).await;
    near(start.elapsed(), 10.0);
}

#[tokio::test(start_paused = true)]
async fn streams_share_alike() {
    let throttle = throttle("1M", 0, 0, 0);
    let streams: Vec<_> = [2 << 20, 64 * KIB, 16 * KIB]
        .map(|piece| {
            let throttle = throttle.clone();
            tokio::spawn(async move {
                let (mut sent, end) = (0_u64, Instant::now() + Duration::from_mins(1));
                while Instant::now() < end {
                    throttle.take(piece).await;
                    sent += piece;
                }
                sent
            })
        })
        .into_iter()
        .collect();
    let mut sent = Vec::new();
    for stream in streams {
        sent.push(stream.await.unwrap());
    }
    let total: u64 = sent.iter().sum();
    assert!((60 << 20..=64 << 20).contains(&total), "{sent:?}");
    // Equal pieces get equal shares; nobody is kept out.
    assert!(sent.iter().all(|one| *one > 1 << 20), "{sent:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_lets_the_next_one_pass() {
    let (throttle, start) = (throttle("1M", 0, 0, 0), Instant::now());
    for _ in 0..10 {
        let dropped = timeout(Duration::from_millis(50), throttle.take(1 << 30)).await;
        assert!(dropped.is_err());
    }
    throttle.take(1 << 20).await;
    assert!(start.elapsed() <= Duration::from_millis(1600), "{:?}", start.elapsed());
}
