//! The types of an append; see `log.rs` for its life.

use std::{fs::File, sync::Arc};

use bytes::Bytes;

use crate::{Offset, Position};

/// What to write where. Whoever holds it writes `bytes` at `position` and then tells the log how it
/// went: `Log::finish_append` or `Log::fail_append`.
#[derive(Debug)]
pub struct Append {
    /// The active segment.
    pub file: Arc<File>,
    /// Its end.
    pub position: Position,
    /// Whole batches, offsets assigned.
    pub bytes: Bytes,
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Offset of the last record.
    pub last_offset: Offset,
    /// The stamp given with LogAppendTime, else -1.
    pub log_append_time_ms: i64,
}

/// Why an append cannot begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// An earlier write failed; nothing is appended until the log is opened anew.
    #[error("the partition is offline since a write failed")]
    Offline,
    /// The producer has sent this batch before (it did not hear the answer): answer as then.
    #[error("already appended at offset {base_offset}")]
    Duplicate {
        /// Where it was appended.
        base_offset: Offset,
        /// Its last record.
        last_offset: Offset,
    },
    /// A batch of this producer is missing before this one.
    #[error("producer {producer_id} sent sequence {got}, expected {expected}")]
    OutOfOrderSequence {
        /// Who.
        producer_id: i64,
        /// The sequence that follows what is in the log.
        expected: i32,
        /// The sequence sent.
        got: i32,
    },
    /// The producer has been replaced by one with a later epoch.
    #[error("producer {producer_id} sent epoch {got}, the current one is {current}")]
    InvalidProducerEpoch {
        /// Who.
        producer_id: i64,
        /// The latest epoch seen.
        current: i16,
        /// The epoch sent.
        got: i16,
    },
    /// Offsets are 63 bits.
    #[error("{count} records do not fit above offset {log_end}")]
    OffsetsExhausted {
        /// The log end.
        log_end: Offset,
        /// Records to append.
        count: i64,
    },
}
