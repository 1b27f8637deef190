//! From extents to few large reads, decoded into one buffer.
//!
//! The path has two phases so that a caller can run them in different places: *read* moves bytes
//! from files into the output and a scratch buffer (I/O, on the network or by system calls);
//! *decode* turns what lies in the scratch buffer into output (CPU only).

use crate::{ByteRange, Extent, FileId, Packed, Placement, ReadHint, Source};
use carreto_error::{Error, Kind, Result, ResultExt};
use futures_util::future::try_join_all;
use std::ops::{Range, RangeInclusive};

/// How far apart pieces may lie to be read together, and how much one read may move.
#[derive(Debug, Clone, Copy)]
pub struct FetchTuning {
    /// The advice of the files underneath.
    pub hint: ReadHint,
    /// No coalesced read is longer than this many bytes, unless a single piece is.
    pub max_read: u32,
}

impl FetchTuning {
    /// Tuning for sources that answer with `hint`.
    pub const fn new(hint: ReadHint) -> Self {
        Self { hint, max_read: 8 << 20 }
    }
}

/// Something wanted from a file, and where it goes.
#[derive(Debug, Clone)]
struct Piece {
    file: FileId,
    offset: u64,
    len: u64,
    output: Range<usize>,
    packed: Option<Packed>,
}

impl Piece {
    fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

/// Bytes of gaps that a plan may read beyond the length of its range.
const SPARE: u64 = 4 << 20;

/// The bytes between pieces that may still be read and thrown away.
#[derive(Debug)]
struct GapBudget {
    left: u64,
    widest: u64,
}

impl GapBudget {
    /// Takes `gap` out of the budget; false when it is too wide or too much.
    fn take(&mut self, gap: u64) -> bool {
        let left = self.left.checked_sub(gap).filter(|_| gap <= self.widest);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }
}

/// One request to a file.
#[derive(Debug)]
struct Read {
    file: FileId,
    offset: u64,
    into: Into,
}

#[derive(Debug)]
enum Into {
    /// Straight to its place in the output.
    Output(Range<usize>),
    /// To scratch memory, from where pieces are copied or decoded.
    Scratch { bytes: Range<usize>, pieces: Range<usize> },
}

/// The reads and decodings that produce one range of a source.
#[derive(Debug)]
pub struct FetchPlan {
    range: ByteRange,
    reads: Vec<Read>,
    pieces: Vec<Piece>,
    zeroes: Vec<Range<usize>>,
    opaque: Vec<Range<usize>>,
    scratch_len: usize,
}

impl FetchPlan {
    /// Plans `range`, which `extents` must cover without gaps or overlaps (as
    /// [`Source::extents`] answers; a longer answer is clipped).
    ///
    /// # Errors
    /// `Internal` when the extents do not cover the range; `Limit` when the range does not fit
    /// in memory.
    pub fn new(range: ByteRange, extents: &[Extent], tuning: FetchTuning) -> Result<Self> {
        let mut plan = Self {
            range,
            reads: Vec::new(),
            pieces: Vec::new(),
            zeroes: Vec::new(),
            opaque: Vec::new(),
            scratch_len: 0,
        };
        let mut at = range.start();
        for extent in extents.iter().filter_map(|extent| extent.clip(range)) {
            if extent.range.start() != at {
                return Err(uncovered(range, at));
            }
            at = extent.range.end();
            plan.place(extent)?;
        }
        if at != range.end() {
            return Err(uncovered(range, at));
        }
        plan.coalesce(tuning);
        Ok(plan)
    }

    fn place(&mut self, extent: Extent) -> Result<()> {
        let output = self.output_range(extent.range)?;
        match extent.placement {
            Placement::Zero | Placement::Absent => self.zeroes.push(output),
            Placement::Opaque => self.opaque.push(output),
            Placement::Plain { file, offset } => {
                let len = extent.range.len();
                self.pieces.push(Piece { file, offset, len, output, packed: None });
            }
            Placement::Packed(packed) => self.pieces.push(Piece {
                file: packed.file,
                offset: packed.offset,
                len: u64::from(packed.len),
                output,
                packed: Some(packed),
            }),
        }
        Ok(())
    }

