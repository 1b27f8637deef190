//! Answers that do not arrive, and uploads that the store has forgotten.

use crate::bench::{Bench, Ears, KEY, PART, SIZE, noise, noted};
use carreto_error::{Kind, chain_text};
use carreto_migrate::{EncodeSpec, OutputFormat, StopReason, WriteOptions, encode};
use carreto_testkit::{Op, Reply};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// `reply` to the first request for `op`.
fn first(op: Op, reply: Reply) -> Bench {
    Bench::new(
        move |asked| {
            if asked.op == op && asked.repeats == 0 { reply.clone() } else { Reply::Honest }
        },
    )
}

/// Whichever request fails, and however: the object is there, once, and right.
#[tokio::test(flavor = "multi_thread")]
async fn whichever_request_breaks_there_is_one_right_object() {
    for reply in [Reply::Lose, Reply::Break] {
        for at in 0.. {
            let broken = reply.clone();
            let bench = Bench::new(
                move |asked| {
                    if asked.number == at { broken.clone() } else { Reply::Honest }
                },
            );
            bench.done().await;
            bench.holds_the_disk();
            let log = bench.bucket.log();
            let nameless = matches!(reply, Reply::Lose)
                && log.get(at).is_some_and(|asked| asked.op == Op::Create);
            let left = bench.bucket.uploads().len();
            assert_eq!(left, usize::from(nameless), "an upload whose name got lost stays behind");
            if at >= log.len() {
                assert!(at > 6, "{at} requests are too few");
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_of_complete_is_settled_by_looking() {
    let bench = first(Op::Complete, Reply::Lose);
    bench.done().await;
    bench.holds_the_disk();
    assert_eq!(bench.bucket.count(Op::Complete), 2, "it was asked again");
    let log: Vec<Op> = bench.bucket.log().iter().map(|asked| asked.op).collect();
    let last = log.iter().rposition(|op| *op == Op::Complete).unwrap();
    assert_eq!(log[last + 1], Op::Head, "and then looked at");
    assert_eq!(bench.bucket.count(Op::Create), 1, "nothing was sent anew");
}

/// versitygw takes the name away for a moment when the same upload is completed twice at once.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_may_take_a_moment_to_appear() {
    let left = AtomicUsize::new(usize::MAX);
    let bench = Bench::new(move |asked| match asked.op {
        Op::Complete => {
            left.store(2, Relaxed);
            Reply::Honest
        }
        Op::Head
            if left
                .fetch_update(Relaxed, Relaxed, |n| (1..9).contains(&n).then(|| n - 1))
                .is_ok() =>
        {
            Reply::Refuse("404 Not Found", "", "")
        }
        _ => Reply::Honest,
    });
    bench.done().await;
    bench.holds_the_disk();
    assert_eq!(bench.bucket.count(Op::Create), 1, "nothing was sent anew");
}

/// S3 says 200 before it knows (API reference of `CompleteMultipartUpload`).
#[tokio::test(flavor = "multi_thread")]
async fn a_complete_that_fails_inside_a_success_is_asked_again() {
    let page = "<Error><Code>InternalError</Code><Message>We erred</Message></Error>";
    let bench = first(Op::Complete, Reply::Refuse("200 OK", "", page));
    bench.done().await;
    bench.holds_the_disk();
    assert_eq!(bench.bucket.count(Op::Complete), 2);
    assert_eq!(bench.bucket.count(Op::Create), 1, "nothing was sent anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_expires_in_the_middle_is_begun_anew_and_said_so() {
    for number in [1, 2, 3] {
        let bench = first(Op::Part(number), Reply::Expire);
        let (report, events) = bench.done().await;
        bench.holds_the_disk();
        assert!(noted(&events, "everything is sent again"), "{number}");
        assert_eq!((report.resumed_bytes, bench.bucket.count(Op::Create)), (0, 2), "{number}");
        assert_eq!(bench.bucket.uploads(), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_expires_at_the_end_is_begun_anew() {
    let bench = first(Op::Complete, Reply::Expire);
    let (report, events) = bench.done().await;
    bench.holds_the_disk();
    assert!(noted(&events, "everything is sent again"));
    assert_eq!(report.sent_bytes, 2 * SIZE as u64, "both times count");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_expires_between_two_runs_is_begun_anew() {
    // Once with parts that have arrived, and once without any.
    for items in [5, 1] {
        let bench = Bench::new(|_| Reply::Honest);
        let (_, outcome) = bench.run(&Ears::stopping(items)).await;
        assert_eq!(outcome.unwrap_err().kind(), Kind::Cancelled);
        bench.bucket.expire();
        let (report, events) = bench.done().await;
        bench.holds_the_disk();
        assert!(noted(&events, "everything is sent again"), "{items}");
        assert_eq!(report.resumed_bytes, 0, "what is gone was not resumed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_forgets_every_upload_is_given_up() {
    let bench = Bench::new(|asked| match asked.op {
        Op::Part(_) => Reply::Expire,
        _ => Reply::Honest,
    });
    assert_eq!(bench.kind().await, Kind::NotFound);
    assert!(bench.bucket.count(Op::Create) <= 3, "it does not go on for ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_whose_answer_got_lost_is_sent_again() {
    let bench = first(Op::Part(2), Reply::Lose);
    let (report, _) = bench.done().await;
    bench.holds_the_disk();
    let again = bench.bucket.count(Op::Part(2));
    assert_eq!((again, report.retries, report.sent_bytes), (2, 1, SIZE as u64));
}

/// The object was made, and then the process ended before it could note that.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_died_behind_complete_is_done_without_sending_anything() {
    for output in [OutputFormat::Raw, OutputFormat::Qcow2, OutputFormat::VmdkStream] {
        let ears = Arc::<Ears>::default();
        let stop = ears.stop.clone();
        let bench = Bench::new(move |asked| match asked.op {
            Op::Complete if asked.repeats == 0 => {
                stop.request(StopReason::Cancelled);
                Reply::Lose
            }
            _ => Reply::Honest,
        });
        let spec = EncodeSpec { output: WriteOptions::new(output), ..bench.spec() };
        let (_, outcome) = encode(&bench.setup(&ears), &spec).await;
        assert_eq!(outcome.unwrap_err().kind(), Kind::Cancelled);
        // The store makes it after the client has gone.
        while bench.bucket.object(KEY).is_none() {
            tokio::task::yield_now().await;
        }
        let made = bench.bucket.object(KEY).unwrap();
        let (report, outcome) = encode(&bench.setup(&Arc::default()), &spec).await;
        outcome.unwrap();
        assert_eq!((report.sent_bytes, bench.checkpoints()), (0, 0), "{output:?}");
        assert_eq!(report.resumed_bytes, made.bytes.len() as u64, "{output:?}");
        assert_eq!(bench.bucket.object(KEY), Some(made), "{output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_found_by_reading_back() {
    let bench = first(Op::Part(2), Reply::Flip(1000));
    let spec = EncodeSpec { read_back: true, ..bench.spec() };
    let (report, outcome) = encode(&bench.setup(&Arc::default()), &spec).await;
    let error = outcome.unwrap_err();
    assert_eq!((error.kind(), report.read_back), (Kind::Mismatch, false), "{error}");
    assert!(error.remedy().contains("--force"), "{}", error.remedy());
    assert_eq!(bench.checkpoints(), 0, "the parts are not to be used again");
    let spec = EncodeSpec { replace: true, ..spec };
    let (report, outcome) = encode(&bench.setup(&Arc::default()), &spec).await;
    outcome.unwrap();
    assert!(report.read_back);
    assert_eq!((report.resumed_bytes, report.sent_bytes), (0, SIZE as u64));
    bench.holds_the_disk();
}

/// A damaged table makes the object unreadable, which is no fault of the image.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_of_a_table_is_a_mismatch_too() {
    let bench = first(Op::Part(1), Reply::Flip((64 << 10) + 1));
    std::fs::write(bench.path("disk.raw"), vec![0; 4 << 20]).unwrap();
    let output = WriteOptions::new(OutputFormat::Qcow2);
    let spec = EncodeSpec { read_back: true, output, ..bench.spec() };
    let (_, outcome) = encode(&bench.setup(&Arc::default()), &spec).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), Kind::Mismatch, "{error}");
    assert!(chain_text(&error).contains("no whole image"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrived_is_not_sent_again_by_the_next_run() {
    let bench = Bench::new(|_| Reply::Honest);
    let (before, outcome) = bench.run(&Ears::stopping(5)).await;
    assert_eq!(outcome.unwrap_err().kind(), Kind::Cancelled);
    assert!(before.sent_bytes >= PART);
    assert_eq!(bench.bucket.object(KEY), None, "nothing is visible");
    let (report, _) = bench.done().await;
    bench.holds_the_disk();
    assert_eq!(report.resumed_bytes, before.sent_bytes);
    assert_eq!(report.resumed_bytes + report.sent_bytes, SIZE as u64);
    assert!(noise(8, 1) == bench.disk[..8], "the disk is what the store got");
}
