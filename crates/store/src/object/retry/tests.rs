//! The retry budget on a clock that stands still unless somebody waits.

use super::*;
use carreto_error::{Error, Kind};
use std::sync::Mutex;

#[derive(Debug, Default)]
struct Events(Mutex<Vec<StoreEvent>>);

impl StoreObserver for Events {
    fn observe(&self, event: StoreEvent) {
        self.0.lock().unwrap().push(event);
    }
}

fn shared<'a>(observer: &'a Events, throttle: &'a Throttle) -> Shared<'a> {
    Shared { observer, throttle, keys: None }
}

fn failure(again: Again) -> Failure {
    Failure::new(again, Error::new(Kind::Unavailable, "it broke"))
}

/// Fails until the loop gives up; returns the error's kind and text and the time that took.
async fn exhaust(again: Again, budget: u64, contact: bool) -> (String, Duration, usize) {
    let (events, throttle) = (Events::default(), Throttle::default());
    let mut retry = Retry::new("s3://b/k", shared(&events, &throttle), Duration::from_secs(budget));
    let start = Instant::now();
    loop {
        if let Err(error) = retry.pause(failure(again), contact).await {
            assert_eq!(error.kind(), Kind::Unavailable);
            let told = events.0.lock().unwrap().len();
            return (carreto_error::chain_text(&error), start.elapsed(), told);
        }
    }
}

/// The clock counts whole milliseconds, and every delay can be rounded up by one.
fn about(time: Duration, wanted: u64, events: usize) {
    let wanted = Duration::from_secs(wanted);
    let slack = Duration::from_millis(2 * events as u64);
    assert!(wanted <= time && time <= wanted + slack, "{time:?}, not {wanted:?}");
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_less_than_the_budget_is_waited_out() {
    for again in [Again::Later, Again::Throttled(None), Again::Connect] {
        let (text, time, told) = exhaust(again, 3600, true).await;
        about(time, 3600, told);
        assert!(text.contains("in 3600 s without success: it broke"), "{text}");
        assert!((180..500).contains(&told), "{told} requests in an hour");
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_never_answered_is_given_up_early() {
    let (_, time, told) = exhaust(Again::Connect, 3600, false).await;
    about(time, 60, told);
    let (_, time, told) = exhaust(Again::Connect, 5, false).await;
    about(time, 5, told);
}

#[tokio::test(start_paused = true)]
async fn senseless_answers_are_asked_for_a_few_times() {
    let (text, time, told) = exhaust(Again::Few, 3600, true).await;
    assert_eq!(told, 4);
    assert!(text.contains("made 5 times"), "{text}");
    assert!(time < Duration::from_secs(10), "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn the_server_may_ask_for_any_wait_within_the_budget() {
    let (events, throttle) = (Events::default(), Throttle::default());
    let mut retry = Retry::new("s3://b/k", shared(&events, &throttle), Duration::from_secs(100));
    let asked = Again::Throttled(Some(Duration::from_secs(70)));
    let start = Instant::now();
    retry.pause(failure(asked), true).await.unwrap();
    about(start.elapsed(), 70, 1);
    retry.pause(failure(asked), true).await.unwrap();
    about(start.elapsed(), 100, 2);
    assert!(retry.pause(failure(asked), true).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn progress_starts_the_budget_anew() {
    let (events, throttle) = (Events::default(), Throttle::default());
    let mut retry = Retry::new("s3://b/k", shared(&events, &throttle), Duration::from_secs(1));
    for _ in 0..50 {
        retry.pause(failure(Again::Later), true).await.unwrap();
        retry.pause(failure(Again::Later), true).await.unwrap();
        retry.progressed();
    }
    for event in &*events.0.lock().unwrap() {
        let StoreEvent::Retry { attempt, delay, .. } = event else {
            panic!("{event:?}");
        };
        assert!(*attempt <= 2 && *delay <= Duration::from_millis(400), "{event:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_help_is_not_tried() {
    let (events, throttle) = (Events::default(), Throttle::default());
    let mut retry = Retry::new("s3://b/k", shared(&events, &throttle), Duration::from_hours(1));
    let start = Instant::now();
    let error = retry.pause(failure(Again::Never), true).await.unwrap_err();
    assert_eq!(error.to_string(), "it broke");
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(events.0.lock().unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_throttled_request_holds_the_others() {
    let (events, throttle) = (Events::default(), Throttle::default());
    let start = Instant::now();
    throttle.wait().await;
    assert_eq!(start.elapsed(), Duration::ZERO, "nobody asked for a pause");
    let mut retry = Retry::new("s3://b/k", shared(&events, &throttle), Duration::from_secs(100));
    let asked = Again::Throttled(Some(Duration::from_secs(70)));
    let other = async {
        // Polled after the failure was told.
        tokio::task::yield_now().await;
        throttle.hold(Duration::from_secs(1));
        throttle.wait().await;
        about(start.elapsed(), 70, 1);
    };
    let (paused, ()) = tokio::join!(retry.pause(failure(asked), true), other);
    paused.unwrap();
    let mut broken = Retry::new("s3://b/k", shared(&events, &throttle), Duration::from_secs(100));
    let before = Instant::now();
    broken.pause(failure(Again::Later), true).await.unwrap();
    let after = Instant::now();
    throttle.wait().await;
    assert_eq!(after, Instant::now(), "a broken connection is nobody else's concern");
    assert!(after > before);
}