    fn output_range(&self, range: ByteRange) -> Result<Range<usize>> {
        let index = |at: u64| {
            usize::try_from(at - self.range.start())
                .map_err(|_| Error::new(Kind::Limit, "the range does not fit in memory"))
        };
        Ok(index(range.start())?..index(range.end())?)
    }

    /// Sorts the pieces by where they lie and joins neighbours into reads.
    fn coalesce(&mut self, tuning: FetchTuning) {
        self.pieces.sort_by_key(|piece| (piece.file, piece.offset));
        let mut gaps = self.gap_budget(tuning);
        let mut first = 0;
        while first < self.pieces.len() {
            let mut end = self.pieces[first].end();
            let mut next = first + 1;
            while next < self.pieces.len() {
                let Some(gap) = self.gap(next - 1..=next, end, tuning) else { break };
                let new_end = end.max(self.pieces[next].end());
                let fits = new_end - self.pieces[first].offset <= u64::from(tuning.max_read);
                if !fits || !gaps.take(gap) {
                    break;
                }
                end = new_end;
                next += 1;
            }
            self.push_read(first..next, end);
            first = next;
        }
    }

    /// The bytes between the read that ends at `end` and the second of two neighbouring pieces;
    /// `None` when they are better read apart.
    fn gap(&self, pair: RangeInclusive<usize>, end: u64, tuning: FetchTuning) -> Option<u64> {
        let (last, piece) = (&self.pieces[*pair.start()], &self.pieces[*pair.end()]);
        let most = match (&last.packed, &piece.packed) {
            (Some(_), Some(_)) => Some(tuning.hint.packed_gap),
            _ => tuning.hint.plain_gap,
        };
        let gap = piece.offset.saturating_sub(end);
        (piece.file == last.file && gap <= u64::from(most?)).then_some(gap)
    }

    /// Decides which gaps are read when all together would take more memory than the range is
    /// worth: the smallest, so that few requests are lost.
    fn gap_budget(&self, tuning: FetchTuning) -> GapBudget {
        let left = self.range.len().saturating_add(SPARE);
        let neighbours = 1..self.pieces.len();
        let mut gaps: Vec<u64> = neighbours
            .filter_map(|next| self.gap(next - 1..=next, self.pieces[next - 1].end(), tuning))
            .collect();
        gaps.sort_unstable();
        let mut sum = 0_u64;
        let refused = gaps.into_iter().find(|gap| {
            sum = sum.saturating_add(*gap);
            sum > left
        });
        GapBudget { left, widest: refused.unwrap_or(u64::MAX) }
    }

    fn push_read(&mut self, pieces: Range<usize>, end: u64) {
        let head = &self.pieces[pieces.start];
        let (file, offset) = (head.file, head.offset);
        let into = if pieces.len() == 1 && head.packed.is_none() {
            Into::Output(head.output.clone())
        } else {
            let len = usize::try_from(end - offset).unwrap_or(usize::MAX);
            let start = self.scratch_len;
            self.scratch_len = start.saturating_add(len);
            Into::Scratch { bytes: start..self.scratch_len, pieces }
        };
        self.reads.push(Read { file, offset, into });
    }

    /// The range the plan produces.
    pub fn range(&self) -> ByteRange {
        self.range
    }

    /// The bytes of scratch memory that the plan needs: those of the pieces that are not read
    /// straight into the output, and gaps of at most the length of the range and 4 MiB.
    pub fn scratch_len(&self) -> usize {
        self.scratch_len
    }

    /// Whether nothing has to be read: the whole range is zeros.
    pub fn is_zero(&self) -> bool {
        self.reads.is_empty() && self.opaque.is_empty()
    }

    /// The number of guest bytes that are not known to be zero.
    pub fn data_len(&self) -> u64 {
        self.range.len() - self.zeroes.iter().map(|range| range.len() as u64).sum::<u64>()
    }

