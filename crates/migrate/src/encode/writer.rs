//! Lays out items, and sends the parts that become complete.

use super::assembly::{Assembly, Content, Part};
use super::dense::Dense;
use super::guest::ExpectedParts;
use super::sink::Sink;
use async_trait::async_trait;
use carreto_block::{ByteRange, Source};
use carreto_error::{Error, Kind, Result};
use carreto_formats::write::{
    Encoder, Form, Packed, Packer, Segment, forms_from_bytes, forms_to_bytes,
};
use carreto_transfer::{
    ChunkDigest, Consumer, ContentDigest, DonePart, Engine, LaidItem, Lease, PartJournal,
    PartsDone, chunk_digests_of, map_ordered,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::{JoinError, JoinSet};

/// What the work on an item gives.
type Worked = (Packed, Vec<(u64, ChunkDigest)>);

/// A file in the making.
pub(super) struct Writer {
    pub(super) encoder: Box<dyn Encoder>,
    pub(super) packer: Packer,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) journal: PartJournal,
    pub(super) assembly: Assembly,
    pub(super) part_size: u64,
    /// So many parts the sink takes.
    pub(super) most_parts: u64,
    /// Parts that are sent at once.
    pub(super) parallel: usize,
    /// The parts that have arrived.
    pub(super) parts: BTreeMap<u64, DonePart>,
    /// What the parts of the source are, by its manifest.
    pub(super) expected: Option<ExpectedParts>,
    pub(super) content: ContentDigest,
    pub(super) sent: u64,
    /// Bytes of arrived parts that turned out to be others.
    pub(super) resent: u64,
    pub(super) data: u64,
    pub(super) flight: JoinSet<Result<(u64, DonePart)>>,
    /// Items that were laid out before and are read again, because a part with their bytes did
    /// not arrive.
    pub(super) again: VecDeque<(LaidItem, Vec<Segment>)>,
}

impl Writer {
    /// Goes on behind what `done` says and reads the rest of `source`.
    ///
    /// # Errors
    /// What reading, compressing and sending meet.
    pub(super) async fn write(
        &mut self,
        engine: &Engine,
        source: &Arc<dyn Source>,
        done: PartsDone,
    ) -> Result<()> {
        let mut from = 0;
        let mut at = self.assembly.len();
        for item in done.items {
            let mut segments = Vec::new();
            let forms = self.forms_of(&item)?;
            self.encoder.place(item.range.start(), &forms, &mut segments)?;
            let len = segments.iter().map(Segment::len).sum();
            self.content.extend(item.digests.iter().copied());
            from = item.range.end();
            if self.assembly.is_done(at, len) {
                self.read_again(engine, source).await?;
                self.assembly.skip(len);
            } else {
                self.again.push_back((item, segments));
            }
            at += len;
        }
        self.read_again(engine, source).await?;
        let rest = ByteRange::whole(source.size()).split_at(from).1;
        self.read(engine, source, rest).await
    }

    async fn read_again(&mut self, engine: &Engine, source: &Arc<dyn Source>) -> Result<()> {
        let dense: Arc<dyn Source> = Arc::new(Dense(Arc::clone(source)));
        while let Some((range, items)) = self.next_run() {
            let left = self.again.len() - items;
            self.read(engine, &dense, range).await?;
            if self.again.len() != left {
                return Err(laid_out_differently());
            }
        }
        Ok(())
    }

    /// The items to be read again that follow one another: their range, and how many they are.
    fn next_run(&self) -> Option<(ByteRange, usize)> {
        let mut ranges = self.again.iter().map(|(item, _)| item.range);
        let mut run = (ranges.next()?, 1);
        for range in ranges {
            match ByteRange::new(run.0.start(), range.end()) {
                Some(both) if range.start() == run.0.end() => run = (both, run.1 + 1),
                _ => break,
            }
        }
        Some(run)
    }

    async fn read(
        &mut self,
        engine: &Engine,
        source: &Arc<dyn Source>,
        range: ByteRange,
    ) -> Result<()> {
        let packer = self.packer;
        let work = move |start: u64, bytes: &[u8]| {
            Ok((packer.pack(bytes)?, chunk_digests_of(start, bytes)))
        };
        map_ordered(engine, Arc::clone(source), range, work, self).await
    }

    fn forms_of(&self, item: &LaidItem) -> Result<Vec<Form>> {
        let most = item.range.len().div_ceil(self.encoder.unit());
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let forms = forms_from_bytes(&item.layout, most).ok_or_else(laid_out_differently)?;
        // What does not shrink may grow by the frame of its codec.
        let sound = |form: &Form| match form {
            Form::Packed(len) => (1..=2 * self.encoder.unit()).contains(&u64::from(*len)),
            Form::Zero | Form::Plain => true,
        };
        if forms.iter().all(sound) { Ok(forms) } else { Err(laid_out_differently()) }
    }

    /// Ends the file: gives its size, once all parts have arrived.
    ///
    /// # Errors
    /// What sending meets.
    pub(super) async fn finish(&mut self) -> Result<u64> {
        let mut segments = Vec::new();
        let head = self.encoder.finish(&mut segments)?;
        self.push(&segments, &[], &[]);
        let size = self.assembly.len();
        let empty = Assembly::new(self.part_size, 0, std::collections::BTreeSet::new());
        for Part { index, content } in std::mem::replace(&mut self.assembly, empty).finish(&head) {
            let (content, digest) = hashed(content).await?;
            // The head is known at the end only; an earlier run may have come as far.
            let before = self.parts.get(&index);
            if before.is_none_or(|part| (part.len, part.digest) != (content.len(), digest)) {
                self.resent += before.map_or(0, |part| part.len);
                self.send(Part { index, content }).await?;
            }
        }
        self.land(0).await?;
        Ok(size)
    }

