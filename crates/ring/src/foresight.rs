//! What an answer would read from the disk, before it is promised.
//!
//! Called by ring.rs for callers that hold their peers to a budget. The verdicts that routing uses
//! answer for most ranges that are in memory. It never waits, and reads nothing.
//!
//! ```text
//!   range     |-------------------------------|
//!             | ahead |   in memory   | missing|     counted: ahead + missing
//!               └ read from the disk because of the peer's previous answer
//! ```

use std::time::Instant;

use crate::file_range::FileRange;
use crate::sent::{can_count, missing};
use crate::shared::Shared;
use crate::socket::Socket;

/// Longer ranges are counted by one call instead of one for each window.
const BY_VERDICTS_MAX_BYTES: u64 = 4 << 20;

pub(crate) fn disk_bytes(ring: &Shared, range: &FileRange, peer: Option<&Socket>) -> u64 {
    let ahead_bytes = peer.map_or(0, |peer| peer.ahead_bytes_of(range));
    let sight = ring.config.sight;
    let asks_verdicts = range.len_bytes <= BY_VERDICTS_MAX_BYTES || !can_count(sight);
    if asks_verdicts && ahead_bytes == 0 && ring.residency.is_cached(range, false, Instant::now()) {
        return 0;
    }
    let missing_bytes = match can_count(sight) {
        true => missing(&range.file, range.position, range.end(), sight),
        false => range.len_bytes,
    };
    (ahead_bytes + missing_bytes).min(range.len_bytes)
}
