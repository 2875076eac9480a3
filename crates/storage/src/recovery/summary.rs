//! The work that opening a log took, for the server to log and to count.

use crate::{recovery::transactions::Transactions, segment::old_format::OldSegments};

/// The work that opening a log took. All zero after a clean stop, except a few KiB of
/// `bytes_scanned`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Segments of which batches were read.
    pub segments_scanned: u64,
    /// Bytes of log data read.
    pub bytes_scanned: u64,
    /// Bytes cut off behind the last sound batch.
    pub truncated_bytes: u64,
    /// Segments whose indexes were rebuilt, wholly or from the recovery point on.
    pub indexes_rebuilt: u64,
    /// Damaged ranges found.
    pub damaged_ranges: u64,
    /// Bytes in the damaged ranges.
    pub damaged_bytes: u64,
    /// Offsets between the last batch of a segment and the next segment, or the recovery point. A
    /// power cut took them, or a Kafka's compaction. They are stepped over, and never used again.
    pub missing_offsets: u64,
    /// Files that a killed Kafka was about to put in the place of others, and that now are.
    pub swapped_files: u64,
    /// Segments in a format too old to be served.
    pub old_segments: Option<OldSegments>,
    /// Signs of transactions, which are not served as such.
    pub transactions: Transactions,
}