    /// The number of bytes that reading moves, gaps included.
    pub fn read_len(&self) -> u64 {
        let direct = |range: &Range<usize>| range.len() as u64;
        self.reads
            .iter()
            .map(|read| match &read.into {
                Into::Output(range) | Into::Scratch { bytes: range, .. } => direct(range),
            })
            .chain(self.opaque.iter().map(direct))
            .sum()
    }

    /// Whether every file the plan reads of `source` has a blocking fast path.
    pub fn is_local(&self, source: &dyn Source) -> bool {
        let own = self.opaque.is_empty() || source.as_local().is_some();
        own && self.reads.iter().all(|read| {
            source.files().get(usize::from(read.file.0)).is_some_and(|f| f.as_local().is_some())
        })
    }

    /// First phase, with system calls on this thread. `output` is as long as the range, `scratch`
    /// as [`Self::scratch_len`].
    ///
    /// # Errors
    /// What the files meet; `Internal` when a file has no blocking path (see [`Self::is_local`]).
    pub fn read_local(
        &self,
        source: &dyn Source,
        output: &mut [u8],
        scratch: &mut [u8],
    ) -> Result<()> {
        for read in &self.reads {
            let file = file_of(source, read.file)?.as_local().ok_or_else(not_local)?;
            match &read.into {
                Into::Output(range) => file.read_local(read.offset, &mut output[range.clone()])?,
                Into::Scratch { bytes, .. } => {
                    file.read_local(read.offset, &mut scratch[bytes.clone()])?;
                }
            }
        }
        for range in &self.opaque {
            let offset = self.range.start() + range.start as u64;
            let local = source.as_local().ok_or_else(not_local)?;
            local.read_local(offset, &mut output[range.clone()])?;
        }
        Ok(())
    }

    /// First phase, all requests at once.
    ///
    /// Cancel safe: dropping it leaves the buffers unspecified and has no other effect.
    ///
    /// # Errors
    /// What the files meet.
    pub async fn read(
        &self,
        source: &dyn Source,
        output: &mut [u8],
        scratch: &mut [u8],
    ) -> Result<()> {
        let mut outputs = Vec::new();
        let mut scratches = Vec::new();
        for read in &self.reads {
            let file = file_of(source, read.file)?.as_ref();
            match &read.into {
                Into::Output(range) => outputs.push((range.clone(), file, read.offset)),
                Into::Scratch { bytes, .. } => scratches.push((bytes.clone(), file, read.offset)),
            }
        }
        for range in &self.opaque {
            outputs.push((range.clone(), source, self.range.start() + range.start as u64));
        }
        let jobs = carve(output, outputs).chain(carve(scratch, scratches));
        try_join_all(jobs.map(|(file, offset, buf)| file.read_at(offset, buf))).await?;
        Ok(())
    }

    /// Second phase: copies and decodes from `scratch` and fills the zeros, so that every byte of
    /// `output` is set.
    ///
    /// # Errors
    /// `Corrupt` when a unit does not decode, naming the guest bytes, the file and the offset.
    pub fn decode(&self, source: &dyn Source, output: &mut [u8], scratch: &[u8]) -> Result<()> {
        for range in &self.zeroes {
            output[range.clone()].fill(0);
        }
        for read in &self.reads {
            let Into::Scratch { bytes, pieces } = &read.into else {
                continue;
            };
            let bytes = &scratch[bytes.clone()];
            for piece in &self.pieces[pieces.clone()] {
                self.decode_piece(piece, read.offset, bytes, output)
                    .or_path(file_of(source, piece.file)?.name())?;
            }
        }
        Ok(())
    }

