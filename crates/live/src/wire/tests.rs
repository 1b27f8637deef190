//! Messages there and back, and bytes that nobody should send.

use super::*;
use crate::ledger::Known;
use proptest::prelude::*;

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let entry = (any::<u32>(), any::<[u8; 32]>(), any::<Option<(u16, u64)>>());
    prop::collection::vec(entry, 0..=BATCH_GRANULES).prop_map(|mut list| {
        list.sort_by_key(|entry| entry.0);
        list.dedup_by_key(|entry| entry.0);
        let entry = |(granule, leaf, same_as)| Entry { granule: u64::from(granule), leaf, same_as };
        list.into_iter().map(entry).collect()
    })
}

proptest! {
    #[test]
    fn batches_arrive_as_they_were(
        sequence: u64, disk: u16, packed: bool, entries in entries(), payload: Vec<u8>,
    ) {
        let batch = Batch { sequence, disk, entries, packed, payload: &payload };
        let mut bytes = batch.encode_head();
        bytes.extend(&payload);
        prop_assert_eq!(Batch::decode(&bytes)?, batch);
    }

    #[test]
    fn pages_arrive_as_they_were(
        disk: u16, page: u64,
        granules in prop::collection::vec(any::<Option<Option<[u8; 32]>>>(), 0..1024),
    ) {
        let known = |value: Option<[u8; 32]>| value.map_or(Known::Zero, Known::Leaf);
        let granules = granules.into_iter().map(|value| value.map(known)).collect();
        let page = LedgerPage { disk, page, granules };
        prop_assert_eq!(LedgerPage::decode(&page.encode())?, page);
    }

    #[test]
    fn no_bytes_make_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let results = [
            Batch::decode(&bytes).err(),
            LedgerPage::decode(&bytes).err(),
            PageValues::decode(&bytes).err(),
            Ranges::decode(&bytes).err(),
            Answer::decode(&bytes).err(),
        ];
        for error in results.into_iter().flatten() {
            prop_assert_eq!(error.kind(), Kind::Unavailable);
        }
    }
}

#[test]
fn page_values_arrive_as_they_were() {
    let values = PageValues { disk: 3, first: 16, values: vec![None, Some([4; 32]), None] };
    assert_eq!(PageValues::decode(&values.encode()).expect("good"), values);
}

#[test]
fn ranges_and_answers_arrive_as_they_were() {
    let ranges = Ranges { sequence: 9, disk: 2, ranges: vec![(0, 4), (4, 5), (70, 71)] };
    assert_eq!(Ranges::decode(&ranges.encode()).expect("good"), ranges);
    let answer = Answer { sequence: 9, refused: vec![3, 4] };
    assert_eq!(Answer::decode(&answer.encode()).expect("good"), answer);
}

#[test]
fn what_breaks_a_rule_is_named() {
    let bad = Ranges { sequence: 1, disk: 0, ranges: vec![(4, 9), (8, 10)] };
    let error = Ranges::decode(&bad.encode()).expect_err("overlapping");
    assert!(error.detail().contains("start cannot be 8"), "{error}");
    let leaf = [0; 32];
    let twice = vec![Entry { granule: 7, leaf, same_as: None }; 2];
    let bad = Batch { sequence: 1, disk: 0, entries: twice, packed: false, payload: &[] };
    assert!(Batch::decode(&bad.encode_head()).is_err());
}

#[test]
fn what_opens_doors_is_sent_and_not_shown() {
    let ticket = || Hidden::new("0123abcd".to_owned());
    let hello = Hello {
        protocol: PROTOCOL,
        version: "1".to_owned(),
        server: "web1".to_owned(),
        secret: Some(ticket()),
        host: "h".to_owned(),
        preflight: false,
    };
    for message in [Control::Hello(hello), Control::Attach(Attach { ticket: ticket(), stream: 0 })]
    {
        assert!(serde_json::to_string(&message).expect("JSON").contains("\"0123abcd\""));
        assert!(!format!("{message:?}").contains("0123"));
    }
}

#[test]
fn a_message_is_called_what_it_is_on_the_wire() {
    let failed = Failed::of(&carreto_error::Error::new(carreto_error::Kind::Io, "x"));
    for message in [
        Control::Attached,
        Control::Open { disks: Vec::new() },
        Control::Opened { disks: Vec::new() },
        Control::Want { disk: 0, pages: Vec::new() },
        Control::Sync,
        Control::Synced,
        Control::Check { everything: true, most: None },
        Control::Checking { done: 0, of: 0 },
        Control::Checked { roots: Vec::new(), left: 0, read: 0, millis: 0 },
        Control::Commit { certificate: String::new() },
        Control::Committed { certificate: String::new() },
        Control::Ping,
        Control::Failed(failed),
    ] {
        let json = serde_json::to_value(&message).expect("JSON");
        assert_eq!(json["type"], message.name());
    }
}

#[test]
fn unknown_fields_are_ignored_and_unknown_messages_are_not() {
    let text = r#"{"type":"attach","ticket":"00","stream":1,"later":[1]}"#;
    assert!(matches!(serde_json::from_str(text), Ok(Control::Attach(Attach { stream: 1, .. }))));
    assert!(serde_json::from_str::<Control>(r#"{"type":"dance"}"#).is_err());
}

#[test]
fn a_program_is_told_whether_to_try_again() {
    use carreto_error::{Error, Kind};
    for (kind, retry) in [(Kind::Unavailable, "resume"), (Kind::TargetTooSmall, "after_remedy")] {
        let told = serde_json::to_value(Failed::of(&Error::new(kind, "x"))).expect("JSON");
        assert_eq!((&told["kind"], &told["retry"]), (&kind.name().into(), &retry.into()));
    }
    let older: Failed = serde_json::from_str(r#"{"kind":"io","detail":"x"}"#).expect("still good");
    assert_eq!(older.into_error().kind(), Kind::Io);
}

#[test]
fn a_receiver_that_says_less_about_its_targets_is_understood() {
    let text = r#"{"source":"vda","target":"/dev/vdb","size":7}"#;
    let planned: Planned = serde_json::from_str(text).expect("still good");
    assert_eq!((planned.size, planned.free, planned.problem), (Some(7), None, None));
}
