//! Reads what lies at a reader's place: the offset behind what it was sent, and that batch's time.
//!
//! ```text
//!   from            until                    from: start of the answer's first batch
//!    ▼                ▼
//!   [ batch ][ batch ][ bat│ch ] …            next: the first batch that is not wholly inside
//!                     ▲ next
//! ```
//!
//! Called by readers.rs and lags.rs for /metrics and its like, on a thread that may block: every
//! read may wait for the disk. Reads batch headers only. What cannot be read is `None`, and is not
//! counted as a failed read: fetches meet the same place.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_batch::{BatchHeader, HEADER_LEN, TimestampType};
use penstock_storage::{Find, Offset, Position, Step};

use crate::broker::partition::Partition;

/// Places looked at for one view.
pub(crate) const PLACES_MAX: usize = 512;

/// No further place is looked at after so long. Those that are left come first next time.
const TIME_MAX: Duration = Duration::from_millis(250);

/// Headers that are read for one place: the batches of a usual answer.
const HEADERS_MAX: usize = 1024;

/// What lies at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Next {
    /// The base offset of the batch there.
    pub(crate) offset: Offset,
    /// Where it lies in its segment.
    pub(crate) position: Position,
    /// Its timestamp, in milliseconds since 1970.
    pub(crate) timestamp_ms: i64,
}

/// Looks at places, in their order, until the time for one view is over. Blocks.
pub(crate) fn within_time<T, O>(places: Vec<T>, look: impl Fn(&T) -> O) -> Vec<(T, O)> {
    let until = Instant::now() + TIME_MAX;
    let places = places.into_iter().take(PLACES_MAX).take_while(|_| Instant::now() < until);
    let looked = places.map(|place| {
        let outcome = look(&place);
        (place, outcome)
    });
    looked.collect()
}

/// The batch behind those that lie whole in a part of a segment. The part begins with the batch
/// `first`. Of very many batches, one before it. Blocks.
pub(crate) fn behind(
    partition: &Partition,
    first: Offset,
    from: Position,
    until: Position,
) -> Option<Next> {
    let (file, committed_bytes) = partition.log().segment_bytes(first)?;
    let mut position = from.0;
    for _ in 0..HEADERS_MAX {
        if position >= committed_bytes {
            let next = partition.log().behind(first, Position(committed_bytes)).next_offset?;
            return at(partition, next);
        }
        let header = header_at(&file, position)?;
        let end = position.checked_add(header.len_bytes() as u64)?;
        if header.base_offset < first.0 {
            return None;
        }
        if end > until.0 {
            return Some(next_of(&header, position));
        }
        position = end;
    }
    header_at(&file, position).map(|header| next_of(&header, position))
}

/// The batch that holds an offset. Blocks.
pub(crate) fn at(partition: &Partition, offset: Offset) -> Option<Next> {
    let Find::Lookup(mut lookup) = partition.log().find(offset).ok()? else { return None };
    let found = loop {
        match lookup.step().ok()? {
            Step::Done(found) => break found,
            Step::Need(need) => {
                let mut bytes = vec![0; need.len_bytes];
                need.file.read_exact_at(&mut bytes, need.position.0).ok()?;
                lookup.feed(&bytes);
            }
        }
    };
    if found.batch_len_bytes == 0 {
        return None;
    }
    let (file, _) = partition.log().segment_bytes(found.base_offset)?;
    let position = found.position().0;
    header_at(&file, position).map(|header| next_of(&header, position))
}

fn header_at(file: &Arc<File>, position: u64) -> Option<BatchHeader> {
    let mut bytes = [0; HEADER_LEN];
    file.read_exact_at(&mut bytes, position).ok()?;
    BatchHeader::parse(&bytes).ok()
}

/// The first record's time: the producer's, or that of the append where the topic keeps that.
fn next_of(header: &BatchHeader, position: u64) -> Next {
    let timestamp_ms = match header.timestamp_type() {
        TimestampType::CreateTime => header.base_timestamp,
        TimestampType::LogAppendTime => header.max_timestamp,
    };
    Next { offset: Offset(header.base_offset), position: Position(position), timestamp_ms }
}
