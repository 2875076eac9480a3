//! What an answer would read from the disk, before it is promised.
//!
//! Called by ring.rs for callers that hold their peers to a budget. The verdicts that routing uses
//! answer for most ranges that are in memory. It never waits, and reads nothing.
//!
//! ```text
//!   range     |-------------------------------|
//!             | looked for in vain |   in memory   |     counted: what was missing when the ring looked
//!               └ read from the disk since, because of the peer's previous answers
//! ```

use std::fs::File;
use std::time::Instant;

use crate::file_range::FileRange;
use crate::ring_config::{PAGE_BYTES, Sight};
use crate::shared::Shared;
use crate::socket::Socket;
use crate::sys;

/// Longer ranges are counted by one call instead of one for each window.
const BY_VERDICTS_MAX_BYTES: u64 = 4 << 20;

pub(crate) fn disk_bytes(ring: &Shared, range: &FileRange, peer: Option<&Socket>) -> u64 {
    let ahead_bytes = peer.map_or(0, |peer| peer.looks.borrow().missing_bytes(range));
    let sight = ring.config.sight;
    let asks_verdicts = range.len_bytes <= BY_VERDICTS_MAX_BYTES || !can_count(sight);
    if asks_verdicts && ahead_bytes == 0 && ring.residency.is_cached(range, false, Instant::now()) {
        return 0;
    }
    let missing_bytes = match can_count(sight) {
        true => missing(&range.file, range.position, range.end(), sight),
        false => range.len_bytes,
    };
    // What was looked for in vain may be missing still.
    ahead_bytes.max(missing_bytes).min(range.len_bytes)
}

fn can_count(sight: Sight) -> bool {
    matches!(sight, Sight::Cachestat | Sight::Memory)
}

/// Bytes of a part of a file that are not in memory. Kernels that cannot count them return none.
fn missing(file: &File, from: u64, until: u64, sight: Sight) -> u64 {
    if !can_count(sight) {
        return 0;
    }
    let from = from.next_multiple_of(PAGE_BYTES);
    let file_bytes = file.metadata().map_or(0, |metadata| metadata.len());
    let len_bytes = until.min(file_bytes).saturating_sub(from);
    let cached = match len_bytes {
        0 => return 0,
        _ => sys::cached_pages(file, from, len_bytes),
    };
    cached.map_or(0, |pages| len_bytes.saturating_sub(pages * PAGE_BYTES))
}