    fn decode_piece(&self, piece: &Piece, base: u64, read: &[u8], output: &mut [u8]) -> Result<()> {
        let slice = slice_of(read, piece.offset - base, piece.len)?;
        let output_bytes = &mut output[piece.output.clone()];
        let Some(packed) = &piece.packed else {
            output_bytes.copy_from_slice(slice);
            return Ok(());
        };
        unpack(packed, slice, output_bytes).map_err(|error| {
            let start = self.range.start() + piece.output.start as u64;
            let codec = packed.codec.name();
            Error::new(error.kind(), format!("the guest bytes from {start} on do not decode"))
                .during(format!("decode {codec} data"))
                .offset(piece.offset)
                .caused_by(error)
        })
    }
}

/// Decodes a unit of which `output` may be only a part.
fn unpack(packed: &Packed, input: &[u8], output: &mut [u8]) -> Result<()> {
    let (unit, skip) = (packed.unit as usize, packed.skip as usize);
    if skip == 0 && output.len() == unit {
        return packed.codec.decode(input, packed.tag, output);
    }
    let mut whole = vec![0; unit];
    packed.codec.decode(input, packed.tag, &mut whole)?;
    let part = skip.checked_add(output.len()).and_then(|end| whole.get(skip..end));
    let part = part.ok_or_else(|| {
        Error::new(Kind::Internal, format!("an extent reaches past its unit of {unit} bytes"))
    })?;
    output.copy_from_slice(part);
    Ok(())
}

fn slice_of(read: &[u8], start: u64, len: u64) -> Result<&[u8]> {
    let range = usize::try_from(start).ok().zip(usize::try_from(len).ok());
    range
        .and_then(|(start, len)| read.get(start..start.checked_add(len)?))
        .ok_or_else(|| Error::new(Kind::Internal, "a piece lies outside its read"))
}

fn file_of(source: &dyn Source, id: FileId) -> Result<&std::sync::Arc<dyn Source>> {
    source.files().get(usize::from(id.0)).ok_or_else(|| {
        Error::new(Kind::Internal, format!("extent names file {} of {}", id.0, source.name()))
    })
}

fn not_local() -> Error {
    Error::new(Kind::Internal, "a file without a blocking path was read with system calls")
}

fn uncovered(range: ByteRange, at: u64) -> Error {
    Error::new(Kind::Internal, format!("the extents of {range} leave a gap at {at}"))
}

/// Cuts `buffer` into the given disjoint ranges.
fn carve<'b, 's: 'b>(
    buffer: &'b mut [u8],
    mut jobs: Vec<(Range<usize>, &'s dyn Source, u64)>,
) -> impl Iterator<Item = (&'s dyn Source, u64, &'b mut [u8])> {
    jobs.sort_by_key(|(range, ..)| range.start);
    let mut rest = buffer;
    let mut done = 0;
    jobs.into_iter().map(move |(range, file, offset)| {
        let tail = std::mem::take(&mut rest).split_at_mut(range.start - done).1;
        let (head, tail) = tail.split_at_mut(range.len());
        (rest, done) = (tail, range.end);
        (file, offset, head)
    })
}

/// Bytes that [`fetch_range`] handles at a time, which bounds its scratch memory.
const STEP: u64 = 4 << 20;
/// Extents asked for at a time.
const EXTENTS: usize = 256;

/// Reads a range of an image through its extents: what a format's [`Source::read_at`] does.
///
/// Decoding happens on the calling task. Cancel safe: dropping it leaves `buf` unspecified.
///
/// # Errors
/// `Usage` past the end; what mapping, reading and decoding meet.
pub async fn fetch_range(source: &dyn Source, offset: u64, buf: &mut [u8]) -> Result<()> {
    use crate::SourceExt as _;
    let mut todo = source.check_range(offset, buf.len() as u64)?;
    let tuning = FetchTuning::new(source.hint());
    let mut rest = buf;
    let mut scratch = Vec::new();
    while !todo.is_empty() {
        let extents = source.extents(todo.take(STEP), EXTENTS).await?;
        let end = extents.last().map_or(todo.start(), |extent| extent.range.end());
        let (range, tail) = todo.split_at(end.min(todo.start().saturating_add(STEP)));
        if range.is_empty() {
            return Err(uncovered(todo, todo.start()));
        }
        let plan = FetchPlan::new(range, &extents, tuning)?;
        let len = usize::try_from(range.len()).unwrap_or(usize::MAX);
        let (output, after) = std::mem::take(&mut rest).split_at_mut(len);
        scratch.resize(plan.scratch_len(), 0);
        plan.read(source, output, &mut scratch).await?;
        plan.decode(source, output, &scratch)?;
        (todo, rest) = (tail, after);
    }
    Ok(())
}
