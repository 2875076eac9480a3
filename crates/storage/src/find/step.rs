//! The types in which storage asks for bytes and answers with places.
//!
//! ```text
//!   Log::find ──▶ Lookup ──step──▶ Need { file, position, len_bytes } ──▶ the caller reads
//!                   ▲                                                        │
//!                   └───────────────────────── feed(bytes) ◀─────────────────┘
//!                   └──step──▶ Done(Found) ──extent(max)──▶ Extent, ready for transfer
//! ```
//!
//! Nothing here reads. The driver of a look-up chooses how to (page cache, ring, pread).

use std::{fs::File, io, sync::Arc};

use crate::units::{Offset, Position};

/// Bytes that a look-up must see before it can go on. The range always lies below the committed
/// size.
#[derive(Clone, Debug)]
pub struct Need {
    /// The file to read.
    pub file: Arc<File>,
    /// Where to start.
    pub position: Position,
    /// How many bytes, all of which exist; never more than a few KiB, or one batch.
    pub len_bytes: usize,
}

/// The next step of a look-up.
#[derive(Debug)]
pub enum Step<T> {
    /// Read this and feed it.
    Need(Need),
    /// The answer.
    Done(T),
}

/// A range of one segment file. It holds whole batches; only the last may be cut.
#[derive(Clone, Debug)]
pub struct Extent {
    /// The segment. Holding it keeps the bytes alive even after retention unlinked the file.
    pub file: Arc<File>,
    /// Start of the first batch.
    pub position: Position,
    /// Never reaches past the end that was committed when the look-up was made.
    pub len_bytes: u64,
    /// What the limit would have allowed in addition: the beginning of a batch, which is of no use.
    pub spared_bytes: u64,
    /// The segment gets no further bytes, so waiting makes a short answer no longer.
    pub sealed: bool,
}

impl Extent {
    /// Where it ends in the segment.
    pub fn end(&self) -> Position {
        Position(self.position.0 + self.len_bytes)
    }
}

/// The batch that a look-up has found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Base offset of the segment.
    pub segment: Offset,
    /// First offset of the batch. At most the offset sought, unless that lies in a gap.
    pub base_offset: Offset,
    /// Bytes of that one batch; 0 if only a gap lies between the offset and the log end.
    pub batch_len_bytes: u64,
    pub(crate) file: Arc<File>,
    pub(crate) position: Position,
    pub(crate) committed_bytes: u64,
    pub(crate) sealed: bool,
}

impl Found {
    /// The bytes to send from here: at most `max_bytes`, never past the segment's committed end.
    /// The last batch may be cut; [`Log::end_with_a_batch`](crate::Log::end_with_a_batch) then
    /// leaves it out.
    ///
    /// `None` if not even the first batch fits and `at_least_one_batch` is false. If it is true,
    /// the first batch is included whole, however large it is (KIP-74).
    pub fn extent(&self, max_bytes: u64, at_least_one_batch: bool) -> Option<Extent> {
        let fits = self.batch_len_bytes <= max_bytes;
        if self.batch_len_bytes == 0 || !(fits || at_least_one_batch) {
            return None;
        }
        let there_is = self.committed_bytes - self.position.0;
        Some(Extent {
            file: self.file.clone(),
            position: self.position,
            len_bytes: max_bytes.max(self.batch_len_bytes).min(there_is),
            spared_bytes: 0,
            sealed: self.sealed,
        })
    }

    /// Whether the segment goes on behind an extent from here.
    pub fn has_more_than(&self, extent: &Extent) -> bool {
        extent.end().0 < self.committed_bytes
    }

    /// Where the batch starts in its segment.
    pub fn position(&self) -> Position {
        self.position
    }
}

/// Why an offset or a timestamp could not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// Kafka's OFFSET_OUT_OF_RANGE. `end` itself is in range: it answers `AtEnd`.
    #[error("offset {asked} is outside of {start}..={end}")]
    OutOfRange {
        /// The offset asked for.
        asked: Offset,
        /// The log start.
        start: Offset,
        /// The log end.
        end: Offset,
    },
    /// The offset lies in a range that is known to be damaged.
    #[error(
        "{len_bytes} bytes at byte {position} of segment {segment} are damaged; {end} is behind them"
    )]
    Damaged {
        /// Base offset of the segment.
        segment: Offset,
        /// Where the damage begins.
        position: Position,
        /// How far it goes.
        len_bytes: u64,
        /// The first offset that can be read again.
        end: Offset,
    },
    /// The offset lies in segments of before Kafka 0.11, which are kept and not served.
    #[error(
        "offset {asked} is in messages of format {magic}, which are not served; the log is served from {start} on"
    )]
    OldFormat {
        /// The offset asked for.
        asked: Offset,
        /// 0 or 1.
        magic: i8,
        /// The log start.
        start: Offset,
    },
    /// The log does not hold a batch where one must start.
    #[error("no sound batch at byte {position} of segment {segment}")]
    Corrupt {
        /// Base offset of the segment.
        segment: Offset,
        /// Where the batch should have started.
        position: Position,
    },
    /// The caller fed fewer bytes than were needed: the file is shorter than it was.
    #[error("{got} of {needed} bytes at byte {position} of segment {segment}")]
    Short {
        /// Base offset of the segment.
        segment: Offset,
        /// Where the read began.
        position: Position,
        /// Bytes asked for.
        needed: usize,
        /// Bytes fed.
        got: usize,
    },
    /// An index file could not be opened.
    #[error("index of segment {segment}: {source}")]
    Io {
        /// Base offset of the segment.
        segment: Offset,
        /// The system's error.
        source: io::Error,
    },
}