    fn push(&mut self, segments: &[Segment], guest: &[u8], packed: &[u8]) {
        let slice = |bytes: &'_ [u8], at: u64, len: u64| {
            let start = usize::try_from(at).unwrap_or(usize::MAX);
            let end = start.saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
            start..end.min(bytes.len())
        };
        for segment in segments {
            match segment {
                Segment::Guest { at, len } => self.assembly.push(&guest[slice(guest, *at, *len)]),
                Segment::Packed { at, len } => {
                    self.assembly.push(&packed[slice(packed, *at, *len)]);
                }
                Segment::Bytes(bytes) => self.assembly.push(bytes),
                Segment::Zero(len) => self.assembly.push_zeros(*len),
            }
        }
    }

    async fn send(&mut self, part: Part) -> Result<()> {
        self.land(self.parallel - 1).await?;
        if part.index >= self.most_parts {
            let text = format!("the object needs more than {} parts", self.most_parts);
            let remedy = "run again with --restart and a larger --part-size";
            return Err(Error::new(Kind::Limit, text).remedied_by(remedy));
        }
        let (sink, offset) = (Arc::clone(&self.sink), part.index * self.part_size);
        let expected = self.expected.clone();
        self.flight.spawn(async move {
            let Part { index, content } = part;
            let len = content.len();
            let (content, digest) = hashed(content).await?;
            if let Some(expected) = expected {
                expected.check(index, offset, &digest)?;
            }
            let name = sink.put(index, offset, content).await?;
            Ok((index, DonePart { len, digest, name }))
        });
        Ok(())
    }

    /// Writes down the parts that arrive within `patience`; the others are sent again.
    pub(super) async fn save(&mut self, patience: Duration) {
        let _lost = tokio::time::timeout(patience, async {
            while let Some(joined) = self.flight.join_next().await {
                // The run has failed already, and a part that did not arrive is no news.
                let _failed = self.note(joined);
            }
        })
        .await;
    }

    /// Waits until at most `left` parts are on their way.
    async fn land(&mut self, left: usize) -> Result<()> {
        while self.flight.len() > left {
            let Some(joined) = self.flight.join_next().await else {
                break;
            };
            self.note(joined)?;
        }
        Ok(())
    }

    fn note(
        &mut self,
        joined: std::result::Result<Result<(u64, DonePart)>, JoinError>,
    ) -> Result<()> {
        let (index, part) = joined.map_err(|error| {
            Error::new(Kind::Internal, "a task ended unexpectedly").caused_by(error)
        })??;
        self.journal.part(index, &part)?;
        self.sent += part.len;
        self.parts.insert(index, part);
        Ok(())
    }
}

/// The checkpoint and the source do not fit together, although the source did not change.
fn laid_out_differently() -> Error {
    Error::new(Kind::Internal, "the image is laid out differently than in the checkpoint")
        .remedied_by("run again with --restart to begin anew")
}

/// The digest of so many zeros, once it is known: a sparse disk has the same part again and again.
static ZEROS: Mutex<Option<(u64, [u8; 32])>> = Mutex::new(None);

fn hash_of_zeros(len: u64) -> [u8; 32] {
    let known = *ZEROS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, digest)) = known.filter(|(known, _)| *known == len) {
        return digest;
    }
    let mut hasher = blake3::Hasher::new();
    let zeros = [0; 4096];
    let mut left = len;
    while left > 0 {
        let now = left.min(zeros.len() as u64);
        hasher.update(&zeros[..usize::try_from(now).unwrap_or(0)]);
        left -= now;
    }
    let digest = *hasher.finalize().as_bytes();
    *ZEROS.lock().unwrap_or_else(PoisonError::into_inner) = Some((len, digest));
    digest
}

async fn hashed(content: Content) -> Result<(Content, [u8; 32])> {
    let hash = move || {
        let hash = match &content {
            Content::Bytes(bytes) => *blake3::hash(bytes).as_bytes(),
            Content::Zeros(len) => hash_of_zeros(*len),
        };
        (content, hash)
    };
    tokio::task::spawn_blocking(hash)
        .await
        .map_err(|error| Error::new(Kind::Internal, "a task ended unexpectedly").caused_by(error))
}

#[async_trait]
impl Consumer<Worked> for Writer {
    async fn zero(&mut self, _range: ByteRange) -> Result<()> {
        Ok(())
    }

    async fn data(
        &mut self,
        range: ByteRange,
        (packed, digests): Worked,
        bytes: Lease,
    ) -> Result<()> {
        let item = LaidItem { range, layout: forms_to_bytes(&packed.forms), digests };
        let segments = match self.again.pop_front() {
            Some((before, segments)) if before == item => segments,
            Some(_) => return Err(laid_out_differently()),
            None => {
                let mut segments = Vec::new();
                self.encoder.place(range.start(), &packed.forms, &mut segments)?;
                self.journal.item(&item)?;
                self.content.extend(item.digests);
                segments
            }
        };
        // A part counts from the moment that it is written down.
        while let Some(joined) = self.flight.try_join_next() {
            self.note(joined)?;
        }
        self.data += range.len();
        self.push(&segments, bytes.bytes(), &packed.bytes);
        drop(bytes);
        for part in self.assembly.take_ready() {
            self.send(part).await?;
        }
        Ok(())
    }
}
