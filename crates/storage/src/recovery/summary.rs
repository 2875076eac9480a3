//! What opening a log had to do, for the server to log and to count.

use crate::{recovery::transactions::Transactions, segment::old_format::OldSegments};

/// What opening a log had to do. All zero after a clean stop, but for a few KiB of `bytes_scanned`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Segments of which batches were read.
    pub segments_scanned: u64,
    /// Bytes of log data read.
    pub bytes_scanned: u64,
    /// Bytes cut off behind the last sound batch.
    pub truncated_bytes: u64,
    /// Segments whose indexes were made anew, wholly or from the recovery point on.
    pub indexes_rebuilt: u64,
    /// Damaged ranges found: sound batches follow them.
    pub damaged_ranges: u64,
    /// Bytes in them.
    pub damaged_bytes: u64,
    /// Offsets between the last batch of a segment and the next segment, or the recovery point: a
    /// power cut took them, or a Kafka that compacts. They are stepped over, and never used again.
    pub missing_offsets: u64,
    /// Files of segments that a Kafka was about to exchange when it was killed, and that are in
    /// place now.
    pub swapped_files: u64,
    /// Segments that are too old to be served.
    pub old_segments: Option<OldSegments>,
    /// Signs of transactions, which are not served as such.
    pub transactions: Transactions,
}
