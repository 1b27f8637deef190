//! A small hand-made blob, and every kind of damage.

use super::*;
use proptest::prelude::*;

/// Builds type information as a compiler would.
#[derive(Default)]
struct Blob {
    types: Vec<u8>,
    strings: Vec<u8>,
}

impl Blob {
    fn new() -> Self {
        Self { types: Vec::new(), strings: vec![0] }
    }

    fn name(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = u32::try_from(self.strings.len()).unwrap_or(0);
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        at
    }

    fn put(&mut self, words: &[u32]) {
        self.types.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }

    fn head(&mut self, name: &str, kind: u32, count: u32, size_or_type: u32) {
        let name = self.name(name);
        self.put(&[name, kind << 24 | count, size_or_type]);
    }

    fn member(&mut self, name: &str, kind: u32, bits: u32) {
        let name = self.name(name);
        self.put(&[name, kind, bits]);
    }

    fn bytes(&self) -> Vec<u8> {
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let (types, strings) = (len(&self.types), len(&self.strings));
        let mut all = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, types, types, strings] {
            all.extend(word.to_le_bytes());
        }
        all.extend(&self.types);
        all.extend(&self.strings);
        all
    }
}

/// 1 `unsigned int`, 2 `struct request` with an anonymous union (3), 4 pointer to it,
/// 5 a function of `(void *, struct request *, unsigned int)`, 6 pointer to it, 7 its name.
fn sample() -> Vec<u8> {
    let mut blob = Blob::new();
    blob.head("unsigned int", 1, 0, 4);
    blob.put(&[32]);
    blob.head("request", 4, 3, 32);
    blob.member("flag", 1, 3);
    blob.member("", 3, 64);
    blob.member("__sector", 1, 128);
    blob.head("", 5, 1, 8);
    blob.member("__data_len", 1, 32);
    blob.head("", 2, 0, 2);
    blob.head("", 13, 3, 0);
    blob.member("", 0, 0);
    blob.types.truncate(blob.types.len() - 4);
    for kind in [4, 1] {
        blob.put(&[0, kind]);
    }
    blob.head("", 2, 0, 5);
    blob.head("btf_trace_sample", 8, 0, 6);
    blob.bytes()
}

#[test]
fn fields_are_found_also_in_members_without_a_name() {
    let bytes = sample();
    let btf = Btf::parse(&bytes).unwrap();
    let request = btf.find(TypeKind::Struct, "request").unwrap();
    assert_eq!(request, 2);
    assert_eq!(btf.member(request, "__sector"), Some((16, 1)));
    assert_eq!(btf.member(request, "__data_len"), Some((12, 1)));
    assert_eq!(btf.member(request, "flag"), None, "it does not begin at a byte");
    assert_eq!(btf.member(request, "missing"), None);
    assert_eq!(btf.size(1), Some(4));
}

#[test]
fn the_parameters_of_a_trace_point_are_found() {
    let bytes = sample();
    let btf = Btf::parse(&bytes).unwrap();
    let hook = btf.find(TypeKind::Typedef, "btf_trace_sample").unwrap();
    assert_eq!(btf.parameters(hook), Some(vec![0, 4, 1]));
    assert_eq!(btf.pointee(4), Some(2));
    assert_eq!(btf.pointee(1), None);
    assert!(btf.is_named(2, "request") && !btf.is_named(2, "reques"));
}

#[test]
fn a_type_that_names_itself_ends() {
    let mut blob = Blob::new();
    blob.head("loop", 8, 0, 1);
    blob.head("nest", 4, 1, 8);
    blob.member("", 2, 0);
    let bytes = blob.bytes();
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(btf.size(1), None);
    assert_eq!(btf.member(2, "x"), None);
}

#[test]
fn damage_is_told_from_the_future() {
    let kind = |bytes: &[u8]| Btf::parse(bytes).unwrap_err().kind();
    assert_eq!(kind(b""), Kind::Corrupt);
    assert_eq!(kind(&sample()[..40]), Kind::Corrupt);
    let mut version = sample();
    version[2] = 2;
    assert_eq!(kind(&version), Kind::Unsupported);
    let mut blob = Blob::new();
    blob.head("x", 31, 0, 0);
    assert_eq!(kind(&blob.bytes()), Kind::Unsupported);
}

proptest! {
    #[test]
    fn bytes_of_any_kind_never_panic(
        flips in prop::collection::vec((0usize..400, any::<u8>()), 0..12),
        cut in 0usize..400,
    ) {
        let mut bytes = sample();
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        bytes.truncate(cut.max(1));
        if let Ok(btf) = Btf::parse(&bytes) {
            let request = btf.find(TypeKind::Struct, "request").unwrap_or(1);
            for id in 0..12 {
                let _ = (btf.member(id, "__data_len"), btf.parameters(id), btf.size(id));
                let _ = (btf.pointee(id), btf.is_named(id, "request"));
            }
            let _ = btf.member(request, "__sector");
        }
    }
}
