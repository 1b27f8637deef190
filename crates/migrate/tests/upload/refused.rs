//! Stores that ask to wait, keys that expire, and requests that never succeed.

use crate::bench::{Bench, Ears, KEY, SIZE};
use carreto_error::Kind;
use carreto_migrate::{RunEvent, Setup, StoreConfig, StoreEvent, encode};
use carreto_testkit::{Op, Reply};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SLOW_DOWN: &str = "<Error><Code>SlowDown</Code></Error>";

#[tokio::test(flavor = "multi_thread")]
async fn the_store_decides_how_long_a_part_waits() {
    let busy = Reply::Refuse("429 Too Many Requests", "retry-after: 1\r\n", SLOW_DOWN);
    let bench = Bench::new(move |asked| match (asked.op, asked.repeats) {
        (Op::Part(2), 0) => busy.clone(),
        _ => Reply::Honest,
    });
    let (report, events) = bench.done().await;
    bench.holds_the_disk();
    let delays: Vec<Duration> = events
        .iter()
        .filter_map(|event| match event {
            RunEvent::Store(StoreEvent::Throttled { delay, .. }) => Some(*delay),
            _ => None,
        })
        .collect();
    assert_eq!((delays, report.retries), (vec![Duration::from_secs(1)], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_stays_busy_leaves_a_checkpoint_to_go_on_from() {
    let busy = Reply::Refuse("503 Slow Down", "", SLOW_DOWN);
    let bench = Bench::new(move |asked| match (asked.op, asked.repeats) {
        (Op::Part(3), 0..3) => busy.clone(),
        _ => Reply::Honest,
    });
    let mut settings = bench.settings();
    settings.retry_for = Some(Duration::ZERO);
    let setup =
        Setup { stores: StoreConfig::new().with_flags(settings), ..bench.setup(&Arc::default()) };
    let (report, outcome) = encode(&setup, &bench.spec()).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert_eq!((report.error.unwrap().exit, bench.bucket.object(KEY)), (5, None));
    let (report, _) = bench.done().await;
    bench.holds_the_disk();
    assert!(report.resumed_bytes > 0, "what arrived counts");
    assert_eq!(report.resumed_bytes + report.sent_bytes, SIZE as u64);
}

fn profile(path: &Path, id: &str) {
    let text = format!(
        "[work]\naws_access_key_id = {id}\naws_secret_access_key = x\naws_session_token = {id}\n"
    );
    std::fs::write(path, text).unwrap();
}

/// Keys of an hour do not last for a large disk; the file that they are in is written anew.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_expire_during_an_upload_are_renewed() {
    let page = "<Error><Code>ExpiredToken</Code></Error>";
    for renewed in [true, false] {
        let expired = Arc::new(AtomicBool::new(false));
        let have_expired = Arc::clone(&expired);
        let bench = Bench::new(move |asked| {
            let old = asked.authorization.contains("AKIDold");
            let refused = old && have_expired.load(Ordering::SeqCst);
            if refused { Reply::Refuse("400 Bad Request", "", page) } else { Reply::Honest }
        });
        let path = bench.path("credentials");
        profile(&path, "AKIDold");
        let mut settings = bench.settings();
        settings.credentials = None;
        let stores = StoreConfig::new().with_flags(settings);
        let stores = stores.with_aws_profile_file(&path, "work").unwrap();
        let setup = |ears: &Arc<Ears>| Setup { stores: stores.clone(), ..bench.setup(ears) };
        let file = path.clone();
        let ears = Ears::acting(move |items| {
            if items == 2 {
                expired.store(true, Ordering::SeqCst);
                profile(&file, if renewed { "AKIDnew" } else { "AKIDold" });
            }
        });
        let (report, outcome) = encode(&setup(&ears), &bench.spec()).await;
        if renewed {
            outcome.unwrap();
            bench.holds_the_disk();
            assert_eq!(bench.bucket.count(Op::Create), 1, "nothing was sent anew");
            continue;
        }
        let error = outcome.unwrap_err();
        assert_eq!((error.kind(), report.error.unwrap().exit), (Kind::Denied, 10), "{error}");
        assert!(error.remedy().contains("new temporary credentials"), "{}", error.remedy());
        assert_eq!((bench.bucket.object(KEY), bench.checkpoints()), (None, 1));
        profile(&path, "AKIDnew");
        let (_, outcome) = encode(&setup(&Arc::default()), &bench.spec()).await;
        outcome.unwrap();
        bench.holds_the_disk();
        assert_eq!(bench.bucket.count(Op::Create), 1, "it goes on with the same upload");
    }
}
