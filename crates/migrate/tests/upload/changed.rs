//! Sources and targets that change while an upload is under way or waits to be resumed.

use crate::bench::{Bench, Ears, KEY, SIZE, noise, noted};
use carreto_error::Kind;
use carreto_migrate::{EncodeSpec, encode};
use carreto_testkit::{Op, Reply};
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_changed_between_two_runs_is_sent_anew() {
    let mut bench = Bench::new(|_| Reply::Honest);
    let (_, outcome) = bench.run(&Ears::stopping(5)).await;
    assert_eq!(outcome.unwrap_err().kind(), Kind::Cancelled);
    bench.disk = noise(SIZE, 2);
    std::fs::write(bench.path("disk.raw"), &bench.disk).unwrap();
    let (report, events) = bench.done().await;
    bench.holds_the_disk();
    assert!(noted(&events, "the image changed"));
    assert_eq!(report.resumed_bytes, 0);
    assert_eq!((bench.bucket.count(Op::Abort), bench.bucket.uploads().len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_changes_during_a_run_makes_no_object() {
    let mut bench = Bench::new(|_| Reply::Honest);
    let path = bench.path("disk.raw");
    let ears = Ears::acting(move |items| {
        if items == 4 {
            std::fs::write(&path, noise(SIZE, 3)).unwrap();
        }
    });
    let (report, outcome) = bench.run(&ears).await;
    assert_eq!(outcome.unwrap_err().kind(), Kind::SourceChanged);
    assert_eq!((report.file_size, report.error.unwrap().exit), (None, 6));
    assert_eq!((bench.bucket.keys(), bench.bucket.count(Op::Complete)), (Vec::new(), 0));
    bench.disk = noise(SIZE, 3);
    bench.done().await;
    bench.holds_the_disk();
    assert_eq!(bench.bucket.uploads(), Vec::<String>::new());
}

/// Somebody else's object appears under the name while the parts travel.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_appeared_meanwhile_is_not_replaced_unasked() {
    // Also one of the same size, which could be taken for the own one.
    for foreign in [b"theirs".to_vec(), noise(SIZE, 9)] {
        let theirs = foreign.clone();
        let bench = Bench::new(move |asked| match (asked.op, asked.repeats) {
            (Op::Part(3), 0) => Reply::Before(theirs.clone()),
            _ => Reply::Honest,
        });
        assert_eq!(bench.kind().await, Kind::Usage);
        assert_eq!(bench.bucket.object(KEY).unwrap().bytes, foreign);
        assert_eq!((bench.bucket.count(Op::Complete), bench.checkpoints()), (0, 1));
        let spec = EncodeSpec { replace: true, ..bench.spec() };
        let (report, outcome) = encode(&bench.setup(&Arc::default()), &spec).await;
        outcome.unwrap();
        bench.holds_the_disk();
        assert_eq!(report.sent_bytes, 0, "the parts are still there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_appeared_before_a_resumed_run_is_seen_before_anything_is_sent() {
    let bench = Bench::new(|asked| match (asked.op, asked.repeats) {
        (Op::Part(1), 0) => Reply::Before(b"theirs".to_vec()),
        _ => Reply::Honest,
    });
    let (_, outcome) = bench.run(&Ears::stopping(5)).await;
    assert_eq!(outcome.unwrap_err().kind(), Kind::Cancelled);
    let sent = bench.bucket.log().len();
    assert_eq!(bench.kind().await, Kind::Usage);
    let since = &bench.bucket.log()[sent..];
    assert!(since.iter().all(|asked| asked.op == Op::Head), "{since:?}");
    assert_eq!(bench.bucket.object(KEY).unwrap().bytes, b"theirs");
}
