//! The place in a segment at which to begin reading for an offset: the last index entry below it,
//! if that leads to a batch. Called by recovery and by the reading of a segment's age; blocks.

use std::{io, sync::Arc};

use penstock_batch::HEADER_LEN;

use crate::{
    damage::DamagedRanges,
    segment::{
        Indexer, SegmentFiles,
        batch_place::{BatchPlace, HeaderWalk, Seen},
        index_entry::OffsetEntry,
    },
    units::{Offset, Position},
};

/// The recovery point of a log that is believed to its end.
pub(crate) const ALL: Offset = Offset(i64::MAX);

/// The place at which to begin, and the index entries that lead there.
pub(crate) struct Begin {
    /// From the place to the end of the segment.
    pub(crate) walk: HeaderWalk,
    pub(crate) indexer: Indexer,
}

impl Begin {
    /// Begins at the last index entry below an offset, if that leads to a batch, else at the start.
    /// Blocks.
    pub(crate) fn below(
        offset: Offset,
        files: &Arc<SegmentFiles>,
        damage: &DamagedRanges,
        size_bytes: u64,
    ) -> io::Result<Begin> {
        let beyond = |relative_offset| files.absolute(relative_offset) >= offset;
        let offsets = files.offsets.read_floor(|entry| beyond(entry.relative_offset))?;
        let times = files.times.read_floor(|entry| beyond(entry.relative_offset))?;
        let first = match (offsets.1, times.1) {
            (Some(entry), Some(_)) => named_batch(entry, files, damage, size_bytes)?,
            _ => None,
        };
        let (offsets, times) = match (offsets, times) {
            both if first.is_some() => both,
            ((_, None), times) => ((0, None), times),
            _ => ((0, None), (0, None)),
        };
        let (position, lowest) = first.map_or((Position(0), files.base), |b| (b.position, b.base));
        let walk = HeaderWalk::new(files.base, position, Position(size_bytes));
        let walk = walk.not_below(lowest).over(damage);
        let indexer = Indexer::resume(files, offsets, times);
        Ok(Begin { walk, indexer })
    }
}

/// The batch that an entry leads to, if the entry can name it. Kafka 3 names the last offset of a
/// whole append.
fn named_batch(
    entry: OffsetEntry,
    files: &SegmentFiles,
    damage: &DamagedRanges,
    size_bytes: u64,
) -> io::Result<Option<BatchPlace>> {
    if entry.position().0 >= size_bytes || damage.at(entry.position()).is_some() {
        return Ok(None);
    }
    let names = files.absolute(entry.relative_offset);
    Ok(header_at(entry.position(), files, size_bytes)?.filter(|place| place.last <= names))
}

/// The batch that begins there, if its header can be one. Blocks.
pub(crate) fn header_at(
    position: Position,
    files: &SegmentFiles,
    size_bytes: u64,
) -> io::Result<Option<BatchPlace>> {
    let walk = HeaderWalk::new(files.base, position, Position(size_bytes));
    let mut bytes = vec![0; walk.at_most(HEADER_LEN as u64)];
    files.log.read_exact_at(&mut bytes, position.0)?;
    Ok(match walk.look(&bytes, position) {
        Seen::Batch(_, place) => Some(place),
        Seen::EndOfWindow | Seen::Unsound => None,
    })
}
